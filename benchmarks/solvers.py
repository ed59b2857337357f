"""The solver table: how far the deterministic samplers end from the exact ODE, beside their peers', on fresh Gaussian mixtures.

    python benchmarks/solvers.py [--mixtures 20] [--seed N] [--steps 5 8 10 15 20 30 50] [--fits 2] [--json FILE]

Every row is a configuration fixed in this file, but for those of `tuned`, which are fitted to each mixture, on 1,024 other trajectories
of it, by 5 to 10 steps, each fit with draws of its own. All begin at the same x_T, the noisiest level of the linear table of T = 1000, and
call the exact denoiser `steps` times. The truth is the probability-flow ODE by DOP853 at 1e-10. A cell is the geometric mean over the
mixtures of the RMS error, with the median error of a picture in brackets; the ratios to the best peer (azula's velocity
Adams-Bashforth of order 3 on the rect grid) are paired by mixture, with a bootstrap interval of 95 %, of the RMS and of the medians.
The seed is the clock's unless it is given, so that no row can have been chosen on the mixtures it is judged by.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from safelight.denoise import Denoise, Estimate
from safelight.evaluate import tune
from safelight.process import Level, Process
from safelight.sample import trajectory
from safelight.spec import build
from tests.oracle import Mixture, final

STEPS = (5, 8, 10, 15, 20, 30, 50)
REFERENCE = "azula vAB3, rect"
# Numbers of steps that `tuned` is fitted for, and how.
FITTED, TRAJECTORIES, ITERATIONS, BATCH = (5, 8, 10), 1024, 200, 64


class Problem(NamedTuple):
    """A mixture, x_T at the process's noisiest level, and where the exact ODE carries it. seed: of all its draws."""

    mixture: Mixture
    x: Tensor
    truth: Tensor
    seed: int


