"""The worker: one process a device, which takes jobs, runs them, and can be killed at any moment without a job being lost.

What is written of a run, in its folder:

    trace.safetensors   the recording: whole at the end; until then what there is of it, every 5 seconds (more often where a worker has
                        died before), and when the run is stopped or paused. Until then it also holds where to go on from
                        (`resume/...`: x and the solver's memory in full precision, whatever the recording keeps), so that a run
                        that is gone on with ends in the very same pictures.
    0.png, 1.png, ...   the pictures with their notes, as the command line writes them

A task of several stages is recorded a trace a stage (`trace-2.safetensors`, ...). Stopped in its first stage it goes on from the last
step; later, it makes the micro-batch it was at anew. What a task does before its stage (an inversion) is told as steps marked `aside`;
it is not recorded, and done again by a run that goes on. Deterministic as everything is, the pictures are the same all the same.

Servers may share a folder: a lock for each device says whose worker works there, and the worker holds it with its server. So a second
server waits until the first and its worker are gone, and a worker that outlives its server is not doubled. It sees the end of the pipe
from its server, leaves its run at the next step for another worker, and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import torch
from torch import Tensor, nn

from safelight import assets as at_hand
from safelight import device as devices
from safelight import model as files
from safelight import picture
from safelight.draw.pixels import to_bytes
from safelight.engine.place import place
from safelight.engine.shelf import Shelf as LRU
from safelight.engine.shelf import size_of
from safelight.generate import Event, Finished, Prepared, Started, Stepped, generate
from safelight.model import Model
from safelight.picture import Note
from safelight.process import Level
from safelight.sample import State
from safelight.serve.attention import Listener
from safelight.serve.folder import Folder, new_id
from safelight.serve.frames import Seen, frames
from safelight.serve.jobs import Jobs, Worker
from safelight.serve.runs import FROM, Prune, Record, Run, traced
from safelight.spec import SpecError, parse
from safelight.task import Request, Resolved
from safelight.text.joint import Joint
from safelight.trace import Recorder, Trace

# Seconds between writings of a recording, and the part of the time that writing may take.
_EVERY, _SHARE = 5.0, 0.05
# Seconds between a worker's signs of life, looks at an empty queue, and other chores.
_BEAT, _LOOK, _CHORES = 1.0, 0.03, 5.0
# A worker that was told to leave is given so many seconds; then it is killed.
_PATIENCE = 20.0
# So often a server looks whether a device's lock is free, and after so long it says that another has it, in seconds.
_WAIT, _SAY = 0.3, 3.0
# What a process was writing when it died is swept away once it is so old, in seconds.
_OLD = 3600.0
# Frames are for looking at while it runs: of so many pictures. Steps within so many seconds are shown and told together.
_FRAMES, _TOGETHER = 16, 0.05
# While frames take more than this part of the steps' own time, only what is believed is shown.
_LOOKING = 0.4

Outcome = Literal["done", "stopped", "paused", "queued", "lost"]


# ---- models ------------------------------------------------------------------------------------------------------------------


class Models:
    """The models of a device, by name, on a shelf of `budget` bytes and `most` models, laid out as `memory` says (engine/place.py).

    Raises SpecError for models that there are not.
    """

    def __init__(
        self, folder: Folder, device: torch.device, budget: int = 0, *, most: int = 0, memory: Literal["full", "low"] = "full"
    ) -> None:
        self.folder, self.device, self.memory = folder, device, memory
        self._shelf: LRU[Model] = LRU(device, budget, most)
        self.budget = self._shelf.budget

    @property
    def read(self) -> int:
        """How many models were read from their files."""
        return self._shelf.made

    def get(self, name: str) -> Model:
        """A model by its name; "NAME:WEIGHTS" takes that set of its weights. A file that was replaced is read anew."""
        source, _, weights = name.partition(":")
        path = self.folder.model(source)
        name = f"{path.stem}:{weights}" if source == "default" and weights else path.stem if source == "default" else name
        stat = path.stat()

        def need() -> int:
            header = files.peek(path)
            prefix = f"{weights or next((n for n in header.weights if n != 'raw'), 'raw')}/"
            mine = (e.size for n, e in header.tensors.items() if header.layout != "safelight" or n.startswith(prefix))
            return 4 * sum(mine)

        def read() -> tuple[Model, int]:
            here = "cpu" if self.memory == "low" else self.device
            model = files.load(path, weights or None, device=here)
            place(model, self.memory, device=self.device)
            if source != path.stem and source != "default":
                model.name = source  # a shelved file is known, also in notes, by the name it was given
            return model, size_of(model)

        return self._shelf.get(name, (path, stat.st_mtime_ns, stat.st_size), need, read)

    def drop(self, name: str) -> None:
        """Give a model's memory back, with all sets of its weights."""
        self._shelf.drop(lambda held: held.partition(":")[0] == name)

    def sizes(self) -> dict[str, int]:
        """The bytes of those in memory, the one used last at the end."""
        return self._shelf.sizes()


