"""`safelight edit --source`: the words of a picture are swapped, by inversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safelight import picture
from safelight.model import save
from tests import small


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8x8 whose classes look unlike each other."""
    path: Path = tmp_path_factory.mktemp("listening") / "listening.safetensors"
    save(path, small.listening())
    return path


def test_the_source_s_own_words_give_the_picture_back(
    cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly, where other words do not; the file says what was swapped for what, and can be made again."""
    monkeypatch.chdir(tmp_path)
    assert cli("sample", model, "-p", "bag", "--count", "1", "--out", "s").code == 0
    own = np.asarray(Image.open("s/pictures/0000-bag.png"))
    Image.fromarray(own).save("photo.png")
    flags = ["--source", "bag", "--model", model, "--steps", "20", "--set", "task.mix=null", "--set", "task.refine=40"]
    off = []
    for word in ("bag", "shoe"):
        ran = cli("edit", "photo.png", word, *flags, "--out", f"{word}.png")
        assert ran.code == 0 and "(20 steps of ddim, cfg)" in ran.out, ran.err
        off.append(float(np.abs(np.asarray(Image.open(f"{word}.png")).astype(int) - own).mean()))
    assert off[0] < 1 and off[1] > 5 * off[0], off
    note = picture.note("shoe.png")
    assert note is not None and note.request["task"]["source"] == "bag" and note.request["prompt"] == ["shoe"]
    assert cli("reproduce", "shoe.png", "--model", model, "--input", "photo.png").code == 0
    ran = cli("edit", "photo.png", "shoe", *flags, "--outpaint", "4")
    assert ran.code == 2 and "--source swaps the words of a whole picture" in ran.err
