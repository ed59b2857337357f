"""The loss: the same through every parameterization, finite at its ends, at the times and with the prompts it says."""

from __future__ import annotations

import math

import pytest
import torch

from safelight.spec import SpecError, build, kinds, parse
from safelight.train.keys import generator
from safelight.train.objective import Batch, Draws, Match
from safelight.train.times import LogitNormal, LogNormal, Stratified, Times, Uniform
from safelight.train.weighting import MSE, SNR, Huber, MinSNR, Unit
from tests.train import tiny
from tests.train.belief import losses

WEIGHTINGS = ["snr", "min-snr", "edm"]


@pytest.mark.parametrize("process", ["linear", "cosine", "edm", "flow"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weighted_losses_agree_across_parameterizations(process: str, weighting: str) -> None:
    """The weight is one on the error of x0, so eps, x0, v, score, velocity and edm all give w |x0_hat - x0|^2."""
    torch.manual_seed(0)
    x0, belief, eps = (torch.randn(6, 1, 8, 8, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    kind = build(weighting, "weighting")
    level = build(process, "process").at(t)
    snr = (level.alpha / level.sigma) ** 2
    w = {"snr": snr, "min-snr": snr.clamp(max=5.0), "edm": (1 / snr + 0.25) * snr / 0.25}[weighting]
    expected = w * (belief - x0).square().flatten(1).mean(1)
    for name in kinds("parameterization"):
        found = losses(Match(weighting=kind), name, process, t, x0, belief, eps)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0, msg=f"{name} on {process}")


@pytest.mark.parametrize("name, weight", [("eps", lambda m, s: m / s), ("v", lambda m, s: m / (s + 1)), ("x0", lambda m, s: m)])
def test_min_snr_as_published(name: str, weight: object) -> None:
    """On the network's error: min(SNR, 5)/SNR for eps, min(SNR, 5)/(SNR + 1) for v, min(SNR, 5) for x0 (Hang et al. 2023)."""
    process, kind = build("cosine", "process"), build(name, "parameterization")
    level = process.at(torch.linspace(0.05, 0.95, 9, dtype=torch.float64))
    snr = torch.exp(level.logsnr)
    found = MinSNR(gamma=5).on_network(level, kind.coeffs(level, process).out)
    torch.testing.assert_close(found, weight(snr.clamp(max=5.0), snr), rtol=1e-10, atol=0)  # type: ignore[operator]


@pytest.mark.parametrize("weighting", ["unit", *WEIGHTINGS])
@pytest.mark.parametrize("name", ["x0", "v", "velocity"])
@pytest.mark.parametrize("process", [{"kind": "linear", "zero_terminal_snr": True}, {"kind": "cosine"}, {"kind": "flow"}])
def test_finite_at_zero_terminal_snr(weighting: str, name: str, process: dict[str, object]) -> None:
    there, kind = parse(process, "process"), build(name, "parameterization")
    level = there.at(torch.tensor([1.0, 0.5], dtype=torch.float64))  # type: ignore[attr-defined]
    assert float(level.alpha[0]) == 0
    found = build(weighting, "weighting").on_network(level, kind.coeffs(level, there).out)
    assert torch.isfinite(found).all() and (found >= 0).all()
    if weighting in ("snr", "min-snr"):
        assert float(found[0]) == 0


def test_unit_is_one_and_snr_is_unit_of_eps() -> None:
    process, eps = build("cosine", "process"), build("eps", "parameterization")
    level = process.at(torch.linspace(0.1, 0.9, 5, dtype=torch.float64))
    out = eps.coeffs(level, process).out
    assert torch.equal(Unit().on_network(level, out), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(SNR().on_network(level, out), torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["mse", "l1", "huber"])
def test_distances_are_torchs(name: str) -> None:
    a, b = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    theirs = {"mse": torch.nn.MSELoss, "l1": torch.nn.L1Loss, "huber": torch.nn.SmoothL1Loss}[name](reduction="none")
    torch.testing.assert_close(build(name, "distance")(a, b), theirs(a, b))
    torch.testing.assert_close(Huber(delta=0.1)(a, b), torch.nn.SmoothL1Loss(reduction="none", beta=0.1)(a, b))


@pytest.mark.parametrize(
    "kind, process", [(LogitNormal(mean=0.3, std=0.8), "flow"), (LogNormal(), "edm"), (LogNormal(mean=0.0, std=1.0), "cosine")]
)
def test_times_have_their_distribution(kind: Times, process: str) -> None:
    """Kolmogorov-Smirnov of 20,000 draws in the variable that should be normal: below the 0.1 % point."""
    there = build(process, "process")
    t = kind.times(kind.place(20_000, generator("cpu", 1)), there)
    value = torch.logit(t) if isinstance(kind, LogitNormal) else -there.at(t).logsnr / 2
    z = ((value - kind.mean) / kind.std).sort().values  # type: ignore[attr-defined]
    cdf = torch.special.ndtr(z)
    n = len(z)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((cdf - steps[:-1]).abs(), (cdf - steps[1:]).abs()).max()
    assert float(distance) < 1.95 / math.sqrt(n)


def test_stratified_covers_every_step() -> None:
    u = Stratified().place(64, generator("cpu", 3)).sort().values
    assert torch.equal((u * 64).long(), torch.arange(64))
    firsts = torch.stack([Stratified().place(8, generator("cpu", k))[0] for k in range(2000)])
    assert abs(float(firsts.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 2000)


def test_entries_are_the_tables_own_times_evenly() -> None:
    process = build({"kind": "linear", "T": 200}, "process")
    t = Uniform(entries=True).times(torch.rand(20_000, dtype=torch.float64, generator=generator("cpu", 0)), process)
    index = process.position(t)
    assert torch.equal(index, index.round()) and set(index.int().tolist()) == set(range(200))
    counts = torch.bincount(index.long(), minlength=200).double()
    assert float(((counts - 100) ** 2 / 100).sum()) < 282  # chi-squared, 199 degrees, 0.01 %
    with pytest.raises(SpecError, match=r"times\.entries.*cosine"):
        Uniform(entries=True).times(torch.rand(3, dtype=torch.float64), build("cosine", "process"))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_prompts_are_dropped_at_the_rate(rate: float) -> None:
    """Within three standard deviations over 20,000 pictures; the dropped ones hear exactly the null prompt, the others their own."""
    model, objective = tiny.model(), Match(drop=rate)
    assert model.text is not None
    tokens = model.text.tokenize(["a", "b", "c", "a"])
    null = model.text.tokenize([""])
    dropped = 0
    for step in range(5000):
        dropped += int(objective.draw(model, torch.zeros(4, 1, 1, 1), 0, step).drop.sum())
    assert abs(dropped - 20_000 * rate) < 3 * math.sqrt(20_000 * rate * (1 - rate))
    drop = torch.tensor([True, False, False, True])
    draws = Draws(torch.rand(4), torch.zeros(4, 1, 8, 8), drop)
    cond = objective.cond(model, Batch(torch.zeros(4, 1, 8, 8), tokens, null), draws)
    assert cond is not None and cond.vector is not None
    torch.testing.assert_close(cond.vector, model.text(torch.where(drop[:, None], null, tokens)).vector)


def test_draws_are_functions_of_seed_and_step_alone() -> None:
    model, objective, like = tiny.model(), Match(drop=0.5), torch.zeros(6, 1, 8, 8)
    first = objective.draw(model, like, 7, 100)
    torch.manual_seed(99)
    torch.rand(1000)
    again = objective.draw(model, like.contiguous(memory_format=torch.channels_last), 7, 100)
    other, later = objective.draw(model, like, 8, 100), objective.draw(model, like, 7, 101)
    for a, b, c, d in zip(first[:3], again[:3], other[:3], later[:3], strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c) and not torch.equal(a, d)
    assert not torch.equal(first.eps[0], first.eps[1])


def test_the_codec_is_frozen_and_the_rest_learns() -> None:
    model = tiny.model()
    (player,) = Match().prepare(model)
    assert {name for name, _ in player.parameters} == {name for name, _ in model.named_parameters()}
    assert Match(distance=MSE()).fixed(model, torch.tensor([0.5]), torch.zeros(1, 1, 8, 8)).drop.tolist() == [False]


@pytest.mark.parametrize("name", ["eps", "score"])
def test_a_level_without_a_target_is_refused_before_the_first_step(name: str) -> None:
    """Not at the step, some hundreds later, that happens to draw the last entry of a zero-terminal-SNR table."""
    process = {"kind": "linear", "T": 1000, "zero_terminal_snr": True}
    made = tiny.model(process=process, parameterization=name)
    with pytest.raises(SpecError, match=f"parameterization '{name}' has no x0 where alpha = 0"):
        Match(times={"kind": "uniform", "entries": True}).prepare(made)
    Match().prepare(made)  # between the entries alpha > 0


def test_levels_made_elsewhere_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device has no float64 the levels are computed on the CPU: the same losses, bit for bit."""
    from safelight import device as machine

    objective, model = Match(), tiny.model()
    batch = Batch(torch.rand(4, 1, 8, 8) * 2 - 1, model.text.tokenize(["a", "b", "c", ""]), model.text.tokenize([""]))
    draws = objective.draw(model, batch.x0, 0, 0)
    there = objective.loss(model.eval(), batch, draws)
    monkeypatch.setattr(machine, "doubles", lambda device: False)
    assert torch.equal(objective.loss(model, batch, draws), there)
