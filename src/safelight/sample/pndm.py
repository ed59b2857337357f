"""PNDM: pseudo numerical methods, classical weights with DDIM's step in place of Euler's (Liu et al. 2022, "PNDM")."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
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
    """

    runge_kutta: bool = True

    @property
    def order(self) -> int:
        return 2

    @property
    def multistep(self) -> bool:
        return True

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        estimate = denoise(x, now)
        if not now.floats[0]:
            return euler(x, estimate.x0, now, to), {}, estimate
        first = predicted_noise(x, estimate.x0, now)
        slopes, places = recall(state, 3)
        held = remember(first, float(now.t), slopes, places, 3)
        if not self.runge_kutta or len(slopes) == 3 or not to.floats[1]:
            own, *others = _EVEN[len(slopes)]
            alpha, sigma, _ = now.floats
            part, keep = _part(now, to), to.floats[1] / sigma
            # DDIM's step, and (own - 1) e_0 of x and x0 with the other slopes.
            extra = part * (own - 1) / sigma
            of_x0 = to.floats[0] - keep * alpha - extra * alpha
            out = mixed(x, keep + extra, (estimate.x0, *slopes), (of_x0, *(part * w for w in others)))
            return out, held, estimate
        if now.floats[2] > _FAR * to.floats[2]:
            turn = None
        else:
            middle = now.between(to)
            second = _seen(denoise, x, estimate.x0, None, now, middle)
            third = _seen(denoise, x, estimate.x0, second.sub(first), now, middle)
            fourth = _seen(denoise, x, estimate.x0, third.sub(first), now, to)
            turn = _turned(first, [second, third, fourth], (1 / 3, 1 / 3, 1 / 6))
        return _ddim(x, estimate.x0, turn, now, to), held, estimate


def _seen(denoise: Denoise, x: Tensor, x0: Tensor, turn: Tensor | None, now: Level, to: Level) -> Tensor:
    """eps as it is seen at the end of a step."""
    there = _ddim(x, x0, turn, now, to)
    return predicted_noise(there, denoise(there, to).x0, to)


def _turned(first: Tensor, others: Sequence[Tensor], weights: Sequence[float]) -> Tensor | None:
    """How far sum_j w_j e_j stands from e_0, the weights adding up to 1; None where there are no others."""
    return mixed(first, -sum(weights), others, weights) if others else None


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
