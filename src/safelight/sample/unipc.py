"""UniPC: a predictor and a corrector that share every call of the denoiser (Zhao et al. 2023, "UniPC")."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.dpm import to_data
from safelight.sample.multistep import exponential, lam, mixed, recall, remember


class UniPC(Sampler, kind="unipc"):
    """UniP-k, and UniC-k on what the next step's call has found: order k + 1, one call a step (algorithms 1, 5 and 6).

    The estimate made at the predicted x' first corrects x' over the step that led there, then predicts from it: both are the flow
    x'/sigma' = x/sigma + integral of e^lambda D d lambda with D a polynomial in lambda, through k estimates of the past, the corrector's
    through the new one too. Their coefficients do not depend on B(h) but for one free choice, which the paper takes as 1/2:

    UniP-2  alpha' ((1 - e^-h) D_0 + 1/2 B (D_0 - D_1)/r),  UniC-1  alpha' ((1 - e^-h) D_0 + 1/2 B (D' - D_0)),  r = -h_before/h,
    B(h) = h (`bh1`) or 1 - e^-h (`bh2`).

    k: how many estimates the predictor looks back on. correct: False leaves UniP-k alone, of order k. last: the order of the last
    step, to sigma = 0, as for `dpm++3m`; no corrector follows it, as nothing is called there.
    """

    k: int = Field(3, ge=1, le=6)
    b: Literal["bh1", "bh2"] = "bh2"
    correct: bool = True
    last: int = Field(1, ge=1, le=3)

    @property
    def order(self) -> int:
        return self.k + self.correct

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        pictures, places = recall(state, self.k)
        if self.correct and pictures:
            x = self._corrected(state, now, estimate.x0, pictures, places)
        pictures.insert(0, estimate.x0)
        places.insert(0, lam(now))
        if not sigma_to:
            return to_data(pictures, places, self.last), {}, estimate
        if not alpha:
            keep = sigma_to / sigma
            return mixed(x, keep, [estimate.x0], [alpha_to]), {}, estimate
        used, ends = pictures[: self.k], [p - places[0] for p in places[: self.k]]
        span = lam(to) - places[0]
        if len(used) == 2:
            lean = self._b(span) / 2 * span / -ends[1]
            weights: tuple[float, ...] = (-math.expm1(-span) + lean, -lean)
        else:
            weights = exponential(tuple(ends), span, 1.0)
        out = mixed(x, sigma_to / sigma, used, [alpha_to * w for w in weights])
        held = remember(pictures[: self.k], places[: self.k])
        return out, held | {"x": x, "sigma": sigma}, estimate

    def _corrected(self, state: State, now: Level, new: Tensor, pictures: list[Tensor], places: list[float]) -> Tensor:
        """x at `now` again, from x before the last step and all estimates, that of `now` among them."""
        before = state["x"]
        assert isinstance(before, Tensor)
        alpha, sigma, _ = now.floats
        span = lam(now) - places[0]
        if len(pictures) == 1:
            lean = self._b(span) / 2
            weights: tuple[float, ...] = (lean, -math.expm1(-span) - lean)
        else:
            weights = exponential((span, *(p - places[0] for p in places)), span, 1.0)
        return mixed(before, sigma / float(state["sigma"]), [new, *pictures], [alpha * w for w in weights])

    def _b(self, span: float) -> float:
        return span if self.b == "bh1" else -math.expm1(-span)
