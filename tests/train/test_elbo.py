"""The bound of variational diffusion models, against closed forms: a Gaussian, its exact denoiser, and every term by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from safelight.cond import Cond
from safelight.denoise import Denoiser
from safelight.model import Model
from safelight.nn import Network, Output
from safelight.process import Level
from safelight.process.learned import LearnedProcess
from safelight.spec import SpecError, build
from safelight.train import TrainState, begin, checkpoint, train
from safelight.train.elbo import ELBO, learned
from safelight.train.objective import Batch, Draws
from tests.process.test_learned import bent
from tests.train import tiny

C = 0.6  # the standard deviation of the data
BITS = 1 / math.log(2)


class Exact(Network):
    """The exact denoiser of N(0, C^2 I), in the language of a parameterization: it hears the level from what it is told."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.spec, self.of = None, [denoiser]

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        logsnr = (-noise.double() / 125).view(-1, *(1,) * (x.ndim - 1))
        alpha, sigma = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
        process, parameterization = self.of[0].process, self.of[0].parameterization
        skip, out = parameterization.x0_from(Level(logsnr, alpha, sigma), process)
        gain = alpha * C**2 / (alpha**2 * C**2 + sigma**2)
        return Output(((gain - skip) / out * x).to(x.dtype))


def gaussian(process: LearnedProcess, parameterization: str = "v") -> Model:
    """A model whose data are N(0, C^2 I) and whose network is exact."""
    model = tiny.model(process="learned", parameterization=parameterization, text=None, network=tiny.network(cond=0)).double()
    model.denoiser.process = process  # type: ignore[assignment]
    model.denoiser.network = Exact(model.denoiser)
    return model


def drawn(n: int, seed: int = 0, side: int = 16) -> tuple[Batch, Draws]:
    """n data and their draws, times even over (0, 1)."""
    g = torch.Generator().manual_seed(seed)
    x, eps = (torch.randn(n, 1, side, side, generator=g, dtype=torch.float64) for _ in range(2))
    t = (torch.arange(n, dtype=torch.float64) + torch.rand((), generator=g, dtype=torch.float64)) / n
    return Batch(C * x), Draws(t, eps, torch.zeros(n, dtype=torch.bool))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def analytic(first: float, last: float) -> tuple[float, float, float]:
    """(prior, reconstruction, diffusion) in nats a dimension.

    The error of the exact denoiser is g(l) = C^2 e^l / (1 + C^2 e^l), whose integral is log(1 + C^2 e^l).
    """
    c2 = math.log(C**2)
    alpha2, sigma2 = 1 / (1 + math.exp(-last)), 1 / (1 + math.exp(last))
    prior = (alpha2 * C**2 + sigma2 - 1 - math.log(sigma2)) / 2
    return prior, (math.log(2 * math.pi * math.e) - first) / 2, (softplus(first + c2) - softplus(last + c2)) / 2


def error(logsnr: Tensor) -> Tensor:
    """g(l)."""
    return torch.sigmoid(logsnr + math.log(C**2))


def within(found: Tensor, wanted: float, most: float) -> None:
    """The mean of `found` is `wanted` within three standard errors, which are below `most`: of 50 groups, each even in time."""
    groups = found.detach().view(-1, 50).mean(0)
    mean, se = float(groups.mean()), float(groups.std() / math.sqrt(50))
    assert abs(mean - wanted) < 3 * se + 1e-9 and se < most, (mean, wanted, se)


@pytest.mark.parametrize("parameterization", ["v", "eps", "x0"])
@pytest.mark.parametrize("ends", [(13.3, -5.0), (4.0, -1.0)])
def test_the_bound_is_the_analytic_one(ends: tuple[float, float], parameterization: str) -> None:
    process = bent(1, 0.1, first=ends[0], last=ends[1])
    model, objective = gaussian(process, parameterization), ELBO(levels=0)
    batch, draws = drawn(5_000)
    with torch.no_grad():
        terms = objective.terms(model, batch, draws)
    for found, wanted in zip(terms[:3], analytic(*ends), strict=True):
        within(found, wanted * BITS, 0.02)
    within(terms.bound, sum(analytic(*ends)) * BITS, 0.02)
    # Never below the truth, and above it by what the two ends cost.
    assert sum(analytic(*ends)) > (math.log(2 * math.pi * math.e) + math.log(C**2)) / 2
    assert sum(analytic(40.0, -40.0)) == pytest.approx((math.log(2 * math.pi * math.e) + math.log(C**2)) / 2, abs=1e-9)
    torch.testing.assert_close(objective.loss(model, batch, draws), terms.bound)


def test_the_bound_does_not_see_the_shape_and_its_variance_does() -> None:
    objective, (batch, draws) = ELBO(levels=0), drawn(5_000)
    spreads = []
    for seed, amount in ((0, 0.0), (1, 0.1), (2, 0.15)):
        with torch.no_grad():
            found = objective.loss(gaussian(bent(seed, amount)), batch, draws)
        within(found, sum(analytic(13.3, -5.0)) * BITS, 0.02)
        spreads.append(float(found.var()))
    assert max(spreads) > 1.5 * min(spreads), spreads