class Shelf(at_hand.Assets):
    """The pictures and further models that a request names, from a data folder and nowhere else: no name is a path here."""

    def __init__(self, models: Models, pictures: Sequence[Tensor] = ()) -> None:
        super().__init__(pictures, device=models.device)
        self._from = models
        self._loras |= models.folder.adapters()
        self._words |= models.folder.adapters("embeddings")
        self._control_paths |= models.folder.controls()

    def picture(self, name: str) -> Tensor:
        """uint8 (C, H, W), also one that nobody brought and that the folder has. Raises Missing when it is nowhere."""
        if name not in self._pictures:
            self.add(self._from.folder.read(name)[0])
        return self._pictures[name]

    def model(self, name: str) -> Model:
        """A model by its name in the folder, within the device's budget."""
        return self._from.get(name)

    def joint(self, name: str) -> Joint:
        """A joint model that ships, or lies among the folder's models."""
        return super().joint(str(self._from.folder.part(name)))

    def classifier(self, name: str) -> nn.Module:
        """A classifier that ships, or lies among the folder's models."""
        return super().classifier(str(self._from.folder.part(name)))


# ---- recording ---------------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """Where a run can go on: before step k of a stage of a part, with x and the solver's memory; `generate` goes on with it as with a
    recording. request: of the run, but with the index of the part's first picture. done: so many pictures are finished."""

    request: Request
    part: int
    stage: int
    k: int
    done: int
    levels: Sequence[Level]
    tensor: Tensor
    memory: State

    def x(self, k: int) -> Tensor:
        """x before step k, which is the only one that it knows."""
        return self.tensor

    def state(self, k: int) -> State:
        """The sampler's memory there."""
        return self.memory


class Turned:
    """A recording whose noise before a step is turned to fresh noise: x = alpha x0 + sigma slerp(eps, n, part), eps that of the recording.

    x0 is what the recording believed there; n is what the fork's seed draws for the purpose "fork". A solver begins without a memory.
    """

    def __init__(self, trace: Trace, request: Request, part: float) -> None:
        self.trace, self.asked, self.part = trace, request, part

    @property
    def levels(self) -> Sequence[Level]:
        """Those of the recording."""
        return self.trace.levels

    @property
    def request(self) -> Request:
        """That of the recording."""
        return self.trace.request

    def x(self, k: int) -> Tensor:
        """(B, C, *space) x before step k, its noise turned."""
        from safelight.between import slerp, tempered
        from safelight.noise import Noise

        level, x, x0 = self.trace.levels[k], self.trace.x(k), self.trace.x0(k)
        numbers = range(self.request.index, self.request.index + len(x))
        fresh = tempered(Noise(self.asked.seed, numbers), self.asked.temperature).normal("fork", level, None, x)
        alpha, sigma = float(level.alpha), float(level.sigma)
        eps = (x - alpha * x0) / sigma
        return alpha * x0 + sigma * slerp(eps, fresh, [self.part] * len(x))

    def state(self, k: int) -> State:
        """A memory of nothing."""
        solver = self.request.solver
        return {} if solver is None else solver.start(len(self.levels) - 1)


