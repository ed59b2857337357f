"""Precision, recall, density, coverage against their definitions by brute force, and on cases with a known answer."""

from __future__ import annotations

import pytest
import torch

from safelight.evaluate.manifold import manifold, radii
from safelight.spec import SpecError


def brute(real: torch.Tensor, fake: torch.Tensor, k: int) -> tuple[float, float, float, float]:
    def d(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).square().sum().sqrt())

    def radius(i: int, x: torch.Tensor) -> float:
        return sorted(d(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]

    rr, rf = [radius(i, real) for i in range(len(real))], [radius(j, fake) for j in range(len(fake))]
    inside = [[d(real[i], fake[j]) <= rr[i] for i in range(len(real))] for j in range(len(fake))]
    precision = sum(any(row) for row in inside) / len(fake)
    recall = sum(any(d(real[i], fake[j]) <= rf[j] for j in range(len(fake))) for i in range(len(real))) / len(real)
    density = sum(map(sum, inside)) / (k * len(fake))
    coverage = sum(any(inside[j][i] for j in range(len(fake))) for i in range(len(real))) / len(real)
    return precision, recall, density, coverage


@pytest.mark.parametrize(("n", "m", "k"), [(9, 7, 1), (12, 20, 3), (20, 12, 5)])
def test_brute_force(n: int, m: int, k: int) -> None:
    random = torch.Generator().manual_seed(n)
    real, fake = torch.randn(n, 3, generator=random).double(), torch.randn(m, 3, generator=random).double() * 1.2 + 0.3
    assert manifold(real, fake, k, rows=5) == pytest.approx(brute(real, fake, k), abs=1e-12)
    grid_real, grid_fake = real.round(), fake.round()  # many ties and twins
    assert manifold(grid_real, grid_fake, k, rows=4) == pytest.approx(brute(grid_real, grid_fake, k), abs=1e-12)


def test_known_cases() -> None:
    random = torch.Generator().manual_seed(0)
    real = torch.randn(400, 4, generator=random)
    far = manifold(real, real + 100)
    assert far == (0.0, 0.0, 0.0, 0.0)
    same = manifold(real, real)
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    other = manifold(real, torch.randn(400, 4, generator=random))
    assert other.density == pytest.approx(1, abs=0.12)  # the same distribution: density is 1 in expectation (Naeem et al. 2020)
    assert other.coverage == pytest.approx(
        1 - (400 * 399 * 398 * 397 * 396) / (800 * 799 * 798 * 797 * 796) * 32 / 32, abs=0.06
    )
    collapsed = manifold(real, real[:1] + 0.01 * torch.randn(400, 4, generator=random))
    assert collapsed.precision > 0.95
    assert collapsed.recall < 0.05
    assert collapsed.coverage < 0.1


def test_twins_are_neighbours_at_distance_zero() -> None:
    x = torch.tensor([[0.0], [0.0], [3.0], [7.0]])
    assert radii(x, 1).tolist() == [0.0, 0.0, 3.0, 4.0]
    assert radii(x, 2, rows=1).tolist() == [3.0, 3.0, 3.0, 7.0]


def test_refusals() -> None:
    with pytest.raises(SpecError):
        manifold(torch.zeros(5, 2), torch.zeros(9, 2), k=5)
    with pytest.raises(SpecError):
        manifold(torch.zeros(9, 2), torch.zeros(9, 3))
