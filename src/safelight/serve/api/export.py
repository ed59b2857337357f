"""A run to take along: films of its steps, and an archive of its files."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from safelight.draw.reel import reel
from safelight.draw.video import VIDEOS, encoder
from safelight.serve.api.answers import png
from safelight.serve.api.base import Recording
from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.serve.lenses import Lenses

Film = Literal["gif", "webp", "apng", "webm", "mp4"]


def formats() -> list[str]:
    """The formats that can be written here: videos where there is an encoder."""
    return ["gif", "webp", "apng", "html", "zip", *(suffix[1:] for suffix in VIDEOS if encoder())]


def film(seen: Lenses, lens: str, format: Film, seconds: float) -> bytes:
    """All steps through a lens as a film of so many seconds, its ends held half a second longer. Raises SpecError for a run of one step."""
    return pictures(np.stack([seen.frame(lens, moment.k) for moment in seen.trace.steps]), format, seconds, hold=0.5)


def pictures(frames: np.ndarray, format: Film, seconds: float, *, back: bool = False, hold: float = 0.0) -> bytes:
    """Frames, uint8 (N, H, W, 3), as a film of so many seconds; back, hold: see `draw.reel.reel`.

    Raises SpecError for one frame alone, and for a video where there is no encoder.
    """
    if len(frames) < 2:
        raise SpecError("export: a film needs two frames at least")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"film.{format}"
        reel(target, frames.transpose(0, 3, 1, 2), seconds=seconds, hold=hold, back=back)
        return target.read_bytes()


def archive(found: Recording, seen: Lenses, files: Sequence[tuple[str, bytes]]) -> bytes:
    """A zip: run.json, the pictures with their notes, and what was believed at every step."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as zipped:
        entries = [("run.json", json.dumps(found.run.model_dump(mode="json"), indent=1).encode()), *files]
        entries += [(f"steps/{m.k:04d}.png", png(seen.frame("x0", m.k))) for m in found.trace.steps]
        for name, data in entries:
            zipped.writestr(zipfile.ZipInfo(name), data)  # of a fixed date: the same run is the same archive
    return out.getvalue()


__all__ = ["Film", "archive", "film", "formats", "pictures"]
