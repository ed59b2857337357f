"""From what a model computes with, [-1, 1], to what a screen shows, [0, 255]: in one place, so nothing is rescaled twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from safelight.spec import SpecError

# A float picture of 0..255 would show as a white square. Data in [-1, 1] plus any noise is never all >= 0 and this bright.
_BYTES_AS_FLOATS = 8.0


def to_bytes(pictures: Any, name: str = "pictures") -> np.ndarray:
    """Pictures as uint8, (N, H, W, C), C 1 or 3.

    pictures: one of
        a tensor or array (N, C, H, W) or one picture (C, H, W), C in {1, 3}, with values
            float: [-1, 1], shown as round(127.5 (x + 1)); beyond the range they are clipped, as a noisy picture needs;
            uint8, or another integer type within [0, 255]: shown as they are;
        a sequence of such pictures (C, H, W), or of PIL images, all of one size.
    Nothing is stretched: a min-max normalisation would hide a dark or washed-out model.

    Raises SpecError for NaN or infinity (naming the picture), integers beyond a byte, floats that are bytes in disguise,
    and shapes that are no pictures.
    """
    array = _array(pictures, name)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise SpecError(f"{name}: shape {tuple(array.shape)} is no (N, C, H, W) with C = 1 or 3")
    if array.size == 0:
        raise SpecError(f"{name}: there is no picture to show")
    if array.dtype.kind == "f":
        finite = np.isfinite(array).reshape(len(array), -1).all(1)
        if not finite.all():
            first, bad = int(np.argmin(finite)), int((~finite).sum())
            raise SpecError(
                f"{name}: picture {first} has NaN or infinite values ({bad} of {len(array)} pictures); nothing is written"
            )
        if array.min() >= 0 and array.max() > _BYTES_AS_FLOATS:
            raise SpecError(f"{name}: floats up to {array.max():g} where [-1, 1] is meant; pass bytes as uint8")
        array = np.rint((np.clip(array.astype(np.float32), -1, 1) + 1) * 127.5)
    elif array.dtype.kind in "iu":
        if array.min() < 0 or array.max() > 255:
            raise SpecError(f"{name}: integers in [{array.min()}, {array.max()}] where bytes, [0, 255], are meant")
    else:
        raise SpecError(f"{name}: {array.dtype} values are no picture; give floats in [-1, 1] or uint8")
    return np.ascontiguousarray(array.astype(np.uint8).transpose(0, 2, 3, 1))


def to_image(picture: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 as a PIL image, mode L for one channel and RGB for three. Raises SpecError for anything else."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise SpecError(f"a picture is (H, W, 1 or 3) uint8, not {tuple(picture.shape)} {picture.dtype}")
    return Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)


def _array(pictures: Any, name: str) -> np.ndarray:
    if isinstance(pictures, Image.Image):
        pictures = [pictures]
    if isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes):
        if not pictures:
            raise SpecError(f"{name}: there is no picture to show")
        several = [_of_image(p) if isinstance(p, Image.Image) else _array(p, name) for p in pictures]
        if len({p.shape[0] for p in several}) > 1 and {p.shape[0] for p in several} == {1, 3}:
            several = [np.repeat(p, 3, 0) if p.shape[0] == 1 else p for p in several]
        if len({p.shape for p in several}) > 1:
            raise SpecError(f"{name}: pictures of different shapes, {several[0].shape} and others, do not fit one sheet")
        return np.stack(several)
    if hasattr(pictures, "detach"):  # a torch tensor, without importing torch; bfloat16 is unknown to numpy
        tensor = pictures.detach().cpu()
        return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
    return np.asarray(pictures)


def _of_image(image: Image.Image) -> np.ndarray:
    if image.mode in ("1", "L", "I;16", "I", "F"):
        return np.asarray(image.convert("L"))[None]
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
