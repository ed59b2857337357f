"""ControlNet: a copy of a U-Net's way down that also sees a picture, and adds what it makes of it to the U-Net's skips.

Zhang, Rao and Agrawala 2023, "Adding conditional control to text-to-image diffusion models", arXiv 2302.05543, section 3. With y the
copy's skips and middle, the U-Net is given `skip_i + w Z_i(y_i)`, Z_i being 1x1 convolutions that start at zero; the picture enters by
a small network E beside the first convolution, `stem(x) + E(picture)`, whose last layer starts at zero as well.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from safelight.nn.control import ControlSpec
from safelight.nn.told import Told
from safelight.nn.unet import Trunk, UNetSpec


class ControlNetSpec(ControlSpec, kind="controlnet"):
    """A ControlNet of a U-Net. `trunk` is the network whose way down and middle are copied, without its way up."""

    trunk: UNetSpec
    channels: int = Field(3, ge=1, description="C of the picture that steers")
    hint: tuple[int, ...] = Field(
        (16, 32, 96, 256), min_length=1, description="widths of E; every one but the first halves the picture"
    )
    reversed: bool = Field(False, description="the picture's channels are seen from the last to the first (blue, green, red)")

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if not self.trunk.every or self.trunk.dims != 2:
            raise ValueError("trunk: a ControlNet is of a U-Net of pictures that keeps a skip after every layer")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the picture to a place of the U-Net's full resolution."""
        return 2 ** (len(self.hint) - 1)

    def build(self) -> ControlNet:
        """A ControlNet with fresh weights, which adds nothing until it is trained."""
        return ControlNet(self)


class ControlNet(nn.Module):
    """What it adds to a U-Net: `draw(x, told, words, see(picture))`; see `ControlNetSpec`."""

    spec: ControlNetSpec

    def __init__(self, spec: ControlNetSpec) -> None:
        super().__init__()
        self.spec = spec
        plans = [plan for plan in spec.trunk.stages() if plan.way <= 0]
        self.trunk = Trunk(spec.trunk, plans)
        first, stem = spec.hint[0], plans[0].inp
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, first, 3, padding=1)]
        for inp, out in pairwise(spec.hint):
            layers += [nn.Conv2d(inp, inp, 3, padding=1), nn.Conv2d(inp, out, 3, padding=1, stride=2)]
        layers.append(nn.Conv2d(spec.hint[-1], stem, 3, padding=1))
        self.hint = nn.Sequential(*[part for layer in layers for part in (layer, nn.SiLU())][:-1])
        kept = [stem, *(plan.out for plan in plans if plan.keep)]
        self.taps = nn.ModuleList(nn.Conv2d(width, width, 1) for width in kept)
        self.tap_middle = nn.Conv2d(plans[-1].out, plans[-1].out, 1)
        for module in (layers[-1], *self.taps, self.tap_middle):
            for p in module.parameters():
                nn.init.zeros_(p)

    def see(self, picture: Tensor) -> Tensor:
        """picture: (B, channels, H, W) in [0, 1], sides multiples of the spec's stride. E of it, (B, stem, H / stride, W / stride)."""
        return self.hint(picture.flip(1) if self.spec.reversed else picture)

    def draw(self, x: Tensor, told: Told, words: tuple[Any, ...], seen: Tensor) -> list[Tensor]:
        """x: (B, channels, H, W); told, words: of `trunk`; seen: (B or 1, stem, H', W'), from `see`. What is added to each skip, then
        to the middle's output; at weight 1.
        """
        h, kept = self.trunk.descend(self.trunk.begin(x) + seen, told, words)
        return [*(tap(k) for tap, k in zip(self.taps, kept, strict=True)), self.tap_middle(h)]