def test_the_ends_descend_the_bound() -> None:
    """Its derivatives: -1/2 (1 - g(first)) by the first end, d prior - g(last)/2 by the last one."""
    first, last, model = 3.0, -1.0, gaussian(bent(1, 0.1, first=3.0, last=-1.0))
    process, objective = learned(model), ELBO(levels=0)
    h, grads = 1e-5, []
    wanted = [
        (sum(analytic(first + h, last)) - sum(analytic(first - h, last))) / (2 * h) * BITS,
        (sum(analytic(first, last + h)) - sum(analytic(first, last - h))) / (2 * h) * BITS,
    ]
    assert wanted[0] == pytest.approx(-(1 - float(error(torch.tensor(3.0)))) / 2 * BITS, abs=1e-6)
    for seed in range(50):
        loss = objective.loss(model, *drawn(100, seed)).mean()
        grads.append(torch.stack(torch.autograd.grad(loss, [process.first, process.last])).double())
    for i in range(2):
        within(torch.stack(grads)[:, i], wanted[i], 0.01)


def second(process: LearnedProcess, side: int = 4, n: int = 20_000) -> Tensor:
    """E[L^2] of the diffusion term in bits^2, by quadrature: eps - eps_hat is Gaussian, so E[e^2] = g^2 (1 + 2/D)."""
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    value, slope, _ = process.curve(t)
    first, last = process.span()
    each = (first - last) * slope * error(first - (first - last) * value) / 2 * BITS
    return each.square().mean() * (1 + 2 / side**2)


def test_the_shape_descends_the_variance() -> None:
    """The gradient that asks nothing of the network is that of E[L^2], and is the only one that reaches the shape."""
    model, objective = gaussian(bent(3, 0.1, units=6)), ELBO(levels=0)
    process = learned(model)
    network, shape = (player.loss for player in objective.prepare(model))
    (wanted,) = torch.autograd.grad(second(process), process.shape)
    batch, draws = drawn(40_000, side=4)
    loss = network(model, batch, draws)
    loss.sum().backward()
    assert process.shape.grad is None and process.first.grad is not None
    value = shape(model, batch, draws)
    assert torch.equal(value, torch.zeros_like(value))
    (found,) = torch.autograd.grad(value.mean(), process.shape)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=0.02 * float(wanted.norm()))
    # kept from the network's pass, or made anew
    fresh = objective.prepare(model)[1].loss
    (anew,) = torch.autograd.grad(fresh(model, batch, draws).mean(), process.shape)
    torch.testing.assert_close(anew, found)


def test_the_learned_schedule_lowers_the_variance_to_the_least_there_is() -> None:
    """Of all shapes the least E[L^2] is (integral of sqrt(E[e^2]) / 2)^2, where every time costs alike (Cauchy and Schwarz)."""
    model, objective = gaussian(bent(0, 0.0)), ELBO(levels=0)
    process = learned(model)
    logsnr = torch.linspace(-5, 13.3, 20_001, dtype=torch.float64)
    least = float(torch.trapezoid(error(logsnr), logsnr) / 2 * BITS) ** 2 * (1 + 2 / 16)
    before = float(second(process)) / least
    shape = objective.prepare(model)[1]
    optimizer = torch.optim.Adam([p for _, p in shape.parameters], lr=1e-2)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 250)
        optimizer.zero_grad()
        shape.loss(model, *drawn(128, step, side=4)).mean().backward()
        optimizer.step()
    after = float(second(process)) / least
    assert before > 1.25 and 1 - 1e-6 <= after < 1.03, (before, after)
    with torch.no_grad():
        batch, draws = drawn(5_000)
        learnt = objective.loss(model, batch, draws)
        straight = objective.loss(gaussian(bent(0, 0.0)), batch, draws)
    within(learnt, sum(analytic(13.3, -5.0)) * BITS, 0.02)
    assert float(learnt.var()) < 0.8 * float(straight.var()), (float(learnt.var()), float(straight.var()))


