"""DiT: a diffusion transformer on patches, told of noise and class by adaLN-Zero. Peebles and Xie 2023, arXiv 2212.09748."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from safelight.nn.attention import Heads
from safelight.nn.embed import Embedding, SinusoidSpec
from safelight.nn.network import NetworkSpec, Output
from safelight.nn.pad import crop_to, pad_to
from safelight.nn.told import Told, ToldNetwork
from safelight.spec import SpecError


class DiTSpec(NetworkSpec, kind="dit"):
    """A diffusion transformer. The defaults are a small one for pictures of 28x28; `preset` gives the paper's (table 1)."""

    channels: int = Field(1, ge=1, description="C of the picture")
    image: int = Field(0, ge=0, description="channels of Cond.image, concatenated to the picture")
    cond: int = Field(0, ge=0, description="width of Cond.vector, 0 for none")
    learned_variance: bool = Field(False, description="a second half of outputs, the learned-variance fraction")
    patch: int = Field(2, ge=1, description="side of a patch")
    width: int = Field(192, ge=4, multiple_of=4, description="channels of a token")
    depth: int = Field(8, ge=1, description="number of blocks")
    heads: int = Field(3, ge=1, description="attention heads; must divide width")
    mlp: float = Field(4.0, gt=0, description="width of the feed-forward layer, in widths")
    qk_norm: bool = Field(False, description="RMS-normalise q and k")
    embedding: Embedding = SinusoidSpec(width=256, closed=False, cos_first=True)

    @classmethod
    def preset(cls, size: Literal["S", "B", "L", "XL"] = "S", patch: int = 2, channels: int = 4, cond: int = 0) -> Self:
        """DiT-S, -B, -L or -XL of Peebles and Xie 2023, table 1: 33, 130, 458 and 675 M parameters at patch 2."""
        depth, width, heads = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}[size]
        return cls(channels=channels, cond=cond, patch=patch, width=width, depth=depth, heads=heads)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide the width {self.width}")
        return self

    def build(self) -> DiT:
        """A DiT with fresh weights, which answers 0 until it is trained (the last layer starts at zero)."""
        return DiT(self)


class DiT(ToldNetwork):
    """`unpatch(last(blocks(patch(x) + positions)))`, each block told `W silu(MLP(embedding(noise)) + V cond.vector)`; see `DiTSpec`.

    x: (B, channels, H, W), any size: padded up to whole patches, and cropped.
    """

    spec: DiTSpec

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        self.spec = spec
        p, width, out = spec.patch, spec.width, spec.channels * (2 if spec.learned_variance else 1)
        self.embedding = spec.embedding.make()
        self.time = nn.Sequential(nn.Linear(spec.embedding.width, width), nn.SiLU(), nn.Linear(width, width))
        self.cond = nn.Linear(spec.cond, width) if spec.cond else None
        self.patch = nn.Linear((spec.channels + spec.image) * p * p, width)
        blocks = [DiTBlock(width, spec.heads, int(spec.mlp * width), spec.qk_norm) for _ in range(spec.depth)]
        self.blocks = cast("Sequence[DiTBlock]", nn.ModuleList(blocks))
        self.last = nn.Linear(width, p * p * out)
        self.tell_last = nn.Linear(width, 2 * width)
        self._init()

    def _init(self) -> None:
        """The start of section 3.2 and of the authors' code: Xavier everywhere, N(0, 0.02^2) for the time, adaLN and the end at zero."""
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        for m in (*self.time, *([] if self.cond is None else [self.cond])):
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.02)
        for last in (self.last, self.tell_last, *(block.tell for block in self.blocks)):
            nn.init.zeros_(last.weight)

    def tell(self, noise: Tensor, vector: Tensor | None) -> Told:
        """noise: (n,); vector: (n, cond) or None. The adaLN numbers: (n, 6 width) a block, and (n, 2 width) for the last layer."""
        dtype = self.tell_last.weight.dtype
        c = self.time(self.embedding(noise).to(dtype))  # (n, width)
        if self.cond is not None:
            if vector is None:
                raise SpecError(f"cond.vector is missing: the network was built with cond={self.spec.cond}")
            c = c + self.cond(vector.to(dtype))  # (n, width)
        c = F.silu(c)  # (n, width)
        return (*(block.tell(c) for block in self.blocks), self.tell_last(c))  # (n, 6 width) each, (n, 2 width)

    def draw(self, x: Tensor, told: Told, words: tuple[()] = (), image: Tensor | None = None) -> Output:
        """x: (B, channels, H, W). image: (B or 1, image, H, W). F and fraction: (B, channels, H, W)."""
        if self.spec.image:
            if image is None:
                raise SpecError(f"cond.image is missing: the network was built with image={self.spec.image}")
            x = torch.cat((x, image.expand(len(x), *image.shape[1:])), dim=1)  # (B, channels + image, H, W)
        p = self.spec.patch
        y = pad_to(x, p).unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, C, h, p, w, p)
        h, w = y.shape[2], y.shape[4]
        y = y.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, h w, C p p)
        y = self.patch(y) + positions(h, w, self.spec.width, y)  # (B, h w, width)
        for block, t in zip(self.blocks, told[:-1], strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                y = checkpoint(block, y, t, use_reentrant=False)  # (B, h w, width)
            else:
                y = block(y, t)  # (B, h w, width)
        shift, scale = told[-1][:, None].chunk(2, dim=2)  # 2 x (B or 1, 1, width)
        y = self.last(modulated(y, shift, scale))  # (B, h w, p p out)
        y = y.unflatten(2, (p, p, -1)).unflatten(1, (h, w))  # (B, h, w, p, p, out)
        y = crop_to(y.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3), x)  # (B, out, H, W)
        if not self.spec.learned_variance:
            return Output(y)
        y, v = y.chunk(2, dim=1)  # 2 x (B, channels, H, W)
        return Output(y, (v + 1) / 2)  # Nichol and Dhariwal 2021, eq. 15, with v in [-1, 1] as in their code


