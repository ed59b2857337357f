"""Draws docs/images/parameterizations.png: the function that a network has to learn, for each thing it may predict.

    python -m scripts.draw_parameterizations

The data are one number, +1 or -1 give or take a little, so that the best network is known: F = (E[x_0 | x_t] - skip x_t) / out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.ticker import MultipleLocator

from safelight.draw.chart import figure
from safelight.predict import Parameterization
from safelight.process import Process
from safelight.spec import build
from scripts.thin import thin
from tests.oracle import Mixture

IMAGE = Path(__file__).resolve().parents[1] / "docs/images/parameterizations.png"
SPREAD = 0.15
DATA = Mixture(
    torch.tensor([0.5, 0.5]),
    torch.tensor([[-1.0], [1.0]]),
    torch.ones(2, 1, 1),
    torch.full((2, 1), SPREAD**2, dtype=torch.float64),
)
TIMES = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
KINDS: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in ("eps", "x0", "v", "score", "velocity")} | {
    "edm": {"kind": "edm", "sigma_data": (1 + SPREAD**2) ** 0.5}
}


def best(parameterization: Parameterization, process: Process, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network sees and should answer at time t, over the x_t that occur there."""
    level = process.at(t)
    alpha, sigma = float(level.alpha), float(level.sigma)
    reach = alpha * (1 + 3 * SPREAD) + 2.5 * sigma
    x = torch.linspace(-reach, reach, 801, dtype=torch.float64)[:, None]
    skip, out, inp, _ = parameterization.coeffs(level, process)
    return (inp * x)[:, 0], ((DATA.mean(x, alpha, sigma) - skip * x) / out)[:, 0]


def main() -> None:
    """Write the figure."""
    process = build("cosine", "process")
    with figure(IMAGE, 10.4, 6.2) as (fig, _):
        for axis, (kind, fields) in zip(fig.subplots(2, 3).flat, KINDS.items(), strict=True):
            for t in TIMES:
                seen, said = best(build(fields, "parameterization"), process, t)
                axis.plot(seen, said, color=colormaps["viridis"](0.92 * (1 - t)), label=f"t = {t:g}", linewidth=1.6)
            axis.set(title=kind, xlim=(-2.6, 2.6), ylim=(-3.2, 3.2), xlabel="what the network sees")
            axis.yaxis.set_major_locator(MultipleLocator(1))
        handles, labels = axis.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=len(TIMES))
    thin(IMAGE)


if __name__ == "__main__":
    main()