class Tape:
    """Records a run into its folder, and takes up what an earlier worker left there."""

    def __init__(self, record: Record, folder: Path) -> None:
        self.record, self.folder = record, folder
        self.stages: list[Recorder] = []
        self.pictures: list[Tensor] = []
        self.point: Point | None = None
        self._request: Resolved | None = None

    def _recorder(self) -> Recorder:
        return Recorder(exact=self.record != "preview", branches=self.record == "branches")

    def begin(self, fork: Trace, k: int, rows: slice) -> None:
        """A fork begins: its recording has what came before step k of its parent's."""
        self.stages = [self._recorder()]
        self.stages[0].take_up(fork, k, rows=rows)

    def take_up(self, begin: int) -> Point | None:
        """Go on with what lies in the folder; None when there is nothing to go on from. begin: the step the run itself began at."""
        file = self.folder / traced(0)
        if not file.is_file():
            return None
        trace = Trace.open(file)
        told = trace.about.get("resume")
        if told is None:  # finished, but not told so: it is made again
            return None
        part, stage, k, done = (int(told[name]) for name in ("part", "stage", "k", "done"))
        if done:
            self.pictures = [trace.tensor("resume/pictures")]
        later = [self.folder / traced(s) for s in range(1, 100) if (self.folder / traced(s)).is_file()]
        for s, found in enumerate([file, *later]):
            recorder = self._recorder()
            # Of a later stage, and of the first when it was left behind, only finished pictures count: the part is made anew.
            whole = s == 0 and stage == 0
            recorder.take_up(Trace.open(found), k if whole else begin if s == 0 else 0, done=done)
            self.stages.append(recorder)
        request = trace.request.model_copy(update={"index": int(told["index"])})
        memory: dict[str, Tensor | float] = {n: float(v) for n, v in told["state"].items()}
        memory |= {n.rpartition("/")[2]: trace.tensor(n) for n in trace.names if n.startswith("resume/state/")}
        x = trace.tensor("resume/x")
        self.point = Point(request, part, stage, k, done, trace.levels, x, memory)
        return self.point

    def see(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Prepared):
            return
        stage = max(len(self.stages) - 1, 0) if isinstance(event, Finished) else event.stage
        while stage >= len(self.stages):
            self.stages.append(self._recorder())
        if isinstance(event, Started):
            self._request = event.request
            self.stages[stage].see(event._replace(stage=0))
            index = event.request.model_copy(update={"index": event.numbers[0]})
            done = sum(map(len, self.pictures))
            self.point = Point(index, event.part, stage, event.first, done, event.levels, event.x, event.state or {})
        elif isinstance(event, Stepped):
            assert self.point is not None
            self.stages[stage].see(event)
            self.point = self.point._replace(k=event.step.i + 1, tensor=event.step.x, memory=event.step.state)
        else:
            self.pictures.append(event.pictures.float().cpu())
            if self.stages and self.stages[stage].request is not None:
                self.stages[stage].see(event)
            if self.point is not None:
                self.point = self.point._replace(part=event.part + 1, stage=0, k=-1, done=sum(map(len, self.pictures)))

    def save(self, *, whole: bool) -> None:
        """Write the recording: the stages after the first, then the first, which says where to go on unless it is `whole`."""
        for k, recorder in reversed(list(enumerate(self.stages))):
            if recorder.request is None:
                continue
            trace = recorder.trace()
            if k == 0 and not whole and self.point is not None:
                trace = _resumable(trace, self.point, self.pictures)
            trace.save(self.folder / traced(k))


def _resumable(trace: Trace, point: Point, pictures: Sequence[Tensor]) -> Trace:
    """A recording that also says where to go on from. pictures: those that are finished, which a later stage's recording has else."""
    memory = {name: value for name, value in point.memory.items() if isinstance(value, Tensor)}
    tensors = {name: trace.tensor(name) for name in trace.names} | {"resume/x": _kept(point.tensor)}
    tensors |= {f"resume/state/{name}": _kept(value) for name, value in memory.items()}
    if pictures:
        tensors["resume/pictures"] = torch.cat(list(pictures))
    told = {
        "part": point.part,
        "stage": point.stage,
        "k": point.k,
        "done": point.done,
        "index": point.request.index,
        # As text: a solver may remember an infinity, which JSON has no number for.
        "state": {name: repr(float(v)) for name, v in point.memory.items() if not isinstance(v, Tensor)},
    }
    return Trace(trace.about | {"resume": told}, tensors)


def _kept(x: Tensor) -> Tensor:
    return x.detach().cpu().contiguous().clone()


# ---- a device's desk ---------------------------------------------------------------------------------------------------------


