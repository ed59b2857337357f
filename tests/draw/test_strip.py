"""A strip shows x_t = alpha x_0 + sigma eps with one eps, and says the truth under it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safelight.draw.strip import noise_strip, number, signed, strip
from safelight.spec import SpecError, build

PROCESSES = {name: build(name, "process") for name in ("linear", "cosine", "flow", "edm")}
TIMES = (0.0, 0.25, 0.5, 1.0)


def picture() -> torch.Tensor:
    return torch.randint(0, 256, (1, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_every_cell_is_the_closed_form_with_the_same_noise() -> None:
    x0, cells, rows = strip(picture(), PROCESSES, TIMES, seed=3)
    assert torch.equal(cells[:, 0], x0.expand(4, -1, -1, -1)), "t = 0 is the picture"
    eps = cells[1, -1]  # cosine ends in noise alone
    assert abs(eps.mean().item()) < 0.3
    assert 0.8 < eps.std().item() < 1.2
    for r, process in enumerate(PROCESSES.values()):
        for k, t in enumerate(TIMES):
            alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
            expected = (alpha * x0 + sigma * eps) / (alpha**2 + sigma**2) ** 0.5
            torch.testing.assert_close(cells[r, k], expected, rtol=1e-9, atol=1e-9)
            assert rows[r][k][:2] == (alpha, sigma)


def test_the_seed_decides_the_noise() -> None:
    a, b, c = (np.asarray(noise_strip(picture(), {"cosine": PROCESSES["cosine"]}, seed=s)) for s in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_colour_stays_colour_and_numbers_read_well() -> None:
    assert noise_strip(torch.zeros(3, 8, 8), PROCESSES, TIMES, title="t").mode == "RGB"
    assert [number(v) for v in (0, 1, 0.0417, 0.364, 79.96, 0.0000493, 12345.6)] == [
        "0",
        "1",
        "0.0417",
        "0.364",
        "80",
        "5e-05",
        "12,346",
    ]
    assert [signed(v) for v in (float("inf"), float("-inf"), 2.345, -10.06)] == ["+inf", "-inf", "+2.3", "-10.1"]


def test_refusals() -> None:
    with pytest.raises(SpecError, match="not of 2"):
        noise_strip(torch.zeros(2, 1, 4, 4), PROCESSES)
    with pytest.raises(SpecError, match="at least one"):
        noise_strip(picture(), {})
    with pytest.raises(SpecError):
        noise_strip(picture(), PROCESSES, [1.5])
