"""Every stochastic sampler draws from the data's distribution: as far from exact samples as exact samples are from each other."""

from __future__ import annotations

import pytest
import torch

from safelight.noise import Noise
from safelight.sample import trajectory
from safelight.spec import build
from tests.oracle import Mixture, final, sliced_wasserstein

N, SETS = 2048, 20
SAMPLERS = [
    {"kind": "ddpm", "variance": "small"},
    {"kind": "ddpm", "variance": "large"},
    {"kind": "ddim", "eta": 1.0},
    {"kind": "ddim", "eta": 0.5},
    {"kind": "euler-ancestral"},
    {"kind": "dpm++2m-sde"},
    {"kind": "euler", "churn": 40.0},
    {"kind": "heun", "churn": 40.0},
    {"kind": "dpm++3m-sde"},
    {"kind": "dpm++3m-sde", "brownian": True},
    {"kind": "sa"},
    {"kind": "euler-maruyama"},
    {"kind": "heun-sde"},
    {"kind": "langevin"},
]
# Exact at the step counts people use: criterion 3 of the theory.
FIFTY = [
    {"kind": "dpm++2m-sde"},
    {"kind": "dpm++3m-sde"},
    {"kind": "dpm++3m-sde", "brownian": True},
    {"kind": "sa"},
    {"kind": "sa", "correct": 0},
]
# Their walks are sized by norms, which tell something only in many dimensions.
WALKS = [{"kind": "pc"}, {"kind": "pc", "predictor": {"kind": "euler-maruyama"}}, {"kind": "langevin", "snr": 0.16}]


def measure(spec: dict[str, object], process_kind: str, mixture: Mixture, steps: int, n: int) -> tuple[float, float]:
    """(sliced Wasserstein distance to exact sets, as a multiple of theirs to each other; within-mode scale)."""
    process, sampler = build(process_kind, "process"), build(spec, "sampler")
    assert sampler.stochastic
    grid = build({"kind": "karras", "s_min": 0.01, "s_max": min(process.ends[1], 80.0)}, "grid")
    levels = process.at(grid(process, steps))
    alpha, sigma, _ = levels.split()[0].floats
    x = mixture.noised(n, alpha, sigma, seed=5)
    last = final(trajectory(mixture.denoise, x, levels, sampler, Noise(11)))
    exact = [mixture.sample(n, seed=100 + i) for i in range(SETS)]
    floor = sum(sliced_wasserstein(exact[i], exact[(i + 1) % SETS]) for i in range(SETS)) / SETS
    found = sum(sliced_wasserstein(last.x, e) for e in exact) / SETS
    return found / floor, mixture.scale(last.x)


def check(spec: dict[str, object], process_kind: str, mixture: Mixture, steps: int, n: int) -> None:
    ratio, scale = measure(spec, process_kind, mixture, steps, n)
    assert ratio <= 1.25, (spec, process_kind, ratio)
    assert scale == pytest.approx(1, abs=0.05), (spec, process_kind)


@pytest.mark.parametrize("spec", SAMPLERS, ids=str)
def test_distribution(spec: dict[str, object]) -> None:
    check(
        spec,
        "edm" if "churn" in spec else "linear",
        Mixture.ring(),
        400 if spec["kind"] in ("dpm++2m-sde", "dpm++3m-sde", "sa", "heun", "heun-sde") else 1000,
        N,
    )


@pytest.mark.parametrize("process_kind", ["linear", "edm"])
@pytest.mark.parametrize("spec", FIFTY, ids=str)
def test_fifty_steps_of_an_exponential_solver_are_enough(spec: dict[str, object], process_kind: str) -> None:
    check(spec, process_kind, Mixture.ring(), 50, N)


@pytest.mark.slow
@pytest.mark.parametrize("process_kind", ["linear", "cosine", "edm", "flow"])
@pytest.mark.parametrize("spec", FIFTY, ids=str)
def test_fifty_steps_in_64_dimensions(spec: dict[str, object], process_kind: str) -> None:
    check(spec, process_kind, Mixture.random(64), 50, N)


@pytest.mark.slow
@pytest.mark.parametrize("process_kind", ["linear", "edm"])
@pytest.mark.parametrize("spec", WALKS, ids=str)
def test_walks_in_64_dimensions(spec: dict[str, object], process_kind: str) -> None:
    check(spec, process_kind, Mixture.random(64), 500, N)


@pytest.mark.slow
@pytest.mark.parametrize("process_kind", ["linear", "cosine", "edm", "flow"])
@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("spec", SAMPLERS, ids=str)
def test_distribution_everywhere(spec: dict[str, object], d: int, process_kind: str) -> None:
    mixture = Mixture.ring() if d == 2 else Mixture.random(d)
    check(spec, process_kind, mixture, 1000, N)


def test_learned_variance_spans_small_and_large() -> None:
    """Fractions 0 and 1 are the small and the large variance, to rounding; a half lies between in log."""
    mixture, process = Mixture.ring(), build("linear", "process")
    levels = process.at(build("uniform", "grid")(process, 50))
    x = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(variance: str, fraction: float) -> torch.Tensor:
        def denoise(x, level):  # type: ignore[no-untyped-def]
            return mixture.denoise(x, level)._replace(fraction=torch.full_like(x, fraction))

        last = final(trajectory(denoise, x, levels, build({"kind": "ddpm", "variance": variance}, "sampler"), Noise(0)))
        return last.x

    torch.testing.assert_close(run("learned", 0.0), run("small", 0.0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(run("learned", 1.0), run("large", 0.0), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(run("learned", 0.5), run("small", 0.0))
