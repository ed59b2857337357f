"""Level: one noise level. The only place where broadcasting over pictures happens."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.process.base import Process


class Place(NamedTuple):
    """Where a level stands in its grid: `left` steps, () or one for each level, before the end of one of n, whatever part of it is run."""

    left: Tensor
    n: int


class _Level(NamedTuple):
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    process: Process | None = None
    told: Tensor | None = None
    place: Place | None = None


class Level(_Level):
    """A noise level, or a vector of them: x_t = alpha x_0 + sigma eps (Kingma et al. 2021, VDM, eq. 1).

    t: time in [0, 1], 0 = data. alpha: what is kept of the picture, in [0, 1]. sigma: how much noise is added, >= 0.
    All three are float64 tensors of one shape: () for a level, (B,) for a level per picture, (n+1,) for a whole grid.
    process: whose level it is, when known; needed only by solvers that ask for levels between those of the grid.
    told: what the network is told of it, where a grid says something else than the process does (`grid.Published`), of the same shape.
    place: where it stands in its grid, for samplers that behave by that.
    """

    @property
    def logsnr(self) -> Tensor:
        """log(alpha^2 / sigma^2): +inf at the data, -inf where alpha = 0."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def ratio(self) -> Tensor:
        """s = sigma / alpha, the noise relative to the picture: 0 at the data, +inf where alpha = 0."""
        return self.sigma / self.alpha

    @cached_property
    def floats(self) -> tuple[float, float, float]:
        """(alpha, sigma, s) of a single level as Python floats, computed once: a solver's arithmetic costs no tensor calls.

        Raises SpecError for a vector of levels.
        """
        if self.t.numel() != 1:
            raise SpecError(f"one level is needed here, not {self.t.numel()}; a grid is split by .split()")
        alpha, sigma = float(self.alpha), float(self.sigma)
        return alpha, sigma, sigma / alpha if alpha > 0 else math.inf

    @property
    def known(self) -> Process:
        """The process. Raises SpecError for a level that knows none."""
        if self.process is None:
            raise SpecError("this solver asks for the levels' process, and they know no process: make them with process.at(t)")
        return self.process

    def like(self, x: Tensor) -> Level:
        """This level ready to multiply x (B, C, *space): on its device, in its dtype but at least float32.

        A single level stays a scalar; one level a picture becomes (B, 1, ..., 1).
        """
        t, alpha, sigma = (shaped(v, x) for v in self[:3])
        return Level(t, alpha, sigma, self.process, self.told, self.place)

    def split(self) -> list[Level]:
        """The single levels of a vector of levels, in order."""
        if not self.t.ndim:
            return [self]
        count = len(self.t)
        told = [None] * count if self.told is None else self.told
        places = [None] * count if self.place is None else [Place(left, self.place.n) for left in self.place.left]
        rows = zip(self.t, self.alpha, self.sigma, told, places, strict=True)
        return [Level(t, a, s, self.process, n, place) for t, a, s, n, place in rows]

    def moved(self, ratio: float) -> Level:
        """The level of the same process whose s = sigma / alpha is `ratio` (the nearest one that the process has).

        Raises SpecError when the level knows no process (build levels with `process.at`).
        """
        return _moved(self.known, ratio)

    def between(self, to: Level) -> Level:
        """The level of the same process halfway in time. Raises SpecError as `moved` does."""
        return _at(self.known, (float(self.t) + float(to.t)) / 2)


def shaped(value: Tensor, x: Tensor) -> Tensor:
    """A number of a level, or one a picture (B,), ready to multiply x (B, C, *space): in its dtype, at least float32, on its device."""
    value = value.to(x.device, torch.promote_types(x.dtype, torch.float32))
    return value.view(-1, *(1,) * (x.ndim - 1)) if value.ndim else value


# A solver asks for the same levels in every run; as ordinary tensors, also where the first to ask is in inference mode.
@lru_cache(4096)
def _moved(process: Process, ratio: float) -> Level:
    logsnr = -2 * math.log(ratio) if ratio > 0 else math.inf
    with torch.inference_mode(False), torch.no_grad():
        return process.at(process.time(torch.tensor(logsnr, dtype=torch.float64)))


@lru_cache(4096)
def _at(process: Process, t: float) -> Level:
    with torch.inference_mode(False), torch.no_grad():
        return process.at(t)
