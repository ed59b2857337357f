"""Draws docs/images/samplers.png: paths of three samplers through a known density, and how fast their errors fall.

    python -m scripts.draw_samplers

Every denoiser is exact. Left: data that are one number, +1 or -1 give or take a little, and what is likely at each time. Right: random
mixtures in 2 to 32 dimensions; the truth is the probability-flow ODE to 1e-10.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from safelight.draw.chart import COLOURS, DASHES, FAINT, INK, figure
from safelight.noise import Noise
from safelight.process import Process
from safelight.sample import trajectory
from safelight.spec import build
from scripts.thin import thin
from tests.oracle import Mixture, final

IMAGE = Path(__file__).resolve().parents[1] / "docs/images/samplers.png"
GRID = {"kind": "rect", "power": 1.3}
SPREAD = 0.15
DATA = Mixture(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[-1.0], [1.0]]),
    torch.ones(2, 1, 1),
    torch.full((2, 1), SPREAD**2, dtype=torch.float64),
)
STARTS = (-1.2, -0.6, 0.15, 1.1)
RACE: dict[str, Any] = {
    "ddim": "ddim",
    "heun": "heun",
    "dpm++2m": "dpm++2m",
    "unipc": {"kind": "unipc", "last": 2},
    "ab": "ab",
    "abm": "abm",
}
CALLS = (6, 8, 12, 16, 24, 32, 48, 64, 96)
# The noisiest level of the race: from noise alone the start would be the same for every mixture.
HIGH = 50.0
NEAR = 1e-5


def path(process: Process, sampler: str, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(n + 1,) times and (n + 1, starts) places of a run."""
    levels = process.at(build("uniform", "grid")(process, n))
    x = torch.tensor(STARTS, dtype=torch.float64)[:, None]
    noise = Noise(seed, range(len(STARTS)))
    went = [x] + [step.x for step in trajectory(DATA.denoise, x, levels, build(sampler, "sampler"), noise)]
    return levels.t, torch.stack(went)[:, :, 0]


def paths(axis: Axes, process: Process) -> None:
    """The density over time, and runs through it."""
    t, x = np.linspace(0.004, 1, 300), np.linspace(-2.2, 2.2, 300)
    density = np.zeros((len(x), len(t)))
    for column, time in enumerate(t):
        level = process.at(float(time))
        alpha, sigma = float(level.alpha), float(level.sigma)
        deviation = math.hypot(alpha * SPREAD, sigma)
        for weight, mean in zip(DATA.w.tolist(), DATA.m[:, 0].tolist(), strict=True):
            density[:, column] += weight * np.exp(-0.5 * ((x - alpha * mean) / deviation) ** 2) / deviation
    shades = ["#FFFFFF", "#F4F4F4", "#E8E8E8", "#DCDCDC", "#CFCFCF", "#C1C1C1", "#B2B2B2", "#A2A2A2", "#919191"]
    axis.contourf(t, x, density**0.6, levels=np.linspace(0, 1.8, len(shades)), colors=shades, extend="max")
    runs = (("ddpm", 150, "ddpm, 150 steps", 0.8), ("heun", 400, "the exact flow", 2.2), ("ddim", 8, "ddim, 8 steps", 1.6))
    for (kind, n, label, width), colour in zip(runs, ("#56B4E9", INK, "#D55E00"), strict=True):
        times, places = path(process, kind, n)
        marker = "o" if n < 20 else ""
        lines = axis.plot(times, places, color=colour, linewidth=width, marker=marker, markersize=3.5)
        lines[0].set_label(label)
    axis.set(xlim=(1, 0), ylim=(-2.2, 2.2), xlabel="t    (1 = noise, 0 = data)", title="the same four starts")
    axis.legend(loc="upper left")
    axis.grid(False)


def race(axis: Axes, process: Process) -> None:
    """The error of each sampler by the number of calls."""
    top = process.at(process.time(-2 * math.log(HIGH)))
    problems = []
    for seed, d in enumerate((2, 8, 32)):
        mixture = Mixture.random(d, 8, max(1, d // 8), seed)
        alpha, sigma, s = top.floats
        x = mixture.noised(96, alpha, sigma, seed)
        problems.append((mixture, x, mixture.mean(mixture.exact(x / alpha, s, NEAR), 1.0, NEAR)))
    for (name, fields), colour, dash in zip(RACE.items(), COLOURS, DASHES, strict=False):
        sampler = build(fields, "sampler")
        errors = []
        for calls in CALLS:
            n = (calls + 1) // sampler.calls  # heun's last step asks once
            levels = process.at(build({**GRID, "s_max": HIGH}, "grid")(process, n))
            each = [
                float((final(trajectory(mixture.denoise, x, levels, sampler)).x - truth).square().mean().sqrt())
                for mixture, x, truth in problems
            ]
            errors.append(math.exp(sum(map(math.log, each)) / len(each)))
        axis.plot(CALLS, errors, color=colour, linestyle=dash, label=name, marker="o", markersize=3)
    axis.set(xscale="log", yscale="log", xlabel="calls of the denoiser", title="distance to the exact flow, rms")
    axis.set_xticks(CALLS, [str(c) for c in CALLS])
    axis.minorticks_off()
    axis.legend(loc="lower left")
    axis.text(0.99, 0.98, "grid rect, power 1.3", transform=axis.transAxes, ha="right", va="top", color=FAINT)


def main() -> None:
    """Write the figure."""
    process = build("cosine", "process")
    with figure(IMAGE, 10.8, 4.6) as (fig, _):
        left, right = fig.subplots(1, 2)
        paths(left, process)
        race(right, process)
    thin(IMAGE)


if __name__ == "__main__":
    main()
