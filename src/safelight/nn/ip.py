"""IP-adapter: a picture as a prompt. Its tokens are read by a second pair of keys and values beside each cross-attention's own.

Ye et al. 2023, "IP-Adapter: text compatible image prompt adapter for text-to-image diffusion models", arXiv 2308.06721, eq. 5:
`out(attention(q, k, v) + w attention(q, k', v'))`. What makes tokens of a picture's CLIP embedding is a kind of `PictureTokens`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from safelight.nn.attention import CrossAttention, Heads, Words
from safelight.nn.control import ControlSpec
from safelight.nn.unet import Stage, Trunk
from safelight.spec import Spec, SpecError


class PictureTokens(Spec, family="picture-tokens"):
    """What makes tokens of a picture. `deep`: it sees the image tower's states before its last block, else the embedding alone."""

    deep: ClassVar[bool] = True

    seen: int = Field(1024, ge=1, description="width of what the image tower gives")

    def make(self, context: int) -> nn.Module:
        """The module, (B, P, seen) or (B, seen) -> (B, n, context)."""
        raise NotImplementedError(type(self).__name__)


class FromEmbedding(PictureTokens, kind="from-embedding"):
    """`norm(W e)`, cut into tokens. Section 3.2.1 of the paper."""

    deep: ClassVar[bool] = False

    tokens: int = Field(4, ge=1, description="tokens of a picture")

    def make(self, context: int) -> nn.Module:
        """A `Cut`."""
        return Cut(self.seen, self.tokens, context)


class FromPatches(PictureTokens, kind="from-patches"):
    """A token for each state of the tower: `norm(W2 gelu(W1 h))`, W1 square (the authors' "full face")."""

    def make(self, context: int) -> nn.Module:
        """A `Mapped`."""
        return Mapped(self.seen, context)


class FromQueries(PictureTokens, kind="from-queries"):
    """Learned queries that read the states in blocks of cross-attention (the authors' "plus", after Flamingo's resampler)."""

    tokens: int = Field(16, ge=1, description="queries, one a token")
    width: int = Field(768, ge=1, description="of the blocks")
    depth: int = Field(4, ge=1, description="number of blocks")
    heads: int = Field(12, ge=1, description="attention heads")
    head_width: int = Field(64, ge=1, description="channels of a head")
    mlp: int = Field(4, ge=1, description="width within a block's feed-forward layer, in widths")

    def make(self, context: int) -> nn.Module:
        """A `Queries`."""
        return Queries(self, context)


