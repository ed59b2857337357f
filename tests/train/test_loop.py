"""The loop: what is trained follows from (seed, step) alone, whoever looks, however it is cut, wherever it is taken up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from safelight.data import DataError, Pictures, load, memory
from safelight.model import Model
from safelight.spec import SpecError
from safelight.train import Diverged, Every, Plan, Report, TrainState, begin, checkpoint, train
from safelight.train.ema import Classic, Power
from safelight.train.feed import words
from safelight.train.guard import Guard
from safelight.train.held import Judged, Jury, Panel, memorising
from safelight.train.keys import key, keyed
from safelight.train.objective import Draws, Match, Objective
from safelight.train.optim import AdamW, Cosine
from safelight.train.times import Stratified
from tests.train import tiny

TIMELESS = {"images_per_second", "data_wait"}


def run(plan: Plan, seed: int = 0, **given: Any) -> tuple[Model, TrainState, list[Report]]:
    """A whole run in memory."""
    model = tiny.model(seed)
    objective = given.pop("objective", Match(drop=0.2))
    state = begin(model, plan, objective)
    reports = list(train(model, given.pop("data", tiny.pictures()), plan, state, objective=objective, **given))
    return model, state, reports


def logged(reports: list[Report]) -> list[dict[str, Any]]:
    """Everything logged but the clock."""
    return [{k: v for k, v in r.metrics.items() if k not in TIMELESS} for r in reports if r.metrics]


def test_it_learns() -> None:
    """After 30 steps the held-out loss is well below that of step 10 and the trivial predictor's."""
    plan = tiny.plan(steps=30, batch=16, optimizer=AdamW(lr=5e-3), every=Every(log=10, held_out=10), averages={})
    _, state, reports = run(plan, held_out=tiny.pictures(32, seed=1))
    first, last = state.history[0], state.history[-1]
    assert last.loss < 0.8 * first.loss and last.loss < 0.6 * last.trivial
    assert state.seen == 480 and reports[-1].step == 30 and reports[-1].epoch == 7.5
    assert not any(r.broken for r in reports)


def test_two_runs_are_one() -> None:
    """Bit for bit, also when torch's global generators stand elsewhere; and they are left as they were."""
    first, a, ra = run(tiny.plan())
    torch.manual_seed(123)
    before = torch.get_rng_state()
    second, b, rb = run(tiny.plan())
    assert tiny.same(tiny.weights(first), tiny.weights(second))
    assert tiny.same(a.averages.tensors("ema"), b.averages.tensors("ema"))
    assert logged(ra) == logged(rb) and a.order == b.order
    assert torch.equal(torch.get_rng_state(), before)
    other, _, _ = run(tiny.plan(seed=1))
    assert not tiny.same(tiny.weights(first), tiny.weights(other))


def test_observation_is_free(tmp_path: Path) -> None:
    """Logging, judging, copying, saving after every step or never: the same weights, averages and moments, bit for bit."""
    held = tiny.pictures(16, seed=1)
    quiet, still, _ = run(tiny.plan(every=Every(log=0, held_out=0, sample=0, save=0)))
    plan = tiny.plan(every=Every(log=1, held_out=1, sample=1, save=1))
    model = tiny.model()
    state = begin(model, plan, Match(drop=0.2))
    for report in train(model, tiny.pictures(), plan, state, objective=Match(drop=0.2), held_out=held):
        assert report.metrics and report.judged and report.save and report.sample
        checkpoint.write(tmp_path, model, state, keep=1, lineage={})
        copy = state.snapshot(model)
        with torch.no_grad():
            for p in copy.parameters():
                p.add_(1.0)
    assert tiny.same(tiny.weights(quiet), tiny.weights(model))
    assert tiny.same(still.averages.tensors("ema"), state.averages.tensors("ema"))
    assert tiny.same(still.tensors(), state.tensors())


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_taken_up_it_is_the_same_run(tmp_path: Path, accumulation: int, at: int) -> None:
    """Stopped after any step and read back from disk: weights, averages, moments, order, rates, losses, judgements, bit for bit."""
    plan = tiny.plan(
        accumulation=accumulation,
        schedule=Cosine(warmup=2, final=0.1),
        averages={"ema": Power(sigma_rel=0.1), "slow": Classic()},
        every=Every(log=2, held_out=3, sample=0, save=0),
    )
    held, objective = tiny.pictures(16, seed=1), Match(drop=0.2, times=Stratified())
    whole, state, reports = run(plan, held_out=held, objective=objective)

    model = tiny.model()
    early = begin(model, plan, objective)
    first = []
    for report in train(model, tiny.pictures(), plan, early, objective=objective, held_out=held):
        first.append(report)
        if report.step == at:
            break
    path = checkpoint.write(tmp_path, model, early, keep=1, lineage={})

    again = tiny.model(seed=5)  # other weights, to be overwritten
    late = checkpoint.read(path, again, plan, objective, scaling=False)
    rest = list(train(again, tiny.pictures(), plan, late, objective=objective, held_out=held))
    assert not tiny.same(tiny.weights(model), tiny.weights(again))  # it moved on
    assert tiny.same(tiny.weights(whole), tiny.weights(again))
    assert tiny.same(state.tensors(), late.tensors())
    for name in plan.averages:
        assert tiny.same(state.averages.tensors(name), late.averages.tensors(name))
    assert state.numbers() == late.numbers()
    assert logged(first + rest) == logged(reports)
    assert [r.lr for r in first + rest] == [r.lr for r in reports]


