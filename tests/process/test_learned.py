"""The learned process: a monotone curve whatever its weights, a process like any other, and a part of the model's file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from safelight import model as files
from safelight.model import Model
from safelight.process import Level, Process
from safelight.process.learned import Learned, LearnedProcess
from safelight.sample import trajectory
from safelight.spec import SpecError, build, describe, parse
from tests.oracle import Mixture, final
from tests.train import tiny


def bent(seed: int = 0, amount: float = 0.2, **fields: float | int) -> LearnedProcess:
    """One with random weights: heights that differ by a factor of a hundred."""
    process = Learned(**fields).build()
    noise = torch.randn(process.shape.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        process.shape.add_(amount * noise)
    return process


def times(n: int = 400) -> Tensor:
    return torch.linspace(1e-6, 1, n, dtype=torch.float64)


def test_it_begins_as_a_straight_line() -> None:
    process, t = Learned(first=10.0, last=-6.0), times()
    np.testing.assert_allclose(process.logsnr(t).numpy(), (10 - 16 * t).numpy(), atol=16e-3)
    assert float((process.curve(t).slope - 1).abs().max()) < 0.01


def test_it_is_its_formula() -> None:
    """S of its weights, written out once more, and its derivatives by autodiff."""
    process = bent(units=5)
    w = process.shape.detach().double().numpy()
    b, h, k, c = np.exp(8 * w[0]), np.exp(8 * w[1:6]), np.exp(w[6:11]), w[11:]

    def raw(t: float) -> float:
        return float(b * t + sum(h[j] / (1 + math.exp(-k[j] * (t - c[j]))) for j in range(5)))

    t = times(20).requires_grad_(True)
    value, slope, bend = process.curve(t)
    wanted = [(raw(v) - raw(0)) / (raw(1) - raw(0)) for v in t.tolist()]
    np.testing.assert_allclose(value.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)
    (first,) = torch.autograd.grad(value.sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), t)
    np.testing.assert_allclose(slope.detach().numpy(), first.detach().numpy(), rtol=1e-9)
    np.testing.assert_allclose(bend.detach().numpy(), second.numpy(), rtol=1e-9)
    np.testing.assert_allclose(process.logsnr(t.detach()).numpy(), 13.3 - 18.3 * np.array(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("amount", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_monotone_whatever_its_weights_and_inverted_to_1e_9(seed: int, amount: float) -> None:
    process, t = bent(seed, amount), times(2000)
    logsnr = process.logsnr(t)
    assert bool((logsnr[1:] < logsnr[:-1]).all())
    settled = process.settled()
    slope = settled.curve(t).slope
    steepest = float(slope.max() / slope.min())
    assert amount < 0.2 or steepest > 4, steepest
    np.testing.assert_allclose(process.logsnr(process.time(logsnr)).numpy(), logsnr.numpy(), rtol=0, atol=1e-9)
    assert process.ends == (math.exp(-settled.first / 2), math.exp(-settled.last / 2))
    outside = process.time(torch.tensor([math.inf, 1e3, -1e3], dtype=torch.float64)).tolist()
    assert outside[0] == 0 and 0 < outside[1] < 1e-9 and outside[2] == 1
    level = process.at(torch.cat([torch.zeros(1, dtype=torch.float64), t]))
    assert (float(level.alpha[0]), float(level.sigma[0])) == (1, 0)
    np.testing.assert_allclose((level.alpha**2 + level.sigma**2).numpy(), 1, rtol=1e-14)


def test_the_last_end_stays_below_the_first() -> None:
    process = Learned().build()
    with torch.no_grad():
        process.last.fill_(20.0)
    first, last = (end.detach() for end in process.span())
    assert (float(first), float(last)) == pytest.approx((13.3, 12.3))
    assert process.settled().last == pytest.approx(12.3)
    fresh = Learned().build()
    gradients = torch.autograd.grad(fresh.span()[1], [fresh.first, fresh.last])
    assert [float(g) for g in gradients] == [0, 1]


def test_the_module_answers_all_that_a_process_is_asked() -> None:
    process, t = bent(), times(7)
    asked = {name for name in vars(Process) if not name.startswith("_") and name not in ("family", "kind", "model_fields")}
    assert asked - {"model_config", "build"} <= set(dir(LearnedProcess)), asked - set(dir(LearnedProcess))
    settled, x, eps = process.settled(), torch.randn(7, 1, 2, 2), torch.randn(7, 1, 2, 2)
    level = process.at(t)
    assert isinstance(level.known, Learned) and level.known == settled == parse(json.loads(json.dumps(describe(settled))))
    for name in ("alpha", "sigma", "logsnr"):
        assert torch.equal(getattr(process, name)(t), getattr(settled, name)(t))
    assert torch.equal(torch.stack(process.levels(t)), torch.stack(settled.levels(t)))
    assert torch.equal(torch.stack(process.slope(level)), torch.stack(settled.slope(level)))
    assert torch.equal(process.told(level), settled.told(level))
    np.testing.assert_allclose(process.told(level).numpy(), 250 * level.ratio.log().numpy(), rtol=1e-9, atol=1e-7)
    assert torch.equal(process.add_noise(x, eps, t), settled.add_noise(x, eps, t))
    assert process.kind == "learned" and process.entries is None
    assert settled.build().settled() == settled and describe(process) == describe(Learned())


def test_an_answer_is_not_moved_by_further_training_and_carries_no_gradient() -> None:
    process = bent()
    level = process.at(0.3)
    before = level.moved(1.0)
    with torch.no_grad():
        process.shape.add_(torch.linspace(-1, 1, len(process.shape)))
    after = level.moved(1.0)
    assert torch.equal(before.t, after.t) and not level.alpha.requires_grad
    assert abs(float(process.at(0.3).logsnr - level.logsnr)) > 0.1
    assert hash(level.known) != hash(process.at(0.3).known)


def test_what_cannot_be_is_told_in_one_line() -> None:
    for fields, words in (
        ({"first": -6.0}, "last .-5. must be at least 1 below first"),
        ({"shape": (0.0, 1.0)}, "shape has 2 weights, but 32 units have 97"),
        ({"units": 1}, "units"),
    ):
        with pytest.raises(SpecError, match=words) as caught:
            build({"kind": "learned", **fields}, "process")
        assert "\n" not in str(caught.value)
    process = bent()
    with torch.no_grad():
        process.shape[3] = math.nan
    with pytest.raises(SpecError, match="the learned process has run away"):
        process.at(0.5)


def test_a_models_file_holds_what_it_became(tmp_path: Path) -> None:
    model = tiny.model(process="learned")
    process: object = model.process
    assert isinstance(process, LearnedProcess)
    with torch.no_grad():
        process.shape.add_(0.2 * torch.randn(97, generator=torch.Generator().manual_seed(3)))
        process.first.sub_(2)
    files.save(tmp_path / "a.safetensors", model)
    again = files.load(tmp_path / "a.safetensors")
    assert isinstance(again, Model) and again.process.at(times()).logsnr.equal(model.process.at(times()).logsnr)
    assert "denoiser.process.shape" in files.peek(tmp_path / "a.safetensors").tensors.__repr__()
    assert again.spec == model.spec


@pytest.mark.parametrize("sampler", ["ddim", "dpm++2m", "heun", "unipc"])
def test_samplers_keep_their_order_on_a_bent_one(sampler: str) -> None:
    """A known mixture from s = 30 to the least s, against its exact ODE."""
    process, mixture = bent(1, 0.1, first=9.0, last=-7.0), Mixture.ring()
    first: Level = process.at(1.0)
    alpha, sigma, high = first.floats
    low = process.ends[0]
    x = mixture.noised(48, alpha, sigma, seed=5)
    exact = mixture.exact(x / alpha, high, low)
    made = build(sampler, "sampler")
    errors = []
    for n in (32, 64):
        s = (high ** (1 / 7) + torch.linspace(0, 1, n + 1, dtype=torch.float64) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        levels = process.at(process.time(-2 * s.log())).split()
        last = final(trajectory(mixture.denoise, x, levels, made))
        errors.append(float((last.x / levels[-1].alpha - exact).square().mean(1).sqrt().median()))
    assert math.log2(errors[0] / errors[1]) >= min(made.order, 3) - 0.35, errors
    assert errors[1] < (5e-2 if made.order == 1 else 5e-3), errors


@pytest.mark.parametrize("grid", ["uniform", "karras", "logsnr", "rect", "exponential"])
def test_grids_walk_down_it(grid: str) -> None:
    process = bent(2)
    t = build(grid, "grid")(process, 20)
    assert len(t) == 21 and float(t[-1]) == 0 and bool((t[1:] < t[:-1]).all())
    sigma = process.sigma(t)
    assert bool((sigma[1:] < sigma[:-1]).all())
