"""Events: what happened, in order, for everyone who watches, also for those who come back after a while.

A client that has seen event n asks for those after n. Events are rows of the index, written in the transaction of the change
that they tell, so that none is told that did not happen and none is lost with a process.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from safelight.serve.folder import Folder
from safelight.spec import SpecError

Kind = Literal["run", "step", "queue", "gone"]
# Older ones are for nobody: who stayed away longer reads the runs anew. Steps carry pictures, so fewer of them are kept.
KEPT, KEPT_STEPS = 20_000, 2_000
_GLANCE = 0.02  # seconds between looks while waiting


class Event(NamedTuple):
    """id: strictly growing. kind: "run" (a run is now as `data` says), "step" (a step is done, with frames), "queue", "gone".
    data: JSON text."""

    id: int
    kind: str
    run: str
    data: str


class Events:
    """The events of a data folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._watching: sqlite3.Connection | None = None
        self._seen = -1
        self._lock = threading.Lock()

    def emit(self, kind: Kind, data: Mapping[str, Any], run: str = "") -> int:
        """Tell an event, in the transaction that is under way or in one of its own; returns its id."""
        if kind not in get_args(Kind):
            raise SpecError(f"no event '{kind}' (kinds: {', '.join(get_args(Kind))})")
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
        with self.folder.writing() as db:
            row = db.execute("INSERT INTO events (kind, run, data, time) VALUES (?, ?, ?, ?)", (kind, run, text, time.time()))
            return int(row.lastrowid or 0)

    def since(self, last: int, limit: int = 500) -> list[Event]:
        """The events after `last` in order, `limit` at most."""
        last = max(0, min(int(last), 2**63 - 1))
        rows = self.folder.db.execute("SELECT id, kind, run, data FROM events WHERE id > ? ORDER BY id LIMIT ?", (last, limit))
        return [Event(*row) for row in rows]

    def last(self) -> int:
        """The id of the newest event, 0 before the first. It never falls, also when events are dropped."""
        row = self.folder.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(row[0]) if row else 0

    def oldest(self) -> int:
        """The id of the oldest event that is kept; who has seen less than the one before it has missed some. 1 before the first."""
        row = self.folder.db.execute("SELECT min(id) FROM events").fetchone()
        return int(row[0]) if row[0] is not None else self.last() + 1

    def changed(self) -> bool:
        """Whether anything was written to the folder since the last call; the first says True. Costs microseconds, never blocks."""
        with self._lock:
            if self._watching is None:
                self._watching = self.folder.connect()
            version = int(self._watching.execute("PRAGMA data_version").fetchone()[0])
            changed, self._seen = version != self._seen, version
        return changed

    def wait(self, last: int, timeout: float) -> list[Event]:
        """The events after `last`, as soon as there is one; none after `timeout` seconds. For a thread."""
        until = time.monotonic() + timeout
        while True:
            found = self.since(last)
            if found or time.monotonic() >= until:
                return found
            time.sleep(_GLANCE)

    def trim(self) -> int:
        """Drop what is beyond `KEPT`, and steps beyond `KEPT_STEPS`; returns how many events went."""
        newest = self.last()
        with self.folder.writing() as db:
            gone = db.execute("DELETE FROM events WHERE id <= ?", (newest - KEPT,)).rowcount
            steps = "SELECT id FROM events WHERE kind = 'step' ORDER BY id DESC LIMIT 1 OFFSET ?"
            edge = db.execute(steps, (KEPT_STEPS,)).fetchone()
            if edge is not None:
                gone += db.execute("DELETE FROM events WHERE kind = 'step' AND id <= ?", (edge[0],)).rowcount
            # The order of the queue, whole each time: only the last one says anything.
            last = "(SELECT max(id) FROM events WHERE kind = 'queue')"
            gone += db.execute(f"DELETE FROM events WHERE kind = 'queue' AND id < {last}").rowcount
        return gone


__all__ = ["KEPT", "KEPT_STEPS", "Event", "Events", "Kind"]