@pytest.mark.parametrize("first", [13.3, 9.0, 4.0, -3.0])
@pytest.mark.parametrize("levels", [2, 16, 256])
def test_the_decoder_is_the_softmax_over_values(first: float, levels: int) -> None:
    """Also where only neighbours are summed over; and its probabilities are those of a distribution."""
    g = torch.Generator().manual_seed(0)
    value = torch.randint(0, levels, (8, 1, 3, 3), generator=g)
    value[0, 0, 0] = torch.tensor([0, levels - 1, 0])
    eps = torch.randn(8, 1, 3, 3, generator=g, dtype=torch.float64)
    places = torch.arange(levels, dtype=torch.float64) * (2 / (levels - 1)) - 1
    x, s = places[value], math.exp(-first / 2)
    logp = (-((x + s * eps)[..., None] - places).square() / (2 * s**2)).log_softmax(-1)
    wanted = -logp.gather(-1, value[..., None])[..., 0].flatten(1).mean(1)
    found = ELBO(levels=levels).reconstruction(x, eps, torch.tensor(first, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-6, atol=1e-9)
    # p(v | z_0) of one z_0 for every v sums to 1
    z = 0.3
    every = (z - places) / s
    nats = ELBO(levels=levels).reconstruction(places[:, None], every[:, None], torch.tensor(first, dtype=torch.float64))
    assert float(torch.exp(-nats).sum()) == pytest.approx(1, abs=1e-6 if s < 1 else 1e-5)


def test_the_decoder_has_a_gradient_to_the_first_end() -> None:
    x, eps = torch.tensor([[-1.0, 1 / 255, 1.0]]).double(), torch.tensor([[0.3, -2.0, 1.0]]).double()

    def nats(first: Tensor) -> Tensor:
        return ELBO().reconstruction(x, eps, first).sum()

    assert torch.autograd.gradcheck(nats, [torch.tensor(8.0, dtype=torch.float64, requires_grad=True)])


def run(objective: ELBO, **fields: object) -> tuple[Model, TrainState]:
    model, plan = tiny.model(process="learned", network=tiny.network(dropout=0.0)), tiny.plan(**fields)
    state = begin(model, plan, objective)
    for _ in train(model, tiny.pictures(), plan, state, objective=objective, held_out=tiny.pictures(16, seed=1)):
        pass
    return model, state


def test_a_run_learns_all_of_it_and_less_where_it_is_told_so() -> None:
    fresh = learned(tiny.model(process="learned")).state_dict()
    moved: Callable[[Model], set[str]] = lambda m: {  # noqa: E731
        k for k, v in learned(m).state_dict().items() if not torch.equal(v, fresh[k])
    }
    model, state = run(ELBO(), steps=4)
    assert moved(model) == {"first", "last", "shape"} and len(state.players) == 2
    assert [j.loss for j in state.history] == sorted((j.loss for j in state.history), reverse=True)
    assert moved(run(ELBO(shape=False), steps=2)[0]) == {"first", "last"}
    assert moved(run(ELBO(ends=False), steps=2)[0]) == {"shape"}
    averaged = state.snapshot(model)
    assert isinstance(averaged.process, LearnedProcess) and not torch.equal(learned(averaged).shape, learned(model).shape)


def test_a_step_in_parts_is_a_step() -> None:
    whole, parts = (run(ELBO(), steps=2, batch=b, accumulation=16 // b, flips=False)[0] for b in (16, 4))
    for (name, a), b in zip(learned(whole).named_parameters(), learned(parts).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6, msg=name)


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    """The process, its averages and its optimizer's moments are saved and taken up."""
    plan, objective, data = tiny.plan(steps=6), ELBO(), tiny.pictures()
    whole, _ = run(objective, steps=6)
    model = tiny.model(process="learned", network=tiny.network(dropout=0.0))
    state = begin(model, plan, objective)
    for report in train(model, data, plan, state, objective=objective, held_out=tiny.pictures(16, seed=1)):
        if report.step == 3:
            checkpoint.write(tmp_path, model, state, keep=1, lineage={})
            break
    again = tiny.model(5, process="learned", network=tiny.network(dropout=0.0))
    path, _ = checkpoint.newest(tmp_path)
    assert path is not None
    taken = checkpoint.read(path, again, plan, objective, False)
    for _ in train(again, data, plan, taken, objective=objective, held_out=tiny.pictures(16, seed=1)):
        pass
    assert tiny.same(tiny.weights(whole), tiny.weights(again))


def test_other_objectives_leave_the_process_as_it_is() -> None:
    from safelight.train.objective import Match

    model, plan = tiny.model(process="learned"), tiny.plan(steps=2)
    for _ in train(model, tiny.pictures(), plan, objective=Match()):
        pass
    assert all(
        torch.equal(v, w) for v, w in zip(learned(model).parameters(), build("learned", "process").parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("fields", "objective", "words"),
    [
        ({"process": "cosine"}, {}, "trains a process that learns, not 'cosine'"),
        ({"process": "learned", "parameterization": "velocity"}, {}, "'velocity' would change its meaning"),
    ],
)
def test_what_it_cannot_train_is_told_in_one_line(fields: dict[str, Any], objective: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        begin(tiny.model(**fields), tiny.plan(), build({"kind": "elbo", **objective}, "objective"))
    assert "\n" not in str(caught.value)


def test_latents_are_no_whole_numbers() -> None:
    worded = Model(tiny.worded(process="learned", parameterization="v"))
    with pytest.raises(SpecError, match="latents of codec 'kl' are no whole numbers"):
        begin(worded, tiny.plan(), ELBO())
    for wrong in ({"times": "logit-normal"}, {"times": {"kind": "uniform", "entries": True}}, {"levels": 1}):
        with pytest.raises(SpecError, match="times|levels"):
            build({"kind": "elbo", **wrong}, "objective")
