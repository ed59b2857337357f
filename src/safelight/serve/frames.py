"""Frames: what the steps of a run look like while it goes, small and made in a hurry, since each is looked at once.

What is believed (`x0`) is decoded as the result will be. What the network sees (`x`) is noise for the most part: of a model of latents
it is painted by a linear map, which for noise explains four fifths of what the decoder paints and costs next to nothing. Steps that
follow each other within the blink of an eye are decoded together, which costs the decoder of a small model half as much.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from safelight.codec.base import Codec
from safelight.codec.pixels import Pixels
from safelight.draw.film import shown
from safelight.draw.pixels import to_bytes
from safelight.model import Model
from safelight.sample import Step
from safelight.serve.lenses import decode
from safelight.spec import SpecError

# Pixels a side at most.
SIDE = 256
# Up to this side a frame loses nothing: it is enlarged to be looked at. Of noise that would take too many bytes.
_LOSSLESS = {"x": 32, "x0": 128}


class Seen(NamedTuple):
    """A step as it is shown: x, scaled to be looked at, and x0 of its first pictures, (B, C, h, w)."""

    x: Tensor
    x0: Tensor

    @classmethod
    def of(cls, step: Step, count: int) -> Seen:
        """The first `count` pictures of a step; it keeps nothing of the step itself, whose tensors may be used again."""
        alpha, sigma, _ = step.now.floats
        return cls(shown(step.before[:count], alpha, sigma), step.estimate.x0[:count].clone())


def frames(model: Model, steps: Sequence[Seen], names: Sequence[str] = ("x", "x0")) -> list[dict[str, list[str]]]:
    """Of each step, by lens, each picture as base64 of WebP.

    Nothing at all of a step that is no picture (NaN): the run itself says so when it is over.
    """
    found: list[dict[str, list[str]]] = [{} for _ in steps]
    there = [k for k, seen in enumerate(steps) if bool(seen.x.isfinite().all() and seen.x0.isfinite().all())]
    if not there:
        return found
    exact = isinstance(model.codec, Pixels)
    latents = [getattr(steps[k], name) for k in there for name in names if exact or name == "x0"]
    try:
        decoded = iter(decode(model, torch.cat(latents)) if latents else ())
    except SpecError:
        return found
    for k in there:
        for name in names:
            rows = getattr(steps[k], name)
            pictures = [next(decoded) for _ in rows] if exact or name == "x0" else Linear.of(model).paint(rows)
            found[k][name] = [packed(picture, _LOSSLESS[name]) for picture in pictures]
    return found


class Linear:
    """The linear map from a place of the latent to its block of pixels that comes nearest to what a codec decodes noise to."""

    _known: WeakKeyDictionary[Codec, Linear] = WeakKeyDictionary()

    def __init__(self, model: Model, channels: int) -> None:
        z = torch.randn(16, channels, 8, 8, generator=torch.Generator().manual_seed(0))
        painted = torch.from_numpy(decode(model, z)).permute(0, 3, 1, 2).float()  # (16, 3, 8 s, 8 s)
        self.stride = painted.shape[-1] // z.shape[-1]
        wanted = F.pixel_unshuffle(painted, self.stride).movedim(1, 3).flatten(0, 2).double()
        known = _places(z).double()
        # 1024 places for C + 1 numbers each: determined.
        self.map = torch.linalg.lstsq(known, wanted).solution.float()  # (C + 1, 3 s s)

    @classmethod
    def of(cls, model: Model) -> Linear:
        """That of a model's codec, fitted once."""
        if (known := cls._known.get(model.codec)) is None:
            known = cls._known[model.codec] = cls(model, model.codec.channels(model.spec.channels))
        return known

    def paint(self, z: Tensor) -> np.ndarray:
        """Latents (B, C, h, w) -> uint8 (B, H, W, 3)."""
        b, _, h, w = z.shape
        blocks = (_places(z.float().cpu()) @ self.map).view(b, h, w, -1).movedim(3, 1)
        return to_bytes(F.pixel_shuffle(blocks, self.stride) / 127.5 - 1, "latents")


def _places(z: Tensor) -> Tensor:
    """(B, C, h, w) -> (B h w, C + 1), the last a 1."""
    return F.pad(z.movedim(1, 3).flatten(0, 2), (0, 1), value=1.0)


def packed(pixels: np.ndarray, side: int) -> str:
    """uint8 (H, W, 3) as base64 of a WebP of `SIDE` pixels a side at most, without loss up to `side`."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    image.save(file, "WEBP", lossless=max(image.size) <= side, quality=80 if max(image.size) > side else 0, method=0)
    return base64.b64encode(file.getvalue()).decode()


__all__ = ["SIDE", "Linear", "Seen", "frames", "packed"]
