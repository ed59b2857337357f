"""`safelight morph`: its ends are what the model makes of them alone, and its film and strip show the frames as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import safelight
from safelight import picture
from safelight.draw.pixels import to_bytes
from safelight.draw.reel import reel
from safelight.model import save
from safelight.spec import SpecError
from tests import small


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8x8 whose classes look unlike each other."""
    path: Path = tmp_path_factory.mktemp("listening") / "listening.safetensors"
    save(path, small.listening())
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def files(folder: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(p)) for p in sorted((Path(folder) / "pictures").iterdir())]


def made(model: Path, **fields: Any) -> list[np.ndarray]:
    """What the library makes, as bytes."""
    events = safelight.generate(safelight.load(model), safelight.Request(micro_batch=1, **fields))
    return [to_bytes(e.pictures)[0, ..., 0] for e in events if hasattr(e, "pictures")]


def film(path: str) -> tuple[list[np.ndarray], list[int]]:
    """The pages of a film, and how long each is shown."""
    pages, durations = [], []
    with Image.open(path) as shown:
        for k in range(shown.n_frames):
            shown.seek(k)
            pages.append(np.asarray(shown.convert("L")))
            durations.append(shown.info["duration"])
    return pages, durations


def test_words_to_words(cli: Callable[..., Any], model: Path) -> None:
    """The first and the last frame are those prompts' own pictures, and every page of the film is a frame, enlarged."""
    ran = cli("morph", "bag", "shoe", "--model", model, "--frames", "6", "--micro-batch", "1", "--seed", "3", "--out", "m")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("6 pictures of 8x8") and ran.out.splitlines()[-2:] == [
        "strip    m/strip.png",
        "film     m/morph.gif",
    ]
    frames = files("m")
    assert len(frames) == 6
    for k, word in ((0, "bag"), (5, "shoe")):
        np.testing.assert_array_equal(frames[k], made(model, prompt=(word,), seed=3)[0])
    pages, durations = film("m/morph.gif")
    scale = pages[0].shape[0] // 8
    # Equal neighbours are one page in a GIF, shown longer; the ends stay half a second more.
    shown = [page for page, time in zip(pages, durations, strict=True) for _ in range(time // 500)]
    for page, frame in zip(shown, [frames[0], *frames, frames[-1]], strict=True):
        np.testing.assert_array_equal(page, np.kron(frame, np.ones((scale, scale), np.uint8)))


def test_seeds_and_back(cli: Callable[..., Any], model: Path) -> None:
    """One prompt with three seeds is a path of three ends; --back appends the way back without its ends."""
    flags = ["--seeds", "1,2,1", "--frames", "5", "--micro-batch", "1", "--back", "--gif", "loop.webp", "--seconds", "1"]
    assert cli("morph", "shoe", "--model", model, *flags, "--out", "m").code == 0
    frames = files("m")
    np.testing.assert_array_equal(frames[0], frames[4])
    for k, seed in ((0, 1), (2, 2)):
        np.testing.assert_array_equal(frames[k], made(model, prompt=("shoe",), seed=seed)[0])
    pages, durations = film("loop.webp")
    assert len(pages) == 8 and sum(durations) == 8 * 200 + 2 * 500
    np.testing.assert_array_equal(pages[5], pages[3])


def test_pictures(cli: Callable[..., Any], model: Path) -> None:
    """Pictures of ours come back exactly, by their words and noise and with their settings; any other nearly, by inversion."""
    flags = ["--steps", "12", "--guidance", "1.5", "--micro-batch", "1"]
    assert cli("sample", model, "-p", "bag", "-p", "shoe", "--count", "1", "--seed", "2", *flags, "--out", "s").code == 0
    bag, shoe = files("s")
    ends = ["s/pictures/0000-bag.png", "s/pictures/0001-shoe.png"]
    ran = cli("morph", *ends, "--model", model, "--frames", "4", "--micro-batch", "1", "--out", "m")
    assert (ran.code, ran.err) == (0, "") and "12 steps of" in ran.out
    frames = files("m")
    np.testing.assert_array_equal(frames[0], bag)
    np.testing.assert_array_equal(frames[3], shoe)
    note = picture.note("m/pictures/0002.png")
    assert note is not None and len(note.lineage) == 2 and note.inputs == ()
    Image.fromarray(shoe).save("photo.png")
    ran = cli("morph", ends[0], "photo.png", "--model", model, "--frames", "3", "--out", "n")
    assert ran.code == 0, ran.err
    assert np.abs(files("n")[2].astype(int) - shoe).mean() < 3
    ran = cli("vary", "m/pictures/0001.png", "--model", model, "--count", "2", "--out", "v")
    assert ran.code == 0 and "ddim, none" in ran.out, ran.err  # a frame has no noise of its own: it is inverted
    assert cli("reproduce", "n/pictures/0001.png", "--model", model, "--input", "photo.png").code == 0


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["bag"], 'a path needs two ends at least, as in: safelight morph "a cat" "a dog"'),
        (["bag", "shoe", "--frames", "1"], "--frames 1: a path has both its ends, so 2 at least"),
        (["bag", "shoe", "--seeds", "1,2,3"], "--seeds: 3 seeds for 2 ends"),
        (["bag", "shoe", "--seeds", "a"], "--seeds a: write whole numbers divided by commas"),
        (["bag", "shoe", "--gif", "a.avi"], "--gif a.avi: '.avi' is no film format here"),
        (["bag", "shoe", "--count", "3"], "--count and --index are for pictures of one kind"),
        (["bag", "shue"], "no class 'shue'"),
    ],
)
def test_refusals(flags: list[str], line: str, cli: Callable[..., Any], model: Path) -> None:
    ran = cli("morph", *flags, "--model", model)
    assert ran.code == 2 and line in ran.err and ran.err.count("\n") == 1


