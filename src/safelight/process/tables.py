"""Tables of T betas: the discrete-time processes of DDPM, made continuous without changing a single entry.

Entry i = 0..T-1 sits at t = (i+1)/T, and t = 0 is exactly the data. Between entries log-SNR is interpolated; below 1/T
sigma/alpha goes linearly to 0; in the last interval of a zero-terminal-SNR table alpha/sigma goes linearly to 0.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.process.base import Process, from_logsnr, ratio_of
from safelight.process.level import Level
from safelight.spec import SpecError

# (i+1)/T is rounded to float64, so T t is an integer only to about 1e-13; closer than this to an entry is that entry.
_SNAP = 1e-9


class Table(Process):
    """q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I), so abar_i = prod_{j <= i} (1 - beta_j) (Ho et al. 2020, eq. 2-4).

    T: the number of entries. zero_terminal_snr: rescale sqrt(abar) linearly so that the last entry is exactly 0 and the first is
    kept (Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed", Algorithm 1). terminal: abar of the last
    entry after that, where it shall not be exactly 0 (diffusers' solvers in s put 2^-24 there).
    """

    T: int = Field(1000, ge=2, le=1_000_000)
    zero_terminal_snr: bool = False
    terminal: float = Field(0.0, ge=0, le=1e-3)

    @model_validator(mode="after")
    def _rescaled(self) -> Self:
        if self.terminal and not self.zero_terminal_snr:
            raise ValueError("terminal says where zero_terminal_snr ends: it needs that to be true")
        return self

    @property
    def pure(self) -> bool:
        """Whether nothing of the picture is left in the last entry."""
        return self.zero_terminal_snr and not self.terminal

    def betas(self) -> Tensor:
        """(T,) float64, the variances added a step, before a zero terminal SNR rescales them."""
        raise NotImplementedError(type(self).__name__)

    @property
    def entries(self) -> int:
        return self.T

    def alphas_cumprod(self) -> Tensor:
        """(T,) float64: abar_i = alpha_i^2 of every entry, after any rescaling."""
        return torch.sigmoid(_table(self, torch.device("cpu")))

    @property
    def ends(self) -> tuple[float, float]:
        logsnr = _table(self, torch.device("cpu"))
        last = -2 if self.pure else -1
        return float(ratio_of(logsnr[0])), float(ratio_of(logsnr[last]))

    @property
    def terminal_snr(self) -> float:
        """abar_T / (1 - abar_T) of the last entry. Not zero for most tables: T = 200, linear keeps sqrt(abar) = 0.36 of the signal."""
        return float(torch.exp(_table(self, torch.device("cpu"))[-1]))

    def position(self, t: Tensor) -> Tensor:
        """T t - 1: the (fractional) entry at time t; -1 at the data. An entry's own time gives exactly its integer."""
        p = self.T * t - 1
        near = (p - p.round()).abs() < _SNAP * max(1.0, self.T / 1000)
        # Snapped by a detached difference, so that the slope at an entry is that of its interval.
        return p + torch.where(near, p.round() - p, torch.zeros_like(p)).detach()

    def told(self, level: Level) -> Tensor:
        return self.position(level.t)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table, p = _table(self, t.device), self.position(t)
        low = p.detach().floor().clamp(0, self.T - 2).long()
        left, right, part = table[low], table[low + 1], (p - low).clamp(0, 1)
        right = torch.where(torch.isinf(right), left, right)
        alpha, sigma = from_logsnr(left + part * (right - left))
        # Below the first entry: s falls linearly to 0. Where this is not used a harmless 1 stands in, for clean gradients.
        first = p < 0
        s = torch.where(first, torch.exp(-table[0] / 2) * (p + 1).clamp(min=0), torch.ones_like(p))
        root = torch.sqrt(1 + s * s)
        alpha, sigma = torch.where(first, 1 / root, alpha), torch.where(first, s / root, sigma)
        if self.pure:
            last = p > self.T - 2
            r = torch.where(last, torch.exp(table[-2] / 2) * (self.T - 1 - p).clamp(min=0), torch.ones_like(p))
            root = torch.sqrt(1 + r * r)
            alpha, sigma = torch.where(last, r / root, alpha), torch.where(last, 1 / root, sigma)
        return alpha, sigma

    def time(self, logsnr: Tensor | float) -> Tensor:
        logsnr = torch.as_tensor(logsnr, dtype=torch.float64)
        table = _table(self, logsnr.device)
        finite = table[:-1] if self.pure else table
        clamped = logsnr.clamp(float(finite[-1]), float(finite[0]))
        # The table falls, searchsorted wants it rising.
        high = torch.searchsorted(-finite, -clamped).clamp(1, len(finite) - 1)
        left, right = finite[high - 1], finite[high]
        p = high - 1 + (left - clamped) / (left - right)
        p = torch.where(logsnr > finite[0], torch.exp((finite[0] - logsnr) / 2) - 1, p)
        if self.pure:
            p = torch.where(logsnr < finite[-1], self.T - 1 - torch.exp((logsnr - finite[-1]) / 2), p)
        return ((p + 1) / self.T).clamp(0, 1)


@lru_cache(maxsize=64)
def _table(process: Table, device: torch.device) -> Tensor:
    """(T,) log-SNR of every entry, strictly falling; -inf last for a zero-terminal-SNR table."""
    betas = process.betas()
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise SpecError(f"process '{process.kind}': betas must lie in (0, 1), these run over {betas.min():g}..{betas.max():g}")
    log_abar = torch.log1p(-betas).cumsum(0)
    if process.zero_terminal_snr:
        root = (log_abar / 2).exp()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        log_abar = 2 * root.log()
        if process.terminal:
            log_abar[-1] = math.log(process.terminal)
    # log(abar / (1 - abar)) without the cancellation of 1 - abar near the data.
    table = log_abar - torch.log(-torch.expm1(log_abar))
    if not bool((table[1:] < table[:-1]).all()):
        raise SpecError(
            f"process '{process.kind}': nothing of the picture is left well before the last of T = {process.T} entries, in float64: "
            "use smaller betas or fewer entries"
        )
    return table.to(device)


class _Ends(Table):
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start ({self.beta_start:g}) must not exceed beta_end ({self.beta_end:g})")
        return self

    def ramp(self) -> Tensor:
        """(T,) i / (T - 1)."""
        return torch.arange(self.T, dtype=torch.float64) / (self.T - 1)


class Linear(_Ends, kind="linear"):
    """beta_i = linspace(beta_start, beta_end) (Ho et al. 2020, section 4)."""

    def betas(self) -> Tensor:
        return self.beta_start + (self.beta_end - self.beta_start) * self.ramp()


class ScaledLinear(_Ends, kind="scaled-linear"):
    """beta_i = linspace(sqrt beta_start, sqrt beta_end)^2 (latent diffusion's code; the tutorials call it quadratic)."""

    def betas(self) -> Tensor:
        low, high = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
        return (low + (high - low) * self.ramp()) ** 2


class Quadratic(_Ends, kind="quadratic"):
    """beta_i = beta_start + (beta_end - beta_start) (i / (T-1))^2."""

    def betas(self) -> Tensor:
        return self.beta_start + (self.beta_end - self.beta_start) * self.ramp() ** 2


class Sigmoid(_Ends, kind="sigmoid"):
    """beta_i = sigmoid(linspace(-6, 6)) (beta_end - beta_start) + beta_start (the tutorials' sigmoid schedule)."""

    def betas(self) -> Tensor:
        return torch.sigmoid(12 * self.ramp() - 6) * (self.beta_end - self.beta_start) + self.beta_start


class Exponential(_Ends, kind="exponential"):
    """beta_i = beta_start (beta_end / beta_start)^(i / (T-1))."""

    def betas(self) -> Tensor:
        return self.beta_start * (self.beta_end / self.beta_start) ** self.ramp()


class Constant(Table, kind="constant"):
    """beta_i = beta_end."""

    beta_end: float = Field(0.02, gt=0, lt=1)

    def betas(self) -> Tensor:
        return torch.full((self.T,), self.beta_end, dtype=torch.float64)


class CosineBetas(Table, kind="cosine-betas"):
    """beta_i = 1 - f((i+1)/T) / f(i/T), f(u) = cos^2((u + s)/(1 + s) pi/2), clipped (Nichol and Dhariwal 2021, eq. 17).

    s: the offset, 0.008 in the paper. beta_min, beta_max: the clip, (0, 0.999] in the paper, [1e-4, 0.9999] in the tutorials.
    """

    s: float = Field(0.008, ge=0, lt=1)
    beta_min: float = Field(0.0, ge=0, lt=1)
    beta_max: float = Field(0.999, gt=0, lt=1)

    def betas(self) -> Tensor:
        u = torch.arange(self.T + 1, dtype=torch.float64) / self.T
        f = torch.cos((u + self.s) / (1 + self.s) * (math.pi / 2)) ** 2
        return (1 - f[1:] / f[:-1]).clamp(self.beta_min, self.beta_max)


class Listed(Table, kind="listed"):
    """beta_i as they are given, one for each of the T entries; () are those that `linear` has by default."""

    values: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.values and len(self.values) != self.T:
            raise ValueError(f"values: T = {self.T} betas are needed (given: {len(self.values)})")
        return self

    def betas(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64) if self.values else Linear(T=self.T).betas()
