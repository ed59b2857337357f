"""`safelight edit`: its flags are the tasks' fields, its files keep what is kept, and masks are read in all three conventions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safelight import picture as pictures
from safelight.cli.overrides import read

HOLE = np.zeros((20, 26), dtype=bool)
HOLE[5:15, 8:20] = True


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """photo.png, 20x26 grey, and its mask in every convention."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 26), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    Image.fromarray(np.where(HOLE, 255, 0).astype(np.uint8)).save("white.png")
    Image.fromarray(np.where(HOLE, 0, 255).astype(np.uint8)).save("black.png")
    clear = np.dstack([np.full((20, 26, 3), 90, np.uint8), np.where(HOLE, 0, 255).astype(np.uint8)])
    Image.fromarray(clear, "RGBA").save("clear.png")
    return pixels


def only(folder: Path) -> np.ndarray:
    """The one picture of a run."""
    (file,) = sorted((folder / "pictures").iterdir())
    return np.asarray(Image.open(file))


def test_strength_0_returns_the_file(cli: Callable[..., Any], model: Path, tmp_path: Path, photo: np.ndarray) -> None:
    ran = cli("edit", "photo.png", "bag", "--model", model, "--strength", "0", "--out", "o")
    assert ran.code == 0 and ran.out.startswith("1 picture of 20x26 in ") and "(no steps of ddim" in ran.out
    np.testing.assert_array_equal(only(tmp_path / "o"), photo)


def test_it_says_how_many_steps_run(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    flags = ["--model", model, "--steps", "20", "--strength", "0.3"]
    assert "6 of 20 steps" in cli("edit", "photo.png", "bag", *flags).out
    assert "(20 steps" in cli("edit", "photo.png", "bag", *flags, "--exact-steps").out


def test_the_three_conventions_of_a_mask(cli: Callable[..., Any], model: Path, tmp_path: Path, photo: np.ndarray) -> None:
    """White paints (diffusers, A1111), --invert turns it round (A1111), transparent paints (OpenAI): the same picture, kept alike."""
    found = []
    for k, flags in enumerate(
        (["--mask", "white.png"], ["--mask", "black.png", "--invert"], ["--mask", "clear.png", "--alpha"])
    ):
        ran = cli("edit", "photo.png", "bag", "--model", model, *flags, "--feather", "2", "--out", f"o{k}")
        assert ran.code == 0 and f"{100 * HOLE.mean():.3g} % of the pixels are painted" in ran.err
        found.append(only(tmp_path / f"o{k}"))
    for out in found:
        np.testing.assert_array_equal(out, found[0])
        np.testing.assert_array_equal(out[~HOLE], photo[~HOLE])
        assert (out[HOLE] != photo[HOLE]).mean() > 0.5


def test_outpainting(cli: Callable[..., Any], model: Path, tmp_path: Path, photo: np.ndarray) -> None:
    assert cli("edit", "photo.png", "bag", "--model", model, "--outpaint", "3,0,5,2", "--out", "o").code == 0
    out = only(tmp_path / "o")
    assert out.shape == (22, 34)
    np.testing.assert_array_equal(out[:20, 3:29], photo)


def test_outpainting_and_a_mask_at_once(cli: Callable[..., Any], model: Path, tmp_path: Path, photo: np.ndarray) -> None:
    flags = ["edit", "photo.png", "bag", "--model", model, "--outpaint", "3,0,5,2"]
    for mask in (["--mask", "white.png", "--save-config", "kept.yaml"], ["--mask", "black.png", "--invert"]):
        assert cli(*flags, *mask, "--out", "o.png").code == 0
        inside = np.asarray(Image.open("o.png"))[:20, 3:29]
        np.testing.assert_array_equal(inside[~HOLE], photo[~HOLE])
        assert (inside[HOLE] != photo[HOLE]).mean() > 0.5
    again = ["edit", "photo.png", "--model", model, "--config", "kept.yaml"]
    assert cli(*again, "--mask", "white.png", "--out", "again.png").code == 0
    assert np.array_equal(np.asarray(Image.open("again.png"))[:20, 3:29][~HOLE], photo[~HOLE])
    assert "--config paints a mask, which it does not hold" in cli(*again).err


def test_flags_are_fields(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    flags = [
        "--mask",
        "white.png",
        "--feather",
        "3",
        "--fill",
        "blur",
        "--only-masked",
        "4",
        "--strength",
        "0.8",
        "--fit",
        "pad",
    ]
    more = ["--resample", "3", "--sampler", "ddpm", "--set", "task.match=0", "--save-config", "kept.yaml", "--count", "2"]
    assert cli("edit", "photo.png", "bag", "--model", model, *flags, *more).code == 0
    kept = read("kept.yaml")
    wanted = {"feather": 3, "fill": "blur", "margin": 4, "strength": 0.8, "match": 0, "invert": False, "steps": "scaled"}
    assert {name: kept["task"][name] for name in wanted} == wanted and kept["task"]["fit"]["kind"] == "pad"
    assert kept["sampler"]["kind"] == "repaint" and kept["sampler"]["times"] == 3 and kept["sampler"]["inner"]["kind"] == "ddpm"
    assert (
        cli("edit", "photo.png", "--mask", "white.png", "--model", model, "--config", "kept.yaml", "--out", "again").code == 0
    )
    for a, b in zip(
        sorted((tmp_path / "out" / "edit" / "pictures").iterdir()),
        sorted((tmp_path / "again" / "pictures").iterdir()),
        strict=True,
    ):
        assert np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b)))


