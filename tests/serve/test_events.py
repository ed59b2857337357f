"""Events: in order, each once, also for those who come late, and none without the change that it tells."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from safelight.serve import events
from safelight.serve.events import Events
from safelight.serve.folder import Folder
from safelight.spec import SpecError


def test_who_comes_late_gets_what_was_missed_and_nothing_twice(tmp_path: Path) -> None:
    told = Events(Folder(tmp_path))
    ids = [told.emit("run", {"n": n}, "a" * 12) for n in range(10)]
    assert ids == sorted(ids) and told.last() == ids[-1]
    seen, last = list[int](), ids[3]
    while found := told.since(last, limit=4):
        seen += [json.loads(event.data)["n"] for event in found]
        last = found[-1].id
    assert seen == list(range(4, 10))
    assert Events(Folder(tmp_path)).since(ids[-2])[0].data == '{"n":9}'


@pytest.mark.parametrize("last", [-5, 2**70])
def test_ids_that_never_were_are_no_error(tmp_path: Path, last: int) -> None:
    told = Events(Folder(tmp_path))
    told.emit("queue", {})
    assert len(told.since(last)) == (last < 0)


def test_a_change_that_fails_is_not_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    told = Events(folder)

    def fail() -> None:
        with folder.writing():
            told.emit("gone", {"run": "x"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert told.since(0) == []
    with pytest.raises(SpecError, match="no event 'noise'"):
        told.emit("noise", {})  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        told.emit("run", {"x": float("nan")})


def test_waiting_ends_when_another_connection_tells(tmp_path: Path) -> None:
    told = Events(Folder(tmp_path))
    assert told.changed() and not told.changed()

    def tell() -> None:
        time.sleep(0.2)
        Events(Folder(tmp_path)).emit("queue", {"paused": False})

    thread = threading.Thread(target=tell)
    began = time.monotonic()
    thread.start()
    assert [event.kind for event in told.wait(0, 10)] == ["queue"]
    assert 0.15 < time.monotonic() - began < 5
    thread.join()
    assert told.changed() and not told.changed()
    assert told.wait(told.last(), 0.05) == []


def test_what_is_old_goes_and_ids_do_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 10)
    monkeypatch.setattr(events, "KEPT_STEPS", 2)
    told = Events(Folder(tmp_path))
    for n in range(12):
        told.emit("step" if n % 2 else "run", {"n": n})
    last = told.last()
    assert told.trim() == 5  # the two oldest, then of the steps 3, 5, 7, 9, 11 all but the last two
    assert [json.loads(e.data)["n"] for e in told.since(0)] == [2, 4, 6, 8, 9, 10, 11]
    assert told.oldest() == 3 and told.last() == last
    told.folder.db.execute("DELETE FROM events")
    assert told.emit("run", {}) == last + 1 and Events(Folder(tmp_path)).oldest() == last + 1