PROCESS: Process = build("linear", "process")
OURS = {
    "ours abm, rect 1.3": ({"kind": "abm"}, {"kind": "rect", "power": 1.3}),
    "ours ab 3, rect": ({"kind": "ab"}, "rect"),
    "ours unipc 3, exponential": ({"kind": "unipc", "last": 2}, "exponential"),
    "ours dpm++2m, karras": ("dpm++2m", "karras"),
    "ours ddim, trailing": ("ddim", "trailing"),
}
# Peers in k-diffusion: function, grid, options.
K_DIFFUSION = {
    "k-diffusion 3M, no noise, exponential": ("dpmpp_3m_sde", "exponential", {"eta": 0.0, "noise_sampler": None}),
    "k-diffusion LMS 4, exponential": ("lms", "exponential", {}),
    "k-diffusion 2M, karras": ("dpmpp_2m", "karras", {}),
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
    return Problem(mixture, x, mixture.mean(mixture.exact(x / alpha, s, near), 1.0, near), seed)


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


def crowson(name: str, grid: str, options: dict[str, object]) -> Callable[[Problem, int], Tensor]:
    """A sampler of k-diffusion on one of its grids, in z = x/alpha, where its models live."""
    sampling = k_diffusion()
    if "noise_sampler" in options:  # its own wants torchsde, and is not asked where eta = 0
        options = {**options, "noise_sampler": lambda *_: 0.0}

    def run(problem: Problem, steps: int) -> Tensor:
        low, high = PROCESS.ends
        sigmas = getattr(sampling, f"get_sigmas_{grid}")(steps, low, high).double()
        made: Tensor = getattr(sampling, f"sample_{name}")(
            lambda z, sigma: problem.mixture.mean(z, 1.0, sigma[0]),
            problem.x / PROCESS.at(1.0).floats[0],
            sigmas,
            disable=True,
            **options,
        )
        return made

    return run


@lru_cache(1)
def k_diffusion() -> types.ModuleType:
    """k_diffusion.sampling alone: the package itself wants torchvision, and this module solvers that these samplers do not use."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None:
        raise ModuleNotFoundError("No module named 'k_diffusion'")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations or [])
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]  # type: ignore[attr-defined]
    solver = types.ModuleType("torchdiffeq")
    solver.odeint = None  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    stand_ins = {"k_diffusion": package, "k_diffusion.utils": utils, "torchdiffeq": solver}
    sys.modules.update({**stand_ins, "torchsde": types.ModuleType("torchsde")})
    return importlib.import_module("k_diffusion.sampling")


class fitted:
    """`tuned`, fitted to the mixture that it is asked for: fit k."""

    trained: dict[int, tuple[tune.Case, Tensor, dict[int, tune.Form]]] = {}

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, problem: Problem, steps: int) -> Tensor:
        """Where it carries x_T. Raises ValueError for a number of steps that it is not fitted for."""
        if steps not in FITTED:
            raise ValueError(f"not fitted for {steps} steps")
        if problem.seed not in self.trained:
            alpha, sigma, _ = PROCESS.at(1.0).floats
            case = self.case(problem, problem.mixture.noised(TRAJECTORIES, alpha, sigma, problem.seed + 5_000_000))
            truth = torch.cat(list(tune.reference(case, chunk=TRAJECTORIES)))
            self.trained.clear()
            self.trained[problem.seed] = case, truth, {}
        case, truth, forms = self.trained[problem.seed]
        if steps not in forms:
            forms[steps] = tune.form(case, truth, steps)
        run = tune.fit(case, truth, steps, iterations=ITERATIONS, batch=BATCH, seed=self.k, shape=forms[steps])
        found = list(run)[-1]
        return tune.solve(self.case(problem, problem.x), found.sampler(PROCESS), found.grid(PROCESS)(PROCESS, steps))

    @staticmethod
    def case(problem: Problem, x: Tensor) -> tune.Case:
        """Trajectories from x, whose denoiser follows gradients into the level."""

        def denoise(rows: Tensor) -> Denoise:
            return lambda x, level: Estimate(problem.mixture.mean(x, level.alpha, level.sigma))  # type: ignore[arg-type]

        return tune.Case(PROCESS, x, denoise)


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
    """The geometric mean of ratios, and the ends of its 95 % interval over resampled mixtures; nan where one is missing."""
    logs = values.log()
    if not bool(logs.isfinite().all()):
        return math.nan, math.nan, math.nan
    g = torch.Generator().manual_seed(seed)
    drawn = logs[torch.randint(0, len(logs), (4000, len(logs)), generator=g)].mean(1).exp()
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype))
    return float(logs.mean().exp()), float(low), float(high)


def shown(cell: str) -> str:
    """A cell, or a dash for what could not be run."""
    return "-" if "nan" in cell else cell


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixtures", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first mixture (the clock)")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--fits", type=int, default=2, help="of `tuned` to each mixture, a row each; 0 leaves it out (2)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    solvers = {name: ours(*row) for name, row in OURS.items()}
    solvers |= {REFERENCE: azula("v", 3), "azula zAB3, rect": azula("z", 3)}
    solvers |= {name: theirs(*row) for name, row in DIFFUSERS.items()}
    solvers |= {name: crowson(*row) for name, row in K_DIFFUSION.items()}
    solvers |= {f"ours tuned, fit {k + 1}": fitted(k) for k in range(args.fits)}
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
    print(f"{'calls':38}" + "".join(f"{n:>18}" for n in args.steps))
    for name in solvers:
        cells = [
            shown(f"{float(a.log().mean().exp()):.1e} ({float(b.log().mean().exp()):.0e})")
            for a, b in zip(rms[name], median[name], strict=True)
        ]
        print(f"{name:38}" + "".join(f"{cell:>18}" for cell in cells))
    result: dict[str, dict[str, object]] = {
        name: {"rms": rms[name].T.tolist(), "median": median[name].T.tolist()} for name in solvers
    }  # a row a mixture
    for what, tables in (("RMS", rms), ("median", median)):
        print(f"\npaired ratio of the {what} to {REFERENCE}, with its 95 % interval")
        for name in solvers:
            paired = tables[name] / tables[REFERENCE]
            ratios = [bootstrap(row) for row in paired]
            every = bootstrap(paired[paired.isfinite().all(1)].flatten())
            result[name] |= {f"{what.lower()} ratios": ratios, f"{what.lower()} overall": every}
            row = "".join(f"{shown(f'{r:.2f} [{a:.2f} {b:.2f}]'):>18}" for r, a, b in ratios)
            print(f"{name:38}{row}   all {every[0]:.2f}")
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "steps": args.steps, "solvers": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