class Desk:
    """What a worker works at: a device, its models, and the run that is being made. frames: show the steps as pictures."""

    def __init__(
        self,
        folder: Folder,
        device: str | torch.device = "auto",
        budget: int = 0,
        *,
        id: str = "",
        frames: bool = True,
        most: int = 0,
        memory: Literal["full", "low"] = "full",
    ) -> None:
        self.folder, self.device = folder, devices.pick(device)
        self.id, self.frames = id or new_id(), frames
        self.jobs = Jobs(folder)
        self.models = Models(folder, self.device, budget, most=most, memory=memory)
        self.run: str | None = None
        self.lost: str | None = None  # a run that another worker has by now
        self.leave = threading.Event()

    def present(self) -> None:
        """Say that the worker is there, and hold the run that it makes."""
        run = self.run
        if run is not None and not self.jobs.renew(run, self.id) and self.run == run:
            self.lost = run
        sizes = self.models.sizes()
        worker = Worker(
            id=self.id,
            device=str(self.device),
            pid=os.getpid(),
            seen=time.time(),
            run=run,
            bytes=sum(sizes.values()),
            budget=self.models.budget,
        )
        self.jobs.present(worker, sizes)

    def once(self) -> bool:
        """Fulfil the oldest wish, or else do the next job; False when there is neither."""
        if (wish := self.jobs.wish(self.id)) is not None:
            number, (name, load) = wish
            try:
                if load:
                    self.models.get(name)
                else:
                    self.models.drop(name)
            except SpecError as error:
                print(f"worker: {error}", file=sys.stderr)
            self.present()
            self.jobs.granted(number)
            return True
        run = self.jobs.claim(self.id)
        if run is None:
            return False
        self.lost = None
        self.run = run.id
        try:
            self.do(run)
        finally:
            self.run = None
        return True

    def do(self, run: Run) -> None:
        """Make a claimed run, and leave it as it came out. What is wrong with a run is its error; what is wrong with the index ends us."""
        outcome: Outcome | Literal["failed"]
        error, problem = "", Exception()
        try:
            outcome = _attend(self, run) if run.kind == "attention" else Making(self, run).make()
        except SpecError as wrong:
            outcome, error, problem = "failed", " ".join(str(wrong).split()), wrong
        except sqlite3.Error:
            raise
        except Exception as wrong:  # of a model or a file that nobody foresaw: the run's fault, not the queue's
            traceback.print_exc()
            outcome, error, problem = "failed", f"{type(wrong).__name__}: {' '.join(str(wrong).split())[:300]}", wrong
        if outcome == "failed":
            with contextlib.suppress(OSError):  # a full disk, most likely: what is wrong is said all the same
                self._keep_error(run.id, problem)
        if outcome != "lost":
            self.jobs.over(run.id, self.id, outcome, self.folder.nameless(error))
        fork = self.folder.run(run.id) / FROM
        if outcome == "done" and fork.exists():  # not before it is known to be done: a fork that is made again begins from this
            fork.unlink()
            with contextlib.suppress(SpecError):  # deleted meanwhile
                self.jobs.runs.set(run.id, bytes=self.folder.size("runs", run.id))

    def _keep_error(self, id: str, problem: Exception) -> None:
        """Keep the traceback beside the run, for whoever has this machine; no client is shown it."""
        file = self.folder.run(id) / "error.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(problem)), encoding="utf-8")

    def model(self, run: Run) -> Model:
        """The model of a run; how long it took to have it stands in the run's log. Raises SpecError where it is another one by now."""
        began, read = time.perf_counter(), self.models.read
        model = self.models.get(run.model)
        took = f"loaded in {time.perf_counter() - began:.2f} s" if self.models.read > read else "was at hand"
        self.jobs.runs.note(run.id, f"model {model.name} {took}")
        if run.fingerprint and model.fingerprint != run.fingerprint:
            raise SpecError(f"the model '{run.model}' is another one than when this was asked for: ask again")
        return model

    def order(self, run: Run) -> Outcome | None:
        """What a run must be left for now: a cancel, a pause, another worker's lease, or that we are to leave."""
        if self.lost == run.id:
            return "lost"
        asked = self.jobs.asked(run.id)
        if asked:
            return "stopped" if asked == "cancel" else "paused"
        return "queued" if self.leave.is_set() else None


