"""Task: where a run begins and how the denoiser bends. Request: everything a run is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from safelight.adapt.control import Control
from safelight.adapt.inversion import WordUse
from safelight.adapt.lora import LoraUse
from safelight.assets import Assets
from safelight.cond import Cond, Framing
from safelight.denoise import Branches, Denoise, Denoiser, branches
from safelight.engine import place
from safelight.grid import Grid
from safelight.guide import Bend, Mix
from safelight.model import Model
from safelight.process import Level
from safelight.sample import Draws, Sampler
from safelight.sample.churn import Churn
from safelight.spec import Spec, SpecError, parse
from safelight.task.steer import Sight, steered
from safelight.task.tiles import Tiles

# The steps of a run and the pictures of a prompt: a file's description may ask for more than any memory holds.
LONGEST, MOST = 100_000, 1_000_000


class Start(NamedTuple):
    """One stage of a run: x at the first of `levels`, the conditions by branch name, and how they are mixed and bent.

    others: branches that another denoiser evaluates. noise: what the steps draw, if not the noise of the pictures' own numbers. tiles: the
    denoisers see x in tiles, mix and bends the whole.
    """

    denoiser: Denoiser
    x: Tensor
    levels: Sequence[Level]
    conds: Mapping[str, Cond | None]
    mix: Callable[[Branches], Denoise]
    bends: Sequence[Callable[[Denoise], Denoise]]
    others: Mapping[str, Denoiser] = {}
    noise: Draws | None = None
    tiles: Tiles | None = None

    def denoise(self) -> Denoise:
        """The denoiser of the stage: mixed, then bent."""
        evaluate = branches if self.tiles is None else self.tiles.branches
        denoise = self.mix(evaluate(self.denoiser, self.conds, self.levels, self.others))
        for bend in self.bends:
            denoise = bend(denoise)
        return denoise


class Aside(NamedTuple):
    """A step of the work that a task does before its stage, told to whoever watches: i = 0..n-1 of n, x (B, C, *space) at `level`."""

    i: int
    n: int
    x: Tensor
    level: Level


class Brief(NamedTuple):
    """What a task is given: the model, what is asked, and the prompts and numbers of the pictures to make now, a row each."""

    model: Model
    request: Resolved
    prompts: tuple[str, ...]
    numbers: tuple[int, ...]
    noise: Draws
    assets: Assets

    @property
    def like(self) -> Tensor:
        """An empty latent batch of the request's size: what noise is drawn like."""
        shape = self.model.latent_shape(self.request.size)
        return torch.empty(len(self.prompts), *shape, dtype=torch.float32, device=self.model.device)

    @property
    def levels(self) -> list[Level]:
        """The n + 1 levels of the request's grid, the last of them clean."""
        process = self.model.process
        grid = self.request.grid
        return list(grid.at(process, grid(process, self.request.steps)).split())


class Task(Spec, family="task"):
    """Where we begin. A new task is one new kind, in a file of its own."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The seals of the pictures that it needs."""
        return ()

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        """(height, width) of the pictures made: what is asked for, else the model's own."""
        return request.size or model.spec.size

    def sampler(self, usual: Sampler) -> Sampler:
        """The sampler of a request that names none, `usual` being the model's."""
        return usual

    def stages(self, brief: Brief) -> Generator[Start | Aside, Tensor, None]:
        """The stages of a run, most often one. The result of a stage is sent back into the generator.

        None at all where nothing has to be denoised: then `finish` makes the pictures. Asides may come between them.
        """
        raise NotImplementedError(type(self).__name__)

    def decode(self, brief: Brief, z: Tensor) -> Tensor:
        """The last stage's latents as pixels (B, C, H, W), float32; in one piece unless a task says otherwise."""
        return place.decode(brief.model, z).float()

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        """The pictures as they are handed out, (B, C, H, W) in [-1, 1], from the decoded ones; None when no stage was run."""
        if pictures is None:
            raise SpecError(f"task '{self.kind}' ran no stage")
        return pictures


