"""`safelight vary`: variations of a picture of ours are of its own noise, and those of any other of its inversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import safelight
from safelight import picture
from safelight.draw.pixels import to_bytes


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ours(cli: Callable[..., Any], model: Path) -> Path:
    """The third picture of a run, `dress`, of seed 7, by a sampler that draws noise."""
    flags = ["--count", "2", "--seed", "7", "--sampler", "euler-ancestral", "--micro-batch", "1"]
    assert cli("sample", model, "-p", "bag", "-p", "dress", *flags, "--out", "made").code == 0
    return Path("made/pictures/0002-dress.png")


def files(folder: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(p)) for p in sorted((Path(folder) / "pictures").iterdir())]


def test_strength_0_is_the_picture_and_1_the_other_seed_s(cli: Callable[..., Any], model: Path, ours: Path) -> None:
    own = np.asarray(Image.open(ours))
    flags = ["--model", model, "--count", "2", "--micro-batch", "1"]
    assert cli("vary", ours, *flags, "--strength", "0", "--out", "a").code == 0
    for found in files("a"):
        np.testing.assert_array_equal(found, own)
    assert cli("vary", ours, *flags, "--strength", "1", "--variation-seed", "40", "--out", "b").code == 0
    plain = {"count": 2, "seed": 40, "sampler": "euler-ancestral", "micro_batch": 1}
    events = safelight.generate(safelight.load(model), safelight.Request(prompt=("dress",), **plain))
    wanted = [to_bytes(e.pictures)[0, ..., 0] for e in events if hasattr(e, "pictures")]
    for found, other in zip(files("b"), wanted, strict=True):
        np.testing.assert_array_equal(found, other)


def test_the_picture_stands_in_the_middle_of_its_variations(cli: Callable[..., Any], model: Path, ours: Path) -> None:
    """Each file carries what it descends from, and can be varied again and made again."""
    ran = cli("vary", ours, "--model", model, "--out", "v")
    assert (ran.code, ran.err) == (0, "")
    assert "8 pictures of 12x12" in ran.out and ran.out.splitlines()[-1] == "around   v/around.png"
    around, own = np.asarray(Image.open("v/around.png")), np.asarray(Image.open(ours))
    scale = next(s for s in range(1, 20) if contains(around, np.kron(own, np.ones((s, s), np.uint8))))
    y, x = contains(around, np.kron(own, np.ones((scale, scale), np.uint8)))  # type: ignore[misc]
    assert abs(x + 6 * scale - around.shape[1] / 2) < 12 * scale / 2 and abs(y + 6 * scale - around.shape[0] / 2) < 12 * scale
    first = sorted(Path("v/pictures").iterdir())[0]
    note = picture.note(first)
    assert note is not None and [a.seal for a in note.lineage] == [picture.note(ours).seal]  # type: ignore[union-attr]
    assert cli("vary", first, "--model", model, "--strength", "0", "--count", "1", "--out", "again.png").code == 0
    assert np.abs(np.asarray(Image.open("again.png")).astype(int) - np.asarray(Image.open(first))).max() <= 1
    assert cli("reproduce", first, "--model", model).code == 0


def contains(page: np.ndarray, cell: np.ndarray) -> tuple[int, int] | None:
    """Where a cell stands on a page, pixel for pixel; None where it does not."""
    if cell.shape[0] > page.shape[0] or cell.shape[1] > page.shape[1]:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(page, cell.shape)
    corners = np.argwhere((windows[..., 0, 0] == cell[0, 0]) & (windows[..., -1, -1] == cell[-1, -1]))
    return next(((int(y), int(x)) for y, x in corners if np.array_equal(windows[y, x], cell)), None)


def test_of_a_prompt(cli: Callable[..., Any], model: Path, ours: Path) -> None:
    """Picture --index of --seed; its own sheet holds the picture, made for it."""
    flags = ["--model", model, "--sampler", "euler-ancestral", "--count", "2"]
    assert cli("vary", "-p", "dress", "--seed", "7", "--index", "2", *flags, "--out", "w").code == 0
    assert cli("vary", ours, "--model", model, "--count", "2", "--out", "v").code == 0
    for a, b in zip(files("w"), files("v"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_of_any_picture(cli: Callable[..., Any], model: Path, ours: Path) -> None:
    """Inverted, a little strength stays nearer than much; the seal of the picture is in the note."""
    own = np.asarray(Image.open(ours))
    Image.fromarray(own).save("photo.png")
    off = []
    for strength in ("0", "0.1", "0.6"):
        flags = ["--steps", "20", "--count", "2", "--strength", strength, "--out", strength]
        found = cli("vary", "photo.png", "-p", "dress", "--model", model, *flags)
        assert found.code == 0 and "ddim, none" in found.out, found.err
        off.append(np.mean([np.abs(f.astype(int) - own).mean() for f in files(strength)]))
    assert off == sorted(off) and off[0] < 2 and off[2] > 5 * off[0]
    note = picture.note(sorted(Path("0.1/pictures").iterdir())[0])
    assert note is not None and note.inputs == (safelight.assets.seal(picture.read("photo.png")[0]),)
    flags = ["--by", "noise", "--strength", "0", "--count", "1", "--out", "n.png"]
    assert cli("vary", "photo.png", "--model", model, *flags).code == 0
    np.testing.assert_array_equal(np.asarray(Image.open("n.png")), own)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "say what to vary: a picture, or --prompt"),
        (["-p", "bag", "--strength", "2"], "--strength 2: between 0, the picture, and 1, another one"),
        (["made/pictures/0002-dress.png", "--weights", "raw"], "--weights: a picture of ours says how it was made"),
        (["missing.png"], "missing.png"),
    ],
)
def test_refusals(flags: list[str], line: str, cli: Callable[..., Any], model: Path, ours: Path) -> None:
    ran = cli("vary", *flags, *(["--model", model] if "--weights" not in flags else []))
    assert ran.code == 2 and line in ran.err and ran.err.count("\n") == 1


@pytest.mark.parametrize("source", [["-p", "dress", "--seed", "7", "--index", "2"], ["photo.png", "-p", "dress"]])
def test_a_config_is_the_same_variations(
    source: list[str], cli: Callable[..., Any], model: Path, ours: Path, tmp_path: Path
) -> None:
    """Nothing that was kept falls back to a flag's default; a flag goes over it."""
    Image.fromarray(np.asarray(Image.open(ours))).save("photo.png")
    flags = ["--model", model, "--count", "3", "--strength", "0.6", "--variation-seed", "11", "--steps", "3"]
    assert cli("vary", *source, *flags, "--save-config", "kept.yaml", "--out", "a").code == 0
    again = ["--model", model, "--config", "kept.yaml"]
    files_ = source[:1] if source[0] == "photo.png" else []
    assert cli("vary", *files_, *again, "--out", "b").code == 0
    assert len(files("a")) == len(files("b")) == 3
    for a, b in zip(files("a"), files("b"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert cli("vary", *files_, *again, "--strength", "0.1", "--count", "1", "--out", "c.png").code == 0
    note = picture.note("c.png")
    assert note is not None
    task = note.request["task"]
    assert (task.get("vary", task.get("strength")), note.count) == (0.1, 1)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["-p", "bag", "--by", "noise"], "--by: the noise of this picture is known"),
        (["made/pictures/0002-dress.png", "--by", "noise"], "--by: the noise of this picture is known"),
        (["made/pictures/0002-dress.png", "--config", "kept.yaml"], "--config: a picture of ours says how it was made"),
        (["photo.png", "--seed", "1", "--variation-seed", "2"], "--seed: a picture that is not ours has none"),
        (["-p", "bag", "--model", "other.safetensors"], "--model: one is enough"),
        (["--config", "edit.yaml"], "--config: its task is 'image', which needs a picture: vary that"),
    ],
)
def test_no_flag_is_dropped_in_silence(flags: list[str], line: str, cli: Callable[..., Any], model: Path, ours: Path) -> None:
    Image.fromarray(np.asarray(Image.open(ours))).save("photo.png")
    Path("kept.yaml").write_text("steps: 2")
    Path("edit.yaml").write_text("task: {kind: image, picture: x}")
    ran = cli("vary", *flags, "--model", model)
    assert ran.code == 2 and line in ran.err and ran.err.count("\n") == 1


def test_an_input_that_is_not_needed_is_said(cli: Callable[..., Any], model: Path, ours: Path) -> None:
    ran = cli("vary", "-p", "bag", "--input", ours, "--model", model, "--count", "1", "--out", "a.png")
    assert ran.code == 0 and f"--input {ours}: nothing that is asked for is made from it" in ran.err
