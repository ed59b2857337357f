"""Bound: the steps of a chain of noise levels as Gaussians, and the terms of the variational bound on -log p(x_0) that they make.

    -log p(x_0) <= L_T + sum_k L_k + L_0          (Ho et al. 2020, eq. 5; any chain of levels of any process)
    L_T = KL( q(x_T | x_0) || p(x_T) )            what noise alone does not say of the last level
    L_k = KL( q(x' | x, x_0) || p(x' | x) )       one step down, from level x to x'
    L_0 = -log p(x_0 | x_1)                       the step to the data, by a decoder

Both Gaussians of a step have the mean a x + b x_0, with the estimate in the place of x_0 in p; so only b (x_0 - estimate) and the
variances count. Terms are in nats a value: elementwise, of the shape of x_0.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from safelight import device as machine
from safelight.denoise import Estimate
from safelight.process import Level
from safelight.process.level import shaped
from safelight.spec import SpecError

# The variance of p(x' | x), as the sampler `ddpm` has it.
Variance = Literal["small", "large", "learned"]
NAT = 1 / math.log(2)  # bits in a nat
# Logarithms of two probabilities that are closer than this are told apart no more.
_CLOSE = 1e-12


class Chain:
    """The n steps k = 0..n-1 of levels that fall to the data, the first from pure noise, the last to t = 0.

    gain: b = alpha' (1 - r^2), r = s'/s. small: sigma'^2 (1 - r^2), the variance of q(x' | x, x_0). large: sigma^2 (1 - r^2), that of
    the step up. All are (n,) float64. The step to the data has no variance in q; its `small`, from where a learned one begins, is that of
    the step before (Nichol and Dhariwal 2021, in their code). Raises SpecError for levels that do not fall to t = 0.
    """

    def __init__(self, levels: Level) -> None:
        if (
            levels.t.ndim != 1
            or len(levels.t) < 2
            or float(levels.t[-1]) != 0
            or not bool((levels.t[1:] < levels.t[:-1]).all())
        ):
            raise SpecError("a chain is a vector of at least two levels that fall to t = 0")
        self.levels = levels
        self.n = len(levels.t) - 1
        fresh = -torch.expm1(levels.logsnr[:-1] - levels.logsnr[1:])
        self.gain = levels.alpha[1:] * fresh
        self.large = levels.sigma[:-1].square() * fresh
        small = levels.sigma[1:].square() * fresh
        self.small = torch.cat([small[:-1], small[-2:-1] if self.n > 1 else self.large[-1:]])

    def level(self, k: Tensor) -> Level:
        """The levels where steps k, (B,) or (), begin."""
        t, alpha, sigma = (v[k] for v in self.levels[:3])
        return Level(t, alpha, sigma, self.levels.process)

    def place(self, u: Tensor) -> Tensor:
        """The steps (B,) at the quantiles u (B,) in (0, 1) of time, all steps alike: u near 0 is the step to the data."""
        return self.n - 1 - (u * self.n).floor().long().clamp(0, self.n - 1)

    def step(self, t: Tensor) -> Tensor:
        """The steps (B,) that begin at times t (B,), each one of the chain's."""
        return self.n - torch.searchsorted(self.levels.t.flip(0), t.to(self.levels.t))

    def variances(self, k: Tensor, like: Tensor, estimate: Estimate, kind: Variance) -> tuple[Tensor, Tensor]:
        """(log small, log of p's variance), each ready to multiply `like` (B, C, *space); k: (B,) steps, or () for all pictures one.

        learned: f log large + (1 - f) log small with the network's fraction f (Nichol and Dhariwal 2021, eq. 15).
        """
        small, large = (shaped(v[k.cpu()].log(), like) for v in (self.small, self.large))
        if kind == "learned":
            if estimate.fraction is None:
                raise SpecError("variance 'learned' needs a network that predicts the fraction; use 'small' or 'large'")
            return small, small + estimate.fraction * (large - small)
        return small, small if kind == "small" else large

    def term(self, k: Tensor, x0: Tensor, estimate: Estimate, kind: Variance = "small") -> Tensor:
        """L_k = KL(q(x' | x, x_0) || p(x' | x)) of steps k that do not end at the data; at k = n - 1 a finite number without a meaning.

        (b^2 (x_0 - estimate)^2 + small)/(2 var) - 1/2 + (log var - log small)/2. With `small` that is (SNR' - SNR)/2 times the squared
        error (Kingma et al. 2021, eq. 14).
        """
        small, log = self.variances(k, x0, estimate, kind)
        rise = log - small
        off = shaped(self.gain[k.cpu()].square() / self.small[k.cpu()], x0) * (x0 - estimate.x0).square()
        return ((off + 1) * torch.exp(-rise) - 1 + rise) / 2

    def last(self, x0: Tensor, estimate: Estimate, kind: Variance = "small", *, buckets: int = 256) -> Tensor:
        """L_0 = -log p(x_0 | x_1) of the step to the data, whose mean is the estimate. Its variance is `large`, sigma_1^2, or learned.

        buckets: of the discrete decoder, over [-1, 1]; 0 takes the density of the Gaussian itself.
        """
        kind = "large" if kind == "small" else kind
        log = self.variances(torch.tensor(self.n - 1), x0, estimate, kind)[1].expand_as(x0)
        if buckets:
            return -discrete(x0, estimate.x0, log / 2, buckets)
        return ((x0 - estimate.x0).square() * torch.exp(-log) + log + math.log(2 * math.pi)) / 2

    def prior(self, x0: Tensor) -> Tensor:
        """L_T at the first level."""
        return prior(x0, self.level(torch.tensor(0)))


def prior(x0: Tensor, level: Level) -> Tensor:
    """L_T = KL(N(alpha x_0, sigma^2) || N(0, alpha^2 + sigma^2)) at a level from which sampling begins; elementwise, nats."""
    there = level.like(x0)
    signal, noise = there.alpha.square(), there.sigma.square()
    return (signal * (x0.square() - 1) / (signal + noise) + torch.log1p(signal / noise)) / 2


def discrete(x0: Tensor, mean: Tensor, log_std: Tensor, buckets: int = 256) -> Tensor:
    """log P of the bucket of x_0 under N(mean, std^2): x_0 -+ 1/(buckets - 1), open outwards at -1 and at 1 (Ho et al. 2020, eq. 13).

    x0: values 2 i/(buckets - 1) - 1. log_std: like mean. The probabilities of all buckets sum to 1. Exact in the tails, too: it is a
    difference of log Phi, on the side of the mean where both are small.
    """
    dtype, top = x0.dtype, buckets - 1
    if machine.doubles(x0.device):  # torch's slope of log Phi is wrong in float32 far out
        x0, mean, log_std = x0.double(), mean.double(), log_std.double()
    std, index = torch.exp(log_std), ((x0 + 1) * (top / 2)).round()
    # A border is one number for both of its neighbours.
    low, high = ((2 * index - 1) / top - 1 - mean) / std, ((2 * index + 1) / top - 1 - mean) / std
    right = low + high > 0  # the interval above the mean is mirrored below it
    a, b = torch.where(right, -high, low), torch.where(right, -low, high)
    below, above = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    inside = above + torch.log(-torch.expm1((below - above).clamp(max=-_CLOSE)))
    first, last = torch.special.log_ndtr(high), torch.special.log_ndtr(-low)
    return torch.where(index <= 0, first, torch.where(index >= top, last, inside)).to(dtype)
