"""`safelight plan`, and the options that lay a model out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safelight import device as devices
from safelight import picture


def test_a_plan_for_a_person_and_as_json_agree(cli: Callable[..., Any], model: Path) -> None:
    shown = cli("plan", model, "--batch", 2, "--size", "12x12", "--device", "cpu")
    assert shown.code == 0, shown.err
    told = json.loads(cli("plan", model, "--batch", 2, "--device", "cpu", "--json").out)
    assert f"{told['parameters']:,} parameters" in shown.out
    assert list(told["parts"]) == ["text", "denoiser", "codec"]
    assert all(name in shown.out for name in told["parts"])
    assert told["batch"] == 2
    assert told["size"] == [12, 12]
    assert told["peak"] == max(told["load"], *(part["peak"] for part in told["parts"].values()))
    assert told["largest_batch"] > 2
    assert told["fits"]
    assert not told["switches"]


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_what_would_help(
    cli: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = json.loads(cli("plan", model, "--batch", 4, "--device", "cpu", "--json").out)["peak"]
    monkeypatch.setattr(devices, "free", lambda device: peak - 1)
    done = cli("plan", model, "--batch", 4, "--device", "cpu")
    assert done.code == 1
    assert "it does not fit; about 3 of this size at a time would" in done.out
    assert "--micro-batch 1 saves" in done.out


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--batch", 0), "--batch 0: one picture at least"),
        (("--size", "7x7"), "no multiple of the codec's stride"),
        (("--sampler", "eular"), "did you mean 'euler'"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    cli: Callable[..., Any], words: Path, flags: tuple[Any, ...], sentence: str
) -> None:
    done = cli("plan", words, *flags)
    assert done.code == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1


def test_dtype_and_memory_are_what_the_picture_says(cli: Callable[..., Any], words: Path, tmp_path: Path) -> None:
    done = cli(
        *("generate", "a cat", "--model", words, "--no-hints", "--device", "cpu", "--dtype", "bf16", "--memory", "low"),
        *("--out", tmp_path / "a.png"),
    )
    assert done.code == 0, done.err
    note = picture.note(tmp_path / "a.png")
    assert note is not None
    assert (note.engine["dtype"], note.engine["memory"]) == ("bfloat16", "low")
    again = cli("reproduce", tmp_path / "a.png", "--model", words)
    assert again.code == 0, again.out + again.err


def test_a_precision_that_is_not_honoured_is_said(cli: Callable[..., Any], words: Path, tmp_path: Path) -> None:
    done = cli(
        *(
            "generate",
            "a cat",
            "--model",
            words,
            "--no-hints",
            "--device",
            "cpu",
            "--dtype",
            "fp16",
            "--out",
            tmp_path / "a.png",
        )
    )
    assert done.code == 0
    assert "fp16 is not honoured on cpu: running in fp32" in done.err
    note = picture.note(tmp_path / "a.png")
    assert note is not None
    assert note.engine["dtype"] == "float32"


def test_auto_goes_low_where_memory_is_short(
    cli: Callable[..., Any], words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "free", lambda device: 100_000)
    done = cli("generate", "a cat", "--model", words, "--no-hints", "--device", "cpu", "--out", tmp_path / "a.png")
    assert done.code == 0, done.err
    assert "memory is short: --memory low is used" in done.err
    note = picture.note(tmp_path / "a.png")
    assert note is not None
    assert note.engine["memory"] == "low"
