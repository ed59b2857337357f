"""The kernel distance: unbiased, equal to its definition, and with an interval that covers."""

from __future__ import annotations

import pytest
import torch

from safelight.evaluate.kernel import kernel, mmd2
from safelight.spec import SpecError


def test_it_equals_the_definition_term_by_term() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=random).double(), torch.randn(5, 3, generator=random).double()

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    xx = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    yy = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    xy = sum(k(x[i], y[j]) for i in range(7) for j in range(5)) / (7 * 5)
    assert mmd2(x, y) == pytest.approx(xx + yy - 2 * xy, abs=1e-12)


def test_a_shift_has_a_closed_form_in_one_dimension() -> None:
    """x ~ N(0,1), y ~ N(m,1), k = (ab+1)^3: MMD^2 = 3 m^2 + 3 (m^2)^2 + (3m + m^3)^2, from E k = sum_j C(3,j) E[a^j] E[b^j]."""
    random = torch.Generator().manual_seed(1)
    m = 0.5
    # E y - E x = m, E y^2 - E x^2 = m^2, E y^3 - E x^3 = 3 m + m^3
    truth = 3 * m**2 + 3 * m**4 + (3 * m + m**3) ** 2
    trials = [mmd2(torch.randn(200, 1, generator=random), torch.randn(200, 1, generator=random) + m) for _ in range(300)]
    values = torch.tensor(trials)
    assert abs(values.mean().item() - truth) < 4 * values.std().item() / 300**0.5


def test_it_is_unbiased_and_its_interval_covers() -> None:
    """Same distribution: the mean over trials is 0 (a biased V-statistic would be far above), and 95 % intervals hold 0."""
    random = torch.Generator().manual_seed(2)
    found = [kernel(torch.randn(200, 16, generator=random), torch.randn(300, 16, generator=random)) for _ in range(100)]
    values = torch.tensor([f.value for f in found])
    assert abs(values.mean().item()) < 4 * values.std().item() / 10
    assert sum(f.low <= 0 <= f.high for f in found) >= 93
    assert (values < 0).any()


def test_a_difference_is_seen_and_the_seed_only_moves_the_interval() -> None:
    random = torch.Generator().manual_seed(3)
    x, y = torch.randn(400, 8, generator=random), torch.randn(400, 8, generator=random) + 0.5
    a, b = kernel(x, y, seed=0), kernel(x, y, seed=1)
    assert a.low > 0
    assert a.value == b.value
    assert a.low != b.low
    assert kernel(x, y, seed=0) == a


def test_refusals() -> None:
    with pytest.raises(SpecError):
        kernel(torch.zeros(19, 2), torch.zeros(50, 2))
    with pytest.raises(SpecError):
        mmd2(torch.zeros(4, 2), torch.zeros(4, 3))