def test_a_reel_refuses_what_is_no_film() -> None:
    frames = np.zeros((3, 1, 4, 4), np.uint8)
    for args, line in (((frames[:1],), "needs two of them"), ((frames,), "no film format")):
        with pytest.raises(SpecError, match=line):
            reel("x.gif" if len(args[0]) == 1 else "x.avi", *args)
    with pytest.raises(SpecError, match="seconds > 0"):
        reel("x.gif", frames, seconds=0)


def test_a_file_that_is_missing_is_no_prompt(cli: Callable[..., Any], model: Path) -> None:
    """And words longer than any file's name are words."""
    ran = cli("morph", "apples.png", "bag", "--model", model)
    assert ran.code == 2 and "apples.png: No such file" in ran.err
    ran = cli("morph", "a " * 200, "bag", "--model", model)
    assert ran.code == 2 and "no class 'a a a" in ran.err


def test_a_picture_with_a_further_model(cli: Callable[..., Any], model: Path) -> None:
    """Morphed by its own words and noise where that model is given too; by inversion its words are enough."""
    shutil.copy(model, "weak.safetensors")
    flags = ["--model", model, "--steps", "2"]
    mix = "mix={kind: autoguidance, weak: weak.safetensors:raw}"
    assert cli("generate", "bag", *flags, "--set", mix, "--out", "a.png").code == 0
    ran = cli("morph", "a.png", "shoe", *flags, "--model", "weak.safetensors", "--frames", "2", "--out", "m")
    assert ran.code == 0, ran.err
    np.testing.assert_array_equal(files("m")[0], np.asarray(Image.open("a.png")))


