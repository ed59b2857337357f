"""The bound as a loss: its value, what it teaches, and the times that a memory of losses chooses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.bound import NAT, Chain
from safelight.denoise import Estimate
from safelight.evaluate.likelihood import bound
from safelight.grid import Uniform as Even
from safelight.model import Model
from safelight.noise import Noise
from safelight.spec import SpecError, build, parse
from safelight.train import begin, checkpoint, train
from safelight.train.classify import Classify
from safelight.train.hybrid import VLB, Hybrid
from safelight.train.keys import generator
from safelight.train.memory import History
from safelight.train.objective import Batch, Draws, Match, Objective, Recall
from safelight.train.times import Importance, LogitNormal, Stratified, Times, Uniform
from tests.train import tiny

T = 12
LINEAR = {"kind": "linear", "T": T}


def learner(seed: int = 0, process: Any = LINEAR, **fields: Any) -> Model:
    """A tiny model that predicts a variance, float64 so that terms can be compared."""
    network = tiny.network(dropout=0.0, cond=0).model_copy(update={"learned_variance": True})
    model = tiny.model(seed, **({"network": network, "text": None, "process": process, "parameterization": "eps"} | fields))
    return model.double()


def drawn(model: Model, t: Tensor, seed: int = 0) -> tuple[Batch, Draws]:
    g = torch.Generator().manual_seed(seed)
    x0 = torch.randint(0, 256, (len(t), 1, 8, 8), generator=g).double() / 127.5 - 1
    return Batch(x0), Draws(t, torch.randn(x0.shape, generator=g, dtype=x0.dtype), torch.zeros(len(t), dtype=torch.bool))


class Fixed:
    """The noise of one picture at each of the chain's levels."""

    def __init__(self, eps: Tensor) -> None:
        self.eps = iter(eps)

    def normal(self, *given: Any) -> Tensor:
        return next(self.eps)[None]


@pytest.mark.parametrize("variance", ["learned", "small", "large"])
def test_the_loss_over_all_steps_is_the_bound(variance: Any) -> None:
    """A picture at each of the T times, under the same noise: the mean of `vlb` is what `evaluate.bound` gives without L_T, in bits."""
    model = learner()
    t = (torch.arange(T, 0, -1, dtype=torch.float64)) / T
    batch, draws = drawn(model, t)
    batch = Batch(batch.x0[:1].expand(T, -1, -1, -1))
    loss = VLB(variance=variance).loss(model, batch, draws).detach()
    chain = Chain(model.process.at(Even()(model.process, T)))
    with torch.no_grad():
        found = bound(model.denoiser.bind(None), batch.x0[:1], chain, Fixed(draws.eps), variance)  # type: ignore[arg-type]
    assert float(loss.mean()) == pytest.approx(float(found.total - found.prior) * NAT, rel=1e-9)


