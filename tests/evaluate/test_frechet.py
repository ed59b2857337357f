"""The Frechet distance against closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from safelight.evaluate.frechet import Moments, distance, frechet, merge, moments, warning
from safelight.spec import SpecError


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Moments:
    return Moments(1001, mean.double(), covariance.double() * 1000)


def test_commuting_covariances_have_a_closed_form() -> None:
    """C_a = Q diag(a) Q^T, C_b = Q diag(b) Q^T: FD = |m|^2 + sum (sqrt a - sqrt b)^2."""
    random = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(48, 48, generator=random, dtype=torch.float64))
    a, b = (torch.rand(48, generator=random, dtype=torch.float64) * 10 for _ in range(2))
    b[:8] = 0  # rank deficient
    m = torch.randn(48, generator=random, dtype=torch.float64)
    got = distance(gaussian(m, q @ torch.diag(a) @ q.T), gaussian(torch.zeros(48), q @ torch.diag(b) @ q.T))
    assert got == pytest.approx(float(m.square().sum() + (a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)


def test_two_dimensions_that_do_not_commute() -> None:
    """tr sqrt(A B) of 2x2 is sqrt(tr(AB) + 2 sqrt(det AB)) (Cayley and Hamilton)."""
    a, b = torch.tensor([[2.0, 0.6], [0.6, 1.0]]).double(), torch.tensor([[0.5, -0.3], [-0.3, 3.0]]).double()
    root = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float(torch.linalg.det(a @ b))))
    got = distance(gaussian(torch.tensor([1.0, 2.0]), a), gaussian(torch.zeros(2), b))
    assert got == pytest.approx(5 + float(a.trace() + b.trace()) - 2 * root, abs=1e-9)


def test_samples_converge_to_the_closed_form_and_one_dimension_is_exact() -> None:
    x = torch.tensor([[0.0], [2.0], [4.0]])
    y = torch.tensor([[1.0], [2.0], [3.0]])
    assert frechet(x, y) == pytest.approx((2 - 1) ** 2, abs=1e-12)  # equal means; standard deviations 2 and 1
    random = torch.Generator().manual_seed(1)
    z = torch.randn(20_000, 4, generator=random, dtype=torch.float64)
    assert frechet(z[:10_000], 2 * z[10_000:] + 1) == pytest.approx(4 + 4, rel=0.03)


def test_identical_sets_are_at_zero_even_when_rank_deficient_or_far_from_the_origin() -> None:
    random = torch.Generator().manual_seed(2)
    for n in (50, 500):
        x = torch.randn(n, 128, generator=random) * torch.linspace(0.001, 30, 128) + 1000
        assert frechet(x, x.flip(0)) < 1e-6


def test_streaming_and_machines_equal_one_pass() -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(1000, 32, generator=random, dtype=torch.float64) * 3 + 1e4  # a mean that drowns naive sums of squares
    whole = moments(x)
    parts = [moments(p) for p in x.split([1, 9, 90, 400, 500])]
    left = parts[0]
    for part in parts[1:]:
        left = merge(left, part)
    tree = merge(merge(parts[4], parts[2]), merge(merge(parts[0], parts[3]), parts[1]))
    for other in (left, tree):
        assert other.n == 1000
        torch.testing.assert_close(other.mean, whole.mean, rtol=1e-13, atol=0)
        torch.testing.assert_close(other.covariance, whole.covariance, rtol=1e-9, atol=1e-9)
        assert distance(other, whole) < 1e-6
    torch.testing.assert_close(whole.covariance, torch.cov(x.T), rtol=1e-9, atol=1e-9)


def test_float32_features_are_summed_in_float64() -> None:
    """torcheval#192: a float32 covariance is wrong; ours of float32 features equals that of their float64 copies."""
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(4)) + 300
    assert torch.equal(moments(x).scatter, moments(x.double()).scatter)


def test_too_few_pictures_are_warned_of_and_bad_features_refused() -> None:
    assert "biased" in warning(127, 128)
    assert warning(128, 128) == ""
    for bad in (torch.full((3, 2), float("nan")), torch.zeros(3), torch.zeros(0, 3)):
        with pytest.raises(SpecError):
            moments(bad)
    with pytest.raises(SpecError, match="at least 2"):
        frechet(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(SpecError, match="dimensions"):
        frechet(torch.zeros(4, 3), torch.zeros(5, 2))
