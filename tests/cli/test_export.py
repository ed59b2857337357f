"""`safelight export`: one set of weights in half precision, which is what the file then gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safelight.model import load, peek, save


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("weights", "dtype"), [("ema", "float16"), ("raw", "float32"), ("raw", "bfloat16")])
def test_the_file_holds_the_set_that_was_asked_for(cli: Callable[..., Any], model: Path, weights: str, dtype: str) -> None:
    ran = cli("export", model, "--weights", weights, "--dtype", dtype, "--out", "small.safetensors")
    assert ran.code == 0, ran.err
    header, source = peek("small.safetensors"), load(model, weights, dtype=None)
    assert header.weights == (weights,)
    assert header.lineage == {**source.lineage, "parent": source.fingerprint}
    kept = load("small.safetensors", dtype=None).state_dict()
    for name, value in source.state_dict().items():
        wanted = value.to(getattr(torch, dtype)) if value.is_floating_point() else value
        assert torch.equal(kept[name], wanted)
    assert ("at most 0.0e+00" in ran.out) == (dtype == "float32")


def test_refusals(cli: Callable[..., Any], model: Path) -> None:
    assert "a model file is called NAME.safetensors" in cli("export", model, "--out", "small.bin").err
    Path("there.safetensors").write_bytes(b"")
    assert "there is a file already" in cli("export", model, "--out", "there.safetensors").err
    assert (
        "has no weights 'emma'; did you mean 'ema'?" in cli("export", model, "--weights", "emma", "--out", "x.safetensors").err
    )
    assert [p.name for p in Path().iterdir()] == ["there.safetensors"]


def test_a_number_too_large_for_its_type_is_no_file(cli: Callable[..., Any], model: Path) -> None:
    broken = load(model, "raw", dtype=None)
    next(broken.parameters()).data.flatten()[0] = 1e6
    save("large.safetensors", broken)
    ran = cli("export", "large.safetensors", "--out", "small.safetensors")
    assert ran.code == 2 and "holds 1e+06, which is no number of float16; take bfloat16 or float32" in ran.err
    assert not Path("small.safetensors").exists()
    assert cli("export", "large.safetensors", "--dtype", "bfloat16", "--out", "small.safetensors").code == 0


def test_how_it_is_sampled_is_set_and_nothing_else(cli: Callable[..., Any], model: Path) -> None:
    settings = ("steps=7", "sampler=heun", "grid=uniform", "grid.start=0.9")
    ran = cli("export", model, *(word for one in settings for word in ("--set", one)), "--out", "set.safetensors")
    assert ran.code == 0, ran.err
    was, now = peek(model).spec, peek("set.safetensors").spec
    found = now["defaults"]
    assert (found["steps"], found["sampler"]["kind"], found["grid"]) == (7, "heun", {"kind": "uniform", "start": 0.9})
    assert {k: v for k, v in now.items() if k != "defaults"} == {k: v for k, v in was.items() if k != "defaults"}
    for wrong, line in (
        ("stepps=7", "--set: unknown field 'stepps'; did you mean 'steps'?"),
        ("steps=0", "--set: steps: "),
    ):
        ran = cli("export", model, "--set", wrong, "--out", "no.safetensors")
        assert ran.code == 2 and line in ran.err and not Path("no.safetensors").exists()
