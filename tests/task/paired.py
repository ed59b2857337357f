"""Joint models of random weights: no two texts are in one place, and what is near to what has no sense."""

from __future__ import annotations

from typing import Any

import torch

from safelight.data.composed import ScenesSource, Vocabulary
from safelight.spec import describe
from safelight.text.clip import CLIPTextSpec
from safelight.text.joint import Joint, JointSpec

FEW = Vocabulary(concepts=("cat", "dog", "banana", "star"), styles=("noto", "flat"))
# In 24 dimensions the millions of captions crowd: hundreds lie within 0.999 of any.
SPACE = 64


def pair(seed: int = 0, **lineage: Any) -> Joint:
    """One of 8x8 grey pictures."""
    text = CLIPTextSpec(width=64, layers=1, heads=4, length=24, causal=False)
    spec = JointSpec(text=text, channels=1, size=(8, 8), patch=4, width=16, layers=1, heads=2, space=SPACE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        joint = spec.build().eval()
        torch.nn.init.normal_(joint.text.tower.token.weight, std=0.3)
    joint.lineage = dict(lineage)
    return joint


def knowing() -> Joint:
    """One that says it knows scenes of four things, and its gap."""
    g = torch.Generator().manual_seed(5)
    told = {
        "text": (0.1 * torch.randn(SPACE, generator=g)).tolist(),
        "picture": (0.1 * torch.randn(SPACE, generator=g)).tolist(),
        "pairs": 9,
    }
    return pair(scenes=describe(ScenesSource(vocabulary=FEW)), gap=told)
