"""`safelight generate`: words to a picture that carries itself, with its film, table and recording; and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import safelight
from safelight import picture
from safelight.assets import seal
from safelight.draw.pixels import to_bytes
from safelight.model import save
from safelight.trace import Trace
from tests.task import toys


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_picture_with_everything(cli: Callable[..., Any], words: Path) -> None:
    """The picture is the library's, byte for byte; its file says how it was made; film, table and trace are of the same run."""
    ran = cli("generate", "a red apple", "--model", words, "--seed", 4, "--gif", "--trace", "--show-steps", "--no-hints")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("1 picture of 32x32 in ")
    assert "3 steps of dpm++2m, cfg" in ran.out
    file = Path("out/generate/pictures/0000-a-red-apple.png")
    assert f"picture  {file}" in ran.out
    pixels, note = picture.read(file)
    *_, last = safelight.generate(safelight.load(words), safelight.Request(prompt="a red apple", seed=4))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), to_bytes(last.pictures)[0])
    assert note is not None
    assert (note.request["prompt"], note.request["seed"], note.model.name) == (["a red apple"], 4, "words")
    film = Image.open("out/generate/steps.gif")
    assert film.n_frames == 4
    assert Image.open("out/generate/steps.png").height > 64
    trace = Trace.open("out/generate/trace.safetensors")
    assert (len(trace.steps), trace.branches) == (3, ["cond", "null"])
    assert torch.equal(trace.pictures, last.pictures)


def test_two_lines_of_python(words: Path) -> None:
    model = safelight.load(words)
    image = model("a red apple", seed=4)
    *_, last = safelight.generate(model, safelight.Request(prompt="a red apple", seed=4))
    np.testing.assert_array_equal(np.asarray(image), to_bytes(last.pictures)[0])
    both = model(["a cat", "a dog"], steps=2)
    assert [i.size for i in both] == [(32, 32)] * 2
    with pytest.raises(safelight.SpecError, match="stepz"):
        model("a cat", stepz=2)


def test_out_may_be_the_file(cli: Callable[..., Any], words: Path) -> None:
    assert cli("generate", "a cat", "--model", words, "--out", "cats/one.webp", "--no-hints").code == 0
    assert [p.name for p in Path("cats").iterdir()] == ["one.webp"]
    ran = cli("generate", "a cat", "--count", 2, "--model", words, "--out", "cats/two.png", "--no-hints")
    assert (ran.code, ran.err) == (
        2,
        "safelight: generate: --out cats/two.png: that is one file, and 2 pictures are asked for; name a folder\n",
    )
    assert not Path("cats/two.png").exists()


def test_no_metadata_leaves_the_picture_alone(cli: Callable[..., Any], words: Path) -> None:
    assert cli("generate", "a cat", "--model", words, "--out", "plain.png", "--no-metadata", "--no-hints").code == 0
    assert cli("generate", "a cat", "--model", words, "--out", "noted.png", "--no-hints").code == 0
    assert Image.open("plain.png").info == {}
    assert picture.note("plain.png") is None
    assert torch.equal(picture.read("plain.png")[0], picture.read("noted.png")[0])


def test_a_picture_asks_for_itself(cli: Callable[..., Any], words: Path) -> None:
    """--from takes the request of a picture; flags go over it."""
    cli("generate", "a cat", "--model", words, "--seed", 7, "--steps", 2, "--out", "a.png", "--no-hints")
    ran = cli("generate", "--from", "a.png", "--model", words, "--out", "b.png", "--no-hints")
    assert ran.code == 0, ran.err
    assert torch.equal(picture.read("a.png")[0], picture.read("b.png")[0])
    cli("generate", "--from", "a.png", "--model", words, "--seed", 8, "--out", "c.png", "--no-hints")
    assert not torch.equal(picture.read("a.png")[0], picture.read("c.png")[0])


def test_hints_are_said_and_change_nothing(cli: Callable[..., Any], words: Path) -> None:
    ran = cli("generate", "please draw a cat without a hat", "--model", words, "--out", "a.png")
    assert ran.code == 0
    assert "hint" in ran.err
    note = picture.note("a.png")
    assert note is not None
    assert note.request["prompt"] == ["please draw a cat without a hat"]


