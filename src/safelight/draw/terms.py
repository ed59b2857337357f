"""The terms of a bound as a chart: where on the way from noise to the picture the bits are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from safelight.draw.chart import COLOURS, DASHES, figure, heading
from safelight.spec import SpecError

_BINS = 60


def terms(path: str | os.PathLike[str], results: Mapping[str, Mapping[str, Any]], *, title: str = "") -> Path:
    """Draw the bounds of one result of `evaluate likelihood`, or of several beside each other. Returns the path.

    results: the JSON numbers, by the name that the legend shall show. Left: the bits that a unit of log-SNR costs, so that the area under
    the curve is the sum of the L_k; right: the sum from the noise down, with L_T at its beginning and L_0 at its end.
    Raises SpecError when none has a bound.
    """
    shown = {name: found["bound"] for name, found in results.items() if "bound" in found}
    if not shown:
        raise SpecError("there is no bound in these results to draw")
    with figure(path, 10.4, 4.2) as (fig, target):
        left, right = fig.subplots(1, 2)
        for (name, bound), colour, dash in zip(shown.items(), COLOURS, DASHES, strict=False):
            by = {key: np.array(values, dtype=float) for key, values in bound["by_step"].items()}
            there = np.isfinite(by["logsnr"])  # a first step from pure noise has no place on this axis
            begin, end, part = by["logsnr"][there], by["logsnr_to"][there], by["part"][there]
            edges = np.linspace(begin.min(), end.max(), _BINS + 1)
            # Each step's part is spread over the bins that it crosses.
            cover = np.minimum(end[:, None], edges[1:]) - np.maximum(begin[:, None], edges[:-1])
            cover = cover.clip(min=0) / (end - begin)[:, None]
            height = (part[:, None] * cover).sum(0) / np.diff(edges)
            left.stairs(height, edges, color=colour, linestyle=dash, linewidth=1.5)
            sums = bound["prior"]["mean"] + float(by["part"][~there].sum()) + np.cumsum(part)
            label = f"{name}{': ' if name else ''}{bound['bits']['mean']:.3f} bits a value"
            right.plot(end, sums, color=colour, linestyle=dash, label=label)
            last = edges[-1] + (edges[-1] - edges[0]) * 0.04
            right.plot([end[-1], last], [sums[-1], sums[-1] + bound["last"]["mean"]], color=colour, marker="o", markersize=4)
        left.set_title("bits a value, for a unit of log-SNR")
        right.set_title("sum so far, bits a value; the last step is $L_0$")
        for axis in (left, right):
            axis.set_ylim(bottom=0)
            axis.set_xlabel("log-SNR    (noise to data)")
        right.legend(loc="best")
        heading(fig, title or "The bound, term by term")
    return target
