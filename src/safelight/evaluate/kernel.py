"""The kernel distance (KID's statistic): an unbiased MMD^2 with a polynomial kernel, so small samples do not make it larger."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.spec import SpecError

BLOCKS = 10
_T975 = 2.2621571628  # the 97.5 % quantile of Student's t with BLOCKS - 1 = 9 degrees of freedom


class Kernel(NamedTuple):
    """An unbiased estimate of MMD^2 (it may be below zero) and a 95 % confidence interval around it."""

    value: float
    low: float
    high: float


def mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD^2 of features x (N, F), y (M, F) with k(a, b) = (a.b / F + 1)^3.

    Binkowski et al. 2018, "Demystifying MMD GANs", section 4; Gretton et al. 2012, "A kernel two-sample test", eq. 3:

    MMD^2 = sum_{i != j} k(x_i, x_j) / N(N-1) + sum_{i != j} k(y_i, y_j) / M(M-1) - 2 sum_ij k(x_i, y_j) / NM; float64.
    """
    x, y = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
    n, m = len(x), len(y)
    if n < 2 or m < 2 or x.shape[1:] != y.shape[1:]:
        raise SpecError(
            f"a kernel distance needs two sets of at least 2 of the same features, not {tuple(x.shape)} and {tuple(y.shape)}"
        )

    def within(a: Tensor) -> Tensor:
        own = (a.square().sum(1) / a.shape[1] + 1).pow(3).sum()
        return (_sum(a, a) - own) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * _sum(x, y) / (n * m))


def kernel(x: Tensor, y: Tensor, seed: int = 0) -> Kernel:
    """MMD^2 of all pictures, with a 95 % interval from disjoint blocks.

    Both sets are shuffled by `seed` and cut into 10 blocks, each of which gives an unbiased estimate of its own; the interval
    is value -+ t_9 s / sqrt(10). A mean of blocks scatters more than the estimate from all pairs, so the interval is rather too
    wide. Raises SpecError for fewer than 20 pictures in a set.
    """
    if min(len(x), len(y)) < 2 * BLOCKS:
        raise SpecError(f"a confidence interval needs at least {2 * BLOCKS} pictures a set (given: {len(x)} and {len(y)})")
    random = torch.Generator().manual_seed(seed)
    xs = x[torch.randperm(len(x), generator=random)].tensor_split(BLOCKS)
    ys = y[torch.randperm(len(y), generator=random)].tensor_split(BLOCKS)
    parts = torch.tensor([mmd2(a, b) for a, b in zip(xs, ys, strict=True)], dtype=torch.float64)
    value, half = mmd2(x, y), _T975 * float(parts.std()) / math.sqrt(BLOCKS)
    return Kernel(value, value - half, value + half)


def _sum(a: Tensor, b: Tensor, rows: int = 1024) -> Tensor:
    """The sum of all k(a_i, b_j), `rows` at a time."""
    return torch.stack([(part @ b.T / a.shape[1] + 1).pow(3).sum() for part in a.split(rows)]).sum()
