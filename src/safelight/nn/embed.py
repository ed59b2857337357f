"""How a network hears a noise level: a number becomes a vector of waves, and an MLP makes of it what the blocks add.

And how it sees the last bits of a picture: by `waves` of its values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.spec import Spec


class Embedding(Spec, family="embedding"):
    """A fixed or learned map from a noise value to a vector of `width` waves."""

    width: int = Field(128, ge=2, description="number of waves, sines and cosines together")

    def make(self) -> nn.Module:
        """The module: (n,) float -> (n, width) float32."""
        raise NotImplementedError(type(self).__name__)


class SinusoidSpec(Embedding, kind="sinusoid"):
    """Geometric frequencies from 1 down to 1/theta: `sin(w_i s), cos(w_i s)` with `w_i = theta^(-i / n)`, i = 0..h-1, h = width // 2.

    Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B. `closed` puts the last frequency exactly at 1/theta
    (n = h - 1, as DDPM and the tutorials do; else n = h, as the Transformer and DiT do). An odd width is filled with a zero.
    """

    theta: float = Field(10_000.0, gt=1, description="the longest wave is 2 pi theta")
    closed: bool = Field(True, description="the last frequency is exactly 1/theta")
    cos_first: bool = Field(False, description="cosines before sines")

    def make(self) -> nn.Module:
        """The module: (n,) float -> (n, width) float32."""
        return Sinusoid(self.width, self.theta, self.closed, self.cos_first)


class FourierSpec(Embedding, kind="fourier"):
    """Random Fourier features: `cos(2 pi f_i s), sin(2 pi f_i s)` with `f_i ~ N(0, scale^2)`; fixed, or learned from there.

    Tancik et al. 2020, eq. 5; Song et al. 2021 (score SDE), appendix C. Suits noise told as a log-SNR or ln(sigma)/4.
    """

    scale: float = Field(16.0, gt=0, description="standard deviation of the frequencies")
    learned: bool = Field(False, description="train the frequencies")

    def make(self) -> nn.Module:
        """The module: (n,) float -> (n, width) float32."""
        return Fourier(self.width, self.scale, self.learned)


class Sinusoid(nn.Module):
    """The sinusoidal embedding of `SinusoidSpec`: a module without weights."""

    def __init__(self, width: int, theta: float = 10_000.0, closed: bool = True, cos_first: bool = False) -> None:
        super().__init__()
        self.width, self.theta, self.closed, self.cos_first = width, theta, closed, cos_first

    def forward(self, s: Tensor) -> Tensor:
        """s: (n,) noise values. Returns (n, width) float32."""
        half = self.width // 2
        step = -math.log(self.theta) / (max(half - 1, 1) if self.closed else half)
        # Made anew each time: as a buffer it would be rounded by `.half()`, and 1000 w in bfloat16 is off by several turns.
        w = torch.exp(torch.arange(half, dtype=torch.float32, device=s.device) * step)  # (h,)
        angle = s.float()[:, None] * w  # (n, h)
        waves = (angle.cos(), angle.sin()) if self.cos_first else (angle.sin(), angle.cos())  # 2 x (n, h)
        return F.pad(torch.cat(waves, dim=1), (0, self.width % 2))  # (n, width)


class Fourier(nn.Module):
    """The Fourier features of `FourierSpec`. The frequencies are saved with the weights."""

    def __init__(self, width: int, scale: float = 16.0, learned: bool = False) -> None:
        super().__init__()
        self.width = width
        self.f = nn.Parameter(torch.randn(width // 2) * scale, requires_grad=learned)

    def forward(self, s: Tensor) -> Tensor:
        """s: (n,) noise values. Returns (n, width) float32."""
        angle = 2 * math.pi * s.float()[:, None] * self.f.float()  # (n, h)
        return F.pad(torch.cat((angle.cos(), angle.sin()), dim=1), (0, self.width % 2))  # (n, width)


def waves(x: Tensor, powers: Sequence[int]) -> Tensor:
    """x beside sin(2^n pi x) and cos(2^n pi x) for each n of `powers` (Kingma et al. 2021, VDM, section 3.4; there n = 7, 8).

    x: (B, C, *space), in [-1, 1] up to its noise. Returns (B, C (1 + 2 len(powers)), *space) in the dtype of x; with no powers, x.
    They tell apart values that a convolution sees as one: with n = 7 neighbouring grey levels of 256 are half a turn apart.
    """
    if not powers:
        return x
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    angles = [exact * (math.pi * 2.0**n) for n in powers]  # (B, C, *space) each
    return torch.cat([x, *(wave.to(x.dtype) for a in angles for wave in (a.sin(), a.cos()))], dim=1)
