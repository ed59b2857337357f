"""A sampler's own arithmetic beside diffusers' schedulers: CPU time of a step, the network left out.

Ours is the whole loop (`trajectory` over 50 levels with a denoiser that returns a tensor it has, in inference mode as `generate` runs it);
theirs is the loop that every pipeline runs without gradients, `scale_model_input` and `step`. One thread, process CPU time,
interleaved with the order reversed each round, medians, and the least of ours. `beside noise` is the loop with noise that is there already.
Solvers without a peer have ours alone. With --most the command fails where a linear multistep solver's least is above so many
microseconds; the least, because other work on the machine only adds.

    python benchmarks/sampler_step.py [--rounds 21] [--only unipc,abm] [--most 20] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

STEPS, REPEATS = 50, 4
SHAPE = (1, 4, 8, 8)


class Given:
    """Noise that is there already."""

    def __init__(self) -> None:
        self.held = torch.randn(SHAPE)

    def normal(self, purpose: str, now: object, to: object, like: torch.Tensor) -> torch.Tensor:
        return self.held


def ours(kind: str, process_kind: str = "linear", *, given: bool = False, **fields: object) -> Callable[[], None]:
    """Our loop for a sampler over the linear table, or over an exploding process, as diffusers' Euler and Heun work in."""
    from safelight.denoise import Estimate
    from safelight.noise import Noise
    from safelight.sample import trajectory
    from safelight.spec import build

    process = build(process_kind, "process")
    levels = process.at(build("trailing", "grid")(process, STEPS)).split()
    sampler = build({"kind": kind, **fields}, "sampler")
    x = torch.randn(SHAPE)
    estimate = Estimate(torch.randn(SHAPE))
    noise = Given() if given else Noise(0)

    @torch.inference_mode()
    def run() -> None:
        for _ in trajectory(lambda x, level: estimate, x, levels, sampler, noise):
            pass

    return run


def theirs(name: str, **config: object) -> Callable[[], None]:
    """A pipeline's loop around a scheduler of diffusers."""
    import diffusers

    scheduler = getattr(diffusers, name)(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing", **config
    )
    x, output = torch.randn(SHAPE), torch.randn(SHAPE)
    generator = torch.Generator().manual_seed(0)
    takes_generator = (
        name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "SASolverScheduler")
        or config.get("algorithm_type") == "sde-dpmsolver++"
    )

    @torch.no_grad()
    def run() -> None:
        scheduler.set_timesteps(STEPS)
        y = x
        for t in scheduler.timesteps:
            scheduler.scale_model_input(y, t)
            y = scheduler.step(output, t, y, **({"generator": generator} if takes_generator else {})).prev_sample

    return run


Make = Callable[[], Callable[[], None]]
PAIRS: dict[str, tuple[Make, Make | None]] = {
    "ddim": (lambda: ours("ddim"), lambda: theirs("DDIMScheduler", clip_sample=False)),
    "euler": (lambda: ours("euler", "edm"), lambda: theirs("EulerDiscreteScheduler")),
    "heun": (lambda: ours("heun", "edm"), lambda: theirs("HeunDiscreteScheduler")),
    "dpm++2m": (lambda: ours("dpm++2m"), lambda: theirs("DPMSolverMultistepScheduler")),
    "ddpm": (lambda: ours("ddpm"), lambda: theirs("DDPMScheduler", clip_sample=False)),
    "euler-ancestral": (lambda: ours("euler-ancestral", "edm"), lambda: theirs("EulerAncestralDiscreteScheduler")),
    "dpm++2m-sde": (
        lambda: ours("dpm++2m-sde"),
        lambda: theirs("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
    ),
}
# Every linear multistep solver; a step of these costs no more than the --most microseconds.
MULTISTEP: dict[str, tuple[Make, Make | None]] = {
    "dpm++2m": PAIRS.pop("dpm++2m"),
    "dpm++3m": (lambda: ours("dpm++3m"), lambda: theirs("DPMSolverMultistepScheduler", solver_order=3)),
    **{f"ab k={k}": (lambda k=k: ours("ab", k=k), None) for k in (2, 3, 4)},  # type: ignore[misc]
    "ab rotation": (lambda: ours("ab", form="rotation"), None),
    "abm": (lambda: ours("abm"), None),
    "abm rotation": (lambda: ours("abm", form="rotation"), None),
    "lms": (lambda: ours("lms"), lambda: theirs("LMSDiscreteScheduler")),
    "deis": (lambda: ours("deis"), lambda: theirs("DEISMultistepScheduler", solver_order=3)),
    "deis t": (lambda: ours("deis", base="t"), None),
    **{
        f"unipc k={k}": (
            lambda k=k: ours("unipc", k=k),  # type: ignore[misc]
            lambda k=k: theirs("UniPCMultistepScheduler", solver_order=k),  # type: ignore[misc]
        )
        for k in (1, 2, 3, 4)
    },
    "pndm": (lambda: ours("pndm"), lambda: theirs("PNDMScheduler")),
    "pndm plms": (lambda: ours("pndm", runge_kutta=False), lambda: theirs("PNDMScheduler", skip_prk_steps=True)),
    "sa tau=0": (lambda: ours("sa", tau=0.0), None),
    "sa beside noise": (lambda: ours("sa", given=True), None),
}
PAIRS["sa"] = (lambda: ours("sa"), lambda: theirs("SASolverScheduler"))


def cpu(run: Callable[[], None]) -> float:
    """Microseconds of CPU time a step."""
    began = time.process_time()
    for _ in range(REPEATS):
        run()
    return (time.process_time() - began) / REPEATS / STEPS * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="the rows whose names begin so")
    parser.add_argument("--most", type=float, metavar="MICROSECONDS", help="fail where a linear multistep solver takes more")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = {}
    print(f"{'sampler':16} {'ours us':>9} {'least':>7} {'diffusers us':>13} {'ratio':>7} {'A/A':>6}")
    chosen = tuple(filter(None, args.only.split(",")))
    for name, (make_ours, make_theirs) in (PAIRS | MULTISTEP).items():
        if chosen and not name.startswith(chosen):
            continue
        runs = {"ours": make_ours(), "again": make_ours()} | ({"theirs": make_theirs()} if make_theirs else {})
        for run in runs.values():
            run()
        found: dict[str, list[float]] = {key: [] for key in runs}
        for i in range(args.rounds):
            for key in list(runs)[:: 1 if i % 2 == 0 else -1]:
                found[key].append(cpu(runs[key]))

        def ratio(key: str, found: dict[str, list[float]] = found) -> float:
            return statistics.median(a / b for a, b in zip(found["ours"], found[key], strict=True))

        row = {"ours_us": statistics.median(found["ours"]), "least_us": min(found["ours"]), "control": ratio("again")}
        peer = f"{'':13} {'':7}"
        if "theirs" in found:
            row |= {"diffusers_us": statistics.median(found["theirs"]), "ratio": ratio("theirs")}
            peer = f"{row['diffusers_us']:13.1f} {row['ratio']:7.3f}"
        rows[name] = row
        print(f"{name:16} {row['ours_us']:9.1f} {row['least_us']:7.1f} {peer} {row['control']:6.3f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    slow = [name for name in MULTISTEP if name in rows and args.most is not None and rows[name]["least_us"] > args.most]
    if slow:
        raise SystemExit(f"above {args.most:g} us a step: {', '.join(slow)}")


if __name__ == "__main__":
    main()
