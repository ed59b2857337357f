"""A film of finished pictures, one a frame: a morph, a walk, a turn. `draw.film` shows one picture coming out of noise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from safelight.draw import page as lay
from safelight.draw.film import SUFFIXES, write
from safelight.draw.pixels import to_bytes, to_image
from safelight.spec import SpecError

# So long is a small picture's side made, in pixels.
_SIDE = 256


def reel(
    path: str | os.PathLike[str],
    pictures: Any,
    *,
    seconds: float = 3.0,
    hold: float = 0.5,
    back: bool = False,
    scale: int | None = None,
) -> Path:
    """Write pictures as a film, and return its path.

    path: `.gif`, `.webp` (lossless) or `.png`/`.apng` (lossless), or with the extra `video` `.mp4` and `.webm`.
    pictures: see `to_bytes`. seconds: from the first to the last; hold: how much longer the two ends stay. back: then the same way back,
    so that the loop has no jump. scale: whole enlargement.
    Raises SpecError for one picture, an unknown suffix, or what `to_bytes` refuses.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise SpecError(f"{target}: '{target.suffix}' is no film format here ({', '.join(SUFFIXES)})")
    if not seconds > 0 or not hold >= 0:
        raise SpecError("a film needs seconds > 0 and hold >= 0")
    frames = to_bytes(pictures)
    n, h, w, _ = frames.shape
    if n < 2:
        raise SpecError("a film of finished pictures needs two of them at least")
    scale = lay.enlargement(h, w, _SIDE) if scale is None else scale
    pages = [to_image(np.ascontiguousarray(f.repeat(scale, 0).repeat(scale, 1))) for f in frames]
    each = max(20, round(100 * seconds / n) * 10)  # in 1/100 s, as a GIF counts, and no less than browsers show
    durations = [each] * n
    for end in (0, -1):
        durations[end] += round(100 * hold) * 10
    if back:
        pages, durations = pages + pages[-2:0:-1], durations + durations[-2:0:-1]
    write(target, pages, durations)
    return target


__all__ = ["reel"]
