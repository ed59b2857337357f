"""A run's losses as a chart: training, held-out, per noise level, and beside them the rate and the speed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safelight.draw.chart import COLOURS, DASHES, FAINT, figure, heading, thousands
from safelight.spec import SpecError

Rows = list[dict[str, Any]]


def read(path: str | os.PathLike[str]) -> Rows:
    """The rows of a run's metrics, one a step, in order of their steps.

    path: a run's folder, or its metrics.jsonl. Of a step written twice (before a kill and after the resume) the later row
    counts; a last line cut short by a kill is left out. Raises SpecError for a missing or empty file, or another kind of file.
    """
    file = Path(path) / "metrics.jsonl" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise SpecError(f"{file}: there is no log of a run; `safelight train` writes metrics.jsonl into its run's folder")
    rows: dict[int, dict[str, Any]] = {}
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.setdefault(int(row["step"]), {}).update(row)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            if number == len(lines):
                break
            raise SpecError(f"{file}: line {number} is no record of a step") from None
    if not rows:
        raise SpecError(f"{file}: nothing was logged yet")
    return [rows[step] for step in sorted(rows)]


def column(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the rows that have a finite number of that name."""
    found = [(r["step"], r[name]) for r in rows if isinstance(r.get(name), int | float) and math.isfinite(r[name])]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.asarray(steps, float), np.asarray(values, float)


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean over a window of 5 % of the series around each point, cut at the ends: unlike a running mean it does not lag."""
    half = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def beside(run: str | os.PathLike[str]) -> Path:
    """Where the chart of a run is put unless said otherwise: loss.png in its folder."""
    path = Path(run)
    return (path if path.is_dir() else path.parent) / "loss.png"


def losses(path: str | os.PathLike[str], runs: Mapping[str, Rows], *, title: str = "") -> Path:
    """Draw one run's losses, or compare several.

    runs: by name, as `read` gives them. Four panels: the loss (training: each log faint and smoothed; held-out with its points;
    the dotted line is what a network that always answers 0 gets); held-out loss per noise level, when logged; learning rate;
    images/s.
    For several runs the second panel is left out and colours tell the runs apart. Raises SpecError when no run has a loss.
    """
    if not runs or not any(len(column(rows, "train/loss")[0]) or len(column(rows, "val/loss")[0]) for rows in runs.values()):
        raise SpecError("there is no loss in these logs to draw")
    one = len(runs) == 1
    first = next(iter(runs.values()))
    buckets = [n for n in (f"val/loss_t{i}" for i in range(64)) if len(column(first, n)[0])] if one else []
    with figure(path, 11, 6.2) as (fig, target):
        mosaic: Any = [["loss", "level" if buckets else "loss"], ["rate", "speed"]]
        axes = fig.subplot_mosaic(mosaic, height_ratios=[2.1, 1], width_ratios=[1.15, 1])
        for k, (name, rows) in enumerate(runs.items()):
            ink, other = COLOURS[k % len(COLOURS)], COLOURS[(k + 1) % len(COLOURS)] if one else COLOURS[k % len(COLOURS)]
            label = "" if one else f"{Path(name).name}: "
            steps, values = column(rows, "train/loss")
            if len(steps):
                axes["loss"].plot(steps, values, color=ink, alpha=0.25, linewidth=1)
                axes["loss"].plot(
                    steps, smooth(values), color=ink, label=f"{label}training, {smooth(values)[-1]:.4g} at the end"
                )
            held, judged = column(rows, "val/loss")
            if len(held):
                best = int(judged.argmin())
                text = f"{label}held out, least {judged[best]:.4g} at step {held[best]:,.0f}"
                axes["loss"].plot(
                    held, judged, color=other, marker="o", markersize=3.5, linestyle=DASHES[0 if one else 1], label=text
                )
            for ax, column_name in (("rate", "lr"), ("speed", "images_per_second")):
                x, y = column(rows, column_name)
                axes[ax].plot(x, y, color=ink)
        trivial = column(first, "val/trivial")[1]
        if one and len(trivial):
            axes["loss"].axhline(
                trivial[-1], color=FAINT, linestyle=DASHES[2], linewidth=1.2, label=f"always answering 0, {trivial[-1]:.4g}"
            )
        _spread(axes["loss"], [column(r, n)[1] for r in runs.values() for n in ("train/loss", "val/loss")])
        axes["loss"].set_title("loss")
        axes["loss"].legend(loc="best", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9, borderpad=0.6)
        if buckets:
            _levels(axes["level"], first, buckets)
        axes["rate"].set_title("learning rate")
        axes["speed"].set_title("images a second")
        for ax in ("rate", "speed"):
            axes[ax].set_ylim(0, max(1e-12, axes[ax].get_ylim()[1]) * 1.08)
            axes[ax].yaxis.set_major_formatter("{x:g}")
        for axis in axes.values():
            axis.set_xlabel("step")
            thousands(axis)
        heading(fig, title or ("" if not one else Path(next(iter(runs))).name))
    return target


def _spread(axis: Any, series: Sequence[np.ndarray]) -> None:
    """A logarithmic axis when the loss falls by more than a factor of four: on a linear one the end would be a flat line."""
    values = np.concatenate([s for s in series if len(s)])
    if len(values) and values.min() > 0 and np.quantile(values, 0.98) / values.min() > 4:
        from matplotlib.ticker import LogLocator

        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(LogLocator(subs=()))


def _levels(axis: Any, rows: Rows, names: Sequence[str]) -> None:
    """One line a noise level, dark nearest the data, and its name at its end."""
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0, 0.82, len(names)))
    ends = []
    for i, (name, shade) in enumerate(zip(names, shades, strict=True)):
        steps, values = column(rows, name)
        axis.plot(steps, values, color=shade, marker="o", markersize=2.5, linewidth=1.4)
        ends.append((steps[-1], values[-1], i, shade))
    axis.set_title("held-out loss, by noise level")
    _spread(axis, [column(rows, n)[1] for n in names])
    for x, y, i, shade in ends:
        text = {0: "nearest the data", len(names) - 1: "nearest noise"}.get(i, "")
        if text and len(names) > 1:
            axis.annotate(text, (x, y), xytext=(6, 0), textcoords="offset points", color=shade, va="center", fontsize=9)
    axis.margins(x=0.02)
    low, high = axis.get_xlim()
    axis.set_xlim(low, high + (high - low) * 0.3)
