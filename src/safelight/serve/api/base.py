"""What all answers stand on: the server's state, the limits of a request, models and recordings at hand, and waiting for what happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, NamedTuple, TypeVar

import anyio
from fastapi import Depends
from fastapi import Request as Call
from pydantic import BaseModel, ConfigDict, Field

from safelight import device as devices
from safelight.files import atomic_bytes
from safelight.model import Model, ModelSpec, peek
from safelight.serve.events import Events
from safelight.serve.folder import Conflict, Folder, Missing
from safelight.serve.jobs import Jobs
from safelight.serve.runs import OVER, Ask, Run
from safelight.serve.safety import check_words
from safelight.serve.settings import Limits, Public, Settings, Tokens, read_public, write_public
from safelight.serve.worker import Models, Shelf, Supervisor
from safelight.spec import SpecError, describe, nearest, parse
from safelight.task import Request, Task
from safelight.trace import Trace

if TYPE_CHECKING:
    from safelight.adapt.inversion import Inversion
    from safelight.serve.attention import Heard
    from safelight.serve.lenses import Lenses

K = TypeVar("K")
V = TypeVar("V")

# How often the index is looked at for news, and how often a silent stream says that it is alive, in seconds.
GLANCE, PING = 0.03, 15.0
# Bytes of models that are kept at hand for what is answered without a worker, and so many pictures' decoded recordings.
_BUDGET, _RECORDINGS = 2 << 30, 4
# Fields of a request that name further models, and those that cost time by their number.
_PEERS = ("weak", "classifier", "joint", "refiner")
_COUNTS = ("steps", "times", "refine", "frames")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(:[\w.+-]+)?")
_CONCEPT = re.compile(r"<([A-Za-z0-9][A-Za-z0-9_-]{0,39})>")


class TooLarge(SpecError):
    """What is sent is larger than what is taken."""


class Full(SpecError):
    """The queue has no room."""


class Error(BaseModel):
    """What every error says: what was wrong in one line, its sort, which parameter, and a word for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Failure(BaseModel):
    """The body of every error."""

    error: Error


