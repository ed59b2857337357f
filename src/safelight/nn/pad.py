"""What happens to a picture at a network's entrance and exit: a map joined to it, its size padded up and cropped, its memory laid out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.spec import SpecError


def joined(x: Tensor, image: Tensor | None, channels: int) -> Tensor:
    """x: (B, C, *space), image: (B or 1, channels, *space), a map -> (B, C + channels, *space). With channels 0, x.

    In the dtype of x. Raises SpecError when the image is missing or of another shape.
    """
    if not channels:
        return x
    if image is None:
        raise SpecError(f"cond.image is missing: the network was built with image={channels}")
    if image.shape[1:] != (channels, *x.shape[2:]) or len(image) not in (1, len(x)):
        raise SpecError(
            f"cond.image is {tuple(image.shape)}: beside a picture of {tuple(x.shape)} this network takes"
            f" {(len(x), channels, *x.shape[2:])}"
        )
    return torch.cat((x, image.to(x.dtype).expand(len(x), *image.shape[1:])), dim=1)  # (B, C + channels, *space)


def pad_to(x: Tensor, stride: int) -> Tensor:
    """x: (B, C, *space) -> the same with each dimension of space filled up to a multiple of `stride` by repeating its last places."""
    fill = [-n % stride for n in x.shape[2:]]
    if not any(fill):
        return x
    pads = [p for n in reversed(fill) for p in (0, n)]  # F.pad counts from the last dimension
    return F.pad(x, pads, mode="replicate")


def crop_to(y: Tensor, like: Tensor) -> Tensor:
    """y: (B, C, *space') -> its first places, as many as `like` (B, *, *space) has; undoes `pad_to`."""
    for i, n in enumerate(like.shape[2:], start=2):
        y = y.narrow(i, 0, n)
    return y


def channels_last(x: Tensor) -> Tensor:
    """x: (B, C, *space), the same with a place's channels side by side in memory; convolutions hand the layout on.

    So are matrix products and norms over channels free of copies. In one dimension torch knows no such layout, and x is as it was.
    """
    if x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last_3d) if x.ndim == 5 else x


def to_patches(x: Tensor, patch: int) -> Tensor:
    """x: (B, C, *space) -> (B, C patch^dims, *space / patch): every patch of places becomes one place with more channels.

    Sizes must be multiples of `patch`. `from_patches` is the inverse. Channels are ordered as in torch's pixel_unshuffle.
    """
    if patch == 1:
        return x
    b, c, *space = x.shape
    dims = len(space)
    x = x.reshape(b, c, *(v for n in space for v in (n // patch, patch)))  # (B, C, n1/p, p, n2/p, p, ...)
    coarse, fine = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return x.permute(0, 1, *fine, *coarse).reshape(b, c * patch**dims, *(n // patch for n in space))


def from_patches(y: Tensor, patch: int) -> Tensor:
    """y: (B, C patch^dims, *space) -> (B, C, *space * patch)."""
    if patch == 1:
        return y
    b, c, *space = y.shape
    dims = len(space)
    y = y.reshape(b, c // patch**dims, *(patch,) * dims, *space)  # (B, C, p, p, ..., n1, n2, ...)
    pairs = (v for i in range(dims) for v in (2 + dims + i, 2 + i))
    return y.permute(0, 1, *pairs).reshape(b, c // patch**dims, *(n * patch for n in space))
