"""The frame of the command line: its start, its help, and the boundary where errors become one line."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import safelight
from safelight.cli import main as frame
from safelight.cli.main import VERBS


def test_help_costs_little() -> None:
    """`safelight --help` in less than 0.4 s of CPU, measured on the child process alone (best of three)."""
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "safelight", "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert all(f"\n  {verb} " in done.stdout for verb in VERBS)
    assert min(costs) < 0.4


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "version"])
def test_every_verb_in_the_index_exists_and_explains_itself(verb: str, cli: Callable[..., Any]) -> None:
    ran = cli(verb, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: safelight {verb}")
    assert "torch" not in vars(importlib.import_module(f"safelight.cli.{VERBS[verb][0]}")), (
        "torch at the top of a verb slows its help"
    )


def test_version(cli: Callable[..., Any]) -> None:
    assert cli("version").out == cli("--version").out == f"safelight {safelight.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["sampel"], "safelight: no verb 'sampel'; did you mean 'sample'? (verbs: "),
        (["doctor", "--jsn"], "safelight: doctor: unknown option --jsn; did you mean '--json'?"),
        (["sample", "m", "--step=3"], "safelight: sample: unknown option --step=3; did you mean '--steps'?"),
        (["sample"], "safelight: sample: the following arguments are required: MODEL"),
        (["sample", "m", "--steps", "few"], "invalid int value: 'few'"),
        (["data", "chek", "x"], "no 'chek'; did you mean 'check'?"),
    ],
)
def test_a_wrong_command_names_the_nearest_right_one(argv: list[str], says: str, cli: Callable[..., Any]) -> None:
    ran = cli(*argv)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert says in ran.err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (FileNotFoundError(2, "No such file or directory", "a/b.png"), 2, "a/b.png: No such file or directory"),
        (ModuleNotFoundError("No module named 'av'", name="av"), 2, "pip install 'safelight[video]'"),
        (ModuleNotFoundError("No module named 'pyarrow.parquet'", name="pyarrow.parquet"), 2, "pip install 'safelight[data]'"),
        (ModuleNotFoundError("No module named 'c2pa'", name="c2pa"), 2, "pip install 'safelight[safety]'"),
        (safelight.SpecError("a\nb"), 2, "a b"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_expected_errors_are_one_line(
    error: BaseException, code: int, says: str, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(importlib.import_module("safelight.cli.doctor"), "run", fail)
    monkeypatch.delenv("SAFELIGHT_TRACEBACK", raising=False)
    ran = cli("doctor")
    assert (ran.code, ran.err.count("\n")) == (code, 1)
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_our_own_errors_keep_their_traceback(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise ZeroDivisionError("ours")

    doctor = importlib.import_module("safelight.cli.doctor")
    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli("doctor")
    monkeypatch.setenv("SAFELIGHT_TRACEBACK", "1")

    def refuse(args: object) -> int:
        raise safelight.SpecError("theirs")

    monkeypatch.setattr(doctor, "run", refuse)
    with pytest.raises(safelight.SpecError):
        cli("doctor")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_is_no_error(lines: int) -> None:
    code = f"from safelight.cli import main, doctor; doctor.run = lambda args: print('row\\n' * {lines}) or 0; main.entry()"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$0" -c "$1" doctor | head -n 1', sys.executable, code],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "row\n", "")


def test_extras_are_read_from_the_package() -> None:
    extras = frame.extras()
    assert {"data", "video", "track"} <= set(extras)
    assert "av" in extras["video"]
    assert not {"dev", "bench"} & set(extras)
