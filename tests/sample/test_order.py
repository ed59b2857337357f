"""Every deterministic sampler converges at the order it declares, against the exact probability-flow ODE in float64."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from safelight.denoise import Estimate
from safelight.process import Level, Process
from safelight.sample import Sampler, trajectory
from safelight.sample.ode import flow
from safelight.spec import build, kinds
from tests.oracle import Mixture, final

STEPS = (80, 160, 320)
FINE = (160, 320, 640)  # solvers of order 4 and more reach their slope later
PROCESSES = ("linear", "cosine", "edm", "flow")
DETERMINISTIC = [kind for kind, cls in kinds("sampler").items() if not cls().stochastic] + [
    "dpm++2m-sde:eta=0",
    "dpm++3m-sde:eta=0",
    "euler-ancestral:eta=0",
    "ab:k=2",
    "ab:k=4",
    "ab:form=rotation",
    "abm:k=2",
    "abm:correct=3",
    "abm:form=rotation",
    "deis:base=t",
    "sa:tau=0",
    "unipc:k=1",
    "unipc:k=2",
    "unipc:k=2,b=bh1",
    "unipc:k=4",
]
# On a table log-SNR has a kink at every entry, which a scheme that asks for its slope cannot get over.
SMOOTH = ["euler-maruyama:eta=0", "heun-sde:eta=0"]


def sampler_of(name: str) -> Sampler:
    kind, _, fields = name.partition(":")
    pairs = (pair.split("=") for pair in fields.split(",") if pair)
    return build({"kind": kind} | {k: float(v) if v.isdigit() else v for k, v in pairs}, "sampler")


def order_of(name: str) -> int:
    return 2 if name.startswith("dpm++2m-sde") else 2 if name.startswith("heun-sde") else sampler_of(name).order


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


def slope(errors: list[float], steps: tuple[int, ...] = STEPS) -> float:
    n = torch.tensor(steps, dtype=torch.float64).log()
    e = torch.tensor(errors, dtype=torch.float64).log()
    return -float(((n - n.mean()) * (e - e.mean())).sum() / (n - n.mean()).square().sum())


def errors_of(sampler: Sampler, d: int, process_kind: str, images: int, steps: tuple[int, ...] = STEPS) -> list[float]:
    mixture, process, x, exact, high, low = problem(d, process_kind, images)
    found = []
    for n in steps:
        last = final(trajectory(mixture.denoise, x, levels_of(process, high, low, n), sampler))
        found.append(float((last.x - exact).square().mean(1).sqrt().median()))
    return found


@pytest.mark.parametrize("process_kind", PROCESSES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order(name: str, process_kind: str) -> None:
    order = order_of(name)
    steps = FINE if order >= 4 else STEPS
    errors = errors_of(sampler_of(name), 2, process_kind, 64, steps)
    assert slope(errors, steps) >= order - 0.25, (name, process_kind, errors)
    assert errors[-1] < (2e-2 if order == 1 else 2e-3), errors


@pytest.mark.parametrize("process_kind", ["cosine", "flow", "vp", "sub-vp"])
@pytest.mark.parametrize("name", SMOOTH)
def test_order_of_the_sde_schemes_without_noise(name: str, process_kind: str) -> None:
    assert slope(errors_of(sampler_of(name), 2, process_kind, 64)) >= order_of(name) - 0.25


@pytest.mark.parametrize("process_kind", ["linear", "edm", "sub-vp"])
def test_the_adaptive_solver_keeps_its_tolerance(process_kind: str) -> None:
    mixture, process, x, exact, high, low = problem(2, process_kind, 64)
    (now, to), found, spent = levels_of(process, high, low, 1), [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        calls = 0

        def denoise(x: Tensor, level: Level) -> Estimate:
            nonlocal calls
            calls += 1
            return mixture.denoise(x, level)

        found.append(float((flow(denoise, x, now, to, rtol=tolerance, atol=tolerance) - exact).square().mean().sqrt()))
        spent.append(calls)
    assert all(error < 20 * tolerance for error, tolerance in zip(found, (1e-3, 1e-5, 1e-7), strict=True)), found
    assert spent == sorted(spent) and spent[-1] < 1500, spent


@pytest.mark.slow
@pytest.mark.parametrize("process_kind", PROCESSES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_in_64_dimensions(name: str, process_kind: str) -> None:
    steps = FINE if order_of(name) >= 4 else STEPS
    errors = errors_of(sampler_of(name), 64, process_kind, 48, steps)
    assert slope(errors, steps) >= order_of(name) - 0.25, (name, process_kind, errors)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_from_pure_noise(name: str) -> None:
    """From t = 1 of the flow, where alpha = 0 and s is infinite, on its own uniform clock."""
    sampler, mixture, flow = sampler_of(name), Mixture.ring(), build("flow", "process")
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(n: int) -> Tensor:
        last = final(trajectory(mixture.denoise, x, flow.at(torch.linspace(1.0, 0.05, n + 1, dtype=torch.float64)), sampler))
        return last.x

    errors = [float((run(n) - reference()).square().mean(1).sqrt().median()) for n in STEPS]
    # A first step of order 1, and in z = x/alpha or lambda, which do not exist there, a second one: their error stays.
    regular = name.split(":")[0] in ("ab", "abm")
    order = min(order_of(name), 3 if regular else 2)
    assert slope(errors) >= order - 0.25, errors


@lru_cache(maxsize=1)
def reference() -> Tensor:
    """Where the exact ODE carries the same start: from s = 1e7, where x = eps to 1e-7, to t = 0.05 of the flow."""
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    high, low = 1e7, 0.05 / 0.95
    return Mixture.ring().exact(x * high, high, low) * 0.95
