"""SA-Solver: stochastic Adams methods, a predictor and a corrector of the reverse SDE (Xue et al. 2023, "SA-Solver")."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.multistep import HELD, ahead, exponential, lam, less, mixed, recall, remember


class SA(Sampler, kind="sa"):
    """x' = (sigma'/sigma) e^(-tau^2 h) x + alpha' sum_j w_j D_j + sigma' sqrt(1 - e^(-2 tau^2 h)) n  (eq. 15-18, data prediction),

    w_j = (1 + tau^2) integral of e^(-(1 + tau^2)(lambda' - l)) l_j(l) dl, with D a polynomial in lambda through `k` estimates, and in
    the corrector through `correct` of them and the one made at x' (eq. 19, 20; algorithm 1): one call a step, the noise of a step
    being the same in both.

    k, correct: the steps of predictor and corrector; correct = 0 leaves the predictor alone. tau: how much noise, 0 is the ODE and
    1 the reverse SDE; drawn only where s lies between tau_min and tau_max (None: no upper end). The last step, to sigma = 0, takes
    the estimate as it is.
    """

    k: int = Field(3, ge=1, le=6)
    correct: int = Field(3, ge=0, le=6)
    tau: float = Field(1.0, ge=0)
    tau_min: float = Field(0.0, ge=0)
    tau_max: float | None = Field(None, ge=0)

    @property
    def order(self) -> int:
        return 1 if self.tau else max(self.k, self.correct + 1 if self.correct >= self.k else self.k)

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    @property
    def multistep(self) -> bool:
        return self.k > 1 or self.correct > 0

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, _, s = now.floats
        alpha_to, sigma_to, _ = to.floats
        most = max(self.k, self.correct) if self.correct else self.k - 1
        pictures, places = recall(state, most)
        if not sigma_to:
            return estimate.x0 * alpha_to, {}, estimate
        here = lam(now)
        eta = self.tau**2 if self.tau_min <= s and (self.tau_max is None or s <= self.tau_max) else 0.0
        before = float(state["eta"]) if places else 0.0
        step = _both(self.k, self.correct, eta, before, (here, *places), now.floats, to.floats)
        out = mixed(x, step.keep, (estimate.x0, *pictures), step.weights)
        if step.fresh:
            out.add_(self.draw(noise, "step", now, to, x), alpha=step.fresh)
        return out, {**remember(estimate.x0, here, pictures, places, most), "eta": eta} if alpha else {}, estimate


class _Step(NamedTuple):
    """x' = keep x + sum_j weights_j D_j + fresh n."""

    keep: float
    weights: tuple[float, ...]
    fresh: float


@lru_cache(HELD)
def _both(
    k: int,
    correct: int,
    eta: float,
    before: float,
    places: tuple[float, ...],
    now: tuple[float, float, float],
    to: tuple[float, float, float],
) -> _Step:
    """Corrector and predictor as one step from the predicted x; places: lambda of the new estimate and of those before it.

    Predictor and corrector of the step before (with eta `before`) had the same noise and differ in their weights alone, so that the
    corrected x is the predicted one and alpha times the sum of the weights' difference with the estimates.
    """
    (alpha, sigma, s), (alpha_to, sigma_to, s_to) = now, to
    r = s_to / s
    damp = r**eta
    keep, fresh = sigma_to / sigma * damp, sigma_to * math.sqrt(1 - damp * damp)
    if not alpha:
        return _Step(keep, (alpha_to * (1 - r * damp),), fresh)
    weights = [-w for w in ahead(places[:k], -math.log(s_to), 1 + eta, alpha_to)]
    change: list[float] = []
    if correct and len(places) > 1:
        past = places[1:]
        relative = tuple(p - past[0] for p in (places[0], *past[:correct]))
        after = exponential(relative, places[0] - past[0], 1 + before)
        change = less([keep * alpha * w for w in after], [0.0, *ahead(past[:k], places[0], 1 + before, keep * alpha)])
    return _Step(keep, tuple(less(change, weights)), fresh)
