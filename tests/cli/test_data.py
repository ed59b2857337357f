"""`safelight data check` and `data fetch`, through the functions that the command line calls."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from safelight.cli import data as verb
from safelight.spec import SpecError
from tests.data.formats import pictures, put, with_jsonl


def call(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    verb.add(parser)
    return verb.run(parser.parse_args(argv))


def test_a_good_folder(tmp_path, capsys):
    with_jsonl(tmp_path, pictures())
    assert call("check", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "used        12" in out and "ok" in out.splitlines()[-1]


def test_loss_and_threshold(tmp_path, capsys):
    put(tmp_path, pictures(9))
    (tmp_path / "cat" / "bad[1].png").write_bytes(b"")
    assert call("check", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "cat/bad[1].png: empty file" in out and "10.00% is lost" in out
    assert call("check", str(tmp_path), "--max-loss", "0.1") == 0


def test_near_miss_is_shown(tmp_path, capsys):
    put(tmp_path, pictures(3))
    (tmp_path / "metadata.json1").write_text("")
    assert call("check", str(tmp_path), "--max-loss", "1") == 1
    assert "metadata.json1: not read as captions; did you mean metadata.jsonl?" in capsys.readouterr().out


def test_json(tmp_path, capsys):
    put(tmp_path, pictures(3))
    assert call("check", str(tmp_path), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["used"] == 3 and report["kind"] == "folder" and report["loss"] == 0


def test_options_reach_the_source(tmp_path):
    put(tmp_path / "train", pictures(3))
    put(tmp_path / "test", pictures(3))
    with pytest.raises(SpecError, match="several splits"):
        call("check", str(tmp_path))
    assert call("check", str(tmp_path), "--split", "train") == 0
    with pytest.raises(SpecError, match="no such file or folder"):
        call("check", str(tmp_path / "nothing"))


def test_its_options_import_nothing_heavy():
    code = (
        "import sys, argparse; from safelight.cli import data; data.add(argparse.ArgumentParser());"
        "heavy = {'torch', 'numpy', 'pydantic', 'PIL', 'rich'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
