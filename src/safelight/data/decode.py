"""Bytes to pixels, the same way for every source.

What is done, in this order: the size in the header is held against a limit (decompression bombs), the first frame is
decoded completely (so that a truncated file is an error, not a grey stripe), the EXIF orientation is applied, and the
mode is brought to 8-bit grey or RGB: palettes are looked up, transparency is composited on white, 16-bit values keep
their high byte (v >> 8, which is what Pillow does to 16-bit RGB; exact for 8-bit data stored as 256 v or 257 v).
"""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from safelight.data.source import CorruptError, Pixels

# The suffixes that count as pictures.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
# The largest picture that is decoded, in pixels: 1/4 GiB as RGB, and what Pillow itself starts to warn about.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3


def is_picture(name: str) -> bool:
    """Whether a file's name says that it is a picture."""
    return Path(name).suffix.lower() in SUFFIXES


def decode(data: bytes, limit: int = MAX_PIXELS) -> Pixels:
    """The picture in `data` as uint8 (H, W, C), C = 1 or 3.

    Raises CorruptError with the reason: empty, not a picture, truncated, more than `limit` pixels, a mode without a white.
    """
    if not data:
        raise CorruptError("empty file")
    try:
        with _open(io.BytesIO(data), limit) as image:
            image.load()
            return _pixels(image)
    except CorruptError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ... on bad bytes
        raise CorruptError(_reason(error)) from None


def opacity(data: bytes, limit: int = MAX_PIXELS) -> Pixels | None:
    """How opaque each pixel of the picture in `data` is, uint8 (H, W, 1), 255 wholly; None where it has no transparency.

    Raises CorruptError as `decode` does.
    """
    if not data:
        raise CorruptError("empty file")
    try:
        with _open(io.BytesIO(data), limit) as image:
            image.load()
            if not _has_alpha(image) or image.mode.startswith("I"):  # `decode` does not look for it in 16-bit grey either
                return None
            return np.array(_upright(image).convert("RGBA").getchannel("A"))[..., None]
    except CorruptError:
        raise
    except Exception as error:
        raise CorruptError(_reason(error)) from None


def probe(file: BinaryIO, limit: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) as the header of a picture says, undecoded. Raises CorruptError as `decode` does."""
    if not file.read(1):
        raise CorruptError("empty file")
    file.seek(0)
    try:
        with _open(file, limit) as image:
            return image.size
    except CorruptError:
        raise
    except Exception as error:
        raise CorruptError(_reason(error)) from None


def grey(image: Pixels) -> Pixels:
    """uint8 (H, W, 1): ITU-R BT.601 luma, (19595 R + 38470 G + 7471 B + 2^15) >> 16, as Pillow rounds it."""
    if image.shape[2] == 1:
        return image
    r, g, b = (image[..., i].astype(np.uint32) for i in range(3))
    return ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16).astype(np.uint8)[..., None]


def as_channels(image: Pixels, channels: int) -> Pixels:
    """The picture with `channels` = 1 (luma) or 3 (grey repeated)."""
    if image.shape[2] == channels:
        return image
    return grey(image) if channels == 1 else np.repeat(image, 3, axis=2)


@functools.cache
def _formats() -> list[str]:
    """The decoders that are used, of those this Pillow has. The rest are not for pictures of strangers: EPS runs a program."""
    Image.init()
    return [name for name in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF") if name in Image.OPEN]


def _open(file: BinaryIO, limit: int) -> Image.Image:
    image = Image.open(file, formats=_formats())
    width, height = image.size
    if width * height > limit:
        raise CorruptError(f"{width}x{height} is more than {limit:,} pixels (a decompression bomb?)")
    return image


def _pixels(image: Image.Image) -> Pixels:
    image = _upright(image)
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N") or (image.mode == "I" and image.format in ("PNG", "PPM", None)):
        deep = np.asarray(image).astype(np.int64)
        if deep.size and (deep.min() < 0 or deep.max() > 65535):
            raise CorruptError("integer pixels outside 0..65535 have no known white")
        return (deep >> 8).astype(np.uint8)[..., None]
    if image.mode in ("I", "F"):
        raise CorruptError(f"pixels of mode {image.mode} have no known white: convert them to 8 or 16 bits")
    if _has_alpha(image):
        is_grey = image.mode in ("LA", "La", "L", "1")
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear).convert("RGB")
        pixels = np.array(image)
        return np.ascontiguousarray(pixels[..., :1]) if is_grey else pixels
    if image.mode == "P" and image.palette is not None and image.palette.mode == "L":
        image = image.convert("L")
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))[..., None]
    return np.array(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels, which are whole
        return image


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or a format that is not known"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
