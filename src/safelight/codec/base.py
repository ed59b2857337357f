"""Codec: pixels in [-1, 1] <-> unit-variance latents. The scale lives here and nowhere else."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from safelight.spec import Spec


class CodecSpec(Spec, family="codec"):
    """The architecture of a codec."""

    def build(self) -> Codec:
        """A codec of this architecture, with fresh weights if it has any."""
        raise NotImplementedError(type(self).__name__)


class Codec(nn.Module):
    """channels: of the latent, for pictures of `channels_of(C)`. stride: pixels a latent cell, along each side."""

    spec: Any
    stride: int = 1

    def channels(self, pixels: int) -> int:
        """The latent's channels for pictures of `pixels` channels."""
        raise NotImplementedError

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """x: (B, C, H, W) in [-1, 1] -> z: (B, c, H/stride, W/stride) of about unit variance.

        noise: standard normal, of z's shape, to sample a stochastic codec; None takes its mode.
        """
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """z -> x, the inverse as well as the codec can; not clipped."""
        raise NotImplementedError
