"""Every deterministic sampler converges at the order it declares, against the exact probability-flow ODE in float64."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from safelight.process import Level, Process
from safelight.sample import Sampler, trajectory
from safelight.spec import build, kinds
from tests.oracle import Mixture, final

STEPS = (80, 160, 320)
PROCESSES = ("linear", "cosine", "edm", "flow")
DETERMINISTIC = [kind for kind, cls in kinds("sampler").items() if not cls().stochastic] + [
    "dpm++2m-sde:eta=0",
    "euler-ancestral:eta=0",
]


def sampler_of(name: str) -> Sampler:
    kind, _, eta = name.partition(":eta=")
    return build({"kind": kind, "eta": float(eta)} if eta else kind, "sampler")


@lru_cache
def problem(d: int, process_kind: str, images: int) -> tuple[Mixture, Process, Tensor, Tensor, float, float]:
    mixture = Mixture.ring() if d == 2 else Mixture.random(d)
    process = build(process_kind, "process")
    high, low = min(process.ends[1], 80.0), max(process.ends[0], 0.02)
    start = process.at(process.time(-2 * math.log(high)))
    alpha, sigma, s = start.floats
    x = mixture.noised(images, alpha, sigma, seed=3)
    end = process.at(process.time(-2 * math.log(low)))
    return mixture, process, x, mixture.exact(x / alpha, s, end.floats[2]) * end.floats[0], high, low


def levels_of(process: Process, high: float, low: float, n: int) -> list[Level]:
    """n steps from s = high to s = low > 0, even in the EDM warp: smooth, so that orders can show."""
    u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    s = (high ** (1 / 7) + u * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return process.at(process.time(-2 * s.log())).split()


def slope(errors: list[float]) -> float:
    n = torch.tensor(STEPS, dtype=torch.float64).log()
    e = torch.tensor(errors, dtype=torch.float64).log()
    return -float(((n - n.mean()) * (e - e.mean())).sum() / (n - n.mean()).square().sum())


def errors_of(sampler: Sampler, d: int, process_kind: str, images: int) -> list[float]:
    mixture, process, x, exact, high, low = problem(d, process_kind, images)
    found = []
    for n in STEPS:
        last = final(trajectory(mixture.denoise, x, levels_of(process, high, low, n), sampler))
        found.append(float((last.x - exact).square().mean(1).sqrt().median()))
    return found


@pytest.mark.parametrize("process_kind", PROCESSES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order(name: str, process_kind: str) -> None:
    sampler = sampler_of(name)
    errors = errors_of(sampler, 2, process_kind, 64)
    order = 2 if name.startswith("dpm++2m-sde") else sampler.order
    assert slope(errors) >= order - 0.25, (name, process_kind, errors)
    assert errors[-1] < (2e-2 if order == 1 else 2e-3), errors


@pytest.mark.slow
@pytest.mark.parametrize("process_kind", PROCESSES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_in_64_dimensions(name: str, process_kind: str) -> None:
    sampler = sampler_of(name)
    errors = errors_of(sampler, 64, process_kind, 48)
    order = 2 if name.startswith("dpm++2m-sde") else sampler.order
    assert slope(errors) >= order - 0.25, (name, process_kind, errors)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_from_pure_noise(name: str) -> None:
    """From t = 1 of the flow, where alpha = 0 and s is infinite, on its own uniform clock."""
    sampler, mixture, flow = sampler_of(name), Mixture.ring(), build("flow", "process")
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(n: int) -> Tensor:
        last = final(trajectory(mixture.denoise, x, flow.at(torch.linspace(1.0, 0.05, n + 1, dtype=torch.float64)), sampler))
        return last.x

    errors = [float((run(n) - reference()).square().mean(1).sqrt().median()) for n in STEPS]
    order = 2 if name.startswith("dpm++2m-sde") else sampler.order
    assert slope(errors) >= order - 0.25, errors


@lru_cache(maxsize=1)
def reference() -> Tensor:
    """Where the exact ODE carries the same start: from s = 1e7, where x = eps to 1e-7, to t = 0.05 of the flow."""
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    high, low = 1e7, 0.05 / 0.95
    return Mixture.ring().exact(x * high, high, low) * 0.95
