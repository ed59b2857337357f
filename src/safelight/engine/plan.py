"""What a run will take, told before anything is loaded: memory, by part and stage, and floating point operations.

The run's own code is run on a model without weights (nn/blank.py) whose tensors hold nothing (engine/tally.py): text encoder, a few steps
of the sampler with guidance, codec. No factor is fitted. What is told is what the process holds beyond the program itself, as torch
and its kernels ask for it; an allocator that keeps what it was given back (see `device.steady`) holds more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from safelight import device as devices
from safelight.assets import Assets
from safelight.engine.place import PARTS, memory_of, place
from safelight.engine.tally import Tally
from safelight.interop.checkpoint import DTYPES
from safelight.model import Header, Model, ModelSpec
from safelight.nn.blank import blank
from safelight.noise import Noise
from safelight.sample import trajectory
from safelight.spec import SpecError, parse
from safelight.task import Brief, Request, Start, Task
from safelight.task.base import Resolved

Memory = Literal["full", "low"]
# The first step also embeds what the run is told; a further one costs what the second did.
_STEPS = 2


class Stored(NamedTuple):
    """The weights in a file: their bytes, and the dtype of most of these."""

    bytes: int
    dtype: torch.dtype


class Part(NamedTuple):
    """What one part of a model has and takes.

    parameters: how many. weights: their bytes as they are computed with. used: of those that the run reads. work: the most bytes live
    at once while the part works, without weights. flops: floating point operations of the whole run.
    """

    parameters: int
    weights: int
    used: int
    work: int
    flops: int


class Plan(NamedTuple):
    """What a run will take, in bytes beyond the program itself.

    parts: by name, in the order of their work. load: the most while the weights are read. peaks: part -> the most while it works.
    mapped: weights are pages of the file, read as they are used. batch: pictures at a time, size: (height, width) of one.
    """

    parts: dict[str, Part]
    load: int
    peaks: dict[str, int]
    memory: Memory
    dtype: torch.dtype
    device: torch.device
    mapped: bool
    batch: int
    size: tuple[int, int]

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.load, *self.peaks.values())

    @property
    def parameters(self) -> int:
        """Of all parts."""
        return sum(part.parameters for part in self.parts.values())

    @property
    def flops(self) -> int:
        """Of all parts."""
        return sum(part.flops for part in self.parts.values())

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "size": list(self.size),
            "batch": self.batch,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "memory": self.memory,
            "mapped": self.mapped,
            "parameters": self.parameters,
            "flops": self.flops,
            "peak": self.peak,
            "load": self.load,
            "parts": {name: {**part._asdict(), "peak": self.peaks[name]} for name, part in self.parts.items()},
        }


def stored(header: Header, weights: str | None = None) -> Stored:
    """What a file's header says of the weights that `model.load` would take: a set of our file, all of a foreign one."""
    chosen = weights or next((name for name in header.weights if name != "raw"), "raw")
    mine = [e for name, e in header.tensors.items() if header.layout != "safelight" or name.startswith(f"{chosen}/")]
    sizes: dict[str, int] = {}
    for entry in mine:
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.size * DTYPES[entry.dtype][0]
    kind = max(sizes, key=lambda name: sizes[name], default="F32")
    return Stored(sum(sizes.values()), getattr(torch, DTYPES[kind][1]))


