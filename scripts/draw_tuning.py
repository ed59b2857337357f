"""Draws docs/images/tuning.png: what fitting a sampler does to its error on trajectories it has not seen, on a known distribution.

    python -m scripts.draw_tuning

A random mixture of eight Gaussians in 8 dimensions, its exact denoiser, the linear table; 1,024 trajectories to fit to and 1,024 of
another seed to measure on; three fits at each number of steps. Prints the numbers of the drawing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.draw.chart import COLOURS, DASHES, figure
from safelight.evaluate import tune
from safelight.spec import build
from scripts.thin import thin
from tests.oracle import Mixture

IMAGE = Path(__file__).resolve().parents[1] / "docs/images/tuning.png"
MIXTURE, COUNT, FITS = Mixture.random(8, 8, 1, 48), 1024, 3
STEPS, SHOWN = (3, 4, 5, 6, 8, 10, 12), 8
PROCESS = build("linear", "process")
USUAL = {"ab 3, rect": ("ab", "rect"), "abm, rect 1.3": ("abm", {"kind": "rect", "power": 1.3})}
TUNED = "tuned, three fits"


def case_of(seed: int) -> tune.Case:
    """Trajectories of the mixture, whose denoiser follows gradients into the level."""

    def denoise(rows: Tensor) -> Denoise:
        return lambda x, level: Estimate(MIXTURE.mean(x, level.alpha, level.sigma))  # type: ignore[arg-type]

    alpha, sigma, _ = PROCESS.at(1.0).floats
    return tune.Case(PROCESS, MIXTURE.noised(COUNT, alpha, sigma, seed), denoise)


class Found(NamedTuple):
    """Errors by row, number of steps and fit: (COUNT,) each."""

    errors: Mapping[str, Mapping[int, list[Tensor]]]


def measured() -> Found:
    """All that is drawn."""
    seen, unseen = case_of(1), case_of(2)
    ends, others = (torch.cat(list(tune.reference(case, chunk=COUNT))) for case in (seen, unseen))
    rows: dict[str, dict[int, list[Tensor]]] = {name: {} for name in (*USUAL, TUNED)}
    for n in STEPS:
        for name, (sampler, grid) in USUAL.items():
            times = build(grid, "grid")(PROCESS, n)  # type: ignore[arg-type]
            rows[name][n] = [tune.errors(tune.solve(unseen, build(sampler, "sampler"), times), others)]
        shape = tune.form(seen, ends, n)
        for k in range(FITS):
            fitting = list(tune.fit(seen, ends, n, seed=k, shape=shape))[-1]
            found = tune.solve(unseen, fitting.sampler(PROCESS), fitting.grid(PROCESS)(PROCESS, n))
            rows[TUNED].setdefault(n, []).append(tune.errors(found, others))
        medians = {name: [f"{float(e.median()):.1e}" for e in cells[n]] for name, cells in rows.items()}
        print(n, medians, flush=True)
    return Found(rows)


def main() -> None:
    """Measure, draw, and print the medians."""
    torch.set_num_threads(1)
    found = measured()
    with figure(IMAGE, 10.4, 4.0) as (fig, _):
        left, right = fig.subplots(1, 2)
        part = np.arange(1, COUNT + 1) / COUNT
        for (name, cells), colour, dash in zip(found.errors.items(), COLOURS, DASHES, strict=False):
            medians = np.array([[float(e.median()) for e in cells[n]] for n in STEPS])
            left.plot(STEPS, medians.mean(1), color=colour, linestyle=dash, label=name)
            left.fill_between(STEPS, medians.min(1), medians.max(1), color=colour, alpha=0.25, linewidth=0)
            for errors in cells[SHOWN]:
                right.plot(np.sort(errors.numpy()), part, color=colour, linestyle=dash, linewidth=1.4)
        left.set_yscale("log")
        left.set_xlabel("calls of the denoiser")
        left.set_title("median error of unseen trajectories")
        left.legend()
        right.set_xscale("log")
        right.set_xlabel(f"error of a trajectory, {SHOWN} calls")
        right.set_title("part of the trajectories with less than that")
        right.set_ylim(0, 1)
    thin(IMAGE)


if __name__ == "__main__":
    main()
