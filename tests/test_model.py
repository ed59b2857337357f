"""Model files: what is written is what is read; what is foreign, damaged or unfit is refused in one line; nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import safelight.model as room
from safelight.model import load, locate, peek, save
from safelight.spec import SpecError, build, describe
from tests import small


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_round_trip(tmp_path: Path) -> None:
    model, other = small.model(), small.model(seed=1)
    save(tmp_path / "m.safetensors", model, lineage={"recipe": "x", "images": 7}, averages={"ema": other.state_dict()})
    assert same(load(tmp_path / "m.safetensors", "raw"), model)
    assert same(load(tmp_path / "m.safetensors", "ema"), other)
    assert same(load(tmp_path / "m.safetensors"), other)  # an average is preferred
    header = peek(tmp_path / "m.safetensors")
    assert (
        header.weights == ("raw", "ema") and header.lineage == {"recipe": "x", "images": 7} and header.spec == describe(model)
    )
    assert sum(e.size for e in header.tensors.values()) == 2 * sum(p.numel() for p in model.parameters())
    loaded = load(tmp_path / "m.safetensors")
    assert not loaded.training and len(loaded.fingerprint) == 16


def test_half_precision_file(tmp_path: Path) -> None:
    model = small.model()
    save(tmp_path / "full.safetensors", model)
    save(tmp_path / "half.safetensors", model, dtype=torch.float16)
    assert os.path.getsize(tmp_path / "half.safetensors") < 0.65 * os.path.getsize(tmp_path / "full.safetensors")
    loaded = load(tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert all(torch.equal(a, b.half().float()) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert all(p.dtype == torch.float16 for p in load(tmp_path / "half.safetensors", dtype=None).parameters())


def test_loading_moves_nobodys_random_numbers(tmp_path: Path) -> None:
    save(tmp_path / "m.safetensors", small.model())
    before = torch.random.get_rng_state()
    load(tmp_path / "m.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_run_folder_is_its_latest_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints/step-00000002/model.safetensors", small.model())
    (tmp_path / "checkpoints/LATEST").write_text("step-00000002\n")
    assert locate(tmp_path) == tmp_path / "checkpoints/step-00000002/model.safetensors"


def pickled(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {path.parent / 'exploded'}",)

    path.write_bytes(pickle.dumps(Bomb()))


def zipped(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def foreign(path: Path) -> None:
    save_file({"a": torch.zeros(3)}, path)


def truncated(path: Path) -> None:
    save(path, small.model())
    path.write_bytes(path.read_bytes()[:-1000])


def future(path: Path) -> None:
    save_file(
        {"raw/a": torch.zeros(1)},
        path,
        metadata={"safelight": json.dumps({"format": 99, "spec": {}, "lineage": {}, "weights": ["raw"]})},
    )


def other_network(path: Path) -> None:
    """The file says one network and holds another's weights."""
    model = small.model()
    state = {f"raw/{k}": v for k, v in model.state_dict().items()}
    state.pop(sorted(state)[0])
    about = {"format": 1, "spec": describe(model), "lineage": {}, "weights": ["raw"]}
    save_file(state, path, metadata={"safelight": json.dumps(about)})


def other_shape(path: Path) -> None:
    model = small.model()
    state = {f"raw/{k}": v for k, v in model.state_dict().items()}
    first = sorted(state)[0]
    state[first] = torch.zeros(1, 2, 3)
    about = {"format": 1, "spec": describe(model), "lineage": {}, "weights": ["raw"]}
    save_file(state, path, metadata={"safelight": json.dumps(about)})


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nonsense(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 20) + b"this is not any json" + b"\0" * 100)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (pickled, "is not a safetensors file .it looks like a pickle, which is never loaded"),
        (zipped, "is not a safetensors file .it looks like a pickle"),
        (foreign, "not a Safelight model: its header has no 'safelight' entry"),
        (truncated, "is cut short: its header promises"),
        (future, "has format 99, this version reads up to 1: update safelight"),
        (other_network, "is of another network: it lacks '"),
        (other_shape, "is of another network: '.*' is .1, 2, 3. there"),
        (empty, "is not a safetensors file"),
        (nonsense, "is not a safetensors file"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_bad_files(tmp_path: Path, make, line: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "bad.safetensors"
    make(path)
    with pytest.raises(SpecError, match=line) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no file .*nowhere\.safetensors"):
        load(tmp_path / "nowhere.safetensors")
    with pytest.raises(SpecError, match="no model 'fashion-mnits'"):
        load("fashion-mnits")
    with pytest.raises(SpecError, match="holds no model.safetensors and no checkpoints"):
        load(tmp_path)
    save(tmp_path / "m.safetensors", small.model())
    with pytest.raises(SpecError, match=r"has no weights 'rwa'; did you mean 'raw'\? .it has: raw."):
        load(tmp_path / "m.safetensors", "rwa")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save(path, small.model())
    before = path.read_bytes()

    def full(file: Path, tensors: object, metadata: object) -> None:
        Path(file).write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "write", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, small.model(seed=1))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_averages_must_fit() -> None:
    with pytest.raises(SpecError, match="weights 'ema' hold 'nothing', which the model has not"):
        save("unused.safetensors", small.model(), averages={"ema": {"nothing": torch.zeros(1)}})
    with pytest.raises(SpecError, match="nothing to save"):
        save("unused.safetensors", small.model(), raw=False)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"network": {"kind": "dit", "width": 32, "depth": 1, "heads": 2, "cond": 8}},
            "network.cond is 8, but text 'label' gives 16",
        ),
        ({"network": {"kind": "dit", "width": 32, "depth": 1, "heads": 2}}, "the network would not hear text 'label'"),
        ({"text": None}, "network.cond is 16, but a model without text gives nothing"),
        ({"size": [0, 8]}, "size is .height, width. in pixels"),
    ],
)
def test_parts_that_do_not_meet(change: dict[str, object], line: str) -> None:
    with pytest.raises(SpecError, match=line):
        build({**describe(small.spec()), **change})


def test_a_damaged_header_is_one_line(tmp_path: Path) -> None:
    """Any byte of the header may be another: the file is refused or read, never a traceback."""
    save(tmp_path / "whole.safetensors", small.model())
    whole = (tmp_path / "whole.safetensors").read_bytes()
    length, random = int.from_bytes(whole[:8], "little"), np.random.default_rng(0)
    refused = []
    for place in random.integers(8, 8 + length, 300):
        damaged = bytearray(whole)
        damaged[place] = random.integers(32, 127)
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        try:
            load(tmp_path / "damaged.safetensors")
        except SpecError as error:
            refused.append(str(error))
    assert len(refused) > 100 and not any("\n" in line for line in refused)