def launch(
    brief: Brief,
    x: Tensor,
    levels: Sequence[Level],
    *,
    conds: Mapping[str, Cond | None] | None = None,
    bends: Sequence[Callable[[Denoise], Denoise]] = (),
    sight: Sight | None = None,
) -> Start:
    """The stage that every task ends with: x at the first of `levels`, guided, steered and bent as the request asks.

    conds: instead of those of the prompts. bends: the task's own, outside the request's: what it holds in place stays there. sight:
    what of their pictures controls see; none: all of them, at the size of x.
    """
    request, model = brief.request, brief.model
    others = {
        branch: companion(model, brief.assets.model(name), f"mix: the model of branch '{branch}'").denoiser
        for branch, name in request.mix.others.items()
    }
    told = dict(conditions(brief) if conds is None else conds)
    mine = {branch: cond for branch, cond in told.items() if branch not in others}
    denoiser, mine = steered(model, request.controls, brief.assets, sight or _whole(brief, x), levels, mine)
    return Start(
        denoiser,
        x,
        levels,
        told | mine,
        request.mix,
        [*(bend.bind(brief.assets, brief.prompts) for bend in request.bends), *bends],
        others,
        brief.noise,
    )


def _whole(brief: Brief, x: Tensor) -> Sight:
    """All of a picture, at the size of the pictures made, or of x where a stage works at another."""
    size, stride = brief.request.size, brief.model.codec.stride
    cells = x.shape[-2], x.shape[-1]
    if cells != (-(-size[0] // stride), -(-size[1] // stride)):
        size = cells[0] * stride, cells[1] * stride
    return Sight(size, size)


def companion(model: Model, other: Model, what: str) -> Model:
    """The other model, which must speak of the same latents at the same levels as this one. Raises SpecError, `what` naming it, if not."""
    for name in ("process", "codec", "channels"):
        mine, theirs = (m.process.settled() if name == "process" else getattr(m.spec, name) for m in (model, other))
        if mine != theirs:
            raise SpecError(f"{what} has another {name}; both must denoise the same latents")
    weights, others = model.codec.state_dict(), other.codec.state_dict()
    if weights.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in weights.items()):
        return other
    # Codecs of one architecture may have learned other latents; a decoder of its own is no harm.
    ramp = torch.linspace(-1, 1, model.spec.channels * math.prod(model.spec.size), device=model.device)
    picture = ramp.view(1, model.spec.channels, *model.spec.size)
    first, second = model.codec.encode(picture), other.codec.encode(picture)
    if float((first - second).square().mean()) > 0.01 * float(first.square().mean()):
        raise SpecError(f"{what} has a codec of other weights; both must denoise the same latents")
    return other


def conditions(brief: Brief) -> dict[str, Cond | None]:
    """The conditions of every branch that the mix asks for, as `Mix.words` tells them.

    Raises SpecError for prompts or guidance that an unconditional model cannot follow.
    """
    model, request = brief.model, brief.request
    if model.text is None:
        if any(brief.prompts):
            raise SpecError(f"prompt: this model is unconditional, it cannot follow '{next(p for p in brief.prompts if p)}'")
        if any(name != "cond" and name not in request.mix.others for name in request.mix.names):
            raise SpecError(
                f"mix: this model is unconditional, so guidance '{request.mix.kind}' has nothing to guide by; use 'none'"
            )
    words = [request.mix.words(prompt, request.negative) for prompt in brief.prompts]
    framing = (request.framing or Framing()).at(request.size)
    conds: dict[str, Cond | None] = {}
    for name in request.mix.names:
        speaker = brief.assets.model(request.mix.others[name]).text if name in request.mix.others else model.text
        shown = framing.away if name.startswith(("null", "negative")) else framing
        conds[name] = None if speaker is None else speaker.read([told[name] for told in words], request.emphasis, shown)
    return conds


class Variation(Spec):
    """Every draw of picture k is slerp(its own, that of picture k of the seed `seed`, strength): the task `vary`, around any other."""

    seed: int
    strength: float = Field(0.1, ge=0, le=1)


class Request(Spec, family="request", kind="request"):
    """What is asked of a model. Whatever is None is the model's default.

    prompt: one prompt or several; "" is no prompt. count: pictures for each prompt. seed, index: picture k of the run draws noise
    (seed, index + k) and is the same alone or in a batch. micro_batch: how many pictures are made at a time (None: all).
    temperature: every draw of noise of the run, of its start and of its steps, is times this; 1 is the model's own distribution.
    churn: fresh noise before each step of a one-step sampler. variation: how far the noise is moved to another seed's.
    size: (height, width) in pixels. negative: what the null branch is told instead of nothing. emphasis: how prompts are weighted
    by brackets, see text/prompt.py; "none" reads brackets as they stand. framing: what the picture is said to be cut from, for models
    that were trained with it (SDXL, PixArt). loras: adapters that the model wears, see adapt/lora.py.
    words: learned ones that its prompts may use, see adapt/inversion.py.
    """

    task: Task = Field(default_factory=lambda: parse("text", "task"))  # type: ignore[assignment]
    prompt: tuple[str, ...] = ("",)
    negative: str = ""
    emphasis: Literal["a1111", "comfy", "compel", "none"] = "a1111"
    count: int = Field(1, ge=1, le=MOST)
    seed: int = 0
    index: int = Field(0, ge=0)
    steps: int | None = Field(None, ge=1, le=LONGEST)
    sampler: Sampler | None = None
    grid: Grid | None = None
    mix: Mix | None = None
    bends: tuple[Bend, ...] | None = None
    temperature: float = Field(1.0, ge=0, le=10)
    churn: Churn | None = None
    variation: Variation | None = None
    size: tuple[int, int] | None = None
    framing: Framing | None = None
    loras: tuple[LoraUse, ...] = ()
    words: tuple[WordUse, ...] = ()
    micro_batch: int | None = Field(None, ge=1)
    controls: tuple[Control, ...] = ()

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

    @field_validator("size")
    @classmethod
    def _somewhere(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError("(height, width) in pixels, both at least 1")
        return value

    @property
    def pictures(self) -> list[str]:
        """The prompt of every picture of the run, in order."""
        return [prompt for prompt in self.prompt for _ in range(self.count)]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The seals of the pictures that the run is made from: its task's, then its controls'."""
        return tuple(dict.fromkeys((*self.task.inputs, *(control.picture for control in self.controls))))

    @property
    def total(self) -> int:
        """How many pictures the run has; told without a list of them, which may be too long to be made."""
        return len(self.prompt) * self.count

    @property
    def solver(self) -> Sampler | None:
        """The sampler with the churn around it, None where the model's own is meant. Raises SpecError where it cannot be churned."""
        return self.sampler if self.sampler is None or self.churn is None else self.churn.around(self.sampler)

    @property
    def varied(self) -> Task:
        """The task, varied as `variation` says. Raises SpecError for one that draws no noise of its pictures' own."""
        if self.variation is None:
            return self.task
        try:
            found = parse({"kind": "vary", **self.variation.model_dump(), "of": self.task}, "task")
        except SpecError as error:
            raise SpecError(f"variation: {str(error).removeprefix('task.of: ')}") from None
        assert isinstance(found, Task)
        return found

    def resolve(self, model: Model, assets: Assets | None = None) -> Resolved:
        """The request with every None replaced by the model's default, or by what its task knows.

        Raises SpecError for churn of a sampler, or a variation of a task, that cannot have it.
        """
        defaults = model.spec.defaults
        filled = {
            name: getattr(self, name) if getattr(self, name) is not None else getattr(defaults, name)
            for name in ("steps", "sampler", "grid", "mix", "bends")
        }
        if self.sampler is None:
            filled["sampler"] = self.task.sampler(defaults.sampler)
        files = assets or Assets()
        filled |= {name: tuple(files.meant(use) for use in getattr(self, name)) for name in ("loras", "words", "controls")}
        rest = {name: getattr(self, name) for name in Request.model_fields if name not in filled and name != "size"}
        found = Resolved(**rest, **filled, size=self.task.size(self, model, files))
        _ = found.solver, found.varied
        return found


class Resolved(Request):
    """A request in which nothing is left open: what a trace records and a replay needs."""

    steps: int = Field(ge=1, le=LONGEST)
    sampler: Sampler
    grid: Grid
    mix: Mix
    bends: tuple[Bend, ...]
    size: tuple[int, int]

    @property
    def solver(self) -> Sampler:
        """The sampler with the churn around it."""
        solver = super().solver
        assert solver is not None
        return solver
