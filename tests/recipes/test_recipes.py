"""Recipes are what they say they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from safelight.data import load
from safelight.recipes import names, recipe
from safelight.spec import SpecError, describe, parse
from safelight.train.feed import words
from safelight.train.objective import Batch, Match
from safelight.train.run import fresh

FIXTURE = Path(__file__).parent.parent / "fixtures" / "fashion-1000"


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_its_description(name: str) -> None:
    """It survives JSON, is called by its name, and a step of it on real pictures gives every weight a finite gradient."""
    found = recipe(name)
    assert found.name == name and parse(json.loads(json.dumps(describe(found))), "train") == found
    model = fresh(found)
    data = load(str(FIXTURE), channels=1, size=(28, 28))
    objective = found.objective
    assert isinstance(objective, Match)
    x0 = objective.see(model, data.batch(torch.arange(2)).float() / 127.5 - 1)
    text = words(model, data, torch.device("cpu"))
    tokens = None if text.tokens is None else text.tokens[:2]
    loss = objective.loss(model, Batch(x0, tokens, text.null), objective.draw(model, x0, 0, 0)).mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_tutorial_to_the_letter() -> None:
    """The numbers of "The annotated diffusion model": 5 epochs of 128, T = 200, and its U-Net's weights, counted by hand below."""
    found = recipe("fashion-mnist-tutorial")
    process = found.model.process
    betas = process.betas()  # type: ignore[attr-defined]
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 200, dtype=torch.float64))
    assert process.terminal_snr == pytest.approx(0.1523, abs=1e-4)  # type: ignore[attr-defined]
    assert float(process.alpha(1.0)) == pytest.approx(0.36, abs=0.005)
    plan = found.plan
    assert (plan.batch, plan.epochs, plan.optimizer.kind, plan.optimizer.lr) == (128, 5, "adam", 1e-3)
    assert plan.flips and not plan.clip and not plan.averages and plan.length(60_000) == 2344
    assert (found.objective.distance.kind, found.objective.times.entries) == ("huber", True)  # type: ignore[attr-defined]
    assert (found.model.parameterization.kind, found.model.text) == ("eps", None)
    defaults = found.model.defaults
    assert (defaults.steps, defaults.sampler.kind) == (200, "ddpm")
    state = fresh(found).denoiser.network.state_dict()
    assert next(tuple(v.shape) for k, v in state.items() if k.startswith("stem")) == (18, 1, 7, 7)


@pytest.mark.parametrize("name", ["fashion-mnist", "fashion-mnist-edm", "fashion-mnist-dit"])
def test_the_shipped_size(name: str) -> None:
    """Three to five million weights, class-conditional, prompts dropped often enough to be guided."""
    found = recipe(name)
    assert 3e6 < sum(p.numel() for p in fresh(found).parameters()) < 5e6
    assert found.model.text is not None and 0.1 <= found.objective.drop <= 0.15  # type: ignore[attr-defined]
    assert not found.plan.flips  # shoes point to the left


def test_the_variants_differ_in_what_they_compare() -> None:
    """EDM and v see the same pictures, in the same order, as often."""
    a, b = recipe("fashion-mnist"), recipe("fashion-mnist-edm")
    assert a.plan == b.plan and a.data == b.data and a.held_out_data == b.held_out_data
    x = load(a.data, channels=1, size=(28, 28)) if _there() else None
    if x is not None:
        spread = (x.batch(torch.arange(60_000)).float() / 127.5 - 1).std()
        assert b.model.parameterization.sigma_data == pytest.approx(float(spread), abs=0.01)  # type: ignore[attr-defined]


def _there() -> bool:
    from safelight.data.fashion import find

    return find() is not None


def test_unknown_recipes_name_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'fashion-mnist-dit'"):
        recipe("fashion-mnist-dti")
