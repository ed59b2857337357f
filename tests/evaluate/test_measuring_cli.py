"""`safelight evaluate adherence` and `train-judge`: what is written and printed; what these and their neighbours refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safelight.cli.main import main
from safelight.model import save
from tests.evaluate.scenes import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(path, tiny())
    return path


def test_adherence_of_a_control(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "evaluate",
        "adherence",
        "--control",
        "perfect",
        "--prompts",
        "40",
        "--seen",
        "20",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    assert main(argv) == 0
    out = capsys.readouterr()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["painter"] == {"model": "composer"} and report["held"]["background"]["rate"] == 1
    assert (tmp_path / "card.md").read_text().strip() in out.out
    names = {"report.json", "card.md", "samples.png", "copies-held.png", "copies-seen.png"}
    assert {p.name for p in tmp_path.iterdir()} == names  # one scale has no curve, and a control keeps nothing
    assert "60 of 60" in out.err


def test_adherence_of_a_model_with_its_curve_and_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "evaluate",
        "adherence",
        str(model),
        "--prompts",
        "20",
        "--seen",
        "0",
        "--curve",
        "10",
        "--scales",
        "1,3",
        "--steps",
        "1",
    ]
    argv += ["--batch", "10", "--device", "cpu", "--out", str(tmp_path)]
    assert main(argv) == 0
    first = json.loads((tmp_path / "report.json").read_text())
    assert [row["scale"] for row in first["curve"]] == [1, 3]
    assert first["painter"]["steps"] == 1 and first["painter"]["weights"] == "raw"
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert len(list((tmp_path / "pictures").iterdir())) == 4
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "pictures").iterdir()}
    capsys.readouterr()
    assert main(argv) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "pictures").iterdir()} == before
    assert {**json.loads((tmp_path / "report.json").read_text()), "seconds": 0} == {**first, "seconds": 0}


def test_a_judge_is_trained_examined_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "judge.safetensors"
    assert main(["evaluate", "train-judge", "--steps", "2", "--exam", "40", "--device", "cpu", "--out", str(path)]) == 0
    said = capsys.readouterr().out
    assert "step 2 of 2" in said and "held-out cells" in said and path.is_file()
    argv = [
        "evaluate",
        "adherence",
        "--control",
        "perfect",
        "--prompts",
        "20",
        "--seen",
        "0",
        "--judge",
        str(path),
        "--device",
        "cpu",
    ]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["held"]["concept"]["rate"] == report["held"]["concept"]["own"] < 0.5
    assert report["held"]["background"]["rate"] == 1  # rules ask no judge


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["adherence"], "give a MODEL, or --control"),
        (["adherence", "fashion-mnist"], "text-to-image model of colour pictures"),
        (["adherence", "--control", "perfect", "--scales", "1,x"], "with commas between"),
        (["adherence", "--control", "perfect", "--scales", "nan"], "with commas between"),
        (["adherence", "--control", "perfect", "--prompts", "0"], "prompts"),
        (["adherence", "--control", "perfect", "--judge", "/nowhere.safetensors"], "there is no classifier"),
        (["adherence", "--control", "perfect", "--vocabulary", "full"], "train one with `safelight evaluate train-judge`"),
        (["codec", "fashion-mnist"], "scenes have 3"),
        (["codec", "nothing-of-that-name"], "no model 'nothing-of-that-name'"),
        (["retrieval", "fashion-mnist"], "no joint model"),
        (["retrieval", "/nowhere.safetensors"], "no"),
        (["train-judge", "--threads", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], word: str
) -> None:
    assert main(["evaluate", *argv, "--out", str(tmp_path / "out.safetensors")]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
