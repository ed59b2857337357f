"""`safelight evaluate`: a classifier is trained, a model measured, its kept pictures measured again with the same result."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from safelight.cli.main import main
from safelight.model import ModelSpec, save
from safelight.spec import parse

NAMES = ("bar", "column")


def idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train and test pictures of two classes as IDX files, a trained classifier, and an untrained model."""
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    for split, name, n in (("train", "train", 400), ("test", "t10k", 120)):
        (folder / split).mkdir()
        x, y = random.integers(0, 90, (n, 12, 12)), np.arange(n) % 2
        for i, at in enumerate(random.integers(0, 12, n)):
            x[(i, slice(None), at) if y[i] else (i, at)] = 220
        idx(folder / split / f"{name}-images-idx3-ubyte.gz", x)
        idx(folder / split / f"{name}-labels-idx1-ubyte.gz", y)
    data = ["--train", str(folder / "train"), "--test", str(folder / "test")]
    code = main(["evaluate", "classifier", *data, "--epochs", "4", "--name", "bars", "--out", str(folder / "eye.safetensors")])
    assert code == 0
    network = {"kind": "unet", "widths": [8], "depth": 1, "skips": 2, "cond": 8, "time": 16, "attention": []}
    network |= {"middle": {"kind": "full-attention", "head_width": 8}, "norm": {"kind": "group-norm", "groups": 4}}
    model = {"network": network | {"embedding": {"kind": "sinusoid", "width": 8}}, "process": "cosine", "parameterization": "v"}
    model |= {"text": {"kind": "label", "names": ["0", "1"], "width": 8}, "size": [12, 12]}
    spec = parse(model, "model")
    assert isinstance(spec, ModelSpec)
    torch.manual_seed(0)
    save(folder / "model.safetensors", spec.build())
    return folder


def quality(world: Path, model: Path, out: Path, *more: str) -> int:
    data = ["--train", str(world / "train"), "--test", str(world / "test"), "--classifier", str(world / "eye.safetensors")]
    return main(["evaluate", "quality", str(model), *data, "--out", str(out), *more])


def test_from_a_model_to_its_card_and_back_from_its_pictures(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    more = ["--count", "40", "--steps", "2", "--guidance", "1.5", "--micro-batch", "7", "--seed", "3", "--keep"]
    assert quality(world, world / "model.safetensors", first, *more) == 0
    printed = capsys.readouterr().out
    result = json.loads((first / "result.json").read_text())
    made = result["made"]
    assert (made["guidance"], made["steps"], made["seed"], made["weights"]) == (1.5, 2, 3, "raw")
    assert result["pictures"]["generated"] == 40
    assert result["frechet"]["name"] == "FD-bars"
    assert (first / "card.md").read_text() in printed
    assert {p.name for p in first.iterdir()} == {"result.json", "card.md", "samples.png", "copies.png", "pictures"}
    assert main(["evaluate", "card", str(first / "result.json")]) == 0
    assert capsys.readouterr().out.strip() == (first / "card.md").read_text().strip()
    # An offline look at the same pictures gives the same numbers: nothing depends on how they came here.
    assert quality(world, first / "pictures", tmp_path / "second", "--seed", "3") == 0
    again = json.loads((tmp_path / "second" / "result.json").read_text())
    assert again["made"]["source"] == "folder"
    assert again["recognised"] == result["recognised"]
    assert again["frechet"]["value"] == pytest.approx(result["frechet"]["value"], rel=1e-5)
    assert again["kernel"]["value"] == pytest.approx(result["kernel"]["value"], rel=1e-4)
    assert again["copies"]["pixels"] == result["copies"]["pixels"]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--count", "41"], "split evenly"),
        (["--sampler", "ddimm"], "did you mean 'ddim'"),
        (["--train", "/nowhere/at/all"], "no such file"),
        (["--classifier", "/nowhere.safetensors"], "there is no classifier"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], word: str
) -> None:
    assert quality(world, world / "model.safetensors", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_result_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("a.json", "{}"), ("b.json", "not json"), ("c.json", "[1]")):
        (tmp_path / name).write_text(text)
        assert main(["evaluate", "card", str(tmp_path / name)]) == 2
        assert "no result" in capsys.readouterr().err
