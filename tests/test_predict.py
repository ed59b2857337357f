"""Parameterizations: one oracle, six languages, one x0; losses that agree under their weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safelight.cond import Cond
from safelight.denoise import Denoiser
from safelight.nn import Network, Output
from safelight.process import Level
from safelight.spec import SpecError, build, kinds
from tests.oracle import Mixture

KINDS = list(kinds("parameterization"))
PROCESSES = [
    "linear",
    "scaled-linear",
    "cosine-betas",
    "cosine",
    "ve",
    "edm",
    "flow",
    {"kind": "flow", "shift": 3.0},
    {"kind": "linear", "zero_terminal_snr": True},
]


class Spoken(Network):
    """A network that says what the exact denoiser believes, in the language of a parameterization."""

    def __init__(self, mixture: Mixture, process, parameterization) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.mixture, self.process, self.parameterization = mixture, process, parameterization
        self.level: Level | None = None

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        assert self.level is not None
        skip, out, inp, _ = self.parameterization.coeffs(self.level, self.process)
        wide = x.double() / inp
        x0 = self.mixture.denoise(wide, self.level).x0
        return Output(((x0 - skip * wide) / out).to(x.dtype))


@pytest.mark.parametrize("process_spec", PROCESSES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_oracle_one_x0(kind: str, process_spec: object) -> None:
    process, parameterization, mixture = build(process_spec, "process"), build(kind, "parameterization"), Mixture.ring()  # type: ignore[arg-type]
    network = Spoken(mixture, process, parameterization)
    denoiser = Denoiser(network, process, parameterization)
    for t in (0.01, 0.2, 0.5, 0.8, 0.97):
        network.level = level = process.at(t)
        alpha, sigma, s = level.floats
        x = mixture.noised(64, alpha, sigma, seed=1)
        exact = mixture.denoise(x, level).x0
        assert float((denoiser(x, level).x0 - exact).abs().max()) <= 1e-9 * float(exact.abs().max())
        single = denoiser(x.float(), level).x0
        assert single.dtype == torch.float32
        narrow = mixture.denoise(x.float(), level).x0
        assert float((single - narrow).abs().max()) <= 1e-5 * max(1.0, s)


@pytest.mark.parametrize("process_spec", PROCESSES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_target_makes_the_estimate_exact(kind: str, process_spec: object) -> None:
    """x0 = skip x + out F* with F* = a x0 + b eps, and the closed form of (a, b) is the one derived from the coefficients."""
    process, parameterization = build(process_spec, "process"), build(kind, "parameterization")  # type: ignore[arg-type]
    level = process.at(torch.tensor([0.003, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64))
    skip, out, _, _ = parameterization.coeffs(level, process)
    a, b = parameterization.target(level, process)
    torch.testing.assert_close(skip * level.alpha + out * a, torch.ones_like(a), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        skip * level.sigma + out * b, torch.zeros_like(a), rtol=1e-9, atol=1e-9 * float((out * b).abs().max() + 1)
    )


@pytest.mark.parametrize("process_spec", PROCESSES, ids=str)
def test_weighted_losses_agree(process_spec: object) -> None:
    """The squared x0 error, and so any weighting of it, is out^2 times the squared error in network space, in every language."""
    process, mixture = build(process_spec, "process"), Mixture.ring()  # type: ignore[arg-type]
    x0, eps = mixture.sample(32, 0), torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    level = process.at(0.4)
    x = level.alpha * x0 + level.sigma * eps
    expected = (mixture.denoise(x, level).x0 - x0).square().mean(1)
    for kind in KINDS:
        parameterization = build(kind, "parameterization")
        network = Spoken(mixture, process, parameterization)
        network.level = level
        loss = Denoiser(network, process, parameterization).match(x0, eps, torch.tensor(0.4, dtype=torch.float64))
        _, out, _, _ = parameterization.coeffs(level, process)
        torch.testing.assert_close(loss * out**2, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_refused_where_nothing_is_left(kind: str) -> None:
    process, parameterization = build("cosine", "process"), build(kind, "parameterization")
    with pytest.raises(SpecError, match=f"'{kind}' has no x0 where alpha = 0"):
        parameterization.coeffs(process.at(1.0), process)
    with pytest.raises(SpecError, match="has no x0 where alpha = 0"):
        parameterization.target(process.at(torch.tensor([0.5, 1.0])), process)


@pytest.mark.parametrize("kind", ["x0", "v", "velocity", "edm"])
def test_defined_where_nothing_is_left(kind: str) -> None:
    process, parameterization = build("cosine", "process"), build(kind, "parameterization")
    skip, out, inp, noise = parameterization.coeffs(process.at(1.0), process)
    assert all(bool(torch.isfinite(v)) for v in (skip, out, inp, noise))


def test_flow_velocity_is_noise_minus_picture() -> None:
    for shift in (1.0, 3.0):
        process = build({"kind": "flow", "shift": shift}, "process")
        a, b = build("velocity", "parameterization").target(process.at(0.3), process)
        assert (float(a), float(b)) == (-1.0, 1.0)


def test_distillation_target_moves_the_wanted_x0() -> None:
    process, mixture = build("linear", "process"), Mixture.ring()
    x0, eps, teacher = mixture.sample(8, 0), torch.randn(8, 2).double(), mixture.sample(8, 1)
    for kind in KINDS:
        parameterization = build(kind, "parameterization")
        network = Spoken(mixture, process, parameterization)
        network.level = level = process.at(0.5)
        loss = Denoiser(network, process, parameterization).match(x0, eps, torch.tensor(0.5).double(), target=teacher)
        x = level.alpha * x0 + level.sigma * eps
        _, out, _, _ = parameterization.coeffs(level, process)
        torch.testing.assert_close(
            loss * out**2, (mixture.denoise(x, level).x0 - teacher).square().mean(1), rtol=1e-8, atol=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
def test_bound_and_per_picture_levels_are_the_same_function(kind: str) -> None:
    """A run's bound denoiser, one level for all, and a level a picture give one answer."""
    process, parameterization, mixture = build("linear", "process"), build(kind, "parameterization"), Mixture.ring()
    network = Spoken(mixture, process, parameterization)
    denoiser = Denoiser(network, process, parameterization)
    network.level = level = process.at(0.5)
    x = mixture.noised(8, *level.floats[:2], seed=2)
    one = denoiser(x, level).x0
    torch.testing.assert_close(denoiser.bind(None, [level])(x, level).x0, one, rtol=0, atol=0)
    torch.testing.assert_close(denoiser.bind(None, [])(x, level).x0, one, rtol=0, atol=0)
    torch.testing.assert_close(denoiser(x, process.at(torch.full((8,), 0.5))).x0, one, rtol=1e-12, atol=1e-12)
