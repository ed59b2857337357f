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
from functools import lru_cache
from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.edm import euler
from safelight.sample.multistep import HELD, less, mixed, polynomial, recall, remember

Form = Literal["velocity", "rotation", "noise"]


class _Frame(NamedTuple):
    """y = x / scale at clock c, and f = of_x x + of_x0 x0."""

    scale: float
    clock: float
    of_x: float
    of_x0: float


@lru_cache(HELD)
def _frame(form: Form, floats: tuple[float, float, float]) -> _Frame:
    """The coordinates at a level of these floats; f's coefficients are 0 at sigma = 0, where no slope is asked for."""
    alpha, sigma, s = floats
    if form == "velocity":
        total = alpha + sigma
        return _Frame(total, sigma / total, 1 / sigma if sigma else 0.0, -total / sigma if sigma else 0.0)
    if form == "rotation":
        root = math.hypot(alpha, sigma)
        return _Frame(root, math.atan2(sigma, alpha), alpha / (root * sigma) if sigma else 0.0, -root / sigma if sigma else 0.0)
    return _Frame(alpha, s, 1 / sigma if sigma else 0.0, -alpha / sigma if sigma else 0.0)


class _Ahead(NamedTuple):
    """x' = keep x + sum_j weights_j f_j."""

    keep: float
    weights: tuple[float, ...]


@lru_cache(HELD)
def _ahead(form: Form, clocks: tuple[float, ...], now: tuple[float, float, float], to: tuple[float, float, float]) -> _Ahead:
    """The step by slopes at these clocks, the first of them that of `now`."""
    here, there = _frame(form, now), _frame(form, to)
    weights = polynomial(clocks, here.clock, there.clock)
    return _Ahead(there.scale / here.scale, tuple(there.scale * w for w in weights))


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

    @property
    def multistep(self) -> bool:
        return self.k > 1

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        form = self.coordinates
        here = _frame(form, now.floats)
        if math.isinf(here.clock):  # from alpha = 0 there is no s to integrate over
            return euler(x, estimate.x0, now, to), {}, estimate
        most = self.k - 1
        slopes, clocks = recall(state, most)
        slope = estimate.x0.mul(here.of_x0).add_(x, alpha=here.of_x)
        step = _ahead(form, (here.clock, *clocks), now.floats, to.floats)
        out = mixed(x, step.keep, (slope, *slopes), step.weights)
        return out, remember(slope, here.clock, slopes, clocks, most), estimate


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

    @property
    def multistep(self) -> bool:
        return True

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        most = max(self.k, self.correct)
        slopes, clocks = recall(state, most)
        here, turn, step = _both(self.form, self.k, self.correct, self.spread, clocks, now.floats, to.floats)
        slope = mixed(estimate.x0, here.of_x0, (x, *slopes), (here.of_x, *turn))
        out = mixed(x, step.keep, (slope, *slopes), step.weights)
        return out, remember(slope, here.clock, slopes, clocks, most), estimate


@lru_cache(HELD)
def _both(
    form: Form,
    k: int,
    correct: int,
    spread: float,
    clocks: tuple[float, ...],
    now: tuple[float, float, float],
    to: tuple[float, float, float],
) -> tuple[_Frame, tuple[float, ...], _Ahead]:
    """Corrector and predictor as one step from the predicted x, by the slopes at the clocks of the past (the newest first).

    The predictor came by weights a_j from y to y_p, the corrector by w_j, and w for the new slope, to y_c: so with d = w - a
    y_c = y_p + sum_j d_j f_j + w f_c,  f_c = f_p + g (x_c - x_p) = q f_p + q g scale sum_j d_j f_j,  q = 1/(1 - w g scale),
    and neither y nor x_c is needed. Returned: the coefficients of f_c, of the f_j in it, and of the step from x_p to x'.
    """
    here, there = _frame(form, now), _frame(form, to)
    ahead = list(polynomial((here.clock, *clocks)[:k], here.clock, there.clock))
    keep = there.scale / here.scale
    if not clocks:
        return here, (), _Ahead(keep, tuple(there.scale * w for w in ahead))
    new, *back = polynomial((here.clock, *clocks[:correct]), clocks[0], here.clock)
    change = less(back, polynomial(clocks[:k], clocks[0], here.clock))
    alpha, sigma, _ = now
    power = spread**2
    gain = here.of_x + here.of_x0 * (alpha * power / (alpha**2 * power + sigma**2))  # df/dx
    q = 1 / (1 - new * gain * here.scale)
    turn = tuple(q * gain * here.scale * d for d in change)
    weights = less([new, *change], [-w for w in ahead])
    own = here._replace(of_x=q * here.of_x, of_x0=q * here.of_x0)
    return own, turn, _Ahead(keep, tuple(there.scale * w for w in weights))
