"""generate: the only way to sample. A generator of events; whoever runs it owns bars, previews and cancelling."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from safelight import device as devices
from safelight.adapt.inversion import learn
from safelight.adapt.lora import Worn, wear
from safelight.assets import Assets
from safelight.between import tempered
from safelight.draw.pixels import to_bytes
from safelight.engine import place
from safelight.interop.checkpoint import finite
from safelight.model import Model, load
from safelight.nn.joined import settle
from safelight.noise import Noise
from safelight.process import Level
from safelight.sample import Draws, State, Step, trajectory
from safelight.spec import SpecError, parse
from safelight.task import Aside, Brief, Request, Resolved, Start

if TYPE_CHECKING:
    from PIL.Image import Image


class Started(NamedTuple):
    """A part of the run begins: pictures `numbers` (their noise indices) of stage `stage`, n steps over `levels`, from x.

    part, parts: which micro-batch this is of how many. state: the solver's memory, of a run that is gone on with; else None.
    """

    request: Resolved
    part: int
    parts: int
    stage: int
    numbers: tuple[int, ...]
    prompts: tuple[str, ...]
    levels: tuple[Level, ...]
    x: Tensor
    first: int
    state: State | None = None


class Stepped(NamedTuple):
    """A step is done; `milliseconds` of wall time."""

    part: int
    parts: int
    stage: int
    step: Step
    milliseconds: float


class Finished(NamedTuple):
    """A part is done: its pictures `numbers`, float32 (B, C, H, W), in [-1, 1] up to what the model overshoots."""

    part: int
    parts: int
    numbers: tuple[int, ...]
    prompts: tuple[str, ...]
    pictures: Tensor


class Prepared(NamedTuple):
    """A step of what a task does before its stage (an inversion) is done; `milliseconds` of wall time."""

    part: int
    parts: int
    aside: Aside
    milliseconds: float


Event = Started | Stepped | Finished | Prepared


class Recording(Protocol):
    """A recorded run that can be gone on with; `safelight.trace.Trace` is one."""

    @property
    def levels(self) -> Sequence[Level]: ...

    def x(self, k: int) -> Tensor:
        """x before step k."""
        ...

    def state(self, k: int) -> State:
        """The sampler's memory before step k."""
        ...

    @property
    def request(self) -> Request: ...


def generate(
    model: Model,
    request: Request,
    *,
    assets: Assets | None = None,
    recorded: Recording | None = None,
    first: int = 0,
    part: int | None = None,
) -> Iterator[Event]:
    """Make the pictures of a request.

    assets: the pictures and further models that the request names.
    recorded, first: go on with a recorded run from its step `first` instead of beginning anew; the request may ask for another
    prompt, guidance or sampler from there on (a fork), or be the recorded one (then the result is the recorded result, bit for bit).
    Pictures go by their numbers: a fork may ask for some of the recorded ones alone, by `index` and `count`. Of a task of several
    stages it is the first that is gone on with; those after it are run whole.
    part: make this micro-batch alone, the same to the last bit as in the whole run.
    Yields Started, Stepped (one a step) and Finished for every micro-batch, and Prepared before Started where a task prepares.
    Model weights are not changed, and between the steps it wears no adapter either. No global random state is used, as the model is in
    evaluation mode while it works, whatever its mode between the steps. Raises SpecError for requests the model cannot follow, for
    pictures that the recorded run does not hold, when a picture comes out non-finite, and, naming what would make it smaller, when there
    is not enough memory.
    """
    assets = assets or Assets(device=model.device)
    try:
        yield from _made(model, request, assets, recorded, first, part)
    except Exception as error:
        if not devices.exhausted(error):
            raise
    else:
        return
    # Out of the except clause: the error holds what the run held.
    from safelight.engine.plan import shortage

    devices.given_back(model.device)
    raise SpecError(shortage(model, request, assets))


