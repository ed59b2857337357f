"""The encoder of T5: a transformer without absolute positions, whose attention knows how far apart two words are.

Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text transformer", section 2.1; the gated MLP
of version 1.1 is GEGLU (Shazeer 2020, "GLU variants improve transformer", eq. 4). Norms are root mean square, no layer has a bias,
scores are not scaled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6


def buckets(length: int, count: int, far: int, device: torch.device) -> Tensor:
    """(L, L) int64: which of `count` buckets the distance from place i (row) to place j (column) falls into.

    Half of them are for j > i. Of each half, half hold one distance each, the others grow with the logarithm up to `far`, the last holds
    all beyond.
    """
    half = count // 2
    near = half // 2
    place = torch.arange(length, device=device)
    away = place[None, :] - place[:, None]  # (L, L)
    distance = away.abs()
    grown = near + (torch.log(distance.float().clamp(min=1) / near) / math.log(far / near) * (half - near)).long()
    return (away > 0).long() * half + torch.where(distance < near, distance, grown.clamp(max=half - 1))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the MLP is wo(gelu(gate x) * wi x) if gated, else wo(relu(wi x))."""

    def __init__(self, width: int, heads: int, head_width: int, inner: int, gated: bool) -> None:
        super().__init__()
        self.heads = heads
        inside = heads * head_width
        self.norm1, self.norm2 = nn.RMSNorm(width, EPS), nn.RMSNorm(width, EPS)
        self.q, self.k, self.v = (nn.Linear(width, inside, bias=False) for _ in range(3))
        self.out = nn.Linear(inside, width, bias=False)
        self.gate = nn.Linear(width, inner, bias=False) if gated else None
        self.wi, self.wo = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        for layer, std in (
            (self.q, (width * head_width) ** -0.5),
            (self.k, width**-0.5),
            (self.v, width**-0.5),
            (self.out, inside**-0.5),
            (self.gate, width**-0.5),
            (self.wi, width**-0.5),
            (self.wo, inner**-0.5),
        ):
            if layer is not None:
                nn.init.normal_(layer.weight, std=std)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, L, W). bias: (1 or B, heads, L, L), added to the scores."""
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))  # (B, h, L, d)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        h = F.relu(self.wi(h)) if self.gate is None else F.gelu(self.gate(h), approximate="tanh") * self.wi(h)
        return x + self.wo(h)  # (B, L, W)


class T5Tower(nn.Module):
    """Ids (B, L) of any length -> the states of every token (B, L, width), after the last norm.

    vocabulary: how many ids. head_width: of each of `heads`, whose sum need not be `width`. inner: width within a block's MLP. gated: as in
    version 1.1. buckets, far: of the distances, see `buckets`.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        head_width: int,
        inner: int,
        gated: bool = True,
        buckets: int = 32,
        far: int = 128,
    ) -> None:
        super().__init__()
        self.buckets, self.far = buckets, far
        self.token = nn.Embedding(vocabulary, width)
        self.distance = nn.Embedding(buckets, heads)
        self.blocks = nn.ModuleList(Block(width, heads, head_width, inner, gated) for _ in range(layers))
        self.norm = nn.RMSNorm(width, EPS)
        nn.init.normal_(self.token.weight)
        nn.init.normal_(self.distance.weight, std=width**-0.5)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (B, L) bool, True for tokens that may be looked at."""
        h = self.token(ids)  # (B, L, W)
        near = buckets(ids.shape[1], self.buckets, self.far, ids.device)
        bias = self.distance(near).permute(2, 0, 1)[None]  # (1, heads, L, L)
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None], -torch.inf)  # (B, heads, L, L)
        for block in self.blocks:
            h = block(h, bias)
        return self.norm(h)
