"""The smallest whole training run: 8x8 pictures, a U-Net of a few thousand weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from safelight.codec.kl import KLSpec
from safelight.data import Pictures, load, memory
from safelight.model import Model, ModelSpec
from safelight.nn.attention import NoAttention, TransformerSpec
from safelight.nn.blocks import ResnetSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.norm import GroupNormSpec
from safelight.nn.unet import UNetSpec
from safelight.text.clip import CLIPTextSpec
from safelight.text.label import LabelSpec
from safelight.train import Every, Plan
from safelight.train.keys import keyed

NAMES = ("a", "b", "c")


def network(dropout: float = 0.1, cond: int = 4) -> UNetSpec:
    """About 14,000 weights, with dropout, so that a network's own randomness is in the game."""
    return UNetSpec(
        widths=(8, 16),
        depth=1,
        skips=1,
        norm=GroupNormSpec(groups=4),
        block=ResnetSpec(dropout=dropout, zero=False),
        attention=(),
        middle=NoAttention(),
        embedding=SinusoidSpec(width=8),
        time=16,
        cond=cond,
        zero=False,
    )


def spec(**fields: Any) -> ModelSpec:
    """A class-conditional model of 8x8 grey pictures."""
    given: dict[str, Any] = {
        "network": network(),
        "process": "cosine",
        "parameterization": "v",
        "text": LabelSpec(names=NAMES, width=4),
        "size": (8, 8),
    }
    return ModelSpec(**(given | fields))


def worded(**fields: Any) -> ModelSpec:
    """A latent model of words, 32x32."""
    heard = {
        "channels": 4,
        "context": 16,
        "attention": (TransformerSpec(head_width=8, norm=network().norm),),
        "middle": NoAttention(),
    }
    given: dict[str, Any] = {
        "network": network(0.0, cond=16).model_copy(update=heard),
        "process": "flow",
        "parameterization": "velocity",
        "codec": KLSpec(latents=4, widths=(8, 16), blocks=1),
        "text": CLIPTextSpec(width=16, layers=1, heads=2, causal=False),
        "channels": 3,
        "size": (32, 32),
    }
    return ModelSpec(**(given | fields))


def model(seed: int = 0, **fields: Any) -> Model:
    """A fresh one."""
    with keyed(torch.device("cpu"), seed, "weights"):
        return Model(spec(**fields))


def pictures(n: int = 64, seed: int = 0, device: torch.device | str = "cpu") -> Pictures:
    """n pictures: a bright square at a random place, its class where it lies."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (n, 8, 8, 1), dtype=np.uint8)
    captions = []
    for image in images:
        y, x = random.integers(0, 6, 2)
        image[y : y + 3, x : x + 3] = 220
        captions.append(NAMES[x // 2])
    return load(memory(images, captions, [f"{seed}-{i:04d}" for i in range(n)]), device=device)


def plan(**fields: Any) -> Plan:
    """Six steps of eight, everything looked at every two."""
    given: dict[str, Any] = {
        "batch": 8,
        "steps": 6,
        "flips": True,
        "every": Every(log=2, held_out=2, sample=0, save=2),
        "held": 16,
        "buckets": 4,
    }
    return Plan(**(given | fields))


def weights(trained: Model) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in trained.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
