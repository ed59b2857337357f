"""UniPC: a predictor and a corrector that share every call of the denoiser (Zhao et al. 2023, "UniPC")."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.dpm import to_data
from safelight.sample.multistep import HELD, counted, counting, exponential, lam, less, mixed, recall, remaining, remember


class UniPC(Sampler, kind="unipc"):
    """UniP-k, and UniC-k on what the next step's call has found: order k + 1, one call a step (algorithms 1, 5 and 6).

    The estimate made at the predicted x' first corrects x' over the step that led there, then predicts from it: both are the flow
    x'/sigma' = x/sigma + integral of e^lambda D d lambda with D a polynomial in lambda, through k estimates of the past, the corrector's
    through the new one too. Their coefficients do not depend on B(h) but for one free choice, which the paper takes as 1/2:

    UniP-2  alpha' ((1 - e^-h) D_0 + 1/2 B (D_0 - D_1)/r),  UniC-1  alpha' ((1 - e^-h) D_0 + 1/2 B (D' - D_0)),  r = -h_before/h,
    B(h) = h (`bh1`) or 1 - e^-h (`bh2`).

    k: how many estimates the predictor looks back on. correct: False leaves UniP-k alone, of order k. last: the order of the last
    step, to sigma = 0, as for `dpm++3m`; no corrector follows it, as nothing is called there. lower: no step is of a higher order than
    steps are left, as peers do. uncorrected: the steps, from 0, after which no corrector follows.
    """

    k: int = Field(3, ge=1, le=6)
    b: Literal["bh1", "bh2"] = "bh2"
    correct: bool = True
    last: int = Field(1, ge=1, le=3)
    lower: bool = False
    uncorrected: tuple[int, ...] = ()

    @property
    def order(self) -> int:
        return self.k + self.correct

    @property
    def multistep(self) -> bool:
        return True

    def start(self, n: int) -> State:
        return counting(n) if self.lower or self.uncorrected else {}

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        most = self.k if self.correct else self.k - 1
        pictures, places = recall(state, most)
        here = lam(now)
        if not to.floats[1]:
            return to_data([estimate.x0, *pictures], (here, *places), self.last), {}, estimate
        k, before, correct, more = self.k, int(state.get("k", self.k)), self.correct, dict(counted(state))
        if more:
            left, n = remaining(now, state)
            k = min(k, left) if self.lower else k
            correct = correct and n - left - 1 not in self.uncorrected
            more["k"] = k
        keep, weights = _both(k, before, self.b, correct, (here, *places), now.floats, to.floats)
        out = mixed(x, keep, (estimate.x0, *pictures)[: len(weights)], weights)
        held = remember(estimate.x0, here, pictures, places, most) if now.floats[0] else {}
        return out, {**held, **more}, estimate


@lru_cache(HELD)
def _both(
    k: int,
    before: int,
    b: Literal["bh1", "bh2"],
    correct: bool,
    places: tuple[float, ...],
    now: tuple[float, float, float],
    to: tuple[float, float, float],
) -> tuple[float, tuple[float, ...]]:
    """(keep, weights) of corrector and predictor as one step from the predicted x: keep x + sum_j weights_j D_j.

    places: lambda of the new estimate and of those before it. k: of the predictor; before: of the one a step before.
    Predictor and corrector went from the same x by other weights, so that the corrected x is the predicted one and alpha times the sum
    of the weights' difference with the estimates.
    """
    (alpha, sigma, _), (alpha_to, sigma_to, s_to) = now, to
    keep = sigma_to / sigma
    if not alpha:
        return keep, (alpha_to,)
    end = -math.log(s_to)
    ahead = [alpha_to * w for w in _predictor(places[:k], end, b)]
    change: list[float] = []
    if correct and len(places) > 1:
        after = _corrector(places[: before + 1], b)
        change = [keep * alpha * d for d in less(after, [0.0, *_predictor(places[1 : before + 1], places[0], b)])]
    weights = less(change, [-w for w in ahead])
    return keep, tuple(weights)


def _predictor(places: tuple[float, ...], end: float, b: Literal["bh1", "bh2"]) -> tuple[float, ...]:
    """UniP's weights of estimates at the places, for the step from the first of them to `end`."""
    span = end - places[0]
    if len(places) == 2:
        lean = _b(span, b) / 2 * span / (places[0] - places[1])
        return -math.expm1(-span) + lean, -lean
    return exponential(tuple(p - places[0] for p in places), span, 1.0)


def _corrector(places: tuple[float, ...], b: Literal["bh1", "bh2"]) -> tuple[float, ...]:
    """UniC's weights of estimates at the places, for the step to the first of them from the second."""
    span = places[0] - places[1]
    if len(places) == 2:
        lean = _b(span, b) / 2
        return lean, -math.expm1(-span) - lean
    return exponential(tuple(p - places[1] for p in places), span, 1.0)


def _b(span: float, b: Literal["bh1", "bh2"]) -> float:
    return span if b == "bh1" else -math.expm1(-span)