def test_hints_are_said_once_and_not_without_end(cli: Callable[..., Any], words: Path) -> None:
    flags = ["--model", words, "--steps", "1", "--out", "o"]
    ran = cli("generate", "a cat, a cat, a cat", "a cat, a cat", *flags)
    assert ran.err.count("\n") == 1 and ran.err.startswith("hint     duplicate: 'a cat' is said twice")
    ran = cli("generate", ", ".join(f"thing {k}, thing {k}" for k in range(12)), *flags)
    assert ran.err.count("\n") == 9 and ran.err.endswith("hint     and 4 more: safelight prompt check says all\n")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ((), 'say what shall be seen, as in: safelight generate "a red apple on a blue background"'),
        (("a cat", "--gif", "x.avi"), "--film x.avi: '.avi' is no film format here (.gif, .webp, .png, .apng, .mp4, .webm)"),
        (("a cat", "--size", "10x32"), "size: 10x32 is no multiple of the codec's stride 4"),
        (("a cat", "--sampler", "dimm"), "sampler: no sampler 'dimm'"),
        (("--from", "gone.png"), "gone.png"),
    ],
)
def test_refusals(cli: Callable[..., Any], words: Path, argv: tuple[str, ...], line: str) -> None:
    ran = cli("generate", *argv, "--model", words)
    assert ran.code == 2
    assert ran.err.startswith("safelight: generate: ")
    assert line in ran.err
    assert ran.err.count("\n") == 1
    assert not list(Path().glob("out/generate/pictures*"))


