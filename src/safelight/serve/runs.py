"""Runs: a request, its recording and its pictures, kept until somebody deletes them, and how they descend from each other."""

from __future__ import annotations

import contextlib
import functools
import heapq
import json
import math
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from safelight.model import fingerprint
from safelight.serve.events import Events
from safelight.serve.folder import Conflict, Folder, Missing, new_id
from safelight.spec import Spec, SpecError, parse
from safelight.task import Request, Task

Kind = Literal["generate", "edit", "vary", "mix", "morph", "fork", "attention", "import"]
State = Literal["queued", "running", "paused", "stopped", "done", "failed"]
Relation = Literal["", "fork", "edit", "vary", "mix", "morph", "cell", "import"]
Record = Literal["preview", "exact", "branches"]

# In the folder of a fork that is not done: the recording that it goes on with, whatever becomes of its parent.
FROM = "from.safetensors"
# What a task's run is called; every other task works on a picture that is given.
_CALLED: dict[str, Kind] = {"text": "generate", "vary": "vary", "mix": "mix", "interpolate": "morph"}
# So long a deleted run can be brought back, in seconds.
UNDO = 10.0
# A worker that was not seen for so long is none, in seconds.
SILENT = 15.0
# The states of a run that is over.
OVER = ("done", "stopped", "failed")
# So long a text of another tool in a picture is read.
LONGEST_PARAMETERS = 100_000


class Picture(Spec):
    """A finished picture of a run: its seal, by which requests name it, and where the server has it."""

    seal: str
    width: int
    height: int
    url: str


class Told(BaseModel):
    """A frozen record for the wire; unlike a Spec it may have a field `kind` of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Run(Told):
    """A run as everybody sees it.

    request: resolved once it has begun, until then as it was asked for. position: in the queue, 1 is next. created, started, finished:
    seconds since 1970. steps: of all its parts, 0 while nobody knows. ms_per_step: measured. eta: seconds until it is done.
    relation, parent, fork_step, noise: where it comes from. group: runs that were asked for together. levels: (t, alpha, sigma) each.
    recorded: whether its steps can be looked at: they are written and were not pruned, and the model that made them is here as it was.
    """

    id: str
    kind: Kind
    state: State
    title: str = ""
    prompt: str = ""
    model: str
    fingerprint: str = ""
    request: dict[str, Any]
    record: Record
    priority: int = 0
    position: int | None = None
    created: float
    started: float | None = None
    finished: float | None = None
    steps_done: int = 0
    steps: int = 0
    ms_per_step: float | None = None
    eta: float | None = None
    error: str = ""
    pictures: tuple[Picture, ...] = ()
    parent: str | None = None
    relation: Relation = ""
    fork_step: int | None = None
    noise: float = 0.0
    group: str | None = None
    star: bool = False
    board: str = ""
    bytes: int = 0
    seed: int = 0
    levels: tuple[tuple[float, float, float], ...] | None = None
    recorded: bool = False

    def json_ready(self) -> dict[str, Any]:
        """The run as JSON has it."""
        return self.model_dump(mode="json")


class Ask(Told):
    """What is asked of the server: a request to a model, what is recorded of it, and where it belongs.

    record: "preview" keeps x and x0 in half precision, for looking at; "exact" in full, with the solver's memory, for forks; "branches"
    also every branch of the guidance. priority: higher ones are run first. kind, relation: found out when they are not given.
    """

    model: str = "default"
    request: Request = Request()
    record: Record = "branches"
    priority: int = Field(0, ge=-100, le=100)
    kind: Kind | None = None
    parent: str | None = None
    relation: Relation = ""
    group: str | None = Field(None, max_length=64)
    title: str = Field("", max_length=500)
    board: str = Field("", max_length=100)


class Line(Told):
    """A line of a run's log: seconds since 1970, and what happened."""

    time: float
    text: str


