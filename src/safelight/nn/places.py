"""Fixed positions: numbers that tell a place of a grid from every other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def positions(space: Sequence[int], width: int, like: Tensor, spacing: float | Sequence[float] = 1.0) -> Tensor:
    """(prod(space), width): for each axis an equal share of the numbers, the last axis first (Vaswani et al. 2017, 3.5; DiT's code).

    `sin(w_i s p), cos(w_i s p)` with `w_i = 10000^(-i / n)`, i = 0..n-1, n = width / (2 axes), s the spacing (of all axes, or of
    each), p the index on the axis. Numbers that do not divide evenly stay 0. In the dtype and on the device of `like`.
    """
    n = width // (2 * len(space))
    rate = -9.210340371976184 / max(n, 1)  # -ln 10000 / n
    freq = torch.exp(torch.arange(n, device=like.device, dtype=torch.float32) * rate)  # (n,)
    each = (spacing,) * len(space) if isinstance(spacing, int | float) else tuple(spacing)
    shares = []
    for axis, size in reversed(list(enumerate(space))):
        phase = torch.arange(size, device=like.device, dtype=torch.float32)[:, None] * each[axis] * freq  # (size, n)
        share = torch.cat((phase.sin(), phase.cos()), dim=1)  # (size, 2n)
        around = [1] * len(space)
        around[axis] = size
        shares.append(share.view(*around, 2 * n).expand(*space, 2 * n))  # (*space, 2n)
    table = torch.cat(shares, dim=-1).flatten(0, -2)  # (prod(space), 2n axes)
    return F.pad(table, (0, width - table.shape[1])).to(like.dtype)
