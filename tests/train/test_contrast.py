"""Training a joint model through `train`: retrieval rises from chance, and equal captions are not trained apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safelight.data import Pictures, load, memory, to_unit
from safelight.spec import SpecError
from safelight.text.clip import CLIPTextSpec
from safelight.text.joint import Joint, JointSpec, recall
from safelight.train import Every, Plan, begin, train
from safelight.train.contrast import Contrastive
from safelight.train.objective import Batch
from tests.train import tiny

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "white": (250, 250, 250), "black": (10, 10, 10)}
SPEC = JointSpec(
    text=CLIPTextSpec(width=32, layers=1, heads=2, length=12, causal=False),
    size=(16, 16),
    patch=4,
    width=32,
    layers=1,
    heads=2,
    space=16,
)


def joint() -> Joint:
    torch.manual_seed(0)
    return SPEC.build()


def pictures(n: int, seed: int = 0) -> Pictures:
    """One half of one colour, the other of another: twenty captions."""
    random = np.random.default_rng(seed)
    images, captions = np.empty((n, 16, 16, 3), np.int64), []
    for image in images:
        a, b = random.choice(list(COLOURS), 2, replace=False)
        image[:, :8], image[:, 8:] = COLOURS[a], COLOURS[b]
        captions.append(f"a {a} half to the left of a {b} half")
    images = (images + random.integers(-10, 11, images.shape)).clip(0, 255).astype(np.uint8)
    return load(memory(images, captions, [f"{seed}-{i:05d}" for i in range(n)]))


def test_retrieval_rises_from_chance():
    model, data = joint(), pictures(600)
    names = sorted(set(data.captions))
    rows = torch.tensor([data.captions.index(name) for name in names])
    shown = data.batch(rows)
    before = recall(model.eval().pictures(shown), model.texts(names))
    plan = Plan(
        batch=64, steps=120, optimizer={"kind": "adamw", "lr": 2e-3}, averages={}, every=Every(log=0, held_out=0, save=0)
    )
    list(train(model, data, plan, objective=Contrastive()))
    model.eval()
    after = recall(model.pictures(shown), model.texts(names))
    assert len(names) == 20 and max(before) < 0.4 and min(after) > 0.9
    # Zero-shot: unseen pictures, classified by the captions.
    fresh = pictures(100, seed=7)
    similar = model.similarity(fresh.batch(torch.arange(100)), names)
    right = [names[i] == c for i, c in zip(similar.probability.argmax(1).tolist(), fresh.captions, strict=True)]
    assert np.mean(right) > 0.9


def test_every_weight_of_both_towers_is_trained():
    model, data = joint(), pictures(32)
    objective = Contrastive()
    (player,) = begin(model, Plan(steps=1), objective).players
    x = to_unit(data.batch(torch.arange(32)))
    tokens = model.text.tokenize(data.captions)
    each = player.loss(model, Batch(x, tokens), objective.draw(model, x, 0, 0))
    assert each.shape == (32,)
    each.mean().backward()
    idle = [name for name, p in player.parameters if p.grad is None or not p.grad.any()]
    assert not idle
    same = torch.tensor([[a == b for b in data.captions] for a in data.captions])
    expected = model.pair.contrast(model.embed_image(x), model.embed_text(tokens), same)
    torch.testing.assert_close(each, expected)


def test_recall_counts_ties_against():
    eye = torch.eye(4)
    assert recall(eye, eye) == (1.0, 1.0)
    flat = torch.ones(4, 2)
    assert recall(flat, flat) == (0.0, 0.0) and recall(flat, flat, k=4) == (1.0, 1.0)
    assert recall(eye, eye.roll(1, 0)) == (0.0, 0.0)
    swapped = eye[[1, 0, 2, 3]]
    assert recall(eye, swapped) == (0.5, 0.5)
    nothing = torch.full((4, 4), torch.nan)  # of a model that diverged
    assert recall(nothing, nothing) == recall(eye, nothing) == recall(nothing, eye, k=3) == (0.0, 0.0)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(SpecError, match="trains a joint model of two towers"):
        Contrastive().prepare(tiny.model())
    model, x = joint(), torch.zeros(2, 3, 16, 16)
    with pytest.raises(SpecError, match="needs captions"):
        Contrastive().loss(model, Batch(x), Contrastive().draw(model, x, 0, 0))
