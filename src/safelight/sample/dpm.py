"""DPM-Solver++: exponential integrators in the predicted picture (Lu et al. 2022b, "DPM-Solver++").

lambda = log(alpha / sigma), h = lambda' - lambda > 0, e^-h = r = s'/s. All but `dpm++2s` are multistep: one call a step.
The flow is x'/sigma' = x/sigma + integral of e^lambda D d lambda; a solver of order k replaces D by a polynomial in lambda.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import shrink
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.brownian import brownian
from safelight.sample.multistep import ahead, counted, counting, lam, lowered, mixed, reached, recall, remember


class _Second(Sampler):
    """What the multistep solvers of order 2 share.

    heun: weigh the difference of the two estimates as in the straight line through them, k = (q h/(1 - e^(-q h)) - 1)/(q h_before) with
    q = 1 + eta, instead of k = h/(2 h_before); peers call that solver type "heun". lower: in runs of fewer than 15 steps the last one is
    of order 1; euler_last: it always is. To sigma = 0 it is in any case.
    """

    heun: bool = False
    lower: bool = False
    euler_last: bool = False

    @property
    def multistep(self) -> bool:
        return True

    def start(self, n: int) -> State:
        return counting(n) if self.lower or self.euler_last else {}

    def _lean(self, now: Level, to: Level, state: State, rate: float) -> float:
        """k, the weight of the difference to the last estimate; 0 in the first step, after alpha = 0 and to sigma = 0."""
        before = state.get("lambda")
        if before is None or to.floats[1] == 0 or lowered(now, state, 2, self.lower, self.euler_last) == 1:
            return 0.0
        here = lam(now)
        span, ahead = here - float(before), lam(to) - here
        if math.isinf(span):
            return 0.0
        if self.heun:
            return (rate * ahead / -math.expm1(-rate * ahead) - 1) / (rate * span) if ahead else 0.0
        return ahead / (2 * span)


def _leant(x: Tensor, keep: float, push: float, estimate: Estimate, lean: float, state: State) -> Tensor:
    """keep x + push ((1 + k) x0 - k x0_before)."""
    if not lean:
        return mixed(x, keep, [estimate.x0], [push])
    before = state["x0"]
    assert isinstance(before, Tensor)
    return mixed(x, keep, [estimate.x0, before], [push * (1 + lean), -push * lean])


class DPM2M(_Second, kind="dpm++2m"):
    """x' = (sigma'/sigma) x - alpha' (e^-h - 1) D,  D = (1 + k) x0 - k x0_before,  k = h/(2 h_before)  (algorithm 2; order 2).

    heun: k of the straight line through both estimates. lower: in runs of fewer than 15 steps the last one is of order 1. euler_last: it
    always is.
    """

    @property
    def order(self) -> int:
        return 2

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        keep = sigma_to / sigma
        push = alpha_to - alpha * keep  # -alpha' (e^-h - 1), finite at alpha = 0
        out = _leant(x, keep, push, estimate, self._lean(now, to, state, 1.0), state)
        return out, {"x0": estimate.x0, "lambda": lam(now), **counted(state)}, estimate


class DPM2MSDE(_Second, kind="dpm++2m-sde"):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, eq. 18), with the noise scaled by eta:

    x' = (sigma'/sigma) r^eta x + alpha' (1 - r^(1+eta)) ((1 + k) x0 - k x0_before) + sigma' sqrt(1 - r^(2 eta)) n,  k = h/(2 h_before).
    eta = 1 is the reverse SDE, eta = 0 is `dpm++2m`. brownian: draw n from one path a picture, so that other step counts and grids see
    the same noise (`sample/brownian.py`; about ten draws a step instead of one). heun, lower, euler_last: as for `dpm++2m`.
    """

    eta: float = Field(1.0, ge=0)
    brownian: bool = False

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        _, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        r = shrink(now, to)
        damp = r**self.eta
        lean = self._lean(now, to, state, 1 + self.eta)
        out = _leant(x, sigma_to / sigma * damp, alpha_to * (1 - r * damp), estimate, lean, state)
        std = sigma_to * math.sqrt(1 - damp * damp)
        if std:
            out.add_(_drawn(self, noise, now, to, x, self.eta, self.brownian), alpha=std)
        return out, {"x0": estimate.x0, "lambda": lam(now), **counted(state)}, estimate


def _drawn(sampler: Sampler, noise: Draws | None, now: Level, to: Level, x: Tensor, eta: float, path: bool) -> Tensor:
    """The noise of a step, fresh or of the picture's path; from alpha = 0 the path has no beginning, and it is fresh."""
    if not path or noise is None or not now.floats[0]:
        return sampler.draw(noise, "step", now, to, x)
    return brownian(noise, now, to, x, eta)


