"""Averages against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from safelight.spec import SpecError, build, kinds
from safelight.train.ema import Average, Averages, Classic, Power, gamma_of, width

KINDS: list[Average] = [Classic(decay=0.9), Classic(decay=0.9, warmup=False), Power(sigma_rel=0.05), Power(sigma_rel=0.2)]


def _walk(kinds: dict[str, Average], steps: int) -> tuple[Averages, list[torch.Tensor]]:
    """Averages over a random walk of one float64 parameter, and every value that it had, the initial one first."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(5, dtype=torch.float64))
    averages, log = Averages(kinds, [("w", parameter)]), [parameter.detach().clone()]
    for _ in range(steps):
        with torch.no_grad():
            parameter += torch.randn(5, dtype=torch.float64)
        averages.update()
        log.append(parameter.detach().clone())
    return averages, log


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_equals_the_closed_form_of_logged_weights(kind: Average, steps: int) -> None:
    averages, log = _walk({"one": kind}, steps)
    # m_n = prod beta w_0 + sum_i (1 - beta_i) prod_{j > i} beta_j w_i
    betas = [kind.beta(n) for n in range(1, steps + 1)]
    expected = math.prod(betas) * log[0]
    for i in range(steps):
        expected = expected + (1 - betas[i]) * math.prod(betas[i + 1 :]) * log[i + 1]
    torch.testing.assert_close(averages.tensors("one")["w"], expected, rtol=1e-6, atol=1e-12)


def test_power_weighs_the_past_as_its_power() -> None:
    """Weight i of n counts as i^gamma (the paper's continuous limit; steps come within 2 % of it)."""
    kind, n = Power(sigma_rel=0.1), 400
    averages, log = _walk({"one": kind}, n)
    betas = [kind.beta(k) for k in range(1, n + 1)]
    used = np.array([(1 - betas[i]) * math.prod(betas[i + 1 :]) for i in range(n)])
    i = np.arange(1, n + 1)
    near = i**kind.gamma / (i**kind.gamma).sum()
    assert used.sum() == pytest.approx(1, abs=1e-12)  # nothing of the start is left
    assert np.abs(used - near).max() < 0.02 * near.max()
    found = (torch.stack(log[1:]) * torch.from_numpy(used)[:, None]).sum(0)
    torch.testing.assert_close(averages.tensors("one")["w"], found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.1, 0.15, 0.25])
def test_gamma_gives_the_relative_width(sigma_rel: float) -> None:
    g = gamma_of(sigma_rel)
    assert math.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3))) == pytest.approx(sigma_rel, rel=1e-9)
    # and the width of the discrete average is that part of the run
    assert width(Power(sigma_rel=sigma_rel), 3000) / 3000 == pytest.approx(sigma_rel, rel=0.01)


def test_published_gammas() -> None:
    """EDM2, section 3.2: sigma_rel = 0.05 and 0.10 are gamma = 16.97 and 6.94."""
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)


def test_the_first_step() -> None:
    """Power is exactly the first weights; classic keeps 2/11 of the start with its warm-up, `decay` of it without."""
    averages, (start, first) = _walk({"p": Power(), "c": Classic(decay=0.999), "plain": Classic(decay=0.999, warmup=False)}, 1)
    assert torch.equal(averages.tensors("p")["w"], first)
    torch.testing.assert_close(averages.tensors("c")["w"], (2 * start + 9 * first) / 11)
    torch.testing.assert_close(averages.tensors("plain")["w"], 0.999 * start + 0.001 * first)


def test_warmup_forgets_the_start() -> None:
    """The documented numbers: 1e-6 of the initial weights left after 20 steps with the warm-up, 37 % after 10,000 without."""
    warm, plain = Classic(decay=0.9999), Classic(decay=0.9999, warmup=False)
    assert math.prod(warm.beta(n) for n in range(1, 21)) < 1e-6
    assert math.prod(plain.beta(n) for n in range(1, 10_001)) == pytest.approx(math.exp(-1), rel=1e-3)


def test_averages_watch_and_nothing_more() -> None:
    parameter = nn.Parameter(torch.ones(3))
    averages = Averages({"a": Power(), "b": Classic()}, [("w", parameter)])
    averages.update()
    assert torch.equal(parameter, torch.ones(3))
    assert averages.tensors("a")["w"].data_ptr() != averages.tensors("b")["w"].data_ptr() != parameter.data_ptr()


def test_registered() -> None:
    assert set(kinds("average")) == {"classic", "power"}
    with pytest.raises(SpecError, match="sigma_rel"):
        build({"kind": "power", "sigma_rel": 0.5}, "average")
