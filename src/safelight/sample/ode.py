"""The probability-flow ODE by an adaptive solver: as many calls as the tolerance asks for."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from safelight.denoise import Denoise
from safelight.process import Level
from safelight.sample.multistep import mixed
from safelight.spec import SpecError

# Dormand and Prince 1980, RK5(4)7M: c_i, a_ij row by row (the last row is b), and b - b^ of the embedded order 4.
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_MOST = 100_000
# Levels whose s agree to this are one.
_SAME = 1e-9


def _rms(error: Tensor) -> Tensor:
    return error.flatten(1).square().mean(1).max().sqrt()


def dormand_prince(
    slope: Callable[[Tensor, float], Tensor],
    y: Tensor,
    start: float,
    end: float,
    *,
    rtol: float,
    atol: float,
    first: float | None = None,
    norm: Callable[[Tensor], Tensor] = _rms,
) -> tuple[Tensor, int, int]:
    """y at `end` of dy/dc = slope(y, c), y at `start`: (y, calls of slope, steps refused).

    The local error of every row, rms over its values in units of atol + rtol |y|, is held below 1 by the size of the steps, which is
    one for the batch (Hairer, Norsett and Wanner 1993, section II.4). first: the first step's size to try (a hundredth of the way).
    norm: how large such an error (like y) is, a number; by default the rms of the worst row.
    Raises SpecError when the steps grow too small to go on.
    """
    sign = 1.0 if end > start else -1.0
    c, left = start, abs(end - start)
    h = min(first or left / 100, left)
    k0, calls, refused = slope(y, c), 1, 0
    while left > 0:
        h = min(h, left)
        if h < 1e-13 * max(abs(c), abs(end), 1e-300) or calls > _MOST:
            raise SpecError("the ODE cannot be followed to this tolerance: raise rtol and atol, or compute in float64")
        slopes = [k0]
        ahead = y
        for i in range(1, 7):
            ahead = mixed(y, 1.0, slopes, [sign * h * a for a in _A[i]])
            slopes.append(slope(ahead, end if i >= 5 and h == left else c + sign * h * _C[i]))
        calls += 6
        error = mixed(slopes[0], _E[0], slopes[1:], _E[1:]).mul_(h)
        scale = y.abs().maximum(ahead.abs()).mul_(rtol).add_(atol)
        worst = float(norm(error / scale))
        factor = 5.0 if worst == 0 else min(5.0, max(0.2, 0.9 * worst**-0.2)) if math.isfinite(worst) else 0.2
        if worst <= 1:
            left -= h
            c = end - sign * left
            y, k0 = ahead, slopes[6]  # its last slope is the next step's first
        else:
            refused += 1
        h *= factor
    return y, calls, refused


def between(now: Level, end: Level) -> tuple[tuple[float, float], Callable[[float], Level]]:
    """The clock in which the ODE is regular: (u, u') of two levels, u = sigma/(alpha + sigma), and the level at any u between them."""
    first, last = (level.floats[1] / (level.floats[0] + level.floats[1]) for level in (now, end))
    return (first, last), lambda u: now if u == first else end if u == last else now.moved(u / (1 - u))


def flow(denoise: Denoise, x: Tensor, now: Level, to: Level, *, rtol: float = 1e-5, atol: float = 1e-5) -> Tensor:
    """x at level `to` of the probability-flow ODE through x at `now` (Song et al. 2021, section 4.3), to a tolerance.

    It integrates y = x/(alpha + sigma) over u = sigma/(alpha + sigma), dy/du = eps - x0, which is regular from pure noise down, and up.
    x: (B, C, *space). now, to: levels that know their process; to the data it goes as far as the process's least s, and takes the
    estimate there. rtol, atol: bounds on the local error. A batch shares its step sizes, so a picture alone and in a batch agree to the
    tolerance and not to the last bit: that is why this is no sampler.
    Raises SpecError for levels without a process, and where the tolerance cannot be held.
    """
    end = to if to.floats[1] else now.moved(now.known.ends[0])
    if to.floats[1] or end.floats[2] < now.floats[2] * (1 - _SAME):
        places, level_at = between(now, end)

        def slope(y: Tensor, u: float) -> Tensor:
            level = level_at(u)
            alpha, sigma, _ = level.floats
            total = alpha + sigma
            return denoise(y * total, level).x0.mul(-total / sigma).add_(y, alpha=total / sigma)

        scale = now.floats[0] + now.floats[1]
        y, _, _ = dormand_prince(slope, x / scale, *places, rtol=rtol, atol=atol)
        x = y * (end.floats[0] + end.floats[1])
    return x if end is to else denoise(x, end).x0 * to.floats[0]
