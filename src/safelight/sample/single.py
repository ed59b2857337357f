"""DPM-Solver++ in singlestep form over a grid's own places: each group of 1, 2 or 3 steps begins anew (Lu et al. 2022b, section 4)."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import shrink
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.multistep import ahead, counted, counting, lam, mixed, recall, remaining, remember


class Single(Sampler, kind="dpm++single"):
    """Groups of k steps: the j-th goes again from where its group began, with the j estimates found since, one call a step.

    Over a group x'/sigma' = x/sigma + integral of e^lambda D d lambda from its beginning, D the polynomial in lambda through the group's
    estimates: each group is one step of the singlestep solver of order k whose intermediate places are the grid's (diffusers'
    DPMSolverSinglestep, k-diffusion's `dpm_fast`). eta: noise of the reverse SDE, as for `dpm++2m-sde`.
    heun: as the polynomial has it; else a second step weighs the difference by half of it and a third leaves out the middle estimate,
    which peers call "midpoint". lower: the last group is of so many steps as are left, and ends in one of order 1, as does every run to
    sigma = 0 and every run that k does not divide.
    """

    k: int = Field(2, ge=1, le=3)
    eta: float = Field(0.0, ge=0)
    heun: bool = False
    lower: bool = False

    @property
    def order(self) -> int:
        return 1 if self.eta else self.k

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def multistep(self) -> bool:
        return self.k > 1

    def start(self, n: int) -> State:
        return counting(n)

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        left, n = remaining(now, state)
        alpha_to, sigma_to, _ = to.floats
        _, sigma, s = now.floats
        if not sigma_to:
            return estimate.x0 * alpha_to, counted(state), estimate
        place = self._place(n, n - left)
        pictures, places = recall(state, place) if place else ([], ())
        # A group begins again at the run's own beginning, and after alpha = 0, from where nothing can be integrated.
        place = 0 if not pictures or math.isinf(float(state["s"])) else place
        pictures, places = (pictures, places) if place else ([], ())
        pictures, places = [estimate.x0, *pictures], (lam(now), *places)
        begun, begun_sigma, begun_s = (state["x"], float(state["sigma"]), float(state["s"])) if place else (x, sigma, s)
        assert isinstance(begun, Tensor)
        held: dict[str, Tensor | float] = {**counted(state), "x": begun, "sigma": begun_sigma, "s": begun_s}
        held |= remember(estimate.x0, places[0], pictures[1:], places[1:], self.k - 1)
        r = to.floats[2] / begun_s if place else shrink(now, to)
        damp = r**self.eta
        keep, push = sigma_to / begun_sigma * damp, alpha_to * (1 - r * damp)
        weights = self._weights(places, -math.log(to.floats[2]), push, alpha_to)
        out = mixed(begun, keep, pictures, weights)
        if damp < 1:
            out.add_(self.draw(noise, "step", now, to, x), alpha=sigma_to * math.sqrt(1 - damp * damp))
        return out, held, estimate

    def _place(self, n: int, i: int) -> int:
        """Which step of its group step i of n is, from 0."""
        if not (self.lower or n % self.k):
            return i % self.k
        # The last step is a group of its own; where k divides n, the group before it has one step fewer.
        if i == n - 1 and (self.k < 3 or n % 3 < 2):
            return 0
        return i % self.k

    def _weights(self, places: tuple[float, ...], end: float, push: float, scale: float) -> list[float]:
        """Of the estimates, the newest first; the group began at the last of the places."""
        rate = 1 + self.eta
        if len(places) == 1:
            return [push]
        first, newest = places[-1], places[0]
        if len(places) == 2 and not self.heun:
            lean = push * (end - first) / (2 * (newest - first))
            return [lean, push - lean]
        if len(places) == 3 and not self.heun:
            own, new = ahead((first, newest), end, rate, scale)
            return [new, 0.0, own]
        own, *others = ahead((first, *reversed(places[:-1])), end, rate, scale)
        return [*reversed(others), own]
