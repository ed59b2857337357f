"""Charts as files: schedules, where the steps of a grid fall, and losses. matplotlib is imported when a chart is drawn.

One style: dark text on white, no box, thin lines in the colours of Okabe and Ito (2008), told apart by colour-blind
readers and, through their dashes, in print without colour.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safelight.files import atomic
from safelight.grid import Grid
from safelight.process import Process
from safelight.spec import SpecError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue, vermilion, bluish green, reddish purple, orange, sky blue, black; yellow is left out: it is not seen on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (2, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (9, 3)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1, 1, 1)),
)
INK, FAINT, RULE = "#222222", "#666666", "#E4E4E4"
FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}

_STYLE: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "#9A9A9A", "xtick.color": FAINT, "ytick.color": FAINT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10, "axes.grid": True, "axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round", "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.facecolor": "white", "savefig.facecolor": "white", "svg.hashsalt": "safelight", "svg.fonttype": "path",
}  # fmt: skip


def schedules(path: str | os.PathLike[str], processes: Mapping[str, Process], *, points: int = 501, title: str = "") -> Path:
    """alpha(t), sigma(t) and log-SNR(t) of several processes, and beta of those that are tables. Returns the path.

    processes: by the name that the legend shall show, where the terminal signal alpha(1) and terminal SNR stand beside it.
    Sigmas above 1 are cut off at 1.5: what counts there is the log-SNR. Raises SpecError for no process or an unknown suffix.
    """
    if not processes:
        raise SpecError("a chart of schedules needs at least one process")
    tables = [name for name, p in processes.items() if p.entries is not None]
    n = 4 if tables else 3
    with figure(path, 3.3 * n + 0.2, 3.5 + 0.26 * (len(processes) if len(processes) <= 3 else -(-len(processes) // 2))) as (
        fig,
        target,
    ):
        axes = fig.subplots(1, n)
        t = np.linspace(0, 1, points)
        handles = []
        for (name, process), colour, dash in zip(processes.items(), _cycle(COLOURS), _cycle(DASHES), strict=False):
            level = process.at(t_tensor(t))
            alpha, sigma, logsnr = (v.numpy() for v in (level.alpha, level.sigma, level.logsnr))
            how = {"color": colour, "linestyle": dash}
            axes[0].plot(t, alpha, **how)
            axes[1].plot(t, np.where(sigma <= 1.5, sigma, np.nan), **how)
            handles += axes[2].plot(t, np.clip(logsnr, -60, 60), **how, label=f"{name}:  {terminal(process)}")
            if process.entries is not None:
                # what the table does, a rescaled one too: 1 - abar_i / abar_(i-1)
                abar = np.concatenate(
                    [[1.0], process.alpha(t_tensor(np.arange(1, process.entries + 1) / process.entries)).numpy() ** 2]
                )
                with np.errstate(divide="ignore", invalid="ignore"):
                    axes[3].plot(np.arange(1, len(abar)) / process.entries, 1 - abar[1:] / abar[:-1], **how)
        for ax, name in zip(axes, ("signal  $\\alpha$", "noise  $\\sigma$", "log-SNR", "added a step  $\\beta$"), strict=False):
            ax.set_title(name)
            ax.set_xlabel("t    (0 = data, 1 = noise)")
            ax.set_xlim(0, 1)
        axes[0].set_ylim(0, 1.03)
        axes[1].set_ylim(0, min(1.54, max(1.03, axes[1].get_ylim()[1])))
        axes[2].set_ylim(-14, 14)
        if tables:
            axes[3].set_yscale("log")
        fig.legend(
            handles=handles, loc="outside lower left", ncols=2 if len(handles) > 3 else 1, labelspacing=0.45, columnspacing=3
        )
        heading(fig, title)
    return target


def terminal(process: Process) -> str:
    """What is left of the signal at t = 1, in words: `terminal alpha 0.364, SNR 0.152 (log -1.9)`."""
    level = process.at(1.0)
    alpha, sigma = float(level.alpha), float(level.sigma)
    if alpha == 0:
        return "ends in noise alone (terminal SNR 0)"
    snr = (alpha / sigma) ** 2
    text = f"terminal alpha {alpha:.3g}, SNR {snr:.3g}"
    return f"{text} (log {math.log(snr):+.1f})"


def grids(path: str | os.PathLike[str], process: Process, grids: Mapping[str, Grid], n: int = 20, *, title: str = "") -> Path:
    """Where the n steps of several grids fall on a process: over its time t, and over log-SNR, where the picture is decided.

    The last time, 0, is the data (log-SNR +inf) and is not drawn on the right. Raises SpecError for no grid, or a grid
    that cannot place n steps there.
    """
    if not grids:
        raise SpecError("a chart of grids needs at least one grid")
    places = {name: grid(process, n) for name, grid in grids.items()}
    pure = float(process.alpha(1.0)) == 0
    with figure(path, 10.4, 1.9 + 0.46 * len(grids)) as (fig, target):
        left, right = fig.subplots(1, 2, sharey=True)
        for row, (times, colour) in enumerate(zip(places.values(), _cycle(COLOURS), strict=False)):
            for ax, x in ((left, times.numpy()), (right, _finite(process.logsnr(times[:-1]).numpy()))):
                ax.axhline(row, color=RULE, linewidth=0.8, zorder=0)
                ax.plot(x, np.full(len(x), row), "|", color=colour, markersize=15, markeredgewidth=1.6)
        left.set_yticks(range(len(places)), list(places))
        left.tick_params(axis="y", labelcolor=INK)
        left.invert_yaxis()
        left.set_ylim(len(places) - 0.4, -0.6)
        left.set_xlabel("t    (1 = noise, 0 = data)")
        left.set_xlim(1.02, -0.02)
        right.set_xlabel("log-SNR of the level    (noise to data)")
        right.set_xlim(-15.5, 15.5)
        if pure:
            right.set_xlim(-20, 15.5)
            right.set_xticks([-18, -10, -5, 0, 5, 10, 15], ["noise\nalone", "-10", "-5", "0", "5", "10", "15"])
        for ax in (left, right):
            ax.grid(False, axis="y")
            ax.spines["left"].set_visible(False)
        heading(fig, title or f"where {n} steps fall on {process.kind}")
    return target


def _finite(logsnr: np.ndarray) -> np.ndarray:
    """log-SNR as drawn: the ends are cut at 15, and a level of noise alone has a place of its own at -18."""
    return np.where(np.isneginf(logsnr), -18.0, np.clip(logsnr, -15, 15))


def t_tensor(t: np.ndarray) -> Any:
    """Times as a float64 tensor (torch is imported by the process anyway)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(t, dtype=np.float64))