class DPM2S(Sampler, kind="dpm++2s"):
    """The singlestep solver of order 2, two calls a step (algorithm 1 with r1 = r):

    u = (sigma_m/sigma) x - alpha_m (e^(-r h) - 1) D(x),  x' = (sigma'/sigma) x - alpha' (e^-h - 1) ((1 - 1/(2r)) D(x) + 1/(2r) D(u)),
    with the level m at lambda + r h. The last step, to sigma = 0, and one from alpha = 0 are of order 1.
    """

    r: float = Field(0.5, gt=0, le=1)

    @property
    def order(self) -> int:
        return 2

    @property
    def calls(self) -> int:
        return 2

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, s = now.floats
        alpha_to, sigma_to, s_to = to.floats
        keep = sigma_to / sigma
        push = alpha_to - alpha * keep
        if not alpha or not sigma_to:
            return mixed(x, keep, [estimate.x0], [push]), state, estimate
        middle = to if self.r == 1 else now.moved(s ** (1 - self.r) * s_to**self.r)
        alpha_m, sigma_m, _ = middle.floats
        ahead = mixed(x, sigma_m / sigma, [estimate.x0], [alpha_m - alpha * sigma_m / sigma])
        then = denoise(ahead, middle)
        part = 1 / (2 * self.r)
        return mixed(x, keep, [estimate.x0, then.x0], [push * (1 - part), push * part]), state, estimate


class _Third(Sampler):
    """The multistep solver of order 3, with eta of the reverse SDE's noise. last, plain: see the kinds."""

    plain: bool = False
    last: int = Field(1, ge=1, le=3)
    midpoint: bool = False
    lower: bool = False
    euler_last: bool = False

    @property
    def multistep(self) -> bool:
        return True

    def start(self, n: int) -> State:
        return counting(n) if self.lower or self.euler_last else {}

    def _go(
        self, eta: float, path: bool, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        alpha, sigma, _ = now.floats
        alpha_to, sigma_to, _ = to.floats
        pictures, places = recall(state, 2)
        here = lam(now)
        held = {**(remember(estimate.x0, here, pictures, places, 2) if alpha else {}), **counted(state)}
        most = lowered(now, state, 3, self.lower, self.euler_last)
        pictures = [estimate.x0, *pictures][:most]
        places = (here, *places)[:most]
        if not sigma_to:
            return to_data(pictures, places, self.last), held, estimate
        r = shrink(now, to)
        damp = r**eta
        if not alpha:
            out = mixed(x, sigma_to / sigma * damp, [estimate.x0], [alpha_to * (1 - r * damp)])
        elif self.midpoint and len(places) == 2:
            lean = (lam(to) - here) / (2 * (here - places[1]))
            push = alpha_to * (1 - r * damp)
            out = mixed(x, sigma_to / sigma * damp, pictures, [push * (1 + lean), -push * lean])
        else:
            out = mixed(x, sigma_to / sigma * damp, pictures, ahead(places, lam(to), 1 + eta, alpha_to, self.plain))
        if damp < 1:
            out.add_(_drawn(self, noise, now, to, x, eta, path), alpha=sigma_to * math.sqrt(1 - damp * damp))
        return out, held, estimate


class DPM3M(_Third, kind="dpm++3m"):
    """x' = (sigma'/sigma) x + alpha' integral of e^-(lambda' - l) D(l) dl, D the quadratic in lambda through three estimates: order 3.

    plain: weigh the second difference by half, as diffusers' and k-diffusion's "3M" do: their phi_3 lacks a factor of 2, which makes
    them of order 2, and often steadier at 20 steps and fewer. last: the order of the last step, to sigma = 0: 1 takes the estimate
    as it is, 2 and 3 what the estimates tend to there (`to_data`). midpoint: steps from two estimates are those of `dpm++2m`, as
    peers' are. lower: in runs of fewer than 15 steps the last is of order 1 and the one before it of order 2. euler_last: the last always
    is of order 1.
    """

    @property
    def order(self) -> int:
        return 2 if self.plain else 3

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        return self._go(0.0, False, denoise, x, now, to, state, noise)


class DPM3MSDE(_Third, kind="dpm++3m-sde"):
    """The reverse SDE by the same quadratic (Crowson, k-diffusion, `sample_dpmpp_3m_sde`; Lu et al. 2022b, eq. 18 at order 3):

    x' = (sigma'/sigma) r^eta x + alpha' (1 + eta) integral of e^-((1 + eta)(lambda' - l)) D(l) dl + sigma' sqrt(1 - r^(2 eta)) n.
    eta = 1 is the reverse SDE, eta = 0 is `dpm++3m`. plain, last, midpoint, lower, euler_last: as there. brownian: as for
    `dpm++2m-sde`.
    """

    eta: float = Field(1.0, ge=0)
    brownian: bool = False

    @property
    def order(self) -> int:
        return 1 if self.eta else 2 if self.plain else 3

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        return self._go(self.eta, self.brownian, denoise, x, now, to, state, noise)


def to_data(pictures: Sequence[Tensor], places: Sequence[float], last: int) -> Tensor:
    """x at sigma = 0 from estimates at lambdas (newest first): the polynomial in s^2 through the `last` newest ones, at s = 0.

    Along an exact path over a smooth density D is even in s, D = x_0 + c s^2 + ..., so two estimates leave an error of order s^4 where
    the newest alone leaves s^2. Estimates beyond s = 1 tell nothing of the data's end and are left out.
    """
    near = [i for i, p in enumerate(places[:last]) if i == 0 or p > 0]
    weights = reached(tuple(math.exp(-2 * places[i]) for i in near), 0.0)
    return mixed(pictures[0], weights[0], [pictures[i] for i in near[1:]], weights[1:])
