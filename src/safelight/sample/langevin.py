"""Langevin dynamics: walks that stay at a noise level, by themselves and as correctors of another sampler."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import DDIM
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.edm import euler


def walk(x: Tensor, x0: Tensor, level: Level, size: Tensor | float, fresh: Tensor) -> Tensor:
    """x + size/2 sigma^2 score + sqrt(size) sigma n = x + size/2 (alpha x0 - x) + sqrt(size) sigma n: one Langevin step.

    size: relative to sigma^2, one or (B, 1, ...) one a picture; 2 would throw away x at a stroke.
    """
    alpha, sigma, _ = level.floats
    if isinstance(size, float):
        return x.mul(1 - size / 2).add_(x0, alpha=alpha * size / 2).add_(fresh, alpha=math.sqrt(size) * sigma)
    return x + (x0 * alpha - x) * (size / 2) + fresh * (size.sqrt() * sigma)


def size_of(x: Tensor, x0: Tensor, level: Level, fresh: Tensor, snr: float) -> Tensor:
    """(B, 1, ...) the step at which signal and noise stand as `snr`: 2 eps with eps = 2 (snr |n| / |score|)^2, relative to sigma^2.

    (Song et al. 2021, algorithms 4 and 5, which take the norms' means over a batch; here each picture has its own.) At most 1.
    """
    alpha, sigma, _ = level.floats
    pull = (x0 * alpha - x).flatten(1).norm(dim=1) / sigma  # |sigma score|, about |n|
    found = 4 * (snr * fresh.flatten(1).norm(dim=1) / pull.clamp(min=torch.finfo(x.dtype).tiny)) ** 2
    return found.clamp(max=1.0).view(-1, *(1,) * (x.ndim - 1))


class Langevin(Sampler, kind="langevin"):
    """Annealed Langevin dynamics (Song and Ermon 2019, algorithm 1; 2020, "Improved techniques"): `times` walks at each level,

    x <- x + size/2 sigma^2 score + sqrt(size) sigma n, then on to the next level with z = x/alpha as it is. With the last level's
    sigma and `size` = step/sigma_L^2 that is the paper's alpha_i = step sigma_i^2/sigma_L^2 (2e-5 / 0.01^2 = 0.2). The last step takes the
    estimate (the denoising at the end of the second paper). It needs levels that lie close together, as in NCSN: a hundred and more.

    times: walks at a level. size: of a walk, relative to sigma^2. snr: instead, the ratio of signal and noise that sets each size.
    """

    times: int = Field(5, ge=1)
    size: float = Field(0.2, gt=0, le=1)
    snr: float | None = Field(None, gt=0, le=1)

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def calls(self) -> int:
        return self.times

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        first = estimate = denoise(x, now)
        alpha, _, _ = now.floats
        if not alpha:  # nothing of a picture is in x, and there is no z
            return euler(x, estimate.x0, now, to), state, estimate
        for k in range(self.times):
            estimate = denoise(x, now) if k else first
            fresh = self.draw(noise, f"walk {k}", now, to, x)
            size = self.size if self.snr is None else size_of(x, estimate.x0, now, fresh, self.snr)
            x = walk(x, estimate.x0, now, size, fresh)
        if not to.floats[1]:
            return denoise(x, now).x0 * to.floats[0], state, first
        return x * (to.floats[0] / alpha), state, first


class PC(Sampler, kind="pc"):
    """Predictor-corrector (Song et al. 2021, algorithms 2-5): `predictor`'s step, then `times` Langevin walks at the level it reached.

    predictor: the sampler that takes the steps, by default ancestral. times: the corrector's walks, a call each. snr: the ratio of
    signal and noise that sets their size (0.16 in the paper for VE and 0.01 to 0.05 for VP). No walk follows the last step.
    """

    predictor: Sampler = DDIM(eta=1.0)
    times: int = Field(1, ge=1)
    snr: float = Field(0.16, gt=0, le=1)

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def calls(self) -> int:
        return self.predictor.calls + self.times

    def start(self, n: int) -> State:
        return self.predictor.start(n)

    @property
    def multistep(self) -> bool:
        return self.predictor.multistep

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        x, state, estimate = self.predictor.step(denoise, x, now, to, state, noise)
        if to.floats[1]:
            for k in range(self.times):
                found = denoise(x, to)
                fresh = self.draw(noise, f"walk {k}", now, to, x)
                x = walk(x, found.x0, to, size_of(x, found.x0, to, fresh, self.snr), fresh)
        return x, state, estimate
