"""A run to take along: films of its steps, and an archive of its files."""

from __future__ import annotations

import importlib.util
import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from safelight.draw.reel import reel
from safelight.serve.api.answers import png
from safelight.serve.api.base import Recording
from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.serve.lenses import Lenses

_CODECS = {"mp4": "libx264", "webm": "libvpx-vp9"}
# A video's side in pixels, at least: players blur what is smaller.
_SIDE = 256


def formats() -> list[str]:
    """The formats that can be written here: videos where there is an encoder."""
    return ["gif", "webp", "apng", "html", "zip", *(_CODECS if importlib.util.find_spec("av") else ())]


def film(seen: Lenses, lens: str, format: Literal["gif", "webp", "apng", "webm", "mp4"], seconds: float) -> bytes:
    """All steps through a lens as a film of so many seconds. Raises SpecError for a run of one step."""
    frames = np.stack([seen.frame(lens, moment.k) for moment in seen.trace.steps])  # (N, H, W, 3)
    if len(frames) < 2:
        raise SpecError("export: a film needs two steps at least")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"film.{format}"
        if format in _CODECS:
            _video(target, frames, seconds, _CODECS[format])
        else:
            reel(target, frames.transpose(0, 3, 1, 2), seconds=seconds)
        return target.read_bytes()


def _video(target: Path, frames: np.ndarray, seconds: float, codec: str) -> None:
    """By PyAV, an extra."""
    import av

    scale = max(1, -(-_SIDE // min(frames.shape[1:3])))
    large = frames.repeat(scale, 1).repeat(scale, 2)
    large = np.pad(
        large, ((0, 0), (0, large.shape[1] % 2), (0, large.shape[2] % 2), (0, 0)), mode="edge"
    )  # codecs want even sides
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream(codec, rate=max(1, round(len(frames) / seconds)))
        stream.height, stream.width, stream.pix_fmt = large.shape[1], large.shape[2], "yuv420p"
        for frame in large:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def archive(found: Recording, seen: Lenses, files: Sequence[tuple[str, bytes]]) -> bytes:
    """A zip: run.json, the pictures with their notes, and what was believed at every step."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as zipped:
        entries = [("run.json", json.dumps(found.run.model_dump(mode="json"), indent=1).encode()), *files]
        entries += [(f"steps/{m.k:04d}.png", png(seen.frame("x0", m.k))) for m in found.trace.steps]
        for name, data in entries:
            zipped.writestr(zipfile.ZipInfo(name), data)  # of a fixed date: the same run is the same archive
    return out.getvalue()


__all__ = ["archive", "film", "formats"]
