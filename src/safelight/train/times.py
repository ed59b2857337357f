"""At which noise levels a model trains: a distribution of t, given by its inverse cumulative distribution.

Written as t = quantile(u) with u uniform in (0, 1), so that random, stratified and held-out times are the same distribution and
differ only in how u is placed.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from safelight.process import Process
from safelight.spec import Spec, SpecError

# u stays this far from 0 and 1, where quantiles may be infinite and alpha or sigma exactly 0.
_EDGE = 2.0**-40


class Times(Spec, family="times"):
    """A distribution over t in (0, 1).

    entries: only the T levels of a table, t = (i+1)/T, as the discrete papers train; refused for a continuous process.
    """

    entries: bool = False

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        """t with P(time <= t) = u. u: (B,) float64 in (0, 1)."""
        raise NotImplementedError(type(self).__name__)

    def place(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) float64 uniforms in [0, 1), drawn on the CPU from `generator`. A kind may spread them over the batch."""
        return torch.rand(count, dtype=torch.float64, generator=generator)

    def times(self, u: Tensor, process: Process) -> Tensor:
        """(B,) float64 times for uniforms u. Raises SpecError when `entries` is asked of a process that is no table."""
        t = self.quantile(u.clamp(_EDGE, 1 - _EDGE), process).clamp(_EDGE, 1.0)
        if not self.entries:
            return t
        if process.entries is None:
            raise SpecError(
                f"times.entries: process '{process.kind}' is no table, it has no integer entries; leave entries false"
            )
        return (t * process.entries).ceil().clamp(1, process.entries) / process.entries


class Uniform(Times, kind="uniform"):
    """t = u (Ho et al. 2020, algorithm 1)."""

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return u


class Stratified(Times, kind="stratified"):
    """t = u with one random offset a step: u_i = frac(u_0 + i/B) (Kingma et al. 2021, VDM, appendix I.1).

    Each picture's time is still uniform, and every step sees all noise levels evenly, so its loss fluctuates less.
    """

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return u

    def place(self, count: int, generator: torch.Generator) -> Tensor:
        first = torch.rand((), dtype=torch.float64, generator=generator)
        return (first + torch.arange(count, dtype=torch.float64) / count) % 1


class Importance(Times, kind="importance"):
    """t = u, more often where losses are large: p(u) proportional to sqrt(E[L^2 | u]) (Nichol and Dhariwal 2021, eq. 18).

    A loss is divided by p, so that its mean is that of `uniform`, with less noise in it. The expectation is that of the last `history`
    losses at each entry of a table (step of a bound), or else at each hundredth of u; they are saved with the run. Until all are known
    times are uniform. floor: the share of pictures that stay so. On an accelerator every step waits for its losses.
    """

    history: int = Field(10, ge=1)
    floor: float = Field(0.001, ge=0, lt=1)

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return u


class LogitNormal(Times, kind="logit-normal"):
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, Stable Diffusion 3, eq. 19)."""

    mean: float = 0.0
    std: float = Field(1.0, gt=0)

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return torch.sigmoid(self.mean + self.std * normal_quantile(u))


class LogNormal(Times, kind="log-normal"):
    """ln(sigma/alpha) ~ N(mean, std^2) (Karras et al. 2022, table 1: P_mean = -1.2, P_std = 1.2 in units of sigma with alpha = 1).

    Levels beyond the process's ends are moved to its ends.
    """

    mean: float = -1.2
    std: float = Field(1.2, gt=0)

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return process.time(-2 * (self.mean + self.std * normal_quantile(u)))


def normal_quantile(u: Tensor) -> Tensor:
    """The inverse of the standard normal distribution function."""
    return math.sqrt(2) * torch.erfinv(2 * u - 1)
