"""SA-Solver: stochastic Adams methods, a predictor and a corrector of the reverse SDE (Xue et al. 2023, "SA-Solver")."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import shrink
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.multistep import exponential, lam, mixed, recall, remember


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

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, s = now.floats
        alpha_to, sigma_to, _ = to.floats
        most = max(self.k, self.correct)
        pictures, places = recall(state, most)
        if self.correct and "base" in state:
            x = self._corrected(state, now, estimate.x0, pictures[: self.correct], places)
        pictures.insert(0, estimate.x0)
        places.insert(0, lam(now))
        if not sigma_to:
            return estimate.x0 * alpha_to, {}, estimate
        eta = self.tau**2 if self.tau_min <= s and (self.tau_max is None or s <= self.tau_max) else 0.0
        r = shrink(now, to)
        damp = r**eta
        kept = x.mul(sigma_to / sigma * damp)
        if damp < 1:
            kept.add_(self.draw(noise, "step", now, to, x), alpha=sigma_to * math.sqrt(1 - damp * damp))
        if not alpha:
            return kept.add_(estimate.x0, alpha=alpha_to * (1 - r * damp)), {}, estimate
        used = places[: self.k]
        weights = exponential(tuple(p - places[0] for p in used), lam(to) - places[0], 1 + eta)
        out = mixed(kept, 1.0, pictures[: self.k], [alpha_to * w for w in weights])
        held = remember(pictures[:most], places[:most])
        return out, held | ({"base": kept, "eta": eta} if self.correct else {}), estimate

    def _corrected(self, state: State, now: Level, new: Tensor, pictures: list[Tensor], places: list[float]) -> Tensor:
        base = state["base"]
        assert isinstance(base, Tensor)
        span = lam(now) - places[0]
        ends = (span, *(p - places[0] for p in places[: len(pictures)]))
        weights = exponential(ends, span, 1 + float(state["eta"]))
        return mixed(base, 1.0, [new, *pictures], [now.floats[0] * w for w in weights])
