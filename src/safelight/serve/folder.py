"""The data folder: one SQLite file that knows every run, and the files of the runs beside it.

    safelight.db        the index: runs, their logs, the queue, events, pictures by seal (schema below)
    runs/ID/            trace.safetensors (trace-2, ... one a stage), 0.png, 1.png, ..., what is drawn from the trace, error.txt
    pictures/HEX.png    pictures and masks that were brought, by the hash in their seal
    models/NAME.safetensors   models beyond those that ship
    loras/NAME.safetensors    adapters of any flavour, which a request names
    embeddings/NAME.safetensors   learned words (textual inversions), likewise
    controls/NAME.safetensors, controls/NAME/   ControlNets, T2I- and IP-adapters, likewise; image_encoder/ is IP-adapters' tower
    worker-DEVICE.lock  held by the server whose worker makes the pictures on that device, and by that worker

Everything that a process may be killed in the middle of is a transaction or a file that is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safelight.spec import SpecError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.picture import Note

_ID = re.compile(r"[0-9a-z]{12}")
_SEAL = re.compile(r"sha256:([0-9a-f]{32})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
# An id is the millisecond in 8 digits to the base 36 (until the year 2059) and 4 more that set apart what one millisecond makes.
_TAIL = 36**4
# A file of this machine in a sentence; addresses of our own API are none.
_PATH = re.compile(r"(?<![\w.:/<])/(?!(?:v1|sdapi|studio)/)(?:[^\s/'\"`:,;()<>]+/)+")
# So long a writer waits for another's transaction, in seconds.
_PATIENCE = 30.0

# Statement by statement from version n to version n + 1; a data folder of any earlier version is brought here when it is opened.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, title TEXT NOT NULL, prompt TEXT NOT NULL,
            model TEXT NOT NULL, fingerprint TEXT NOT NULL DEFAULT '', request TEXT NOT NULL, record TEXT NOT NULL,
            priority INTEGER NOT NULL DEFAULT 0, place REAL NOT NULL DEFAULT 0,
            created REAL NOT NULL, started REAL, finished REAL,
            steps_done INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0, ms_per_step REAL,
            error TEXT NOT NULL DEFAULT '', pictures TEXT NOT NULL DEFAULT '[]',
            parent TEXT, relation TEXT NOT NULL DEFAULT '', fork_step INTEGER, noise REAL NOT NULL DEFAULT 0, grp TEXT,
            star INTEGER NOT NULL DEFAULT 0, board TEXT NOT NULL DEFAULT '', bytes INTEGER NOT NULL DEFAULT 0,
            seed TEXT NOT NULL DEFAULT '0', levels TEXT, pace TEXT NOT NULL DEFAULT '', pixels INTEGER NOT NULL DEFAULT 0,
            worker TEXT, lease REAL, asked TEXT NOT NULL DEFAULT '', made INTEGER NOT NULL DEFAULT 0,
            deaths INTEGER NOT NULL DEFAULT 0, falls INTEGER NOT NULL DEFAULT 0,
            deleted REAL
        )""",
        "CREATE INDEX queue ON runs (state, priority DESC, place, id) WHERE state IN ('queued', 'running', 'paused')",
        "CREATE INDEX children ON runs (parent) WHERE parent IS NOT NULL",
        "CREATE INDEX groups ON runs (grp) WHERE grp IS NOT NULL",
        """CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, run TEXT NOT NULL, data TEXT NOT NULL, time REAL NOT NULL
        )""",
        "CREATE TABLE pictures (seal TEXT NOT NULL, file TEXT NOT NULL, run TEXT, PRIMARY KEY (seal, file))",
        "CREATE INDEX pictures_of ON pictures (run) WHERE run IS NOT NULL",
        """CREATE TABLE speeds (
            pace TEXT PRIMARY KEY, model TEXT NOT NULL, pixels INTEGER NOT NULL, ms REAL NOT NULL, time REAL NOT NULL
        )""",
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE shelf (name TEXT PRIMARY KEY, file TEXT NOT NULL)",
        """CREATE TABLE workers (
            id TEXT PRIMARY KEY, device TEXT NOT NULL, pid INTEGER NOT NULL, seen REAL NOT NULL, run TEXT,
            bytes INTEGER NOT NULL DEFAULT 0, budget INTEGER NOT NULL DEFAULT 0
        )""",
        "CREATE TABLE loaded (worker TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (worker, name))",
        "CREATE TABLE wishes (id INTEGER PRIMARY KEY AUTOINCREMENT, worker TEXT NOT NULL, name TEXT NOT NULL, load INTEGER NOT NULL)",
    ),
    (
        "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, time REAL NOT NULL, text TEXT NOT NULL)",
        "CREATE INDEX log_of ON log (run)",
    ),
)


