"""A sampler's own arithmetic beside diffusers' schedulers: CPU time of a step, the network left out.

Ours is the whole loop (`trajectory` over 50 levels with a denoiser that returns a tensor it has); theirs is the loop that every
pipeline runs, `scale_model_input` and `step`. One thread, process CPU time, interleaved with the order reversed each round, medians.

    python benchmarks/sampler_step.py [--rounds 21] [--json out.json]
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


def ours(kind: str, process_kind: str = "linear", **fields: object) -> Callable[[], None]:
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

    def run() -> None:
        for _ in trajectory(lambda x, level: estimate, x, levels, sampler, Noise(0)):
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
        name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler") or config.get("algorithm_type") == "sde-dpmsolver++"
    )

    def run() -> None:
        scheduler.set_timesteps(STEPS)
        y = x
        for t in scheduler.timesteps:
            scheduler.scale_model_input(y, t)
            y = scheduler.step(output, t, y, **({"generator": generator} if takes_generator else {})).prev_sample

    return run


PAIRS: dict[str, tuple[Callable[[], Callable[[], None]], Callable[[], Callable[[], None]]]] = {
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
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    print(f"{'sampler':16} {'ours us':>9} {'diffusers us':>13} {'ratio':>7} {'A/A':>6}")
    for name, (make_ours, make_theirs) in PAIRS.items():
        runs = {"ours": make_ours(), "again": make_ours(), "theirs": make_theirs()}
        for run in runs.values():
            run()
        found: dict[str, list[float]] = {key: [] for key in runs}
        for i in range(args.rounds):
            for key in list(runs)[:: 1 if i % 2 == 0 else -1]:
                found[key].append(cpu(runs[key]))
        ratio = statistics.median(a / b for a, b in zip(found["ours"], found["theirs"], strict=True))
        control = statistics.median(a / b for a, b in zip(found["ours"], found["again"], strict=True))
        rows[name] = {
            "ours_us": statistics.median(found["ours"]),
            "diffusers_us": statistics.median(found["theirs"]),
            "ratio": ratio,
            "control": control,
        }
        print(
            f"{name:16} {rows[name]['ours_us']:9.1f} {rows[name]['diffusers_us']:13.1f} {ratio:7.3f} {control:6.3f}", flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
