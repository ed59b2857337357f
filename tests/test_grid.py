"""Grids: tables give their integer entries, formulas hold, times fall strictly to 0, too many steps are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safelight.spec import SpecError, build, kinds

PROCESSES = [
    "linear",
    "cosine-betas",
    {"kind": "linear", "zero_terminal_snr": True},
    "cosine",
    "ve",
    "edm",
    "flow",
    {"kind": "flow", "shift": 3.0},
]


def entries(kind: str, T: int, n: int) -> list[float]:
    process = build({"kind": "linear", "T": T}, "process")
    times = build(kind, "grid")(process, n)
    assert float(times[-1]) == 0
    return process.told(process.at(times[:-1])).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 50, 999, 1000])
def test_integer_entries(n: int) -> None:
    """The spacings of Lin et al. 2023, table 2, exactly."""
    T = 1000
    assert entries("leading", T, n) == [k * (T // n) for k in range(n)][::-1]
    assert entries("trailing", T, n) == (np.round(np.arange(T, 0, -T / n))[:n] - 1).tolist()
    assert entries("uniform", T, n) == np.round(np.linspace(0, T - 1, n))[::-1].tolist() if n > 1 else [T - 1]


@pytest.mark.parametrize("process_spec", PROCESSES, ids=str)
@pytest.mark.parametrize("kind", list(kinds("grid")))
def test_strictly_falling_to_the_data(kind: str, process_spec: object) -> None:
    process, grid = build(process_spec, "process"), build(kind, "grid")  # type: ignore[arg-type]
    for n in (1, 2, 3, 4, 10, 50, 333, 1000):
        times = grid(process, n)
        assert times.shape == (n + 1,) and times.dtype == torch.float64
        assert bool((times[1:] < times[:-1]).all()) and float(times[-1]) == 0 and float(times[0]) <= 1


def test_karras_and_logsnr_formulas() -> None:
    process = build("edm", "process")
    i = np.arange(10)
    s = process.at(build("karras", "grid")(process, 10)).sigma.numpy()[:-1]
    np.testing.assert_allclose(s, (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, rtol=1e-10)
    s = process.at(build("logsnr", "grid")(process, 10)).sigma.numpy()[:-1]
    np.testing.assert_allclose(s, np.exp(np.linspace(np.log(80), np.log(0.002), 10)), rtol=1e-10)
    s = process.at(build({"kind": "karras", "s_min": 0.1, "s_max": 10.0}, "grid")(process, 10)).sigma.numpy()
    assert (s[0], s[-2]) == (pytest.approx(10), pytest.approx(0.1))


def test_the_beta_grid_is_scipys() -> None:
    from scipy.stats import beta

    for a, b in ((0.6, 0.6), (2.0, 5.0)):
        times = build({"kind": "beta", "a": a, "b": b}, "grid")(build("flow", "process"), 20)
        np.testing.assert_allclose(times[:-1].numpy(), beta.ppf(1 - np.arange(20) / 20, a, b), rtol=1e-12)
    every = entries("beta", 100, 100)
    assert every == list(range(99, -1, -1))  # as many steps as entries: each of them


def test_fitted_places_are_taken_and_drawn_out() -> None:
    process = build("edm", "process")
    fitted = build({"kind": "optimised", "s": [80.0, 8.0, 0.8, 0.08]}, "grid")
    np.testing.assert_allclose(process.at(fitted(process, 4)).sigma[:-1].numpy(), [80, 8, 0.8, 0.08], rtol=1e-9)
    twice = process.at(fitted(process, 8)).sigma.numpy()
    u = np.array([80 / 81, 8 / 9, 0.8 / 1.8, 0.08 / 1.08, 0.0])
    np.testing.assert_allclose(twice[:8:2], [80, 8, 0.8, 0.08], rtol=1e-9)
    np.testing.assert_allclose(twice[1:8:2] / (1 + twice[1:8:2]), (u[1:] + u[:-1]) / 2, rtol=1e-9)
    with pytest.raises(SpecError, match="the places must fall"):
        build({"kind": "optimised", "s": [1.0, 2.0]}, "grid")


def test_exponential_and_lu_are_logsnr() -> None:
    process = build("edm", "process")
    wanted = build("logsnr", "grid")(process, 20)
    for kind in ("exponential", "lu"):
        np.testing.assert_allclose(build(kind, "grid")(process, 20).numpy(), wanted.numpy(), rtol=1e-9, atol=1e-12)


def test_rect_is_even_in_the_flows_time() -> None:
    flow = build("flow", "process")
    np.testing.assert_allclose(build("rect", "grid")(flow, 8).numpy(), np.linspace(1, 0, 9), atol=1e-12)
    linear = build("linear", "process")
    s = linear.at(build("rect", "grid")(linear, 8)).ratio.numpy()
    np.testing.assert_allclose(s / (1 + s), (157.41 / 158.41) * np.linspace(1, 0, 9), atol=1e-5)
    fine = linear.at(build("rect", "grid")(linear, 500)).ratio  # ends at the table's first level, not below it
    assert float(fine[-2]) == pytest.approx(linear.ends[0], rel=1e-6)


def test_shifted() -> None:
    u = np.linspace(1, 0, 9)
    times = build({"kind": "shifted", "shift": 3.0}, "grid")(build("flow", "process"), 8)
    np.testing.assert_allclose(times.numpy(), 3 * u / (1 + 2 * u), atol=1e-15)


@pytest.mark.parametrize("kind", list(kinds("grid")))
def test_refusals(kind: str) -> None:
    process, grid = build({"kind": "linear", "T": 10}, "process"), build(kind, "grid")
    assert len(grid(process, 10)) == 11
    with pytest.raises(SpecError, match="11 steps do not fit process 'linear', a table of T = 10 entries"):
        grid(process, 11)
    with pytest.raises(SpecError, match="at least 1 is needed"):
        grid(process, 0)


def test_the_public_function() -> None:
    import safelight

    process = build("linear", "process")
    assert torch.equal(safelight.grid(process, 10), build("uniform", "grid")(process, 10))
    assert torch.equal(safelight.grid("edm", 10, "karras"), build("karras", "grid")(build("edm", "process"), 10))
