"""The solver table: how far the deterministic samplers end from the exact ODE, beside their peers', on fresh Gaussian mixtures.

    python benchmarks/solvers.py [--mixtures 20] [--seed N] [--steps 5 8 10 15 20 30 50] [--json FILE]

Every row is a configuration fixed in this file. All begin at the same x_T, the noisiest level of the linear table of T = 1000, and call
the exact denoiser `steps` times. The truth is the probability-flow ODE by DOP853 at 1e-10. A cell is the geometric mean over the
mixtures of the RMS error, with the median error of a picture in brackets; the ratios to the best peer (azula's velocity
Adams-Bashforth of order 3 on the rect grid) are paired by mixture, with a bootstrap interval of 95 %. The seed is the clock's
unless it is given, so that no row can have been chosen on the mixtures it is judged by.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from safelight.process import Level, Process
from safelight.sample import trajectory
from safelight.spec import build
from tests.oracle import Mixture, final

STEPS = (5, 8, 10, 15, 20, 30, 50)
REFERENCE = "azula vAB3, rect"


class Problem(NamedTuple):
    """A mixture, x_T at the process's noisiest level, and where the exact ODE carries it."""

    mixture: Mixture
    x: Tensor
    truth: Tensor


PROCESS: Process = build("linear", "process")
OURS = {
    "ours abm, rect 1.3": ({"kind": "abm"}, {"kind": "rect", "power": 1.3}),
    "ours ab 3, rect": ({"kind": "ab"}, "rect"),
    "ours unipc 3, exponential": ({"kind": "unipc", "last": 2}, "exponential"),
    "ours dpm++2m, karras": ("dpm++2m", "karras"),
    "ours ddim, trailing": ("ddim", "trailing"),
}
# Peers in diffusers: scheduler, options.
DIFFUSERS = {
    "diffusers UniPC 3, exponential": ("UniPCMultistepScheduler", {"solver_order": 3, "use_exponential_sigmas": True}),
    "diffusers DPM++ 3M, exponential": ("DPMSolverMultistepScheduler", {"solver_order": 3, "use_exponential_sigmas": True}),
    "diffusers DPM++ 2M, karras": ("DPMSolverMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True}),
    "diffusers SA, no noise, trailing": ("SASolverScheduler", {"tau_func": lambda t: 0, "timestep_spacing": "trailing"}),
    "diffusers DDIM, trailing": ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}),
}


