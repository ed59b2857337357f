"""The identity codec: diffusion on pixels."""

from __future__ import annotations

from torch import Tensor

from safelight.codec.base import Codec, CodecSpec


class PixelsSpec(CodecSpec, kind="pixels"):
    """Latents are the pixels themselves."""

    def build(self) -> Pixels:
        return Pixels(self)


class Pixels(Codec):
    """encode(x) = x, decode(z) = z."""

    def __init__(self, spec: PixelsSpec) -> None:
        super().__init__()
        self.spec = spec

    def channels(self, pixels: int) -> int:
        return pixels

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z
