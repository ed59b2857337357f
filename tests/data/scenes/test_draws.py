"""The counter-based draws: independent of batch and order, uniform, and fixed for ever."""

from __future__ import annotations

import pytest
import torch

from safelight.data.scenes.draws import Draws, fold, mix, name_hash


def test_the_words_are_fixed() -> None:
    """A change here would move every held-out set and every trained model's data."""
    assert mix(torch.tensor([0, 1, 2**32 - 1])).tolist() == [0, 114555507, 3652544131]
    assert Draws(7, 3, torch.tensor([0, 1000]), 2).words.tolist() == [[1961305391, 3543183662], [1270614122, 3904444228]]
    assert name_hash("cell", "cat", "noto") == 883139828


def test_mix_is_a_bijection_on_a_sample_and_stays_in_32_bits() -> None:
    x = torch.arange(200_000) * 21_474  # spread over [0, 2^32)
    y = mix(x)
    assert len(y.unique()) == len(x) and int(y.min()) >= 0 and int(y.max()) < 2**32


def test_a_scene_does_not_know_its_batch() -> None:
    alone = Draws(1, 2, torch.tensor([777]), 5).words[0]
    assert torch.equal(Draws(1, 2, torch.arange(1000), 9).words[777, :5], alone)
    assert not torch.equal(Draws(1, 3, torch.tensor([777]), 5).words[0], alone)
    assert not torch.equal(Draws(2**32 + 1, 2, torch.tensor([777]), 5).words[0], alone)


def test_uniform_and_uncorrelated() -> None:
    words = Draws(0, 0, torch.arange(50_000), 4).words.double() / 2**32
    for column in range(4):
        counts = torch.histc(words[:, column], 20, 0, 1)
        chi2 = float(((counts - 2500) ** 2 / 2500).sum())
        assert chi2 < 45  # 19 degrees of freedom: p = 7e-4
    correlation = torch.corrcoef(words.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.02  # 4.5 standard deviations
    bits = (Draws(0, 1, torch.arange(20_000), 1).words >> torch.arange(32)) & 1
    assert float((bits.double().mean(0) - 0.5).abs().max()) < 0.016


def test_weighted_draws_have_the_odds_asked_for() -> None:
    draws = Draws(5, 0, torch.arange(40_000), 2)
    index, some = draws.weighted(torch.tensor([3, 0, 1]))
    share = torch.bincount(index, minlength=3) / 40_000
    assert torch.allclose(share, torch.tensor([0.75, 0.0, 0.25]), atol=0.01) and bool(some.all())
    weights = torch.tensor([[0, 1], [0, 0]]).repeat(20_000, 1)
    index, some = draws.weighted(weights)
    assert bool((index[::2] == 1).all()) and bool(some[::2].all()) and not bool(some[1::2].any())


def test_running_out_is_an_error() -> None:
    draws = Draws(0, 0, torch.arange(2), 3)
    draws.below(5, 3)
    with pytest.raises(IndexError, match="4 draws asked of 3"):
        draws.below(5)


def test_fold_minds_the_order() -> None:
    assert int(fold(1, 2)) != int(fold(2, 1))
