"""Task: where a run begins and how the denoiser bends. Request: everything a run is made of."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from safelight.cond import Cond
from safelight.denoise import Denoiser
from safelight.grid import Grid
from safelight.guide import Bend, Mix
from safelight.model import Model
from safelight.noise import Noise
from safelight.process import Level
from safelight.sample import Sampler
from safelight.spec import Spec, SpecError


class Start(NamedTuple):
    """One stage of a run: x at the first of `levels`, the conditions by branch name, and how they are mixed and bent."""

    denoiser: Denoiser
    x: Tensor
    levels: Sequence[Level]
    conds: Mapping[str, Cond | None]
    mix: Mix
    bends: Sequence[Bend]


class Task(Spec, family="task"):
    """Where we begin. A new task is one new kind."""

    def stages(self, model: Model, request: Resolved, prompts: Sequence[str], noise: Noise) -> Generator[Start, Tensor, None]:
        """The stages of a run for these prompts, one picture each. The result of a stage is sent back into the generator."""
        raise NotImplementedError(type(self).__name__)


class Text(Task, kind="text"):
    """From pure noise: x = sqrt(alpha^2 + sigma^2) n at the grid's first level."""

    def stages(self, model: Model, request: Resolved, prompts: Sequence[str], noise: Noise) -> Generator[Start, Tensor, None]:
        process = model.spec.process
        levels = process.at(request.grid(process, request.steps)).split()
        device = model.device
        like = torch.empty(len(prompts), *model.latent_shape(request.size), dtype=torch.float32, device=device)
        first = levels[0]
        x = noise.normal("start", None, None, like) * float(torch.hypot(first.alpha, first.sigma))
        yield Start(model.denoiser, x, levels, conditions(model, request, prompts), request.mix, request.bends)


def conditions(model: Model, request: Resolved, prompts: Sequence[str]) -> dict[str, Cond | None]:
    """The conditions that the mix asks for: "cond" of the prompts, "null" of the negative prompt ("" unless given).

    Raises SpecError for prompts or guidance that an unconditional model cannot follow, and for a branch no one knows.
    """
    names = request.mix.names
    if model.text is None:
        if any(prompts):
            raise SpecError(f"prompt: this model is unconditional, it cannot follow '{next(p for p in prompts if p)}'")
        if names != ("cond",):
            raise SpecError(
                f"mix: this model is unconditional, so guidance '{request.mix.kind}' has nothing to guide by; use 'none'"
            )
        return {"cond": None}
    words = {"cond": list(prompts), "null": [request.negative] * len(prompts)}
    unknown = [name for name in names if name not in words]
    if unknown:
        raise SpecError(
            f"mix: guidance '{request.mix.kind}' asks for a branch '{unknown[0]}', task '{request.task.kind}' has none"
        )
    return {name: model.text(model.text.tokenize(words[name]).to(model.device)) for name in names}


class Request(Spec, family="request", kind="request"):
    """What is asked of a model. Whatever is None is the model's default.

    prompt: one prompt or several; "" is no prompt. count: pictures for each prompt. seed, index: picture k of the run draws noise
    (seed, index + k) and is the same alone or in a batch. micro_batch: how many pictures are made at a time (None: all).
    size: (height, width) in pixels. negative: what the null branch is told instead of nothing.
    """

    task: Task = Text()
    prompt: tuple[str, ...] = ("",)
    negative: str = ""
    count: int = Field(1, ge=1)
    seed: int = 0
    index: int = Field(0, ge=0)
    steps: int | None = Field(None, ge=1)
    sampler: Sampler | None = None
    grid: Grid | None = None
    mix: Mix | None = None
    bends: tuple[Bend, ...] | None = None
    size: tuple[int, int] | None = None
    micro_batch: int | None = Field(None, ge=1)

    @field_validator("prompt", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("prompt")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one prompt is needed ('' for none)")
        return value

    @property
    def pictures(self) -> list[str]:
        """The prompt of every picture of the run, in order."""
        return [prompt for prompt in self.prompt for _ in range(self.count)]

    def resolve(self, model: Model) -> Resolved:
        """The request with every None replaced by the model's default."""
        defaults = model.spec.defaults
        filled = {
            name: getattr(self, name) if getattr(self, name) is not None else getattr(defaults, name)
            for name in ("steps", "sampler", "grid", "mix", "bends")
        }
        rest = {name: getattr(self, name) for name in Request.model_fields if name not in filled and name != "size"}
        return Resolved(**rest, **filled, size=self.size or model.spec.size)


class Resolved(Request):
    """A request in which nothing is left open: what a trace records and a replay needs."""

    steps: int = Field(ge=1)
    sampler: Sampler
    grid: Grid
    mix: Mix
    bends: tuple[Bend, ...]
    size: tuple[int, int]
