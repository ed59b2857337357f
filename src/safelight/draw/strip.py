"""A picture being noised: one picture, chosen times, one row a process. The noise is one fixed draw, so one sees it grow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safelight.draw import page as lay
from safelight.draw.film import shown
from safelight.draw.page import WHITE, Page, Paper
from safelight.draw.pixels import to_bytes
from safelight.noise import Noise
from safelight.process import Process
from safelight.spec import SpecError

TIMES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def noise_strip(
    picture: Any,
    processes: Mapping[str, Process],
    times: Sequence[float] = TIMES,
    *,
    seed: int = 0,
    scale: int | None = None,
    title: str = "",
    paper: Paper = WHITE,
) -> Image.Image:
    """x_t = alpha(t) x_0 + sigma(t) eps for each process (rows) and time (columns), with t, alpha, sigma and log-SNR beside it.

    picture: one picture, (C, H, W) in [-1, 1] or uint8, or a PIL image. processes: by the name that its row shall bear.
    times: in [0, 1], 0 = data. seed: of eps ~ N(0, I), the same draw in every cell. x_t is shown divided by
    sqrt(alpha^2 + sigma^2), so that an exploding process stays in the picture; on a variance-preserving one that is 1.
    Raises SpecError for several pictures, no process, no time, or a time outside [0, 1].
    """
    x0, cells, rows = strip(picture, processes, times, seed=seed)
    shots = to_bytes(cells.flatten(0, 1)).reshape(len(rows), len(times), *x0.shape[1:], x0.shape[0])
    _, _, h, w, c = shots.shape
    scale = max(lay.enlargement(h, w), math.ceil(92 / w)) if scale is None else scale
    cw, ch, gap = w * scale, h * scale, 6
    line = lay.leading(lay.SMALL)
    left = lay.MARGIN + max(min(260, max(lay.width(name) for name in processes)), lay.width("log-SNR", lay.SMALL)) + 14
    top = lay.MARGIN + (lay.leading(lay.TITLE) + 6 if title else 0) + lay.leading() + 2
    high = ch + 6 + 3 * line + 14
    page = Page(
        (left + len(times) * (cw + gap) - gap + lay.MARGIN, top + len(rows) * high - 14 + lay.MARGIN - 4), paper, c == 3
    )
    if title:
        page.text((lay.MARGIN, lay.MARGIN - 4), title, size=lay.TITLE)
    for k, t in enumerate(times):
        page.text((left + k * (cw + gap) + cw / 2, top - lay.leading() - 2), f"t = {t:g}", anchor="ma")
    for r, (name, row) in enumerate(zip(processes, rows, strict=True)):
        y = top + r * high
        page.text((left - 14, y + ch / 2), lay.fit(name, 260), anchor="rm")
        for j, word in enumerate(("alpha", "sigma", "log-SNR")):
            page.text((left - 14, y + ch + 6 + j * line), word, size=lay.SMALL, grey=paper.faint, anchor="ra")
        for k, (alpha, sigma, logsnr) in enumerate(row):
            at = left + k * (cw + gap)
            page.picture((at, y), shots[r, k], scale)
            for j, value in enumerate((number(alpha), number(sigma), signed(logsnr))):
                page.text((at + cw / 2, y + ch + 6 + j * line), value, size=lay.SMALL, grey=paper.faint, anchor="ma")
    return page.image


def strip(
    picture: Any, processes: Mapping[str, Process], times: Sequence[float], *, seed: int = 0
) -> tuple[Tensor, Tensor, list[list[tuple[float, float, float]]]]:
    """The numbers behind it: x0 (C, H, W) in [-1, 1]; x_t as shown, (rows, times, C, H, W); (alpha, sigma, log-SNR) a cell."""
    if not processes or not len(times):
        raise SpecError("a strip needs at least one process and one time")
    pixels = to_bytes(picture, "picture")
    if len(pixels) != 1:
        raise SpecError(f"a strip is of one picture, not of {len(pixels)}")
    x0 = torch.from_numpy(pixels[0].transpose(2, 0, 1).astype(np.float64)) / 127.5 - 1
    eps = Noise(seed, 1).normal("strip", None, None, x0[None])
    out, rows = [], []
    for process in processes.values():
        row = []
        for t in times:
            level = process.at(float(t))
            alpha, sigma = float(level.alpha), float(level.sigma)
            row.append((alpha, sigma, float(level.logsnr)))
            out.append(shown(process.add_noise(x0[None], eps, float(t))[0], alpha, sigma))
        rows.append(row)
    return x0, torch.stack(out).unflatten(0, (len(rows), len(times))), rows


def number(value: float) -> str:
    """Three digits, never in powers of ten where that would be harder to read: 0.998, 12.3, 0.0004."""
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:.1g}" if abs(value) < 0.001 else f"{value:,.0f}"


def signed(logsnr: float) -> str:
    """+4.6, -2.3, +inf."""
    return f"{logsnr:+.1f}" if math.isfinite(logsnr) else ("+inf" if logsnr > 0 else "-inf")
