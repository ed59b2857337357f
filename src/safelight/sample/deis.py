"""DEIS: exponential integrators in the predicted noise (Zhang and Chen 2023, "Fast sampling ... with exponential integrator")."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level, Process
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.edm import euler
from safelight.sample.multistep import (
    HELD,
    counted,
    counting,
    exponential,
    lowered,
    mixed,
    polynomial,
    predicted_noise,
    recall,
    remember,
)

# Gauss and Legendre's rule of so many points integrates a schedule over one step to rounding.
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(32)


class DEIS(Sampler, kind="deis"):
    """z' = z + sum_j w_j eps_j, w_j = integral of l_j ds, in z = x/alpha: eps is a polynomial in log s or in t (eq. 14; tAB-DEIS).

    k: how many estimates a step looks back on, and its order. base: what the polynomial is in: `log-s` (what peers call logrho) or
    `t`, the process's own time. A step from alpha = 0 is Euler's; in the last, to sigma = 0, where log s has no end, the polynomial is
    in s. lower: in runs of fewer than 15 steps the last is of order 1 and the one before it of at most 2.
    """

    k: int = Field(3, ge=1, le=6)
    base: Literal["log-s", "t"] = "log-s"
    lower: bool = False

    @property
    def order(self) -> int:
        return self.k

    @property
    def multistep(self) -> bool:
        return self.k > 1

    def start(self, n: int) -> State:
        return counting(n) if self.lower else {}

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, _, s = now.floats
        alpha_to, _, s_to = to.floats
        if not alpha:
            return euler(x, estimate.x0, now, to), counted(state), estimate
        slopes, places = recall(state, self.k - 1)
        slope = predicted_noise(x, estimate.x0, now)
        here = s if self.base == "log-s" else float(now.t)
        held = {**remember(slope, here, slopes, places, self.k - 1), **counted(state)}
        most = lowered(now, state, self.k, self.lower, False)
        slopes, places = slopes[: most - 1], places[: most - 1]
        if s_to == s:  # a last place that is the end already
            return x, held, estimate
        if self.base == "t":
            weights = _over_time(now.known, (here, *places), float(to.t), alpha_to)
        else:
            weights = _over_ratio((here, *places), s_to, alpha_to)
        out = mixed(x, alpha_to / alpha, (slope, *slopes), weights)
        return out, held, estimate


@lru_cache(HELD)
def _over_ratio(ratios: tuple[float, ...], end: float, scale: float) -> tuple[float, ...]:
    """scale times the integral of l_j ds from ratios[0] to `end`, l_j in log s, or in s where the end is 0."""
    if not end:
        return tuple(scale * w for w in polynomial(ratios, ratios[0], 0.0))
    places = tuple(math.log(r / ratios[0]) for r in ratios)
    return tuple(scale * (end * w) for w in exponential(places, math.log(end / ratios[0]), 1.0))


@lru_cache(HELD)
def _over_time(process: Process, times: tuple[float, ...], end: float, scale: float) -> tuple[float, ...]:
    """scale times the integral of l_j(t) ds(t) from times[0] to `end` = [l_j s] - integral of l_j' s dt, which asks for no slope of s."""
    start = times[0]
    middle, half = (start + end) / 2, (end - start) / 2
    t = middle + half * _POINTS
    s = process.at(torch.from_numpy(np.concatenate([t, [start, end]]))).ratio.numpy()
    weights = []
    for j in range(len(times)):
        basis = np.poly1d([1.0])
        for i, other in enumerate(times):
            if i != j:
                basis = basis * np.poly1d([1.0, start - other]) / (times[j] - other)
        ends = basis(end - start) * s[-1] - basis(0.0) * s[-2]
        weights.append(scale * float(ends - half * (_WEIGHTS * basis.deriv()(t - start) * s[:-2]).sum()))
    return tuple(weights)
