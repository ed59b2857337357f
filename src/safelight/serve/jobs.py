"""Jobs: the queue. A run is queued, claimed by one worker at a time under a lease, and is lost with no process.

    queued -> running -> done | failed | stopped | paused        cancel, pause: at the next step of a running one, else at once
    paused, stopped -> queued (resume: it goes on from its last recorded step)        failed, stopped -> queued (retry: anew)

A worker holds a lease of `LEASE` seconds and renews it. When it does not, it is dead: the job is queued again, and goes on from what
was last written of it. A job at which `DEATHS` workers in a row died before they made a step, or `FALLS` in all, is failed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safelight.model import ModelSpec, peek
from safelight.serve.folder import Conflict, Folder, Missing
from safelight.serve.runs import FROM, OVER, SILENT, Ask, Record, Run, Runs, digits_of, traced
from safelight.spec import Spec, SpecError, describe, parse
from safelight.task import Request, Resolved, Task
from safelight.trace import Trace

LEASE = 10.0
DEATHS, FALLS = 10, 100
# What a fork must leave as it was: its steps are those that were recorded.
_RECORDED = ("steps", "grid", "size", "task")
# So much a new measurement of speed weighs against those before it.
_NEW = 0.5


class Loaded(Spec):
    """A model on a device, or on its way there or away."""

    name: str
    device: str
    bytes: int = 0
    state: Literal["loaded", "loading", "unloading"] = "loaded"


class Worker(Spec):
    """A worker that is alive: seen at (seconds since 1970), busy with `run`, its models' bytes and how many they may be."""

    id: str
    device: str
    pid: int
    seen: float
    run: str | None
    bytes: int
    budget: int


class Wish(NamedTuple):
    """A model that somebody wants loaded, or unloaded."""

    name: str
    load: bool