def problem(seed: int) -> Problem:
    """A random mixture: its dimension, modes and rank drawn too."""
    g = torch.Generator().manual_seed(seed)
    d = (2, 8, 32, 64)[int(torch.randint(0, 4, (1,), generator=g))]
    modes = int(torch.randint(4, 13, (1,), generator=g))
    mixture = Mixture.random(d, modes, max(1, d // 8), seed)
    alpha, sigma, s = PROCESS.at(1.0).floats
    x = mixture.noised(256 if d <= 8 else 96, alpha, sigma, seed)
    near = 1e-5
    return Problem(mixture, x, mixture.mean(mixture.exact(x / alpha, s, near), 1.0, near))


def ours(spec: object, grid: object) -> Callable[[Problem, int], Tensor]:
    """One of our samplers on a grid."""
    sampler, places = build(spec, "sampler"), build(grid, "grid")  # type: ignore[arg-type]

    def run(problem: Problem, steps: int) -> Tensor:
        n = steps // sampler.calls
        return final(trajectory(problem.mixture.denoise, problem.x, PROCESS.at(places(PROCESS, n)), sampler)).x

    return run


def theirs(name: str, options: dict[str, object]) -> Callable[[Problem, int], Tensor]:
    """A scheduler of diffusers, as its pipelines call it: the model is told the timestep."""
    import diffusers

    def run(problem: Problem, steps: int) -> Tensor:
        scheduler = getattr(diffusers, name)(
            num_train_timesteps=1000,
            beta_start=1e-4,
            beta_end=0.02,
            beta_schedule="linear",
            prediction_type="epsilon",
            **options,
        )
        scheduler.set_timesteps(steps)
        x, abar = problem.x, scheduler.alphas_cumprod.double()
        for t in scheduler.timesteps:
            level = Level(t, abar[int(t)].sqrt(), (1 - abar[int(t)]).sqrt())
            eps = (x - level.alpha * problem.mixture.denoise(x, level).x0) / level.sigma
            x = scheduler.step(eps, t, x).prev_sample
        return x

    return run


def azula(kind: str, order: int) -> Callable[[Problem, int], Tensor]:
    """A sampler of azula on the rect grid: even in u = s/(1 + s), by a schedule of ours, as it has none."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import Schedule
    from azula.sample import vABSampler, xEABSampler, zABSampler

    top = PROCESS.at(1.0).floats[2]
    most = top / (1 + top)

    class Rect(Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            u = most * t.double()
            root = torch.hypot(1 - u, u)
            return (1 - u) / root, u / root

    class Exact(Denoiser):
        def __init__(self, mixture: Mixture) -> None:
            super().__init__()
            self.mixture, self.schedule = mixture, Rect()

        def forward(self, x: Tensor, t: Tensor, **kwargs: object) -> DiracPosterior:
            alpha, sigma = self.schedule(t)
            return DiracPosterior(self.mixture.denoise(x, Level(t, alpha, sigma)).x0)

    def run(problem: Problem, steps: int) -> Tensor:
        sampler = {"v": vABSampler, "z": zABSampler, "x": xEABSampler}[kind]
        made: Tensor = sampler(Exact(problem.mixture), order=order, steps=steps, silent=True, dtype=torch.float64)(
            problem.x.clone()
        )
        return made

    return run


def bootstrap(values: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """The geometric mean of ratios, and the ends of its 95 % interval over resampled mixtures."""
    logs = values.log()
    g = torch.Generator().manual_seed(seed)
    drawn = logs[torch.randint(0, len(logs), (4000, len(logs)), generator=g)].mean(1).exp()
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype))
    return float(logs.mean().exp()), float(low), float(high)


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixtures", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first mixture (the clock)")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    solvers = {name: ours(*row) for name, row in OURS.items()}
    solvers |= {REFERENCE: azula("v", 3), "azula zAB3, rect": azula("z", 3)}
    solvers |= {name: theirs(*row) for name, row in DIFFUSERS.items()}
    rms = {name: torch.zeros(len(args.steps), args.mixtures, dtype=torch.float64) for name in solvers}
    median = {name: torch.zeros_like(table) for name, table in rms.items()}
    print(f"{args.mixtures} mixtures from seed {args.seed}; error to the exact ODE, geometric mean RMS (median)", flush=True)
    for m in range(args.mixtures):
        one = problem(args.seed + m)
        for name, solve in solvers.items():
            for i, steps in enumerate(args.steps):
                try:
                    error = (solve(one, steps) - one.truth).square()
                except (IndexError, ValueError, RuntimeError):  # a peer that cannot take this many steps
                    error = torch.full_like(one.truth, math.nan)
                rms[name][i, m] = error.mean().sqrt()
                median[name][i, m] = error.mean(1).sqrt().median()
        print(f"\r{m + 1} of {args.mixtures}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"{'calls':34}" + "".join(f"{n:>18}" for n in args.steps))
    for name in solvers:
        cells = [
            f"{float(a.log().mean().exp()):.1e} ({float(b.log().mean().exp()):.0e})"
            for a, b in zip(rms[name], median[name], strict=True)
        ]
        print(f"{name:34}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"\npaired ratio to {REFERENCE}, with its 95 % interval")
    result = {}
    for name in solvers:
        ratios = [bootstrap(rms[name][i] / rms[REFERENCE][i]) for i in range(len(args.steps))]
        every = bootstrap((rms[name] / rms[REFERENCE]).flatten())
        result[name] = {"ratios": ratios, "overall": every}
        print(f"{name:34}" + "".join(f"{f'{r:.2f} [{a:.2f} {b:.2f}]':>18}" for r, a, b in ratios) + f"   all {every[0]:.2f}")
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "steps": args.steps, "solvers": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
