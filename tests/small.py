"""Small models for tests: real parts at sizes that cost nothing."""

from __future__ import annotations

import torch

from safelight.model import Defaults, Model, ModelSpec
from safelight.nn.dit import DiTSpec
from safelight.predict import V
from safelight.process import Process
from safelight.spec import build
from safelight.text.label import LabelSpec

CLASSES = ("shirt", "shoe", "bag")


def spec(process: Process | str = "cosine", labelled: bool = True, **defaults: object) -> ModelSpec:
    """A DiT of one block on 8 x 8 pictures; with classes, guided by default."""
    mix = {"kind": "cfg", "scale": 2.0} if labelled else "none"
    return ModelSpec(
        network=DiTSpec(width=32, depth=1, heads=2, cond=16 if labelled else 0),
        process=build(process, "process") if isinstance(process, str) else process,
        parameterization=V(),
        text=LabelSpec(names=CLASSES, width=16) if labelled else None,
        channels=1,
        size=(8, 8),
        # Tests count steps, which are even here.
        defaults=Defaults.model_validate({"steps": 6, "sampler": "ddim", "grid": "uniform", "mix": mix, **defaults}),
    )


def model(labelled: bool = True, seed: int = 0, process: str = "cosine") -> Model:
    """A model with random weights in every layer, also in those that start at zero, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Model = spec(process, labelled).build()
        for p in made.parameters():
            torch.nn.init.normal_(p, std=0.08)
    return made.eval()


def listening(seed: int = 0) -> Model:
    """The same, with classes that are heard: their pictures differ plainly, though none was trained."""
    made = model(seed=seed)
    assert made.text is not None
    words = made.text.embedding.weight
    with torch.no_grad():
        words.copy_(3 * torch.randn(words.shape, generator=torch.Generator().manual_seed(seed)))
    return made


__all__ = ["CLASSES", "listening", "model", "spec"]