class Jobs:
    """The queue of a data folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.runs = Runs(folder)
        self.events = self.runs.events

    # ---- asking --------------------------------------------------------------------------------------------------------------

    def enqueue(self, ask: Ask) -> Run:
        """Queue a run; when this returns, no crash loses it. The pictures it needs are held for it.

        Raises Missing for models, pictures and parents that are not here.
        """
        spec, digits = _known(self.folder.model(ask.model))
        self._have(ask.request)
        for seal in ask.request.inputs:
            self.folder.hold(seal)
        return self._queued(ask, spec, digits)

    def _have(self, request: Request) -> None:
        """Raise Missing for a further model that a request names and that is not here; every name is one of a model, never a path."""
        for name in request.mix.others.values() if request.mix is not None else ():
            self.folder.model(name.partition(":")[0])
        task: Task | None = request.task
        parts = [getattr(bend, "classifier", None) for bend in request.bends or ()]
        while task is not None:
            if (refiner := getattr(task, "refiner", None)) is not None:
                self.folder.model(refiner.partition(":")[0])
            parts.append(getattr(task, "joint", None))
            task = getattr(task, "of", None)
        for part in filter(None, parts):
            self.folder.part(part)

    def _queued(self, ask: Ask, spec: ModelSpec, digits: str, **values: Any) -> Run:
        request, defaults = ask.request, spec.defaults
        count = request.total
        size = request.micro_batch or count
        sampler = request.sampler or request.task.sampler(defaults.sampler)
        key, pixels = pace(digits, request.size or spec.size, min(size, count), sampler, request.mix or defaults.mix)
        key += "/attention" if ask.kind == "attention" else ""
        steps = (request.steps or defaults.steps) * -(-count // size)
        with self.folder.writing(durable=True):
            run = self.runs.add(ask, steps=steps, pace=key, pixels=pixels, fingerprint=digits, **values)
            self.runs.note(
                run.id, f"asked for: {count} {'picture' if count == 1 else 'pictures'} of {ask.model}, recorded as {ask.record}"
            )
            self._tell_queue()
        return run

    def fork(
        self,
        id: str,
        step: int,
        changes: Mapping[str, Any],
        *,
        noise: float = 0.0,
        record: Record | None = None,
        priority: int = 0,
        title: str = "",
        group: str | None = None,
        relation: Literal["fork", "cell"] = "fork",
    ) -> Run:
        """Queue a run that goes on with another's x before step `step`, the request changed. Only the steps from there on are made.

        changes: fields of the request; a part without a `kind`, or of the same one, changes the part's fields. Steps, grid, size and
        task are those of the recording; with `index` and `count` it goes on with some of the pictures. noise: how far the noise in x is
        turned to fresh noise, 0..1. Raises Missing for a run or recording that is not here, SpecError for what cannot be forked.
        """
        file, parent = self.runs.trace(id), self.runs.get(id)
        trace = Trace.open(file)
        if not trace.about["exact"]:
            raise SpecError(f"run {id} was recorded for looking at only: record it 'exact' or with 'branches' to fork it")
        if (self.folder.run(id) / traced(1)).exists():
            raise SpecError(f"run {id} has several stages, which cannot be forked")
        if not 0 <= noise <= 1:
            raise SpecError(f"noise: {noise:g} is no part of the noise (0..1)")
        try:
            rows = len(trace.x(step))
        except SpecError:
            last = max((m.k for m in trace.steps), default=0)
            raise SpecError(f"step: run {id} has recorded steps 0..{last}, not {step}") from None
        if step >= len(trace.levels) - 1:
            raise SpecError(f"step: run {id} ends at {len(trace.levels) - 1}; nothing is left to be made from there")
        before = describe(trace.request)
        asked = _changed(before, changes)
        request = parse(asked, "request")
        assert isinstance(request, Request)
        if other := next((n for n in _RECORDED if getattr(request, n) != getattr(trace.request, n)), None):
            raise SpecError(f"{other}: a fork goes on with the recorded one; ask for a new run to change it")
        held, numbers = trace.request.index, request.total
        if not held <= request.index <= request.index + numbers <= held + rows:
            there, wanted = f"{held}..{held + rows - 1}", f"{request.index}..{request.index + numbers - 1}"
            raise SpecError(f"run {id} holds pictures {there} at step {step}, not {wanted}: set index and count")
        ask = Ask(
            model=parent.model,
            request=request,
            record=record or parent.record,
            priority=priority,
            kind="fork",
            parent=id,
            relation=relation,
            title=title or parent.title,
            group=group,
        )
        spec, digits = _known(self.folder.model(parent.model))
        if parent.fingerprint and digits != parent.fingerprint:
            raise SpecError(f"the model '{parent.model}' is not the one that run {id} was made with")
        with self.folder.writing(durable=True):
            run = self._queued(ask, spec, digits, fork_step=step, noise=noise)
            _link(file, self.folder.run(run.id) / FROM)
        return run

    def attention(self, id: str, priority: int = 0) -> Run:
        """Queue a recording of what a run's network attended to, by a replay of it; one that is under way already is returned."""
        self.runs.trace(id)
        parent = self.runs.get(id)
        row = self.folder.db.execute(
            "SELECT id FROM runs WHERE kind = 'attention' AND parent = ? AND state IN ('queued', 'running') AND deleted IS NULL",
            (id,),
        ).fetchone()
        if row is not None:
            return self.runs.get(row["id"])
        request = parse(parent.request, "request")
        assert isinstance(request, Request)
        ask = Ask(
            model=parent.model,
            request=request,
            record="preview",
            kind="attention",
            parent=id,
            priority=priority,
            title=parent.title,
        )
        return self._queued(ask, *_known(self.folder.model(parent.model)))

    # ---- the queue -----------------------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the queue stands still: what is running goes on, nothing else begins."""
        return bool(self.runs.fact("paused"))

    def pause_all(self) -> None:
        """Let nothing begin; what is running goes on."""
        self._hold("1")

    def resume_all(self) -> None:
        """Let the queue go on."""
        self._hold("")

    def _hold(self, value: str) -> None:
        with self.folder.writing(durable=True) as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('paused', ?)", (value,))
            self._tell_queue()

    def list(self) -> list[Run]:
        """What is running, then what is queued or paused in the order of the queue."""
        rows = self.folder.db.execute(
            "SELECT * FROM runs WHERE state IN ('running', 'queued', 'paused') AND deleted IS NULL"
            " ORDER BY state = 'running' DESC, priority DESC, place, id"
        )
        return self.runs.of(rows.fetchall())

    def position(self, id: str) -> int | None:
        """Where in the queue a run is, 1 is next; None for one that does not wait."""
        return self.runs.waiting().get(id, (None, None))[0]

    def eta(self, id: str) -> float | None:
        """Seconds until a run is done, from the measured milliseconds a step; None where that is not known."""
        return self.runs.waiting().get(id, (None, None))[1]

    def reorder(self, ids: Sequence[str]) -> None:
        """Put waiting runs into this order, in the places that they have together. One that comes before a run of higher priority
        gets that priority. Ids of runs that do not wait (any more) are passed over."""
        with self.folder.writing(durable=True) as db:
            rows = {
                row["id"]: row
                for row in db.execute(
                    "SELECT id, place, priority FROM runs WHERE state IN ('queued', 'paused') AND deleted IS NULL"
                )
            }
            chosen = [rows[id] for id in dict.fromkeys(ids) if id in rows]
            places = sorted(row["place"] for row in chosen)
            priority = None
            for row, place in zip(reversed(chosen), reversed(places), strict=True):
                priority = row["priority"] if priority is None else max(priority, row["priority"])
                db.execute("UPDATE runs SET place = ?, priority = ? WHERE id = ?", (place, priority, row["id"]))
            self._tell_queue()

    def rank(self, id: str, priority: int) -> Run:
        """Give a run another priority, -100..100; of one that does not wait it changes nothing but the number."""
        with self.folder.writing(durable=True):
            self.runs.row(id)
            return self._moved(id, priority=max(-100, min(priority, 100)))

    def cancel(self, id: str) -> Run:
        """Stop a run: a waiting one at once, a running one at its next step. What is over stays as it is."""
        with self.folder.writing(durable=True) as db:
            state = self.runs.row(id)["state"]
            if state in ("queued", "paused"):
                self.runs.note(id, "cancelled while it waited")
                return self._moved(id, state="stopped", finished=time.time(), asked="")
            if state == "running":
                self.runs.note(id, "asked to stop at its next step")
                db.execute("UPDATE runs SET asked = 'cancel' WHERE id = ?", (id,))
            return self.runs.get(id)

    def pause(self, id: str) -> Run:
        """Let a run wait until `resume`: a waiting one from now on, a running one from its next step.

        Raises Conflict for one that is over.
        """
        with self.folder.writing(durable=True) as db:
            row = self.runs.row(id)
            if row["state"] == "queued":
                self.runs.note(id, "paused while it waited")
                return self._moved(id, state="paused")
            if row["state"] not in ("running", "paused"):
                raise Conflict(f"run {id} is {row['state']}: there is nothing to pause")
            if row["asked"] != "cancel":
                self.runs.note(id, "asked to pause at its next step")
                db.execute("UPDATE runs SET asked = 'pause' WHERE id = ? AND state = 'running'", (id,))
            return self.runs.get(id)

    def resume(self, id: str) -> Run:
        """Queue a paused or stopped run again, to go on from its last recorded step. Raises Conflict for one that is done or failed."""
        with self.folder.writing(durable=True) as db:
            row = self.runs.row(id)
            if row["state"] in ("paused", "stopped"):
                self.runs.note(id, "resumed")
            if row["state"] == "paused":
                return self._moved(id, state="queued", asked="")
            if row["state"] == "stopped":
                return self._moved(id, state="queued", asked="", finished=None, place=self._last(db))
            if row["state"] in ("done", "failed"):
                raise Conflict(f"run {id} is {row['state']}: there is nothing to resume")
            db.execute("UPDATE runs SET asked = '' WHERE id = ? AND asked = 'pause'", (id,))
            return self.runs.get(id)

    def retry(self, id: str) -> Run:
        """Queue a failed or stopped run again, from its beginning. Raises Conflict for any other."""
        with self.folder.writing(durable=True) as db:
            row = self.runs.row(id)
            if row["state"] not in ("failed", "stopped"):
                raise Conflict(f"run {id} is {row['state']}: only what failed or was stopped can be tried again")
            for file in self.folder.run(id).glob("*"):
                if file.name != FROM:
                    file.unlink(missing_ok=True)
            db.execute("DELETE FROM pictures WHERE run = ?", (id,))
            self.runs.note(id, "tried again, from its beginning")
            anew = {"steps_done": row["fork_step"] or 0, "error": "", "pictures": "[]", "deaths": 0, "falls": 0, "bytes": 0}
            return self._moved(
                id, state="queued", asked="", started=None, finished=None, ms_per_step=None, place=self._last(db), **anew
            )

    def _last(self, db: sqlite3.Connection) -> float:
        """The place behind all that waits."""
        found = db.execute("SELECT max(place) FROM runs WHERE state IN ('queued', 'running', 'paused')").fetchone()[0]
        return float(found or 0.0) + 1.0

    def _moved(self, id: str, **values: Any) -> Run:
        run = self.runs.set(id, **values)
        self._tell_queue()
        return run

    def _tell_queue(self) -> None:
        rows = self.folder.db.execute(
            "SELECT id FROM runs WHERE state IN ('queued', 'paused') AND deleted IS NULL ORDER BY priority DESC, place, id"
        )
        self.events.emit("queue", {"paused": self.paused, "order": [row["id"] for row in rows]})

    # ---- for workers ---------------------------------------------------------------------------------------------------------

    def claim(self, worker: str) -> Run | None:
        """The next run, which is this worker's as long as it renews its lease; None when nothing waits or the queue stands still."""
        self.sweep()
        next_ = (
            "SELECT id FROM runs WHERE state = 'queued' AND deleted IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM facts WHERE name = 'paused' AND value != '') ORDER BY priority DESC, place, id LIMIT 1"
        )
        if self.folder.db.execute(next_).fetchone() is None:  # most looks find nothing, and need not write
            return None
        now = time.time()
        with self.folder.writing() as db:
            row = db.execute(
                "UPDATE runs SET state = 'running', worker = ?, lease = ?, asked = '', error = '', finished = NULL, made = 0,"
                f" started = coalesce(started, ?) WHERE id = ({next_}) RETURNING id",
                (worker, now + LEASE, now),
            ).fetchone()
            if row is None:
                return None
            seat = db.execute("SELECT device, pid FROM workers WHERE id = ?", (worker,)).fetchone()
            self.runs.note(
                row["id"], "claimed by " + (f"process {seat['pid']} on {seat['device']}" if seat else f"worker {worker}")
            )
            self._tell_queue()
            return self.runs.tell(row["id"])

    def died(self, id: str) -> bool:
        """Whether a worker died at a run: then little is lost the next time only if what is made is written often."""
        return bool(self.runs.row(id, deleted=True)["falls"])

    def renew(self, id: str, worker: str) -> bool:
        """Hold a run for another `LEASE` seconds; False when it is not this worker's any more, which must then leave it."""
        done = self.folder.db.execute(
            "UPDATE runs SET lease = ? WHERE id = ? AND worker = ? AND state = 'running'", (time.time() + LEASE, id, worker)
        )
        return done.rowcount == 1

    def asked(self, id: str) -> str:
        """What is asked of a running run: "", "cancel" or "pause"."""
        row = self.folder.db.execute("SELECT asked FROM runs WHERE id = ?", (id,)).fetchone()
        return "cancel" if row is None else str(row["asked"])

    def began(self, id: str, worker: str, request: Resolved, levels: Sequence[tuple[float, float, float]], steps: int) -> bool:
        """Note what a run turned out to be: its request resolved, its levels, and the steps of all its parts."""
        digits = self.runs.row(id, deleted=True)["fingerprint"]
        size = min(request.micro_batch or request.total, request.total)
        key, pixels = pace(digits, request.size, size, request.sampler, request.mix)
        return self._mine(
            id,
            worker,
            request=json.dumps(describe(request)),
            seed=str(request.seed),
            levels=json.dumps(levels),
            steps=steps,
            pace=key,
            pixels=pixels,
        )

    def stepped(self, id: str, worker: str, steps_done: int, ms: float, data: Mapping[str, Any]) -> bool:
        """Note a step, its mean cost so far and what is to be seen of it. False when the run is not this worker's any more."""
        with self.folder.writing() as db:
            done = db.execute(
                "UPDATE runs SET steps_done = ?, ms_per_step = ?, made = made + 1 WHERE id = ? AND worker = ? AND state = 'running'",
                (steps_done, ms, id, worker),
            )
            if done.rowcount:
                self.events.emit("step", data, id)
            return bool(done.rowcount)

    def over(
        self, id: str, worker: str, state: Literal["done", "failed", "stopped", "paused", "queued"], error: str = ""
    ) -> bool:
        """A worker leaves a run in a state: done, failed, as it was asked to, or for another worker. False when it was not its own."""
        with self.folder.writing(durable=True) as db:
            finished = time.time() if state in OVER else None
            size = self.folder.size("runs", id)
            done = db.execute(
                "UPDATE runs SET state = ?, error = ?, finished = ?, bytes = ?, worker = NULL, lease = NULL, asked = ''"
                " WHERE id = ? AND worker = ? AND state = 'running'",
                (state, error, finished, size, id, worker),
            )
            if done.rowcount:
                if state == "done":
                    self._measured(id)
                row = self.runs.row(id, deleted=True)
                made = f"{row['steps_done']} of {row['steps']} steps" + (
                    f", {row['ms_per_step']:.1f} ms each" if row["ms_per_step"] else ""
                )
                ways = {"queued": "left for another worker", "failed": f"failed: {error};"}
                self.runs.note(id, f"{ways.get(state, state)} after {made}")
                self.runs.tell(id)
                self._tell_queue()
            return bool(done.rowcount)

    def _mine(self, id: str, worker: str, **values: Any) -> bool:
        with self.folder.writing() as db:
            done = db.execute(
                f"UPDATE runs SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ? AND worker = ? AND state = 'running'",
                [*values.values(), id, worker],
            )
            if done.rowcount:
                self.runs.tell(id)
            return bool(done.rowcount)

    def _measured(self, id: str) -> None:
        row = self.runs.row(id, deleted=True)
        if not row["ms_per_step"] or not row["pace"]:
            return
        self.folder.db.execute(
            "INSERT INTO speeds (pace, model, pixels, ms, time) VALUES (?, ?, ?, ?, ?)"
            f" ON CONFLICT (pace) DO UPDATE SET ms = ms + {_NEW} * (excluded.ms - ms), time = excluded.time",
            (row["pace"], row["model"], row["pixels"], row["ms_per_step"], time.time()),
        )

    def sweep(self, worker: str | None = None) -> int:
        """Queue again what dead workers held: all whose lease ran out, or that of `worker`, which is known to be dead.

        Returns how many runs that were. What had been asked of them is done: cancelled ones are stopped, paused ones wait.
        """
        where, value = ("lease < ?", time.time()) if worker is None else ("worker = ?", worker)
        held = f"SELECT * FROM runs WHERE state = 'running' AND {where}"
        if self.folder.db.execute(held, (value,)).fetchone() is None:
            return 0
        with self.folder.writing(durable=True) as db:
            rows = db.execute(held, (value,)).fetchall()
            for row in rows:
                deaths, falls = 1 if row["made"] else row["deaths"] + 1, row["falls"] + 1
                left = {"worker": None, "lease": None, "asked": "", "deaths": deaths, "falls": falls}
                if row["asked"] == "cancel" or row["deleted"] is not None:
                    left |= {"state": "stopped", "finished": time.time()}
                elif deaths >= DEATHS or falls >= FALLS:
                    error = f"{falls} workers died at it, the last {deaths} without a step: is there too little memory?"
                    left |= {"state": "failed", "finished": time.time(), "error": error}
                else:
                    left |= {"state": "paused" if row["asked"] == "pause" else "queued"}
                self.runs.note(row["id"], f"its worker died after step {row['steps_done']}; now it is {left['state']}")
                self.runs.set(row["id"], **left)
            if rows:
                self._tell_queue()
        return len(rows)

    # ---- workers and their models --------------------------------------------------------------------------------------------

    def present(self, worker: Worker, loaded: Mapping[str, int] | None = None) -> None:
        """A worker says that it is there, and which models it has, by their bytes (None: as before)."""
        with self.folder.writing() as db:
            fields = worker.model_dump()
            db.execute(
                f"INSERT OR REPLACE INTO workers ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})",
                list(fields.values()),
            )
            if loaded is not None:
                db.execute("DELETE FROM loaded WHERE worker = ?", (worker.id,))
                db.executemany(
                    "INSERT INTO loaded VALUES (?, ?, ?)", [(worker.id, name, size) for name, size in loaded.items()]
                )

    def absent(self, worker: str) -> None:
        """A worker is gone."""
        with self.folder.writing() as db:
            db.execute("DELETE FROM workers WHERE id = ?", (worker,))
            for table in ("loaded", "wishes"):
                db.execute(f"DELETE FROM {table} WHERE worker = ?", (worker,))
        self.sweep(worker)

    def forget(self) -> None:
        """Forget workers that were not seen for long: what they held has other ones by now."""
        gone = self.folder.db.execute("SELECT id FROM workers WHERE seen < ?", (time.time() - 2 * SILENT,)).fetchall()
        for row in gone:
            self.absent(row["id"])

    def workers(self) -> Sequence[Worker]:
        """The workers that are alive."""
        rows = self.folder.db.execute("SELECT * FROM workers WHERE seen > ? ORDER BY device, id", (time.time() - SILENT,))
        return [Worker.model_validate(dict(row)) for row in rows]

    def models(self) -> Sequence[Loaded]:
        """The models that workers have, and those that are on their way."""
        alive = {worker.id: worker.device for worker in self.workers()}
        rows = self.folder.db.execute("SELECT worker, name, bytes FROM loaded ORDER BY name").fetchall()
        found = {
            (r["worker"], r["name"]): Loaded(name=r["name"], device=alive[r["worker"]], bytes=r["bytes"])
            for r in rows
            if r["worker"] in alive
        }
        for wish in self.folder.db.execute("SELECT worker, name, load FROM wishes ORDER BY id"):
            key = wish["worker"], wish["name"]
            if wish["worker"] in alive and bool(wish["load"]) != (key in found):
                state: Literal["loading", "unloading"] = "loading" if wish["load"] else "unloading"
                size = found[key].bytes if key in found else 0
                found[key] = Loaded(name=wish["name"], device=alive[wish["worker"]], bytes=size, state=state)
        return list(found.values())

    def load(self, name: str) -> None:
        """Have a model at hand on every device, as soon as what runs there is done. Raises Missing for one that there is not."""
        self._wish(name, True)

    def unload(self, name: str) -> None:
        """Give a model's memory back on every device, as soon as what runs there is done. Raises Missing for one that there is not."""
        self._wish(name, False)

    def _wish(self, name: str, load: bool) -> None:
        name = self.folder.model(name).stem if name == "default" else name
        self.folder.model(name)
        with self.folder.writing() as db:
            for worker in self.workers():
                db.execute("INSERT INTO wishes (worker, name, load) VALUES (?, ?, ?)", (worker.id, name, int(load)))

    def wish(self, worker: str) -> tuple[int, Wish] | None:
        """The oldest wish to a worker and its number, or None; `granted` takes it away."""
        row = self.folder.db.execute("SELECT * FROM wishes WHERE worker = ? ORDER BY id LIMIT 1", (worker,)).fetchone()
        return (row["id"], Wish(row["name"], bool(row["load"]))) if row else None

    def granted(self, number: int) -> None:
        """A wish is fulfilled, or cannot be."""
        self.folder.db.execute("DELETE FROM wishes WHERE id = ?", (number,))


