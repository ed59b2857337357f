"""The weights of linear multistep solvers are the integrals they are said to be, at steps of every size."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from safelight.sample.dpm import to_data
from safelight.sample.multistep import exponential, polynomial, reached

PLACES = (0.0, -0.3, -0.9, -1.1)


def basis(j: int, q: float, places: tuple[float, ...] = PLACES) -> float:
    return math.prod((q - p) / (places[j] - p) for i, p in enumerate(places) if i != j)


@pytest.mark.parametrize("rate", [1.0, 2.0, -1.0, 1e-3])
@pytest.mark.parametrize("span", [1e-4, 0.01, 0.3, 1.0, 1.5, 7.0, -0.4])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_exponential_weights(span: float, rate: float, count: int) -> None:
    places = PLACES[:count]
    exact = [
        rate * quad(lambda q, j=j: math.exp(-rate * (span - q)) * basis(j, q, places), 0, span, epsrel=1e-13)[0]
        for j in range(count)
    ]
    found = exponential(places, span, rate)
    assert max(abs(a - b) for a, b in zip(found, exact, strict=True)) <= 1e-12 * max(map(abs, exact))
    assert sum(found) == pytest.approx(-math.expm1(-rate * span), rel=1e-12)


def test_polynomial_weights() -> None:
    assert polynomial(PLACES, 0.0, 0.2) == pytest.approx([quad(lambda q, j=j: basis(j, q), 0, 0.2)[0] for j in range(4)])
    even = polynomial((0.0, -1.0, -2.0, -3.0), 0.0, 1.0)  # Adams and Bashforth's own
    assert even == pytest.approx([55 / 24, -59 / 24, 37 / 24, -9 / 24])
    assert polynomial((1.0, 0.0, -1.0, -2.0), 0.0, 1.0) == pytest.approx([9 / 24, 19 / 24, -5 / 24, 1 / 24])  # and Moulton's
    assert reached((2.0, 1.0), 0.0) == pytest.approx([-1.0, 2.0])


def test_the_last_step_follows_an_estimate_that_is_even_in_s() -> None:
    def x0(s: float) -> torch.Tensor:
        return torch.tensor([[1.0 + 3 * s**2 - 2 * s**4]], dtype=torch.float64)

    near = (0.1, 0.2, 0.4)
    places = [-math.log(s) for s in near]
    found = [float(to_data([x0(s) for s in near], places, last)) - 1 for last in (1, 2, 3)]
    assert found[0] == pytest.approx(0.0298) and abs(found[1]) < 9e-4 and abs(found[2]) < 1e-12
    assert float(to_data([x0(s) for s in (0.1, 20.0)], [-math.log(0.1), -math.log(20.0)], 2)) == float(x0(0.1))
