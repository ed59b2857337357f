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
from safelight.codec.kl import KLSpec
from safelight.draw.pixels import to_bytes
from safelight.model import ModelSpec, save
from safelight.nn.attention import NoAttention, TransformerSpec
from safelight.text.clip import CLIPTextSpec
from safelight.trace import Trace
from tests.train import tiny


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent model of words, 32x32, untrained but for a last layer that is not zero."""
    network = tiny.network(0.0, cond=16).model_copy(
        update={
            "channels": 4,
            "context": 16,
            "attention": (TransformerSpec(head_width=8, norm=tiny.network().norm),),
            "middle": NoAttention(),
        }
    )
    spec = ModelSpec(
        network=network,
        process="flow",
        parameterization="velocity",
        codec=KLSpec(latents=4, widths=(8, 16), blocks=1),
        text=CLIPTextSpec(width=16, layers=1, heads=2, causal=False),
        channels=3,
        size=(32, 32),
        defaults={"steps": 3, "sampler": "dpm++2m", "mix": {"kind": "cfg", "scale": 3}},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = spec.build()
    path: Path = tmp_path_factory.mktemp("words") / "words.safetensors"
    save(path, built)
    return path


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


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ((), 'say what shall be seen, as in: safelight generate "a red apple on a blue background"'),
        (("a cat", "--gif", "x.mp4"), "--film x.mp4: '.mp4' is no film format here (.gif, .webp, .png, .apng)"),
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
    assert ran.code == 0 and "Denoising strength" not in ran.out and "(2 of 4 steps" in ran.out
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