def pace(digits: str, size: tuple[int, int], count: int, sampler: Spec, mix: Spec) -> tuple[str, int]:
    """(what a step's cost depends on, as a key; the pixels made at a time, by which other costs are scaled)."""
    height, width = size
    return f"{digits}/{height}x{width}x{count}/{sampler.kind}/{mix.kind}", height * width * count


def _known(path: Path) -> tuple[ModelSpec, str]:
    """(description, fingerprint) of a model file, read once as long as it does not change."""
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _read(path: Path, _changed: int, _size: int) -> tuple[ModelSpec, str]:
    spec = parse(peek(path).spec, "model")
    assert isinstance(spec, ModelSpec)
    return spec, digits_of(path)


def _changed(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A description with changes; parts of the same kind are changed field by field."""
    after = dict(before)
    for name, value in changes.items():
        old = after.get(name)
        same = isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("kind", old.get("kind")) == old.get("kind")
        after[name] = _changed(old, value) if same else value  # type: ignore[arg-type]
    return after


def _link(file: Path, target: Path) -> None:
    """The same file under a second name, or a copy of it where there are no links. Recordings are never written in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        os.link(file, target)
        return
    shutil.copyfile(file, target)


__all__ = ["DEATHS", "FALLS", "LEASE", "Conflict", "Jobs", "Loaded", "Missing", "Wish", "Worker", "pace"]
