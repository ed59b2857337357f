"""The Frechet distance of two Gaussians fitted to features. Called `FD-<extractor>`; FID is its name on Inception's only."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from safelight.spec import SpecError


class Moments(NamedTuple):
    """Count, mean (F,) and scatter (F, F) = sum (x - mean)(x - mean)^T of the features seen so far, float64 on the CPU."""

    n: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, scatter / (n - 1)."""
        if self.n < 2:
            raise SpecError(f"a covariance needs at least 2 pictures (given: {self.n})")
        return self.scatter / (self.n - 1)


def moments(features: Tensor) -> Moments:
    """The moments of features (N, F). Raises SpecError when they are not finite: one NaN would spoil all later numbers."""
    x = features.detach().to("cpu", torch.float64)
    if x.ndim != 2 or not len(x):
        raise SpecError(f"features are (N, F) with N >= 1, not {tuple(features.shape)}")
    if not x.isfinite().all():
        raise SpecError("features are not finite")
    mean = x.mean(0)
    centred = x - mean
    return Moments(len(x), mean, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both sets together (Chan, Golub and LeVeque 1983, eq. 2.1), so that parts and machines add up to one pass.

    scatter = scatter_a + scatter_b + (n_a n_b / n) d d^T with d = mean_b - mean_a: no difference of large sums of squares.
    """
    if a.mean.shape != b.mean.shape:
        raise SpecError(f"features of {len(a.mean)} and of {len(b.mean)} dimensions cannot be merged")
    n, d = a.n + b.n, b.mean - a.mean
    return Moments(n, a.mean + d * (b.n / n), a.scatter + b.scatter + torch.outer(d, d) * (a.n * b.n / n))


def distance(a: Moments, b: Moments) -> float:
    """FD = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2) (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

    The last trace is the nuclear norm of C_a^1/2 C_b^1/2, taken from its singular values: nothing is squared and rooted again,
    no complex square root appears, and rank-deficient covariances (N < F) need no jitter. >= 0, in squared feature units.
    """
    if a.mean.shape != b.mean.shape:
        raise SpecError(f"features of {len(a.mean)} and of {len(b.mean)} dimensions have no distance")
    ca, cb = a.covariance, b.covariance
    cross = torch.linalg.svdvals(_root(ca) @ _root(cb)).sum()
    return max(0.0, float((a.mean - b.mean).square().sum() + ca.trace() + cb.trace() - 2 * cross))


def frechet(a: Tensor, b: Tensor) -> float:
    """FD of two sets of features, (N, F) and (M, F)."""
    return distance(moments(a), moments(b))


def warning(n: int, features: int) -> str:
    """The sentence that belongs beside an FD of too few pictures, else "". FD is biased upwards, more so for fewer."""
    if n >= features:
        return ""
    return (
        f"only {n} pictures for {features} features: the Frechet distance is strongly biased upwards; trust the kernel distance"
    )


def _root(c: Tensor) -> Tensor:
    """The symmetric square root of a covariance. Eigenvalues that are rounding count as zero: a root makes 3e-8 of 1e-15."""
    values, vectors = torch.linalg.eigh(c)
    rounding = values.abs().amax() * len(values) * torch.finfo(values.dtype).eps
    return (vectors * torch.where(values > rounding, values, 0).sqrt()) @ vectors.T