@pytest.mark.parametrize(
    "process, parameterization, steps", [(LINEAR, "eps", None), ("cosine", "v", 9), ("flow", "velocity", 7)]
)
def test_the_hybrid_is_its_two_parts_and_the_mean_hears_one(process: Any, parameterization: str, steps: int | None) -> None:
    """Its value is L_simple + lambda L_vlb; the half of the last layer that predicts has the gradient of L_simple alone, to 1e-9, and
    the half that is the variance that of lambda L_vlb alone."""
    model = learner(process=process, parameterization=parameterization)
    hybrid = Hybrid(steps=steps, vlb=0.01)
    u = torch.tensor([0.01, 0.3, 0.62, 0.88], dtype=torch.float64)
    batch, draws = drawn(model, hybrid.when(u, model.process))
    head = dict(model.denoiser.network.named_parameters())["head.weight"]

    def slope(objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        loss = objective.loss(model, batch, draws)
        (found,) = torch.autograd.grad(loss.sum(), head)
        half = len(found) // 2
        return loss.detach(), found[:half], found[half:]

    both, simple, vlb = slope(hybrid), slope(Match()), slope(VLB(steps=steps))
    torch.testing.assert_close(
        both[0], simple[0] + 0.01 * vlb[0], rtol=1e-6, atol=1e-9
    )  # match tells float32 numbers of the level
    torch.testing.assert_close(both[1], simple[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(both[2], 0.01 * vlb[2], rtol=1e-9, atol=1e-12)
    assert float(vlb[1].abs().max()) > 0 and float(both[2].abs().max()) > 0


def test_the_best_variance_is_what_the_estimate_leaves_open() -> None:
    """On N(0, c^2) with the exact denoiser, the fraction that gradient descent on L_k finds gives var = small + gain^2 Var(x0 | x_t)."""
    c, process = 0.5, build("cosine-betas", "process")
    chain = Chain(process.at(Even()(process, 50)))
    k = torch.tensor([10, 25, 40])
    level = process.at(chain.levels.t[k])
    left = 1 / (1 / c**2 + torch.exp(level.logsnr))
    g = torch.Generator().manual_seed(0)
    off = left.sqrt()[:, None] * torch.randn(3, 200_000, generator=g, dtype=torch.float64)
    off = off * (left / off.square().mean(1)).sqrt()[:, None]  # its second moment is exact
    fraction = torch.full((3, 1), 0.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([fraction], max_iter=50, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = chain.term(k, off, Estimate(torch.zeros_like(off), fraction), "learned").mean(1).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    small, large = chain.small[k], chain.large[k]
    found = small * (large / small) ** fraction.detach()[:, 0]
    torch.testing.assert_close(found, small + chain.gain[k].square() * left, rtol=1e-4, atol=0)
    assert bool(((fraction > 0) & (fraction < 1)).all())


def test_what_a_bound_is_not_made_of_is_refused() -> None:
    with pytest.raises(SpecError, match="'logit-normal' would weigh"):
        Hybrid(times=LogitNormal()).prepare(learner())
    with pytest.raises(SpecError, match=r"objective\.steps=1000"):
        VLB().prepare(learner(process="cosine"))
    with pytest.raises(SpecError, match="learned_variance=true"):
        Hybrid().prepare(tiny.model(process=LINEAR))
    with pytest.raises(SpecError, match="learned_variance=true"):
        VLB().prepare(tiny.model(process=LINEAR))
    with pytest.raises(SpecError, match="'classify' remembers no losses"):
        begin(tiny.model(), tiny.plan(), Classify(times=Importance()))
    assert VLB(variance="small").prepare(tiny.model(process=LINEAR))


# Importance


def test_shares_follow_the_losses() -> None:
    """p_i proportional to sqrt(mean of the last three L^2), a thousandth of it even; all alike until every part has three."""
    history = History(4, 3, floor=0.001)
    v = torch.rand(50_000, generator=generator("cpu", 0), dtype=torch.float64)
    for i in range(4):
        u, part, weight = history.place(v)
        assert torch.equal(u, v) and torch.equal(weight, torch.ones_like(v)) and torch.equal(part, (v * 4).long())
        history.saw(torch.full((4,), i), [99.0, 3.0 * (i + 1), -4.0 * (i + 1), 5.0 * (i + 1)])  # the first is forgotten
        history.saw(torch.tensor([i]), [math.nan])
    p = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) / 10
    torch.testing.assert_close(history.shares(), 0.999 * p + 0.001 / 4)
    u, part, weight = history.place(v)
    assert torch.equal(part, (u * 4).long())
    rates = part.bincount(minlength=4).double() / len(v)
    assert float((rates - p).abs().max()) < 0.01
    # Whatever the loss is, its weighted mean is that of even times, and of one like the history its spread is small.
    for loss, spread in ((torch.exp(2 * u) + u, None), (part + 1.0, 0.01)):
        even = torch.exp(2 * v) + v if spread is None else (v * 4).long() + 1.0
        assert float((loss * weight).mean()) == pytest.approx(float(even.mean()), rel=0.02)
        if spread:
            assert float((loss * weight).std()) < spread < float(even.std())


@pytest.mark.parametrize("objective", [Hybrid(times=Importance(history=1)), Match(times=Importance(history=1, entries=True))])
def test_a_memory_is_part_of_the_run(objective: Objective, tmp_path: Path) -> None:
    """Eight steps, and four with a checkpoint and four more: the same weights and the same history, bit for bit; and times are no
    longer even by then."""
    process = {"kind": "linear", "T": 4}
    plan = tiny.plan(steps=8, batch=4, accumulation=2)
    whole = learner(process=process).float()
    state = begin(whole, plan, objective)
    list(train(whole, tiny.pictures(), plan, state, objective=objective))

    model = learner(process=process).float()
    early = begin(model, plan, objective)
    for report in train(model, tiny.pictures(), plan, early, objective=objective):
        if report.step == 4:
            break
    path = checkpoint.write(tmp_path, model, early, keep=1, lineage={})
    again = learner(seed=5, process=process).float()
    late = checkpoint.read(path, again, plan, objective, scaling=False)
    assert isinstance(late.memory, Recall) and late.memory.history.full
    list(train(again, tiny.pictures(), plan, late, objective=objective))
    assert tiny.same(tiny.weights(whole), tiny.weights(again))
    assert state.memory is not None and tiny.same(state.memory.tensors(), late.memory.tensors())
    like = torch.zeros(4000, 1, 1, 1)
    draws = late.memory.draw(again, like, 0, 99)
    rates = (draws.t * 4).round().long().bincount(minlength=5)[1:] / 4000
    assert float((rates - late.memory.history.shares()).abs().max()) < 0.03 < float(rates.max() - rates.min())


def test_a_memory_sees_the_step_and_not_its_cut() -> None:
    """Two micro-batches of four and one of eight leave the same history, up to the rounding of another batch."""
    found = []
    for cut in ({"batch": 8}, {"batch": 4, "accumulation": 2}):
        model, objective = learner().float(), Match(times=Importance(history=1, entries=True))
        plan = tiny.plan(steps=6, **cut)
        state = begin(model, plan, objective)
        list(train(model, tiny.pictures(), plan, state, objective=objective))
        assert isinstance(state.memory, Recall)
        found.append(state.memory.history)
    assert torch.equal(found[0].counts, found[1].counts) and int(found[0].counts.sum()) == 48
    torch.testing.assert_close(found[0].losses, found[1].losses, rtol=1e-3, atol=1e-5)


def test_importance_makes_the_bound_less_noisy() -> None:
    """L_vlb of one network at 2,000 times: the spread of the loss falls to less than half, its mean stays within 4 standard errors."""
    process = {"kind": "linear", "T": 50}
    model = learner(process=process, parameterization="v")
    picture = tiny.pictures().batch(torch.arange(1)).double() / 127.5 - 1
    batch = Batch(picture.expand(500, -1, -1, -1))

    def losses(times: Times, memory: Recall | None = None, steps: int = 4) -> Tensor:
        objective, found = VLB(times=times), []
        for step in range(steps):
            draws = (memory or objective).draw(model, batch.x0, 0, step)
            with torch.no_grad():
                each = objective.loss(model, batch, draws)
            if memory is not None:
                memory.saw(draws, each.tolist())
            found.append(each if draws.weight is None else each * draws.weight)
        return torch.cat(found[-4:])

    times = Importance(history=5)
    memory = VLB(times=times).memory(model)
    assert isinstance(memory, Recall) and len(memory.history.counts) == 50
    even, chosen = losses(Uniform()), losses(times, memory, steps=8)
    assert float(chosen.std()) < 0.5 * float(even.std())
    assert float((chosen.mean() - even.mean()).abs()) < 4 * math.hypot(float(even.std()), float(chosen.std())) / math.sqrt(2000)


def test_kinds_know_their_numbers() -> None:
    """A description goes there and back, and objectives that remember nothing say so."""
    told = {"kind": "hybrid", "vlb": 0.002, "steps": 100, "times": {"kind": "importance", "history": 5}}
    found = parse(told, "objective")
    assert found == Hybrid(vlb=0.002, steps=100, times=Importance(history=5))
    assert Match(times=Stratified()).memory(tiny.model()) is None
    with torch.no_grad():
        model = learner()
        batch, draws = drawn(model, torch.full((2,), 1 / T, dtype=torch.float64))
        silent = Noise(0).normal("x", None, None, batch.x0)
        assert torch.isfinite(Hybrid().loss(model, batch, draws._replace(eps=1e3 * silent))).all()
