"""Churn: before a step the noise is raised a little, so that the step begins with some that is fresh (Karras et al. 2022, algorithm 2)."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.spec import Spec, SpecError

# Beyond this the churned level would more than double the variance in a step (Karras et al. 2022, appendix C.4).
_MOST = math.sqrt(2) - 1
# Where the state holds gamma; the churn that euler and heun have of their own has another place.
_KEY = "churned by"


class Churn(Spec):
    """Fresh noise before every step of a one-step sampler, in z = x/alpha and s = sigma/alpha (Karras et al. 2022, algorithm 2):

    s_hat = s (1 + gamma),  z_hat = z + sqrt(s_hat^2 - s^2) s_noise n,  gamma = min(amount/n, sqrt(2) - 1) in a run of n steps.
    amount: S_churn, shared out over the steps; 0 is none. s_min, s_max: only where s lies between them (None: no upper end). s_noise: the
    standard deviation of n. No noise is added before the last step, at alpha = 0, and beyond the process's noisiest level.
    """

    amount: float = Field(0.0, ge=0, title="Churn")
    s_min: float = Field(0.0, ge=0, title="Churn from noise level")
    s_max: float | None = Field(None, ge=0, title="Churn up to noise level")
    s_noise: float = Field(1.0, gt=0, title="Strength of the churn's noise")

    def gamma(self, n: int) -> float:
        """The part by which s is raised in each of n steps."""
        return min(self.amount / n, _MOST)

    def raised(
        self, x: Tensor, now: Level, to: Level, gamma: float, sampler: Sampler, noise: Draws | None
    ) -> tuple[Tensor, Level]:
        """x and level of a step from `now` to `to` after churning; both as they were where nothing is added."""
        alpha, _, s = now.floats
        top = math.inf if self.s_max is None else self.s_max
        if not gamma or not to.floats[1] or not self.s_min <= s <= top or math.isinf(s):
            return x, now
        high = now.moved(s * (1 + gamma))
        alpha_high, _, s_high = high.floats
        if s_high <= s:
            return x, now
        fresh = sampler.draw(noise, "churn", now, to, x)
        return (x * (alpha_high / alpha)).add_(fresh, alpha=alpha_high * math.sqrt(s_high**2 - s**2) * self.s_noise), high

    def around(self, sampler: Sampler) -> Sampler:
        """The sampler, churned before each of its steps. Raises SpecError where it could not be."""
        if not self.amount:
            return sampler
        if sampler.multistep:
            raise SpecError(
                f"churn: sampler '{sampler.kind}' looks back on earlier steps, and churn would move it off their path: leave churn "
                "out, or use a one-step sampler (euler, heun, ddim, dpm++2s, ...)"
            )
        if getattr(sampler, "churn", 0):
            raise SpecError(f"churn: sampler '{sampler.kind}' has a churn of its own: set one of the two")
        return Churning(inner=sampler, churn=self)


class Churning(Sampler):
    """What `Churn.around` makes: `inner` with churn before each step. It is asked for by a request's field, and no kind of its own."""

    inner: Sampler
    churn: Churn

    @property
    def order(self) -> int:
        return self.inner.order

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def calls(self) -> int:
        return self.inner.calls

    def start(self, n: int) -> State:
        return {**self.inner.start(n), _KEY: self.churn.gamma(n)}

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        gamma = float(state[_KEY])
        x, now = self.churn.raised(x, now, to, gamma, self.inner, noise)
        out, after, estimate = self.inner.step(denoise, x, now, to, state, noise)
        return out, {**after, _KEY: gamma}, estimate