def plan(
    spec: ModelSpec,
    request: Request,
    *,
    file: Stored | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = torch.float32,
    memory: Memory = "full",
    assets: Assets | None = None,
) -> Plan:
    """What a request takes of a model of this description.

    file: the weights it is loaded from (None: such as are there already). device: None is the CPU. dtype: that it is loaded in, None the
    file's. memory: "low" lets text encoder and codec leave memory while they do not work, see engine/place.py. assets: the pictures
    that the request names; adapters are not counted. Of a run of several micro-batches it is the first.
    Raises SpecError for a request that the model cannot follow, and for a task whose course depends on what it sees.
    """
    here = device or torch.device("cpu")
    kind = dtype or (file.dtype if file is not None else torch.float32)
    mapped = file is not None and here.type == "cpu" and file.dtype == kind
    model = blank(spec.build).eval()
    tally = Tally(here, mapped=mapped)
    parts = {name: getattr(model, name) for name in PARTS if getattr(model, name) is not None}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    for name, part in parts.items():
        tally.haunt(part, name, kind)
    placed = place(model, memory, parked=False)
    assets = assets or Assets(device=here)
    asked = request.resolve(model, assets)
    flops: dict[str, int] = {}
    with tally, torch.inference_mode():
        try:
            for steps, extra in _run(model, asked, assets, tally):
                now = dict(tally.flops)
                # What the steps that are left out would have cost: as much as the last of those that were not.
                flops = {name: flops.get(name, 0) + (now[name] - before) * extra for name, before in steps.items()}
        except NotImplementedError as error:
            raise SpecError(f"task '{asked.task.kind}' decides by what it sees, so it cannot be planned: {error}") from None
        finally:
            placed.end()
    found = {
        name: Part(
            counts[name], tally.weights[name], tally.used[name], tally.work[name], tally.flops[name] + flops.get(name, 0)
        )
        for name in parts
    }
    if memory == "full":
        peaks = {name: tally.peak[name] for name in parts}
    else:
        peaks = {name: tally.work[name] + _there(name, found, mapped) for name in parts}
    whole = sum(part.weights for part in found.values())
    load = 0 if mapped or file is None else whole + (file.bytes if here.type == "cpu" else 0)
    batch = asked.micro_batch or asked.total
    return Plan(found, load, peaks, memory, kind, here, mapped, min(batch, asked.total), asked.size)


def _there(name: str, parts: Mapping[str, Part], mapped: bool) -> int:
    """The weights in memory while a part works and what can leave has left: its own, and the denoiser's unless these are mapped."""
    if mapped:
        return parts[name].used
    stays = 0 if name == "denoiser" else parts["denoiser"].weights
    return parts[name].weights + stays


def _run(model: Model, asked: Resolved, assets: Assets, tally: Tally) -> Iterator[tuple[dict[str, int], int]]:
    """A run's first micro-batch, of each stage the first steps; told, for each, what a step began at and how many are left out."""
    prompts = asked.pictures[: asked.micro_batch or asked.total]
    index = tuple(range(asked.index, asked.index + len(prompts)))
    brief = Brief(model, asked, tuple(prompts), index, Noise(asked.seed, index), assets)
    task = asked.varied
    stages, x = task.stages(brief), None
    while True:
        try:
            item = stages.send(x) if x is not None else next(stages)
        except StopIteration:
            break
        if not isinstance(item, Start):
            x = None
            continue
        draws = brief.noise if item.noise is None else item.noise
        n = len(item.levels) - 1
        run = trajectory(item.denoise(), item.x, item.levels, asked.solver, draws)
        before = dict(tally.flops)
        x = item.x
        for step in itertools.islice(run, min(n, _STEPS)):
            if step.i + 1 < min(n, _STEPS):
                before = dict(tally.flops)
            x = step.x
        yield before, n - min(n, _STEPS)
    task.finish(brief, None if x is None else _decoded(brief, x, tally))


def _decoded(brief: Brief, z: Tensor, tally: Tally) -> Tensor:
    """The pictures of all latents; where they are decoded one by one (engine/place.py), only the first and the last are."""
    task = brief.request.varied
    n = len(z)
    if memory_of(brief.model) == "full" or n < 3 or type(task).decode is not Task.decode:
        return task.decode(brief, z)
    before = dict(tally.flops)
    first = task.decode(brief, z[:1])
    for name, count in dict(tally.flops).items():
        tally.flops[name] += (n - 2) * (count - before.get(name, 0))
    rest = [torch.empty_like(first) for _ in range(n - 2)]
    return torch.cat([first, *rest, task.decode(brief, z[-1:])])


# Bytes a pixel that a run takes at the very most, weights apart: with these a run that fits easily is not planned first.
_WIDEST = 32_000
# The part of the free memory that a run may be planned to take.
_ROOM = 0.9


