"""`safelight grid`: every cell is the run that its fields say, in its place on the sheet, and the cost is told first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import safelight
from safelight import picture
from safelight.cli.grid import Axis, axis, braces
from safelight.draw.grid import sheet
from safelight.draw.pixels import to_bytes
from safelight.trace import Trace


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(model: Path, prompt: str, **fields: Any) -> np.ndarray:
    *_, last = safelight.generate(safelight.load(model), safelight.Request(prompt=prompt, **fields))
    return to_bytes(last.pictures)[0]


def test_three_axes(cli: Callable[..., Any], model: Path) -> None:
    """x across, y down, z further down; each cell equals the run of its request, and so does the sheet."""
    ran = cli("grid", "bag", "--model", model, "--x", "seed=0..2", "--y", "steps=1,2", "--z", "sampler=ddim,euler", "--yes")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("12 pictures, 18 steps: about ")
    cells = {
        (seed, steps, sampler): made(model, "bag", seed=seed, steps=steps, sampler=sampler)
        for seed in range(3)
        for steps in (1, 2)
        for sampler in ("ddim", "euler")
    }
    files = sorted(Path("out/grid/pictures").iterdir())
    for file, (seed, steps, sampler) in zip(
        files, [(s, n, k) for s in range(3) for n in (1, 2) for k in ("ddim", "euler")], strict=True
    ):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), cells[seed, steps, sampler][..., 0])
        note = picture.note(file)
        assert note is not None
        assert (note.request["seed"], note.request["steps"], note.request["sampler"]["kind"]) == (seed, steps, sampler)
    wanted = sheet(
        np.stack([cells[seed, steps, k] for k in ("ddim", "euler") for steps in (1, 2) for seed in range(3)]).transpose(
            0, 3, 1, 2
        ),
        columns=3,
        heads=["seed 0", "seed 1", "seed 2"],
        rows=[f"steps {n}, sampler {k}" for k in ("ddim", "euler") for n in (1, 2)],
        title="bag",
    )
    np.testing.assert_array_equal(np.asarray(Image.open("out/grid/grid.png")), np.asarray(wanted))


def test_words_are_an_axis(cli: Callable[..., Any], model: Path) -> None:
    assert cli("grid", "{bag|dress}", "--model", model, "--y", "steps=1,2").code == 0
    assert sorted(p.name for p in Path("out/grid/pictures").iterdir()) == [
        "0000-bag.png",
        "0001-bag.png",
        "0002-dress.png",
        "0003-dress.png",
    ]
    assert cli("grid", "bag", "--model", model, "--x", "prompt~bag=bag,dress", "--out", "b").code == 0
    found = [np.asarray(Image.open(p)) for p in sorted(Path("b/pictures").iterdir())]
    np.testing.assert_array_equal(found[0], made(model, "bag")[..., 0])
    np.testing.assert_array_equal(found[1], made(model, "dress")[..., 0])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("steps=5,10", ("5", "10")),
        ("seed=-1..1", ("-1", "0", "1")),
        ("sampler={kind: ddim, eta: 1},euler", ("{kind: ddim, eta: 1}", "euler")),
        ("prompt='a cat, flat','a dog'", ("'a cat, flat'", "'a dog'")),
        ("mix.interval=[0, 0.5],[0, 1]", ("[0, 0.5]", "[0, 1]")),
    ],
)
def test_an_axis_is_read(text: str, values: tuple[str, ...]) -> None:
    assert axis(text, "x") == Axis(text.partition("=")[0], values)


def test_braces() -> None:
    assert braces("a {cat|dog} on {red| blue }") == ("a \x000\x00 on \x001\x00", [("cat", "dog"), ("red", "blue")])
    assert braces("a {big |} cat") == ("a \x000\x00 cat", [("big", "")])
    assert braces("{no choice}") == ("{no choice}", [])


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("bag",), "0 axes: a grid has one, two or three"),
        (("bag", "--x", "steps"), "--x steps: write FIELD=VALUE,VALUE as in steps=5,10,20, or seed=0..3"),
        (("bag", "--x", "steps=1,,2"), "a value between two commas is empty"),
        (("bag", "--x", "steps=1,1"), "a value is there twice"),
        (("bag", "--x", "seed=3..1"), "FIRST..LAST counts upward"),
        (("bag", "--x", "stepz=1,2"), "stepz"),
        (("bag", "--x", "prompt~cat=dog,bear"), "does not hold 'cat'"),
        (("bag", "--x", "steps=1,2", "--save-config", "c.yaml"), "--save-config: a grid is many requests"),
        (("bag", "--x", "seed=0..64", "--gif"), "--gif: a film shows 64 cells at most, and these are 65"),
        (("bag", "--x", "count=1,2"), "neither count nor several prompts can be an axis"),
        (("bag", "--x", "seed=0..99", "--y", "steps=1..99"), "9,900 cells: a sheet holds 4,096 at most"),
    ],
)
def test_refusals(cli: Callable[..., Any], model: Path, argv: tuple[str, ...], line: str) -> None:
    ran = cli("grid", *argv, "--model", model)
    assert ran.code == 2
    assert line in ran.err
    assert ran.err.count("\n") == 1
    assert not Path("out/grid/pictures").exists()


def test_film_table_and_trace(cli: Callable[..., Any], model: Path) -> None:
    """One film of the sheet, whose cells of fewer steps stay longer at each; a table and a recording a cell, of the cell's own run."""
    ran = cli("grid", "{bag|dress}", "--model", model, "--y", "steps=2,4", "--gif", "--trace", "--show-steps", "--out", "g")
    assert ran.code == 0, ran.err
    with Image.open("g/steps.gif") as film:
        assert film.n_frames == 5
    for k, steps in enumerate((2, 4, 2, 4)):
        assert Path(f"g/steps-{k:04d}.png").is_file()
        trace = Trace.open(f"g/trace-{k:04d}.safetensors")
        assert len(trace.levels) == steps + 1
        assert trace.request.prompt == (("bag", "dress")[k // 2],)


def test_cells_are_numbered_by_their_place(cli: Callable[..., Any], model: Path) -> None:
    """Also where the pictures' own numbers would run against it: no cell is written over another."""
    assert cli("grid", "bag", "--model", model, "--x", "index=2,1,0", "--out", "g").code == 0
    found = sorted(Path("g/pictures").iterdir())
    assert [p.name for p in found] == ["0000-bag.png", "0001-bag.png", "0002-bag.png"]
    for file, index in zip(found, (2, 1, 0), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), made(model, "bag", index=index)[..., 0])


def test_the_fields_of_an_edit_vary(cli: Callable[..., Any], model: Path) -> None:
    """Over a kept request, with its picture brought: each cell is that edit, and strength 0 is the picture, with no step to watch."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)).save("photo.png")
    flags = ["--model", model, "--steps", "4", "--save-config", "edit.yaml", "--strength", "0.5", "--out", "one.png"]
    assert cli("edit", "photo.png", "bag", *flags).code == 0
    argv = ["bag", "--model", model, "--config", "edit.yaml", "--x", "task.strength=0,0.5,1", "--out", "g"]
    assert "is not at hand: give its file with --input" in cli("grid", *argv).err
    ran = cli("grid", *argv, "--input", "photo.png", "--gif", "--show-steps", "--trace")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("3 pictures, 6 steps: about ")
    cells = [np.asarray(Image.open(p)) for p in sorted(Path("g/pictures").iterdir())]
    np.testing.assert_array_equal(cells[0], np.asarray(Image.open("photo.png")))
    np.testing.assert_array_equal(cells[1], np.asarray(Image.open("one.png")))
    note, alone = picture.note("g/pictures/0001-bag.png"), picture.note("one.png")
    assert note is not None and alone is not None and note.lineage == alone.lineage
    assert sorted(p.name for p in Path("g").glob("*-0*")) == [
        f"{what}-000{k}.{end}" for what, end in (("steps", "png"), ("trace", "safetensors")) for k in (1, 2)
    ]
    assert "g/steps-0001.png and on" in ran.out and Image.open("g/steps.gif").n_frames == 5


def test_sizes_are_written_as_everywhere(cli: Callable[..., Any], model: Path) -> None:
    assert cli("grid", "bag", "--model", model, "--x", "size=8,16x12", "--steps", "1", "--out", "g").code == 0
    assert [Image.open(p).size for p in sorted(Path("g/pictures").iterdir())] == [(8, 8), (12, 16)]
