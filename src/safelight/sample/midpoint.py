"""The midpoint rule on dz/ds, the middle being that of log s: k-diffusion's DPM2 and its ancestral form."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import shrink
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.edm import euler
from safelight.sample.multistep import mixed, predicted_noise


class DPM2(Sampler, kind="dpm2"):
    """z' = z + (s_down - s) eps(z_m, s_m) + s_up n, z_m by Euler at s_m = sqrt(s s_down), two calls a step (Crowson, k-diffusion,

    `sample_dpm_2`, `sample_dpm_2_ancestral`; z = x / alpha): s_up = eta s' sqrt(1 - r^2), s_down = sqrt(s'^2 - s_up^2), r = s'/s.
    eta = 0 is deterministic and of order 2. The last step, to sigma = 0, and one from alpha = 0 are of order 1.
    """

    eta: float = Field(0.0, ge=0, le=1)

    @property
    def order(self) -> int:
        return 1 if self.eta else 2

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def calls(self) -> int:
        return 2

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, s = now.floats
        alpha_to, sigma_to, s_to = to.floats
        if not sigma_to:
            return euler(x, estimate.x0, now, to), state, estimate
        up = self.eta * math.sqrt(1 - shrink(now, to) ** 2) if self.eta else 0.0
        if not alpha:
            keep = sigma_to / sigma * math.sqrt(1 - up**2)
            out = mixed(x, keep, [estimate.x0], [alpha_to])
        else:
            down = s_to * math.sqrt(1 - up**2)
            middle = now.moved(math.sqrt(s * down)) if down else to
            halfway = euler(x, estimate.x0, now, middle)
            eps = predicted_noise(halfway, denoise(halfway, middle).x0, middle)
            out = mixed(x, alpha_to / alpha, [eps], [alpha_to * (down - s)])
        if up:
            out.add_(self.draw(noise, "step", now, to, x), alpha=sigma_to * up)
        return out, state, estimate
