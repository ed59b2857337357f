"""Words: tokens, hints, embeddings, sums, concepts, and runs that are asked for together (grids and morphs)."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import anyio
import torch
from fastapi import APIRouter, Path, Query, Response
from fastapi import Request as Call
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional as F

from safelight.prompt import lint as linter
from safelight.serve.api.base import Concept, Conflict, Here, Missing, Plain, Server
from safelight.serve.api.runs import Fork, forked
from safelight.serve.folder import new_id
from safelight.serve.runs import Ask, Record, Run
from safelight.serve.worker import Shelf
from safelight.shared import Shared
from safelight.spec import SpecError, describe, parse
from safelight.task import Request, canvas
from safelight.task.interpolate import Interpolate
from safelight.task.mix import Mix
from safelight.text.arithmetic import Text
from safelight.text.base import TextEncoder
from safelight.text.clip import CLIPText
from safelight.text.joint import Joint
from safelight.text.near import Memory
from safelight.text.spans import room, tokens

router = APIRouter(tags=["words"])

Emphasis = Literal["a1111", "comfy", "compel", "none"]
Name = Annotated[str, Path(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
_LONG = 20_000


class Tokenize(Plain):
    """A prompt, to a model's tokenizer."""

    prompt: str = Field("", max_length=_LONG)
    model: str = Field("default", max_length=100)
    emphasis: Emphasis = "a1111"


class Piece(BaseModel):
    """A token: its text, its place [start, end) in the prompt, its weight, and the window it is read in."""

    text: str
    id: int
    start: int | None
    end: int | None
    weight: float
    window: int


class Tokens(BaseModel):
    """A prompt's tokens. limit: how many a window has room for, null where it has no end; windows: how many are read. concepts: the
    names in the prompt that stand for expressions."""

    tokens: list[Piece]
    limit: int | None
    windows: int
    concepts: list[str]


class Lint(Plain):
    """A prompt and its negative, and the further fields of the request, which are looked at too."""

    prompt: str = Field("", max_length=_LONG)
    negative: str = Field("", max_length=_LONG)
    model: str = Field("default", max_length=100)
    emphasis: Emphasis = "a1111"
    request: dict[str, Any] | None = None


class Fix(BaseModel):
    """What mends a finding: the texts and fields of the request as they should be; what is absent stays."""

    prompt: str | None = None
    negative: str | None = None
    request: dict[str, Any] | None = None


class Finding(BaseModel):
    """What could be said better: where, [start, end) of field; message: what to do; reason: why; fix: what does it, if that is known."""

    kind: str
    field: str
    start: int
    end: int
    message: str
    reason: str
    fix: Fix | None = None


class Findings(BaseModel):
    """All findings, and both texts with everything mended that can be."""

    findings: list[Finding]
    fixed: Fix


class Embed(Plain):
    """Texts and pictures (by seal), in a joint model's space, or texts alone in that of the model's own encoder."""

    texts: list[str] = Field([], max_length=256)
    seals: list[str] = Field([], max_length=256)
    joint: str | None = Field(None, max_length=100)
    model: str = Field("default", max_length=100)
    emphasis: Emphasis = "a1111"


class Embedded(BaseModel):
    """A vector each, in the order texts, seals; the cosines of all pairs; and their places on the plane of most variance."""

    vectors: list[list[float]]
    cosines: list[list[float]]
    pca: list[list[float]]


class Sum(Plain):
    """An expression over texts and pictures. k: how many neighbours are told; among: seals of pictures to look for it in; captions:
    whether the nearest of all captions that the model was trained on are sought, which takes a second or two."""

    expression: str = Field(max_length=10_000)
    model: str = Field("default", max_length=100)
    joint: str | None = Field(None, max_length=100)
    lengths: bool = True
    emphasis: Emphasis = "a1111"
    k: int = Field(5, ge=1, le=50)
    among: list[str] = Field([], max_length=256)
    captions: bool = True


class Near(BaseModel):
    """Something near the sum, and its cosine with it."""

    what: str
    cosine: float


class Term(BaseModel):
    """An operand: its weight, the length of its embedding, its cosine with the sum."""

    operand: str
    weight: float
    length: float
    cosine: float
    state: float | None = None


class Summed(BaseModel):
    """What came of an expression; see `safelight mix`. words, captions, pictures: the nearest, best first; vectors: of the rows;
    result: their weighted sum."""

    expression: str
    space: str
    rows: list[Term]
    length: float
    state: float | None
    gap: float | None
    words: list[Near]
    captions: list[Near]
    pictures: list[Near]
    vectors: list[list[float]]
    result: list[float]
    cosines: list[list[float]]
    pca: list[list[float]]


