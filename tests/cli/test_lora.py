"""`safelight lora`: what an adapter is, another flavour of it, a model that has it for good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from safelight import picture
from safelight.model import load, peek, save
from tests import small
from tests.adapt.test_run import file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and an adapter for it."""
    monkeypatch.chdir(tmp_path)
    save("m.safetensors", small.listening())
    file(tmp_path, load("m.safetensors"))
    return tmp_path


def test_it_is_told_and_written_again(cli: Callable[..., Any], here: Path) -> None:
    ran = cli("lora", "style.safetensors", "--model", "m.safetensors", "--to", "safelight", "--out", "again.safetensors")
    assert ran.code == 0, ran.err
    count = len(load_file("style.safetensors"))
    assert (
        f"style.safetensors: {count} matched\n" in ran.out
        and "rank     2\n" in ran.out
        and "scale    1 (alpha / rank)" in ran.out
    )
    assert f"changes  {count // 2} ({count // 2} in the denoiser)" in ran.out
    assert Path("again.safetensors").read_bytes() == Path("style.safetensors").read_bytes()


def test_a_merged_model_makes_the_picture_that_the_adapter_makes(cli: Callable[..., Any], here: Path) -> None:
    ran = cli("lora", "style.safetensors:0.5", "--model", "m.safetensors", "--merge", "styled.safetensors")
    assert ran.code == 0, ran.err
    say = ("generate", "shoe", "--no-hints", "--steps", "3")
    for model, out, more in (("m", "worn.png", ("--lora", "style.safetensors:0.5")), ("styled", "merged.png", ())):
        ran = cli(*say, "--model", f"{model}.safetensors", *more, "--out", out)
        assert ran.code == 0, ran.err
    worn, merged = (picture.read(f"{name}.png")[0].int() for name in ("worn", "merged"))
    assert (worn - merged).abs().max() <= 1
    lineage = peek("styled.safetensors").lineage
    assert lineage["adapters"][0]["name"] == "style" and lineage["adapters"][0]["weight"] == 0.5
    assert lineage["parent"] == load("m.safetensors").fingerprint


@pytest.mark.parametrize(
    "argv, says",
    [
        (("style.safetensors", "--to", "kohya"), "--to says the flavour and --out where to: give both"),
        (("style.safetensors", "--to", "kohya", "--out", "k.safetensors"), "has no name in the flavour 'kohya'"),
        (("style.safetensors", "--merge", "m.safetensors"), "m.safetensors is there already"),
        (("gone.safetensors",), "no file gone.safetensors"),
        (("style.safetensors:99",), "a weight is a number from -10 to 10, as in style.safetensors:0.8"),
        (("m.safetensors",), "does not fit the model, 0 matched"),
        (("style.safetensors", "style.safetensors", "--to", "kohya", "--out", "k"), "--to writes one adapter"),
    ],
)
def test_refusals_are_one_line(cli: Callable[..., Any], here: Path, argv: tuple[str, ...], says: str) -> None:
    ran = cli("lora", *argv, "--model", "m.safetensors")
    assert ran.code == 2 and says in ran.err and ran.err.count("\n") == 1
    assert not Path("k.safetensors").exists()


def test_part_of_it_is_said_in_the_exit_code(cli: Callable[..., Any], here: Path) -> None:
    from safetensors.torch import save_file

    save_file(load_file("style.safetensors") | {"nothing": torch.ones(1)}, "more.safetensors")
    ran = cli("lora", "more.safetensors", "--model", "m.safetensors", "--allow-partial")
    assert ran.code == 1 and "left out nothing (no tensor of a LoRA is called so)" in ran.out
