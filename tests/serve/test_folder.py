"""The data folder: ids, the index, pictures by seal, models by name and never by path."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest
import torch

from safelight.assets import seal
from safelight.model import save
from safelight.serve.folder import MIGRATIONS, Folder, Missing, new_id
from safelight.spec import SpecError
from tests import forks, small
from tests.serve import bench


def test_ids_sort_by_time_and_never_repeat() -> None:
    ids = [new_id() for _ in range(20_000)]
    assert ids == sorted(ids) and len(set(ids)) == len(ids)
    assert all(len(id) == 12 and id.isalnum() and id == id.lower() for id in ids)


def _open(path: str) -> int:
    return int(Folder(path).db.execute("SELECT count(*) FROM runs").fetchone()[0])


def test_processes_may_open_a_new_folder_at_once(tmp_path: Path) -> None:
    with forks.context().Pool(8) as pool:
        assert pool.map(_open, [str(tmp_path)] * 16) == [0] * 16
    db = Folder(tmp_path).db
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)


def test_a_folder_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Folder(tmp_path).close()
    with sqlite3.connect(tmp_path / "safelight.db") as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(SpecError, match="update safelight"):
        Folder(tmp_path)


def test_a_transaction_is_whole_or_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)

    def fail() -> None:
        with folder.writing() as db, folder.writing():
            db.execute("INSERT INTO facts VALUES ('a', '1')")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert folder.db.execute("SELECT count(*) FROM facts").fetchone()[0] == 0


def test_each_thread_has_its_connection(tmp_path: Path) -> None:
    folder, found = Folder(tmp_path), list[object]()
    thread = threading.Thread(target=lambda: found.append(folder.db))
    thread.start()
    thread.join()
    assert found[0] is not folder.db and folder.db is folder.db


def test_pictures_are_known_by_their_seals(tmp_path: Path) -> None:
    folder, pixels = Folder(tmp_path), torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
    name = folder.keep(pixels)
    assert name == seal(pixels) and folder.keep(pixels) == name
    assert torch.equal(folder.read(name)[0], pixels)
    grey = torch.full((1, 4, 5), 7, dtype=torch.uint8)
    assert torch.equal(folder.read(folder.keep(grey))[0], grey)
    folder.picture(name).unlink()
    for wrong in (name, "sha256:" + "0" * 32, "sha256:../../x", "../../etc/passwd", ""):
        with pytest.raises(Missing):
            folder.picture(wrong)


def test_a_picture_that_was_changed_on_the_disk_is_not_the_one_asked_for(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    name = folder.keep(torch.zeros(3, 8, 8, dtype=torch.uint8))
    other = folder.picture(folder.keep(torch.ones(3, 8, 8, dtype=torch.uint8)))
    folder.picture(name).write_bytes(other.read_bytes())
    with pytest.raises(Missing, match="changed"):
        folder.read(name)


@pytest.mark.parametrize("id", ["", "..", "../../../etc", "aaaaaaaaaaa/", "AAAAAAAAAAAA", "a" * 13, "aaaa\0aaaaaaa", "ａ" * 12])
def test_no_id_leads_out_of_the_folder(tmp_path: Path, id: str) -> None:
    with pytest.raises(Missing):
        Folder(tmp_path).run(id)


def test_models_are_names(tmp_path: Path) -> None:
    folder = bench.folder(tmp_path / "data")
    assert folder.model("tiny") == folder.path / "models" / "tiny.safetensors"
    assert folder.model("default").stem in folder.models() and "fashion-mnist" in folder.models()
    elsewhere = tmp_path / "run" / "model.safetensors"
    save(elsewhere, small.model())
    for wrong in (str(elsewhere), os.path.relpath(elsewhere), "../models/tiny", "tiny.safetensors", "tinny"):
        with pytest.raises(Missing):
            folder.model(wrong)
    assert folder.shelve(elsewhere) == "run" and folder.model("run") == elsewhere
    assert Folder(tmp_path / "data").model("run") == elsewhere
    with pytest.raises(SpecError, match="cannot be a model's name"):
        folder.shelve(elsewhere, "a/b")
    with pytest.raises(SpecError):
        folder.shelve(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("/srv/models/tiny.safetensors is no model", "tiny.safetensors is no model"),
        ("no file '/srv/models/a.png' here", "no file 'a.png' here"),
        (
            "OSError: [Errno 2] No such file: '/srv/x/trace-2.safetensors'",
            "OSError: [Errno 2] No such file: 'trace-2.safetensors'",
        ),
        ("ask for it with POST /v1/runs/ID/attention", "ask for it with POST /v1/runs/ID/attention"),
        (
            "1/2 of 3/4/5, </w> and a/b/c stay, http://127.0.0.1/a/b too",
            "1/2 of 3/4/5, </w> and a/b/c stay, http://127.0.0.1/a/b too",
        ),
    ],
)
def test_sentences_name_files_without_their_places(tmp_path: Path, said: str, left: str) -> None:
    assert Folder(tmp_path).nameless(said) == left


def test_a_folder_of_this_machine_goes_also_with_spaces_in_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "with some space")
    assert folder.nameless(f"{folder.path}/runs/x/0.png is gone") == "runs/x/0.png is gone"
    assert folder.nameless(f"no {Path.home()}/a.png") == "no a.png"


def test_a_folder_of_the_first_version_is_brought_here(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "safelight.db") as db:
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
    db = Folder(tmp_path).db
    assert db.execute("SELECT count(*) FROM log").fetchone()[0] == 0
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
