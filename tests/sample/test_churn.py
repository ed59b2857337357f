"""Churn: what it adds is what the process has there, and any sampler of one step at a time can have it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from safelight.denoise import Estimate
from safelight.noise import Noise
from safelight.process import Level
from safelight.sample import Sampler, trajectory
from safelight.sample.churn import Churn
from safelight.spec import SpecError, build, kinds
from tests.oracle import Mixture, final, sliced_wasserstein

ONE_STEP = [kind for kind, cls in kinds("sampler").items() if not cls().multistep]  # type: ignore[attr-defined]


def run(sampler: Sampler, seed: int = 3, n: int = 10, index: list[int] | None = None) -> Tensor:
    mixture, process = Mixture.ring(), build("edm", "process")
    noise = Noise(seed, index or [0, 1, 2, 3])
    x = 80 * noise.normal("start", None, None, torch.empty(len(noise.index or ()), 2, dtype=torch.float64))

    def denoise(x: Tensor, level: Level) -> Estimate:
        return mixture.denoise(x, level)._replace(fraction=torch.full_like(x, 0.5))

    return final(trajectory(denoise, x, process.at(build("karras", "grid")(process, n)), sampler, noise)).x


@pytest.mark.parametrize("kind", ["euler", "heun"])
def test_it_is_the_churn_that_euler_and_heun_have(kind: str) -> None:
    own = build({"kind": kind, "churn": 4.0, "churn_min": 0.05, "churn_max": 50.0, "churn_scale": 1.003}, "sampler")
    around = Churn(amount=4.0, s_min=0.05, s_max=50.0, s_noise=1.003).around(build(kind, "sampler"))
    assert torch.equal(run(own), run(around))


@pytest.mark.parametrize("process_kind", ["cosine", "edm", "flow", "linear"])
def test_the_raised_level_has_the_noise_it_says(process_kind: str) -> None:
    process, churn, sampler = build(process_kind, "process"), Churn(amount=3.0), build("ddim", "sampler")
    now, to = process.at(0.5), process.at(0.3)
    truth = torch.full((4, 25_000), 0.7, dtype=torch.float64)
    x = float(now.alpha) * truth + float(now.sigma) * torch.randn(
        truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    raised, high = churn.raised(x, now, to, churn.gamma(20), sampler, Noise(5))
    alpha, sigma, s = high.floats
    assert s == pytest.approx(now.floats[2] * (1 + 3 / 20), rel=1e-9)
    assert float((raised - alpha * truth).std()) == pytest.approx(sigma, rel=4 / math.sqrt(2 * truth.numel()))
    assert abs(float((raised - alpha * truth).mean())) < 4 * sigma / math.sqrt(truth.numel())


def test_where_nothing_is_added() -> None:
    """Outside of its range of s, before the last step, at alpha = 0, and at the noisiest level."""
    cosine, edm, x, sampler = build("cosine", "process"), build("edm", "process"), torch.ones(1, 2), build("ddim", "sampler")
    for churn, now, to in (
        (Churn(amount=9, s_min=5), cosine.at(0.5), cosine.at(0.4)),
        (Churn(amount=9, s_max=0.5), cosine.at(0.5), cosine.at(0.4)),
        (Churn(amount=9), cosine.at(0.5), cosine.at(0.0)),
        (Churn(amount=9), cosine.at(1.0), cosine.at(0.5)),
        (Churn(amount=9), edm.at(1.0), edm.at(0.5)),
    ):
        assert churn.raised(x, now, to, churn.gamma(20), sampler, Noise(0)) == (x, now)
    assert Churn(amount=100.0).gamma(20) == math.sqrt(2) - 1


@pytest.mark.parametrize("kind", ["heun", "dpm++2s", "ddim"])
def test_churned_samples_are_of_the_distribution(kind: str) -> None:
    mixture, process, count = Mixture.ring(), build("edm", "process"), 4000
    x = 80 * torch.randn(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampler = Churn(amount=20.0).around(build(kind, "sampler"))
    last = final(trajectory(mixture.denoise, x, process.at(build("karras", "grid")(process, 60)), sampler, Noise(2)))
    floor = sliced_wasserstein(mixture.sample(count, 1), mixture.sample(count, 2))
    assert sliced_wasserstein(last.x, mixture.sample(count, 3)) < 1.6 * floor
    assert mixture.scale(last.x) == pytest.approx(1, abs=0.1 if kind == "ddim" else 0.04)  # of order 1, and eager for noise


@pytest.mark.parametrize("kind", ONE_STEP)
def test_every_one_step_sampler_takes_it(kind: str) -> None:
    sampler = build(kind, "sampler")
    churned = Churn(amount=5.0).around(sampler)
    assert churned.stochastic and (churned.calls, churned.order) == (sampler.calls, sampler.order)
    whole = run(churned)
    assert torch.equal(whole, run(churned)) and float((whole - run(sampler)).abs().max()) > 1e-3
    torch.testing.assert_close(run(churned, index=[2]), whole[2:3], rtol=1e-9, atol=1e-9)  # whatever the batch
    assert Churn().around(sampler) is sampler


@pytest.mark.parametrize("kind", kinds("sampler"))
def test_a_sampler_that_looks_back_says_so(kind: str) -> None:
    """`multistep` is whether the steps before change what a step does."""
    sampler, mixture, process = build(kind, "sampler"), Mixture.ring(), build("cosine", "process")
    levels = process.at(torch.linspace(0.8, 0.2, 5, dtype=torch.float64)).split()
    alpha, sigma, _ = levels[0].floats
    x = mixture.noised(4, alpha, sigma, seed=4)
    steps = list(trajectory(mixture.denoise, x, levels, sampler, Noise(1)))
    with_memory, without = (
        sampler.step(mixture.denoise, steps[2].x, levels[3], levels[4], state, Noise(1))[0]
        for state in (steps[2].state, sampler.start(4))
    )
    assert sampler.multistep is not torch.equal(with_memory, without)


def test_refusals() -> None:
    with pytest.raises(SpecError, match=r"^churn: sampler 'unipc' looks back on earlier steps"):
        Churn(amount=1.0).around(build("unipc", "sampler"))
    with pytest.raises(SpecError, match=r"^churn: sampler 'heun' has a churn of its own: set one of the two$"):
        Churn(amount=1.0).around(build({"kind": "heun", "churn": 2.0}, "sampler"))
    with pytest.raises(SpecError, match=r"needs a 'kind'|no sampler"):
        build({"kind": "churning", "inner": "ddim"}, "sampler")
