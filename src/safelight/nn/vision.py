"""CLIP's image towers as published: what an IP-adapter sees a picture through. Radford et al. 2021; Cherti et al. 2023 (H and bigG)."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from safelight.nn.clip import ImageTower
from safelight.spec import Spec

# Of the values 0..1 of red, green and blue in the pictures that CLIP was trained on.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Seen(NamedTuple):
    """embedding: (B, space), the picture in the space that it shares with texts. states: (B, 1 + n, width), before the last block."""

    embedding: Tensor
    states: Tensor


class VisionSpec(Spec):
    """An image tower and the linear map of its pooled state. The defaults are those of CLIP ViT-L/14."""

    channels: int = Field(3, ge=1)
    size: int = Field(224, ge=1, description="side of the square pictures that it sees")
    patch: int = Field(14, ge=1)
    width: int = Field(1024, ge=1)
    layers: int = Field(24, ge=2)
    heads: int = Field(16, ge=1)
    inner: int | None = Field(None, ge=1, description="width within a block's MLP; none: four times the width")
    quick: bool = Field(True, description="QuickGELU")
    space: int = Field(768, ge=1, description="dimensions of the embedding")

    @classmethod
    def h(cls) -> Self:
        """OpenCLIP's ViT-H/14: that of the IP-adapters for Stable Diffusion 1, and of SDXL's "vit-h" ones."""
        return cls(width=1280, layers=32, quick=False, space=1024)

    @classmethod
    def big_g(cls) -> Self:
        """OpenCLIP's ViT-bigG/14: that of the first IP-adapter for SDXL."""
        return cls(width=1664, layers=48, inner=8192, quick=False, space=1280)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch or self.width % self.heads:
            raise ValueError(f"patch {self.patch} must divide the size {self.size}, heads {self.heads} the width {self.width}")
        return self

    def build(self) -> Vision:
        """A tower with fresh weights."""
        return Vision(self)


class Vision(nn.Module):
    """Pictures -> `Seen`; see `VisionSpec`."""

    spec: VisionSpec

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.tower = ImageTower(
            spec.channels, spec.size, spec.patch, spec.width, spec.layers, spec.heads, spec.quick, inner=spec.inner
        )
        self.projection = nn.Linear(spec.width, spec.space, bias=False)

    def forward(self, x: Tensor) -> Seen:
        """x: (B, channels, size, size), normalised, see `normalised`."""
        states = self.tower.features(x)
        return Seen(self.projection(self.tower.norm(states[-1][:, 0])), states[-2])


def normalised(picture: Tensor) -> Tensor:
    """picture: (B, 3, H, W) in [0, 1] -> of mean 0 and deviation 1 over the pictures that CLIP was trained on."""
    mean, deviation = (torch.tensor(v, device=picture.device, dtype=picture.dtype).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return (picture - mean) / deviation
