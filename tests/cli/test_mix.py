"""`safelight mix`: the table says what the task reports, pictures are named by file, and what was painted is made again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import safelight
from safelight import picture as pictures
from safelight.assets import Assets, seal
from safelight.cli.overrides import read
from safelight.draw.pixels import to_bytes
from safelight.model import save
from safelight.shared import gap
from safelight.task.mix import Mix
from safelight.text import joint as joints
from tests.task import paired, toys, worded


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8x8 that reads words."""
    path: Path = tmp_path_factory.mktemp("words") / "words.safetensors"
    save(path, worded.words())
    return path


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joint model that knows scenes of four things."""
    path: Path = tmp_path_factory.mktemp("joint") / "toy.safetensors"
    joints.save(path, paired.knowing())
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures of the pair's size, one of them with a name that has to be quoted."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("photo.png", "my other.png")):
        Image.fromarray(toys.noise((8, 8), seed=k).numpy()).save(name)


def only(folder: str) -> np.ndarray:
    """The one picture of a run."""
    (file,) = (Path(folder) / "pictures").iterdir()
    return np.asarray(Image.open(file))


def made(model: Path, **fields: Any) -> np.ndarray:
    """What the library makes of a request, as bytes."""
    found = toys.finished(safelight.load(model), safelight.Request(**fields))
    return to_bytes(found)[0, ..., 0]


def rows(out: str) -> list[list[str]]:
    """The cells of a table's lines."""
    return [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]


def test_the_table_is_the_report_of_the_task(cli: Callable[..., Any], model: Path) -> None:
    expression = '"a red cat" - 0.5 * "a cat" + "a dog"'
    ran = cli("mix", expression, "--model", model, "--report")
    assert (ran.code, ran.err) == (0, "") and not Path("out").exists()
    said = Mix(expression=expression).report(safelight.load(model), Assets())
    space, head, *terms, total = rows(ran.out)[:6]
    assert space == ["space", "words of the model"] and head == ["weight", "operand", "length", "of a token", "cosine"]
    assert total == ["=", expression, f"{said.length:.3f}", f"{said.state:.3f}"]
    for cells, row in zip(terms, said.rows, strict=True):
        assert cells == [f"{row.weight:+g}", row.operand, f"{row.length:.3f}", f"{row.state:.3f}", f"{row.cosine:+.3f}"]
    assert (
        rows(ran.out)[6:] == [["nearest words"], *([f"{n.cosine:+.3f}", n.what] for n in said.words)] and len(said.words) == 5
    )
    assert [cells[:2] for cells in terms] == [["+1", '"a red cat"'], ["-0.5", '"a cat"'], ["+1", '"a dog"']]


def test_the_sum_is_painted(cli: Callable[..., Any], model: Path) -> None:
    """What cancels leaves the picture of the words alone; a single word, and lengths set free, are fields of the task."""
    flags = ["--model", model, "--steps", "3", "--seed", "4"]
    ran = cli("mix", '"a cat" + "b" - "b"', *flags, "--out", "a")
    assert (ran.code, ran.err) == (0, "") and "1 picture of 8x8" in ran.out
    np.testing.assert_array_equal(only("a"), made(model, prompt=("a cat",), steps=3, seed=4))
    expression = '"a red cat"[red] - "red" + 2 * "blue"'
    assert cli("mix", expression, *flags, "--free-lengths", "--out", "b", "--save-config", "b.yaml").code == 0
    task = Mix(expression=expression, lengths=False)
    np.testing.assert_array_equal(only("b"), made(model, task=task, steps=3, seed=4))
    assert read("b.yaml")["task"]["lengths"] is False
    kept = made(model, task=task.model_copy(update={"lengths": True}), steps=3, seed=4)
    assert (kept != only("b")).any()


def test_in_a_joint_space_the_best_of_the_captions_is_painted(cli: Callable[..., Any], model: Path, joint: Path) -> None:
    flags = ["--model", model, "--joint", joint, "--steps", "3", "--captions", "a dog", "a cat", "a star"]
    ran = cli("mix", '"a cat" + "a dog" - "a banana"', *flags, "--neighbours", "2", "--out", "a")
    assert (ran.code, ran.err) == (0, "")
    first, second = re.findall(r"^  ([+-]\d\.\d{3})  (a .*)$", ran.out, re.MULTILINE)
    assert float(first[0]) >= float(second[0]) and {first[1], second[1]} <= {"a dog", "a cat", "a star"}
    np.testing.assert_array_equal(only("a"), made(model, prompt=(first[1],), steps=3))
    (file,) = Path("a/pictures").iterdir()
    note = pictures.note(file)
    assert note is not None and note.request["task"]["captions"] == [first[1]]


