"""Steps of consistency models: the estimate is taken as the picture, and noise is put back on it."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import shrink
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.edm import euler

# The standard deviation of the data in LCM's boundary condition.
_DATA = 0.5


class Consistency(Sampler, kind="consistency"):
    """Down by DDIM to s'' = (1 - gamma) s', then up to s' with fresh noise: x' = x'' (alpha'/alpha'') + sqrt(sigma'^2 - ...) n.

    gamma = 1: x' = alpha' x0 + sigma' n, multistep consistency sampling (Song et al. 2023, "Consistency models", algorithm 1; LCM: Luo
    et al. 2023). gamma between: strategic stochastic sampling (Zheng et al. 2024, "Trajectory consistency distillation", algorithm 4,
    with the level below placed in s instead of t). gamma = 0: DDIM. For models distilled to be consistent; on others it is a sampler
    of few steps that blurs. boundary: where a number, the picture is c_skip x + c_out x0 with c_skip = d^2/(b^2 + d^2), c_out =
    b/sqrt(b^2 + d^2), d = 1/2, b = boundary times what the network is told (LCM's boundary condition, 10 there: all but x0 itself).
    """

    gamma: float = Field(1.0, ge=0, le=1)
    boundary: float | None = Field(None, gt=0)

    @property
    def stochastic(self) -> bool:
        return self.gamma > 0

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        picture = estimate.x0 if self.boundary is None else self._bounded(x, estimate.x0, now)
        if not self.gamma or not to.floats[1]:
            return euler(x, picture, now, to), state, estimate
        # In z = x/alpha: z'' = x0 + s'' eps with eps = (z - x0)/s, and z' = z'' + sqrt(s'^2 - s''^2) n.
        alpha_to, sigma_to, _ = to.floats
        alpha, sigma, _ = now.floats
        below = 1 - self.gamma
        keep = below * (sigma_to / sigma if not alpha else shrink(now, to) * alpha_to / alpha)
        out = x.mul(keep).add_(picture, alpha=alpha_to - keep * alpha)
        return out.add_(self.draw(noise, "step", now, to, x), alpha=sigma_to * math.sqrt(1 - below * below)), state, estimate

    def _bounded(self, x: Tensor, x0: Tensor, now: Level) -> Tensor:
        """c_skip x + c_out x0."""
        told = now.known.told(now) if now.told is None else now.told
        b = (self.boundary or 0.0) * float(told)
        return x.mul(_DATA**2 / (b * b + _DATA**2)).add_(x0, alpha=b / math.hypot(b, _DATA))
