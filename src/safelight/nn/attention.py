"""Attention: every place looks at every other place, or at words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.blocks import Pointwise
from safelight.nn.norm import GroupNormSpec, Norm
from safelight.nn.places import positions
from safelight.spec import Spec, SpecError


class Words(NamedTuple):
    """What cross-attention needs of a text, computed once a run: k, v: (B, H, L, d); mask: (B, 1, 1, L) bool or None.

    also: what is looked at beside it, as (k, v, weight) each: pictures (nn/ip.py).
    """

    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    also: tuple[tuple[Tensor, Tensor, float], ...] = ()


class Attention(Spec, family="attention"):
    """What looks across space after a block. Residual: `x + f(x)`."""

    def make(self, width: int, norm: Norm, context: int = 0) -> nn.Module | None:
        """The module for `width` channels, or None; context: width of the text tokens it may look at (0: no text)."""
        raise NotImplementedError(type(self).__name__)


class NoAttention(Attention, kind="no-attention"):
    """Nothing."""

    def make(self, width: int, norm: Norm, context: int = 0) -> None:
        """None."""


class FullAttentionSpec(Attention, kind="full-attention"):
    """`softmax(q k^T / sqrt(d)) v` over all places, pre-norm and residual. Vaswani et al. 2017, eq. 1.

    `memory` learned key-value pairs join those of the picture (Sukhbaatar et al. 2019). `qk_norm` gives q and k unit root
    mean square before the product (Dehghani et al. 2023), which keeps low precision stable.
    """

    heads: int | None = Field(None, ge=1, description="number of heads; none: width / head_width")
    head_width: int = Field(32, ge=1, description="channels of a head")
    bias: bool = Field(False, description="q, k and v have a bias")
    memory: int = Field(0, ge=0, description="learned key-value pairs")
    qk_norm: bool = Field(False, description="RMS-normalise q and k")

    def make(self, width: int, norm: Norm, context: int = 0) -> nn.Module:
        """A `FullAttention`. Raises SpecError when the head's width does not divide the width."""
        heads = self.heads or _heads(width, self.head_width)
        return FullAttention(width, heads, self.head_width, norm.make(width), self.bias, self.memory, self.qk_norm)


class LinearAttentionSpec(Attention, kind="linear-attention"):
    """Attention at a cost linear in the number of places: `softmax_d(q) (softmax_N(k)^T v) / sqrt(d)`. Shen et al. 2021, eq. 4.

    Pre-norm and residual, with a norm after the output projection as in the annotated tutorials.
    """

    heads: int | None = Field(4, ge=1, description="number of heads; none: width / head_width")
    head_width: int = Field(32, ge=1, description="channels of a head")
    memory: int = Field(0, ge=0, description="learned key-value pairs")

    def make(self, width: int, norm: Norm, context: int = 0) -> nn.Module:
        """A `LinearAttention`. Raises SpecError when the head's width does not divide the width."""
        heads = self.heads or _heads(width, self.head_width)
        return LinearAttention(width, heads, self.head_width, norm.make(width), norm.make(width), self.memory)


class TransformerSpec(Attention, kind="transformer"):
    """The transformer of latent diffusion: self-attention, cross-attention to the text, GEGLU. Rombach et al. 2022, appendix E.2.1.

    With no text (`context` 0) the cross-attention is left out. `places`: what the blocks see is told where it stands, by fixed
    positions (nn/places.py) through a learned map that starts at zero; convolutions tell it only by the zeros beyond the edges.
    """

    heads: int | None = Field(None, ge=1, description="number of heads; none: width / head_width")
    head_width: int = Field(32, ge=1, description="channels of a head")
    depth: int = Field(1, ge=1, description="transformer blocks in a row")
    qk_norm: bool = Field(False, description="RMS-normalise q and k")
    norm: Norm = Field(GroupNormSpec(groups=32, eps=1e-6), description="the norm in front of all")
    places: bool = Field(False, description="tokens are told where they stand")
    linear: bool = Field(
        False,
        description="the maps in and out act on tokens (Stable Diffusion 2 and XL), else on the picture as 1x1 convolutions",
    )
    itself: bool = Field(
        True, description="a block's first attention is the picture's to itself, else it reads the text too, like the second"
    )

    def make(self, width: int, norm: Norm, context: int = 0) -> nn.Module:
        """A `SpatialTransformer`. Raises SpecError when the head's width does not divide the width."""
        heads = self.heads or _heads(width, self.head_width)
        first = self.norm.make(width)
        return SpatialTransformer(
            width, heads, self.head_width, first, self.depth, context, self.qk_norm, self.places, self.linear, self.itself
        )


