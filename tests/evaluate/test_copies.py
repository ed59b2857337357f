"""Copies are found, moved and mirrored ones too; learning the distribution is not called copying."""

from __future__ import annotations

import pytest
import torch

from safelight.evaluate.copies import copies, in_features, in_pixels, moved
from safelight.spec import SpecError


def noise(n: int, seed: int, size: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def brute(query: torch.Tensor, train: torch.Tensor, shift: int, mirror: bool) -> tuple[list[int], list[float]]:
    index, best = [], []
    variants = torch.stack(moved(query, shift, mirror), 1).double()
    for q in variants:
        d = (q[:, None] - train.double()[None]).flatten(2).square().mean(2).sqrt()
        low = d.min(0).values
        index.append(int(low.argmin()))
        best.append(float(low.min()))
    return index, best


@pytest.mark.parametrize(("shift", "mirror"), [(0, False), (1, True)])
def test_the_nearest_is_the_nearest(shift: int, mirror: bool) -> None:
    query, train = noise(6, 0), noise(50, 1)
    found = in_pixels(query, train, shift=shift, mirror=mirror, rows=7)
    index, best = brute(query, train, shift, mirror)
    assert found.index.tolist() == index
    assert found.distance.tolist() == pytest.approx(best, abs=1e-9)


def test_exact_moved_and_mirrored_copies_are_at_distance_zero() -> None:
    train = noise(40, 2)
    train[:, :, [0, 1, -2, -1]] = 0  # an empty frame, so that a shift there and back loses nothing
    train[:, :, :, [0, 1, -2, -1]] = 0
    for k, copy in enumerate(moved(train[3:4], 1, True)):
        found = in_pixels(copy, train)
        assert found.index.item() == 3, k
        assert found.distance.item() == 0


def test_the_calibration_says_one_percent_for_the_same_distribution_and_all_for_copies() -> None:
    random = torch.Generator().manual_seed(3)
    train, held, fresh = (torch.randn(n, 2, generator=random) for n in (5000, 2000, 2000))
    base = in_features(held, train)
    assert copies(in_features(fresh, train), base).fraction == pytest.approx(0.01, abs=0.008)
    assert copies(in_features(train[:100], train), base).fraction == 1.0
    half = torch.cat([train[:1000], fresh[:1000]])
    assert copies(in_features(half, train), base).fraction == pytest.approx(0.5, abs=0.01)


def test_features_in_parts_equal_the_whole() -> None:
    random = torch.Generator().manual_seed(4)
    q, t = torch.randn(20, 6, generator=random), torch.randn(100, 6, generator=random)
    a, b = in_features(q, t, rows=9), in_features(q, t)
    assert torch.equal(a.index, b.index)
    torch.testing.assert_close(a.distance, torch.cdist(q.double(), t.double()).min(1).values)


def test_refusals() -> None:
    with pytest.raises(SpecError):
        in_pixels(noise(2, 0), noise(2, 0, size=9))
    with pytest.raises(SpecError):
        in_pixels(noise(2, 0).float(), noise(2, 0))
    with pytest.raises(SpecError):
        in_features(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(SpecError):
        copies(in_features(torch.zeros(0, 3), torch.zeros(2, 3)), in_features(torch.zeros(1, 3), torch.zeros(2, 3)))