class figure:
    """A figure of our style, saved when its block ends without an error, whole or not at all; pyplot is left alone."""

    def __init__(self, path: str | os.PathLike[str], width: float, height: float) -> None:
        self.target = Path(path)
        if self.target.suffix.lower() not in FORMATS:
            raise SpecError(f"{self.target}: '{self.target.suffix}' is no chart format here (png, svg, pdf)")
        try:
            import matplotlib
        except ImportError:
            raise SpecError("charts need matplotlib: pip install matplotlib") from None
        self._style = matplotlib.rc_context(_STYLE)
        self._size = (width, height)

    def __enter__(self) -> tuple[Figure, Path]:
        from matplotlib.figure import Figure

        self._style.__enter__()
        self._figure = Figure(figsize=self._size, layout="constrained")
        self._figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
        return self._figure, self.target

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                format = FORMATS[self.target.suffix.lower()]
                when = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)  # same data, same bytes
                with atomic(self.target) as temporary:
                    self._figure.savefig(temporary, format=format, dpi=130, metadata=when)
        finally:
            self._style.__exit__(None, None, None)


def heading(fig: Figure, title: str) -> None:
    """A title over the whole chart, at its left."""
    if title:
        fig.suptitle(title, x=0.012, ha="left", fontsize=13)


def _cycle(items: Sequence[Any]) -> Any:
    import itertools

    return itertools.cycle(items)


def thousands(axis: Axes) -> None:
    """Label the horizontal axis 0, 50 k, 1.2 M."""
    from matplotlib.ticker import EngFormatter

    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