class Concepts(BaseModel):
    """The named expressions."""

    concepts: list[Concept]


class GridAxis(Plain):
    """What varies: the path of a field of the request, `prompt~OLD` for words in the prompt's place OLD, `model`, or `fork` (steps of
    the parent run)."""

    path: str = Field(min_length=1, max_length=200)
    values: list[Any] = Field(min_length=1, max_length=512)


class Grid(Plain):
    """Runs over one, two or three axes, the last changing fastest."""

    model: str = Field("default", max_length=100)
    request: dict[str, Any] = {}
    record: Record = "branches"
    parent: str | None = Field(None, max_length=40)
    priority: int = Field(0, ge=-100, le=100)
    title: str = Field("", max_length=500)
    axes: list[GridAxis] = Field(min_length=1, max_length=3)


class Segment(Plain):
    """A leg of a morph: an `interpolate` task, and of how many frames it is."""

    task: dict[str, Any]
    frames: int = Field(ge=2, le=1000)


class Morph(Plain):
    """A path through several segments. every: the frames that are made first, and those on an end; the others fill in after them."""

    model: str = Field("default", max_length=100)
    request: dict[str, Any] = {}
    record: Record = "preview"
    priority: int = Field(0, ge=-100, le=100)
    title: str = Field("", max_length=500)
    every: int = Field(8, ge=1, le=1000)
    segments: list[Segment] = Field(min_length=1, max_length=64)


class Cost(BaseModel):
    """What is asked for together: pictures, steps in all, and seconds by what was measured; null where nothing was yet."""

    pictures: int
    steps: int
    seconds: float | None


class Together(BaseModel):
    """The runs that were queued together, in the order of the cells, and their cost; with ?dry=1 the cost alone."""

    group: str | None
    runs: list[Run]
    cost: Cost


Dry = Annotated[bool, Query(description="say the cost alone, and queue nothing")]

# ---- prompts -----------------------------------------------------------------------------------------------------------------


@router.post("/v1/tokenize")
def tokenize(here: Here, asked: Tokenize) -> Tokens:
    """What a model reads of a prompt."""
    encoder = here.model(asked.model).text
    known = here.concepts()
    named = [name for name in known if f"<{name}>" in asked.prompt]
    if encoder is None:
        return Tokens(tokens=[], limit=None, windows=0, concepts=named)
    try:
        found = tokens(encoder, asked.prompt, asked.emphasis)
    except SpecError:
        if not hasattr(encoder.spec, "names"):
            raise
        found = []  # a class that the model does not know: the linter says so
    pieces = [Piece(text=t.text, id=t.id, start=t.start, end=t.end, weight=t.weight, window=t.window) for t in found]
    windows = max((t.window for t in found), default=-1) + 1
    return Tokens(tokens=pieces, limit=room(encoder), windows=windows, concepts=named)


@router.post("/v1/lint")
def lint(here: Here, asked: Lint) -> Findings:
    """What about a prompt and the fields beside it could be said better, why, and how."""
    model = here.model(asked.model)
    vocabulary = linter.vocabulary_of(model)
    found = linter.check(asked.prompt, asked.negative, vocabulary=vocabulary, emphasis=asked.emphasis)
    rows = [_finding(asked, one) for one in found] + _read(asked, model.text, vocabulary) + _fields(here, asked)
    prompt, negative = linter.fix(asked.prompt, asked.negative, found)
    return Findings(findings=rows, fixed=Fix(prompt=prompt, negative=negative))


def _finding(asked: Lint, one: linter.Finding) -> Finding:
    mended = None
    if one.fixable:
        prompt, negative = linter.one(asked.prompt, asked.negative, one)
        mended = Fix(prompt=prompt, negative=negative)
    start, end = one.where
    return Finding(
        kind=one.kind, field=one.field, start=start, end=end, message=one.remedy or one.reason, reason=one.reason, fix=mended
    )


# Letters in a row, and the names of concepts, which are no words of the model's.
_WORD = re.compile(r"<[A-Za-z0-9][A-Za-z0-9_-]{0,39}>|[^\W\d_]+")


