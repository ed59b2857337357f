"""Continuous processes: closed forms in t."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.process.base import CLOCK, Process, ratio_of
from safelight.process.level import Level

# The least positive time: where a process that jumps at the data (VE, EDM) has its least noise.
_FIRST = 1e-12
# A network is told log s; at s = 0 that is the log of this.
_FAINTEST = 1e-8


class Cosine(Process, kind="cosine"):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): the cosine schedule of Nichol and Dhariwal 2021 (eq. 17) without offset.

    Variance preserving; s = tan(pi t / 2) runs over (0, inf): at t = 1 nothing of the picture is left (alpha = 0 exactly).
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # sin of the complement: exactly 0 at t = 1, where cos(pi/2) would leave 6e-17.
        return torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)

    def time(self, logsnr: Tensor | float) -> Tensor:
        return torch.atan(ratio_of(logsnr)) * (2 / math.pi)

    @property
    def ends(self) -> tuple[float, float]:
        return 1e-3, 1e3


class Flow(Process, kind="flow"):
    """alpha = 1 - u, sigma = u: the straight path of rectified flow (Liu et al. 2022; Lipman et al. 2022, optimal transport).

    u = shift t / (1 + (shift - 1) t) (Esser et al. 2024, Stable Diffusion 3, eq. 23); shift > 1 spends more time in noise.
    The process's own clock is u: the velocity dx/du is eps - x_0 for any shift, and a network is told 1000 u.
    """

    shift: float = Field(1.0, gt=0)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        bottom = 1 + (self.shift - 1) * t
        return (1 - t) / bottom, self.shift * t / bottom

    def time(self, logsnr: Tensor | float) -> Tensor:
        s = ratio_of(logsnr)
        u = torch.where(torch.isinf(s), torch.ones_like(s), s / (1 + s))
        return u / (self.shift - (self.shift - 1) * u)

    def slope(self, level: Level) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(level.t), torch.ones_like(level.t)

    def told(self, level: Level) -> Tensor:
        return CLOCK * level.sigma

    @property
    def ends(self) -> tuple[float, float]:
        return 1e-3, 1e3


class _Exploding(Process):
    """alpha = 1; sigma rises from sigma_min to sigma_max over (0, 1], and is 0 at t = 0."""

    sigma_min: float = Field(0.01, gt=0)
    sigma_max: float = Field(50.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min ({self.sigma_min:g}) must be below sigma_max ({self.sigma_max:g})")
        return self

    def rise(self, t: Tensor) -> Tensor:
        """sigma for t in (0, 1]."""
        raise NotImplementedError(type(self).__name__)

    def fall(self, sigma: Tensor) -> Tensor:
        """The inverse of `rise`."""
        raise NotImplementedError(type(self).__name__)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.where(t > 0, self.rise(t), torch.zeros_like(t))

    def time(self, logsnr: Tensor | float) -> Tensor:
        s = ratio_of(logsnr)
        t = self.fall(s.clamp(self.sigma_min, self.sigma_max)).clamp(_FIRST, 1.0)
        return torch.where(s > 0, t, torch.zeros_like(t))

    def told(self, level: Level) -> Tensor:
        # By s and not by t, so that a network stays right when sampled over other ends. The scale is that of Karras et al. 2022,
        # c_noise = ln(sigma)/4, times 1000 so that sinusoidal embeddings resolve it.
        return CLOCK / 4 * level.sigma.clamp(min=_FAINTEST).log()

    @property
    def ends(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max


class VE(_Exploding, kind="ve"):
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t: the variance-exploding SDE (Song et al. 2021, eq. 30), 0 at t = 0."""

    def rise(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def fall(self, sigma: Tensor) -> Tensor:
        return (sigma / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)


class EDM(_Exploding, kind="edm"):
    """sigma(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho, 0 at t = 0 (Karras et al. 2022, eq. 5).

    The design of "Elucidating": alpha = 1 and a clock whose uniform grid is the paper's; rho = 7 puts most steps at low noise.
    """

    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    rho: float = Field(7.0, gt=0)

    def rise(self, t: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + t * (high - low)) ** self.rho

    def fall(self, sigma: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (sigma ** (1 / self.rho) - low) / (high - low)