def test_a_config_is_the_same_path(cli: Callable[..., Any], model: Path) -> None:
    """With its ends, frames, ease and way of words; a flag goes over it, and pictures have to be brought again."""
    flags = ["--frames", "4", "--ease", "smooth", "--words", "straight", "--micro-batch", "1", "--save-config", "kept.yaml"]
    assert cli("morph", "bag", "shoe", "--model", model, *flags, "--out", "a").code == 0
    assert cli("morph", "--config", "kept.yaml", "--model", model, "--out", "b").code == 0
    for a, b in zip(files("a"), files("b"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert Path("a/strip.png").read_bytes() == Path("b/strip.png").read_bytes()
    assert cli("morph", "shoe", "bag", "--config", "kept.yaml", "--frames", "3", "--model", model, "--out", "c").code == 0
    note = picture.note("c/pictures/0000.png")
    assert note is not None and note.count == 3
    task = note.request["task"]
    assert (task["ease"], task["words"], [end["prompt"] for end in task["ends"]]) == ("smooth", "straight", ["shoe", "bag"])
    Image.fromarray(files("a")[0]).save("photo.png")
    flags = ["--frames", "2", "--save-config", "two.yaml"]
    assert cli("morph", "photo.png", "shoe", "--model", model, *flags, "--out", "d").code == 0
    ran = cli("morph", "--config", "two.yaml", "--model", model)
    assert ran.code == 2 and "--config: its ends are pictures, which it does not hold: name them again" in ran.err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--seconds", "0"], "--seconds 0: a film lasts more than 0"),
        (["--seconds", "nan"], "--seconds nan: a film lasts more than 0"),
        (["--seed", "1", "--seeds", "1,2"], "--seeds gives each end its seed; leave --seed out"),
        (["--model", "other.safetensors"], "--model: one is enough"),
        (["--out", "m", "--gif", "m/strip.png"], "m/strip.png: another file of this run goes there"),
    ],
)
def test_what_would_be_lost_is_refused_before_the_work(
    flags: list[str], line: str, cli: Callable[..., Any], model: Path
) -> None:
    ran = cli("morph", "bag", "shoe", *flags, "--model", model)
    assert (ran.code, ran.out) == (2, "") and line in ran.err and ran.err.count("\n") == 1


def test_the_words_of_its_ends_are_looked_at(cli: Callable[..., Any], words: Path) -> None:
    flags = ["--frames", "2", "--steps", "1", "--model", words]
    ran = cli("morph", "a cat", "a dog without a hat", *flags)
    assert ran.code == 0 and ran.err.count("\n") == 1 and "hint     negation: 'without a hat'" in ran.err


def test_frames_where_they_are_wanted(cli: Callable[..., Any], model: Path) -> None:
    """`--at` makes the frames at its places, keeps them with the request, and says what does not go with it."""
    ran = cli(
        "morph",
        "bag",
        "shoe",
        "--model",
        model,
        "--at",
        "0,0.25,1",
        "--micro-batch",
        "1",
        "--out",
        "m",
        "--save-config",
        "m.yaml",
    )
    assert (ran.code, ran.err) == (0, "")
    ends = [{"prompt": "bag"}, {"prompt": "shoe"}]
    wanted = made(model, task={"kind": "interpolate", "ends": ends, "at": [0, 0.25, 1]}, count=3)
    for got, want in zip(files("m"), wanted, strict=True):
        assert (got == want).all()
    again = cli("morph", "--config", "m.yaml", "--model", model, "--micro-batch", "1", "--out", "n")
    assert again.code == 0 and len(files("n")) == 3
    for got, want in zip(files("n"), wanted, strict=True):
        assert (got == want).all()
    even = cli("morph", "--config", "m.yaml", "--frames", "5", "--model", model, "--out", "e")
    assert even.code == 0 and len(files("e")) == 5
    for flags, why in (
        (["--at", "0,1", "--frames", "4"], "leave --frames and --ease out"),
        (["--at", "0,x"], "divided by commas"),
        (["--at", "0.5,0.2"], "ascend"),
    ):
        ran = cli("morph", "bag", "shoe", "--model", model, *flags, "--out", "x")
        assert ran.code != 0 and why in ran.err
