"""Networks of tokens: what stands at each place of x_t, told the noise level -> logits of the clean token there.

They know no process: a mask is one more state to them. Places are told apart by the network; a text is a picture of one row.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.attention import Heads
from safelight.nn.embed import Embedding, SinusoidSpec
from safelight.nn.network import NetworkSpec
from safelight.spec import Spec, SpecError


class TokenNetworkSpec(Spec, family="token-network"):
    """The architecture of a network of tokens."""

    def make(self, states: int, tokens: int, channels: int) -> TokenNetwork:
        """A network with fresh weights that answers with even chances: x in `states` states, logits of `tokens` clean ones.

        channels: tokens at each place of the picture. Raises SpecError for parts that do not fit.
        """
        raise NotImplementedError(type(self).__name__)


class TokenNetwork(nn.Module):
    """A trainable function `forward(x, noise) -> logits`."""

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x: (B, C, H, W) int64. noise: (B,), 1000 t. Returns (B, K, C, H, W)."""
        raise NotImplementedError


class TokenTransformerSpec(TokenNetworkSpec, kind="token-transformer"):
    """A bidirectional transformer, pre-norm, with rotary places (Su et al. 2021) along the tokens in reading order.

    The level is added to every token's embedding; `timed` False leaves it out, as a masked process shows it by its masks (Ou et al.
    2024; Sahoo et al. 2024, section 3.5).
    """

    width: int = Field(128, ge=4, description="channels of a token")
    depth: int = Field(4, ge=1, description="number of blocks")
    heads: int = Field(4, ge=1, description="attention heads; width / heads must be even")
    mlp: float = Field(4.0, gt=0, description="width of the feed-forward layer, in widths")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what each half of a block adds")
    timed: bool = Field(True, description="the network is told the noise level")
    embedding: Embedding = SinusoidSpec(width=64)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"heads: {self.heads} do not cut the width {self.width} into parts of even width")
        return self

    def make(self, states: int, tokens: int, channels: int) -> TokenTransformer:
        return TokenTransformer(self, states, tokens)


class TokenPictureSpec(TokenNetworkSpec, kind="token-picture"):
    """Any network of pictures between an embedding of tokens and a linear map to logits: `network.channels` is the embedding's width."""

    network: NetworkSpec

    @model_validator(mode="after")
    def _plain(self) -> Self:
        asks = [name for name in ("cond", "context", "image") if getattr(self.network, name, 0)]
        if asks or self.network.answers or getattr(self.network, "learned_variance", False):
            raise ValueError(f"network '{self.network.kind}' must take a picture alone and give one of as many channels")
        return self

    def make(self, states: int, tokens: int, channels: int) -> TokenPicture:
        return TokenPicture(self, states, tokens, channels)


class TokenTransformer(TokenNetwork):
    """See `TokenTransformerSpec`."""

    def __init__(self, spec: TokenTransformerSpec, states: int, tokens: int) -> None:
        super().__init__()
        self.spec = spec
        self.embed = nn.Embedding(states, spec.width)
        nn.init.normal_(self.embed.weight, std=0.5)
        self.embedding = spec.embedding.make() if spec.timed else None
        self.time = (
            nn.Sequential(nn.Linear(spec.embedding.width, spec.width), nn.SiLU(), nn.Linear(spec.width, spec.width))
            if spec.timed
            else None
        )
        self.blocks = nn.ModuleList(_Block(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width)
        self.last = nn.Linear(spec.width, tokens)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        h = self.embed(x.flatten(1))  # (B, N, width)
        if self.time is not None and self.embedding is not None:
            h = h + self.time(self.embedding(noise).to(h.dtype))[:, None]
        waves = rotary(h.shape[1], self.spec.width // self.spec.heads, h.device)
        for block in self.blocks:
            h = block(h, waves)
        return self.last(self.norm(h)).transpose(1, 2).unflatten(2, x.shape[1:])  # (B, K, C, H, W)


class _Block(nn.Module):
    """h + out(attend(h)), then h + down(gelu(up(h))), each of the normed h."""

    def __init__(self, spec: TokenTransformerSpec) -> None:
        super().__init__()
        inner = int(spec.mlp * spec.width)
        self.norms = nn.ModuleList(nn.LayerNorm(spec.width) for _ in range(2))
        self.attend = Heads(spec.heads, spec.width // spec.heads)
        self.qkv, self.out = nn.Linear(spec.width, 3 * spec.width), nn.Linear(spec.width, spec.width)
        self.up, self.down = nn.Linear(spec.width, inner), nn.Linear(inner, spec.width)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, h: Tensor, waves: Tensor) -> Tensor:
        """h: (B, N, width). waves: from `rotary`. Returns the shape of h."""
        q, k, v = self.qkv(self.norms[0](h)).chunk(3, dim=2)  # 3 x (B, N, width)
        q, k = turned(self.attend.query(q), waves), turned(self.attend.key(k), waves)  # (B, H, N, d)
        h = h + self.dropout(self.out(self.attend(q, k, self.attend.value(v))))
        return h + self.dropout(self.down(F.gelu(self.up(self.norms[1](h)), approximate="tanh")))


def rotary(count: int, width: int, device: torch.device) -> Tensor:
    """(2, N, d/2) cosines and sines of n / 10000^(2 i / d), for place n and pair i (Su et al. 2021, RoFormer, eq. 15)."""
    rates = 10_000 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angles = torch.arange(count, device=device, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()])


def turned(x: Tensor, waves: Tensor) -> Tensor:
    """x (B, H, N, d) with its pairs (i, i + d/2) turned by their places' angles."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = waves.to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class TokenPicture(TokenNetwork):
    """See `TokenPictureSpec`."""

    def __init__(self, spec: TokenPictureSpec, states: int, tokens: int, channels: int) -> None:
        super().__init__()
        self.spec = spec
        width: int = getattr(spec.network, "channels", 0)
        if width < 1 or width % channels:
            raise SpecError(f"token-network.network.channels: {width} is no multiple of the picture's {channels}")
        self.embed = nn.Embedding(states, width // channels)
        self.network = spec.network.build()
        self.last = nn.Conv2d(width, channels * tokens, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        h = self.embed(x).movedim(-1, 2).flatten(1, 2)  # (B, C e, H, W)
        # The network's answer starts at zero: what is embedded goes around it, as any residual does.
        found = self.last(h + self.network(h, noise).F)  # (B, C K, H, W)
        return found.unflatten(1, (x.shape[1], -1)).transpose(1, 2)  # (B, K, C, H, W)
