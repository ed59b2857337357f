"""Sizes that a network's stride does not divide: padded up at the entrance, cropped at the exit."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


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
