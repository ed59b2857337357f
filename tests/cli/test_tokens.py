"""`safelight tokens`: samples as texts and as a sheet, the bound against what it is of, and what cannot be done in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from safelight import model as files
from safelight.cli.main import main
from safelight.discrete import Tokens, TokensSpec
from safelight.discrete.alphabet import Characters, Grey
from safelight.nn.tokens import TokenTransformerSpec

SMALL = TokenTransformerSpec(width=8, depth=1, heads=2)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A model that says a letter as often as its bias has it: e, t and a blank alike, no other."""
    model: Tokens = TokensSpec(network=SMALL, alphabet=Characters(symbols=" etx"), size=(1, 16), steps=8).build()
    with torch.no_grad():
        model.network.last.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -50.0]))
    path = tmp_path / "letters.safetensors"
    files.save(path, model)
    return path


def test_texts_are_printed_and_kept(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "said.txt"
    assert main(["tokens", "sample", str(text), "--count", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert out.read_text() == said and [len(line) for line in lines] == [16] * 3 and set("".join(lines)) == set(" et")
    assert main(["tokens", "sample", str(text), "--count", "1", "--show-steps", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == lines[0]  # a sample is the same alone
    way = [line.split("  ", 1)[1] for line in shown[:-1]]
    assert len(way) == 7 and [line.count("_") for line in way] == sorted((line.count("_") for line in way), reverse=True)
    assert all(a in ("_", b) for line in way for a, b in zip(line, shown[-1], strict=True))


def test_the_bound_is_that_of_the_model(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three letters with even chances cost log2 3 bits, whatever the text of them."""
    data, out = tmp_path / "data.txt", tmp_path / "bound.json"
    data.write_text("et te tete  tt e" * 800)
    command = ["tokens", "bound", str(text), "--data", str(data), "--count", "30", "--draws", "64", "--out", str(out)]
    assert main(command) == 0
    found = json.loads(out.read_text())
    assert abs(found["bits"] - math.log2(3)) < 4 * found["error"] < 0.15 and found["tokens"] == 16 and found["prior"] == 0
    assert found["bits"] == pytest.approx(found["first"] + found["middle"])
    assert found["alone"] > found["paired"] > 0
    assert "bits a character" in capsys.readouterr().out


def test_pictures_make_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = TokensSpec(network=SMALL, alphabet=Grey(levels=4), size=(4, 4), steps=8).build()
    files.save(tmp_path / "grey.safetensors", model)
    out = tmp_path / "made.png"
    assert (
        main(["tokens", "sample", str(tmp_path / "grey.safetensors"), "--show-steps", "--out", str(out), "--temperature", "0"])
        == 0
    )
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as sheet, Image.open(tmp_path / "made-steps.png") as steps:
        assert sheet.width < steps.width  # 4 pictures, and 4 by 8 moments
        assert (86, 120, 180) in {colour for _, colour in steps.convert("RGB").getcolors(1 << 20)}


def test_what_cannot_be_done_is_one_line(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, why in (
        (["sample", "fashion-mnist"], "holds no 'tokens' but a 'model'"),
        (["sample", str(text), "--out", "a.png"], "samples of this model are written as .txt"),
        (["sample", str(text), "--temperature", "-1"], "temperature: at least 0"),
        (["sample", str(text), "--count", "0"], "at least 1"),
        (["sample", str(text), "--steps", "0"], "steps: at least 1 is needed"),
        (["bound", str(text)], "--data: say on what"),
    ):
        assert main(["tokens", *command]) == 2
        error = capsys.readouterr().err
        assert why in error and "Traceback" not in error and len(error.strip().splitlines()) == 1
    assert main(["inspect", str(text)]) == 0
    assert "token-transformer" in capsys.readouterr().out
    assert main(["sample", str(text)]) == 2
    assert "its verb is: safelight tokens" in capsys.readouterr().err
