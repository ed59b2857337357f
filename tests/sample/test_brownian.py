"""Brownian noise: pieces of one path, normal, independent, the same for every batch, and steadier results as steps are added."""

from __future__ import annotations

import math

import pytest
import torch

from safelight.noise import Noise
from safelight.process import Level
from safelight.sample import trajectory
from safelight.sample.brownian import brownian
from safelight.spec import build
from tests.oracle import Mixture, final

PROCESS = build("edm", "process")


def levels(*ratios: float) -> list[Level]:
    return [PROCESS.at(PROCESS.time(-2 * math.log(s))) for s in ratios]


@pytest.mark.parametrize("eta", [0.3, 1.0, 2.0])
def test_pieces_are_normal_independent_and_make_the_whole(eta: float) -> None:
    count = 4000
    noise, like, stops = Noise(3, count), torch.empty(count, 1, dtype=torch.float64), levels(80, 20, 5, 1, 0.3, 0.05)
    pieces = torch.stack([brownian(noise, a, b, like, eta).flatten() for a, b in zip(stops, stops[1:], strict=False)])
    covariance = pieces @ pieces.T / count
    assert float((covariance - torch.eye(5, dtype=torch.float64)).abs().max()) < 5 / math.sqrt(count)
    assert float(pieces.mean(1).abs().max()) < 5 / math.sqrt(count)
    kurtosis = pieces.pow(4).mean(1)
    assert float((kurtosis - 3).abs().max()) < 0.6

    # e^(eta lambda) U is a Brownian motion: the increments of two steps add up to that of both.
    lam = [-math.log(level.floats[2]) for level in stops[:3]]

    def spread(i: int, j: int) -> float:
        return math.sqrt(math.exp(2 * eta * lam[j]) - math.exp(2 * eta * lam[i]))

    whole = brownian(noise, stops[0], stops[2], like, eta).flatten()
    torch.testing.assert_close(spread(0, 1) * pieces[0] + spread(1, 2) * pieces[1], spread(0, 2) * whole, rtol=1e-9, atol=1e-12)


def test_a_picture_has_its_own_path_in_any_batch() -> None:
    now, to = levels(10, 3)
    whole = brownian(Noise(9, 5), now, to, torch.empty(5, 3, 4), 1.0)
    assert torch.equal(brownian(Noise(9, [3]), now, to, torch.empty(1, 3, 4), 1.0), whole[3:4])
    assert not torch.equal(brownian(Noise(10, 5), now, to, torch.empty(5, 3, 4), 1.0), whole)


@pytest.mark.parametrize("kind", ["dpm++2m-sde", "dpm++3m-sde"])
def test_more_steps_see_the_same_noise(kind: str) -> None:
    """With one path the result settles as steps are added; with fresh draws every count is another sample."""
    mixture, grid = Mixture.ring(), build("exponential", "grid")
    x = 80 * torch.randn(256, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(steps: int, path: bool) -> torch.Tensor:
        sampler = build({"kind": kind, "brownian": path}, "sampler")
        return final(trajectory(mixture.denoise, x, PROCESS.at(grid(PROCESS, steps)), sampler, Noise(5))).x

    best = run(200, True)
    apart = [float((run(n, True) - best).square().mean().sqrt()) for n in (25, 50, 100)]
    assert apart[0] > apart[1] > apart[2] and apart[2] < 0.15
    fresh = run(200, False)
    assert float((run(100, False) - fresh).square().mean().sqrt()) > 0.7
