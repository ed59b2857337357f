"""Transforms of pictures: how one is fitted to a size (a Spec, on the CPU, once) and what happens to a batch on the device.

Functions on batches are pure: what is random comes in as an argument, keyed by (seed, step) elsewhere.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from safelight.data.source import Pixels
from safelight.spec import Spec

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Fit(Spec, family="transform"):
    """How a picture of any size becomes (H, W): `fit(image, (H, W))`, uint8 (h, w, C) -> uint8 (H, W, C).

    A picture that has the size already is returned untouched.
    """

    def __call__(self, image: Pixels, size: tuple[int, int]) -> Pixels:
        raise NotImplementedError(f"{type(self).__name__} does not fit")


class Crop(Fit, kind="crop"):
    """Scale until the shorter side fits, keep the middle: nothing is distorted, something is cut off.

    filter: the resampling filter; lanczos keeps the most detail, nearest suits pixel art.
    """

    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "lanczos"

    def __call__(self, image: Pixels, size: tuple[int, int]) -> Pixels:
        (h, w), (height, width) = image.shape[:2], size
        scale = max(height / h, width / w)
        image = _scale(image, (max(height, round(h * scale)), max(width, round(w * scale))), self.filter)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return np.ascontiguousarray(image[top : top + height, left : left + width])


class Pad(Fit, kind="pad"):
    """Scale until the longer side fits, surround with a plain colour: nothing is distorted, nothing is cut off.

    filter:  the resampling filter.
    fill:    the grey value of the border, 0..255.
    enlarge: whether a picture smaller than (H, W) is scaled up; without it, 28x28 becomes 32x32 by a border of 2.
    """

    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "lanczos"
    fill: int = Field(default=255, ge=0, le=255)
    enlarge: bool = True

    def __call__(self, image: Pixels, size: tuple[int, int]) -> Pixels:
        (h, w), (height, width) = image.shape[:2], size
        scale = min(height / h, width / w)
        if scale < 1 or self.enlarge:
            to = min(height, max(1, round(h * scale))), min(width, max(1, round(w * scale)))
            image = _scale(image, to, self.filter)
        out = np.full((height, width, image.shape[2]), self.fill, np.uint8)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        out[top : top + image.shape[0], left : left + image.shape[1]] = image
        return out


class Stretch(Fit, kind="stretch"):
    """Scale each side on its own: nothing is cut off, the proportions change.

    filter: the resampling filter.
    """

    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "lanczos"

    def __call__(self, image: Pixels, size: tuple[int, int]) -> Pixels:
        return _scale(image, size, self.filter)


def _scale(image: Pixels, size: tuple[int, int], name: str) -> Pixels:
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    out = np.asarray(picture.resize((width, height), _FILTERS[name]))
    return out[..., None] if grey else out


def to_unit(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 0..255 -> [-1, 1] on the same device: x / 127.5 - 1. Any shape. `from_unit` gives the same bytes back."""
    return pixels.to(dtype).div_(127.5).sub_(1)


def from_unit(x: Tensor) -> Tensor:
    """[-1, 1] -> uint8: round((x + 1) 127.5), values outside are clamped. Any shape."""
    return x.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def flip(x: Tensor, mask: Tensor) -> Tensor:
    """Mirror left and right the pictures of a batch (B, C, H, W) for which `mask` (B,), bool, is true. Any dtype."""
    return torch.where(mask.view(-1, *(1,) * (x.ndim - 1)), x.flip(-1), x)
