"""`safelight scenes`: a sheet that is a picture, prompts that parse, a checker's table, and refusals in one line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from safelight.cli import scenes
from safelight.spec import SpecError


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    scenes.add(parser)
    return scenes.run(parser.parse_args(argv))


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of the nouns, so that a sheet takes a tenth of a second."""
    from safelight.data.scenes import sprites
    from safelight.data.scenes.nouns import nouns

    whole = sprites.load
    monkeypatch.setattr(sprites, "load", lambda: whole(concepts=sorted(nouns())[::20]))


def test_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    assert run("sheet", "--out", str(out), "--count", "9", "--seed", "3") == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as image:
        first = image.convert("RGB").tobytes()
        assert image.width > 8 * 64 and len(image.getcolors(1 << 20) or []) > 100
    assert run("sheet", "--out", str(out), "--count", "9", "--seed", "3") == 0
    with Image.open(out) as image:
        assert image.convert("RGB").tobytes() == first


def test_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prompts", "--count", "10", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 10 and all(row["background"] in row["prompt"] and row["says_style"] for row in rows)
    assert run("prompts", "--count", "10") == 0
    assert capsys.readouterr().out.splitlines() == [row["prompt"] for row in rows]


def test_the_checkers_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--count", "60") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["background", "count", "colour", "relation", "corner", "size"]
    assert lines[0].split()[1:] == ["100.00", "%", "of", "60"]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--count 0: ask for at least one scene"):
        run("sheet", "--count", "0", "--out", str(tmp_path / "x.png"))
