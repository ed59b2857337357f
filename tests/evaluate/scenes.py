"""What the tests of measuring on scenes share: the reduced vocabulary, its judge, painters, and a small model."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from safelight.data.composed import REDUCED
from safelight.data.scenes.compose import Composer
from safelight.evaluate.adherence import Asked, Checker
from safelight.evaluate.classifier import load
from safelight.evaluate.scene_classifier import Judge, shipped
from safelight.model import Model, ModelSpec
from safelight.spec import parse


@functools.cache
def composer() -> Composer:
    """48 concepts in four styles."""
    return Composer(REDUCED.pack())


@functools.cache
def judge() -> Judge:
    """The one that ships."""
    return Judge(load(shipped()), composer())


@functools.cache
def checker() -> Checker:
    return Checker(judge())


class Counting:
    """Composed pictures, at any scale but `good` in another order; counts what it is asked for."""

    def __init__(self, good: float | None = None, name: str = "counting") -> None:
        self.good, self.about, self.painted = good, {"model": name}, 0

    def __call__(self, asked: Asked, first: int, scale: float) -> Tensor:
        self.painted += len(asked.captions)
        pictures = composer().render(asked.scenes)
        return pictures if self.good in (None, scale) else pictures.roll(1, 0)

    def through(self, pictures: Tensor) -> Tensor | None:
        return torch.full_like(pictures, 255)  # a codec that keeps nothing


def tiny() -> Model:
    """An untrained text-to-image model of 64 x 64 colour pictures."""
    block = {"kind": "full-attention", "head_width": 8}
    network = {"kind": "unet", "channels": 4, "widths": [8], "depth": 1, "skips": 2, "cond": 8, "time": 16}
    network |= {"attention": [], "middle": block, "norm": {"kind": "group-norm", "groups": 4}, "zero": False}
    network |= {"embedding": {"kind": "sinusoid", "width": 8}}
    spec = {"network": network, "process": "flow", "parameterization": "velocity", "channels": 3, "size": [64, 64]}
    spec |= {"codec": {"kind": "kl", "latents": 4, "widths": [8, 8, 8], "fold": True}}
    spec |= {"text": {"kind": "clip", "width": 8, "layers": 1, "heads": 1, "causal": False}}
    spec |= {"defaults": {"steps": 3, "sampler": "euler", "mix": {"kind": "cfg", "scale": 2, "rescale": 0.25}}}
    found = parse(spec, "model")
    assert isinstance(found, ModelSpec)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return found.build().eval()
