"""The joint model as a file, and its bad neighbours."""

from __future__ import annotations

import pytest
import torch

from safelight.spec import SpecError
from safelight.text.clip import CLIPTextSpec
from safelight.text.joint import JointSpec, load, save

SMALL = JointSpec(
    text=CLIPTextSpec(width=8, layers=1, heads=1, length=8), size=(8, 8), patch=4, width=8, layers=1, heads=1, space=4
)


def test_the_default_is_the_one_its_docstring_counts():
    assert sum(p.numel() for p in JointSpec().build().parameters()) == 4_942_657


def test_it_comes_back_from_its_file(tmp_path):
    torch.manual_seed(0)
    joint = SMALL.build().eval()
    path = tmp_path / "pair.safetensors"
    save(path, joint, {"recipe": "test"}, dtype=torch.float32)
    twin = load(path)
    x = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(twin.pictures(x), joint.pictures(x)) and twin.lineage == {"recipe": "test"}
    long = "a red apple, " * 9  # several windows
    assert torch.equal(twin.texts(["a cat", long]), joint.texts(["a cat", long]))
    torch.testing.assert_close(joint.pictures(x, batch=2), joint.pictures(x.float() / 127.5 - 1))
    torch.testing.assert_close(joint.similarity(x, ["a", "b"]).probability.sum(1), torch.ones(3))
    save(path, joint)
    half = load(path)
    assert half.device.type == "cpu" and (half.pictures(x) - joint.pictures(x)).abs().max() < 1e-2


def test_foreign_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(SpecError, match="there is no joint model"):
        load(tmp_path / "no.safetensors")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"PK\x03\x04 no tensors here")
    with pytest.raises(SpecError, match="not a readable .safetensors"):
        load(bad)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, bad)
    with pytest.raises(SpecError, match="no joint model of format 1"):
        load(bad)
    with pytest.raises(ValueError, match="a square that patches of 4 tile, not 8x12"):
        JointSpec(size=(8, 12), patch=4)