class Missing(SpecError):
    """What is asked for is not there."""


class Conflict(SpecError):
    """What is there is in no state for what is asked of it."""


_last = (0, 0)
_ids = threading.Lock()


def new_id() -> str:
    """12 characters [0-9a-z] that sort by the time they were made; within a process strictly."""
    global _last
    with _ids:
        now, tail = max(time.time_ns() // 1_000_000, _last[0]), 0
        if now == _last[0] and _last[1] + 1 < _TAIL:
            tail = _last[1] + 1
        else:
            now += now == _last[0]
            tail = secrets.randbelow(_TAIL // 2)  # the upper half is room to count on
        _last = now, tail
    number, text = now * _TAIL + tail, ""
    for _ in range(12):
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text


class Folder:
    """A data folder, made where there is none. Threads and processes may share one; each thread has its own connection.

    Raises SpecError for a folder of a newer version, OSError for one that cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self.path.mkdir(
            mode=0o700, parents=True, exist_ok=True
        )  # prompts and pictures are their owner's on a machine of several people
        for name in ("runs", "pictures", "models", "loras", "embeddings", "controls"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
        self._threads = threading.local()
        self._open: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        self._migrate()

    # ---- the index -----------------------------------------------------------------------------------------------------------

    @property
    def db(self) -> sqlite3.Connection:
        """This thread's connection: every statement is a transaction, unless within `writing`; rows answer to names."""
        if getattr(self._threads, "pid", None) != os.getpid():  # also after a fork, which must not share a connection
            self._threads.db, self._threads.pid, self._threads.depth = self.connect(), os.getpid(), 0
        found: sqlite3.Connection = self._threads.db
        return found

    def connect(self) -> sqlite3.Connection:
        """A further connection, for whoever watches the index; closed with the folder."""
        db = sqlite3.connect(self.path / "safelight.db", timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.create_function("folded", 1, lambda text: str(text).casefold(), deterministic=True)
        with self._lock:
            # Servers' threads come and go: a connection ends with its thread.
            for thread, old in self._open:
                if not thread.is_alive():
                    old.close()
            self._open = [one for one in self._open if one[0].is_alive()] + [(threading.current_thread(), db)]
        return db

    @contextlib.contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes in; within another one, a part of it. durable: it also outlives a power failure."""
        db = self.db
        if self._threads.depth:
            yield db
            return
        if durable:
            db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        self._threads.depth = 1
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        finally:
            self._threads.depth = 0
            if durable:
                db.execute("PRAGMA synchronous = NORMAL")

    def _migrate(self) -> None:
        with self.writing(durable=True) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > len(MIGRATIONS):
                raise SpecError(
                    f"{self.path} has version {version}, this safelight reads up to {len(MIGRATIONS)}: update safelight"
                )
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for _, db in self._open:
                db.close()
            self._open.clear()
        self._threads = threading.local()

    # ---- files ---------------------------------------------------------------------------------------------------------------

    def run(self, id: str) -> Path:
        """The folder of a run's files, which may not be there yet. Raises Missing for what is no id."""
        if not _ID.fullmatch(id):
            raise Missing(f"no run '{id[:40]}'")
        return self.path / "runs" / id

    def keep(self, pixels: Tensor, note: Note | None = None) -> str:
        """Keep a picture or mask, uint8 (C, H, W), C = 1 or 3, with its note; returns its seal, by which requests name it."""
        from safelight.assets import seal
        from safelight.picture import write

        name = seal(pixels)
        file = Path("pictures") / f"{_hex(name)}.png"
        if not (self.path / file).exists():
            write(self.path / file, pixels, note)
        with self.writing() as db:
            db.execute("INSERT OR REPLACE INTO pictures (seal, file) VALUES (?, ?)", (name, file.as_posix()))
        return name

    def picture(self, seal: str) -> Path:
        """The file of a picture that was brought, or that a run made. Raises Missing where there is none."""
        _hex(seal)
        rows = self.db.execute("SELECT file FROM pictures WHERE seal = ? ORDER BY run IS NOT NULL, rowid", (seal,))
        found = next((file for row in rows if (file := self.path / row["file"]).is_file()), None)
        if found is None:
            raise Missing(f"picture {seal} is not here: send it first")
        return found

    def read(self, seal: str) -> tuple[Tensor, Note | None]:
        """(uint8 (C, H, W), note) of a picture that is here. Raises Missing where it is not."""
        from safelight import assets, picture

        pixels, note = picture.read(self.picture(seal))
        if assets.seal(pixels) != seal:
            raise Missing(f"picture {seal} is not here as it was: its file was changed, send it again")
        return pixels, note

    def hold(self, seal: str) -> None:
        """Keep a picture for its own sake, so that it stays when the run that made it goes. Raises Missing where it is not here."""
        if self.picture(seal).parent.name != "pictures":
            self.keep(*self.read(seal))

    def models(self) -> dict[str, Path]:
        """The models that can be asked for, by name: those that ship, those in `models`, and those that were shelved."""
        own = {path.stem: path for path in sorted((self.path / "models").glob("*.safetensors")) if _NAME.fullmatch(path.stem)}
        rows = self.db.execute("SELECT name, file FROM shelf ORDER BY name").fetchall()
        shelf = {row["name"]: Path(row["file"]) for row in rows if Path(row["file"]).is_file()}
        return {**_shipped(), **own, **shelf}

    def model(self, name: str) -> Path:
        """The file of a model by its name, "default" too. Names are never paths. Raises Missing naming what there is."""
        from safelight.model import DEFAULT

        known = self.models()
        name = DEFAULT if name == "default" and name not in known else name
        if name not in known:
            raise Missing(f"no model '{name[:60]}'{nearest(name[:60], known)} (models: {', '.join(known)})")
        return known[name]

    def adapters(self, where: Literal["loras", "embeddings"] = "loras") -> dict[str, Path]:
        """The adapters, or the learned words, that can be asked for, by name."""
        return {path.stem: path for path in sorted((self.path / where).glob("*.safetensors")) if _NAME.fullmatch(path.stem)}

    def controls(self) -> dict[str, Path]:
        """The controls that can be asked for, by name."""
        here = self.path / "controls"
        found = {path.stem: path for path in sorted(here.glob("*.safetensors"))}
        found |= {path.parent.name: path.parent for path in sorted(here.glob("*/config.json"))}
        return {name: path for name, path in found.items() if _NAME.fullmatch(name) and name != "image_encoder"}

    def part(self, name: str) -> Path:
        """The file of a joint model or a classifier by its name: of those in `models`, else of those that ship. Names are never paths.

        Raises Missing for one that is not here.
        """
        from safelight import model

        if _NAME.fullmatch(name):
            for folder in (self.path / "models", Path(model.__file__).parent / "assets"):
                if (folder / f"{name}.safetensors").is_file():
                    return folder / f"{name}.safetensors"
        raise Missing(f"no model '{name[:60]}' is here")

    def shelve(self, path: str | os.PathLike[str], name: str = "") -> str:
        """Let a model file of this machine be asked for by a name (default: the file's); returns the name. Not for requests of clients.

        Raises SpecError for what is no model or no name.
        """
        from safelight.model import peek

        file = peek(path).path.resolve()
        name = name or (file.parent.name if file.stem == "model" else file.stem)
        if not _NAME.fullmatch(name) or name == "default":
            raise SpecError(f"'{name}' cannot be a model's name: letters, digits and _ . + - (not 'default')")
        with self.writing() as db:
            db.execute("INSERT OR REPLACE INTO shelf (name, file) VALUES (?, ?)", (name, str(file)))
        return name

    def nameless(self, text: str) -> str:
        """A sentence with files by their names alone: where they lie on this machine is nobody's business."""
        for folder in (self.path, Path(__file__).parents[1], Path.home()):  # these may hold spaces, which the pattern ends at
            text = text.replace(f"{folder}/", "")
        return _PATH.sub("", text)

    def free(self) -> int:
        """Free bytes on the disk it lies on."""
        return shutil.disk_usage(self.path).free

    def size(self, *parts: str) -> int:
        """Bytes of all files below a part of the folder."""
        return sum(f.lstat().st_size for f in self.path.joinpath(*parts).rglob("*") if f.is_file() and not f.is_symlink())


@functools.cache
def _shipped() -> dict[str, Path]:
    """The models that come with the package, whose headers are read once."""
    from safelight.model import embedded

    return embedded()


def _hex(seal: str) -> str:
    found = _SEAL.fullmatch(seal)
    if found is None:
        raise Missing(f"'{seal[:60]}' is no picture's seal (sha256: and 32 hex digits)")
    return found[1]


__all__ = ["MIGRATIONS", "Conflict", "Folder", "Missing", "new_id"]
