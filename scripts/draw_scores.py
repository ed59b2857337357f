"""Draws docs/images/scores.png, the score of a mixture at falling noise with walkers on their way along it, and, given the folder that
holds the runs of `ncsn`, `vp-sde` and `ve-sde`, docs/images/score-models.png: pictures of each by walks, by the SDE and by the ODE.

    python -m scripts.draw_scores [RUNS]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safelight.draw.chart import COLOURS, figure
from safelight.draw.grid import sheet
from safelight.generate import Finished, generate
from safelight.model import load
from safelight.noise import Noise
from safelight.sample import trajectory
from safelight.spec import build
from safelight.task import Request
from scripts.thin import thin
from tests.oracle import Mixture

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
SHOWN = (1.5, 0.6, 0.25, 0.06)
WALKERS = 150
# (run, what its row is called, how it is sampled)
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("ncsn", "NCSN\nLangevin, 501 calls", {}),
    ("vp-sde", "VP SDE\nPC, 199 calls", {}),
    ("vp-sde", "VP SDE\nODE, 30 calls", {"sampler": "dpm++2m", "steps": 30}),
    ("ve-sde", "VE SDE\nPC, 199 calls", {}),
    ("ve-sde", "VE SDE\nODE, 30 calls", {"sampler": "dpm++2m", "grid": "karras", "steps": 30}),
)
COLUMNS = 10


def walk(data: Mixture) -> dict[float, Tensor]:
    """Where annealed Langevin dynamics has brought the walkers when it leaves each of the levels shown."""
    process = build({"kind": "ve", "sigma_min": 0.02, "sigma_max": 3.0}, "process")
    levels = process.at(build("exponential", "grid")(process, 80)).split()
    x = 3.0 * torch.randn(WALKERS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    steps = list(trajectory(data.denoise, x, levels, build("langevin", "sampler"), Noise(0)))
    return {sigma: next(s.x for s in steps if s.level.floats[1] <= sigma) for sigma in SHOWN}


def fields() -> None:
    """The figure of a score at four noise levels."""
    data = Mixture.ring(modes=5, std=0.15)
    where = walk(data)
    reach, fine, coarse = 2.4, 121, 17
    with figure(IMAGES / "scores.png", 10.4, 3.0) as (fig, _):
        for axis, sigma in zip(fig.subplots(1, len(SHOWN)), SHOWN, strict=True):
            wide = torch.linspace(-reach, reach, fine, dtype=torch.float64)
            grid = torch.cartesian_prod(wide, wide)
            density = log_density(data, grid, sigma).exp().view(fine, fine).T
            axis.contourf(wide, wide, density, levels=np.linspace(0.02, 1, 9) * float(density.max()), cmap="Blues", alpha=0.8)
            few = torch.linspace(-reach, reach, coarse, dtype=torch.float64)
            at = torch.cartesian_prod(few, few)
            score = (data.mean(at, 1.0, sigma) - at) / sigma**2
            arrows = score / (score.norm(dim=1, keepdim=True) + 1.5 / sigma)
            axis.quiver(*at.T, *arrows.T, color="#555555", scale=22, width=0.004)
            axis.plot(*where[sigma].T, ".", color=COLOURS[1], markersize=3)
            axis.set(
                title=f"$\\sigma$ = {sigma:g}", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal"
            )
            axis.grid(False)
    thin(IMAGES / "scores.png")


def log_density(data: Mixture, x: Tensor, sigma: float) -> Tensor:
    """log q(x) of the mixture with noise sigma, up to a constant."""
    variance = data.l + sigma**2
    off = torch.einsum("nkd,kde->nke", x[:, None] - data.m, data.u)
    return torch.logsumexp(data.w.log() - 0.5 * (off.square() / variance + variance.log()).sum(-1), 1)


def pictures(runs: Path) -> None:
    """The sheet of what the three recipes make."""
    made = []
    for run, _, fields in ROWS:
        request = Request.model_validate({"prompt": ("",), "count": COLUMNS, "seed": 0, **fields})
        made += [event.pictures.cpu() for event in generate(load(str(runs / run)), request) if isinstance(event, Finished)]
    target = IMAGES / "score-models.png"
    sheet(torch.cat(made), columns=COLUMNS, rows=[title for _, title, _ in ROWS]).save(target)
    thin(target)


if __name__ == "__main__":
    fields()
    if len(sys.argv) > 1:
        pictures(Path(sys.argv[1]))
