"""Recipes are what they say they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from safelight.data import Pictures, Stream, load, memory, to_unit
from safelight.data.composed import ScenesSource
from safelight.data.text import TextSource
from safelight.recipes import names, recipe
from safelight.spec import SpecError, describe, parse
from safelight.train import Train
from safelight.train.feed import words
from safelight.train.objective import Batch
from safelight.train.run import fresh

FIXTURE = Path(__file__).parent.parent / "fixtures" / "fashion-1000"


def some(found: Train) -> Pictures | Stream:
    """Pictures such as the recipe learns from: scenes as they come, a text's windows, clothes from the fixture."""
    if isinstance(found.data, ScenesSource):
        return found.data.stream(torch.device("cpu"))
    if isinstance(found.data, TextSource):
        line = np.frombuffer(b"in the beginning was the word  ".ljust(found.data.length), np.uint8)
        return load(memory(np.tile(line, (4, 1)).reshape(4, 1, -1, 1), [""] * 4, list("abcd")))
    return load(str(FIXTURE), channels=1, size=(28, 28))


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_its_description(name: str) -> None:
    """It survives JSON, is called by its name, and a step of every player on its pictures gives each of their weights a finite gradient."""
    found = recipe(name)
    assert found.name == name and parse(json.loads(json.dumps(describe(found))), "train") == found
    model, data = fresh(found), some(found)
    players = found.objective.prepare(model)
    numbers = torch.arange(2)
    x0 = found.objective.see(model, to_unit(data.batch(numbers)))
    text = words(model, data, torch.device("cpu"))
    batch, draws = Batch(x0, text.of(numbers), text.null), found.objective.draw(model, x0, 0, 1000)
    for player in players:
        loss = player.loss(model.train(), batch, draws).mean()
        loss.backward()
        assert torch.isfinite(loss)
        reached = [p.grad is not None for _, p in player.parameters]
        assert sum(reached) >= 0.9 * len(reached)
        assert all(torch.isfinite(p.grad).all() for _, p in player.parameters if p.grad is not None)


def test_the_sprites_recipes_differ_in_what_they_compare() -> None:
    """U-Net and DiT see the same scenes as often, on the same codec; the sharp decoder begins as the plain one."""
    a, b = recipe("sprites-unet"), recipe("sprites-dit")
    assert (a.plan, a.data, a.objective, a.start, a.model.codec) == (b.plan, b.data, b.objective, b.start, b.model.codec)
    vae, sharp = recipe("sprites-vae"), recipe("sprites-vae-sharp")
    assert a.start == sharp.start == {"codec": "runs/sprites-vae"}
    assert vae.model.codec == sharp.model.codec == a.model.codec


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
