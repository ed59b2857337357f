"""The bound and the ODE's density against closed forms: Gaussians, and the mixture whose density is known at every level."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from safelight.bound import Chain, discrete, prior
from safelight.cli.main import main
from safelight.denoise import Estimate
from safelight.draw.pixels import to_image
from safelight.draw.terms import terms
from safelight.evaluate.likelihood import CELL, Measured, Plan, Report, bound, density, dequantised, likelihood, table
from safelight.grid import Uniform
from safelight.model import Model, save
from safelight.noise import Noise
from safelight.process import Level
from safelight.sample.ancestral import DDPM
from safelight.spec import SpecError, build
from tests.oracle import Mixture
from tests.train import tiny

PROCESSES = [
    {"kind": "vp"},
    {"kind": "sub-vp"},
    {"kind": "ve", "sigma_min": 1e-3, "sigma_max": 50.0},
    {"kind": "cosine"},
    {"kind": "flow"},
    {"kind": "linear"},
]


def log_p(mixture: Mixture, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
    """(n,) log q(x_t = x) of the mixture."""
    var = alpha**2 * mixture.l + sigma**2
    off = torch.einsum("nkd,kde->nke", x[:, None] - alpha * mixture.m, mixture.u)
    return (mixture.w.log() - 0.5 * (off.square() / var + var.log() + math.log(2 * math.pi)).sum(-1)).logsumexp(1)


def terminal(mixture: Mixture) -> Any:
    return lambda x, level: log_p(mixture, x.flatten(1), float(level.alpha), float(level.sigma))


def gaussian(scale: float) -> Any:
    """The exact denoiser of N(0, scale^2), at one level or one a picture."""

    def denoise(x: Tensor, level: Level) -> Estimate:
        there = level.like(x)
        return Estimate(x * (there.alpha * scale**2 / (there.alpha.square() * scale**2 + there.sigma.square())))

    return denoise


def chain(process: Any, n: int, grid: str = "exponential") -> Chain:
    there = build(process, "process")
    return Chain(there.at(build(grid, "grid")(there, n)))


# The decoder


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-11), (torch.float32, 1e-6)])
def test_the_decoders_probabilities_sum_to_one(dtype: torch.dtype, rtol: float) -> None:
    """Over all 256 bytes, for means inside and far outside of [-1, 1] and from a thousandth of a bucket to many pictures wide."""
    x = (torch.arange(256, dtype=dtype) / 127.5 - 1)[:, None, None]
    mean = torch.linspace(-3, 3, 61, dtype=dtype)[:, None]
    log_std = torch.linspace(-12, 3, 31, dtype=dtype)
    total = discrete(*torch.broadcast_tensors(x, mean, log_std)).double().exp().sum(0)
    assert float((total - 1).abs().max()) < rtol


def test_the_decoder_is_a_difference_of_normal_distribution_functions() -> None:
    """As Ho et al. (eq. 13) write it, where that can be computed; finite with a right slope where it cannot."""
    x, std = torch.tensor([-1.0, -1 / 255, 1 / 255, 1.0], dtype=torch.float64), 0.3
    mean = torch.tensor([-0.9, 0.2, -0.4, 0.7], dtype=torch.float64)
    high, low = Normal(mean, std).cdf(x + 1 / 255), Normal(mean, std).cdf(x - 1 / 255)
    high[-1], low[0] = 1.0, 0.0
    torch.testing.assert_close(
        discrete(x, mean, torch.tensor(math.log(std), dtype=torch.float64)), (high - low).log(), rtol=1e-9, atol=0
    )
    far = torch.tensor(30.0, requires_grad=True)
    found = discrete(torch.tensor(1 / 255), far, torch.tensor(-4.0))
    (slope,) = torch.autograd.grad(found, far)
    # Far out a bucket's probability is the density at its nearer border: d/dm log p = -(m - b)/std^2.
    assert float(slope) == pytest.approx(-(30 - 2 / 255) / math.exp(-8), rel=1e-3)


# The steps


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p["kind"])
def test_steps_are_the_samplers_and_bayes(process: dict[str, Any]) -> None:
    """q(x' | x, x0) by Bayes from the process alone; p's mean and variances are those of the sampler `ddpm`."""
    there = build(process, "process")
    steps = Chain(there.at(Uniform(start=0.9)(there, 10)))
    k = 4
    now, to = steps.levels.split()[k : k + 2]
    (a, s, _), (a1, s1, _) = now.floats, to.floats
    # x | x' ~ N(a/a' x', var), x' | x0 ~ N(a' x0, s'^2)
    var = s**2 - (a / a1 * s1) ** 2
    precise = 1 / s1**2 + (a / a1) ** 2 / var
    assert float(steps.small[k]) == pytest.approx(1 / precise, rel=1e-9)
    assert float(steps.gain[k]) == pytest.approx(a1 / s1**2 / precise, rel=1e-9)
    assert float(steps.large[k]) == pytest.approx(var, rel=1e-9)
    x, x0, guess = torch.randn(3, 2, 1, 3, 3, dtype=torch.float64)
    fraction = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    estimate = Estimate(guess, fraction)

    class One:
        def normal(self, *given: Any) -> Tensor:
            return torch.ones_like(x)

    class Zero:
        def normal(self, *given: Any) -> Tensor:
            return torch.zeros_like(x)

    true = DDPM(variance="small").step(lambda *_: Estimate(x0), x, now, to, {}, Zero())[0]
    for kind in ("small", "large", "learned"):
        mean, off = (DDPM(variance=kind).step(lambda *_: estimate, x, now, to, {}, draw())[0] for draw in (Zero, One))
        q, p = Normal(true, steps.small[k].sqrt().expand_as(x)), Normal(mean, off - mean)
        torch.testing.assert_close(steps.term(torch.tensor(k), x0, estimate, kind), kl_divergence(q, p), rtol=1e-7, atol=1e-12)
    each = steps.term(torch.tensor([k, 2]), x0, estimate, "learned")
    torch.testing.assert_close(each[0], steps.term(torch.tensor(k), x0, estimate, "learned")[0])
    # L_T
    first = Normal(steps.levels.alpha[0] * x0, steps.levels.sigma[0])
    wide = torch.hypot(steps.levels.alpha[0], steps.levels.sigma[0])
    torch.testing.assert_close(steps.prior(x0), kl_divergence(first, Normal(torch.zeros_like(x0), wide)))


def test_every_time_is_a_step_and_every_step_has_its_share() -> None:
    steps = chain("cosine", 8, "uniform")
    u = (torch.arange(80, dtype=torch.float64) + 0.5) / 80
    k = steps.place(u)
    assert k.bincount().tolist() == [10] * 8 and int(k[0]) == 7
    assert torch.equal(steps.step(steps.levels.t[k]), k)
    with pytest.raises(SpecError, match="fall to t = 0"):
        Chain(build("cosine", "process").at(torch.tensor([0.9, 0.5])))


# The bound


@pytest.mark.parametrize("process", ["cosine", "vp", {"kind": "ve", "sigma_max": 20.0}], ids=["cosine", "vp", "ve"])
def test_the_terms_of_a_gaussian(process: Any) -> None:
    """E L_k = (SNR' - SNR)/2 Var(x0 | x_t) for the exact denoiser, term by term; and looking at some steps is unbiased."""
    c, n = 0.6, 40
    steps = chain(process, n)
    x0 = c * Noise(3).normal("data", None, None, torch.empty(4000, 1, 2, 2, dtype=torch.float64))
    found = bound(gaussian(c), x0, steps, Noise(5), buckets=0)
    snr = torch.exp(steps.levels.logsnr[:-1])
    left = 1 / (1 / c**2 + snr)
    expected = (snr[1:] - snr[:-1]) / 2 * left[:-1]
    mean, error = found.steps.mean(0), found.steps.std(0) / math.sqrt(len(x0))
    assert float(((mean - expected).abs() / error).max()) < 4.5
    # Half of the cross-entropy of the last Gaussian step, with its mean.
    var = steps.large[-1]
    last = (left[-1] / var + var.log() + math.log(2 * math.pi)) / 2
    assert float(found.last.mean()) == pytest.approx(float(last), abs=5 * float(found.last.std()) / math.sqrt(len(x0)))
    some = bound(gaussian(c), x0, steps, Noise(7), terms=7, buckets=0)
    gap = some.total - found.total
    assert float(gap.mean().abs()) < 4 * float(gap.std()) / math.sqrt(len(x0))
    assert some.steps.shape == (4000, 7)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_is_above_the_truth_and_tightens(variance: Any) -> None:
    """Mean over 10,000 exact samples of a mixture, Gaussian L_0: not below -log p by more than 3 standard errors of the difference
    at any T, and nearer at each larger one."""
    mixture = Mixture.ring()
    x = mixture.sample(10_000, seed=11)
    truth = -log_p(mixture, x) / 2
    gaps = []
    for n in (5, 10, 20, 40, 80):
        found = bound(mixture.denoise, x[:, :, None, None], chain("vp", n), Noise(13), variance, buckets=0)
        gap = found.total - truth
        error = float(gap.std()) / math.sqrt(len(gap))
        assert float(gap.mean()) > -3 * error, n
        gaps.append(float(gap.mean()))
    assert all(b < a for a, b in zip(gaps, gaps[1:], strict=False)), gaps
    assert gaps[-1] < 0.2 * gaps[0] and gaps[-1] < 1.0


# The ODE


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p["kind"])
@pytest.mark.parametrize("mixture", [Mixture.ring(), Mixture.random(d=6, modes=4, rank=2)], ids=["2", "6"])
def test_the_odes_log_likelihood(process: dict[str, Any], mixture: Mixture) -> None:
    """Exact trace and exact terminal density: within 1e-3 nats a dimension of the density at the least level, and where that level is
    at the data (s <= 1e-3) of the data's own; 10 times nearer in fact."""
    there = build(process, "process")
    x = mixture.sample(12, seed=2)
    found = density(
        mixture.denoise, x[:, :, None, None], there, Noise(0), trace="exact", rtol=1e-7, atol=1e-7, terminal=terminal(mixture)
    )
    least = there.ends[0]
    level = there.at(there.time(-2 * math.log(least)))
    a, s, _ = level.floats
    exact = log_p(mixture, x * a, a, s) + mixture.d * math.log(a)
    assert found.log.shape == (12, 1)
    assert float((found.log[:, 0] - exact).abs().max()) / mixture.d < 1e-4
    if least <= 1.001e-3:
        assert float((found.log[:, 0] - log_p(mixture, x)).abs().max()) / mixture.d < 1e-3


@pytest.mark.parametrize("trace", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased(trace: Any) -> None:
    """600 probes, seen as 60 pictures of one point with 10 each: their mean is the exact trace's within 4 standard errors."""
    mixture, there = Mixture.random(d=6, modes=4, rank=2), build("cosine", "process")
    x = mixture.sample(1, seed=5)[:, :, None, None]
    how = {"rtol": 1e-6, "atol": 1e-6}
    exact = density(mixture.denoise, x, there, Noise(0), trace="exact", **how).log  # type: ignore[arg-type]
    found = density(mixture.denoise, x.expand(60, -1, -1, -1), there, Noise(1), trace=trace, probes=10, **how).log  # type: ignore[arg-type]
    assert found.shape == (60, 10)
    error = float(found.std()) / math.sqrt(found.numel())
    assert float((found.mean() - exact).abs()) < 4 * error


def test_the_prior_stands_in_where_no_density_is_known() -> None:
    """On `cosine`, which ends in noise alone, N(0, I) is exact; on a short `vp` the ODE is off by less than `prior` says."""
    mixture, x = Mixture.ring(), Mixture.ring().sample(8, seed=3)[:, :, None, None]
    how = {"trace": "exact", "rtol": 1e-7, "atol": 1e-7}
    found = density(mixture.denoise, x, build("cosine", "process"), Noise(0), **how).log[:, 0]  # type: ignore[arg-type]
    assert float((found - log_p(mixture, x.flatten(1))).abs().max()) < 2e-3
    short = build({"kind": "vp", "beta_max": 4.0}, "process")
    many = mixture.sample(400, seed=4)[:, :, None, None]
    mine, right = (
        density(mixture.denoise, many, short, Noise(0), terminal=t, **how).log[:, 0]  # type: ignore[arg-type]
        for t in (None, terminal(mixture))
    )
    left = prior(many, short.at(1.0)).flatten(1).sum(1).mean()
    assert 0 < float((right - mine).mean()) < float(left)


def test_bytes_made_continuous_stay_in_their_cells() -> None:
    """Both ways: within half a cell, with the entropy that their histogram has, at the level that is named."""
    x0 = torch.zeros(2000, 1, 4, 4, dtype=torch.float64)
    for kind, process in (("uniform", "cosine"), ("normal", "cosine"), ("normal", "linear")):
        there = build(process, "process")
        loose = dequantised(x0, Noise(1), kind, there)  # type: ignore[arg-type]
        assert float(loose.x.abs().max()) <= CELL / 2
        p = torch.histc(loose.x, 200, -CELL / 2, CELL / 2) / loose.x.numel()
        measured = -(p * (p / (CELL / 200)).clamp(min=1e-300).log()).sum()
        assert loose.entropy == pytest.approx(float(measured), abs=0.01)
        if kind == "normal":
            assert loose.start == pytest.approx(max(there.ends[0], CELL / 6))


# A model's


def learner(**fields: Any) -> Model:
    """A tiny model whose last layer is not zero, with a variance."""
    torch.manual_seed(1)
    network = tiny.network(dropout=0.0, cond=0).model_copy(update={"learned_variance": True})
    return tiny.model(network=network, text=None, process={"kind": "linear", "T": 20}, parameterization="eps", **fields)


def last(events: Any) -> dict[str, Any]:
    *_, report = events
    assert isinstance(report, Report)
    return report.numbers


def test_a_measurement_is_the_same_in_any_batch_and_goes_on(tmp_path: Path) -> None:
    """The bound in batches of 3 and of 10, to float32's digits; a second run takes what is kept, one with another seed does not."""
    model, pictures = learner(), tiny.pictures(30)
    plan = Plan(count=10, terms=6, batch=3, ode=4, rtol=1e-3, atol=1e-3)
    first = last(likelihood(model, pictures, plan, tmp_path))
    again = list(likelihood(model, pictures, plan, tmp_path))
    assert again[-2] == Measured(14, 14, 14) and again[-1].numbers["bound"] == first["bound"]  # type: ignore[union-attr]
    assert again[-1].numbers["ode"] == first["ode"]  # type: ignore[union-attr]
    whole = last(likelihood(model, pictures, plan.model_copy(update={"batch": 10, "ode": 0})))
    assert whole["bound"]["each"] == pytest.approx(first["bound"]["each"], rel=1e-5)
    other = list(likelihood(model, pictures, plan.model_copy(update={"seed": 1, "ode": 0}), tmp_path))
    assert other[-2].kept == 0  # type: ignore[union-attr]
    parts = first["bound"]
    assert sum(parts[p]["mean"] for p in ("prior", "middle", "last")) == pytest.approx(parts["bits"]["mean"])
    assert sum(parts["by_step"]["part"]) == pytest.approx(parts["middle"]["mean"])
    assert "**bound**" in table(first) and "**ODE**" in table(first)
    assert first["variance"] == "learned" and first["steps"] == 20


def test_all_terms_and_some_agree() -> None:
    """For 40 pictures, within 4 standard errors of the difference; and all 20 steps are seen by each picture."""
    model, pictures = learner(), tiny.pictures(40)
    every = last(likelihood(model, pictures, Plan(count=40, terms=None)))["bound"]
    some = last(likelihood(model, pictures, Plan(count=40, terms=6)))["bound"]
    gap = torch.tensor(every["each"]) - torch.tensor(some["each"])
    assert float(gap.mean().abs()) < 4 * float(gap.std()) / math.sqrt(40)
    assert every["by_step"]["seen"] == [40] * 19


def test_what_is_refused(tmp_path: Path) -> None:
    pictures = tiny.pictures(4)
    with pytest.raises(SpecError, match="predicts no variance"):
        last(likelihood(tiny.model(), pictures, Plan(count=2, variance="learned")))
    latent = Model(tiny.worded())
    with pytest.raises(SpecError, match="codec 'kl'"):
        last(likelihood(latent, pictures, Plan(count=2)))
    with pytest.raises(ValueError, match="nothing is measured"):
        Plan(count=0)
    with pytest.raises(SpecError, match="no bound in these results"):
        terms(tmp_path / "terms.png", {"a": {"ode": {}}})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Writes result.json and terms.png, prints the table, and tells a model of classes the pictures' own."""
    save(tmp_path / "model.safetensors", learner())
    for i, picture in enumerate(tiny.pictures(5).batch(torch.arange(5))):
        to_image(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    argv = f"evaluate likelihood {tmp_path}/model.safetensors --count 3 --terms 4 --ode 2 --tolerance 1e-2 --device cpu"
    assert main([*argv.split(), "--test", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["bound"]["pictures"] == 3 and found["ode"]["pictures"] == 2
    assert f"{found['bound']['bits']['mean']:.4f}" in said
    assert (tmp_path / "out" / "terms.png").stat().st_size > 5000
