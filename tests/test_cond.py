"""Cond: joining, padding, dropping."""

from __future__ import annotations

import pytest
import torch

from safelight.cond import Cond


def test_cat_pads_and_masks() -> None:
    a = Cond(tokens=torch.ones(1, 2, 3), vector=torch.zeros(1, 4))
    b = Cond(
        tokens=torch.full((2, 5, 3), 2.0), mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool(), vector=torch.ones(2, 4)
    )
    both = Cond.cat([a, b])
    assert both.batch == 3 and both.tokens is not None and both.tokens.shape == (3, 5, 3)
    assert both.mask is not None and both.mask.tolist() == [
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True] * 5,
    ]
    assert torch.equal(both.tokens[0, 2:], torch.zeros(3, 3))


def test_cat_of_equal_lengths_needs_no_mask() -> None:
    assert Cond.cat([Cond(tokens=torch.ones(1, 2, 3))] * 2).mask is None


def test_drop_replaces_rows() -> None:
    cond, null = Cond(vector=torch.ones(3, 2)), Cond(vector=torch.zeros(1, 2))
    found = cond.drop(torch.tensor([False, True, False]), null).vector
    assert found is not None and found.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_mismatches_are_refused() -> None:
    with pytest.raises(ValueError, match="'tokens' is given for 1 of 2 conditions"):
        Cond.cat([Cond(vector=torch.ones(1, 2)), Cond(tokens=torch.ones(1, 2, 3))])
    with pytest.raises(ValueError, match="the null condition lacks 'vector'"):
        Cond(vector=torch.ones(1, 2)).drop(torch.tensor([True]), Cond())


def test_take_and_to() -> None:
    cond = Cond(tokens=torch.ones(3, 2, 4), mask=torch.ones(3, 2).bool())
    some = cond.take(slice(1, 3)).to(torch.zeros(1, dtype=torch.float64))
    assert some.tokens is not None and some.tokens.shape == (2, 2, 4) and some.tokens.dtype == torch.float64
    assert some.mask is not None and some.mask.dtype == torch.bool
