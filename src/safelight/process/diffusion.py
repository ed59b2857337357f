"""The continuous VP and sub-VP processes of the SDE paper: noise that is added at a rate beta(t) = beta_min + t (beta_max - beta_min)."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.process.base import Process, ratio_of


class _Rated(Process):
    beta_min: float = Field(0.1, gt=0)
    beta_max: float = Field(20.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min ({self.beta_min:g}) must not be above beta_max ({self.beta_max:g})")
        return self

    def spent(self, t: Tensor) -> Tensor:
        """B(t) = integral of beta over 0..t = beta_min t + (beta_max - beta_min) t^2/2."""
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t * t

    def when(self, spent: Tensor) -> Tensor:
        """The inverse of `spent`, clamped to [0, 1]; by the root that does not cancel."""
        rise = self.beta_max - self.beta_min
        return (2 * spent / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * rise * spent))).nan_to_num(nan=1.0).clamp(0, 1)

    @property
    def ends(self) -> tuple[float, float]:
        first, last = (float(self.at(t).ratio) for t in (1e-5, 1.0))  # 1e-5: where the paper's own sampling ends
        return first, last


class VP(_Rated, kind="vp"):
    """dx = -beta/2 x dt + sqrt(beta) dw: alpha = exp(-B(t)/2), sigma^2 = 1 - exp(-B(t)) (Song et al. 2021, eq. 32-33)."""

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        spent = self.spent(t)
        return torch.exp(-spent / 2), torch.sqrt(-torch.expm1(-spent))

    def time(self, logsnr: Tensor | float) -> Tensor:
        # s^2 = e^B - 1
        return self.when(torch.log1p(ratio_of(logsnr) ** 2))


class SubVP(_Rated, kind="sub-vp"):
    """dx = -beta/2 x dt + sqrt(beta (1 - e^(-2B))) dw: alpha = exp(-B(t)/2), sigma = 1 - exp(-B(t)) (Song et al. 2021, eq. 34).

    Its variance lies below that of `vp` at every t, for the same alpha.
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        spent = self.spent(t)
        return torch.exp(-spent / 2), -torch.expm1(-spent)

    def time(self, logsnr: Tensor | float) -> Tensor:
        # s = 1/alpha - alpha = 2 sinh(B/2)
        return self.when(2 * torch.asinh(ratio_of(logsnr) / 2))