class DiTBlock(nn.Module):
    """`y + g1 attend(mod1(y))`, then `y + g2 feed(mod2(y))`, where `mod(y) = LayerNorm(y) (1 + scale) + shift`. Figure 3, adaLN-Zero."""

    def __init__(self, width: int, heads: int, inner: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.tell = nn.Linear(width, 6 * width)
        self.attend = Heads(heads, width // heads, qk_norm)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, y: Tensor, told: Tensor) -> Tensor:
        """y: (B, N, width). told: (B or 1, 6 width). Returns (B, N, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = told[:, None].chunk(6, dim=2)  # 6 x (B or 1, 1, width)
        q, k, v = self.qkv(modulated(y, shift1, scale1)).chunk(3, dim=2)  # 3 x (B, N, width)
        a = self.attend(self.attend.query(q), self.attend.key(k), self.attend.value(v))  # (B, N, width)
        y = torch.addcmul(y, gate1, self.out(a))  # (B, N, width)
        f = self.down(F.gelu(self.up(modulated(y, shift2, scale2)), approximate="tanh"))  # (B, N, width)
        return torch.addcmul(y, gate2, f)  # (B, N, width)


def modulated(y: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`LayerNorm(y) (1 + scale) + shift`. y: (B, N, C); shift, scale: (B or 1, 1, C)."""
    return torch.addcmul(shift, F.layer_norm(y, y.shape[-1:], eps=1e-6), 1 + scale)  # (B, N, C)


def positions(h: int, w: int, width: int, like: Tensor) -> Tensor:
    """Fixed positions (h w, width): half of the numbers tell the column, half the row (the authors' code; Vaswani et al. 2017, 3.5).

    `sin(w_i p), cos(w_i p)` with `w_i = 10000^(-i / n)`, i = 0..n-1, n = width / 4. In the dtype and on the device of `like`.
    """
    n = width // 4
    freq = torch.exp(torch.arange(n, device=like.device, dtype=torch.float32) * (-9.210340371976184 / n))  # (n,), ln 10000
    rows = torch.arange(h, device=like.device, dtype=torch.float32)[:, None] * freq  # (h, n)
    cols = torch.arange(w, device=like.device, dtype=torch.float32)[:, None] * freq  # (w, n)
    row = torch.cat((rows.sin(), rows.cos()), dim=1)[:, None].expand(h, w, 2 * n)  # (h, w, width / 2)
    col = torch.cat((cols.sin(), cols.cos()), dim=1)[None].expand(h, w, 2 * n)  # (h, w, width / 2)
    return torch.cat((col, row), dim=2).flatten(0, 1).to(like.dtype)  # (h w, width)