def roomy(
    header: Header, asked: Mapping[str, Any], *, device: torch.device, dtype: torch.dtype, weights: str | None = None
) -> bool:
    """Whether a run fits into the memory that is free with all parts in it. asked: the fields of its request that say how large."""
    free = devices.free(device)
    spec = parse(header.spec, header.spec.get("family", "model"))
    if not free or not isinstance(spec, ModelSpec):
        return True
    file = stored(header, weights)
    height, width = asked.get("size") or spec.size
    whole = file.bytes * dtype.itemsize // file.dtype.itemsize + (file.bytes if dtype != file.dtype else 0)
    if whole + _WIDEST * height * width * int(asked.get("count", 1)) <= _ROOM * free:
        return True
    try:
        request = parse({name: value for name, value in asked.items() if value is not None}, "request")
        assert isinstance(request, Request)
        return plan(spec, request, file=file, device=device, dtype=dtype).peak <= _ROOM * free
    except SpecError:  # what is wrong with the request is for the run to say
        return True


def shortage(model: Model, request: Request, assets: Assets | None = None) -> str:
    """The one line for a run of a loaded model that found no memory: what it takes, and what would make it smaller."""
    kind = next(model.parameters()).dtype
    given: dict[str, Any] = {"device": model.device, "dtype": kind, "memory": memory_of(model), "assets": assets}
    try:
        return told(*switches(model.spec, request, **given))
    except (SpecError, MemoryError, RuntimeError):  # no plan, or no memory even for that
        return (
            "there is not enough memory: ask for fewer pictures at a time (--micro-batch 1), for smaller ones, or --memory low"
        )


class Switch(NamedTuple):
    """Something that makes a run smaller: the option, and the bytes that it saves at the peak."""

    option: str
    saves: int


def switches(
    spec: ModelSpec,
    request: Request,
    *,
    file: Stored | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = torch.float32,
    memory: Memory = "full",
    assets: Assets | None = None,
    most: int = 3,
) -> tuple[Plan, list[Switch]]:
    """The run's plan, and what would make it smaller, the cheapest first: same pictures, same but slower, nearly the same, others.

    Only what saves a twentieth at least; `most` of them.
    """
    here = device or torch.device("cpu")
    given: dict[str, Any] = {"file": file, "device": here, "dtype": dtype, "memory": memory, "assets": assets}
    now = plan(spec, request, **given)
    half = torch.bfloat16 if devices.honours(here, torch.bfloat16) else torch.float16
    name = "bf16" if half == torch.bfloat16 else "fp16"
    tries: list[tuple[str, Request, dict[str, Any]]] = []
    if now.batch > 1:
        tries.append(("--micro-batch 1", request.model_copy(update={"micro_batch": 1}), {}))
    if memory != "low":
        tries.append(("--memory low", request, {"memory": "low"}))
    if now.dtype == torch.float32 and devices.honours(here, half):
        tries.append((f"--dtype {name}", request, {"dtype": half}))
    height, width = now.size
    smaller = (height // 2, width // 2)
    tries.append((f"--size {smaller[0]}x{smaller[1]}", request.model_copy(update={"size": smaller}), {}))
    found: list[Switch] = []
    for option, other, changed in tries:
        if len(found) == most:
            break
        try:
            saves = now.peak - plan(spec, other, **{**given, **changed}).peak
        except SpecError:  # a size that is no multiple of the codec's stride
            continue
        if saves > 0.05 * now.peak:
            found.append(Switch(option, saves))
    return now, found


def sized(count: float) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.{2 if unit == 'GB' else 0}f} {unit}"
    return f"{count:.0f} bytes"


def told(now: Plan, found: Sequence[Switch]) -> str:
    """The one line for a run that found no memory."""
    ways = ", ".join(f"{switch.option} saves {sized(switch.saves)}" for switch in found)
    return f"there is not enough memory: this takes about {sized(now.peak)}" + (f"; the cheapest first: {ways}" if ways else "")


__all__ = ["Memory", "Part", "Plan", "Stored", "Switch", "plan", "roomy", "shortage", "sized", "stored", "switches", "told"]
