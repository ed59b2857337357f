"""The classifier learns, is the same for the same seed, and comes back from its file as what it was measured to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safelight.data.idx import IDXSource
from safelight.evaluate.classifier import ClassifierSpec, load, save, shipped
from safelight.evaluate.fit import Epoch, Fit, accuracy, fit, rounded
from safelight.evaluate.real import read
from safelight.spec import SpecError

FIXTURE = Path(__file__).parent.parent / "fixtures" / "fashion-1000"

SPEC = ClassifierSpec(names=("bar", "column"), size=(12, 12), widths=(4, 8), features=16)


def bars(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy pictures with one bright row (class 0) or column (class 1)."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 120, (n, 1, 12, 12), generator=random)
    labels = torch.randint(0, 2, (n,), generator=random)
    for i, at in enumerate(torch.randint(0, 12, (n,), generator=random).tolist()):
        if labels[i]:
            x[i, 0, :, at] = 230
        else:
            x[i, 0, at] = 230
    return x.to(torch.uint8), labels


def trained(seed: int = 0) -> list[Epoch]:
    return list(fit(SPEC, *bars(512, 0), Fit(epochs=4, batch=32, shift=1, seed=seed)))


def test_it_learns_and_generalises() -> None:
    epochs = trained()
    assert [e.epoch for e in epochs] == [1, 2, 3, 4]
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    rate, each = accuracy(rounded(epochs[-1].classifier), *bars(300, 1))
    assert rate > 0.97
    assert min(each) > 0.94


def test_the_seed_decides_and_no_global_stream_is_touched() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a = trained()[-1].classifier.fingerprint
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert trained()[-1].classifier.fingerprint == a
    assert trained(1)[-1].classifier.fingerprint != a


def test_the_file_gives_back_what_was_measured(tmp_path: Path) -> None:
    model = rounded(trained()[-1].classifier)
    path = save(tmp_path / "c.safetensors", model, {"name": "bars", "test_accuracy": 0.98})
    back = load(path)
    assert back.fingerprint == model.fingerprint
    assert back.spec == SPEC
    assert back.lineage["name"] == "bars"
    assert not any(p.requires_grad for p in back.parameters())
    x, _ = bars(40, 2)
    a, b = model.look(x), back.look(x, batch=7)
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(back.look(x).features, back.look(x.float() / 127.5 - 1).features)
    assert (a.features >= 0).all()


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04nonsense")
    about = {"format": 1, "what": "classifier", "classifier": {"names": ["a", "b"]}}
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors", {"safelight": json.dumps(about)})
    about["classifier"] = {"nams": ["a"]}  # type: ignore[assignment]
    save_file({"a": torch.zeros(1)}, tmp_path / "field.safetensors", {"safelight": json.dumps(about)})
    words = {
        "other": "no classifier",
        "pickle": "not a readable",
        "weights": "disagree at",
        "field": "did you mean 'names'",
        "none": "there is no",
    }
    for name, word in words.items():
        with pytest.raises(SpecError) as error:
            load(tmp_path / f"{name}.safetensors")
        assert word in str(error.value)
        assert "\n" not in str(error.value)


def test_refusals() -> None:
    model = SPEC.build()
    with pytest.raises(SpecError, match=r"\(N, 1, 12, 12\)"):
        model.look(torch.zeros(1, 1, 28, 28))
    with pytest.raises(SpecError, match="1 of 2 pictures have NaN"):
        model.look(torch.stack([torch.zeros(1, 12, 12), torch.full((1, 12, 12), float("nan"))]))
    with pytest.raises(SpecError, match="labels in"):
        list(fit(SPEC, torch.zeros(200, 1, 12, 12, dtype=torch.uint8), torch.full((200,), 2)))
    with pytest.raises(SpecError, match="batches of"):
        list(fit(SPEC, *bars(10, 0)))


def test_the_shipped_classifier_is_the_one_that_was_measured() -> None:
    model = load()
    assert model.lineage["test_accuracy"] > 0.92
    assert model.lineage["tested_on"] == 10_000
    assert min(model.lineage["test_accuracy_by_class"].values()) > 0.7
    assert shipped().stat().st_size < 1_000_000
    assert model.spec.names[0] == "t-shirt"
    assert model.spec.features == 128
    assert model.fingerprint == "23ed3a74c210b547"  # numbers in model cards were taken with these weights
    data = read(IDXSource(path=str(FIXTURE)).open(), 1, (28, 28), model.spec.names)
    rate, each = accuracy(model, data.pictures, data.labels)
    assert rate > 0.92  # pictures of the test split
    assert min(each) > 0.7
