"""`inspect`, `list` and `doctor`: what they say is what is there."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safelight.spec import Spec, describe, families, kinds, parse
from tests.cli.conftest import tiny


def test_inspect_counts_what_the_file_holds(cli: Callable[..., Any], model: Path) -> None:
    found = json.loads(cli("inspect", model, "--json", "--tensors").out)
    tensors = load_file(model)
    assert found["what"] == "model"
    assert found["bytes"] == model.stat().st_size
    assert found["spec"] == describe(tiny())
    assert found["lineage"] == {"recipe": "tiny", "images": 12}
    assert set(found["weights"]) == {"raw", "ema"}
    for name, row in found["weights"].items():
        mine = {k: v for k, v in tensors.items() if k.startswith(name + "/")}
        assert row["tensors"] == len(mine)
        assert row["parameters"] == sum(v.numel() for v in mine.values()) == sum(row["by part"].values())
        assert row["by part"]["text"] == 4 * 8
    assert {k: tuple(v["shape"]) for k, v in found["every tensor"].items()} == {k: tuple(v.shape) for k, v in tensors.items()}


def test_inspect_reads_the_header_only(cli: Callable[..., Any], tmp_path: Path) -> None:
    """A file whose weights are 64 GB of nothing is described at once."""
    path = tmp_path / "huge.safetensors"
    header = {"w": {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    try:
        os.truncate(path, 8 + len(text) + (1 << 36))
    except OSError:
        pytest.skip("no sparse files here")
    ran = cli("inspect", path)
    assert ran.code == 0
    assert "17,179,869,184 values in 1 tensors (F32)" in ran.out


def test_inspect_shows_foreign_metadata(cli: Callable[..., Any], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3, dtype=torch.float16)}, tmp_path / "f.safetensors", metadata={"ss_network_dim": "4"})
    out = cli("inspect", tmp_path / "f.safetensors", "--tensors").out
    assert 'ss_network_dim: "4"' in out
    assert "F16   2x3" in out


def test_inspect_for_a_person(cli: Callable[..., Any], model: Path) -> None:
    out = cli("inspect", model).out
    for words in ("network: unet", "process: cosine", "    names: [", "weights 'ema': ", 'recipe: "tiny"'):
        assert words in out


def test_list_holds_every_kind_and_its_defaults_are_true(cli: Callable[..., Any]) -> None:
    """For each registered kind: every field, and the listed defaults alone build the same thing as no fields at all."""
    found = json.loads(cli("list", "--json").out, parse_constant=pytest.fail)  # strict: no NaN, no Infinity
    assert set(found) >= {"process", "parameterization", "grid", "sampler", "mix", "bend", "network", "codec", "text", "model"}
    assert set(found) == {f for f in families() if kinds(f)}
    for family, rows in found.items():
        assert set(rows) == set(kinds(family))
        for kind, row in rows.items():
            cls: type[Spec] = kinds(family)[kind]
            assert set(row["fields"]) == set(cls.model_fields)
            if not any(f["required"] for f in row["fields"].values()):
                listed = {name: f["default"] for name, f in row["fields"].items() if f["default"] is not None}
                try:
                    plain = parse({"kind": kind}, family)
                except ValueError:
                    continue  # one of several optional fields must be given
                assert parse({"kind": kind, **listed}, family) == plain


def test_every_kind_says_what_it_is(cli: Callable[..., Any]) -> None:
    found = json.loads(cli("list", "--json").out)
    silent = [f"{family} {kind}" for family, rows in found.items() for kind, row in rows.items() if not row["about"]]
    assert not silent


def test_list_for_a_person(cli: Callable[..., Any]) -> None:
    out = cli("list", "sampler", "ddim").out
    assert out.startswith("sampler\n  ddim ")
    assert "eta: float = 0.0" in out
    assert cli("list", "samplr").err.startswith("safelight: list: no family 'samplr'; did you mean 'sampler'?")
    assert "did you mean 'ddim'?" in cli("list", "sampler", "dimm").err


def test_doctor_tells_versions_devices_and_folders(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(cli("doctor", "--json").out)
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert None not in found["packages"].values()
    cpu = found["devices"][-1]
    assert cpu["device"] == "cpu"
    assert "fp32" in cpu["honours"]
    assert cpu["falls back to fp32"] == ["fp16"]
    assert found["folders"][str(tmp_path)]["writable"] is True
    assert "fp16 run in fp32 instead" in cli("doctor").out


def test_doctor_finds_a_folder_that_cannot_be_written(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    ran = cli("doctor", "--json")
    assert ran.code == 1
    assert any("cannot write to" in p for p in json.loads(ran.out)["problems"])