class Cut(nn.Module):
    """(B, seen) -> (B, n, context); see `FromEmbedding`."""

    def __init__(self, seen: int, tokens: int, context: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj, self.norm = nn.Linear(seen, tokens * context), nn.LayerNorm(context)

    def forward(self, e: Tensor) -> Tensor:
        """e: (B, seen). Returns (B, n, context)."""
        return self.norm(self.proj(e).unflatten(1, (self.tokens, -1)))


class Mapped(nn.Module):
    """(B, P, seen) -> (B, P, context); see `FromPatches`."""

    def __init__(self, seen: int, context: int) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(seen, seen), nn.Linear(seen, context), nn.LayerNorm(context)

    def forward(self, h: Tensor) -> Tensor:
        """h: (B, P, seen). Returns (B, P, context)."""
        return self.norm(self.down(nn.functional.gelu(self.up(h))))


class Queries(nn.Module):
    """(B, P, seen) -> (B, n, context); see `FromQueries`."""

    def __init__(self, spec: FromQueries, context: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(spec.tokens, spec.width) * spec.width**-0.5)
        self.proj_in = nn.Linear(spec.seen, spec.width)
        self.blocks = nn.ModuleList(QueryBlock(spec) for _ in range(spec.depth))
        self.proj_out, self.norm = nn.Linear(spec.width, context), nn.LayerNorm(context)

    def forward(self, h: Tensor) -> Tensor:
        """h: (B, P, seen). Returns (B, n, context)."""
        h = self.proj_in(h)  # (B, P, width)
        y = self.latents.expand(len(h), -1, -1)  # (B, n, width)
        for block in self.blocks:
            y = block(y, h)
        return self.norm(self.proj_out(y))


class QueryBlock(nn.Module):
    """`y + out(attention(norm2(y), [norm1(h), norm2(y)]))`, then `y + down(gelu(up(norm3(y))))`; maps without biases."""

    def __init__(self, spec: FromQueries) -> None:
        super().__init__()
        width, inner = spec.width, spec.heads * spec.head_width
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attend = Heads(spec.heads, spec.head_width)
        self.q, self.kv = nn.Linear(width, inner, bias=False), nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.up, self.down = nn.Linear(width, spec.mlp * width, bias=False), nn.Linear(spec.mlp * width, width, bias=False)

    def forward(self, y: Tensor, h: Tensor) -> Tensor:
        """y: (B, n, width); h: (B, P, width). Returns the shape of y."""
        n = self.norm2(y)
        k, v = self.kv(torch.cat((self.norm1(h), n), dim=1)).chunk(2, dim=2)  # 2 x (B, P + n, inner)
        a = self.attend(self.attend.query(self.q(n)), self.attend.key(k), self.attend.value(v))  # (B, n, inner)
        y = y + self.out(a)
        return y + self.down(nn.functional.gelu(self.up(self.norm3(y))))


class IPSpec(ControlSpec, kind="ip-adapter"):
    """An IP-adapter. widths: of the U-Net's cross-attentions on the way down, then those on the way up, then the middle's."""

    context: int = Field(768, ge=1, description="width of the tokens that the cross-attentions read")
    picture: PictureTokens = Field(FromEmbedding(), description="what makes tokens of a picture")
    widths: tuple[int, ...] = Field(
        (320,) * 2 + (640,) * 2 + (1280,) * 5 + (640,) * 3 + (320,) * 3 + (1280,), description="of each cross-attention"
    )

    def build(self) -> IPAdapter:
        """An adapter with fresh weights."""
        return IPAdapter(self)


class IPAdapter(nn.Module):
    """Tokens of a picture, and the keys and values that each cross-attention of a U-Net makes of them; see `IPSpec`."""

    spec: IPSpec

    def __init__(self, spec: IPSpec) -> None:
        super().__init__()
        self.spec = spec
        self.picture = spec.picture.make(spec.context)
        self.kv = nn.ModuleList(nn.Linear(spec.context, 2 * width, bias=False) for width in spec.widths)

    def tokens(self, seen: Tensor) -> Tensor:
        """seen: what the image tower gives, (B, seen), or (B, P, seen) where the spec's picture is deep. (B, n, context)."""
        return self.picture(seen.to(next(self.parameters()).dtype))

    def beside(
        self, net: Trunk, words: tuple[tuple[Words, ...], ...], tokens: Tensor, weight: float
    ) -> tuple[tuple[Words, ...], ...]:
        """What a U-Net read (`net.read`), with the picture's keys and values beside. tokens: (B or 1, n, context).

        Raises SpecError when the adapter is of another U-Net.
        """
        order = sorted(range(len(net.stages)), key=lambda i: (0, 2, 1)[net.stages[i].plan.way + 1])  # down, up, middle
        readers = {i: _crosses(net.stages[i]) for i in order}
        every = [cross for i in order for cross in readers[i]]
        widths, contexts = tuple(cross.q.out_features for cross in every), {cross.kv.in_features for cross in every}
        if widths != self.spec.widths or contexts != {self.spec.context}:
            raise SpecError(
                f"control: this IP-adapter is of a network with {len(self.spec.widths)} cross-attentions that read tokens of width"
                f" {self.spec.context}; the model has {len(widths)}, of tokens {', '.join(map(str, sorted(contexts))) or 'none'} wide"
            )
        maps = iter(self.kv)
        found = list(words)
        for i in order:
            found[i] = tuple(
                self._with(cross, word, next(maps), tokens, weight) for cross, word in zip(readers[i], words[i], strict=True)
            )
        return tuple(found)

    def _with(self, cross: CrossAttention, word: Words, kv: nn.Module, tokens: Tensor, weight: float) -> Words:
        k, v = kv(tokens.to(next(kv.parameters()).dtype)).chunk(2, dim=2)  # 2 x (B, n, width)
        return word._replace(also=(*word.also, (cross.attend.key(k), cross.attend.value(v), weight)))


def _crosses(stage: Stage) -> list[CrossAttention]:
    """The cross-attentions of a stage, in the order in which `Trunk.read` lists their words."""
    return [m for m in stage.modules() if isinstance(m, CrossAttention)]
