"""Small recorded runs of models that read words."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from safelight.generate import generate
from safelight.model import Model
from safelight.nn.attention import TransformerSpec
from safelight.nn.dit import DiTSpec
from safelight.nn.norm import GroupNormSpec
from safelight.nn.unet import UNetSpec
from safelight.spec import build
from safelight.task import Request
from safelight.text.clip import CLIPTextSpec
from safelight.trace import Recorder, Trace
from tests import small
from tests.task import toys

PROMPT = "a (red:1.3) apple, a Blue cube"
UNET = UNetSpec(
    widths=(8, 16),
    depth=1,
    skips=1,
    time=16,
    cond=16,
    context=16,
    norm=GroupNormSpec(groups=4),
    attention=(TransformerSpec(head_width=4, norm=GroupNormSpec(groups=4)),) * 2,
    middle="no-attention",
)


@functools.cache
def reader(network: str = "adaln-zero", latent: bool = False, size: tuple[int, int] = (8, 8)) -> Model:
    """A model of random weights on pictures of 8 x 8 that reads the words of a CLIP tower with windows of 8, guided by default.

    network: "unet", or a kind of DiT block. latent: on latents of 4 channels, of stride 4, instead of grey pixels.
    """
    text = CLIPTextSpec(width=16, layers=1, heads=2, length=8)
    made_codec = build(toys.CODEC if latent else "pixels", "codec").spec
    pictures = 3 if latent else 1
    channels = made_codec.build().channels(pictures)
    spec = UNET if network == "unet" else DiTSpec(width=32, depth=2, heads=2, context=16, cond=16, block=network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made: Model = (
            small.spec("flow", mix={"kind": "cfg", "scale": 3.0})
            .model_copy(
                update={
                    "network": spec.model_copy(update={"channels": channels}),
                    "text": text,
                    "codec": made_codec,
                    "channels": pictures,
                    "size": size,
                }
            )
            .build()
        )
        for name, p in made.named_parameters():
            nn.init.normal_(p, std=1.0 if "text.tower" in name and p.ndim == 2 and p.shape[1] == 16 else 0.15)
    return made.eval()


def recording(
    made: Model, *, exact: bool = True, branches: bool = True, recorded: Trace | None = None, first: int = 0, **fields: Any
) -> Trace:
    """The trace of a run of 5 steps, of the prompt above unless another is given."""
    assets = fields.pop("assets", None)
    recorder = Recorder(exact=exact, branches=branches)
    request = Request.model_validate({"prompt": (PROMPT,), "steps": 5, "seed": 3, **fields})
    for event in generate(made, request, assets=assets, recorded=recorded, first=first):
        recorder.see(event)
    return recorder.trace()
