"""Ancestral samplers: predict the picture, keep some of the predicted noise, add fresh noise. DDPM, DDIM, Euler ancestral.

All are one formula with different amounts of fresh noise (Song et al. 2021, DDIM, eq. 12, for any alpha and sigma):

    x' = alpha' x0 + sqrt(sigma'^2 - std^2) eps + std n,     eps = (x - alpha x0) / sigma
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.spec import SpecError


def shrink(now: Level, to: Level) -> float:
    """r = s'/s in [0, 1): how much of the noise-to-signal ratio a step leaves. 0 where alpha = 0 or sigma' = 0."""
    return to.floats[2] / now.floats[2]


def strided(now: Level, to: Level, state: State) -> Level:
    """Where a step ends that goes down T // n entries of a table of T, whatever its grid's next place; below entry 0, that is `to`.

    Raises SpecError for a level of a process that is no table.
    """
    process, n = now.known, now.place.n if now.place is not None else int(state["n"])
    if process.entries is None:
        raise SpecError(f"a strided step counts the entries of a table, and process '{process.kind}' is none")
    below = round(float(now.t) * process.entries) - process.entries // n
    return process.at(below / process.entries) if below > 0 else to


class _Ancestral(Sampler):
    """std = eta sigma' sqrt(1 - r^2), r = s'/s."""

    eta: float = Field(0.0, ge=0, le=1)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def free(self) -> bool:
        """Whether the noise is that of the estimate before its values were limited."""
        return False

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        std, kept = 0.0, sigma_to
        if self.eta:
            std = self.eta * sigma_to * math.sqrt(1 - shrink(now, to) ** 2)
            kept = math.sqrt(max(sigma_to**2 - std**2, 0.0))
        keep = kept / sigma
        if self.free and estimate.free is not None:
            out = x.mul(keep).add_(estimate.x0, alpha=alpha_to).add_(estimate.free, alpha=-keep * alpha)
        else:
            out = x.mul(keep).add_(estimate.x0, alpha=alpha_to - keep * alpha)
        if std:
            out.add_(self.draw(noise, "step", now, to, x), alpha=std)
        return out, state, estimate


class DDIM(_Ancestral, kind="ddim"):
    """std = eta sigma' sqrt(1 - r^2), r = s'/s (Song et al. 2021, DDIM, eq. 16).

    eta = 0: deterministic, order 1 (the exponential Euler step). eta = 1 over all entries of a table: DDPM with its small variance.
    free_noise: where a bend limits x0, eps stays what it was before, as in the published code; else it is what the limited x0 says.
    stride: a step goes down T // n entries whatever its grid's next place, as in the published code; only on tables.
    """

    free_noise: bool = False
    stride: bool = False

    @property
    def free(self) -> bool:
        return self.free_noise

    def start(self, n: int) -> State:
        return {"n": n} if self.stride else {}

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        return super().step(denoise, x, now, strided(now, to, state) if self.stride else to, state, noise)


class EulerAncestral(_Ancestral, kind="euler-ancestral"):
    """Euler down to s_down, then noise up to s' (Crowson, k-diffusion, `sample_euler_ancestral`, for any alpha and sigma):

    s_up = eta s' sqrt(1 - r^2), s_down = sqrt(s'^2 - s_up^2), z' = z + (s_down - s)(z - x0)/s + s_up n, where z = x / alpha.
    Written in x that is DDIM's formula term by term (alpha' s_up = std), so the two differ in their name and default eta alone.
    """

    eta: float = Field(1.0, ge=0, le=1)


class DDPM(Sampler, kind="ddpm"):
    """The posterior q(x' | x, x0) with x0 predicted (Ho et al. 2020, eq. 6-7, for any pair of levels):

    mean = (alpha/alpha') (sigma'^2/sigma^2) x + alpha' (1 - r^2) x0,  r = s'/s
    variance: `small` sigma'^2 (1 - r^2) (the posterior's own), `large` sigma^2 (1 - r^2) (that of the forward step), or `learned`
    exp(f log large + (1 - f) log small) with the network's fraction f (Nichol and Dhariwal 2021, eq. 15).
    """

    variance: Literal["small", "large", "learned"] = "small"

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        fresh = 1 - shrink(now, to) ** 2
        out = x.mul(alpha / alpha_to * (sigma_to / sigma) ** 2).add_(estimate.x0, alpha=alpha_to * fresh)
        if sigma_to > 0:
            small, large = sigma_to * math.sqrt(fresh), sigma * math.sqrt(fresh)
            draw = self.draw(noise, "step", now, to, x)
            if self.variance != "learned":
                out.add_(draw, alpha=small if self.variance == "small" else large)
            elif estimate.fraction is None:
                raise SpecError(
                    "sampler 'ddpm' with variance 'learned' needs a network that predicts the fraction; use 'small' or 'large'"
                )
            else:
                out.addcmul_(draw, small * (large / small) ** estimate.fraction)
        return out, state, estimate
