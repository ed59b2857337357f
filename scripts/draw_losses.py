"""Draws docs/images/losses.png: how much each noise level counts, by the weighting and by whole systems.

    python -m scripts.draw_losses

Left: the weight on the squared error of eps, w / SNR. Right: that times the density of the levels that a system trains at, per unit of
log-SNR, as a multiple of what it is at 0: all that is left of process, times, parameterization and weighting in the loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from safelight.draw.chart import COLOURS, DASHES, figure
from safelight.predict import Parameterization
from safelight.process import Level, Process
from safelight.spec import parse
from safelight.train.times import Times
from safelight.train.weighting import Weighting
from scripts.thin import thin

IMAGE = Path(__file__).resolve().parents[1] / "docs/images/losses.png"
RANGE = (-10.0, 10.0)

Described = str | dict[str, object]


class System(NamedTuple):
    """How a loss is put together: what the network predicts matters only to the weighting `unit`."""

    process: Described
    times: Described
    parameterization: Described
    weighting: Described


WEIGHTINGS: dict[str, System] = {
    "unit of eps, snr": System("cosine", "uniform", "eps", "unit"),
    "unit of x0": System("cosine", "uniform", "x0", "unit"),
    "unit of v": System("cosine", "uniform", "v", "unit"),
    "min-snr": System("cosine", "uniform", "v", "min-snr"),
    "soft-min-snr": System("cosine", "uniform", "v", "soft-min-snr"),
    "p2": System("cosine", "uniform", "v", "p2"),
    "edm": System("cosine", "uniform", "v", "edm"),
}
SYSTEMS: dict[str, System] = {
    "DDPM: linear, eps": System("linear", "uniform", "eps", "unit"),
    "v on cosine": System("cosine", "uniform", "v", "unit"),
    "EDM: log-normal": System("edm", "log-normal", {"kind": "edm"}, "edm"),
    "rectified flow": System("flow", "uniform", "velocity", "unit"),
    "SD 3: logit-normal": System("flow", "logit-normal", "velocity", "unit"),
    "sigmoid, bias -1": System("cosine", "uniform", "v", {"kind": "sigmoid", "bias": -1.0}),
    "NCSN: geometric": System("ve", {"kind": "geometric", "levels": 0}, "eps", "unit"),
}


def on_eps(system: System, level: Level) -> torch.Tensor:
    """w / SNR: the weight on the squared error of eps at each of the levels."""
    process, parameterization, weighting = (
        level.known,
        parse(system.parameterization, "parameterization"),
        parse(system.weighting, "weighting"),
    )
    assert isinstance(parameterization, Parameterization) and isinstance(weighting, Weighting)
    out = parameterization.coeffs(level, process).out
    return weighting.on_network(level, out) * (level.sigma / (level.alpha * out)).square()


def density(system: System, process: Process, edges: torch.Tensor) -> torch.Tensor:
    """How often a level between two neighbours of `edges` in log-SNR is trained, per unit of log-SNR."""
    times = parse(system.times, "times")
    assert isinstance(times, Times)
    u = torch.sigmoid(torch.linspace(-27, 27, 40_001, dtype=torch.float64))
    logsnr = process.logsnr(times.times(u, process))
    below = np.interp(-edges.numpy(), -logsnr.numpy(), u.numpy())  # P(log-SNR > edge)
    return torch.from_numpy(below[:-1] - below[1:]) / (edges[1:] - edges[:-1])


def main() -> None:
    """Write the figure."""
    edges = torch.linspace(*RANGE, 162, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    with figure(IMAGE, 10.4, 4.6) as (fig, _):
        left, right = fig.subplots(1, 2)
        for axis, systems in ((left, WEIGHTINGS), (right, SYSTEMS)):
            for (name, system), colour, dash in zip(systems.items(), COLOURS, DASHES, strict=True):
                process = parse(system.process, "process")
                assert isinstance(process, Process)
                y = on_eps(system, process.at(process.time(middle)))
                low, high = (-2 * np.log(s) for s in reversed(process.ends))
                y = torch.where((edges[:-1] > low) & (edges[1:] < high), y, torch.nan)
                if axis is right:
                    y = y * density(system, process, edges)
                    y = y / y[len(y) // 2]
                axis.plot(middle, y, color=colour, linestyle=dash, label=name)
            axis.set(xlim=RANGE, yscale="log", ylim=(1e-3, 1e2), xlabel="log-SNR    (noise to data)")
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=9)
        left.set_title("weight on the error of $\\varepsilon$")
        right.set_title("with the times: what counts, relative to log-SNR 0")
    thin(IMAGE)


if __name__ == "__main__":
    main()
