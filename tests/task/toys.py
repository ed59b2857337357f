"""Models whose denoiser is a formula, and pictures to edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from safelight.codec import CodecSpec
from safelight.cond import Cond
from safelight.denoise import Denoise
from safelight.generate import Finished, generate
from safelight.model import Model
from safelight.nn.dit import DiTSpec
from safelight.process import Level, Process
from safelight.spec import build
from safelight.task import Request
from tests import small


class Formula(nn.Module):
    """A denoiser that is `denoise`, whatever it is told; `told` keeps the conditions."""

    process: Process

    def __init__(self, denoise: Denoise) -> None:
        super().__init__()
        self.denoise, self.told = denoise, list[Cond | None]()
        self.nothing = nn.Parameter(torch.zeros(1))  # a model is where its parameters are

    def bind(self, cond: Cond | None, levels: Sequence[Level] = ()) -> Denoise:
        self.told.append(cond)
        return self.denoise


def model(
    denoise: Denoise | None = None,
    *,
    size: tuple[int, int] = (8, 8),
    channels: int = 1,
    process: str = "flow",
    codec: dict[str, Any] | None = None,
    image: int = 0,
    labelled: bool = False,
) -> Model:
    """An unconditional model of random weights over any codec; with `denoise`, that formula instead of its denoiser."""
    spec: Any = build(codec, "codec").spec if codec else build("pixels", "codec").spec
    assert isinstance(spec, CodecSpec)
    latents = spec.build().channels(channels)
    base = small.spec(process, labelled)
    network = DiTSpec(channels=latents, image=image, width=32, depth=1, heads=2, cond=16 if labelled else 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made: Model = base.model_copy(update={"network": network, "codec": spec, "channels": channels, "size": size}).build()
        for p in made.denoiser.parameters():
            nn.init.normal_(p, std=0.08)
        for name, p in made.codec.named_parameters():
            if name.endswith("conv2.weight"):  # which begin at zero
                nn.init.normal_(p, std=0.02)
    if denoise is not None:
        formula = Formula(denoise)
        formula.process = made.process
        made.denoiser = formula  # type: ignore[assignment]
    return made.eval()


# Stride 4, three channels; reaches past its cells as a trained one does.
CODEC = {"kind": "kl", "latents": 4, "widths": [8, 16], "patch": 2}


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """uint8, any shape: the worst of pictures."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def finished(made: Model, request: Request, **rest: Any) -> Tensor:
    """(B, C, H, W) the pictures of a request."""
    return torch.cat([e.pictures for e in generate(made, request, **rest) if isinstance(e, Finished)])
