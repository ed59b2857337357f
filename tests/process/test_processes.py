"""Processes: tables equal their formulas, times and log-SNR invert each other, the data is exact, slopes are derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from safelight.process.tables import Table
from safelight.spec import SpecError, build, kinds

B0, B1 = 1e-4, 0.02
FORMULAS = {
    "linear": lambda T: np.linspace(B0, B1, T),
    "scaled-linear": lambda T: np.linspace(B0**0.5, B1**0.5, T) ** 2,
    "quadratic": lambda T: B0 + (B1 - B0) * (np.arange(T) / (T - 1)) ** 2,
    "sigmoid": lambda T: 1 / (1 + np.exp(-np.linspace(-6, 6, T))) * (B1 - B0) + B0,
    "exponential": lambda T: B0 * (B1 / B0) ** (np.arange(T) / (T - 1)),
    "constant": lambda T: np.full(T, B1),
    "listed": lambda T: np.linspace(B0, B1, T),
    "cosine-betas": lambda T: np.clip(
        1
        - np.cos(((np.arange(T) + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        / np.cos((np.arange(T) / T + 0.008) / 1.008 * np.pi / 2) ** 2,
        0,
        0.999,
    ),
}
TABLES = [kind for kind, cls in kinds("process").items() if issubclass(cls, Table)]


def test_every_table_is_here() -> None:
    assert set(TABLES) == set(FORMULAS)


@pytest.mark.parametrize("T", [2, 50, 200, 1000])
@pytest.mark.parametrize("kind", TABLES)
def test_table_equals_its_formula(kind: str, T: int) -> None:
    process = build({"kind": kind, "T": T}, "process")
    betas = FORMULAS[kind](T)
    np.testing.assert_allclose(process.betas().numpy(), betas, rtol=0, atol=1e-12)
    abar = np.cumprod(1 - betas)
    level = process.at((torch.arange(T, dtype=torch.float64) + 1) / T)
    np.testing.assert_allclose(level.alpha.numpy(), np.sqrt(abar), rtol=0, atol=1e-10)
    np.testing.assert_allclose(level.sigma.numpy(), np.sqrt(1 - abar), rtol=0, atol=1e-10)
    np.testing.assert_allclose(process.alphas_cumprod().numpy(), abar, rtol=0, atol=1e-10)
    assert process.told(level).tolist() == list(range(T))  # the network hears integers at the entries


@pytest.mark.parametrize("kind", TABLES)
def test_zero_terminal_snr(kind: str) -> None:
    """Lin et al. 2023, algorithm 1: the first entry is kept, the last is exactly nothing but noise."""
    plain, zero = (
        build({"kind": kind, "T": 100}, "process"),
        build({"kind": kind, "T": 100, "zero_terminal_snr": True}, "process"),
    )
    root = np.sqrt(plain.alphas_cumprod().numpy())
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    level = zero.at((torch.arange(100, dtype=torch.float64) + 1) / 100)
    np.testing.assert_allclose(level.alpha.numpy(), expected, rtol=0, atol=1e-9)
    assert float(zero.alpha(1.0)) == 0 and float(zero.sigma(1.0)) == 1 and zero.terminal_snr == 0
    # In the last interval alpha/sigma goes linearly to 0.
    t = torch.linspace(0.99, 1.0, 5, dtype=torch.float64)
    r = zero.alpha(t) / zero.sigma(t)
    np.testing.assert_allclose(r.numpy(), float(r[0]) * np.array([1, 0.75, 0.5, 0.25, 0]), atol=1e-12)


def test_the_tutorials_table_keeps_signal() -> None:
    """T = 200, linear: sqrt(abar_T) = 0.36, so x_T is no pure noise; it is reported."""
    process = build({"kind": "linear", "T": 200}, "process")
    assert float(process.alpha(1.0)) == pytest.approx(0.364, abs=2e-3)
    assert process.terminal_snr == pytest.approx(float(process.alpha(1.0)) ** 2 / (1 - float(process.alpha(1.0)) ** 2))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", TABLES)
def test_between_entries(kind: str, zero: bool) -> None:
    process = build({"kind": kind, "T": 10, "zero_terminal_snr": zero}, "process")
    t = (torch.tensor([3.0, 3.25, 3.5, 4.0], dtype=torch.float64) + 1) / 10
    logsnr = process.logsnr(t)
    np.testing.assert_allclose(
        logsnr[1:3].numpy(), (logsnr[0] + (logsnr[3] - logsnr[0]) * torch.tensor([0.25, 0.5]).double()).numpy(), rtol=1e-12
    )
    below = process.at(torch.tensor([0.0, 0.025, 0.05, 0.1], dtype=torch.float64)).ratio
    np.testing.assert_allclose(below.numpy(), float(below[-1]) * np.array([0, 0.25, 0.5, 1]), rtol=1e-12)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", list(kinds("process")))
def test_time_inverts_logsnr(kind: str, zero: bool) -> None:
    cls = kinds("process")[kind]
    if zero and not issubclass(cls, Table):
        return
    process = build({"kind": kind, "zero_terminal_snr": True} if zero else kind, "process")
    t = torch.linspace(1e-4, 1, 400, dtype=torch.float64)
    back = process.time(process.logsnr(t))
    np.testing.assert_allclose(back.numpy(), t.numpy(), rtol=1e-9, atol=1e-12)
    s = process.at(t).ratio
    assert bool((s[1:] > s[:-1]).all())
    data = process.at(0.0)
    assert (float(data.alpha), float(data.sigma)) == (1.0, 0.0) and float(process.time(math.inf)) == 0
    assert float(process.time(-math.inf)) == 1


def spent(t: np.ndarray) -> np.ndarray:
    """The integral of beta over 0..t."""
    return 0.1 * t + 19.9 * t**2 / 2


CLOSED = {
    "cosine": lambda t: (np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)),
    "flow": lambda t: (1 - t, t),
    "ve": lambda t: (np.ones_like(t), 0.01 * (50 / 0.01) ** t),
    "vp": lambda t: (np.exp(-spent(t) / 2), np.sqrt(1 - np.exp(-spent(t)))),
    "sub-vp": lambda t: (np.exp(-spent(t) / 2), 1 - np.exp(-spent(t))),
    "edm": lambda t: (np.ones_like(t), (0.002 ** (1 / 7) + t * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7),
}


@pytest.mark.parametrize("kind", list(CLOSED))
def test_continuous_equals_its_formula(kind: str) -> None:
    t = np.linspace(1e-3, 1, 101)
    alpha, sigma = CLOSED[kind](t)
    level = build(kind, "process").at(torch.from_numpy(t))
    np.testing.assert_allclose(level.alpha.numpy(), alpha, rtol=0, atol=1e-12)
    np.testing.assert_allclose(level.sigma.numpy(), sigma, rtol=1e-12, atol=1e-12)


def test_flow_shift() -> None:
    t, shift = 0.4, 3.0
    flow = build({"kind": "flow", "shift": shift}, "process")
    assert float(flow.sigma(t)) == pytest.approx(shift * t / (1 + (shift - 1) * t))
    assert float(flow.told(flow.at(t))) == pytest.approx(1000 * float(flow.sigma(t)))


def test_a_slope_can_be_asked_for_while_nothing_is_differentiated() -> None:
    """As a sampler does in the middle of a run."""
    process = build("cosine", "process")
    wanted = process.slope(process.at(0.3))
    with torch.inference_mode():
        assert process.slope(process.at(0.3)) == wanted


@pytest.mark.parametrize("kind", [k for k in kinds("process") if k != "flow"])
def test_slope_is_the_derivative(kind: str) -> None:
    process = build(kind, "process")
    t, h = torch.tensor([0.1234, 0.5006, 0.87654], dtype=torch.float64), 1e-7
    da, ds = process.slope(process.at(t))
    np.testing.assert_allclose(
        da.numpy(), ((process.alpha(t + h) - process.alpha(t - h)) / (2 * h)).numpy(), rtol=2e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        ds.numpy(), ((process.sigma(t + h) - process.sigma(t - h)) / (2 * h)).numpy(), rtol=2e-5, atol=1e-6
    )


def test_slope_at_an_entry_is_not_lost() -> None:
    process = build("linear", "process")
    da, ds = process.slope(process.at(torch.tensor([0.5, 1.0], dtype=torch.float64)))
    assert bool((da < -1e-3).all()) and bool((ds > 0).all())


def test_chain_and_closed_form_agree() -> None:
    """Noising step by step by the betas is the closed form: same mean factor and variance."""
    process = build({"kind": "linear", "T": 50}, "process")
    mean, var = 1.0, 0.0
    for beta in process.betas().tolist():
        mean, var = mean * math.sqrt(1 - beta), var * (1 - beta) + beta
    level = process.at(1.0)
    assert mean == pytest.approx(float(level.alpha), rel=1e-12) and var == pytest.approx(float(level.sigma) ** 2, rel=1e-12)


def test_add_noise_and_broadcast() -> None:
    process = build("cosine", "process")
    x0, eps = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    t = torch.tensor([0.0, 0.5, 1.0])
    x = process.add_noise(x0, eps, t)
    assert torch.equal(x[0], x0[0])
    torch.testing.assert_close(x[1], math.sqrt(0.5) * (x0[1] + eps[1]))
    assert torch.equal(x[2], eps[2])


def test_bad_input() -> None:
    process = build("linear", "process")
    with pytest.raises(SpecError, match=r"a time lies in \[0, 1\]"):
        process.at(1.5)
    with pytest.raises(SpecError, match=r"process.T: Input should be greater than or equal to 2"):
        build({"kind": "linear", "T": 1}, "process")
    with pytest.raises(SpecError, match="beta_start .* must not exceed beta_end"):
        build({"kind": "linear", "beta_start": 0.5}, "process")
    with pytest.raises(SpecError, match="sigma_min .* must be below sigma_max"):
        build({"kind": "ve", "sigma_min": 60.0}, "process")


def test_a_table_that_runs_out_of_numbers_is_refused() -> None:
    """Where float64 cannot tell entries apart, rescaling to a zero terminal SNR would give NaN."""
    process = build({"kind": "linear", "T": 4000, "beta_end": 0.9, "zero_terminal_snr": True}, "process")
    with pytest.raises(SpecError, match="nothing of the picture is left well before the last of T = 4000"):
        process.at(0.5)


def test_a_listed_table_is_what_it_lists() -> None:
    values = [0.01, 0.3, 0.05]
    process = build({"kind": "listed", "T": 3, "values": values}, "process")
    np.testing.assert_allclose(process.alphas_cumprod(), np.cumprod(1 - np.array(values)), rtol=1e-12)
    with pytest.raises(SpecError, match="T = 4 betas are needed"):
        build({"kind": "listed", "T": 4, "values": values}, "process")


def test_the_last_entry_can_be_put_just_above_zero_snr() -> None:
    """Beside diffusers' 2^-24: the other entries are those of the table that ends at 0."""
    published = {"kind": "scaled-linear", "beta_start": 0.00085, "beta_end": 0.012, "zero_terminal_snr": True}
    pure, near = build(published, "process"), build({**published, "terminal": 2.0**-24}, "process")
    np.testing.assert_array_equal(near.alphas_cumprod()[:-1], pure.alphas_cumprod()[:-1])
    assert float(near.alpha(1.0)) == pytest.approx(2.0**-12, rel=1e-12) and near.ends[1] == pytest.approx(4096, rel=1e-6)
    assert float(near.time(near.logsnr(0.9995))) == pytest.approx(0.9995, abs=1e-12)
