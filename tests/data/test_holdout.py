"""The held-out pictures depend on content alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from safelight.data import DataError, load, memory, split

FIXTURE = Path(__file__).parents[1] / "fixtures" / "fashion-1000"


def held_digests(p, fraction, seed):
    train, held = split(p, fraction, seed)
    assert sorted(train.tolist() + held.tolist()) == list(range(len(p)))
    assert train.tolist() == sorted(train.tolist())
    return {p.digest(int(i)) for i in held}, {p.digest(int(i)) for i in train}


def test_it_is_stable_under_reordering_renaming_and_additions():
    images = load(str(FIXTURE)).batch(torch.arange(1000)).numpy().transpose(0, 2, 3, 1)
    held, train = held_digests(load(memory(images)), 0.1, 0)
    assert not held & train
    assert 60 < len(held) < 140  # binomial(1000, 0.1): 100 +- 4 standard deviations of 9.5
    mixed = np.random.default_rng(0).permutation(1000)
    renamed = memory(images[mixed], ids=[f"new-{i}" for i in range(1000)])
    assert held_digests(load(renamed), 0.1, 0)[0] == held
    fewer, _ = held_digests(load(memory(images[:500])), 0.1, 0)
    assert fewer <= held, "a picture that was there before the others came stays where it was"
    assert held_digests(load(memory(images)), 0.1, 1)[0] != held
    more, _ = held_digests(load(memory(images)), 0.3, 0)
    assert held <= more


def test_copies_stay_together_and_no_side_is_empty():
    images = np.random.default_rng(1).integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    twice = memory(np.concatenate([images, images]))
    for fraction in (0.001, 0.3, 0.999):
        train, held = split(twice, fraction, 0)
        assert len(train) and len(held)
        assert {int(i) % 40 for i in train}.isdisjoint({int(i) % 40 for i in held})
    train, held = split(twice, 0)
    assert len(train) == 80 and len(held) == 0
    with pytest.raises(DataError, match="0 <= fraction < 1"):
        split(twice, 1.0)
