"""Variations: the same request with noise a little way off."""

from __future__ import annotations

from collections.abc import Generator

from pydantic import Field, field_validator
from torch import Tensor

from safelight.assets import Assets
from safelight.between import Between, Rows, tempered
from safelight.model import Model
from safelight.sample import Draws, Sampler
from safelight.spec import SpecError
from safelight.task.base import Aside, Brief, Request, Start, Task
from safelight.task.interpolate import Interpolate
from safelight.task.invert import Invert
from safelight.task.text import Text


class Vary(Task, kind="vary"):
    """Another task with every draw of picture k replaced by slerp(its own, that of picture k of the seed `seed`, strength).

    What other tools call variation seed (subseed) and variation strength (subseed strength), with two differences: the noise that
    samplers add on the way is varied too, not the start alone, so that with any sampler 0 is the original and 1 the other seed's
    picture, bit for bit; and the angle is that of the whole noise, not one for each of its columns.

    of: the task that is varied, a variation too (then a walk from seed to seed). number: which picture of the request's seed is
    varied; all pictures of the run are then variations of that one. None: each picture of the run is varied by itself.
    """

    seed: int = 0
    strength: float = Field(0.1, ge=0, le=1)
    number: int | None = Field(None, ge=0, lt=2**32)
    of: Task = Text()

    @field_validator("of")
    @classmethod
    def _draws(cls, of: Task) -> Task:
        if isinstance(of, Interpolate) or (isinstance(of, Invert) and not of.vary):
            fix = "; it has a vary of its own" if isinstance(of, Invert) else ""
            raise ValueError(f"task '{of.kind}' does not draw its pictures' own noise, so there is nothing to vary{fix}")
        return of

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.of.inputs

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        return self.of.size(request, model, assets)

    def sampler(self, usual: Sampler) -> Sampler:
        return self.of.sampler(usual)

    def draws(self, seed: int, numbers: tuple[int, ...]) -> Draws:
        """The noise of the pictures `numbers` of a request of this seed."""
        own = numbers if self.number is None else (self.number,) * len(numbers)
        base = self.of.draws(seed, own) if isinstance(self.of, Vary) else Rows((seed, k) for k in own)
        return Between(base, Rows((self.seed, k) for k in numbers), [self.strength] * len(numbers))

    def stages(self, brief: Brief) -> Generator[Start | Aside, Tensor, None]:
        yield from self._innermost.stages(self._varied(brief))

    def decode(self, brief: Brief, z: Tensor) -> Tensor:
        return self._innermost.decode(brief, z)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        return self._innermost.finish(self._varied(brief), pictures)

    @property
    def _innermost(self) -> Task:
        return self.of._innermost if isinstance(self.of, Vary) else self.of

    def _varied(self, brief: Brief) -> Brief:
        if brief.request.seed == self.seed and self.number is None and self.strength and not isinstance(self.of, Vary):
            raise SpecError(f"vary: the variation seed is the seed itself ({self.seed}), so nothing would vary: choose another")
        noise = self.draws(brief.request.seed, brief.numbers)
        return brief._replace(noise=tempered(noise, brief.request.temperature))
