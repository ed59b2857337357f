"""Euler and Heun in s = sigma/alpha, with the churn of "Elucidating the design space" (Karras et al. 2022, algorithms 1 and 2).

In z = x / alpha = x0 + s eps the probability-flow ODE of every Gaussian process is dz/ds = (z - D(z, s)) / s.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.churn import Churn


class _Churned(Sampler):
    """Samplers that may raise the noise before a step (`sample/churn.py`).

    churn, churn_min, churn_max, churn_scale: its amount, s_min, s_max and s_noise; 0 is deterministic.
    """

    churn: float = Field(0.0, ge=0)
    churn_min: float = Field(0.0, ge=0)
    churn_max: float | None = Field(None, ge=0)
    churn_scale: float = Field(1.0, gt=0)

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def start(self, n: int) -> State:
        return {"gamma": self._how.gamma(n)}

    @property
    def _how(self) -> Churn:
        return Churn(amount=self.churn, s_min=self.churn_min, s_max=self.churn_max, s_noise=self.churn_scale)

    def churned(self, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None) -> tuple[Tensor, Level]:
        """x and level after the noise is raised."""
        return self._how.raised(x, now, to, float(state.get("gamma", 0.0)), self, noise)


def euler(x: Tensor, x0: Tensor, now: Level, to: Level) -> Tensor:
    """z' = z + (s' - s)(z - x0)/s: in x, keep x + (alpha' - alpha keep) x0 with keep = sigma'/sigma, which holds at alpha = 0 too."""
    alpha, sigma, _ = now.floats
    alpha_to, sigma_to, _ = to.floats
    keep = sigma_to / sigma
    if alpha == alpha_to == 1.0:  # exploding processes, where these solvers come from: one tensor call instead of two
        return x0.lerp(x, keep)
    return x.mul(keep).add_(x0, alpha=alpha_to - keep * alpha)


class Euler(_Churned, kind="euler"):
    """Euler's method on dz/ds, order 1 (Karras et al. 2022, algorithm 2 without its correction)."""

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        if self.churn:
            x, now = self.churned(x, now, to, state, noise)
        estimate = denoise(x, now)
        return euler(x, estimate.x0, now, to), state, estimate


class Heun(_Churned, kind="heun"):
    """Heun's method on dz/ds, order 2, two calls a step (Karras et al. 2022, algorithms 1 and 2).

    The last step, to sigma = 0, and one from alpha = 0, where dz/ds has no trapezoid, are Euler's.
    """

    @property
    def order(self) -> int:
        return 2

    @property
    def calls(self) -> int:
        return 2

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        if self.churn:
            x, now = self.churned(x, now, to, state, noise)
        estimate = denoise(x, now)
        ahead = euler(x, estimate.x0, now, to)
        alpha, _, s = now.floats
        alpha_to, sigma_to, s_to = to.floats
        if sigma_to == 0 or alpha == 0:
            return ahead, state, estimate
        then = denoise(ahead, to)
        # The trapezoid z' = z + (s' - s)/2 ((z - x0)/s + (z1 - x1)/s') from Euler's z1 = x0 + (s'/s)(z - x0): since
        # (z - x0)/s = (z1 - x0)/s', it is z' = z1 + (s' - s)/(2 s') (x0 - x1), a correction by what the second look changed.
        weight = alpha_to * (s_to - s) / (2 * s_to)
        return ahead.add(estimate.x0, alpha=weight).add_(then.x0, alpha=-weight), state, estimate
