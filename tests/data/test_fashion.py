"""Fashion-MNIST is found, verified, or its absence explained; nothing is installed by a test."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from safelight.data import DataError, fashion
from safelight.spec import build
from tests.data.formats import idx_bytes

FIXTURE = Path(__file__).parents[1] / "fixtures" / "fashion-1000"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAFELIGHT_DATA", raising=False)
    monkeypatch.setattr(fashion, "PACKAGED", tmp_path / "not-installed")
    monkeypatch.setattr(fashion.debian, "_install", lambda *_: pytest.fail("a test must not install"))
    return tmp_path


def put(folder: Path, per_class: int = 1000) -> None:
    """Files of the right shapes: black pictures, all classes alike."""
    folder.mkdir(parents=True)
    for part, times in (("train", 6), ("t10k", 1)):
        labels = np.repeat(np.arange(10), per_class * times)
        images = np.zeros((len(labels), 28, 28), np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images), 1))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))


def test_places_are_tried_in_order(nowhere, monkeypatch):
    assert fashion.find() is None
    put(nowhere / "not-installed")
    assert fashion.find() == nowhere / "not-installed"
    put(nowhere / "data" / "fashion-mnist")
    assert fashion.find() == Path("data/fashion-mnist")
    put(nowhere / "mine" / "fashion-mnist")
    monkeypatch.setenv("SAFELIGHT_DATA", str(nowhere / "mine"))
    assert fashion.find() == nowhere / "mine" / "fashion-mnist"
    assert fashion.fetch() == (nowhere / "mine" / "fashion-mnist", 60_000, 10_000)
    data = build({"kind": "fashion-mnist", "split": "test"}, "source").open()
    assert len(data) == 10_000 and data.captions[-1] == "ankle boot"


def test_what_is_wrong_is_named(nowhere):
    put(nowhere / "few", 10)
    with pytest.raises(DataError, match=r"Fashion-MNIST has \(60000, 28, 28\), this is \(600, 28, 28\)"):
        fashion.verify(nowhere / "few")
    put(nowhere / "odd")
    labels = np.repeat(np.arange(10), 6000)
    labels[0] = 9
    (nowhere / "odd" / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(DataError, match=r"6,000 pictures of each class, this has \[5999, "):
        fashion.verify(nowhere / "odd")


def test_absence_says_what_to_do(nowhere, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for attempt in (fashion.fetch, lambda: build("fashion-mnist", "source").open()):
        with pytest.raises(DataError) as caught:
            attempt()
        line = str(caught.value)
        assert "\n" not in line
        for word in (
            "apt-get install dataset-fashion-mnist",
            "t10k-labels-idx1-ubyte.gz",
            "data/fashion-mnist",
            "safelight[data]",
        ):
            assert word in line


def test_the_package_is_installed_when_it_can_be(nowhere, monkeypatch):
    """With the commands replaced: install, refresh the list once when that fails, install again."""
    calls: list[list[str]] = []
    said: list[str] = []

    def pretend(command, **_):
        calls.append(command)
        installs = [c for c in calls if "install" in c]
        if "install" in command and len(installs) == 2:
            put(nowhere / "not-installed")
        return fashion.debian.subprocess.CompletedProcess(
            command, 100 if "install" in command and len(installs) == 1 else 0, "", "E: no"
        )

    monkeypatch.undo()
    monkeypatch.chdir(nowhere)
    monkeypatch.delenv("SAFELIGHT_DATA", raising=False)
    monkeypatch.setattr(fashion, "PACKAGED", nowhere / "not-installed")
    monkeypatch.setattr(fashion.debian.subprocess, "run", pretend)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(fashion.debian, "_administrator", list)
    assert fashion.fetch(said.append).train == 60_000
    assert [next(w for w in c if w in ("install", "update")) for c in calls] == ["install", "update", "install"]
    assert len(said) == 2