class JoinedSpec(Attention, kind="joined-attention"):
    """Attention over words and places at once: `softmax(q [k_text, k]^T / sqrt(d)) [v_text, v]`. Nichol et al. 2021 (GLIDE), section 3.1.

    Pre-norm and residual, every map with a bias. DeepFloyd IF's, whose later stages read the words alone (`itself` False).
    """

    heads: int | None = Field(None, ge=1, description="number of heads; none: width / head_width")
    head_width: int = Field(64, ge=1, description="channels of a head")
    itself: bool = Field(True, description="the places are looked at too, else only the words")
    words: Norm | None = Field(
        None, description="a norm of the words, over groups of their features and all words; none: no norm"
    )

    def make(self, width: int, norm: Norm, context: int = 0) -> nn.Module:
        """A `JoinedAttention`. Raises SpecError without a text, and when widths, heads and groups do not fit."""
        if not context:
            raise SpecError("attention: 'joined-attention' reads a text; give the network a context")
        heads = self.heads or _heads(width, self.head_width)
        words = nn.Identity() if self.words is None else self.words.make(context)
        return JoinedAttention(width, heads, self.head_width, norm.make(width), words, context, self.itself)


def _heads(width: int, head_width: int) -> int:
    if width % head_width:
        raise SpecError(f"attention.head_width: {head_width} does not divide {width} channels; choose a divisor, or set heads")
    return width // head_width


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, *space) -> (B, N, C); a view when x is channels-last."""
    return x.flatten(2).transpose(1, 2)


def to_space(y: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, *space of `like`); a view, channels-last."""
    return y.transpose(1, 2).unflatten(2, like.shape[2:])


