"""Process: how a picture becomes noise. `t in [0, 1] -> (alpha, sigma)`, 0 = data; no sampler, no grid, no network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from safelight.process.level import Level
from safelight.spec import Spec, SpecError

# Networks with sinusoidal embeddings were designed for T = 1000 steps; continuous processes speak to them on that scale.
CLOCK = 1000.0


class Process(Spec, family="process"):
    """q(x_t | x_0) = N(alpha(t) x_0, sigma(t)^2 I) for t in [0, 1]; t = 0 is exactly the data, (alpha, sigma) = (1, 0).

    A kind gives `levels(t)` and its inverse `time(logsnr)`; everything else follows. sigma/alpha rises strictly with t.
    Times are Python numbers or tensors of any shape; arithmetic is float64.
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times t (float64, in [0, 1])."""
        raise NotImplementedError(type(self).__name__)

    def time(self, logsnr: Tensor | float) -> Tensor:
        """The time in [0, 1] at which log(alpha^2/sigma^2) = logsnr; outside the process's range, the nearest end."""
        raise NotImplementedError(type(self).__name__)

    @property
    def entries(self) -> int | None:
        """T for a table of T levels, None for a continuous process."""
        return None

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest finite s = sigma/alpha between which grids in s place their steps."""
        raise NotImplementedError(type(self).__name__)

    def settled(self) -> Process:
        """What it is now, as a description: itself, unless it learns."""
        return self

    def told(self, level: Level) -> Tensor:
        """What a network is told of a level unless its parameterization says otherwise: 1000 t."""
        return CLOCK * level.t

    def slope(self, level: Level) -> tuple[Tensor, Tensor]:
        """(d alpha / du, d sigma / du) in the process's own clock u; u = t unless a kind says otherwise. By autodiff."""
        with torch.inference_mode(False), torch.enable_grad():
            t = level.t.detach().clone().requires_grad_(True)
            alpha, sigma = self.levels(t)
            # A constant alpha (variance exploding) has no graph: its slope is zero.
            da = torch.autograd.grad(alpha.sum(), t, retain_graph=True)[0] if alpha.requires_grad else torch.zeros_like(t)
            ds = torch.autograd.grad(sigma.sum(), t)[0]
        return da, ds

    def at(self, t: Tensor | float) -> Level:
        """The level(s) at time(s) t. Raises SpecError for a time outside [0, 1]."""
        t = as_times(t)
        return Level(t, *self.levels(t), self)

    def alpha(self, t: Tensor | float) -> Tensor:
        """alpha(t), what is kept of the picture; float64, the shape of t."""
        return self.levels(as_times(t))[0]

    def sigma(self, t: Tensor | float) -> Tensor:
        """sigma(t), the standard deviation of the noise; float64, the shape of t."""
        return self.levels(as_times(t))[1]

    def logsnr(self, t: Tensor | float) -> Tensor:
        """log(alpha(t)^2 / sigma(t)^2); float64, the shape of t; +inf at t = 0."""
        return self.at(t).logsnr

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """x_t = alpha(t) x_0 + sigma(t) eps (Ho et al. 2020, eq. 4, for any alpha and sigma).

        x0, eps: (B, C, *space). t: one time, or (B,) one a picture. Returns x_t in the dtype of x0, at least float32.
        """
        level = self.at(t).like(x0)
        return level.alpha * x0 + level.sigma * eps


def as_times(t: Tensor | float) -> Tensor:
    """Times as a float64 tensor. Those on an accelerator are trusted (a check would stall it); others must lie in [0, 1]."""
    t = torch.as_tensor(t, dtype=torch.float64)
    if t.device.type == "cpu" and t.numel() and not (0 <= float(t.detach().min()) and float(t.detach().max()) <= 1):
        raise SpecError(f"a time lies in [0, 1] (0 = data), not at {float(t.min()):g}..{float(t.max()):g}")
    return t


def from_logsnr(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """The variance-preserving (alpha, sigma) of a log-SNR: alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr)."""
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def ratio_of(logsnr: Tensor | float) -> Tensor:
    """s = sigma/alpha = exp(-logsnr / 2)."""
    return torch.exp(torch.as_tensor(logsnr, dtype=torch.float64) / -2)


def logsnr_of(ratio: float) -> float:
    """logsnr = -2 log s."""
    return -2 * math.log(ratio) if ratio > 0 else math.inf