class Node(Told):
    """A run in the tree of those it descends from and those that descend from it. thumb: a picture's address, None without one."""

    id: str
    parent: str | None
    relation: Relation
    state: State
    fork_step: int | None
    title: str
    thumb: str | None


class Storage(Spec):
    """What lies on the disk: the number of runs, and bytes. drawn: sprites and other things that are made of traces anew."""

    runs: int
    traces: int
    pictures: int
    drawn: int
    uploads: int
    database: int
    total: int
    free: int


class Prune(Spec):
    """What may go when room is wanted, the oldest first; starred runs and those under way never.

    days: recordings older than this. bytes: of recordings beyond this many. None: no such limit. whole: the runs go with their
    recordings; otherwise pictures, requests and the tree stay.
    """

    days: float | None = Field(30.0, gt=0)
    bytes: int | None = Field(10 << 30, ge=0)
    whole: bool = False


class Imported(Spec):
    """What came of an import: the new runs, how many pictures were here already, and `name: why` of each file that was refused."""

    runs: tuple[str, ...] = ()
    known: int = 0
    refused: tuple[str, ...] = ()


class Runs:
    """The runs of a data folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.events = Events(folder)

    # ---- reading -------------------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Run:
        """A run. Raises Missing when there is none, or it was deleted."""
        return self.of([self.row(id)])[0]

    def row(self, id: str, *, deleted: bool = False) -> sqlite3.Row:
        """A run's row. deleted: also one that can still be brought back. Raises Missing when there is none."""
        row: sqlite3.Row | None = self.folder.db.execute("SELECT * FROM runs WHERE id = ?", (id,)).fetchone()
        if row is None or (row["deleted"] is not None and not deleted):
            raise Missing(f"no run '{id[:40]}'")
        return row

    def of(self, rows: Sequence[sqlite3.Row]) -> list[Run]:
        """Rows as runs, with what the queue says of them."""
        waiting = self.waiting() if any(row["state"] in ("queued", "running") for row in rows) else {}
        kept = [row for row in rows if (self.folder.run(row["id"]) / traced(0)).is_file()]
        prints = {name: self._fingerprint(name) for name in {row["model"] for row in kept}}
        recorded = {row["id"] for row in kept if (now := prints[row["model"]]) and row["fingerprint"] in ("", now)}
        return [_run(row, row["id"] in recorded, *waiting.get(row["id"], (None, None))) for row in rows]

    def _fingerprint(self, model: str) -> str | None:
        """The fingerprint of a model's file as it now is, None where there is none."""
        try:
            return digits_of(self.folder.model(model))
        except (SpecError, OSError):
            return None

    def log(self, id: str) -> list[Line]:
        """What happened to a run, the oldest first. Raises Missing when there is none."""
        self.row(id)
        rows = self.folder.db.execute("SELECT time, text FROM log WHERE run = ? ORDER BY id", (id,))
        return [Line(time=row["time"], text=row["text"]) for row in rows]

    def waiting(self) -> dict[str, tuple[int | None, float | None]]:
        """(position, seconds until it is done) of what is running and queued, in the order of the queue.

        Each worker takes the next job when it is free; who comes after a job of unknown length is of unknown length too.
        """
        db = self.folder.db
        rows = db.execute(
            "SELECT id, state, model, pace, pixels, steps, steps_done, ms_per_step FROM runs WHERE state IN ('running', 'queued')"
            " AND deleted IS NULL ORDER BY state DESC, priority DESC, place, id"
        ).fetchall()
        speeds = db.execute("SELECT pace, model, pixels, ms FROM speeds ORDER BY time").fetchall()
        exact, near = {s["pace"]: s["ms"] for s in speeds}, {s["model"]: s for s in speeds}
        held = bool(self.fact("paused"))
        workers = db.execute("SELECT count(*) FROM workers WHERE seen > ?", (time.time() - SILENT,)).fetchone()[0]
        busy: list[float] = []
        found: dict[str, tuple[int | None, float | None]] = {}
        position = 0
        for row in rows:
            ms = row["ms_per_step"] or exact.get(row["pace"])
            if ms is None and row["model"] in near and near[row["model"]]["pixels"]:
                ms = near[row["model"]]["ms"] * row["pixels"] / near[row["model"]]["pixels"]
            own = math.inf if not ms or not row["steps"] else max(row["steps"] - row["steps_done"], 0) * ms / 1000
            if row["state"] == "running":
                busy.append(own)
                found[row["id"]] = None, own if own < math.inf else None
                continue
            if not position:
                busy += [0.0] * (max(workers, 1) - len(busy))
                heapq.heapify(busy)
            position += 1
            done = heapq.heappop(busy) + own
            heapq.heappush(busy, done)
            found[row["id"]] = position, None if held or done == math.inf else done
        return found

    def fact(self, name: str) -> str:
        """A fact about the folder that is kept, "" where none is."""
        row = self.folder.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def find(
        self,
        q: str = "",
        model: str = "",
        state: str = "",
        kind: str = "",
        star: bool | None = None,
        board: str | None = None,
        group: str | None = None,
        before: str | None = None,
        limit: int = 50,
        seed: int | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[Run]:
        """Runs, the newest first: every word of `q` in prompt, title, model or board, whatever its case.

        model: name or fingerprint. state, kind: one or several, divided by commas; recordings of attention only when asked for.
        before: an id; only older ones, for the next page. since, until: made from the one to before the other, in seconds since 1970.
        """
        terms, values = ["deleted IS NULL"], list[Any]()
        for word in q.split():
            terms.append("folded(prompt || ' ' || title || ' ' || model || ' ' || board) LIKE ? ESCAPE '\\'")
            values.append("%" + word.casefold().replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%")
        if model:
            terms.append("? IN (model, fingerprint)")
            values.append(model)
        for column, wanted in (("state", state), ("kind", kind)):
            several = [name.strip() for name in wanted.split(",") if name.strip()]
            if several:
                terms.append(f"{column} IN ({', '.join('?' * len(several))})")
                values += several
        if not kind:
            terms.append("kind != 'attention'")
        for column, value in (("star", star), ("board", board), ("grp", group)):
            if value is not None:
                terms.append(f"{column} = ?")
                values.append(value)
        limits = (("id < ?", before), ("seed = ?", seed), ("created >= ?", since), ("created < ?", until))
        for term, edge in limits:
            if edge is not None:
                terms.append(term)
                values.append(str(edge) if term.startswith("seed") else edge)
        values.append(max(1, min(limit, 1000)))
        rows = self.folder.db.execute(f"SELECT * FROM runs WHERE {' AND '.join(terms)} ORDER BY id DESC LIMIT ?", values)
        return self.of(rows.fetchall())

    def boards(self) -> dict[str, int]:
        """The boards that runs are on, by name, and how many are on each."""
        rows = "SELECT board, count(*) FROM runs WHERE deleted IS NULL AND board != '' GROUP BY board ORDER BY board"
        return {row[0]: row[1] for row in self.folder.db.execute(rows)}

    def trace(self, id: str, stage: int = 0) -> Path:
        """The file of a run's recording, of a stage of it. Raises Missing when there is none (yet, or any more)."""
        self.row(id)
        file = self.folder.run(id) / traced(stage)
        if not file.is_file():
            raise Missing(f"run {id} has no recording: it has not begun, took no step, or its recording was pruned")
        return file

    def picture(self, id: str, number: int) -> Path:
        """The file of a run's picture, as it was written or imported. Raises Missing when there is none."""
        listed = json.loads(self.row(id)["pictures"])
        if not 0 <= number < len(listed):
            raise Missing(f"run {id} has {len(listed)} finished pictures, there is no number {number}")
        file = self.folder.run(id) / str(listed[number]["file"])
        if not file.is_file():
            raise Missing(f"the file of picture {number} of run {id} is gone")
        return file

    def maker(self, seal: str) -> str | None:
        """The newest run that has a picture of this seal, or None."""
        rows = "SELECT run FROM pictures JOIN runs ON runs.id = run WHERE seal = ? AND deleted IS NULL ORDER BY run DESC"
        row = self.folder.db.execute(rows, (seal,)).fetchone()
        return str(row["run"]) if row else None

    def tree(self, id: str) -> list[Node]:
        """All runs that are joined to a run by parents and children, the oldest first."""
        self.row(id)
        rows = self.folder.db.execute(
            "WITH RECURSIVE up(id) AS (SELECT ? UNION SELECT parent FROM runs JOIN up USING (id) WHERE parent IS NOT NULL),"
            " down(id) AS (SELECT id FROM up UNION SELECT runs.id FROM runs JOIN down ON runs.parent = down.id)"
            " SELECT runs.* FROM runs JOIN down USING (id) WHERE deleted IS NULL AND kind != 'attention' ORDER BY runs.id",
            (id,),
        ).fetchall()
        there = {row["id"] for row in rows}
        return [
            Node(
                id=row["id"],
                parent=row["parent"] if row["parent"] in there else None,
                relation=row["relation"],
                state=row["state"],
                fork_step=row["fork_step"],
                title=row["title"] or row["prompt"],
                thumb=next((p.url for p in _pictures(row)), None),
            )
            for row in rows
        ]

    # ---- writing -------------------------------------------------------------------------------------------------------------

    def add(
        self,
        ask: Ask,
        *,
        state: State = "queued",
        fork_step: int | None = None,
        noise: float = 0.0,
        steps: int = 0,
        pace: str = "",
        pixels: int = 0,
        fingerprint: str = "",
    ) -> Run:
        """Put a run into the index, and tell of it. Without a parent it descends from the run that made the first picture it needs.

        steps, pace, pixels: what its length is estimated by. Raises Missing for a parent that there is not.
        """
        parent, relation = ask.parent, ask.relation
        if parent is not None:
            self.row(parent)
        else:
            for seal in ask.request.inputs:
                parent = parent or self.maker(seal)
        kind = ask.kind or _CALLED.get(ask.request.varied.kind, "edit")
        if parent is not None and not relation and kind in ("edit", "vary", "mix", "morph", "fork"):
            relation = kind
        values = {
            "kind": kind,
            "state": state,
            "title": ask.title,
            "prompt": prompt_of(ask.request),
            "model": ask.model,
            "fingerprint": fingerprint,
            # As it was asked for: what is left open is filled in when the run begins.
            "request": _text(ask.request.model_dump(mode="json", exclude_unset=True)),
            "record": ask.record,
            "priority": ask.priority,
            "created": time.time(),
            "parent": parent,
            "relation": relation,
            "fork_step": fork_step,
            "noise": noise,
            "grp": ask.group,
            "board": ask.board,
            "seed": str(ask.request.seed),
            "steps": steps,
            "steps_done": fork_step or 0,
            "pace": pace,
            "pixels": pixels,
        }
        return self._insert(values)

    def _insert(self, values: Mapping[str, Any]) -> Run:
        with self.folder.writing(durable=True) as db:
            while True:
                id = new_id()
                # Another process may have had the same thought in the same millisecond.
                if db.execute("SELECT 1 FROM runs WHERE id = ?", (id,)).fetchone() is None:
                    break
            last = db.execute("SELECT max(place) FROM runs WHERE state IN ('queued', 'running', 'paused')").fetchone()[0] or 0.0
            full = {"id": id, "place": last + 1.0, **values}
            db.execute(f"INSERT INTO runs ({', '.join(full)}) VALUES ({', '.join('?' * len(full))})", list(full.values()))
            return self.tell(id)

    def set(self, id: str, **values: Any) -> Run:
        """Change columns of a run, and tell of it."""
        with self.folder.writing() as db:
            db.execute(f"UPDATE runs SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?", [*values.values(), id])
            return self.tell(id)

    def note(self, id: str, text: str) -> None:
        """Put a line into a run's log, in the transaction that is under way or in one of its own; files are named without their place."""
        line = self.folder.nameless(" ".join(text.split()))[:1000]
        with self.folder.writing() as db:
            db.execute("INSERT INTO log (run, time, text) VALUES (?, ?, ?)", (id, time.time(), line))

    def tell(self, id: str) -> Run:
        """Tell everybody how a run now is; of one that was deleted nobody hears any more."""
        row = self.row(id, deleted=True)
        run = self.of([row])[0]
        if row["deleted"] is None:
            self.events.emit("run", run.json_ready(), id)
        return run

    def change(self, id: str, *, star: bool | None = None, board: str | None = None, title: str | None = None) -> Run:
        """Star it, put it on a board, give it a title; None leaves what is."""
        self.row(id)
        given = {"star": star, "board": board, "title": title}
        values = {name: value for name, value in given.items() if value is not None}
        return self.set(id, **values) if values else self.get(id)

    def delete(self, id: str) -> None:
        """Take a run away; what is under way is cancelled. For `UNDO` seconds `restore` brings it back, then `purge` may remove it."""
        with self.folder.writing() as db:
            row = self.row(id)
            state = "stopped" if row["state"] in ("queued", "paused") else row["state"]
            asked = "cancel" if state == "running" else ""
            db.execute("UPDATE runs SET deleted = ?, state = ?, asked = ? WHERE id = ?", (time.time(), state, asked, id))
            self.events.emit("gone", {"run": id}, id)
        self.purge()

    def restore(self, id: str) -> Run:
        """Bring a deleted run back. Raises Missing when it is too late."""
        with self.folder.writing():
            self.row(id, deleted=True)
            return self.set(id, deleted=None)

    def purge(self, after: float = UNDO, only: Collection[str] | None = None) -> int:
        """Remove for good what was deleted more than `after` seconds ago (`only` these, if given); returns how many runs went."""
        edge = time.time() - after
        with self.folder.writing(durable=True) as db:
            ids = [r["id"] for r in db.execute("SELECT id FROM runs WHERE deleted < ? AND state != 'running'", (edge,))]
            ids = [id for id in ids if only is None or id in only]
            for id in ids:
                for table in ("pictures", "log"):
                    db.execute(f"DELETE FROM {table} WHERE run = ?", (id,))
                # That it is gone is still to be told to pages that were away.
                db.execute("DELETE FROM events WHERE run = ? AND kind != 'gone'", (id,))
                db.execute("DELETE FROM runs WHERE id = ?", (id,))
        for id in ids:
            shutil.rmtree(self.folder.run(id), ignore_errors=True)
        return len(ids)

    # ---- room ----------------------------------------------------------------------------------------------------------------

    def storage(self) -> Storage:
        """What lies on the disk."""
        sizes = {"traces": 0, "pictures": 0, "drawn": 0}
        for file in (self.folder.path / "runs").rglob("*"):
            if file.is_file() and not file.is_symlink():
                sizes[_sort(file)] += file.lstat().st_size
        index = sum(f.stat().st_size for f in self.folder.path.glob("safelight.db*"))
        uploads = self.folder.size("pictures")
        count = self.folder.db.execute("SELECT count(*) FROM runs WHERE deleted IS NULL").fetchone()[0]
        total = sum(sizes.values()) + index + uploads
        return Storage(**sizes, runs=count, uploads=uploads, database=index, total=total, free=self.folder.free())

    def prune(self, policy: Prune) -> int:
        """Make room as a policy says; returns the bytes that were freed."""
        rows = self.folder.db.execute(
            "SELECT id, star, coalesce(finished, created) AS age FROM runs"
            f" WHERE deleted IS NULL AND state IN {OVER} ORDER BY age DESC"
        ).fetchall()
        edge = -math.inf if policy.days is None else time.time() - policy.days * 86400
        kept, freed = 0, 0
        for row in rows:
            folder = self.folder.run(row["id"])
            files = [
                f for f in folder.glob("*") if f.is_file() and (policy.whole or (_sort(f) != "pictures" and f.name != FROM))
            ]
            size = sum(f.lstat().st_size for f in files)
            kept += size
            if row["star"] or (row["age"] >= edge and (policy.bytes is None or kept <= policy.bytes)):
                continue
            kept, freed = kept - size, freed + size
            if policy.whole:
                with contextlib.suppress(Missing):  # somebody else was faster
                    self.delete(row["id"])
                    self.purge(-1.0, only=[row["id"]])
                continue
            for file in files:
                file.unlink(missing_ok=True)
            if files:
                self.set(row["id"], bytes=self.folder.size("runs", row["id"]))
        return freed

    # ---- import --------------------------------------------------------------------------------------------------------------

    def import_folder(self, path: str | os.PathLike[str]) -> Imported:
        """Take in all pictures of a folder of this machine and of those in it, the oldest first; links are not followed.

        Raises SpecError for what is no folder.
        """
        from safelight.picture import FORMATS

        top = Path(path)
        if not top.is_dir():
            raise SpecError(f"{top} is no folder")
        files = [f for f in top.rglob("*") if f.suffix.lower() in FORMATS and f.is_file() and not f.is_symlink()]
        made, known, refused = list[str](), 0, list[str]()
        for file in sorted(files, key=lambda f: (f.stat().st_mtime, f)):
            try:
                run = self.import_file(file)
            except (SpecError, OSError) as error:
                refused.append(f"{file.relative_to(top)}: {' '.join(str(error).split())}")
                continue
            known += run is None
            made += [run.id] if run is not None else []
        return Imported(runs=tuple(made), known=known, refused=tuple(refused))

    def import_file(self, path: str | os.PathLike[str], title: str = "") -> Run | None:
        """A run of a picture file (PNG, WebP, JPEG), kept as it is; None when a picture of its pixels is here already.

        Its request is that of our note, or what a `parameters` text says plainly, or empty. It descends from the run here that made the
        last picture its note knows as an ancestor. title: default its name. Raises SpecError for what is no picture, or damaged.
        """
        from safelight import picture
        from safelight.assets import seal

        file = Path(path)
        picture.format_of(file)
        pixels, note = picture.read(file)
        name = seal(pixels)
        # A JPEG's pixels are not those it was made with: the seal that counts is of what a request will be given.
        if self.maker(name) is not None:
            return None
        if note is not None:
            parse(note.request, "request")  # what a file says is believed only as far as it is a request
            request, model, fingerprint = note.request, note.model.name, note.model.fingerprint
            prompts = note.request.get("prompt") or [""]
            prompt = str(prompts[min(note.index // max(int(note.request.get("count") or 1), 1), len(prompts) - 1)])
            seals = [ancestor.seal for ancestor in reversed(note.lineage)]
        else:
            request, model = _foreign(picture.parameters(file) or "")
            fingerprint, prompt, seals = "", str((request.get("prompt") or [""])[0]), []
        with self.folder.writing(durable=True):
            parent = next(filter(None, map(self.maker, seals)), None)
            now = time.time()
            run = self._insert(
                {
                    "kind": "import",
                    "state": "done",
                    "title": title or file.stem,
                    "prompt": prompt,
                    "model": model,
                    "fingerprint": fingerprint,
                    "request": _text(request),
                    "record": "preview",
                    "created": now,
                    "started": now,
                    "finished": now,
                    "parent": parent,
                    "relation": "import" if parent else "",
                    "seed": str(request.get("seed") or 0),
                }
            )
            target = self.folder.run(run.id) / f"0{file.suffix.lower()}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            return self.pictured(run.id, [(target.name, name, pixels.shape[2], pixels.shape[1])])

    def pictured(self, id: str, made: Sequence[tuple[str, str, int, int]], **values: Any) -> Run:
        """Note the finished pictures of a run, (file, seal, width, height) each, and change further columns with them."""
        listed = [{"file": file, "seal": seal, "width": w, "height": h} for file, seal, w, h in made]
        with self.folder.writing(durable=True) as db:
            for file, seal, _, _ in made:
                db.execute("INSERT OR IGNORE INTO pictures (seal, file, run) VALUES (?, ?, ?)", (seal, f"runs/{id}/{file}", id))
            return self.set(id, pictures=_text(listed), bytes=self.folder.size("runs", id), **values)


def traced(stage: int) -> str:
    """The name of the file that a stage is recorded in."""
    return "trace.safetensors" if stage == 0 else f"trace-{stage + 1}.safetensors"


def prompt_of(request: Request) -> str:
    """What a request says in words: its prompts, or the expression or the ends of its task."""
    task: Task = request.task
    if (expression := getattr(task, "expression", "")) and not any(request.prompt):
        return str(expression)
    ends = [end.prompt for end in getattr(task, "ends", ()) if end.prompt]
    return " → ".join(dict.fromkeys(ends)) or "\n".join(dict.fromkeys(request.prompt))


def digits_of(file: Path) -> str:
    """The fingerprint of a model file, read once as long as it does not change."""
    about = file.stat()
    return _digits(file, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=256)
def _digits(file: Path, _changed: int, _size: int) -> str:
    return fingerprint(file)


def _run(row: sqlite3.Row, recorded: bool, position: int | None, eta: float | None) -> Run:
    plain = {name: row[name] for name in row.keys() if name in Run.model_fields}  # noqa: SIM118
    return Run.model_validate(
        plain
        | {
            "request": json.loads(row["request"]),
            "pictures": _pictures(row),
            "levels": json.loads(row["levels"]) if row["levels"] else None,
            "seed": int(row["seed"]),
            "star": bool(row["star"]),
            "group": row["grp"],
            "position": position,
            "eta": eta,
            "recorded": recorded,
        }
    )


def _pictures(row: sqlite3.Row) -> tuple[Picture, ...]:
    return tuple(
        Picture(seal=p["seal"], width=p["width"], height=p["height"], url=f"/v1/runs/{row['id']}/pictures/{k}.png")
        for k, p in enumerate(json.loads(row["pictures"]))
    )


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _sort(file: Path) -> str:
    if file.suffix == ".safetensors" and (file.name == FROM or file.name.startswith("trace")):
        return "traces"
    return "pictures" if file.stem.isdecimal() else "drawn"


def _foreign(text: str) -> tuple[dict[str, Any], str]:
    """(request, model): what a `parameters` text says that is true of any model; the rest is read when a model is at hand."""
    from safelight.interop import infotext

    if len(text) > LONGEST_PARAMETERS:
        raise SpecError(f"its parameters are {len(text):,} characters, {LONGEST_PARAMETERS:,} are read")
    info = infotext.parse(text)
    request: dict[str, Any] = {"prompt": [info.prompt], "negative": info.negative}
    for name, field in (("Steps", "steps"), ("Seed", "seed")):
        if re.fullmatch(r"-?[0-9]{1,18}", info.settings.get(name, "")):
            request[field] = int(info.settings[name])
    return request, info.settings.get("Model", "")


__all__ = [
    "FROM",
    "LONGEST_PARAMETERS",
    "OVER",
    "UNDO",
    "Ask",
    "Conflict",
    "Imported",
    "Kind",
    "Line",
    "Missing",
    "Node",
    "Picture",
    "Prune",
    "Record",
    "Relation",
    "Run",
    "Runs",
    "State",
    "Storage",
    "digits_of",
    "prompt_of",
    "traced",
]