def test_accumulation_is_one_large_batch() -> None:
    """3 x 8 draws what 1 x 24 draws, and gives its gradient to 1e-6: same pictures, times, noise, flips and dropped prompts."""
    grads = []
    for batch, accumulation in ((24, 1), (8, 3)):
        model = tiny.model(network=tiny.network(dropout=0.0))
        plan = tiny.plan(batch=batch, accumulation=accumulation, steps=1, clip=0, optimizer=AdamW(lr=1e-9))
        (report,) = train(model, tiny.pictures(), plan, objective=Match(drop=0.3, times=Stratified()))
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        grads[-1]["loss"] = torch.tensor(report.metrics["train/loss"])
    assert grads[0].keys() == grads[1].keys()
    scale = max(float(g.abs().max()) for g in grads[0].values())
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], rtol=1e-5, atol=1e-6 * scale, msg=name)


def test_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointing in (False, True):
        model = tiny.model()
        plan = tiny.plan(steps=1, checkpointing=checkpointing)
        list(train(model, tiny.pictures(), plan))
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert tiny.same(*grads)


def test_channels_last_draws_the_same() -> None:
    """The memory format moves no time, noise, flip or dropped prompt: losses are equal up to the convolutions' rounding."""
    losses = []
    for flag in (False, True):
        model, plan = tiny.model(network=tiny.network(dropout=0.0)), tiny.plan(steps=2, channels_last=flag)
        losses.append(
            [r.metrics["train/loss"] for r in train(model, tiny.pictures(), plan, objective=Match(drop=0.3)) if r.metrics]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_half_of_the_pictures_are_flipped() -> None:
    from safelight.train.feed import flipped

    pixels = torch.arange(8, dtype=torch.uint8).expand(1000, 1, 1, 8)
    count = sum(int((flipped(pixels, 0, step)[:, 0, 0, 0] == 7).sum()) for step in range(10))
    assert abs(count - 5000) < 4 * math.sqrt(10_000 / 4)
    assert torch.equal(flipped(pixels, 0, 3), flipped(pixels, 0, 3))


class _Poisoned(Match):
    """Match whose loss is NaN when a step is among `at`."""

    at: tuple[int, ...] = ()

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        draws = super().draw(model, like, seed, step)
        return draws._replace(eps=draws.eps * math.nan) if step in self.at else draws


def test_a_non_finite_step_is_skipped_and_told() -> None:
    """Steps 2 and 5 of 8: weights do not move there, and the report names pictures, times and dtype."""
    model, plan = tiny.model(), tiny.plan(steps=8, every=Every(log=4, held_out=0, sample=0, save=0))
    state = begin(model, plan)
    seen, reports = [tiny.weights(model)], []
    for report in train(model, tiny.pictures(), plan, state, objective=_Poisoned(at=(1, 4))):
        seen.append(tiny.weights(model))
        reports.append(report)
    moved = [not tiny.same(a, b) for a, b in zip(seen, seen[1:], strict=False)]
    assert moved == [True, False, True, True, False, True, True, True]
    assert all(torch.isfinite(v).all() for v in seen[-1].values())
    (broken,) = reports[1].broken
    assert broken.step == 2 and len(broken.ids) == 8 and set(broken.ids) <= set(tiny.pictures().ids)
    assert len(broken.t) == 8 and broken.dtype == "float32" and math.isnan(broken.loss)
    assert "step 2 skipped" in reports[1].notes[0]
    assert reports[3].metrics["skipped"] == 1 and math.isfinite(float(reports[3].metrics["train/loss"]))
    assert state.skipped == 2 and state.bad == 0


def test_it_stops_after_so_many_in_a_row() -> None:
    model, plan = tiny.model(), tiny.plan(steps=20, patience=3)
    state = begin(model, plan)
    reports: list[Report] = []
    good: dict[str, Tensor] = {}
    with pytest.raises(Diverged, match="3 steps in a row were not finite.*weights are those of step 4"):  # noqa: PT012
        for report in train(model, tiny.pictures(), plan, state, objective=_Poisoned(at=(1, 4, 5, 6))):
            reports.append(report)
            if report.step == 4:
                good = tiny.weights(model)
    assert len(reports) == 7 and not reports[-1].save
    assert tiny.same(good, tiny.weights(model))


def test_the_loss_scale_halves_at_an_overflow_and_grows_back() -> None:
    """The guard of fp16 runs: unscaled gradients reach the optimizer, an overflow is skipped, and only at scale 1 is it fatal."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer, guard = AdamW(lr=0.1).make([parameter]), Guard(torch.device("cpu"), scaling=True)
    guard.backward((parameter * torch.tensor([3.0, 4.0, 0.0])).sum())
    verdict, norm = guard.step(optimizer, [parameter], torch.tensor(1.0), clip=0)
    assert int(verdict) == 0 and float(norm) == pytest.approx(5) and float(guard.scale) == 2**16
    kept = parameter.detach().clone()
    for k in range(17):
        optimizer.zero_grad()
        guard.backward((parameter * math.inf).sum())
        verdict, _ = guard.step(optimizer, [parameter], torch.tensor(1.0), clip=1.0)
        assert int(verdict) == (1 if k < 16 else 2)
        assert float(guard.scale) == max(1.0, 2.0 ** (15 - k))
    assert torch.equal(kept, parameter)
    guard.good.fill_(1999)
    optimizer.zero_grad()
    guard.backward(parameter.sum())
    guard.step(optimizer, [parameter], torch.tensor(1.0), clip=0)
    assert float(guard.scale) == 2 and int(guard.good) == 0


def test_clipping_bounds_the_gradient() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    guard = Guard(torch.device("cpu"), scaling=False)
    guard.backward((parameter * torch.tensor([30.0, 40.0])).sum())
    _, norm = guard.step(AdamW().make([parameter]), [parameter], torch.tensor(0.0), clip=2.0)
    assert float(norm) == pytest.approx(50) and parameter.grad is not None
    assert float(parameter.grad.norm()) == pytest.approx(2, rel=1e-5)


def test_a_precision_that_is_not_honoured_is_said() -> None:
    _, _, reports = run(tiny.plan(steps=1, precision="fp16"))
    assert reports[0].notes and "fp16" in reports[0].notes[0] and "fp32" in reports[0].notes[0]
    assert run(tiny.plan(steps=1))[2][0].notes == ()


def test_bf16_trains_near_fp32() -> None:
    losses = [
        run(tiny.plan(steps=4, precision=p, every=Every(log=4, held_out=0)))[2][-1].metrics["train/loss"]
        for p in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


def test_unfit_data_are_refused() -> None:
    colour = load(memory(np.zeros((20, 8, 8, 3), np.uint8)))
    with pytest.raises(SpecError, match="3x8x8.*1x8x8"):
        next(train(tiny.model(text=None, network=tiny.network(cond=0)), colour, tiny.plan()))
    with pytest.raises(DataError, match="larger than the data"):
        next(train(tiny.model(), tiny.pictures(20), tiny.plan(batch=16, accumulation=2)))
    stranger = load(memory(np.zeros((20, 8, 8, 1), np.uint8), ["bc"] * 20))
    with pytest.raises(SpecError, match="captions of the data.*no class 'bc'"):
        next(train(tiny.model(), stranger, tiny.plan()))


# Judging


def _jury(model: Model, batch: int, n: int = 32) -> Jury:
    return Jury(model, Match(drop=0.5), tiny.pictures(n, seed=1), tiny.pictures(64), 24, 4, batch)


def test_the_held_out_loss_is_one_number() -> None:
    """Equal in two runs bit for bit and at other batch sizes to 1e-5, whatever the state of the generators and the data's order."""
    model = tiny.model().eval()
    first = _jury(model, 8).judge(model, 0)
    torch.rand(1000)
    assert _jury(model, 8).judge(model, 0) == first
    for batch in (1, 5, 24):
        other = _jury(model, batch).judge(model, 0)
        assert other.loss == pytest.approx(first.loss, rel=1e-5) and other.seen == pytest.approx(first.seen, rel=1e-5)
        assert other.buckets == pytest.approx(first.buckets, rel=1e-5)
    held = tiny.pictures(32, seed=1)
    turned = Jury(model, Match(), held.subset(torch.arange(31, -1, -1)), tiny.pictures(64), 24, 4, 8).judge(model, 0)
    assert turned.loss == pytest.approx(first.loss, rel=1e-6)


def test_buckets_recombine() -> None:
    model = tiny.model().eval()
    judged = _jury(model, 8).judge(model, 0)
    assert len(judged.buckets) == 4 and sum(judged.buckets) / 4 == pytest.approx(judged.loss, rel=1e-12)
    assert sum(judged.seen_buckets) / 4 == pytest.approx(judged.seen, rel=1e-12)
    panel = Jury(model, Match(), tiny.pictures(10, seed=1), tiny.pictures(64), 10, 4, 8).held_out
    losses = panel.losses(model, Match())
    counts = torch.bincount(panel.bucket, minlength=4).tolist()
    assert sum(c * m for c, m in zip(counts, panel.means(losses), strict=True)) / 10 == pytest.approx(float(losses.mean()))
    assert set(judged.metrics()) == {"val/loss", "val/train", "val/gap", "val/trivial", *(f"val/loss_t{i}" for i in range(4))}


def test_trivial_is_the_target_squared() -> None:
    """What an answer of 0 gets in v on cosine: the mean of (alpha eps - sigma x0)^2, recomputed here from its definition."""
    model = tiny.model(parameterization="v").eval()
    jury = _jury(model, 8)
    panel, process = jury.held_out, model.denoiser.process
    from safelight.data import to_unit
    from safelight.train.keys import generator

    total = 0.0
    for row, u in zip(panel.chosen, panel.u.tolist(), strict=True):
        x0 = to_unit(panel.pictures.batch(torch.tensor([row])))
        eps = torch.randn(x0.shape[1:], generator=generator("cpu", "held-out", panel.pictures.ids[row]))
        level = process.at(u)
        total += float((float(level.alpha) * eps - float(level.sigma) * x0[0]).square().mean())
    assert jury.judge(model, 0).trivial == pytest.approx(total / 24, rel=1e-5)


def test_memorising_eight_pictures_is_flagged() -> None:
    """Eight pictures learned by heart: the training loss falls, the held-out loss rises, and the run says so once."""
    plan = tiny.plan(
        steps=200,
        batch=8,
        flips=False,
        optimizer=AdamW(lr=1e-2, weight_decay=0),
        averages={"ema": Classic(decay=0.9)},
        every=Every(log=0, held_out=25, sample=0, save=0),
    )
    model = tiny.model(network=tiny.network(dropout=0.0).model_copy(update={"widths": (16, 32)}))
    objective = Match()
    state = begin(model, plan, objective)
    data = tiny.pictures(8)
    notes = [
        n for r in train(model, data, plan, state, objective=objective, held_out=tiny.pictures(64, seed=1)) for n in r.notes
    ]
    best = min(state.history, key=lambda j: j.loss)
    assert state.history[-1].seen < best.seen and state.history[-1].loss > 1.03 * best.loss
    assert sum("memorising" in n for n in notes) == 1 and f"step {best.step}" in next(n for n in notes if "memorising" in n)


def test_noise_is_not_called_memorising() -> None:
    def made(*losses: tuple[float, float]) -> list[Judged]:
        return [Judged(k, loss, seen, 1.0, (), ()) for k, (loss, seen) in enumerate(losses)]

    assert memorising(made((1, 1), (0.8, 0.8), (0.9, 0.7))) is None  # once is not a trend
    assert memorising(made((1, 1), (0.8, 0.8), (0.81, 0.7), (0.81, 0.6))) is None  # within the noise
    assert memorising(made((1, 1), (0.8, 0.8), (0.9, 0.9), (0.9, 0.9))) is None  # both got worse: something else
    found = memorising(made((1, 1), (0.8, 0.8), (0.9, 0.7), (0.95, 0.6)))
    assert found is not None and found.step == 1


def test_channels_last_goes_on_exactly() -> None:
    """A file keeps values, not layouts: moments read back must lie as their weights do, or a fused optimizer mixes them up."""
    plan = tiny.plan(steps=6, channels_last=True)
    whole = tiny.model()
    list(train(whole, tiny.pictures(), plan))

    first = tiny.model()
    state = begin(first, plan)
    for report in train(first, tiny.pictures(), plan, state):
        if report.step == 3:
            break
    kept = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.tensors().items()}
    second = tiny.model()
    second.load_state_dict(
        {name: value.clone(memory_format=torch.contiguous_format) for name, value in first.state_dict().items()}
    )
    again = begin(second, plan)
    again.load(kept, state.numbers())
    list(train(second, tiny.pictures(), plan, again))
    assert tiny.same(tiny.weights(second), tiny.weights(whole))