def _made(
    model: Model, request: Request, assets: Assets, recorded: Recording | None, first: int, part: int | None
) -> Iterator[Event]:
    asked = request.resolve(model, assets)
    settle(model)
    prompts = asked.pictures
    size = asked.micro_batch or len(prompts)
    parts = -(-len(prompts) // size)
    task = asked.varied
    worn = adapted(model, asked, assets)
    chosen = range(parts) if part is None else range(part, part + 1)
    for part in chosen:
        rows = slice(part * size, min((part + 1) * size, len(prompts)))
        mine = tuple(prompts[rows])
        index = tuple(range(asked.index + rows.start, asked.index + rows.stop))
        noise = tempered(Noise(asked.seed, index), asked.temperature)
        brief = Brief(model, asked, mine, index, noise, assets)
        stages = task.stages(brief)
        start = yield from _next(stages, None, model, part, parts, worn)
        stage = 0
        x: Tensor | None = None
        while start is not None:
            state: State | None = None
            begin = first if stage == 0 else 0
            if recorded is not None and stage == 0:
                kept, held = recorded.x(first), recorded.request.index
                there = slice(index[0] - held, index[-1] + 1 - held)
                if there.start < 0 or there.stop > len(kept):
                    raise SpecError(
                        f"the recorded run holds pictures {held}..{held + len(kept) - 1}, not {index[0]}..{index[-1]}: set index and count"
                    )
                start = start._replace(x=kept[there].to(start.x.device, start.x.dtype), levels=_levels(model, asked, recorded))
                if (recorded.request.sampler, recorded.request.churn) == (asked.sampler, asked.churn):
                    state = _rows(recorded.state(first), there, start.x)
            yield Started(asked, part, parts, stage, index, mine, tuple(start.levels), start.x, begin, state)
            x = start.x
            for event in _steps(start, asked, noise, state, begin, part, parts, stage, worn):
                x = event.step.x
                yield event
            start = yield from _next(stages, x, model, part, parts, worn)
            stage += 1
        with _at_rest(model), worn:
            pictures = task.finish(brief, None if x is None else task.decode(brief, x))
        bad = (~torch.isfinite(pictures.flatten(1)).all(1)).nonzero().flatten().tolist()
        if bad:
            broken = finite(model.state_dict().items())
            fault = (
                f"'{broken}' of {model.name or 'the model'} holds NaN or an infinity" if broken else "its precision is at fault"
            )
            raise SpecError(f"picture {index[bad[0]]} came out non-finite (NaN or infinity): {fault}; nothing is saved")
        yield Finished(part, parts, index, mine, pictures)


def adapted(model: Model, request: Request, assets: Assets) -> Worn:
    """The model's weights with the adapters of a request in them and its learned words, to be worn while it works.

    Raises SpecError for one that is not at hand, is another than the one meant, or does not fit.
    """
    stack = [(assets.lora(use, model), use.parts) for use in request.loras]
    if stack:
        place.whole(model)  # adapters are added to the weights
    return wear(model, stack) | learn(model, [word for use in request.words for word in assets.words(use)])


def _next(
    stages: Generator[Start | Aside, Any, None], sent: Tensor | None, model: Model, part: int, parts: int, worn: Worn
) -> Generator[Prepared, None, Start | None]:
    """The next stage, telling what the task does before it; None after the last. sent: the result of the stage before."""
    while True:
        began = time.perf_counter()
        with _at_rest(model), worn:
            try:
                item = stages.send(sent)
            except StopIteration:
                return None
        if isinstance(item, Start):
            return item
        sent = None
        yield Prepared(part, parts, item, (time.perf_counter() - began) * 1000)


def _steps(
    start: Start,
    request: Resolved,
    noise: Draws,
    state: State | None,
    first: int,
    part: int,
    parts: int,
    stage: int,
    worn: Worn,
) -> Iterator[Stepped]:
    draws = noise if start.noise is None else start.noise
    run = trajectory(start.denoise(), start.x, start.levels, request.solver, draws, state=state, first=first)
    while True:
        began = time.perf_counter()
        # Entered anew for every step: a generator must not hold a mode over its yields.
        with _at_rest(start.denoiser), worn:
            step = next(run, None)
        if step is None:
            return
        yield Stepped(part, parts, stage, step, (time.perf_counter() - began) * 1000)


@contextlib.contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Inference mode, and evaluation mode for a model that is in training: dropout would draw from the global generators."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def _levels(model: Model, asked: Resolved, recorded: Recording) -> list[Level]:
    """The recorded levels as levels of the model's process, which solvers may ask for more."""
    return asked.grid.at(model.process, torch.stack([level.t for level in recorded.levels])).split()


def _rows(state: State, rows: slice, like: Tensor) -> Mapping[str, Tensor | float]:
    return {k: v[rows].to(like.device, like.dtype) if isinstance(v, Tensor) else v for k, v in state.items()}


def paint(model: Model, prompt: str | Sequence[str] = "", **fields: Any) -> Image | list[Image]:
    """What `model(prompt, ...)` does: the pictures of a request, one as a picture, several as a list.

    fields: of the Request, as in `model("a cat", seed=3, steps=12, count=4)`; `inputs` brings the pictures, uint8 (C, H, W), that the
    request's task names. Raises SpecError as `generate` does, and for a field that there is not.
    """
    from PIL.Image import fromarray

    assets = Assets(fields.pop("inputs", ()), device=model.device)
    request = parse({"prompt": prompt, **fields}, "request")
    assert isinstance(request, Request)
    made = [event.pictures for event in generate(model, request, assets=assets) if isinstance(event, Finished)]
    bytes_ = to_bytes(torch.cat(made))  # (N, H, W, C)
    images = [fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in bytes_]
    return images[0] if len(images) == 1 else images


Model.painter = paint

__all__ = ["Event", "Finished", "Recording", "Request", "Resolved", "Started", "Stepped", "generate", "load", "paint"]
