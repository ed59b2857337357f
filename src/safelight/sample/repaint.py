"""Resampling: every step is taken several times, with the noise put back in between (Lugmayr et al. 2022, "RePaint")."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import DDIM
from safelight.sample.base import Draws, Sampler, State


class Repaint(Sampler, kind="repaint"):
    """inner's step, then back up by the forward process, `times` times in all (Lugmayr et al. 2022, algorithm 1):

    x = a x' + sqrt(sigma^2 - a^2 sigma'^2) n,  a = alpha / alpha'  (their eq. 7, for any pair of levels).
    A denoiser that is bent towards a known part of the picture sees it again, each time among its own last proposal, so that the
    two come to fit. Without such a bend the distribution is that of the inner sampler. A jump is one step of the grid.

    inner: the sampler that takes the steps. times: how often each is taken; 1 is the inner sampler alone.
    """

    inner: Sampler = DDIM()
    times: int = Field(5, ge=1)

    @property
    def order(self) -> int:
        return self.inner.order if self.times == 1 else 1

    @property
    def stochastic(self) -> bool:
        return self.times > 1 or self.inner.stochastic

    @property
    def calls(self) -> int:
        return self.times * self.inner.calls

    @property
    def multistep(self) -> bool:
        return self.inner.multistep

    def start(self, n: int) -> State:
        return self.inner.start(n)

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        out, after, estimate = self.inner.step(denoise, x, now, to, state, noise)
        alpha, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        a = alpha / alpha_to
        fresh = math.sqrt(max(sigma**2 - (a * sigma_to) ** 2, 0.0))
        for k in range(1, self.times):
            back = out.mul(a).add_(self.draw(noise, f"repaint {k}", to, now, x), alpha=fresh)
            out, after, estimate = self.inner.step(denoise, back, now, to, state, noise and _Again(noise, k))
        return out, after, estimate


class _Again:
    """The k-th taking of a step draws other noise than the first."""

    def __init__(self, noise: Draws, k: int) -> None:
        self.noise, self.k = noise, k

    def normal(self, purpose: str, now: Level | None, to: Level | None, like: Tensor) -> Tensor:
        return self.noise.normal(f"{purpose} {self.k}", now, to, like)
