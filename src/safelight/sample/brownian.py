"""Brownian noise: one path a picture, whose pieces are the noise of a step, however many steps there are.

An exponential SDE solver needs, for a step from lambda to lambda', n = (U(lambda') - r^eta U(lambda)) / sqrt(1 - r^(2 eta)) with
r = e^-(lambda' - lambda) and U the stationary Ornstein-Uhlenbeck process of rate eta: e^(eta lambda) U is the Brownian motion that drives
the reverse SDE. U is known where it is asked for by bisection: the ends first, then the middle given the ends, and so on (the Brownian
bridge of Levy's construction; Li et al. 2020, "Scalable gradients for SDEs", section 4), each draw keyed by its place.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from weakref import WeakKeyDictionary

from torch import Tensor

from safelight.process import Level
from safelight.sample.base import Draws
from safelight.sample.multistep import lam

# The path is defined for s within e^-32..e^32; cells are halved until they are shorter than any two steps are apart.
_END = 32.0
_DEPTH = 16
_HELD = 64

_paths: WeakKeyDictionary[object, OrderedDict[object, Tensor]] = WeakKeyDictionary()


def brownian(draws: Draws, now: Level, to: Level, like: Tensor, eta: float) -> Tensor:
    """Standard normal draws like `like` (B, ...) for the step from `now` to `to`, both of finite s > 0: a piece of the path.

    Pieces of disjoint steps are independent; two pieces that follow each other make that of the whole step.
    """
    start, end = lam(now), lam(to)
    keep = math.exp(-eta * (end - start))
    spread = math.sqrt(-math.expm1(-2 * eta * (end - start)))
    there, here = _at(draws, end, like, eta), _at(draws, start, like, eta)
    return there.mul(1 / spread).add_(here, alpha=-keep / spread)


def _at(draws: Draws, place: float, like: Tensor, eta: float) -> Tensor:
    """U at lambda = place."""
    place = max(-_END, min(_END, place))
    left, right = -_END, _END
    a = _known(draws, ("a",), like, None, 0.0, 0.0, eta)
    b = _known(draws, ("b",), like, (a, None), 2 * _END, 0.0, eta)
    index = 0
    for depth in range(_DEPTH):
        middle = (left + right) / 2
        if place in (left, right):
            return a if place == left else b
        m = _known(draws, (depth, index), like, (a, b), middle - left, right - middle, eta)
        index *= 2
        if place < middle:
            right, b = middle, m
        else:
            left, a, index = middle, m, index + 1
    return _known(draws, (round(place * 1e9),), like, (a, b), place - left, right - place, eta)


def _known(
    draws: Draws,
    key: tuple[object, ...],
    like: Tensor,
    ends: tuple[Tensor, Tensor | None] | None,
    left: float,
    right: float,
    eta: float,
) -> Tensor:
    """U at a place, from its neighbours at distances `left` and `right`, kept for the next who asks."""
    held = _paths.setdefault(draws, OrderedDict())
    full = (*key, eta, tuple(like.shape), like.dtype, like.device)
    if full in held:
        held.move_to_end(full)
        return held[full]
    fresh = draws.normal(f"brownian {key}", None, None, like)
    if ends is not None:
        a, b = ends
        p, q = math.exp(-eta * left), math.exp(-eta * right)
        if b is None:
            fresh = fresh.mul(math.sqrt(-math.expm1(-2 * eta * left))).add_(a, alpha=p)
        else:
            lone, other = -math.expm1(-2 * eta * left), -math.expm1(-2 * eta * right)
            whole = -math.expm1(-2 * eta * (left + right))
            fresh = fresh.mul(math.sqrt(lone * other / whole)).add_(a, alpha=p * other / whole).add_(b, alpha=q * lone / whole)
    held[full] = fresh
    if len(held) > _HELD:
        held.popitem(last=False)
    return fresh