def _read(asked: Lint, encoder: TextEncoder | None, vocabulary: frozenset[str] | None) -> list[Finding]:
    """What only the model's tokenizer knows: text beyond its first window, and words that it has no piece for."""
    limit = room(encoder) if encoder is not None else None
    if not isinstance(encoder, CLIPText) or limit is None:
        return []
    found = list[Finding]()
    for field, text in (("prompt", asked.prompt), ("negative", asked.negative)):
        if sum(map(len, (asked.prompt, asked.negative))) > 4 * linter.LONGEST:
            break  # the other rules look no further either
        try:
            pieces = tokens(encoder, text, asked.emphasis)
        except SpecError:
            continue  # brackets that are refused: the rules of syntax say so
        beyond = next((t.start for t in pieces if t.window > 0 and t.start is not None), None)
        if beyond is not None:
            kept = text[:beyond].rstrip(" ,.;(\n")
            whole = not any(one.kind == "syntax" for one in linter.check(kept, emphasis=asked.emphasis))
            found.append(
                Finding(
                    kind="tokens",
                    field=field,
                    start=beyond,
                    end=len(text),
                    message=f"end it behind '{kept[-24:].lstrip()}'",
                    reason=f"{len(pieces)} tokens, a window has room for {limit}: what stands after it is read in a window of its own,"
                    " which the model rarely met",
                    fix=Fix.model_validate({field: kept}) if whole and kept else None,
                )
            )
        found += (_odd(field, match, n) for match, n in _split(encoder, text, vocabulary))
    return found


def _split(encoder: CLIPText, text: str, vocabulary: frozenset[str] | None) -> Iterator[tuple[re.Match[str], int]]:
    """The words of a text that no vocabulary has and that fall into many tokens, and how many, each word once."""
    seen = set[str]()
    for match in _WORD.finditer(text):
        word = match[0].lower()
        if word.startswith("<") or word in seen or (vocabulary is not None and word in vocabulary):
            continue
        seen.add(word)
        n = len(encoder.tokenizer.encode(word))
        if n >= 4 or (n >= 3 and 2 * n >= len(word)):
            yield match, n


def _odd(field: str, match: re.Match[str], n: int) -> Finding:
    return Finding(
        kind="pieces",
        field=field,
        start=match.start(),
        end=match.end(),
        message="say it in words that are known",
        reason=f"'{match[0][:40]}' falls into {n} pieces: the model has not met it as a word",
    )


def _fields(here: Server, asked: Lint) -> list[Finding]:
    """What cannot be made of the further fields: sizes that the model does not know, guidance out of range."""
    request = asked.request or {}
    spec = here.spec(asked.model)
    found: list[Finding] = []

    def say(kind: str, field: str, reason: str, message: str, **patch: Any) -> None:
        found.append(Finding(kind=kind, field=field, start=0, end=0, message=message, reason=reason, fix=Fix(request=patch)))

    size, stride = request.get("size"), here.model(asked.model).codec.stride
    if isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) and 0 < v <= 100_000 for v in size):
        if any(v % stride for v in size):
            near = [max(stride, round(v / stride) * stride) for v in size]
            say("size", "size", f"a side is a multiple of {stride} for this model", f"take {near[0]}x{near[1]}", size=near)
        if max(size[0] / spec.size[0], size[1] / spec.size[1]) > 2:
            say(
                "size",
                "size",
                "more than twice the size it was trained at",
                f"take {spec.size[0]}x{spec.size[1]}",
                size=list(spec.size),
            )
    mix = request.get("mix")
    scale = mix.get("scale") if isinstance(mix, Mapping) else None
    usual = getattr(spec.defaults.mix, "scale", None)
    if (
        isinstance(mix, Mapping)
        and isinstance(scale, int | float)
        and isinstance(usual, int | float)
        and not 1 <= scale <= 3 * usual
    ):
        reason = f"this model was tuned at {usual:g}; far from it pictures burn or drift"
        say("guidance", "mix.scale", reason, f"take {usual:g}", mix={**mix, "scale": usual})
    return found


# ---- embeddings --------------------------------------------------------------------------------------------------------------


