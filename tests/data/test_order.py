"""The order: each sample exactly once an epoch, at any batch size and world size, from any place, the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.data import DataError, Order

GOLDEN = [3, 4, 5, 1, 0, 2, 8, 7, 9, 6, 7, 3, 1, 9, 8, 4, 5, 0, 6, 2]


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**40), world=st.integers(1, 5), data=st.data())
def test_every_sample_once_an_epoch(n, seed, world, data):
    size = data.draw(st.integers(1, n))
    order = Order(n, seed)
    epochs = 3
    steps = -(-epochs * n // size)
    seen: list[int] = []
    for step in range(steps):
        parts = [order.batch(step, size, rank, world) for rank in range(world)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        whole = torch.cat(parts)
        assert torch.equal(whole, order.batch(step, size)), "a world of several sees what a world of one sees"
        seen += whole.tolist()
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), start=st.integers(0, 200), count=st.integers(0, 90))
def test_any_place_is_reached_without_the_past(n, start, count):
    """A new Order asked for samples start..start+count gives what one that walked there gives: its state is the number."""
    walked = Order(n, 3)
    whole = (
        torch.cat([walked.indices(k, 1) for k in range(start + count)]) if start + count else torch.empty(0, dtype=torch.int64)
    )
    assert torch.equal(Order(n, 3).indices(start, count), whole[start:])


def test_the_stream_is_fixed_and_touches_no_global_state():
    """Written down once: a new numpy, torch or platform must give the same order, else runs do not resume."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert Order(10, 0).indices(0, 20).tolist() == GOLDEN
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_seeds_and_epochs_differ_and_are_uniform():
    n = 1000
    orders = [Order(n, seed).permutation(epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert np.mean(a == b) < 0.01
    # The mean place of picture 0 over many epochs: (n - 1) / 2 with standard error n / sqrt(12 * 400).
    small = Order(50, 5)
    places = [int(np.flatnonzero(small.permutation(e) == 0)[0]) for e in range(400)]
    assert abs(np.mean(places) - 24.5) < 4 * 50 / np.sqrt(12 * 400)


def test_bad_orders():
    with pytest.raises(DataError, match="an order needs pictures"):
        Order(0)
    with pytest.raises(DataError, match=r"batch of 128: it is larger than the data \(100 pictures\)"):
        Order(100).batch(0, 128)
    with pytest.raises(DataError, match="rank 2 of 2"):
        Order(100).batch(0, 10, rank=2, world=2)