class UnitRMS(nn.Module):
    """`g * x / rms(x)` over the last dimension, in the type of x. Zhang and Sennrich 2019, eq. 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C). Returns the same shape."""
        return F.rms_norm(x, x.shape[-1:], self.g.to(x.dtype), eps=1e-6)  # (..., C)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: (B, H, N, d), (B, H, L, d), (B, H, L, d) -> (B, H, N, d); mask True where a key counts.

    The fused kernel, but for training in bfloat16 on a CPU, where its backward pass takes ten times as long as the three products.
    """
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, N, L)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.float().softmax(-1).to(v.dtype) @ v


class Heads(nn.Module):
    """Multi-head attention on sequences; q, k, v come from the caller's projections. Vaswani et al. 2017, section 3.2.2."""

    def __init__(self, heads: int, head_width: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm_q = UnitRMS(head_width) if qk_norm else nn.Identity()
        self.norm_k = UnitRMS(head_width) if qk_norm else nn.Identity()

    def query(self, q: Tensor) -> Tensor:
        """(B, N, H d) -> (B, H, N, d), normed if asked."""
        return self.norm_q(q.unflatten(2, (self.heads, self.head_width)).transpose(1, 2))

    def key(self, k: Tensor) -> Tensor:
        """(B, L, H d) -> (B, H, L, d), normed if asked."""
        return self.norm_k(k.unflatten(2, (self.heads, self.head_width)).transpose(1, 2))

    def value(self, v: Tensor) -> Tensor:
        """(B, L, H d) -> (B, H, L, d)."""
        return v.unflatten(2, (self.heads, self.head_width)).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q: (B, H, N, d). k, v: (B or 1, H, L, d). mask: (B or 1, 1, 1, L) True where a key counts. Returns (B, N, H d)."""
        q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast a norm may have left them wider
        if len(k) != len(q):
            k, v = k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1)  # (B, H, L, d)
        y = attend(q, k, v, mask)  # (B, H, N, d)
        return y.transpose(1, 2).flatten(2)  # (B, N, H d)


class FullAttention(nn.Module):
    """`x + out(softmax(q k^T / sqrt(d)) v)` with q, k, v from `norm(x)`; see `FullAttentionSpec`."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        norm: nn.Module,
        bias: bool = False,
        memory: int = 0,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.attend = Heads(heads, head_width, qk_norm)
        self.qkv = Pointwise(width, 3 * heads * head_width, bias=bias)
        self.memory = nn.Parameter(torch.randn(2, heads, memory, head_width)) if memory else None
        self.out = Pointwise(heads * head_width, width)

    def forward(self, x: Tensor, words: tuple[Words, ...] = ()) -> Tensor:
        """x: (B, C, *space). Returns the same shape."""
        q, k, v = to_tokens(self.qkv(self.norm(x))).chunk(3, dim=2)  # 3 x (B, N, H d)
        q, k, v = self.attend.query(q), self.attend.key(k), self.attend.value(v)  # 3 x (B, H, N, d)
        if self.memory is not None:
            mk, mv = self.memory.to(v.dtype)[:, None].expand(-1, len(x), -1, -1, -1)  # 2 x (B, H, M, d)
            k, v = torch.cat((mk.to(k.dtype), k), dim=2), torch.cat((mv, v), dim=2)  # 2 x (B, H, M + N, d)
        return x + self.out(to_space(self.attend(q, k, v), x))  # (B, C, *space)


class LinearAttention(nn.Module):
    """`x + norm(out(softmax_d(q) (softmax_N(k)^T v) / sqrt(d)))`; see `LinearAttentionSpec`.

    v = W_v x is never made: with the gathered pictures `G = softmax_N(k)^T x` of each head, `softmax_N(k)^T v = G W_v^T`, and with
    `M = W_out (G W_v^T)^T` the output is `M softmax_d(q)`. The same numbers from two thirds of the products, and half of the copies
    (measured: 0.55 to 0.86 of the time of a training step).
    """

    def __init__(self, width: int, heads: int, head_width: int, norm: nn.Module, norm_out: nn.Module, memory: int = 0) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm, self.norm_out = norm, norm_out
        self.q = Pointwise(width, heads * head_width, bias=False)
        self.k = Pointwise(width, heads * head_width, bias=False)
        self.v = nn.Linear(width, heads * head_width, bias=False)
        self.memory = nn.Parameter(torch.randn(2, heads, memory, head_width)) if memory else None
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor, words: tuple[Words, ...] = ()) -> Tensor:
        """x: (B, C, *space). Returns the same shape."""
        h, d = self.heads, self.head_width
        n = self.norm(x)  # (B, C, *space)
        q, k = to_tokens(self.q(n)), to_tokens(self.k(n))  # 2 x (B, N, H d)
        q = q.unflatten(2, (h, d)).softmax(dim=3).flatten(2)  # (B, N, H d)
        if self.memory is None:
            g = k.softmax(dim=1).transpose(1, 2) @ to_tokens(n)  # (B, H d, C): what each feature of k gathered over space
            s = g.unflatten(1, (h, d)) @ self.v.weight.unflatten(0, (h, d)).mT  # (B, H, d, d)
        else:
            m = self.memory.shape[2]
            mk = self.memory[0].transpose(0, 1).flatten(1).to(k.dtype).expand(len(x), -1, -1)  # (B, M, H d)
            mk, k = torch.cat((mk, k), dim=1).softmax(dim=1).split((m, k.shape[1]), dim=1)  # (B, M, H d), (B, N, H d)
            g = k.transpose(1, 2) @ to_tokens(n)  # (B, H d, C)
            s = g.unflatten(1, (h, d)) @ self.v.weight.unflatten(0, (h, d)).mT  # (B, H, d, d)
            s = s + mk.unflatten(2, (h, d)).permute(0, 2, 3, 1) @ self.memory[1]  # (B, H, d, d)
        m_t = s @ self.out.weight.unflatten(1, (h, d)).permute(1, 2, 0)  # (B, H, d, C)
        y = q @ (m_t * d**-0.5).flatten(1, 2) + self.out.bias.to(q.dtype)  # (B, N, C)
        return x + self.norm_out(to_space(y, x))  # (B, C, *space)


class Reader(nn.Module):
    """What looks at words as well as at the picture: it makes of a text what it needs of it once a run, and is then given that."""

    def read(self, tokens: Tensor, mask: Tensor | None) -> tuple[Words, ...]:
        """tokens: (B, L, D), mask: (B, L) bool, True where a token counts. What `forward` takes as `words`."""
        raise NotImplementedError