@router.post("/v1/embed")
def embed(here: Here, asked: Embed) -> Embedded:
    """Vectors of texts and pictures, and how near they are to each other."""
    if sum(map(len, asked.texts)) > here.limits.prompt:
        raise SpecError(f"texts: {here.limits.prompt:,} characters in all are read here")
    assets = _Known(here)
    with torch.no_grad():
        if asked.joint is not None:
            shared = Shared(assets.joint(asked.joint))
            rows = [shared.texts([text])[0] for text in asked.texts]
            rows += [shared.pictures(canvas.picture(assets, s, shared.joint, shared.joint.spec.size))[0] for s in asked.seals]
        elif asked.seals:
            raise SpecError("seals: pictures have a place in a joint model's space alone: name one")
        else:
            encoder = here.model(asked.model).text
            if encoder is None:
                raise SpecError(f"model '{asked.model}' is unconditional, it has no words")
            found = [encoder(encoder.tokenize([text])).vector for text in asked.texts]
            rows = [vector[0] for vector in found if vector is not None]
    stacked = torch.stack(rows).float() if rows else torch.empty(0, 1)
    return Embedded(vectors=stacked.tolist(), cosines=_cosines(stacked), pca=_plane(stacked))


@router.post("/v1/mix")
async def mix(here: Here, call: Call, asked: Sum) -> Summed:
    """What an expression comes to: lengths, cosines, neighbours, and where it lies among its operands. One search for captions is made
    at a time, and one whose client leaves ends at once."""
    here.check_values({"expression": asked.expression, **({"joint": asked.joint} if asked.joint else {})})
    task = parse({"kind": "mix", "expression": asked.expression, "joint": asked.joint, "lengths": asked.lengths}, "task")
    assert isinstance(task, Mix)
    left = threading.Event()
    watching = asyncio.create_task(_watch(call, left))
    held = False
    try:
        while asked.captions and not held:
            held = here.seeking.acquire(blocking=False)
            if not held:
                _still(here, left)()
                await asyncio.sleep(0.02)
        return await anyio.to_thread.run_sync(_summed, here, task, asked, _still(here, left))
    finally:
        watching.cancel()
        if held:
            here.seeking.release()


async def _watch(call: Call, left: threading.Event) -> None:
    """Say when a client has left."""
    while not await call.is_disconnected():
        await asyncio.sleep(0.05)
    left.set()


def _still(here: Server, left: threading.Event) -> Callable[[], None]:
    def check() -> None:
        if left.is_set() or here.ticker.stopping:
            raise Conflict("nobody waits for the answer any more")

    return check


class _Mind(NamedTuple):
    """What words are thought with: a joint model, where one is asked for, and the embeddings that were made."""

    joint: Joint | None
    memory: Memory


class _Known(Shelf):
    """What requests may name, with joint models read from their files once."""

    def __init__(self, here: Server) -> None:
        super().__init__(here.models)
        self._here = here

    def joint(self, name: str) -> Joint:
        found = self.mind(name).joint
        assert found is not None
        return found

    def mind(self, name: str) -> _Mind:
        """A joint model and its memory."""
        file = self._here.folder.part(name)
        about = file.stat()
        made: _Mind = self._here.minds.get(
            (str(file), about.st_mtime_ns, about.st_size), lambda: _Mind(super(_Known, self).joint(name), Memory())
        )
        return made


def _summed(here: Server, task: Mix, asked: Sum, check: Callable[[], None]) -> Summed:
    model, assets = here.model(asked.model), _Known(here)
    if task.joint is not None:
        memory = assets.mind(task.joint).memory
    else:
        memory = here.minds.get((asked.model, model.fingerprint), lambda: _Mind(None, Memory())).memory
    with torch.no_grad():
        said = task.report(
            model,
            assets,
            k=asked.k,
            among=asked.among,
            emphasis=asked.emphasis,
            seeking=asked.captions,
            memory=memory,
            check=check,
        )
        if task.joint is None:
            if model.text is None:
                raise SpecError(f"model '{asked.model}' is unconditional, it has no words to add")
            blended = task.blend(model.text, asked.emphasis)
            rows, result = torch.stack([v.vector for v in blended.values]), blended.vector
        else:
            shared = Shared(assets.joint(task.joint))
            rows = torch.cat(
                [
                    shared.texts([t.operand.text])
                    if isinstance(t.operand, Text)
                    else shared.pictures(canvas.picture(assets, t.operand.name, shared.joint, shared.joint.spec.size))
                    for t in task.terms
                ]
            )
            result = torch.tensor([t.weight for t in task.terms]) @ rows
    every = torch.cat([rows, result[None]]).float()
    return Summed(
        expression=said.expression,
        space=said.space,
        rows=[Term(**row._asdict()) for row in said.rows],
        length=said.length,
        state=said.state,
        gap=said.gap,
        words=[Near(**n._asdict()) for n in said.words],
        captions=[Near(**n._asdict()) for n in said.captions],
        pictures=[Near(**n._asdict()) for n in said.pictures],
        vectors=rows.float().tolist(),
        result=result.float().tolist(),
        cosines=_cosines(every[:-1]),
        pca=_plane(every),
    )


