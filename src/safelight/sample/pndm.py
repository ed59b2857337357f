"""PNDM: pseudo numerical methods, classical weights with DDIM's step in place of Euler's (Liu et al. 2022, "PNDM")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.ancestral import strided
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.edm import euler
from safelight.sample.multistep import mixed, predicted_noise, recall, remember

# A step that takes s down by more than this is Euler's: Runge and Kutta's looks at both ends at once, and would lose all digits.
_FAR = 1e3
# Adams and Bashforth's weights for even steps, of 1 to 4 slopes.
_EVEN = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


class PNDM(Sampler, kind="pndm"):
    """x' = DDIM's step with e = (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3)/24 (F-PNDM, eq. 12-13), of order 2 for all its four slopes.

    runge_kutta: take the first three steps by the pseudo Runge-Kutta method, four calls each (S-PNDM's algorithm 2); else by fewer
    slopes, one call each, which is known as PLMS. A step from alpha = 0 is Euler's, and the last, to sigma = 0, does not look there.
    twice: PLMS takes its first step by the mean of the slopes at both ends (latent diffusion's code). stride: a step goes down T // n
    entries whatever its grid's next place, as in the published code; only on tables. slope: what is weighed, the `noise` or `v` of a
    network that predicts it.
    """

    runge_kutta: bool = True
    twice: bool = False
    stride: bool = False
    slope: Literal["noise", "v"] = "noise"

    @property
    def order(self) -> int:
        return 2

    @property
    def multistep(self) -> bool:
        return True

    def start(self, n: int) -> State:
        return {"n": n} if self.stride else {}

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        if not now.floats[0]:
            return euler(x, estimate.x0, now, to), {name: state[name] for name in state if name == "n"}, estimate
        end = not to.floats[1] or not float(to.t)
        to = strided(now, to, state) if self.stride else to
        first = self._slope(x, estimate.x0, now)
        slopes, places = recall(state, 3)
        held = {**remember(first, float(now.t), slopes, places, 3), **({"n": state["n"]} if self.stride else {})}
        # A turn of the slope turns the noise by as much, or by alpha as much.
        of = 1.0 if self.slope == "noise" else now.floats[0]
        turn: Tensor | None
        if not self.runge_kutta and self.twice and not slopes and not end:
            turn = self._seen(denoise, x, estimate.x0, None, now, to).sub_(first).mul_(of / 2)
        elif not self.runge_kutta or len(slopes) == 3 or end:
            own, *others = _EVEN[len(slopes)]
            if self.slope == "v":
                turn = mixed(first, of * (own - 1), slopes, [of * w for w in others])
            else:
                return self._even(x, estimate.x0, slopes, own, others, now, to), held, estimate
        elif now.floats[2] > _FAR * to.floats[2]:
            turn = None
        else:
            middle = now.between(to)
            second = self._seen(denoise, x, estimate.x0, None, now, middle)
            third = self._seen(denoise, x, estimate.x0, second.sub(first).mul_(of), now, middle)
            fourth = self._seen(denoise, x, estimate.x0, third.sub(first).mul_(of), now, to)
            turn = mixed(first, -of * (1 / 3 + 1 / 3 + 1 / 6), [second, third, fourth], (of / 3, of / 3, of / 6))
        return _ddim(x, estimate.x0, turn, now, to), held, estimate

    def _slope(self, x: Tensor, x0: Tensor, level: Level) -> Tensor:
        """eps, or v = alpha eps - sigma x0."""
        eps = predicted_noise(x, x0, level)
        return eps if self.slope == "noise" else eps.mul_(level.floats[0]).add_(x0, alpha=-level.floats[1])

    def _seen(self, denoise: Denoise, x: Tensor, x0: Tensor, turn: Tensor | None, now: Level, to: Level) -> Tensor:
        """The slope as it is seen at the end of a step."""
        there = _ddim(x, x0, turn, now, to)
        return self._slope(there, denoise(there, to).x0, to)

    def _even(
        self, x: Tensor, x0: Tensor, slopes: Sequence[Tensor], own: float, others: Sequence[float], now: Level, to: Level
    ) -> Tensor:
        """DDIM's step, and (own - 1) e_0 of x and x0 with the other slopes."""
        alpha, sigma, _ = now.floats
        part, keep = _part(now, to), to.floats[1] / sigma
        extra = part * (own - 1) / sigma
        of_x0 = to.floats[0] - keep * alpha - extra * alpha
        return mixed(x, keep + extra, (x0, *slopes), (of_x0, *(part * w for w in others)))


def _ddim(x: Tensor, x0: Tensor, turn: Tensor | None, now: Level, to: Level) -> Tensor:
    """x' = alpha' (x - sigma e)/alpha + sigma' e with e = eps + turn, by the x0 that was seen with eps, which loses no digits."""
    out = euler(x, x0, now, to)
    if turn is None:
        return out
    return out.add_(turn, alpha=_part(now, to))


def _part(now: Level, to: Level) -> float:
    """sigma' - alpha' sigma / alpha, what DDIM's step takes of e."""
    alpha, sigma, _ = now.floats
    alpha_to, sigma_to, _ = to.floats
    return sigma_to - alpha_to * sigma / alpha
