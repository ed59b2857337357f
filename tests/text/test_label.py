"""Class labels: how a class may be named, and the number itself where the network holds the table."""

from __future__ import annotations

import pytest
import torch

from safelight.spec import SpecError
from safelight.text.label import LabelSpec

NAMES = ("tench, Tinca tinca", "crane", "crane (517)", "great grey owl, great gray owl", "crane, bird", "7")


def test_a_class_by_name_number_and_synonym():
    label = LabelSpec(names=NAMES, width=4).build()
    said = ["tench, Tinca tinca", "tench", "Tinca tinca", "great gray owl", "crane", "bird", "2", "7", ""]
    assert label.tokenize(said).flatten().tolist() == [
        0,
        0,
        0,
        3,
        1,
        4,
        2,
        5,
        6,
    ]  # a whole name comes before a part, and before a number
    with pytest.raises(SpecError, match="no class 'tensch'; did you mean 'tench'"):
        label.tokenize(["tensch"])


def test_the_number_itself():
    spec = LabelSpec(names=NAMES, raw=True)
    label = spec.build()
    assert spec.gives == (0, 1) and spec.numbers == 1
    assert label.read(["crane (517)", "tench"]).vector.tolist() == [[2.0], [0.0]]
    with pytest.raises(SpecError, match="no class ''"):
        label.tokenize([""])
    assert sum(p.numel() for p in label.parameters()) == 0


def test_a_long_list_is_not_told_whole():
    label = LabelSpec(names=tuple(f"class {i}" for i in range(1000)), width=4).build()
    with pytest.raises(SpecError, match="class 29, and 970 more; '' for any"):
        label.tokenize(["nothing like it"])
    assert torch.equal(label.tokenize(["999", "class 999"]), torch.tensor([[999], [999]]))