def test_pictures_are_named_by_their_files(cli: Callable[..., Any], model: Path, joint: Path) -> None:
    """In the table by file, in what is kept by seal; nearest pictures among those given; begun from the picture at a strength."""
    flags = ["--model", model, "--joint", joint, "--captions", "a dog", "a cat"]
    ran = cli("mix", 'photo.png - "a cat" + photo.png', *flags, "--among", "my other.png", "photo.png", "--report")
    assert (ran.code, ran.err) == (0, "") and "sha256" not in ran.out
    assert ["+2", "photo.png"] in [cells[:2] for cells in rows(ran.out)]
    assert ran.out.splitlines()[0].endswith(f", texts and pictures {gap(joints.load(joint)).distance:.3f} apart")
    near = ran.out.split("nearest pictures\n")[1].splitlines()
    assert [re.split(r"\s{2,}", line.strip())[1] for line in near] == ["photo.png", "my other.png"]
    assert float(near[0].split()[0]) > float(near[1].split()[0])

    expression = '@"my other.png" - "a cat" + "a dog"'
    assert cli("mix", expression, *flags, "--strength", "0", "--out", "a", "--save-config", "a.yaml").code == 0
    np.testing.assert_array_equal(only("a"), np.asarray(Image.open("my other.png")))
    name = seal(pictures.read("my other.png")[0])
    assert read("a.yaml")["task"]["expression"] == f'{name} - "a cat" + "a dog"'


def test_what_a_mix_made_is_made_again(cli: Callable[..., Any], model: Path, joint: Path) -> None:
    """In its own words, and from a picture in a joint space that was searched for its caption: of both every byte."""
    own = ["--model", model, "--steps", "3"]
    assert cli("mix", '"a cat" - 0.5 * "a dog"', *own, "--count", "2", "--out", "a").code == 0
    ran = cli("reproduce", "a/pictures/0001.png", "--model", model)
    assert ran.code == 0 and "identical: every byte of the pixels and of the file" in ran.out, ran
    Path("folder").mkdir()
    shared = [*own, "--joint", joint, "--strength", "0.6", "--out", "b.png"]
    assert cli("mix", 'photo.png - "a cat" + "a dog"', *shared).code == 0
    ran = cli("reproduce", "b.png", "--model", model, "--model", joint)  # photo.png lies beside it
    assert ran.code == 0 and "identical: every byte of the pixels and of the file" in ran.out, ran
    Path("photo.png").rename(Path("folder") / "renamed.png")
    ran = cli("reproduce", "b.png", "--model", model, "--model", joint)
    assert ran.code == 2 and "--input" in ran.err, ran
    assert cli("reproduce", "b.png", "--model", model, "--model", joint, "--input", "folder/renamed.png").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (['"a" +'], "character 6: a text in quotes, a picture or a number is missing at the end"),
        (["cat"], 'character 1: texts are written in quotes: "cat"'),
        (['"a" - "a"'], "everything in it cancels"),
        (['photo.png + "a"'], "is a picture: name a joint model"),
        (['nowhere.png + "a"', "--joint", "JOINT"], "nowhere.png"),
        (['sha256:0a + "a"', "--joint", "JOINT"], "sha256:0a: here a picture is named by its file"),
        (['"a b"[c]'], "'c' is no word of 'a b'"),
        (['"a b"[b]', "--joint", "JOINT"], "a joint model sees texts as a whole"),
        (['"a"', "--captions", "b"], "captions are chosen among in a joint model's space"),
        (['"a"', "--strength", "0.5"], "begins from a picture of the expression, and it adds none"),
        (['"a"', "--strength", "2"], "strength"),
        (['"a"', "--among", "photo.png"], "--among: pictures are compared in a joint model's space"),
        (['"a"', "--neighbours", "0"], "--neighbours 0: at least 1"),
        (['"a"', "--joint", "sprites-clop"], "sprites-clop"),
        (['"a"', "--set", "task={kind: text}"], "the task 'text', which has no expression"),
        (['photo.png + "a"', "--joint", "JOINT", "--out", "photo.png"], "photo.png"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str], message: str, cli: Callable[..., Any], model: Path, joint: Path
) -> None:
    before = Path("photo.png").read_bytes()
    ran = cli("mix", *(joint if a == "JOINT" else a for a in arguments), "--model", model, "--steps", "2")
    assert ran.code == 2 and message in ran.err and ran.err.count("\n") == 1, ran
    assert Path("photo.png").read_bytes() == before


def test_an_unconditional_model_has_no_words(cli: Callable[..., Any], tmp_path: Path) -> None:
    save(tmp_path / "mute.safetensors", toys.model())
    ran = cli("mix", '"a"', "--model", "mute.safetensors")
    assert ran.code == 2 and "unconditional" in ran.err
