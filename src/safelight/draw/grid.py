"""Contact sheets: many pictures on one page, each with its name."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safelight.draw import page as lay
from safelight.draw.page import WHITE, Page, Paper
from safelight.draw.pixels import to_bytes
from safelight.files import atomic
from safelight.spec import SpecError

# How many pixels the names of rows may take; longer ones are broken into lines.
ROOM = 240


def sheet(
    pictures: Any,
    *,
    columns: int | None = None,
    captions: Sequence[str] = (),
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
    title: str = "",
    note: str = "",
    scale: int | None = None,
    gap: int | None = None,
    paper: Paper = WHITE,
) -> Image.Image:
    """N pictures in rows, left to right, as one image (mode L when all are grey, else RGB).

    pictures: see `to_bytes`; (N, C, H, W) in [-1, 1] or uint8. No pixel is blended: each becomes a square of `scale` pixels.
    columns: pictures a row; by default the number of heads, or what the row names imply, or about sqrt(N).
    captions: a line under each picture (N of them). rows: a name left of each row, broken into lines.
    heads: a name over each column.
    title, note: a line over and a line under the whole. scale: a whole number; by default small pictures grow to about 104
    pixels.
    Raises SpecError for what `to_bytes` refuses, and for names that do not match the pictures in number.
    """
    cells = to_bytes(pictures)
    n, h, w, c = cells.shape
    if columns is None:
        columns = len(heads) or (math.ceil(n / len(rows)) if rows else max(1, math.ceil(math.sqrt(n))))
    if columns < 1:
        raise SpecError(f"columns: {columns} is no number of pictures a row")
    count = math.ceil(n / columns)
    for what, names, due in (("captions", captions, n), ("rows", rows, count), ("heads", heads, columns)):
        if names and len(names) != due:
            raise SpecError(f"{what}: {len(names)} names for {due} {'pictures' if what == 'captions' else what}")
    scale = lay.enlargement(h, w) if scale is None else scale
    if scale < 1:
        raise SpecError(f"scale: {scale} is not a whole number from 1")
    cw, ch = w * scale, h * scale
    gap = (8 if captions else 4) if gap is None else gap

    texts = [lay.wrap(t, cw + gap - 4, 2, lay.SMALL) for t in captions]
    below = [
        4 + lay.leading(lay.SMALL) * max([len(t) for t in texts[r * columns : (r + 1) * columns]], default=0) if texts else 0
        for r in range(count)
    ]
    named = [lay.wrap(r, ROOM, max(1, min(4, ch // lay.leading()))) for r in rows]
    left = lay.MARGIN + (max(lay.width(line) for name in named for line in name or [""]) + 12 if rows else 0)
    over = lay.leading() + 2
    top = lay.MARGIN + (lay.leading(lay.TITLE) + 6 if title else 0) + (over if heads else 0)
    wide = left + columns * cw + (columns - 1) * gap + lay.MARGIN
    wide = max(wide, lay.MARGIN * 2 + max(lay.width(title, lay.TITLE), 0))
    notes = lay.wrap(note, wide - 2 * lay.MARGIN, 4, lay.SMALL) if note else []
    foot = (8 + lay.leading(lay.SMALL) * len(notes)) if notes else 0
    high = top + count * ch + (count - 1) * gap + sum(below) + foot + lay.MARGIN

    page = Page((wide, high), paper, c == 3)
    if title:
        page.text((lay.MARGIN, lay.MARGIN - 4), title, size=lay.TITLE)
    for k, head in enumerate(heads):
        page.text((left + k * (cw + gap) + cw / 2, top - over), lay.fit(head, cw + gap - 4), grey=paper.faint, anchor="ma")
    y = top
    for r in range(count):
        for j, line in enumerate(named[r] if rows else ()):
            page.text((left - 12, y + ch / 2 + (j - (len(named[r]) - 1) / 2) * lay.leading()), line, anchor="rm")
        for k in range(min(columns, n - r * columns)):
            i, x = r * columns + k, left + k * (cw + gap)
            page.picture((x, y), cells[i], scale)
            for j, line in enumerate(texts[i] if texts else ()):
                page.text((x + cw / 2, y + ch + 4 + j * lay.leading(lay.SMALL)), line, size=lay.SMALL, anchor="ma")
        y += ch + below[r] + gap
    for j, line in enumerate(notes):
        page.text((lay.MARGIN, y - gap + 8 + j * lay.leading(lay.SMALL)), line, size=lay.SMALL, grey=paper.faint)
    return page.image


def save(path: str | os.PathLike[str], image: Image.Image) -> Path:
    """Write an image whole or not at all, in the format of its suffix (.png, .webp lossless, .jpg). Returns the path.

    Raises SpecError for a suffix that no writer knows.
    """
    target = Path(path)
    format = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(target.suffix.lower())
    if format is None:
        raise SpecError(f"{target}: '{target.suffix}' is no picture format here (png, webp, jpg)")
    with atomic(target) as temporary:
        if format == "WEBP":
            image.save(temporary, format, lossless=True)
        elif format == "JPEG":
            image.save(temporary, format, quality=95)
        else:
            image.save(temporary, format, optimize=True)
    return target