def _cosines(rows: Tensor) -> list[list[float]]:
    unit = F.normalize(rows.double(), dim=-1)
    found: list[list[float]] = (unit @ unit.T).clamp(-1, 1).tolist()
    return found


def _plane(rows: Tensor) -> list[list[float]]:
    """(N, 2) the rows on the plane of their most variance; each axis' largest entry is positive, so that it is the same every time."""
    if len(rows) < 2:
        return [[0.0, 0.0]] * len(rows)
    centred = rows.double() - rows.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = F.pad(axes, (0, 0, 0, max(0, 2 - len(axes))))[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    found: list[list[float]] = (centred @ (axes * torch.where(largest < 0, -1.0, 1.0)).T).tolist()
    return found


# ---- concepts ----------------------------------------------------------------------------------------------------------------


@router.get("/v1/concepts")
def concepts(here: Here) -> Concepts:
    """The named expressions; `<name>` in a prompt stands for one."""
    return Concepts(concepts=list(here.concepts().values()))


@router.put("/v1/concepts/{name}")
def keep_concept(here: Here, name: Name, concept: Concept) -> Concept:
    """Name an expression, or change it."""
    parse({"kind": "mix", "expression": concept.expression, "joint": concept.joint, "lengths": concept.lengths}, "task")
    here.check_values({"expression": concept.expression})
    kept = concept.model_copy(update={"name": name})
    known = here.concepts()
    if len(known) >= 1000 and name not in known:
        raise SpecError("concepts: there are 1,000, which is as many as are kept")
    here.keep_concepts({**known, name: kept})
    return kept


@router.delete("/v1/concepts/{name}", status_code=204)
def drop_concept(here: Here, name: Name) -> None:
    """Forget a named expression."""
    known = here.concepts()
    if name not in known:
        raise Missing(f"no concept '{name}'")
    here.keep_concepts({n: c for n, c in known.items() if n != name})


# ---- several runs ------------------------------------------------------------------------------------------------------------


@router.post("/v1/grids", status_code=202)
def grid(here: Here, response: Response, asked: Grid, dry: Dry = False) -> Together:
    """A run for every combination of the axes' values, all the same but for these."""
    cells = math.prod(len(axis.values) for axis in asked.axes)
    if cells > here.limits.cells:
        raise SpecError(f"axes: {cells:,} cells, {here.limits.cells:,} may be asked for together")
    paths = [axis.path for axis in asked.axes]
    if twice := next((path for k, path in enumerate(paths) if path in paths[:k]), None):
        raise SpecError(f"axes: '{twice}' is there twice")
    if "fork" in paths and asked.parent is None:
        raise SpecError("axes: 'fork' goes on from steps of a run: say which with parent")
    forks = list[tuple[Fork, int]]()
    asks = list[Ask]()
    group = new_id()
    for values in itertools.product(*(axis.values for axis in asked.axes)):
        cell = dict(zip(paths, values, strict=True))
        title = ", ".join(f"{path}: {value}" for path, value in cell.items())[:500]
        model, step = str(cell.pop("model", asked.model)), cell.pop("fork", None)
        fields = _put(here, model, asked.request, cell, whole="fork" not in paths)
        if step is not None:
            step = _whole("fork", step)
            forks.append(
                (Fork(step=step, request=fields, record=asked.record, priority=asked.priority, title=title, group=group), step)
            )
            continue
        request = parse(fields, "request")
        assert isinstance(request, Request)
        ask = Ask(
            model=model,
            request=request,
            record=asked.record,
            priority=asked.priority,
            parent=asked.parent,
            relation="cell",
            group=group,
            title=title,
        )
        asks.append(here.checked(ask))
    if forks:
        above = here.runs.get(asked.parent or "")
        left = sum(max(above.steps - step, 0) for _, step in forks)
        cost = Cost(pictures=len(forks), steps=left, seconds=left * above.ms_per_step / 1000 if above.ms_per_step else None)
    else:
        cost = costs(here, asks)
    if dry:
        response.status_code = 200
        return Together(group=None, runs=[], cost=cost)
    here.room(cells)
    with here.folder.writing(durable=True):  # all of them, or none
        runs = [forked(here, asked.parent or "", fork, "cell") for fork, _ in forks] + [here.jobs.enqueue(ask) for ask in asks]
    return Together(group=group, runs=runs, cost=cost)


def _put(here: Server, model: str, base: Mapping[str, Any], cell: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    """A request's fields with a cell's values in their places. whole: a part that the request leaves open is the model's own."""
    fields: dict[str, Any] = _copied(base)
    for path, value in cell.items():
        if path.startswith("prompt~"):
            old, prompt = path.removeprefix("prompt~"), fields.get("prompt") or [""]
            prompts = [prompt] if isinstance(prompt, str) else list(prompt)
            if not old or not any(old in str(p) for p in prompts):
                raise SpecError(f"{path}: the prompt does not hold '{old}'")
            fields["prompt"] = [" ".join(str(p).replace(old, str(value)).split()) for p in prompts]
            continue
        keys, at = path.split("."), fields
        if len(keys) > 1 and fields.get(keys[0]) is None:
            own = describe(here.spec(model).defaults, family=False).get(keys[0])
            fields[keys[0]] = own if whole and own is not None else {}
        for depth, key in enumerate(keys[:-1]):
            inner = at.get(key)
            if isinstance(inner, str):
                inner = at[key] = {"kind": inner}
            if inner is None and depth:
                inner = at[key] = {}
            if not isinstance(inner, dict):
                raise SpecError(f"{path}: '{'.'.join(keys[: depth + 1])}' has no fields")
            at = inner
        at[keys[-1]] = value
    return fields


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list | tuple) else value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100_000:
        raise SpecError(f"{name}: {str(value)[:40]} is no step")
    return value


@router.post("/v1/morphs", status_code=202)
def morph(here: Here, response: Response, asked: Morph, dry: Dry = False) -> Together:
    """The frames of a path: every so-many-th first, a run each, then what lies between, a run a gap."""
    frames = sum(segment.frames for segment in asked.segments)
    if frames > here.limits.cells:
        raise SpecError(f"segments: {frames:,} frames, {here.limits.cells:,} may be asked for together")
    group, first, between = new_id(), list[Ask](), list[Ask]()
    for number, segment in enumerate(asked.segments):
        task = {**segment.task, "kind": segment.task.get("kind", "interpolate"), "frames": segment.frames}
        if task["kind"] != "interpolate":
            raise SpecError(f"segments: a morph is made of tasks 'interpolate', not '{str(task['kind'])[:40]}'")
        path = parse(task, "task")
        assert isinstance(path, Interpolate)
        ends = (k for k, place in enumerate(path.places(segment.frames)) if place.part in (0.0, 1.0))
        marks = sorted({*range(0, segment.frames, asked.every), segment.frames - 1, *ends})
        spans = [(k, 1) for k in marks] + [(a + 1, b - a - 1) for a, b in itertools.pairwise(marks) if b - a > 1]
        for index, count in spans:
            request = parse({**asked.request, "task": task, "index": index, "count": count}, "request")
            assert isinstance(request, Request)
            title = asked.title or f"segment {number + 1}, frame {index}" + (f" to {index + count - 1}" if count > 1 else "")
            ask = Ask(
                model=asked.model,
                request=request,
                record=asked.record,
                priority=asked.priority,
                relation="morph",
                group=group,
                title=title,
            )
            (first if index in marks else between).append(here.checked(ask))
    asks = [*first, *between]
    cost = costs(here, asks)
    if dry:
        response.status_code = 200
        return Together(group=None, runs=[], cost=cost)
    here.room(len(asks))
    with here.folder.writing(durable=True):
        runs = [here.jobs.enqueue(ask) for ask in asks]
    return Together(group=group, runs=runs, cost=cost)


def costs(here: Server, asks: Sequence[Ask]) -> Cost:
    """What some runs cost together, by the milliseconds a step that were measured of each model."""
    pictures = steps = 0
    seconds: float | None = 0.0
    speeds = {row["model"]: row for row in here.folder.db.execute("SELECT model, pixels, ms FROM speeds ORDER BY time")}
    specs = {ask.model: here.spec(ask.model) for ask in asks}
    for ask in asks:
        spec, count = specs[ask.model], ask.request.total
        own = ask.request.steps or spec.defaults.steps
        pictures, steps = pictures + count, steps + own * -(-count // (ask.request.micro_batch or count))
        height, width = ask.request.size or spec.size
        speed = speeds.get(ask.model)
        if speed is None or not speed["pixels"]:
            seconds = None
        elif seconds is not None:
            seconds += own * speed["ms"] * height * width * count / speed["pixels"] / 1000
    return Cost(pictures=pictures, steps=steps, seconds=seconds)


__all__ = ["router"]
