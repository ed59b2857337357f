"""The reverse SDE by general-purpose schemes (Song et al. 2021, "Score-based generative modeling through SDEs", eq. 6).

    dx = (f x - (1 + eta)/2 g^2 grad log q(x)) dt + sqrt(eta) g dw,   f = alpha'/alpha, g^2 = 2 sigma^2 s'/s, score = (alpha x0 - x)/sigma^2

in the process's own t, backwards. eta = 1 is the reverse SDE, eta = 0 the probability-flow ODE, both with the same marginals. For
`linear`, `vp` these are the VP SDE's f and g, for `ve` the VE SDE's, for `sub-vp` the sub-VP SDE's. At few steps the exponential
solvers (`dpm++2m-sde`, `dpm++3m-sde`, `sa`) are far ahead: they integrate the linear part exactly.
"""

from __future__ import annotations

import math
from functools import lru_cache

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level, Process
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.multistep import mixed


@lru_cache(16_384)
def _rates(process: Process, t: float) -> tuple[float, float]:
    """(f, g^2) at a time: alpha'/alpha and 2 sigma sigma' - 2 f sigma^2."""
    level = process.at(t)
    alpha, sigma, _ = level.floats
    da, ds = (float(v) for v in Process.slope(process, level))
    return da / alpha, 2 * sigma * (ds - sigma * da / alpha)


class _SDE(Sampler):
    eta: float = Field(1.0, ge=0)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def _drift(self, level: Level) -> tuple[float, float, float]:
        """(of x, of x0, g^2): the drift is of_x x + of_x0 x0."""
        alpha, sigma, _ = level.floats
        f, g2 = _rates(level.known, float(level.t))
        pull = (1 + self.eta) / 2 * g2 / sigma**2
        return f + pull, -pull * alpha, g2

    def _ends(self, x: Tensor, estimate: Estimate, now: Level, to: Level, noise: Draws | None) -> Tensor | None:
        """The step where the SDE has no drift to speak of: to the data the estimate itself, from alpha = 0 the exact first order."""
        alpha_to, sigma_to, _ = to.floats
        if not sigma_to:
            return estimate.x0 * alpha_to
        if now.floats[0]:
            return None
        if not self.eta:
            return mixed(x, sigma_to / now.floats[1], [estimate.x0], [alpha_to])
        return estimate.x0.mul(alpha_to).add_(self.draw(noise, "step", now, to, x), alpha=sigma_to)


class EulerMaruyama(_SDE, kind="euler-maruyama"):
    """x' = x + drift(x, t) dt + sqrt(eta) g(t) sqrt(|dt|) n (Kloeden and Platen 1992, section 9.1): strong order 1/2, weak order 1."""

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        if (end := self._ends(x, estimate, now, to, noise)) is not None:
            return end, state, estimate
        dt = float(to.t) - float(now.t)
        of_x, of_x0, g2 = self._drift(now)
        out = mixed(x, 1 + of_x * dt, [estimate.x0], [of_x0 * dt])
        if self.eta:
            out.add_(self.draw(noise, "step", now, to, x), alpha=math.sqrt(self.eta * g2 * -dt))
        return out, state, estimate


class HeunSDE(_SDE, kind="heun-sde"):
    """x' = x + (drift(x, t) + drift(x_1, t'))/2 dt + sqrt(eta (g(t)^2 + g(t')^2)/2 |dt|) n, x_1 the Euler-Maruyama step with the same n

    (the stochastic Heun method; for noise that does not depend on x of strong order 1 and weak order 2). Two calls a step.
    """

    @property
    def order(self) -> int:
        return 1 if self.eta else 2

    @property
    def calls(self) -> int:
        return 2

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        if (end := self._ends(x, estimate, now, to, noise)) is not None:
            return end, state, estimate
        dt = float(to.t) - float(now.t)
        of_x, of_x0, g2 = self._drift(now)
        then_x, then_x0, g2_to = self._drift(to)
        ahead = mixed(x, 1 + of_x * dt, [estimate.x0], [of_x0 * dt])
        out = mixed(x, 1 + of_x * dt / 2, [estimate.x0], [of_x0 * dt / 2])
        if self.eta:
            fresh = self.draw(noise, "step", now, to, x)
            std = math.sqrt(self.eta * (g2 + g2_to) / 2 * -dt)
            ahead.add_(fresh, alpha=std)
            out.add_(fresh, alpha=std)
        then = denoise(ahead, to)
        return out.add_(ahead, alpha=then_x * dt / 2).add_(then.x0, alpha=then_x0 * dt / 2), state, estimate
