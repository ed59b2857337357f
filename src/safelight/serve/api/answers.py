"""How files and pictures are sent: with a tag, so that a client that has them is told so, and never a byte from outside the folder."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Request as Call
from fastapi import Response
from PIL import Image

from safelight.data.decode import decode, opacity, probe
from safelight.data.source import CorruptError
from safelight.serve.api.base import Server, TooLarge, confined
from safelight.serve.safety import check_picture
from safelight.spec import SpecError

MIME = {
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
    "gif": "image/gif",
    "apng": "image/apng",
    "webm": "video/webm",
    "mp4": "video/mp4",
    "zip": "application/zip",
    "html": "text/html; charset=utf-8",
}
# How OpenAPI describes answers that are no JSON.
BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def content(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """The description of an answer that is one of these MIME types."""
    return {200: {"content": dict.fromkeys(kinds, BYTES), "description": "the bytes"}}


def sent(call: Call, data: bytes, mime: str, name: str = "") -> Response:
    """Bytes as an answer, or 304 when the client has them. name: of the file that a browser shall save them as."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if tag in call.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if name:
        headers["content-disposition"] = f'attachment; filename="{name}"'
    return Response(data, media_type=mime, headers=headers)


def inside(server: Server, file: Path) -> bytes:
    """The bytes of a file of the data folder. Raises Missing for anything else."""
    return confined(server.folder.path, file).read_bytes()


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) or (H, W) as PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def received(server: Server, data: bytes) -> np.ndarray:
    """The picture that was sent, uint8 (H, W, C), C = 1 or 3. Raises TooLarge for bombs, SpecError for what is no picture."""
    try:
        probe(io.BytesIO(data), server.limits.decompressed)
    except CorruptError as error:
        sort = TooLarge if "pixels" in str(error) else SpecError
        raise sort(f"picture: {error}") from None
    check_picture(server.public.safety, data)
    try:
        return decode(data, server.limits.decompressed)
    except CorruptError as error:
        raise SpecError(f"picture: {error}") from None


def transparency(server: Server, data: bytes) -> np.ndarray | None:
    """How opaque each pixel of what was sent is, uint8 (H, W, 1); None where it has no transparency."""
    received(server, data)
    return opacity(data, server.limits.decompressed)


__all__ = ["BYTES", "MIME", "content", "inside", "png", "received", "sent", "transparency"]
