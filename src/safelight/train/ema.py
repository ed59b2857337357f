"""Averages of the weights over training. They watch: training never reads them, so they change no weight.

Each average keeps, for every trained parameter w with values w_1, w_2, ... after optimizer steps 1, 2, ...

    m_n = beta_n m_{n-1} + (1 - beta_n) w_n,   m_0 = w_0 (the initial weights)

and a kind says what beta_n is. Several run side by side under names of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from safelight.spec import Spec


class Average(Spec, family="average"):
    """One moving average: a kind gives beta_n, a pure function of the number of updates n = 1, 2, ..."""

    def beta(self, n: int) -> float:
        """How much of the old average update n keeps, in [0, 1)."""
        raise NotImplementedError(type(self).__name__)


class Classic(Average, kind="classic"):
    """beta_n = min(decay, (1 + n) / (10 + n)) with the warm-up, beta_n = decay without it.

    The warm-up (TensorFlow's ExponentialMovingAverage with num_updates) lets an early average forget the initial weights: after
    one step beta_1 = 2/11, so 18 % of them are left, and 10^-6 after 20. Without it decay^n of them are left after n steps:
    at 0.9999 still 37 % after 10,000, so a short run's average is mostly its random start.
    """

    decay: float = Field(0.999, ge=0, lt=1)
    warmup: bool = True

    def beta(self, n: int) -> float:
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay


class Power(Average, kind="power"):
    """beta_n = (1 - 1/n)^(gamma + 1): the power-function average of Karras et al. 2024 (EDM2, arXiv 2312.02696, eq. 127, algorithm 2).

    Weight i of n counts in proportion to i^gamma, so the average's width is a constant part `sigma_rel` of the run so far, however
    long it is: sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))) (eq. 123). The paper's runs are best at 0.05 to 0.15.
    beta_1 = 0: the average after the first step is exactly the weights after the first step; no trace of the start is left.
    """

    sigma_rel: float = Field(0.1, gt=0, lt=0.28)

    @property
    def gamma(self) -> float:
        """The exponent for this width (algorithm 2 of the paper, see `gamma_of`)."""
        return gamma_of(self.sigma_rel)

    def beta(self, n: int) -> float:
        return (1 - 1 / n) ** (self.gamma + 1)


def gamma_of(sigma_rel: float) -> float:
    """The largest real root of gamma^3 + 7 gamma^2 + (16 - s) gamma + (12 - s) = 0 with s = sigma_rel^-2 (EDM2, algorithm 2)."""
    s = sigma_rel**-2
    return float(max(root.real for root in np.roots([1, 7, 16 - s, 12 - s]) if abs(root.imag) < 1e-9))


class Averages:
    """The averages of one model's trained parameters, updated after every optimizer step by one fused call each.

    Kept in the parameters' own dtype and device. `updates` is n, how many updates there were.
    """

    def __init__(self, kinds: Mapping[str, Average], parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        named = dict(parameters)
        self.kinds = dict(kinds)
        self.updates = 0
        self._live = list(named.values())
        self._kept = {name: [p.detach().clone() for p in self._live] for name in self.kinds}
        self._names = list(named)

    def update(self) -> None:
        """Take the parameters as they are now into every average."""
        self.updates += 1
        live = [p.detach() for p in self._live]
        for name, kind in self.kinds.items():
            torch._foreach_lerp_(self._kept[name], live, 1 - kind.beta(self.updates))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The average called `name`: parameter name -> tensor (the kept ones, not copies)."""
        return dict(zip(self._names, self._kept[name], strict=True))

    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put saved values back, bit for bit. Raises KeyError for a parameter that is missing."""
        for parameter, kept in zip(self._names, self._kept[name], strict=True):
            kept.copy_(tensors[parameter])


def width(average: Average, updates: int) -> float:
    """The average's effective width in steps after `updates`: the standard deviation of the age of the weights it is made of."""
    ages = np.arange(updates - 1, -1, -1, dtype=np.float64)
    betas = np.array([average.beta(n) for n in range(1, updates + 1)])
    # Weight of w_i in m_n: (1 - beta_i) times all later betas.
    later = np.append(np.cumprod(betas[::-1])[::-1][1:], 1.0)
    weights = (1 - betas) * later
    weights /= weights.sum()
    return math.sqrt(float((weights * (ages - (weights * ages).sum()) ** 2).sum()))
