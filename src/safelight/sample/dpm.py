"""DPM-Solver++: exponential integrators in the predicted picture (Lu et al. 2022b, "DPM-Solver++").

lambda = log(alpha / sigma), h = lambda' - lambda > 0, e^-h = r = s'/s. Both solvers are multistep: one call a step.
"""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import shrink
from safelight.sample.base import Draws, Sampler, State


def _lambda(level: Level) -> float:
    s = level.floats[2]
    return math.inf if s == 0 else -math.log(s)


def _lean(now: Level, to: Level, state: State) -> float:
    """h / (2 h_before), the weight of the difference to the last estimate; 0 in the first step, after alpha = 0 and to sigma = 0."""
    before = state.get("lambda")
    if before is None or to.floats[1] == 0:
        return 0.0
    here = _lambda(now)
    span = here - float(before)
    return 0.0 if math.isinf(span) else (_lambda(to) - here) / (2 * span)


class DPM2M(Sampler, kind="dpm++2m"):
    """x' = (sigma'/sigma) x - alpha' (e^-h - 1) D,  D = (1 + k) x0 - k x0_before,  k = h/(2 h_before)  (algorithm 2; order 2)."""

    @property
    def order(self) -> int:
        return 2

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        keep = sigma_to / sigma
        push = alpha_to - alpha * keep  # -alpha' (e^-h - 1), finite at alpha = 0
        lean = _lean(now, to, state)
        out = x.mul(keep).add_(estimate.x0, alpha=push * (1 + lean))
        if lean:
            before = state["x0"]
            assert isinstance(before, Tensor)
            out.add_(before, alpha=-push * lean)
        return out, {"x0": estimate.x0, "lambda": _lambda(now)}, estimate


class DPM2MSDE(Sampler, kind="dpm++2m-sde"):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, eq. 18), with the noise scaled by eta:

    x' = (sigma'/sigma) r^eta x + alpha' (1 - r^(1+eta)) ((1 + k) x0 - k x0_before) + sigma' sqrt(1 - r^(2 eta)) n,  k = h/(2 h_before).
    eta = 1 is the reverse SDE, eta = 0 is `dpm++2m`.
    """

    eta: float = Field(1.0, ge=0)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        _, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        r = shrink(now, to)
        damp = r**self.eta
        push = alpha_to * (1 - r * damp)
        lean = _lean(now, to, state)
        out = x.mul(sigma_to / sigma * damp).add_(estimate.x0, alpha=push * (1 + lean))
        if lean:
            before = state["x0"]
            assert isinstance(before, Tensor)
            out.add_(before, alpha=-push * lean)
        std = sigma_to * math.sqrt(1 - damp * damp)
        if std:
            out.add_(self.draw(noise, "step", now, to, x), alpha=std)
        return out, {"x0": estimate.x0, "lambda": _lambda(now)}, estimate