def test_a_loaded_state_is_its_own() -> None:
    """Training on does not write into the state that was loaded from."""
    plan, first = tiny.plan(), tiny.model()
    state = begin(first, plan)
    next(train(first, tiny.pictures(), plan, state))
    before = {name: value.clone() for name, value in state.tensors().items()}
    second = tiny.model()
    again = begin(second, plan)
    again.load(state.tensors(), state.numbers())
    list(train(second, tiny.pictures(), plan, again))
    assert tiny.same(before, state.tensors())


def test_captions_of_held_out_pictures_are_their_own(tmp_path: Path) -> None:
    """A file gone bad is replaced, and judged by the caption of what stands in for it."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(tiny.NAMES):
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / name / f"{k}.png")
    held = load(tmp_path, channels=1, size=8, memory="never")
    bad = held.ids.index("a/0")
    good = held.subset(torch.tensor([(bad + 1) % 3]))
    (tmp_path / "a" / "0.png").write_bytes(b"rotten")
    model = tiny.model().eval()
    model.text.embedding.weight.data.mul_(100)  # captions matter

    def loss(pictures: Pictures, chosen: int) -> float:
        panel = Panel(pictures, 1, 1, words(model, pictures, model.device), 1)
        panel.chosen = [chosen]
        pictures.ids[chosen] = "x"  # so that both draw the same noise
        return float(panel.losses(model, Match()))

    assert loss(held, bad) == loss(good, 0)


def test_an_objective_without_a_held_out_loss_says_so_at_once() -> None:
    class Mute(Match):
        def fixed(self, model: Model, u: Tensor, eps: Tensor) -> Draws:
            return Objective.fixed(self, model, u, eps)

    with pytest.raises(SpecError, match="has no held-out loss"):
        next(train(tiny.model(), tiny.pictures(), tiny.plan(), objective=Mute(), held_out=tiny.pictures(seed=1)))


def test_only_the_generators_that_are_put_back_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on a CPU leaves the generators of an accelerator alone."""
    touched = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched.append)
    torch.manual_seed(3)
    expected, before = torch.rand(4), len(touched)
    state = torch.get_rng_state()
    with keyed(torch.device("cpu"), 7, "weights"):
        drawn = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), state) and len(touched) == before
    torch.manual_seed(key(7, "weights"))
    assert torch.equal(torch.rand(4), drawn) and not torch.equal(drawn, expected)
