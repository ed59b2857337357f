"""What linear multistep solvers share: the memory of past slopes, and the weights that a polynomial through them gets.

A solver writes the flow from one noise level to a lower one as y' = y + integral of f, with f known at the places p_0 (now), p_1, ...
of the steps before, and replaces f by the polynomial sum_j f_j l_j(p) through them (l_j: Lagrange's basis). The weights are integrals
of l_j, computed once for each set of places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

from torch import Tensor

from safelight.process import Level
from safelight.sample.base import State

# Coefficients of levels are Python numbers of a few hundred bytes a step; a thousand steps of several grids are held.
HELD = 16_384
# What the state calls slopes and their places, the newest first; no solver looks back further.
_NAMES = tuple((f"f{i}", f"p{i}") for i in range(1, 17))
# Below this the moments are summed as a series, above by recursion; both are exact to rounding there.
_SMALL = 1.0
# What peers call `lower_order_final` lowers orders in runs of fewer steps than this.
_BRIEF = 15


@lru_cache(HELD)
def polynomial(places: tuple[float, ...], start: float, end: float) -> tuple[float, ...]:
    """w_j = integral of l_j(p) dp from `start` to `end`: the Adams-Bashforth weights of unequal steps (Hairer et al. 1993, III.5)."""
    span = end - start
    basis = _lagrange(tuple((p - start) / span for p in places))
    return tuple(span * sum(c / (m + 1) for m, c in enumerate(row)) for row in basis)


@lru_cache(HELD)
def exponential(places: tuple[float, ...], span: float, rate: float, plain: bool = False) -> tuple[float, ...]:
    """w_j = rate * integral over 0..span of exp(-rate (span - q)) l_j(q) dq; they add up to 1 - exp(-rate span).

    places: q_j relative to where the step begins. rate, span: of any signs, both finite. plain: with half of the second moment.
    The weights of exponential integrators (Hochbruck and Ostermann 2010, "Exponential integrators", section 2.4).
    """
    basis = _lagrange(tuple(q / span for q in places))
    moments = _moments(rate * span, len(places))
    if plain and len(moments) > 2:
        moments[2] /= 2
    return tuple(sum(c * m for c, m in zip(row, moments, strict=True)) for row in basis)


@lru_cache(HELD)
def ahead(places: tuple[float, ...], end: float, rate: float, scale: float, plain: bool = False) -> tuple[float, ...]:
    """scale times the `exponential` weights of a step from places[0] to `end`, of estimates at the places."""
    relative = tuple(p - places[0] for p in places)
    return tuple(scale * w for w in exponential(relative, end - places[0], rate, plain))


@lru_cache(HELD)
def reached(places: tuple[float, ...], end: float) -> tuple[float, ...]:
    """l_j(end): what the polynomial through the places is at `end`."""
    return tuple(math.prod((end - q) / (p - q) for i, q in enumerate(places) if i != j) for j, p in enumerate(places))


def _lagrange(places: Sequence[float]) -> list[list[float]]:
    """Row j: the coefficients of 1, p, p^2, ... of the polynomial that is 1 at place j and 0 at the others."""
    rows = []
    for j, here in enumerate(places):
        row, bottom = [1.0], 1.0
        for i, other in enumerate(places):
            if i == j:
                continue
            bottom *= here - other
            row = [(row[m - 1] if m else 0.0) - other * (row[m] if m < len(row) else 0.0) for m in range(len(row) + 1)]
        rows.append([c / bottom for c in row])
    return rows


def _moments(z: float, count: int) -> list[float]:
    """M_m = z * integral over 0..1 of exp(-z (1 - x)) x^m dx, m = 0..count-1. M_0 = 1 - e^-z and M_m = 1 - m/z M_(m-1)."""
    if abs(z) > _SMALL:
        found = [-math.expm1(-z)]
        for m in range(1, count):
            found.append(1 - m / z * found[-1])
        return found
    # Upward the recursion would cancel: the highest by its series sum_i (-1)^i z^(i+1) m!/(m+i+1)!, the others downward from it.
    m, total, i = count - 1, 0.0, 0
    term = z / (m + 1)
    while abs(term) > 1e-18 * abs(total) and i < 40:
        total += term
        i += 1
        term *= -z / (m + i + 1)
    found = [total]
    for m in range(count - 1, 0, -1):
        found.append(z / m * (1 - found[-1]))
    return found[::-1]


def lam(level: Level) -> float:
    """lambda = log(alpha / sigma), half the log-SNR: +inf at the data, -inf where alpha = 0."""
    s = level.floats[2]
    return math.inf if s == 0 else -math.log(s)


def predicted_noise(x: Tensor, x0: Tensor, level: Level) -> Tensor:
    """eps = (x - alpha x0) / sigma."""
    alpha, sigma, _ = level.floats
    return x0.mul(-alpha / sigma).add_(x, alpha=1 / sigma)


def recall(state: State, most: int) -> tuple[list[Tensor], tuple[float, ...]]:
    """Up to `most` past slopes and their places, the newest first."""
    slopes: list[Tensor] = []
    places: list[float] = []
    for f, p in _NAMES[:most]:
        if f not in state:
            break
        slopes.append(state[f])  # type: ignore[arg-type]
        places.append(state[p])  # type: ignore[arg-type]
    return slopes, tuple(places)


def remember(slope: Tensor, place: float, slopes: Sequence[Tensor], places: Sequence[float], most: int) -> State:
    """The state that `recall` reads: a new slope and its place before those of the past, `most` in all."""
    if not most:
        return {}
    held: dict[str, Tensor | float] = {"f1": slope, "p1": place}
    for (f, p), old, there in zip(_NAMES[1:most], slopes, places, strict=False):
        held[f], held[p] = old, there
    return held


def counting(n: int) -> State:
    """The state of a solver that must know how far its run of n steps has come, before the first."""
    return {"n": n, "left": n}


def counted(state: State) -> dict[str, Tensor | float]:
    """What `counting` put there, one step later; nothing where it put nothing."""
    return {"n": state["n"], "left": float(state["left"]) - 1} if "left" in state else {}


def remaining(now: Level, state: State) -> tuple[int, int]:
    """(left, n): the steps from here to the end, this one included, of how many.

    By the level's place in its grid; else by the run's own count, which `counting` began.
    """
    if now.place is not None:
        return int(now.place.left), now.place.n
    return int(state["left"]), int(state["n"])


def lowered(now: Level, state: State, most: int, short: bool, euler: bool) -> int:
    """The order of a step of a solver of order `most` that takes lower ones at a run's end.

    short: in runs of fewer than 15 steps the last is of order 1 and the one before it of at most 2. euler: the last is always of order 1.
    """
    if not short and not euler:
        return most
    left, n = remaining(now, state)
    brief = short and n < _BRIEF
    if left == 1 and (brief or euler):
        return 1
    return min(most, 2) if left == 2 and brief else most


def mixed(x: Tensor, keep: float, slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """keep x + sum_j weights_j slopes_j."""
    out = x.mul(keep)
    for slope, weight in zip(slopes, weights, strict=True):
        out.add_(slope, alpha=weight)
    return out


def less(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a - b, the shorter one followed by zeros."""
    return [u - v for u, v in zip_longest(a, b, fillvalue=0.0)]