class Making:
    """One run on its way."""

    def __init__(self, desk: Desk, run: Run) -> None:
        self.desk, self.run, self.jobs = desk, run, desk.jobs
        self.folder = desk.folder.run(run.id)
        self.folder.mkdir(parents=True, exist_ok=True)
        # What a worker was writing when it died; safetensors writes under a name of its own.
        for half in (f for pattern in (".trace*.partial.*", ".[0-9]*.partial.*", ".tmp*") for f in self.folder.glob(pattern)):
            half.unlink(missing_ok=True)
        self.begin = run.fork_step or 0
        self.walls: list[float] = []
        self.looked = self.worked = 0.0  # seconds that frames took, and steps
        self.untold: list[_Untold] = []
        self.lengths: list[int] = []  # steps of each stage of a part, as far as known
        self.last = time.perf_counter()
        # Where a worker has died before, every step may be the last one: then only the time it takes limits how often is written.
        self.every = 0.0 if self.jobs.died(run.id) else _EVERY
        self.due = time.monotonic() + self.every

    def make(self) -> Outcome:
        """Make the pictures and write them; leaves early, with all that is needed to go on, when it is asked to."""
        run, desk = self.run, self.desk
        model = desk.model(run)
        request = parse(run.request, "request")
        assert isinstance(request, Request)
        assets = Shelf(desk.models)
        parents = [desk.folder.read(seal) for seal in request.inputs]
        for pixels, _ in parents:
            assets.add(pixels)
        asked = request.resolve(model, assets)
        tape = Tape(run.record, self.folder)
        fork = Trace.open(self.folder / FROM) if run.fork_step is not None else None
        point = tape.take_up(self.begin)
        if fork is not None and point is None:
            first = asked.index - fork.request.index
            tape.begin(fork, self.begin, slice(first, first + asked.total))
            self.jobs.runs.note(run.id, f"goes on with run {run.parent} from step {self.begin}")
        source = fork if fork is None or not run.noise else Turned(fork, asked, run.noise)
        total = asked.total
        parts = -(-total // (asked.micro_batch or total))
        if point is not None:
            self.jobs.runs.note(run.id, f"goes on from what was recorded: {_where(point, parts)}")
        for part in range(point.part if point is not None else 0, parts):
            # A part is gone on with from its own step, or begun: from the fork's step, or from noise.
            here = point if point is not None and point.part == part and point.stage == 0 and point.k > self.begin else None
            recorded, k = (here, here.k) if here is not None else (source, self.begin)
            for event in generate(model, asked, assets=assets, recorded=recorded, first=k, part=part):
                tape.see(event)
                self._tell(model, asked, event)
                if (left := self._leave(model, tape, event)) is not None:
                    return left
        self._finish(model, asked, tape, parents)
        return "done"

    def _leave(self, model: Model, tape: Tape, event: Event) -> Outcome | None:
        """Why the run must be left now, if it must; the recording is then written, as it is from time to time."""
        order = None if isinstance(event, Finished) else self.desk.order(self.run)
        if order == "lost":
            return order
        if order is not None or (time.monotonic() >= self.due and isinstance(event, Stepped | Finished)):
            self._told(model)
            began = time.monotonic()
            tape.save(whole=False)
            self.due = time.monotonic() + max(self.every, (time.monotonic() - began) / _SHARE)
        return order

    def _finish(self, model: Model, asked: Resolved, tape: Tape, parents: Sequence[tuple[Tensor, Note | None]]) -> None:
        finished = to_bytes(torch.cat(tape.pictures))
        pixels = [torch.from_numpy(one).permute(2, 0, 1).contiguous() for one in finished]
        made = []
        for k, (pixel, note) in enumerate(zip(pixels, self._notes(model, asked, pixels, parents), strict=True)):
            file = picture.write(self.folder / f"{k}.png", pixel, note)
            made.append((file.name, note.seal, pixel.shape[2], pixel.shape[1]))
        tape.save(whole=True)
        self.jobs.runs.pictured(self.run.id, made)

    def _notes(
        self, model: Model, asked: Resolved, pixels: Sequence[Tensor], parents: Sequence[tuple[Tensor, Note | None]]
    ) -> list[Note]:
        """The notes of the pictures. A fork's say so: its request alone does not make it, and it descends from its parent's picture."""
        run = self.run
        if run.fork_step is None:
            return picture.notes(model, asked, pixels, parents=parents)
        told = {"fork_step": run.fork_step} | ({"fork_noise": run.noise} if run.noise else {})
        notes = picture.notes(model, asked, pixels, parents=parents, engine=told)
        with contextlib.suppress(SpecError, OSError):  # a parent that was stopped has no pictures, one that was deleted no run
            assert run.parent is not None
            above = self.jobs.runs.get(run.parent)
            shift = asked.index - int(above.request.get("index") or 0)
            files_ = [self.jobs.runs.picture(run.parent, shift + k) for k in range(len(notes))]
            befores = [picture.note(file) for file in files_]
            notes = [
                note if before is None else note.model_copy(update={"lineage": before.ancestors()})
                for note, before in zip(notes, befores, strict=True)
            ]
        return notes

    # ---- telling -------------------------------------------------------------------------------------------------------------

    def _tell(self, model: Model, asked: Resolved, event: Event) -> None:
        run = self.run
        if isinstance(event, Started):
            height, width = asked.size
            part = f", part {event.part + 1} of {event.parts}" if event.parts > 1 else ""
            made = f"{len(event.levels) - 1 - event.first} steps of {asked.sampler.kind} at {width} x {height}"
            self.jobs.runs.note(run.id, f"stage {event.stage + 1}{part}: {made}")
            if event.stage >= len(self.lengths):
                self.lengths.append(len(event.levels) - 1)
                if event.stage == 0:
                    levels = [(float(v.t), float(v.alpha), float(v.sigma)) for v in event.levels]
                    self.jobs.began(run.id, self.desk.id, asked, levels, event.parts * self.lengths[0])
            self.last = time.perf_counter()
        elif isinstance(event, Prepared):
            aside = event.aside
            data = _step(run, event, aside.i, aside.n, aside.level)
            self.jobs.stepped(run.id, self.desk.id, 0, event.milliseconds, data)
        elif isinstance(event, Stepped):
            step = event.step
            data = _step(run, event, step.i, step.n, step.now)
            each = sum(self.lengths) or step.n
            done = event.part * each + sum(self.lengths[: event.stage]) + step.i + 1
            left, seen = max(event.parts * each - done, 0), None
            if self.desk.frames:
                rows, size = range(min(len(step.x), _FRAMES)), asked.micro_batch or asked.total
                data["pictures"] = [event.part * size + k for k in rows]
                seen = Seen.of(step, len(rows))
            self.untold.append(_Untold(done, left, data, seen))
            self.worked += event.milliseconds / 1000
            now = seen is None or not self.walls or step.i + 1 == step.n or len(self.untold) * len(step.x) >= _FRAMES
            if now or time.perf_counter() - self.last >= _TOGETHER:
                self._told(model)

    def _told(self, model: Model) -> None:
        """Tell the steps that are not told yet, with their frames; without x where frames have taken more than their share of the time."""
        untold, self.untold = self.untold, []
        if not untold:
            return
        began, looks = time.perf_counter(), [one.seen for one in untold if one.seen is not None]
        names = ("x", "x0") if self.looked <= _LOOKING * self.worked else ("x0",)
        for one, found in zip(untold, frames(model, looks, names), strict=False):
            one.data["frames"] = found
        now = time.perf_counter()
        self.looked += now - began
        self.walls += [(now - self.last) * 1000 / len(untold)] * len(untold)
        self.last = now
        # The first step of a model also warms it up.
        ms = statistics.median(self.walls[1:] or self.walls)
        for one in untold:
            one.data["eta"] = one.left * ms / 1000
            if not self.jobs.stepped(self.run.id, self.desk.id, one.done, ms, one.data):
                self.desk.lost = self.run.id


class _Untold(NamedTuple):
    """A step that nobody was told of yet: `done` in all, `left` to do, the event, and what is shown of it."""

    done: int
    left: int
    data: dict[str, Any]
    seen: Seen | None


def _where(point: Point, parts: int) -> str:
    """Where a run goes on, in words."""
    part = f"part {point.part + 1} of {parts}, " if parts > 1 else ""
    return f"{part}stage {point.stage + 1}, {'its beginning' if point.k < 1 else f'step {point.k}'}"


def _step(run: Run, event: Stepped | Prepared, k: int, n: int, level: Level) -> dict[str, Any]:
    """What a step event tells of any step: number k of n, which began at `level`."""
    where = {"run": run.id, "k": k, "n": n, "part": event.part, "parts": event.parts, "ms": event.milliseconds}
    at = {"t": float(level.t), "alpha": float(level.alpha), "sigma": float(level.sigma)}
    return where | at | {"eta": None, "aside": isinstance(event, Prepared), "frames": {}}


def _attend(desk: Desk, run: Run) -> Outcome:
    """Record what the network of the run's parent attended to, by a replay, beside the parent's recording."""
    assert run.parent is not None
    jobs = desk.jobs
    trace = Trace.open(jobs.runs.trace(run.parent))
    model = desk.model(run)
    listener = Listener(trace, model, assets=Shelf(desk.models), first=jobs.runs.get(run.parent).fork_step)
    last, walls = time.perf_counter(), list[float]()
    for event in listener:
        if (order := desk.order(run)) is not None:
            return order
        if isinstance(event, Stepped):
            now = time.perf_counter()
            walls.append((now - last) * 1000)
            last, ms = now, statistics.median(walls)
            eta = max(run.steps - len(walls), 0) * ms / 1000
            told = _step(run, event, event.step.i, event.step.n, event.step.now) | {"eta": eta}
            jobs.stepped(run.id, desk.id, len(walls), ms, told)
    listener.heard().save(desk.folder.run(run.parent) / "attention.safetensors")
    jobs.runs.set(run.parent, bytes=desk.folder.size("runs", run.parent))
    return "done"


# ---- processes ---------------------------------------------------------------------------------------------------------------


def work(
    folder: Folder | str | os.PathLike[str],
    device: str = "auto",
    budget: int = 0,
    *,
    id: str = "",
    frames: bool = True,
    tied: TextIO | None = None,
    most: int = 0,
    memory: Literal["full", "low"] = "full",
) -> None:
    """Do jobs until told to stop, by SIGTERM or by the end of `tied`, which ends with whoever started us. For a process of its own.

    The run under way is then left so that another worker goes on with it. budget: bytes that models may take, 0 for half of what the
    device has. most: models, 0 for any number. memory: how they lie there, see engine/place.py.
    """
    if not isinstance(folder, Folder):
        folder = Folder(folder)
    desk = Desk(folder, device, budget, id=id, frames=frames, most=most, memory=memory)
    signal.signal(signal.SIGTERM, lambda *_: desk.leave.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl+C is meant for the server, which tells us
    gone = threading.Event()
    threads = [threading.Thread(target=_beat, args=(desk, gone), daemon=True)]
    if tied is not None:
        threads.append(threading.Thread(target=_tie, args=(desk, tied, gone), daemon=True))
    for thread in threads:
        thread.start()
    while not desk.leave.is_set():
        if not desk.once():
            desk.leave.wait(_LOOK)
    gone.set()
    threads[0].join()
    desk.jobs.absent(desk.id)
    folder.close()


def _beat(desk: Desk, gone: threading.Event) -> None:
    while not gone.is_set():
        with contextlib.suppress(sqlite3.OperationalError):  # a busy index: the lease outlasts several beats
            desk.present()
        gone.wait(_BEAT)


def _tie(desk: Desk, tied: TextIO, gone: threading.Event) -> None:
    tied.read()
    desk.leave.set()
    if not gone.wait(_PATIENCE):  # a step without an end: the lease runs out, and another worker goes on
        os.kill(os.getpid(), signal.SIGKILL)


class Supervisor:
    """Keeps one worker process alive on each device, and the data folder in order. A context manager.

    Of several on one folder the first has a device's worker, and the next takes over when it ends. policy: what may be pruned, looked
    at every `chores` seconds; None prunes nothing.
    """

    def __init__(
        self,
        folder: Folder,
        devices: Sequence[str] = ("auto",),
        budget: int = 0,
        *,
        policy: Prune | None = None,
        frames: bool = True,
        chores: float = _CHORES,
        most: int = 0,
        memory: Literal["full", "low"] = "full",
    ) -> None:
        self.most, self.memory = most, memory
        self.folder, self.devices, self.budget = folder, tuple(devices), budget
        self.policy, self.frames, self.chores = policy, frames, chores
        self.jobs = Jobs(folder)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._elsewhere: set[str] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the workers. What workers of a server that was killed held is queued again."""
        self._stop.clear()
        for worker in self.jobs.workers():
            if not _runs(worker.pid):
                self.jobs.absent(worker.id)
        self.jobs.forget()
        targets = [(self._keep, (device,)) for device in self.devices] + [(self._tidy, ())]
        self._threads = [threading.Thread(target=target, args=args, daemon=True) for target, args in targets]
        for thread in self._threads:
            thread.start()

    def stop(self, patience: float = _PATIENCE) -> None:
        """End the workers; what they were at is left to be gone on with. patience: seconds until they are killed."""
        self._stop.set()
        with self._lock:
            running = list(self._processes.values())
        for process in running:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        until = time.monotonic() + patience
        for process in running:
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join()

    def alive(self) -> bool:
        """Whether every device has a worker process."""
        with self._lock:
            running = [process for process in self._processes.values() if process.poll() is None]
        return len(running) == len(self.devices)

    def elsewhere(self) -> list[str]:
        """The devices whose worker is another server's, for which this one waits."""
        with self._lock:
            return sorted(self._elsewhere)

    def pids(self) -> list[int]:
        """The process ids of the workers that run now."""
        with self._lock:
            return [process.pid for process in self._processes.values() if process.poll() is None]

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _keep(self, device: str) -> None:
        with contextlib.suppress(SpecError):  # the worker will say that there is no such device
            device = devices.name(devices.pick(device))
        seat = self._seat(device)
        if seat is None:
            return
        with seat:
            self._work(device, seat)

    def _seat(self, device: str) -> TextIO | None:
        """The lock of a device, once no other server of this folder has it; None when told to stop before. It ends with the process
        and the worker that it is handed to."""
        began = time.monotonic()
        file = self.folder.path / f"worker-{device.replace(':', '-')}.lock"
        while True:
            seat = file.open("a")
            try:
                _lock(seat)
            except OSError:
                seat.close()
            else:
                with self._lock:
                    self._elsewhere.discard(device)
                return seat
            if time.monotonic() - began > _SAY and device not in self._elsewhere:
                with self._lock:
                    self._elsewhere.add(device)
                print(
                    f"another server of this folder makes the pictures on {device}; this one will when it ends", file=sys.stderr
                )
            if self._stop.wait(_WAIT):
                return None

    def _work(self, device: str, seat: TextIO) -> None:
        pause = 0.0
        handed = (seat.fileno(),) if os.name == "posix" else ()
        while not self._stop.wait(pause):
            id, began = new_id(), time.monotonic()
            command = [sys.executable, "-m", "safelight.serve.worker", str(self.folder.path), "--device", device]
            command += ["--budget", str(self.budget), "--max-loaded", str(self.most), "--memory", self.memory, "--id", id]
            command += [] if self.frames else ["--no-frames"]
            with self._lock:
                if self._stop.is_set():
                    return
                try:
                    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, pass_fds=handed)
                except OSError as problem:  # no memory, no room for a process: later, perhaps
                    print(f"supervisor: no worker could be started: {problem}", file=sys.stderr)
                    pause = min(max(2 * pause, 0.2), 10.0)
                    continue
                self._processes[id] = process
            process.wait()
            with self._lock:
                del self._processes[id]
            with contextlib.suppress(sqlite3.Error):  # a full disk: its lease ends by itself
                self.jobs.absent(id)
            # A worker that dies as soon as it is started is not started as fast as the machine can.
            pause = 0.0 if time.monotonic() - began > 10 else min(max(2 * pause, 0.2), 10.0)

    def _tidy(self) -> None:
        events, due = self.jobs.events, 0.0
        with contextlib.suppress(sqlite3.OperationalError, OSError):
            self._sweep_up()
        while not self._stop.wait(self.chores):
            try:
                self.jobs.sweep()
                self.jobs.forget()
                self.jobs.runs.purge()
                if self.policy is not None and time.monotonic() >= due:
                    self.jobs.runs.prune(self.policy)
                    due = time.monotonic() + 60 * self.chores
                events.trim()
            except (
                SpecError,
                sqlite3.Error,
                OSError,
            ) as error:  # a run that went meanwhile, a busy index or disk: the next round will do
                print(f"supervisor: {error}", file=sys.stderr)

    def _sweep_up(self) -> None:
        """Remove what processes left that were killed: half files, uploads under way, and folders of runs that never came to be."""
        top, edge = self.folder.path, time.time() - _OLD
        known = {row["id"] for row in self.folder.db.execute("SELECT id FROM runs")}
        orphans = [path for path in (top / "runs").iterdir() if path.name not in known]
        halves = (*top.glob("tmp*"), *(top / "pictures").glob(".*"), *(top / "runs").glob("*/.*"))
        for path in (*orphans, *halves):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < edge:
                    path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def _lock(file: TextIO) -> None:
    """Lock a file for this process and those that inherit it. Raises OSError while another has it."""
    with contextlib.suppress(ImportError):  # no fcntl on Windows: there every server has workers of its own
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _runs(pid: int) -> bool:
    """Whether there is a process of this id on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m safelight.serve.worker FOLDER`: what the supervisor starts."""
    parser = argparse.ArgumentParser(prog="safelight.serve.worker", description="Do the jobs of a data folder on one device.")
    parser.add_argument("folder", help="the data folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, ...; see: safelight doctor")
    parser.add_argument("--budget", type=int, default=0, help="bytes that models may take (half of the device's memory)")
    parser.add_argument("--max-loaded", type=int, default=0, help="models that are kept (any number)")
    parser.add_argument("--memory", choices=("full", "low"), default="full", help="how they lie in memory")
    parser.add_argument("--id", default="", help="the name it takes jobs under")
    parser.add_argument("--no-frames", action="store_true", help="do not show the steps as pictures")
    given = parser.parse_args(arguments)
    kept = {"most": given.max_loaded, "memory": given.memory}
    work(given.folder, given.device, given.budget, id=given.id, frames=not given.no_frames, tied=sys.stdin, **kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["Desk", "Models", "Point", "Shelf", "Supervisor", "Tape", "Turned", "main", "work"]