class JoinedAttention(Reader):
    """`x + out(softmax(q [k_text, k]^T / sqrt(d)) [v_text, v])`; see `JoinedSpec`."""

    def __init__(
        self, width: int, heads: int, head_width: int, norm: nn.Module, words: nn.Module, context: int, itself: bool = True
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.itself = itself
        self.attend = Heads(heads, head_width)
        self.norm, self.norm_words = norm, words
        self.qkv = Pointwise(width, 3 * inner if itself else inner)
        self.kv = nn.Linear(context, 2 * inner)
        self.out = Pointwise(inner, width)

    def read(self, tokens: Tensor, mask: Tensor | None) -> tuple[Words, ...]:
        """tokens: (B, L, D). mask: (B, L) bool, True where a token counts; a text of which no token counts is read whole."""
        n = self.norm_words(tokens.to(self.kv.weight.dtype).transpose(1, 2)).transpose(1, 2)  # (B, L, D)
        k, v = self.kv(n).chunk(2, dim=2)  # 2 x (B, L, H d)
        return (Words(self.attend.key(k), self.attend.value(v), None if mask is None else counted(mask)),)

    def forward(self, x: Tensor, words: tuple[Words, ...] = ()) -> Tensor:
        """x: (B, C, *space). words: from `read`. Returns the shape of x."""
        (text,) = words
        k, v, mask = text.k.expand(len(x), -1, -1, -1), text.v.expand(len(x), -1, -1, -1), text.mask  # 2 x (B, H, L, d)
        q, *own = to_tokens(self.qkv(self.norm(x))).chunk(3 if self.itself else 1, dim=2)  # (B, N, H d) each
        if own:
            k, v = (
                torch.cat((k, self.attend.key(own[0])), dim=2),
                torch.cat((v, self.attend.value(own[1])), dim=2),
            )  # (B, H, L + N, d)
            mask = None if mask is None else F.pad(mask, (0, own[0].shape[1]), value=True)  # (B, 1, 1, L + N)
        return x + self.out(to_space(self.attend(self.attend.query(q), k, v, mask), x))  # (B, C, *space)


class TextPool(nn.Module):
    """Words become one vector: `norm(W pool(norm(c)))`, pool being attention in which their mean, at a learned place, asks them all.

    Radford et al. 2021 (CLIP), section 2.4, as DeepFloyd IF has it: the mean itself is among those that answer.
    """

    def __init__(self, context: int, width: int, heads: int) -> None:
        super().__init__()
        self.attend = Heads(heads, context // heads)
        self.norm1 = nn.LayerNorm(context)
        self.place = nn.Parameter(torch.randn(1, context) / context**0.5)
        self.q = nn.Linear(context, context)
        self.kv = nn.Linear(context, 2 * context)
        self.out = nn.Linear(context, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, L, D). Returns (B, width)."""
        c = self.norm1(tokens)  # (B, L, D)
        mean = c.mean(dim=1, keepdim=True) + self.place  # (B, 1, D)
        k, v = self.kv(torch.cat((mean, c), dim=1)).chunk(2, dim=2)  # 2 x (B, 1 + L, D)
        y = self.attend(self.attend.query(self.q(mean)), self.attend.key(k), self.attend.value(v))  # (B, 1, D)
        return self.norm2(self.out(y[:, 0]))  # (B, width)


def counted(mask: Tensor) -> Tensor:
    """mask: (B, L) bool, True where a token counts -> (B, 1, 1, L), all of it where none does: softmax over nothing would be NaN."""
    return (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]


class SpatialTransformer(Reader):
    """`x + out(blocks(in(norm(x))))`, the blocks being `TransformerBlock`s on places as tokens; see `TransformerSpec`."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        norm: nn.Module,
        depth: int = 1,
        context: int = 0,
        qk_norm: bool = False,
        places: bool = False,
        linear: bool = False,
        itself: bool = True,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.norm, self.linear = norm, linear
        project = nn.Linear if linear else Pointwise
        self.proj_in = project(width, inner)
        self.place = nn.Linear(inner, inner, bias=False) if places else None
        if self.place is not None:
            nn.init.zeros_(self.place.weight)
        self.blocks = nn.ModuleList(TransformerBlock(inner, heads, context, qk_norm, itself) for _ in range(depth))
        self.proj_out = project(inner, width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def read(self, tokens: Tensor, mask: Tensor | None) -> tuple[Words, ...]:
        """tokens: (B, L, D), mask: (B, L). The keys and values of all cross-attentions, in the order of the blocks."""
        crosses = (cross for block in self.blocks for cross in (block.first, block.cross))
        return tuple(cross.read(tokens, mask) for cross in crosses if isinstance(cross, CrossAttention))

    def forward(self, x: Tensor, words: tuple[Words, ...] = ()) -> Tensor:
        """x: (B, C, *space). words: from `read`, as many a block. Returns the same shape as x."""
        n = self.norm(x)  # (B, C, *space)
        y = self.proj_in(to_tokens(n)) if self.linear else to_tokens(self.proj_in(n))  # (B, N, H d)
        if self.place is not None:
            y = y + self.place(positions(x.shape[2:], y.shape[2], y))  # (B, N, H d)
        each = len(words) // len(self.blocks)
        for i, block in enumerate(self.blocks):
            y = block(y, words[i * each : (i + 1) * each])  # (B, N, H d)
        return x + (to_space(self.proj_out(y), x) if self.linear else self.proj_out(to_space(y, x)))  # (B, C, *space)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention, feed-forward, each residual. Rombach et al. 2022, appendix E.2.1.

    `itself` False: the first is a cross-attention as well, as in Stable Diffusion's upscaler.
    """

    def __init__(self, width: int, heads: int, context: int = 0, qk_norm: bool = False, itself: bool = True) -> None:
        super().__init__()
        if not itself and not context:
            raise SpecError("attention.itself: false needs a text to read; give the network a context")
        if itself:
            self.attend = Heads(heads, width // heads, qk_norm)
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width) if context else None
        if itself:
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.out = nn.Linear(width, width)
        self.first = None if itself else CrossAttention(width, heads, context, qk_norm)
        self.cross = CrossAttention(width, heads, context, qk_norm) if context else None
        self.feed = GEGLU(width)

    def forward(self, y: Tensor, words: tuple[Words, ...] = ()) -> Tensor:
        """y: (B, N, C). words: the text's keys and values, for each cross-attention. Returns (B, N, C)."""
        if self.first is not None:
            y = y + self.first(self.norm1(y), words[0])  # (B, N, C)
        else:
            q, k, v = self.qkv(self.norm1(y)).chunk(3, dim=2)  # 3 x (B, N, C)
            q, k, v = self.attend.query(q), self.attend.key(k), self.attend.value(v)  # 3 x (B, H, N, d)
            y = y + self.out(self.attend(q, k, v))  # (B, N, C)
        if self.cross is not None and self.norm2 is not None and words:
            y = y + self.cross(self.norm2(y), words[-1])  # (B, N, C)
        return y + self.feed(self.norm3(y))  # (B, N, C)


class CrossAttention(nn.Module):
    """`out(softmax(q(y) k(c)^T / sqrt(d)) v(c))`: places ask, words answer. Rombach et al. 2022, section 3.3."""

    def __init__(self, width: int, heads: int, context: int, qk_norm: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.attend = Heads(heads, width // heads, qk_norm)
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(context, 2 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def read(self, tokens: Tensor, mask: Tensor | None = None) -> Words:
        """tokens: (B, L, D). mask: (B, L) bool, True where a token counts. A text of which no token counts is read whole."""
        k, v = self.kv(tokens.to(self.kv.weight.dtype)).chunk(2, dim=2)  # 2 x (B, L, C)
        return Words(self.attend.key(k), self.attend.value(v), None if mask is None else counted(mask))  # (B, H, L, d)

    def forward(self, y: Tensor, words: Words) -> Tensor:
        """y: (B, N, C). Returns (B, N, C)."""
        q = self.attend.query(self.q(y))  # (B, H, N, d)
        seen = self.attend(q, words.k, words.v, words.mask)  # (B, N, C)
        for k, v, weight in words.also:
            seen = seen + weight * self.attend(q, k, v)  # (B, N, C)
        return self.out(seen)  # (B, N, C)

    def weights(self, y: Tensor, words: Words) -> Tensor:
        """y: (B, N, C). The softmax that `forward` multiplies v with, in float32: (B, H, N, L), 1 in all over L at every place."""
        q, k = self.attend.query(self.q(y)).float(), words.k.float()  # (B, H, N, d), (B or 1, H, L, d)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, N, L)
        return (scores if words.mask is None else scores.masked_fill(~words.mask, -torch.inf)).softmax(-1)


@contextlib.contextmanager
def tapped(network: nn.Module, hear: Callable[[str, Tensor], None]) -> Iterator[None]:
    """A region in which `hear(name, weights)` is told of every cross-attention that `network` makes, see `CrossAttention.weights`.

    name: of the module. What the network computes is the same to the last bit, as the weights are worked out beside it; where nobody
    taps there is nothing to pay.
    """

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, Words]], None]:
        def see(module: nn.Module, inputs: tuple[Tensor, Words]) -> None:
            assert isinstance(module, CrossAttention)
            hear(name, module.weights(*inputs))

        return see

    crosses = [(name, module) for name, module in network.named_modules() if isinstance(module, CrossAttention)]
    hooks = [module.register_forward_pre_hook(look(name)) for name, module in crosses]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class GEGLU(nn.Module):
    """`W3 (W1 y * gelu(W2 y))`, four times as wide inside. Shazeer 2020, eq. 6."""

    def __init__(self, width: int, mult: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * mult * width)
        self.down = nn.Linear(mult * width, width)

    def forward(self, y: Tensor) -> Tensor:
        """y: (B, N, C). Returns (B, N, C)."""
        value, gate = self.up(y).chunk(2, dim=2)  # 2 x (B, N, 4 C)
        return self.down(value * F.gelu(gate))  # (B, N, C)
