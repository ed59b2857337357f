"""Interpolation: the pictures on the way from one picture to another, in noise, in words, or in both."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight import between
from safelight.between import Between, Rows
from safelight.cond import Cond
from safelight.data.transform import Crop, Fit
from safelight.process import Level
from safelight.sample import Sampler
from safelight.spec import Spec, SpecError
from safelight.task import canvas
from safelight.task.base import Aside, Brief, Start, Task, conditions, launch
from safelight.task.invert import lifted, undoable


class End(Spec):
    """Where a path begins, turns or ends: what the `text` task makes of these words and noise, or a picture.

    What is None is the request's. number: of the picture of that seed. picture: a seal; its x_T is found by inversion, with the
    prompt as its words, and stands for the noise.
    """

    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    number: int = Field(0, ge=0, lt=2**32)
    picture: str | None = None

    @model_validator(mode="after")
    def _one_noise(self) -> End:
        if self.picture is not None and (self.seed is not None or self.number):
            raise ValueError("a picture has its own noise: give either the picture or seed and number")
        return self


class Place(NamedTuple):
    """Where a frame lies: at `part` (0..1) of the way from end `leg` to the next."""

    leg: int
    part: float

    @property
    def next(self) -> int:
        """The end that the way leads to."""
        return self.leg + 1


class Turn(NamedTuple):
    """How far a leg turns, in degrees: the noise, None for one that inversion has to find; the words, None where nothing is said."""

    noise: float | None
    words: float | None


class Interpolate(Task, kind="interpolate"):
    """A path through two or more ends; picture k of the run is frame k of `frames`, spread evenly, the first and the last on the ends.

    Start noise, and what a sampler draws on the way, by `slerp`; the words' embeddings, of every branch of the guidance, by
    `between.conds`. So equal seeds leave the noise in its place and only the words move, and the other way round. An end's own
    frame has that end's very noise and embeddings: it is what the `text` task makes of it, up to the rounding of its batch.

    frames: None for as many as the request counts. ease: "linear", or "smooth", which slows down at the ends (3 u^2 - 2 u^3).
    at: where the frames lie instead, ascending, counted in ends: 0 is the first, 0.25 a quarter of the way to the second, 1.5 halfway
    from the second to the third. So neighbours can be put equally far apart to the eye, however unevenly the pictures change.
    words: "slerp", or "straight". refine, tolerance: of the inversion of pictures (`sample.invert.rise`), which is guided as the
    request is, so that the path leads through them. fit: how pictures take the size asked for, or the model's.
    """

    ends: tuple[End, ...] = Field(min_length=2)
    frames: int | None = Field(None, ge=2)
    at: tuple[float, ...] | None = Field(None, min_length=2)
    ease: Literal["linear", "smooth"] = "linear"
    words: Literal["slerp", "straight"] = "slerp"
    refine: int = Field(10, ge=0)
    tolerance: float = Field(1e-4, gt=0)
    fit: Fit = Crop()

    @model_validator(mode="after")
    def _one_spread(self) -> Interpolate:
        if self.at is None:
            return self
        last = len(self.ends) - 1
        if self.at[0] < 0 or self.at[-1] > last or any(b <= a for a, b in itertools.pairwise(self.at)):
            raise ValueError(f"at: places ascend, each above the one before, from 0 to {last} (the last end)")
        if self.frames not in (None, len(self.at)):
            raise ValueError(f"frames: {self.frames}, and `at` has {len(self.at)} places: leave frames out")
        if self.ease != "linear":
            raise ValueError("ease is of frames that are spread evenly: leave it out where `at` gives their places")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(end.picture for end in self.ends if end.picture is not None))

    def sampler(self, usual: Sampler) -> Sampler:
        return undoable(usual) if self.inputs else usual

    def places(self, count: int) -> list[Place]:
        """Where each of the frames lies, if the run counts `count` pictures."""
        n, legs = self.frames or count, len(self.ends) - 1
        if self.at is not None:
            return [Place(leg := min(int(place), legs - 1), place - leg) for place in self.at]
        found = []
        for k in range(n):
            leg = min(k * legs // (n - 1), legs - 1)
            u = k * legs / (n - 1) - leg if k < n - 1 else 1.0
            found.append(Place(leg, u * u * (3 - 2 * u) if self.ease == "smooth" else u))
        return found

    def stages(self, brief: Brief) -> Generator[Start | Aside, Tensor, None]:
        places = self._mine(brief)
        levels = brief.levels
        a, b, parts = ([getattr(p, name) for p in places] for name in ("leg", "next", "part"))
        own = Between(Rows(self._noise(brief, i) for i in a), Rows(self._noise(brief, i) for i in b), parts)
        noise = between.tempered(own, brief.request.temperature)
        x = noise.normal("start", None, None, brief.like) * brief.request.grid.spread(levels[0])
        if self.inputs:
            ends = yield from self._ends(brief, levels, {*a, *b})
            x = between.slerp(torch.cat([ends[i] for i in a]), torch.cat([ends[i] for i in b]), parts)
        yield launch(brief._replace(noise=noise), x, levels, conds=self._conds(brief, places))

    def turns(self, brief: Brief) -> list[Turn]:
        """How far each leg turns. Of words the mean over their tokens, each of which has an arc of its own."""
        found = []
        for leg in range(len(self.ends) - 1):
            a, b = (self._ask(brief, i) for i in (leg, leg + 1))
            said = [conditions(asked).get("cond") for asked in (a, b)]
            words = None if said[0] is None or said[1] is None else between.turn(said[0], said[1])
            noise = None
            if self.ends[leg].picture is None and self.ends[leg + 1].picture is None:
                drawn = [Rows([self._noise(brief, i)]).normal("start", None, None, a.like).flatten(1) for i in (leg, leg + 1)]
                noise = between.angle(*drawn)
            elif self.ends[leg] == self.ends[leg + 1]:
                noise = 0.0
            found.append(Turn(noise, words))
        return found

    def _mine(self, brief: Brief) -> list[Place]:
        """The places of the pictures to make now."""
        request = brief.request
        if len(request.prompt) > 1:
            raise SpecError(
                "interpolate: several prompts are several ends: give each end its prompt, and the request one or none"
            )
        if self.frames is None and self.at is None and request.count < 2:
            raise SpecError("interpolate: a path has 2 frames at least: set count, or the task's frames")
        places = self.places(request.count)
        if brief.numbers[-1] >= len(places):
            raise SpecError(f"interpolate: the path has frames 0..{len(places) - 1}, there is no frame {brief.numbers[-1]}")
        return [places[k] for k in brief.numbers]

    def _noise(self, brief: Brief, at: int) -> tuple[int, int]:
        end = self.ends[at]
        return brief.request.seed if end.seed is None else end.seed, end.number

    def _ask(self, brief: Brief, at: int) -> Brief:
        """The brief of an end alone."""
        end, request = self.ends[at], brief.request
        negative = request.negative if end.negative is None else end.negative
        prompt = request.prompt[0] if end.prompt is None else end.prompt
        return brief._replace(prompts=(prompt,), request=request.model_copy(update={"negative": negative}))

    def _conds(self, brief: Brief, places: list[Place]) -> dict[str, Cond | None]:
        """The conditions of every branch, a row a frame; each end's words are read alone."""
        ends = {i: conditions(self._ask(brief, i)) for i in {i for p in places for i in (p.leg, p.next)}}
        found: dict[str, Cond | None] = {}
        for name in brief.request.mix.names:
            pairs = [(ends[p.leg][name], ends[p.next][name], p.part) for p in places]
            straight = self.words == "straight"
            rows = [between.conds(a, b, part, straight=straight) for a, b, part in pairs if a is not None and b is not None]
            found[name] = Cond.cat(rows) if rows else None
        return found

    def _ends(self, brief: Brief, levels: list[Level], needed: set[int]) -> Generator[Aside, None, dict[int, Tensor]]:
        """(1, c, h, w) x at the first level of the ends that are needed. The same picture with the same words is inverted once."""
        found, known = dict[int, Tensor](), dict[tuple[str, str, str], Tensor]()
        scale = brief.request.grid.spread(levels[0])
        for i in sorted(needed):
            seal, asked = self.ends[i].picture, self._ask(brief, i)
            if seal is None:
                own = between.tempered(Rows([self._noise(brief, i)]), asked.request.temperature)
                found[i] = own.normal("start", None, None, brief.like[:1]) * scale
                continue
            key = seal, asked.prompts[0], asked.request.negative
            if key not in known:
                z = brief.model.codec.encode(canvas.picture(brief.assets, seal, brief.model, brief.request.size, self.fit))
                known[key] = yield from lifted(asked, z, levels, asked.prompts, None, self.refine, self.tolerance)
            found[i] = known[key]
        return found
