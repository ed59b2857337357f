"""How strongly to guide: a number, or a number for each moment of a run.

A strength is a function of t (1 pure noise, 0 the picture), not of a step's number: the same description means the same guidance at
ten steps and at a hundred, in the middle of a run that begins at a strength of 0.6, and for solvers that look between two steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from safelight.process import Level
from safelight.spec import Spec

# No scale is above this: the arithmetic of float32 has room for it, and no picture is left long before.
HIGHEST = 1e6
# Grids and intervals write one time with different last bits (1 - 0.7 and 0.3): nearer than this they are one.
_SAME = 1e-9


class Strength(Spec, family="strength"):
    """A guidance scale that changes over a run. A plain number stands for `constant`, a list of numbers for `points`."""

    def at(self, t: float) -> float:
        """The scale at time t in [0, 1], at least 0."""
        raise NotImplementedError(type(self).__name__)


class Constant(Strength, kind="constant"):
    """The same throughout: what a plain number means."""

    scale: float = Field(2.0, ge=0, le=HIGHEST)

    def at(self, t: float) -> float:
        return self.scale


class Linear(Strength, kind="linear"):
    """clean + (noisy - clean) t. Rising towards the picture (noisy < clean) is what Wang et al. 2024 find best ("Analysis of
    classifier-free guidance weight schedulers")."""

    noisy: float = Field(1.0, ge=0, le=HIGHEST, description="at t = 1")
    clean: float = Field(3.0, ge=0, le=HIGHEST, description="at t = 0")

    def at(self, t: float) -> float:
        return self.clean + (self.noisy - self.clean) * t


class Cosine(Strength, kind="cosine"):
    """clean + (noisy - clean) (1 - cos(pi t)) / 2: level at both ends, steep in the middle."""

    noisy: float = Field(1.0, ge=0, le=HIGHEST, description="at t = 1")
    clean: float = Field(3.0, ge=0, le=HIGHEST, description="at t = 0")

    def at(self, t: float) -> float:
        return self.clean + (self.noisy - self.clean) * (1 - math.cos(math.pi * t)) / 2


class Power(Strength, kind="power"):
    """clean + (noisy - clean) t^power: a power above 1 comes near `clean` early in the run, one below 1 late."""

    noisy: float = Field(1.0, ge=0, le=HIGHEST, description="at t = 1")
    clean: float = Field(3.0, ge=0, le=HIGHEST, description="at t = 0")
    power: float = Field(2.0, gt=0)

    def at(self, t: float) -> float:
        return self.clean + (self.noisy - self.clean) * t**self.power


class Points(Strength, kind="points"):
    """Straight lines between scales at evenly spaced times, the first at t = 1, the last at t = 0."""

    scales: tuple[Annotated[float, Field(ge=0, le=HIGHEST)], ...] = Field((1.0, 3.0), min_length=1)

    def at(self, t: float) -> float:
        place = (1 - t) * (len(self.scales) - 1)
        i = min(int(place), max(len(self.scales) - 2, 0))
        here, there = self.scales[i], self.scales[min(i + 1, len(self.scales) - 1)]
        return here + (there - here) * (place - i)


# As a field of this type is read; of a bare class pydantic would take the schema it had before it became its family's root.
_STRENGTH: TypeAdapter[Strength] = TypeAdapter(Annotated[Strength, "any kind"])


def _scale(value: Any) -> Any:
    """A number or a Strength, so that only one branch of the union is left to say what is wrong."""
    if isinstance(value, Strength):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = {"kind": "points", "scales": tuple(value)}
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _STRENGTH.validate_python(value)  # its errors keep their path
    if not 0 <= number <= HIGHEST:
        raise PydanticCustomError("scale", "a guidance scale is a number from 0 to 1,000,000")
    return number


def _interval(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 <= low < high <= 1:
        raise ValueError(f"interval must be 0 <= low < high <= 1, not ({low:g}, {high:g})")
    return value


# A guidance scale: 2.0, [1, 4, 2], or {kind: linear, ...}.
Scale = Annotated[float | Strength, BeforeValidator(_scale)]
# The times at which to guide, from low to high; the ends count.
Interval = Annotated[tuple[float, float], AfterValidator(_interval)]


def within(interval: tuple[float, float], level: Level) -> bool:
    """Whether a single level lies in an interval of times, whose ends count."""
    return interval[0] - _SAME <= float(level.t) <= interval[1] + _SAME


def strength(scale: float | Strength, interval: tuple[float, float], level: Level, outside: float = 1.0) -> float:
    """The scale at a single level; `outside` at times beyond the interval."""
    if not within(interval, level):
        return outside
    return scale.at(float(level.t)) if isinstance(scale, Strength) else scale