class Plain(BaseModel):
    """A body that is no description of a part; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Concept(Plain):
    """A named expression over texts and pictures: `<name>` in a prompt stands for it. joint: the space that it is meant in. lengths:
    whether the sum is brought to the length of its parts."""

    name: str = ""
    expression: str = Field(max_length=10_000)
    joint: str | None = Field(None, max_length=100)
    lengths: bool = True


class Ticker:
    """Tells coroutines that something was written to the index, by one look for all of them every `GLANCE` seconds."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self._news = asyncio.Event()
        self.stopping = False

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                if self.events.changed():
                    self._wake()
                await asyncio.sleep(GLANCE)
        finally:
            self.stop()

    def stop(self) -> None:
        """Let everyone who waits go: the server ends."""
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def wait(self, timeout: float) -> bool:
        """Whether something was written within `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout)
            return True
        return False


class Cache(Generic[K, V]):
    """The last few values by key; a value is made once, also when several threads ask for it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[K, tuple[threading.Lock, list[V]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made where it is not known."""
        with self._lock:
            lock, kept = self._kept.setdefault(key, (threading.Lock(), []))
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
        with lock:
            if not kept:
                kept.append(make())
            return kept[0]


class Recording(NamedTuple):
    """A run's recording with the model that made it."""

    run: Run
    trace: Trace
    model: Model
    version: tuple[int, int]


class Server:
    """A server's state. What it knows of runs lies in the folder; here are only handles, settings, and caches."""

    def __init__(self, settings: Settings, tokens: Tokens) -> None:
        self.settings, self.tokens = settings, tokens
        self.folder = Folder(settings.folder)
        self.jobs = Jobs(self.folder)
        self.runs, self.events = self.jobs.runs, self.jobs.events
        self.public: Public = read_public(self.folder.path)
        self.ticker = Ticker(self.events)
        self.began = time.time()
        self.models = Models(self.folder, devices.pick("cpu"), _BUDGET)
        self._lenses: Cache[tuple[str, int, tuple[int, ...]], Lenses] = Cache(_RECORDINGS)
        self.answered: dict[tuple[str, int], int] = {}
        # What words are thought with: joint models, and the embeddings that searches made, by file.
        self.minds: Cache[tuple[Any, ...], Any] = Cache(4)
        # One thread at a time decodes, and one seeks captions: more would only take the processor from the workers.
        self.decoding, self.seeking, self._exporting = threading.Lock(), threading.Lock(), threading.Lock()
        self.supervisor = Supervisor(
            self.folder,
            settings.devices,
            settings.budget,
            policy=self.public.prune,
            most=settings.max_loaded,
            memory=settings.memory,
        )

    @property
    def limits(self) -> Limits:
        """How much a client may ask for."""
        return self.settings.limits

    def change(self, public: Public) -> None:
        """Take over and keep other public settings. Raises ModuleNotFoundError for a policy whose package is absent."""
        public.safety.ready()
        write_public(self.folder.path, public)
        self.public, self.supervisor.policy = public, public.prune

    # ---- models and recordings -----------------------------------------------------------------------------------------------

    def model(self, name: str) -> Model:
        """A model for what is answered without a worker: tokens, embeddings, lenses. Raises Missing for one that there is not."""
        return self.models.get(name)

    def spec(self, name: str) -> ModelSpec:
        """The description of a model, read from its header."""
        spec = parse(peek(self.folder.model(name)).spec, "model")
        assert isinstance(spec, ModelSpec)
        return spec

    def assets(self) -> Shelf:
        """Pictures and models that requests may name."""
        return Shelf(self.models)

    def recording(self, id: str) -> Recording:
        """A run's recording. Raises Missing when there is none, Conflict when its model is not here as it was."""
        run = self.runs.get(id)
        file = confined(self.folder.path, self.runs.trace(id))
        about = file.stat()
        model = self.model(run.model)
        if run.fingerprint and model.fingerprint != run.fingerprint:
            raise Conflict(f"the model '{run.model}' is not the one that run {id} was made with")
        return Recording(run, Trace.open(file), model, (about.st_mtime_ns, about.st_size))

    def lenses(self, found: Recording, picture: int) -> Lenses:
        """A recording's pictures, decoded once. Raises Missing for a picture that it does not have."""
        from safelight.serve.lenses import Lenses

        self.row(found, picture)
        file = self._heard(found.run.id)
        attended = file.stat().st_mtime_ns if file.is_file() else 0
        return self._lenses.get(
            (found.run.id, picture, (*found.version, attended)),
            lambda: Lenses(found.trace, found.model, picture, self.heard(found.run.id), since=found.run.fork_step or 0),
        )

    @contextlib.contextmanager
    def exporting(self) -> Iterator[None]:
        """A film, a page or an archive is made, one at a time and for seconds. Raises Full while another is: waiting requests would
        take the threads that all others are answered by."""
        if not self._exporting.acquire(timeout=20):
            raise Full("another export is being made: try again")
        try:
            yield
        finally:
            self._exporting.release()

    def row(self, found: Recording, picture: int) -> None:
        """Raise Missing for a picture that a recording does not have."""
        steps = found.trace.steps
        count = len(found.trace.x(steps[0].k)) if steps else 0
        if not 0 <= picture < count:
            raise Missing(f"run {found.run.id} has recorded {count} pictures, there is no number {picture}")

    def heard(self, id: str) -> Heard | None:
        """What a run's network attended to, where that was recorded."""
        from safelight.serve.attention import Heard

        file = self._heard(id)
        return Heard.open(confined(self.folder.path, file)) if file.is_file() else None

    def _heard(self, id: str) -> Path:
        return self.folder.run(id) / "attention.safetensors"

    # ---- what is asked -------------------------------------------------------------------------------------------------------

    def ask(self, ask: Ask) -> Run:
        """Queue a run, once concepts are put in and limits and the safety policy have nothing against it."""
        ask = self.checked(ask)
        self.room(1)
        return self.jobs.enqueue(ask)

    def checked(self, ask: Ask) -> Ask:
        """An Ask with its concepts put in. Raises SpecError for what the limits or the policy refuse."""
        request = self.expanded(ask.request)
        self.check(request, ask.model)
        return ask.model_copy(update={"request": request}) if request is not ask.request else ask

    def room(self, more: int) -> None:
        """Raise Full when the queue cannot take so many more."""
        waiting = self.folder.db.execute("SELECT count(*) FROM runs WHERE state = 'queued' AND deleted IS NULL").fetchone()[0]
        if waiting + more > self.limits.queue:
            raise Full(f"{waiting} runs wait already, {self.limits.queue} may: try again later")

    def check(self, request: Request, model: str) -> None:
        """Raise SpecError where a request is larger than the limits, names a file, or says what the policy refuses."""
        limits, spec, told = self.limits, self.spec(model), describe(request)
        self.check_values(told)
        self.check_adapters(request)
        count, steps = request.total, request.steps or spec.defaults.steps
        if count > limits.count:
            raise SpecError(f"count: {count:,} pictures, {limits.count:,} may be one run")
        if steps > limits.steps:
            raise SpecError(f"steps: {steps:,} is more than the {limits.steps:,} that are made here")
        height, width = request.task.size(request, _Sized(spec), self.assets())  # type: ignore[arg-type]
        if height < 1 or width < 1 or height * width > limits.pixels:
            raise SpecError(f"size: {height}x{width} is not within 1 and {limits.pixels:,} pixels")
        task: Task | None = request.task
        while task is not None:  # a pass before the last one, and a last one of its own number of steps
            first, more = getattr(task, "first", None) or (1, 1), getattr(getattr(task, "second", None), "count", None) or 0
            if first[0] * first[1] > limits.pixels or more > limits.steps:
                raise SpecError(f"task: a pass of {more:,} steps or of {first[0]}x{first[1]} pixels is more than is made here")
            task = getattr(task, "of", None)
        # A sampler within a sampler asks the network as often as both together, within one step.
        sampler = request.sampler or request.task.sampler(spec.defaults.sampler)
        _ = request.varied, request.model_copy(update={"sampler": sampler}).solver  # they refuse what cannot be together
        calls = sampler.calls
        if calls > limits.steps:  # a run can be left between steps, not within one
            raise SpecError(f"sampler: {calls:,} calls a step, {limits.steps:,} may be one step")
        work = height * width * steps * count * calls
        if work > limits.work:
            raise SpecError(f"size, steps and count: {work:,} pixels x steps x pictures, {limits.work:,} may be one run")

    def check_adapters(self, request: Request) -> None:
        """Raise Missing for an adapter, a learned word or a control of a request that is not in the data folder."""
        loras, words = self.folder.adapters(), self.folder.adapters("embeddings")
        for what, where, names, there in (
            ("adapter", "loras", [use.name for use in request.loras], loras),
            ("learned word", "embeddings", [use.name for use in request.words], words),
            ("control", "controls", [use.name for use in request.controls], self.folder.controls()),
        ):
            lost = next((name for name in names if name not in there), None)
            if lost is not None:
                raise Missing(
                    f"no {what} '{lost[:60]}' is here{nearest(lost[:60], there)}: the server's folder '{where}' holds them"
                )

    def check_values(self, told: Mapping[str, Any]) -> None:
        """Raise SpecError where a described request, or a part of one, is longer than is read, names a file, or says what the
        safety policy refuses."""
        limits, letters, leaves = self.limits, 0, 0
        for name, value in _leaves(told):
            leaves += 1
            if isinstance(value, str):
                letters += len(value)
                if name in _PEERS and not _NAME.fullmatch(value):
                    raise SpecError(f"{name}: '{value[:60]}' is no model's name; files are not named here")
            elif isinstance(value, int) and name in _COUNTS and value > limits.steps:
                raise SpecError(f"{name}: {value:,} is more than the {limits.steps:,} that are made here")
        if leaves > limits.prompt:
            raise SpecError(f"request: {leaves:,} values in all, {limits.prompt:,} are read here")
        if letters > limits.prompt:
            raise SpecError(f"prompt: {letters:,} characters in all, {limits.prompt:,} are read here")
        check_words(self.public.safety, told)

    # ---- adapters ------------------------------------------------------------------------------------------------------------

    def learned(self) -> tuple[dict[str, list[Inversion]], dict[str, str]]:
        """The learned words of the data folder by the names of their files, and of files that hold none the reason."""
        from safelight.interop.inversion import load

        found: dict[str, list[Inversion]] = {}
        skipped: dict[str, str] = {}
        for name, path in self.folder.adapters("embeddings").items():
            try:
                found[name] = load(path)
            except (SpecError, OSError) as error:
                skipped[name] = self.folder.nameless(str(error))
        return found, skipped

    # ---- concepts ------------------------------------------------------------------------------------------------------------

    def concepts(self) -> dict[str, Concept]:
        """The named expressions, by name."""
        file = self.folder.path / "concepts.json"
        found = json.loads(file.read_text()) if file.is_file() else []
        return {one["name"]: Concept.model_validate(one) for one in found}

    def keep_concepts(self, concepts: Mapping[str, Concept]) -> None:
        """Keep the named expressions."""
        text = json.dumps([concepts[name].model_dump() for name in sorted(concepts)])
        atomic_bytes(self.folder.path / "concepts.json", text.encode())

    def expanded(self, request: Request) -> Request:
        """A request whose prompt names concepts, as a mix of its other words and their expressions; any other as it is.

        Raises SpecError for concepts in several prompts, or beside a task that has its own words.
        """
        named = [name for prompt in request.prompt for name in _CONCEPT.findall(prompt)]
        known = self.concepts() if named else {}
        used = [name for name in dict.fromkeys(named) if name in known]
        if not used:
            return request
        if len(request.prompt) > 1 or request.task.kind != "text":
            raise SpecError(f"prompt: <{used[0]}> is a concept, which stands in one prompt of a picture made of words alone")
        rest = " ".join(_CONCEPT.sub(lambda m: "" if m[1] in known else m[0], request.prompt[0]).split())
        words = [json.dumps(rest, ensure_ascii=False)] if rest.strip(" ,") else []
        text = " + ".join([*words, *(f"({known[name].expression})" for name in used)])
        joints = {known[name].joint for name in used}
        if len(joints) > 1:
            raise SpecError("prompt: these concepts are meant in different spaces, and have no sum")
        lengths = all(known[name].lengths for name in used)
        task = parse({"kind": "mix", "expression": text, "joint": joints.pop(), "lengths": lengths}, "task")
        return request.model_copy(update={"task": task, "prompt": ("",)})

    # ---- waiting -------------------------------------------------------------------------------------------------------------

    async def finished(self, id: str, call: Call | None = None) -> Run:
        """A run once it is over. call: whose client may leave; then the run is cancelled, as nobody would see it."""
        while True:
            run = await anyio.to_thread.run_sync(self.runs.get, id)
            if run.state in OVER or self.ticker.stopping:
                return run
            if call is not None and await call.is_disconnected():
                await anyio.to_thread.run_sync(self.jobs.cancel, id)
                return run
            await self.ticker.wait(0.5)

    async def made(self, id: str, call: Call | None = None) -> Run:
        """A run once it is done. Raises Conflict, saying why, for one that failed or was stopped."""
        run = await self.finished(id, call)
        if run.state != "done":
            raise Conflict(f"run {id} {run.state}: {run.error}" if run.error else f"run {id} was stopped")
        return run

    async def happenings(self, last: int) -> AsyncIterator[list[Any]]:
        """The events after `last` as they come, and an empty list whenever nothing happened for `PING` seconds."""
        while not self.ticker.stopping:
            found = await anyio.to_thread.run_sync(self.events.since, last)
            if found:
                last = found[-1].id
                yield found
            elif not await self._something(last):
                yield []

    async def _something(self, last: int) -> bool:
        """Whether there is an event after `last` within `PING` seconds: most writes to the index tell none."""
        until = time.monotonic() + PING
        while (left := until - time.monotonic()) > 0 and not self.ticker.stopping:
            await self.ticker.wait(min(left, 1.0))
            if await anyio.to_thread.run_sync(self.events.last) > last:
                return True
        return False


class _Sized(NamedTuple):
    """What a task's `size` asks of a model."""

    spec: ModelSpec


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a description that hold no others, each with the name of its field."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner, name)
    else:
        yield name, value


def confined(root: Path, file: Path) -> Path:
    """A file, once it is sure to lie in `root` and to be no link. Raises Missing otherwise."""
    try:
        about = os.lstat(file)
        inside = file.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, ValueError):
        raise Missing("there is no such file") from None
    if not inside or not stat.S_ISREG(about.st_mode):
        raise Missing("there is no such file")
    return file


def server_of(call: Call) -> Server:
    """The server's state, of a call."""
    found: Server = call.app.state.server
    return found


Here = Annotated[Server, Depends(server_of)]

__all__ = [
    "Cache",
    "Concept",
    "Conflict",
    "Error",
    "Failure",
    "Full",
    "Here",
    "Missing",
    "Plain",
    "Recording",
    "Server",
    "Ticker",
    "TooLarge",
    "confined",
    "server_of",
]
