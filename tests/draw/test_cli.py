"""`safelight noise` and `safelight plot`: files where they were asked for, or one line and nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from safelight.cli.main import main


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.effect_mandelbrot((20, 16), (-2, -1, 1, 1), 30).save(path)
    return path


def test_a_strip_of_any_picture(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "strip.png"
    table = '{"kind": "linear", "T": 200}'
    assert (
        main(["noise", str(picture), "--process", "cosine", "--process", table, "--times", "0,0.5,1", "--out", str(out)]) == 0
    )
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as image:
        assert image.mode == "L"
        assert image.size[1] > 2 * 16 * 6
    large = tmp_path / "large.png"
    Image.new("RGB", (600, 300), (200, 40, 0)).save(large)
    assert main(["noise", str(large), "--size", "100", "--times", "0,1", "--out", str(out), "--dark"]) == 0
    with Image.open(out) as image:
        assert image.mode == "RGB"
        assert image.size[0] < 600


def test_plots(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": s, "train/loss": 1 / s, "lr": 1e-3}) + "\n" for s in range(1, 9)))
    assert main(["plot", "schedule", "linear", "cosine", "--out", str(tmp_path / "s.svg")]) == 0
    assert "<svg" in (tmp_path / "s.svg").read_text()
    assert (
        main(["plot", "grid", "--grid", "karras", "--grid", "uniform", "--steps", "7", "--out", str(tmp_path / "g.png")]) == 0
    )
    assert main(["plot", "loss", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "s.svg", "g.png", "loss.png"}


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (["noise", "{folder}/none.png"], "No such file"),
        (["noise", "{folder}/text.png"], "not a picture"),
        (["noise", "{folder}/cut.png"], "cannot be decoded"),
        (["noise", "{picture}", "--times", "0,2"], "[0, 1]"),
        (["noise", "{picture}", "--times", "a"], "--times"),
        (["noise", "{picture}", "--process", "cosin"], "did you mean 'cosine'"),
        (["noise", "{picture}", "--process", "{{bad"], "JSON"),
        (["noise", "{picture}", "--out", "{folder}/out/strip.bmpp"], "format"),
        (["plot", "schedule", "linear", "--out", "{folder}/out/s.gif"], "format"),
        (["plot", "grid", "--process", "linear", "--steps", "2000", "--out", "{folder}/out/g.png"], "T = 1000"),
        (["plot", "loss", "{folder}"], "no log"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], word: str
) -> None:
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:-60])
    before = {p.name for p in tmp_path.iterdir()}
    filled = [part.format(folder=tmp_path, picture=picture) for part in command]
    if "--out" not in filled and command[0] == "noise":
        filled += ["--out", str(tmp_path / "out" / "strip.png")]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} - {"out"} == before
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True