def test_a_picture_knows_what_it_was_made_from(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """Its note names the seals of picture and mask, and its lineage goes on through a second edit."""
    assert cli("edit", "photo.png", "bag", "--model", model, "--mask", "white.png", "--out", "one.png").code == 0
    assert cli("edit", "one.png", "bag", "--model", model, "--out", "two.png").code == 0
    from safelight.assets import seal

    pixels, _ = pictures.read("photo.png")
    first, one = pictures.read("one.png")
    _, two = pictures.read("two.png")
    assert one is not None and two is not None
    assert one.inputs == (seal(pixels), seal(pictures.read_mask("white.png"))) and two.inputs == (seal(first),)
    assert {a.seal for a in two.lineage} >= {seal(pixels), seal(first)}


def test_films_and_traces(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    ran = cli(
        "edit",
        "photo.png",
        "bag",
        "dress",
        "--model",
        model,
        "--mask",
        "white.png",
        "--gif",
        "--trace",
        "--show-steps",
        "--out",
        "o",
    )
    assert ran.code == 0
    for name in ("steps.gif", "trace.safetensors", "steps.png", "pictures.png"):
        assert (tmp_path / "o" / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--feather", "2"], "--feather needs --mask or --outpaint"),
        (["--invert"], "--invert needs --mask"),
        (["--overlap", "2"], "--overlap needs --outpaint"),
        (["--alpha"], "--alpha says how --mask is read"),
        (["--outpaint", "1,2"], "--outpaint 1,2: write LEFT,TOP,RIGHT,BOTTOM"),
        (["--outpaint", "1,0,0,0", "--invert"], "--invert has no meaning for outpainting"),
        (["--strength", "1.5"], "strength"),
        (["--mask", "absent.png"], "absent.png: No such file"),
        (["--mask", "photo.png", "--alpha"], "photo.png has no transparency"),
        (["--mask", "white.png", "--fill", "original2"], "fill"),
    ],
)
def test_refusals(cli: Callable[..., Any], model: Path, flags: list[str], line: str) -> None:
    ran = cli("edit", "photo.png", "bag", "--model", model, *flags)
    assert ran.code == 2 and line in ran.err and len(ran.err.splitlines()) == 1
    assert torch.is_grad_enabled()


def test_hints(cli: Callable[..., Any], model: Path) -> None:
    Image.new("L", (60, 60)).save("large.png")
    ran = cli("edit", "large.png", "bag", "--model", model)
    assert "hint     the picture is 60x60, the model was trained at 12x12: try --size 12x12" in ran.err
    assert "hint" not in cli("edit", "large.png", "bag", "--model", model, "--size", "12").err
    Image.new("L", (26, 20)).save("black.png")
    assert (
        "0 % of the pixels are painted; is the mask inverted?"
        in cli("edit", "photo.png", "bag", "--model", model, "--mask", "black.png").err
    )


def test_resampling_a_config_that_resamples(cli: Callable[..., Any], model: Path) -> None:
    """The steps of its own sampler are taken so many times, not those of the resampling."""
    flags = ["edit", "photo.png", "bag", "--model", model, "--mask", "white.png"]
    assert cli(*flags, "--resample", "2", "--save-config", "c.yaml", "--out", "a.png").code == 0
    assert cli(*flags, "--resample", "3", "--config", "c.yaml", "--out", "b.png").code == 0
    note = pictures.note("b.png")
    assert note is not None
    assert (note.request["sampler"]["times"], note.request["sampler"]["inner"]["kind"]) == (3, "ddim")


def test_no_step_is_nothing_to_watch_and_no_failure(cli: Callable[..., Any], model: Path, photo: np.ndarray) -> None:
    flags = ["--strength", "0", "--gif", "--show-steps", "--trace", "--out", "o"]
    ran = cli("edit", "photo.png", "bag", "--model", model, *flags)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-3:] == [f"{name:<8} none: no step was taken" for name in ("steps", "film", "trace")]
    assert [p.name for p in Path("o").iterdir()] == ["pictures"]


def test_a_config_says_what_kind_of_edit_it_is(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """Kept settings are never dropped in silence: the kind stays, a mask is asked for, another size is told."""
    flags = ["--model", model, "--steps", "3"]
    edits = {
        "invert": ["bag", "--source", "dress"],
        "outpaint": ["bag", "--outpaint", "3,0,5,2", "--overlap", "1"],
        "inpaint": ["bag", "--mask", "white.png", "--feather", "2"],
    }
    for kind, argv in edits.items():
        assert cli("edit", "photo.png", *argv, *flags, "--save-config", f"{kind}.yaml", "--out", f"{kind}.png").code == 0
    for kind in ("invert", "outpaint"):
        again = ["--model", model, "--config", f"{kind}.yaml", "--out", f"again-{kind}.png"]
        assert cli("edit", "photo.png", *again).code == 0
        assert Path(f"again-{kind}.png").read_bytes() == Path(f"{kind}.png").read_bytes()
    ran = cli("edit", "photo.png", "--model", model, "--config", "inpaint.yaml")
    assert ran.code == 2 and "--config paints a mask, which it does not hold: give its file with --mask" in ran.err
    Image.new("L", (16, 12)).save("small.png")
    assert cli("edit", "small.png", "--model", model, "--config", "outpaint.yaml", "--out", "grown.png").code == 0
    assert Image.open("grown.png").size == (24, 14)
    ran = cli("edit", "small.png", "--model", model, "--config", "invert.yaml", "--out", "s.png")
    assert ran.code == 0 and "hint     the picture is 12x16, --config makes it 20x26: --size 12x16 keeps it" in ran.err


def test_its_words_are_looked_at_too(cli: Callable[..., Any], words: Path) -> None:
    flags = ["--model", words, "--steps", "1", "--out", "a.png"]
    assert "hint     negation: " in cli("edit", "photo.png", "a cat, no dogs", *flags).err
    assert "hint" not in cli("edit", "photo.png", "a cat, no dogs", *flags, "--no-hints").err
