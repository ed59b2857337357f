"""Adams' methods: linear multistep solvers of the probability-flow ODE, in coordinates in which it is smooth.

With y = x / scale and a clock c, dy/dc = f, the step is y' = y + sum_j w_j f_j with w_j the integral of Lagrange's l_j(c) over the
step (Hairer, Norsett and Wanner 1993, "Solving ordinary differential equations I", section III.5): one call a step, order k.

    velocity   scale = alpha + sigma           c = sigma / (alpha + sigma)    f = eps - x0          straight where x0 is constant
    rotation   scale = sqrt(alpha^2 + sigma^2) c = atan(sigma / alpha)        f = cos c eps - sin c x0   v of Salimans and Ho 2022
    noise      scale = alpha                   c = sigma / alpha              f = eps               k-diffusion's LMS

`abm` looks once more at the step it took, with what the next call found there (Adams-Moulton): two uses of every call.

The first two are regular at both ends: from alpha = 0 the first step, and to sigma = 0 the last, are steps like any other.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.edm import euler
from safelight.sample.multistep import mixed, polynomial, recall, remember

Form = Literal["velocity", "rotation", "noise"]


class _Frame(NamedTuple):
    """y = x / scale at clock c, and f = of_x x + of_x0 x0."""

    scale: float
    clock: float
    of_x: float
    of_x0: float


def _frame(form: Form, level: Level) -> _Frame:
    """The coordinates at a level; f's coefficients are 0 at sigma = 0, where no slope is asked for."""
    alpha, sigma, s = level.floats
    if form == "velocity":
        total = alpha + sigma
        return _Frame(total, sigma / total, 1 / sigma if sigma else 0.0, -total / sigma if sigma else 0.0)
    if form == "rotation":
        root = math.hypot(alpha, sigma)
        return _Frame(root, math.atan2(sigma, alpha), alpha / (root * sigma) if sigma else 0.0, -root / sigma if sigma else 0.0)
    return _Frame(alpha, s, 1 / sigma if sigma else 0.0, -alpha / sigma if sigma else 0.0)


class _Adams(Sampler):
    """The k-step method in the coordinates of a kind."""

    k: int = Field(3, ge=1, le=8)

    @property
    def order(self) -> int:
        return self.k

    @property
    def coordinates(self) -> Form:
        """What it integrates in."""
        raise NotImplementedError(type(self).__name__)

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        here = _frame(self.coordinates, now)
        if math.isinf(here.clock):  # from alpha = 0 there is no s to integrate over
            return euler(x, estimate.x0, now, to), {}, estimate
        there, most = _frame(self.coordinates, to), self.k - 1
        slopes, clocks = recall(state, most)
        slopes.insert(0, estimate.x0.mul(here.of_x0).add_(x, alpha=here.of_x))
        clocks.insert(0, here.clock)
        weights = polynomial(tuple(clocks), here.clock, there.clock)
        out = mixed(x, there.scale / here.scale, slopes, [there.scale * w for w in weights])
        return out, remember(slopes[:most], clocks[:most]), estimate


class AB(_Adams, kind="ab"):
    """The k-step Adams-Bashforth method, in the coordinates `form` (see the module): order k, one call a step.

    form: `velocity` or `rotation`, regular from pure noise to the data. k: how many slopes a step looks back on, and its order.
    """

    form: Literal["velocity", "rotation"] = "velocity"

    @property
    def coordinates(self) -> Form:
        return self.form


class LMS(_Adams, kind="lms"):
    """The k-step Adams-Bashforth method in z = x/alpha over s = sigma/alpha, dz/ds = eps (Crowson, k-diffusion, `sample_lms`).

    k: how many slopes a step looks back on, and its order. A step from alpha = 0 is Euler's.
    """

    k: int = Field(4, ge=1, le=8)

    @property
    def coordinates(self) -> Form:
        return "noise"


class ABM(Sampler, kind="abm"):
    """Adams-Bashforth predicts, Adams-Moulton corrects by the slope that the next step's call has found at the predicted x, one call a step

    (PEC in Hairer, Norsett and Wanner 1993, section III.1, with unequal steps). As the slope was found at the predicted x_p and not at the
    corrected x_c, it is moved there: f(x_c) = f(x_p) + g (x_c - x_p) with g from d x0/dx = alpha v / (alpha^2 v + sigma^2), exact for
    Gaussian data of variance v = spread^2, and the corrector is solved for x_c. spread = 0 holds x0 as it was found, as UniPC does,
    which suits high noise; a large one holds f, which suits low noise.

    form: as for `ab`. k: slopes of the predictor. correct: past slopes of the corrector; order: the lower of k + 1 and correct + 1.
    The defaults were fitted on random Gaussian mixtures other than those of the benchmark (docs/samplers.md), where they leave a half
    to a fifth of the error of `ab` at equal calls on the grid `rect` with power 1.3.
    """

    form: Literal["velocity", "rotation"] = "velocity"
    k: int = Field(3, ge=1, le=8)
    correct: int = Field(2, ge=1, le=8)
    spread: float = Field(0.14, ge=0)

    @property
    def order(self) -> int:
        return min(self.k, self.correct) + 1

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        here, there = _frame(self.form, now), _frame(self.form, to)
        slopes, clocks = recall(state, max(self.k - 1, self.correct))
        if slopes:
            before = state["x"]
            assert isinstance(before, Tensor)
            alpha, sigma, _ = now.floats
            power = self.spread**2
            gain = here.of_x + here.of_x0 * (alpha * power / (alpha**2 * power + sigma**2))  # df/dx
            weights = polynomial((here.clock, *clocks[: self.correct]), clocks[0], here.clock)
            # y_c = y + sum_j w_j f_j + w (f + gain (scale y_c - x)), solved for x_c = scale y_c.
            scale = here.scale / (1 - weights[0] * gain * here.scale)
            fixed = mixed(before, scale * float(state["y"]), slopes[: self.correct], [scale * w for w in weights[1:]])
            fixed.add_(estimate.x0, alpha=scale * weights[0] * here.of_x0).add_(
                x, alpha=scale * weights[0] * (here.of_x - gain)
            )
            slope = mixed(estimate.x0, here.of_x0, [x, fixed], [here.of_x - gain, gain])
            x = fixed
        else:
            slope = estimate.x0.mul(here.of_x0).add_(x, alpha=here.of_x)
        slopes.insert(0, slope)
        clocks.insert(0, here.clock)
        ahead = polynomial(tuple(clocks[: self.k]), here.clock, there.clock)
        out = mixed(x, there.scale / here.scale, slopes[: self.k], [there.scale * w for w in ahead])
        most = max(self.k - 1, self.correct)
        return out, remember(slopes[:most], clocks[:most]) | {"x": x, "y": 1 / here.scale}, estimate
