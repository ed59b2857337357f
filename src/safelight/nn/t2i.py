"""T2I-adapter: a small network that sees a picture once and adds what it saw to the U-Net's way down.

Mou et al. 2023, "T2I-Adapter: learning adapters to dig out more controllable ability for text-to-image diffusion models",
arXiv 2302.08453, section 3.3. It hears neither the noise level nor the text, so that a run computes it once.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.control import ControlSpec


class T2ISpec(ControlSpec, kind="t2i-adapter"):
    """A T2I-adapter. The defaults are the full one for Stable Diffusion 1 and 2; `light` and `sdxl` are the other published forms."""

    channels: int = Field(3, ge=1, description="C of the picture that steers")
    unshuffle: int = Field(8, ge=1, description="side of the patches that become one place each before the first layer")
    widths: tuple[int, ...] = Field((320, 640, 1280, 1280), min_length=1, description="channels of each resolution's feature")
    halves: tuple[int, ...] = Field((1, 2, 3), description="resolutions that begin with a halving, counted from 0")
    depth: int = Field(2, ge=1, description="residual blocks a resolution")
    narrow: bool = Field(False, description="blocks at a quarter of the width between two 1x1 convolutions (the light adapter)")

    @classmethod
    def light(cls) -> Self:
        """The light adapter of the paper, for Stable Diffusion 1."""
        return cls(depth=4, narrow=True)

    @classmethod
    def sdxl(cls) -> Self:
        """The one for Stable Diffusion XL: 16 pixels a place, one halving."""
        return cls(unshuffle=16, halves=(2,))

    @model_validator(mode="after")
    def _there(self) -> Self:
        if any(not 0 <= i < len(self.widths) for i in self.halves) or len(set(self.halves)) < len(self.halves):
            raise ValueError(f"halves: {list(self.halves)} must be different resolutions out of 0..{len(self.widths) - 1}")
        if self.narrow and any(w % 4 for w in self.widths):
            raise ValueError(f"widths: 4 must divide {list(self.widths)}, whose quarter the narrow blocks have")
        return self

    @property
    def stride(self) -> int:
        """What the sides of the picture must be multiples of."""
        return self.unshuffle * 2 ** len(self.halves)

    def build(self) -> T2IAdapter:
        """An adapter with fresh weights."""
        return T2IAdapter(self)


class T2IAdapter(nn.Module):
    """(B, C, H, W) in [0, 1] -> one feature a resolution of the U-Net; see `T2ISpec`."""

    spec: T2ISpec

    def __init__(self, spec: T2ISpec) -> None:
        super().__init__()
        self.spec = spec
        inp = spec.channels * spec.unshuffle**2
        self.stem = None if spec.narrow else nn.Conv2d(inp, spec.widths[0], 3, padding=1)
        before = (inp if spec.narrow else spec.widths[0], *spec.widths[:-1])
        levels = enumerate(zip(before, spec.widths, strict=True))
        self.levels = nn.ModuleList(Features(a, b, spec.depth, i in spec.halves, spec.narrow) for i, (a, b) in levels)

    def forward(self, picture: Tensor) -> list[Tensor]:
        """picture: (B, C, H, W), sides multiples of the spec's stride. Returns (B, widths[i], H_i, W_i) for each resolution i."""
        x = F.pixel_unshuffle(picture, self.spec.unshuffle)  # (B, C u u, H / u, W / u)
        x = x if self.stem is None else self.stem(x)
        found = []
        for level in self.levels:
            x = level(x)
            found.append(x)
        return found


class Features(nn.Module):
    """One resolution: an averaging halving if asked, a change of width, residual blocks."""

    def __init__(self, inp: int, out: int, depth: int, halve: bool, narrow: bool) -> None:
        super().__init__()
        inside = out // 4 if narrow else out
        self.halve = halve
        self.enter = nn.Conv2d(inp, inside, 1) if narrow or inp != out else None
        self.blocks = nn.ModuleList(Residual(inside, 3 if narrow else 1) for _ in range(depth))
        self.leave = nn.Conv2d(inside, out, 1) if narrow else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inp, h, w). Returns (B, out, h or ceil(h / 2), ...)."""
        if self.halve:
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        if self.enter is not None:
            x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return x if self.leave is None else self.leave(x)


class Residual(nn.Module):
    """`x + W2 relu(W1 x)`, W1 of 3x3."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w). Returns the same shape."""
        return x + self.conv2(F.relu(self.conv1(x)))
