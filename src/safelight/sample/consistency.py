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


class Consistency(Sampler, kind="consistency"):
    """Down by DDIM to s'' = (1 - gamma) s', then up to s' with fresh noise: x' = x'' (alpha'/alpha'') + sqrt(sigma'^2 - ...) n.

    gamma = 1: x' = alpha' x0 + sigma' n, multistep consistency sampling (Song et al. 2023, "Consistency models", algorithm 1; LCM: Luo
    et al. 2023). gamma between: strategic stochastic sampling (Zheng et al. 2024, "Trajectory consistency distillation", algorithm 4,
    with the level below placed in s instead of t). gamma = 0: DDIM. For models distilled to be consistent; on others it is a sampler
    of few steps that blurs.
    """

    gamma: float = Field(1.0, ge=0, le=1)

    @property
    def stochastic(self) -> bool:
        return self.gamma > 0

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        if not self.gamma or not to.floats[1]:
            return euler(x, estimate.x0, now, to), state, estimate
        # In z = x/alpha: z'' = x0 + s'' eps with eps = (z - x0)/s, and z' = z'' + sqrt(s'^2 - s''^2) n.
        alpha_to, sigma_to, _ = to.floats
        alpha, sigma, _ = now.floats
        below = 1 - self.gamma
        keep = below * (sigma_to / sigma if not alpha else shrink(now, to) * alpha_to / alpha)
        out = x.mul(keep).add_(estimate.x0, alpha=alpha_to - keep * alpha)
        return out.add_(self.draw(noise, "step", now, to, x), alpha=sigma_to * math.sqrt(1 - below * below)), state, estimate
