"""Denoising score matching: its definition, its minimum, and what a network learns by it, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.cond import Cond
from safelight.model import Model
from safelight.nn import Network, Output
from safelight.noise import Noise
from safelight.sample import trajectory
from safelight.spec import SpecError, build, kinds, parse
from safelight.train.keys import generator, keyed
from safelight.train.objective import Batch, Draws, Match
from safelight.train.score import DSM, Geometric, ScoreError
from safelight.train.weighting import SNR
from tests.oracle import Mixture, final, sliced_wasserstein
from tests.train import tiny
from tests.train.belief import losses


@pytest.mark.parametrize("process", ["ve", "vp", "cosine", "linear"])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_it_is_its_definition(process: str, power: float) -> None:
    """sigma^power |s - grad log q(x_t | x_0)|^2, s made of the estimate, through every parameterization."""
    torch.manual_seed(0)
    x0, belief, eps = (torch.randn(6, 1, 8, 8, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    level = build(process, "process").at(t)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in (level.alpha, level.sigma))
    x = alpha * x0 + sigma * eps
    score, conditional = (alpha * belief - x) / sigma**2, (alpha * x0 - x) / sigma**2
    expected = (sigma**power * (score - conditional).square()).flatten(1).mean(1)
    for kind in kinds("parameterization"):
        found = losses(DSM(weighting=ScoreError(power=power)), kind, process, t, x0, belief, eps)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=0, msg=f"{kind} on {process}")


def test_by_default_it_is_the_simple_loss_of_eps() -> None:
    torch.manual_seed(0)
    x0, belief, eps = (torch.randn(6, 1, 8, 8, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    for kind in kinds("parameterization"):
        ours = losses(DSM(), kind, "vp", t, x0, belief, eps)
        torch.testing.assert_close(ours, losses(Match(weighting=SNR()), kind, "vp", t, x0, belief, eps))


def test_only_the_square_has_the_score_as_its_minimum() -> None:
    with pytest.raises(SpecError, match=r"objective\.distance: kind is 'l1', but only 'mse' can stand here"):
        parse({"kind": "dsm", "distance": {"kind": "l1"}}, "objective")


@pytest.mark.parametrize("process", ["ve", "vp", "linear", "edm"])
def test_the_levels_are_a_geometric_row(process: str) -> None:
    """All of them, equally often, and those down which `exponential` walks."""
    where = build(process, "process")
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    s = torch.exp(where.logsnr(Geometric(levels=10).times(u, where)) / -2)
    found, counts = torch.unique_consecutive(s, return_counts=True)
    assert counts.tolist() == [100] * 10
    low, high = where.ends
    torch.testing.assert_close(
        found, torch.logspace(math.log10(low), math.log10(high), 10, dtype=torch.float64), rtol=1e-6, atol=0
    )
    grid = build("exponential", "grid")(where, 10)[:-1].flip(0)
    torch.testing.assert_close(where.at(grid).ratio, found, rtol=1e-6, atol=0)
    every = torch.exp(where.logsnr(Geometric(levels=0).times(u, where)) / -2).log()
    torch.testing.assert_close((every - math.log(low)) / math.log(high / low), u, rtol=0, atol=1e-6)
    one = Geometric(levels=1).times(u, where)
    assert float(where.at(one).ratio.max()) == pytest.approx(low)


class _Bell(Network):
    """The eps of a Gaussian whose mean and spread are to be found: F = sigma (x - m) / (c^2 + sigma^2)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.m, self.log_c = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        sigma = (noise / 250).exp().view(-1, 1, 1, 1)  # VE tells 250 log sigma, and sees x / sqrt(1 + sigma^2)
        off = x * (1 + sigma**2).sqrt() - self.m.view(-1, 1, 1)
        return Output(sigma * off / ((2 * self.log_c).exp() + sigma**2))


