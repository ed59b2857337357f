"""--temperature, --churn and --variation-seed: what a picture's note holds, and that it is made again byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safelight import picture

FLAGS = [
    "--seed",
    "5",
    "--count",
    "2",
    "--temperature",
    "0.8",
    "--churn",
    "3",
    "--variation-seed",
    "9",
    "--variation-strength",
    "0.3",
]
Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(file: str) -> dict[str, Any]:
    note = picture.note(file)
    assert note is not None
    return note.request


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_what_the_flags_make_is_made_again(cli: Cli, model: Path, suffix: str) -> None:
    ran = cli("generate", "bag", "--model", model, *FLAGS, "--set", "churn.s_max=30", "--format", suffix, "--out", "a")
    assert ran.code == 0, ran
    file = f"a/pictures/0001-bag.{suffix}"
    found = asked(file)
    assert found["temperature"] == 0.8 and found["variation"] == {"seed": 9, "strength": 0.3}
    assert found["churn"] == {"amount": 3.0, "s_min": 0.0, "s_max": 30.0, "s_noise": 1.0}
    text = picture.parameters(file)
    assert text is not None
    assert (
        "Variation seed: 9, Variation seed strength: 0.3, Temperature: 0.8" in text and "Sigma churn: 3, Sigma tmax: 30" in text
    )
    ran = cli("reproduce", file, "--model", model, "--out", f"again.{suffix}")
    assert ran.code == 0 and "identical: every byte of the pixels and of the file" in ran.out, ran
    assert Path(f"again.{suffix}").read_bytes() == Path(file).read_bytes()
    # Its text alone asks for the same picture.
    Path("told.txt").write_text(text, encoding="utf-8")
    assert cli("generate", "--from", "told.txt", "--model", model, "--out", "told.png").code == 0
    assert float((picture.read("told.png")[0].int() - picture.read(file)[0].int()).abs().max()) <= 1


def test_a_kept_request_is_gone_over_field_by_field(cli: Cli, model: Path) -> None:
    assert cli("generate", "bag", "--model", model, *FLAGS, "--save-config", "kept.yaml", "--out", "a").code == 0
    again = ["generate", "--config", "kept.yaml", "--model", model, "--count", "1"]
    assert cli(*again, "--churn", "1", "--variation-strength", "0.5", "--out", "b.png").code == 0
    found = asked("b.png")
    assert found["churn"]["amount"] == 1 and found["variation"] == {"seed": 9, "strength": 0.5} and found["temperature"] == 0.8
    assert cli(*again, "--set", "churn=null", "--set", "variation=null", "--out", "c.png").code == 0
    assert asked("c.png")["churn"] is None is asked("c.png")["variation"]


def test_a_strength_alone_goes_to_the_next_seed(cli: Cli, model: Path) -> None:
    assert cli("generate", "bag", "--model", model, "--seed", "5", "--variation-strength", "1", "--out", "a.png").code == 0
    assert cli("generate", "bag", "--model", model, "--seed", "6", "--out", "b.png").code == 0
    assert torch.equal(picture.read("a.png")[0], picture.read("b.png")[0])


def test_churn_goes_with_the_sampler_that_set_names(cli: Cli, model: Path) -> None:
    words = ["generate", "bag", "--model", model, "--churn", "2", "--out", "a.png"]
    assert cli(*words, "--set", "sampler=dpm++2s").code == 0
    ran = cli(*words, "--sampler", "dpm++2m")
    assert ran.code == 2 and ran.err.count("\n") == 1 and "churn: sampler 'dpm++2m' looks back on earlier steps" in ran.err


def test_a_variation_is_varied_further(cli: Cli, model: Path) -> None:
    """At strength 0 it is the picture itself, whose own variation is kept inside."""
    assert cli("generate", "bag", "--model", model, *FLAGS, "--out", "a").code == 0
    file = "a/pictures/0001-bag.png"
    for strength, same in (("0", True), ("0.5", False)):
        assert cli("vary", file, "--model", model, "--strength", strength, "--count", "1", "--out", f"{strength}.png").code == 0
        found = picture.read(f"{strength}.png")[0].int() - picture.read(file)[0].int()
        assert (float(found.abs().max()) <= 1) is same
    assert asked("0.png")["task"]["of"]["kind"] == "vary" and asked("0.png")["variation"] is None


def test_an_edit_is_varied(cli: Cli, model: Path) -> None:
    assert cli("generate", "bag", "--model", model, "--out", "a.png").code == 0
    words = ["edit", "a.png", "dress", "--model", model, "--seed", "1", "--strength", "0.7"]
    for name, flags in (
        ("b", []),
        ("c", ["--variation-seed", "4"]),
        ("d", ["--variation-seed", "4", "--variation-strength", "0"]),
    ):
        assert cli(*words, *flags, "--out", f"{name}.png").code == 0
    b, c, d = (picture.read(f"{name}.png")[0] for name in "bcd")
    assert torch.equal(b, d) and not torch.equal(b, c)
    ran = cli("reproduce", "c.png", "--model", model, "--input", "a.png")
    assert ran.code == 0 and "identical" in ran.out, ran