def test_a_text_s_picture_is_given_by_input(cli: Callable[..., Any], words: Path) -> None:
    """A parameters text with a denoising strength is followed with the picture given, which alone is then its parent."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save("photo.png")
    Path("a.txt").write_text("a red apple\nSteps: 4, Sampler: Euler, CFG scale: 2, Seed: 3, Denoising strength: 0.5")
    flags = ["--model", words, "--from", "a.txt", "--no-hints"]
    ran = cli("generate", *flags, "--input", "photo.png", "--out", "a.png")
    assert ran.code == 0 and "Denoising strength" not in ran.out and "(3 of 4 steps" in ran.out
    note = picture.note("a.png")
    assert note is not None and note.request["task"]["kind"] == "image"
    assert [a.seal for a in note.lineage] == [note.request["task"]["picture"]]
    assert "Denoising strength: 0.5 is not followed" in cli("generate", *flags, "--out", "b.png").out


def test_an_input_that_nothing_is_made_from_is_said_and_no_parent(cli: Callable[..., Any], words: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("photo.png")
    ran = cli("generate", "a cat", "--model", words, "--input", "photo.png", "--no-hints", "--out", "a.png")
    assert ran.code == 0 and "--input photo.png: nothing that is asked for is made from it" in ran.err
    note = picture.note("a.png")
    assert note is not None and note.lineage == ()


def test_an_inpainting_asks_for_itself_with_its_mask(cli: Callable[..., Any], words: Path) -> None:
    """Also with a mask that is no grey picture in its file."""
    rgb = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(rgb).save("photo.png")
    hole = np.zeros_like(rgb)
    hole[8:20, 8:20] = 255
    Image.fromarray(hole).save("mask.png")
    assert cli("edit", "photo.png", "a cat", "--model", words, "--mask", "mask.png", "--out", "a.png").code == 0
    ran = cli("generate", "--from", "a.png", "--model", words, "--input", "photo.png", "--input", "mask.png", "--out", "b.png")
    assert ran.code == 0, ran.err
    np.testing.assert_array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_a_file_that_cannot_be_written_is_no_folder(cli: Callable[..., Any], words: Path) -> None:
    ran = cli("generate", "a cat", "--model", words, "--out", "cat.bmp")
    assert ran.code == 2 and "--out cat.bmp: '.bmp' is no picture format here" in ran.err and not Path("cat.bmp").exists()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("--out", "a.png", "--gif", "a.png"), "--film a.png: another file of this run goes there"),
        (("--out", "a.png", "--trace", "sub/../a.png"), "another file of this run goes there"),
        (("--out", "a.png", "--show-steps", "--save-config", "a-steps.png"), "another file of this run goes there"),
        (("--out", "o", "--gif", "o/pictures/0000-a-cat.png"), "another file of this run goes there"),
        (("--out", "o", "--count", "2", "--gif", "o/pictures.png"), "another file of this run goes there"),
        (("--trace", "folder"), "--trace folder: that is a folder; name a file"),
        (("--save-config", "words.txt/c.yaml"), "words.txt"),
        (("--out", "a.png", "--format", "jpg"), "--format jpg: --out a.png names a file of another format"),
        (("--set", "mix=none", "--guidance", "4"), "--guidance 4: the mix of --set, 'none', has no strength"),
    ],
)
def test_what_would_be_lost_is_refused_before_the_work(
    cli: Callable[..., Any], words: Path, argv: tuple[str, ...], line: str
) -> None:
    """Two files in one place, a flag that would do nothing: nothing is made."""
    Path("folder").mkdir()
    Path("words.txt").write_text("")
    ran = cli("generate", "a cat", "--model", words, *argv)
    assert (ran.code, ran.out) == (2, "") and line in ran.err and ran.err.count("\n") == 1
    assert not [p for p in Path().rglob("*") if p.is_file() and p.name != "words.txt"]


def test_a_picture_is_not_written_over_what_it_is_made_from(cli: Callable[..., Any], words: Path) -> None:
    flags = ["--model", words, "--steps", "1", "--no-hints"]
    assert cli("generate", "a cat", *flags, "--out", "a.png").code == 0
    before = Path("a.png").read_bytes()
    for argv in (["generate", "--from", "a.png", "--seed", "1"], ["edit", "a.png", "a cat"], ["vary", "a.png", "--count", "1"]):
        ran = cli(*argv, *flags, "--out", "a.png")
        assert ran.code == 2 and "a.png is what the picture is made from and would be written over" in ran.err
    assert cli("edit", "a.png", "a cat", *flags).code == 0  # the default place, which a second edit would come to again
    made = "out/edit/pictures/0000-a-cat.png"
    assert cli("edit", made, "a cat", *flags).code == 2
    assert cli("edit", made, "a cat", *flags, "--out", "b.png").code == 0
    assert Path("a.png").read_bytes() == before


def test_flags_and_words_come_in_any_order(cli: Callable[..., Any], words: Path) -> None:
    assert cli("generate", "--model", words, "a cat", "--steps", "1", "a dog", "--out", "o", "--no-hints").code == 0
    assert sorted(p.name for p in Path("o/pictures").iterdir()) == ["0000-a-cat.png", "0001-a-dog.png"]
    assert cli("edit", "o/pictures/0000-a-cat.png", "--steps", "1", "a dog", "--model", words, "--out", "e.png").code == 0
    note = picture.note("e.png")
    assert note is not None and note.request["prompt"] == ["a dog"]


def test_guidance_of_another_mix(cli: Callable[..., Any], words: Path) -> None:
    """--guidance is the strength of the mix that --set asks for, too, unless that says its own; of none, 1 is none."""
    for setting, guidance, wanted in (
        ("mix=perpendicular", "4", ("perpendicular", 4.0)),
        ("mix={kind: cfg, scale: 5}", "4", ("cfg", 5.0)),
        ("mix.rescale=0.5", "4", ("cfg", 4.0)),
        ("mix=none", "1", ("none", None)),
    ):
        flags = ["--set", setting, "--guidance", guidance, "--steps", "1", "--no-hints", "--out", "a.png"]
        assert cli("generate", "a cat", "--model", words, *flags).code == 0
        note = picture.note("a.png")
        assert note is not None and (note.request["mix"]["kind"], note.request["mix"].get("scale")) == wanted


def test_guidance_1_is_none_for_a_model_of_no_words(cli: Callable[..., Any]) -> None:
    save("silent.safetensors", toys.model())
    assert cli("sample", "silent.safetensors", "--guidance", "1", "--steps", "1", "--count", "1", "--out", "a.png").code == 0
    ran = cli("sample", "silent.safetensors", "--guidance", "2", "--steps", "1", "--count", "1", "--out", "b.png")
    assert ran.code == 2 and "guidance 'cfg' has nothing to guide by" in ran.err


def test_a_task_of_set_is_asked_for_its_size_and_sampler(cli: Callable[..., Any], words: Path) -> None:
    """What the verb's own task would have taken does not stick to another one."""
    pixels = torch.randint(0, 256, (3, 16, 40), dtype=torch.uint8)
    picture.write("photo.png", pixels)
    task = f"task={{kind: invert, picture: '{seal(pixels)}'}}"
    flags = ["--model", words, "--input", "photo.png", "--steps", "2", "--no-hints"]
    assert cli("generate", "a cat", *flags, "--set", task, "--out", "a.png").code == 0
    note = picture.note("a.png")
    assert note is not None and (note.request["size"], note.request["sampler"]["kind"]) == ([16, 40], "ddim")
    flags = ["--model", words, "--steps", "1", "--outpaint", "4,0,0,0", "--set", "task.margins=[0,8,0,0]"]
    ran = cli("edit", "photo.png", "a cat", *flags, "--out", "b.png")
    assert ran.code == 0, ran.err
    assert picture.read("b.png")[0].shape == (3, 24, 40)