class _Told(Network):
    """An MLP that hears log s."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        with keyed(torch.device("cpu"), 0, "weights"):
            self.hear = nn.Linear(9, width)
            self.layers = nn.ModuleList([nn.Linear(d, width), nn.Linear(width, width), nn.Linear(width, width)])
            self.last = nn.Linear(width, d)

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        s = noise[:, None] / 1000  # VE tells 250 log s
        waves = torch.arange(1, 5, device=x.device) * s * 4
        told = self.hear(torch.cat([s, waves.sin(), waves.cos()], 1))
        h = x.flatten(1)
        for layer in self.layers:
            h = F.silu(layer(h) + told)
        return Output(self.last(h).view_as(x))


def learned(
    network: Network, process: dict[str, object], objective: DSM, steps: int, batch: int, lr: float, data: Mixture
) -> Model:
    """A model of points (d, 1, 1) trained by the objective's own draws, the rate falling to 0."""
    model = tiny.model(process=process, parameterization="eps", text=None, network=tiny.network(cond=0))
    model.denoiser.network = network
    (player,) = objective.prepare(model)
    parameters = [p for _, p in player.parameters]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x0 = data.sample(batch, seed=step).float().view(batch, -1, 1, 1)
        loss = player.loss(model, Batch(x0), objective.draw(model, x0, 0, step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return model.requires_grad_(False).eval()


def sampled(model: Model, sampler: Mapping[str, object], steps: int, n: int, start: Tensor, seed: int = 3) -> Tensor:
    """(n, d) samples by `sampler` on the exponential grid, from noised points `start` (n, d) at the process's end."""
    where = model.process
    levels = where.at(build("exponential", "grid")(where, steps))
    x = start.float().view(n, -1, 1, 1)
    denoise = model.denoiser.bind(None, levels.split())
    with torch.no_grad():
        return final(trajectory(denoise, x, levels, build(sampler, "sampler"), Noise(seed))).x.flatten(1).double()


def gaussian(std: float = 0.5) -> Mixture:
    """N((1, -0.5), std^2 I)."""
    eye = torch.eye(2, dtype=torch.float64)
    return Mixture(torch.ones(1), torch.tensor([[1.0, -0.5]]), eye[None], torch.full((1, 2), std**2))


def score_error(model: Model, data: Mixture, sigma: float, n: int = 4096) -> float:
    """The root of E sigma^2 |s - s*|^2 over x_t, s* the exact score of the noised mixture: what the loss has above its least value."""
    x = data.noised(n, 1.0, sigma, seed=9)
    level = model.process.at(model.process.time(torch.tensor(-2 * math.log(sigma), dtype=torch.float64)))
    found = model.denoiser(x.float().view(n, -1, 1, 1), level).x0.flatten(1).double()
    return float((found - data.mean(x, 1.0, sigma)).square().mean().sqrt()) / sigma


def test_the_loss_of_the_exact_score_of_a_gaussian() -> None:
    """sigma^2 E|s + eps/sigma|^2 = c^2 alpha^2 / (c^2 alpha^2 + sigma^2) for data of variance c^2: what no network gets below."""
    data, n = gaussian(), 60_000
    for process in ("ve", "vp"):
        where = build(process, "process")
        for t in (0.3, 0.6, 0.9):
            level = where.at(t)
            x0, eps = data.sample(n, 1), torch.randn(n, 2, dtype=torch.float64, generator=generator("cpu", 1))
            belief = data.mean(level.alpha * x0 + level.sigma * eps, float(level.alpha), float(level.sigma))
            times = torch.full((n,), t, dtype=torch.float64)
            shaped = (v.view(n, 2, 1, 1) for v in (x0, belief, eps))
            each = losses(DSM(), "eps", process, times, *shaped)
            c = 0.25 * level.alpha**2
            assert float(each.mean()) == pytest.approx(
                float(c / (c + level.sigma**2)), abs=4 * float(each.std()) / math.sqrt(n)
            )


def walked(std: float, sigmas: list[float], times: int, size: float) -> float:
    """The spread of what annealed Langevin dynamics makes of N(m, std^2 + sigma_0^2) with the exact score, last denoising included."""
    spread = std**2 + sigmas[0] ** 2
    for sigma in sigmas:
        for _ in range(times):
            spread = (1 - size / 2 * sigma**2 / (std**2 + sigma**2)) ** 2 * spread + size * sigma**2
    return math.sqrt(spread) * std**2 / (std**2 + sigmas[-1] ** 2)


def test_a_gaussian_is_learned_and_sampled() -> None:
    """From the levels of NCSN its mean and its spread, hence its score at every level; annealed Langevin dynamics then samples it,

    as exactly as so few walks do: their own spread is known in closed form.
    """
    process: dict[str, object] = {"kind": "ve", "sigma_min": 0.05, "sigma_max": 5.0}
    objective, data, network = DSM(times=Geometric(levels=60)), gaussian(), _Bell(2)
    model = learned(network, process, objective, 150, 512, 0.1, data)
    assert network.m.tolist() == pytest.approx([1.0, -0.5], abs=0.015)
    assert float(network.log_c.exp()) == pytest.approx(0.5, abs=0.01)
    assert max(score_error(model, data, sigma) for sigma in (0.05, 0.2, 0.5, 1.0, 5.0)) < 0.015
    n = 4000
    x = sampled(model, {"kind": "langevin"}, 60, n, data.noised(n, 1.0, 5.0, seed=1))
    expected = walked(0.5, torch.logspace(math.log10(5.0), math.log10(0.05), 60).tolist(), 5, 0.2)
    assert x.mean(0).tolist() == pytest.approx([1.0, -0.5], abs=0.04)
    assert x.std(0).tolist() == pytest.approx([expected, expected], rel=0.04)
    assert expected == pytest.approx(0.5, rel=0.1)


def test_draws_and_held_out_times_are_those_of_the_levels() -> None:
    model = tiny.model(process="ve", parameterization="eps", text=None, network=tiny.network(cond=0))
    objective = DSM(times=Geometric(levels=7))
    draws = objective.draw(model, torch.zeros(500, 1, 8, 8), 0, 3)
    assert len(torch.unique(draws.t)) == 7
    fixed = objective.fixed(model, (torch.arange(7, dtype=torch.float64) + 0.5) / 7, torch.zeros(7, 1, 8, 8))
    assert isinstance(fixed, Draws) and torch.equal(torch.unique(draws.t), fixed.t)


def floors(model: Model, sampler: Mapping[str, object], steps: int, data: Mixture, sigma: float) -> tuple[float, float]:
    """Means of three runs: (sliced Wasserstein distance to exact sets, as a multiple of theirs to each other; within-mode scale)."""
    n, sets = 2048, [data.sample(2048, seed=100 + i) for i in range(20)]
    floor = sum(sliced_wasserstein(a, b) for a, b in zip(sets, sets[1:] + sets[:1], strict=True)) / 20
    runs = [sampled(model, sampler, steps, n, data.noised(n, 1.0, sigma, seed=5 + k), seed=k) for k in range(3)]
    found = sum(sliced_wasserstein(x, e) for x in runs for e in sets) / 60
    return found / floor, sum(data.scale(x) for x in runs) / 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_mixture_is_learned_and_sampled() -> None:
    """The score of eight modes is learned to a tenth of the noise, and leads walks, the SDE and the ODE to the mixture."""
    data = Mixture.ring()
    process: dict[str, object] = {"kind": "ve", "sigma_min": 0.01, "sigma_max": 5.0}
    model = learned(_Told(2, 128), process, DSM(), 5000, 512, 2e-3, data)
    assert max(score_error(model, data, sigma) for sigma in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)) < 0.13
    for sampler in ({"kind": "langevin"}, {"kind": "ddim", "eta": 1.0}, {"kind": "dpm++2m"}):
        distance, scale = floors(model, sampler, 200, data, 5.0)
        assert distance < 1.25, sampler
        assert scale == pytest.approx(1, abs=0.08), sampler


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_predictor_and_corrector_sample_what_was_learned() -> None:
    """In 16 dimensions, where the norms that size the corrector's walks say something."""
    means = 0.7 * torch.randn(5, 16, generator=generator("cpu", 0, "means"), dtype=torch.float64)
    data = Mixture(torch.full((5,), 0.2), means, torch.eye(16).expand(5, 16, 16), torch.full((5, 16), 0.25**2))
    process: dict[str, object] = {"kind": "ve", "sigma_min": 0.05, "sigma_max": 10.0}
    model = learned(_Told(16, 192), process, DSM(), 4000, 512, 2e-3, data)
    distance, scale = floors(model, {"kind": "pc"}, 200, data, 10.0)
    assert distance < 1.25
    assert scale == pytest.approx(1, abs=0.08)
