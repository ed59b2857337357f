"""CLIP's two towers, and the pair that puts texts and pictures into one space.

Radford et al. 2021, "Learning transferable visual models from natural language supervision", sections 2.3-2.5. The same modules
serve as the text encoders of Stable Diffusion (weights of transformers' `CLIPTextModel` fit name by name, see the map in
tests/nn/test_clip.py) and as small ones trained here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.attention import attend


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x): the approximation of GELU in OpenAI's CLIP (Hendrycks and Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v over `heads` heads, biases everywhere. x: (B, L, W); mask: (B, 1, 1 or L, L) bool or None."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))  # (B, h, L, d)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True) if causal else attend(q, k, v, mask)  # (B, h, L, d)
        return self.out(h.transpose(1, 2).flatten(2))  # (B, L, W)


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)), the MLP `inner` wide (default: four times)."""

    def __init__(self, width: int, heads: int, quick: bool, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or 4 * width
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.act, self.fc2 = (
            nn.Linear(width, inner),
            QuickGELU() if quick else nn.GELU(),
            nn.Linear(inner, width),
        )

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        x = x + self.attention(self.norm1(x), mask, causal)
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))  # (B, L, W)


def initialise(blocks: Sequence[Block], width: int) -> None:
    """The published initialisation (CLIP's section 2.4 after GPT-2): normal, residual outputs smaller by sqrt(2 layers)."""
    attention, residual, mlp = width**-0.5, width**-0.5 * (2 * max(1, len(blocks))) ** -0.5, (2 * width) ** -0.5
    for block in blocks:
        for layer, std in (
            (block.attention.q, attention),
            (block.attention.k, attention),
            (block.attention.v, attention),
            (block.attention.out, residual),
            (block.fc1, mlp),
            (block.fc2, residual),
        ):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


class TextTower(nn.Module):
    """Ids (B, L) -> the states of every token (B, L, width) and that of the closing one (B, width), after the last norm.

    vocabulary: how many ids. length: positions there are, L <= length. end: the id that closes a text; its first occurrence
    is where the pooled state is read. quick: QuickGELU. causal: a token sees itself and those before (as published); otherwise
    every token sees the whole text up to `end`, and the states behind it mean nothing. inner: width within a block's MLP.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        length: int,
        end: int,
        quick: bool = False,
        causal: bool = True,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        self.length, self.end, self.causal = length, end, causal
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(length, width))
        blocks = [Block(width, heads, quick, inner) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)
        initialise(blocks, width)

    def forward(self, ids: Tensor, skip: int = 0, hidden: Tensor | None = None, *, raw: bool = False) -> tuple[Tensor, Tensor]:
        """skip: leave out the last blocks ("clip skip" minus one); the last norm applies all the same.

        raw: the states are those before the blocks left out and without the last norm, the pooled one is read behind all blocks and
        the norm (SDXL's way; Podell et al. 2023, section 2.1).
        hidden: (B, L) bool, True for tokens that no token may look at, itself included. Raises ValueError when L exceeds the window.
        """
        if ids.shape[1] > self.length:
            raise ValueError(
                f"{ids.shape[1]} tokens do not fit a window of {self.length}: tokenize in windows of {self.length}"
            )
        close = (ids == self.end).int().argmax(-1)  # (B,) the first `end`
        place = torch.arange(ids.shape[1], device=ids.device)
        mask = None if self.causal else (place <= close[:, None])[:, None, None]  # (B, 1, 1, L)
        if hidden is not None:
            seen = place <= place[:, None] if mask is None else mask  # (L, L) or (B, 1, 1, L)
            mask = seen & ~hidden[:, None, None]  # (B, 1, L or 1, L)
        h = self.token(ids) + self.position[: ids.shape[1]]  # (B, L, W)
        kept = len(self.blocks) - skip
        for block in self.blocks[:kept]:
            h = block(h, mask, self.causal and hidden is None)  # (B, L, W)
        states = h if raw else self.norm(h)
        last = states
        if raw:
            for block in self.blocks[kept:]:
                h = block(h, mask, self.causal and hidden is None)
            last = self.norm(h)
        return states, last[torch.arange(len(h), device=h.device), close]  # (B, L, W), (B, W)


def stem(channels: int, patch: int, width: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, width, H / patch, W / patch) by 3x3 convolutions of stride 2 and a last one of 1x1.

    Xiao et al. 2021, "Early convolutions help transformers see better", section 4, with group norm in place of batch norm.
    """
    halvings = patch.bit_length() - 1
    if patch != 2**halvings or not halvings or width % 2**halvings:
        raise ValueError(f"convolutions halve a picture: a patch of {patch} is no power of two that divides a width of {width}")
    layers: list[nn.Module] = []
    for i in range(halvings):
        out = width >> (halvings - 1 - i)
        layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, out), nn.GELU()]
        channels = out
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


class ImageTower(nn.Module):
    """Pictures (B, channels, size, size) -> states of class token and patches (B, 1 + n, width), and the pooled one (B, width).

    A vision transformer (Dosovitskiy et al. 2021) with CLIP's extra norm before the blocks; the pooled state is the class
    token's after the last norm. early: patches are made by convolutions, see `stem`, instead of one linear map. inner: width within a
    block's MLP (default: four times).
    """

    def __init__(
        self,
        channels: int,
        size: int,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        quick: bool = False,
        early: bool = False,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"patches of {patch} do not divide a picture of {size}")
        self.size = size
        self.patches = stem(channels, patch, width) if early else nn.Conv2d(channels, width, patch, stride=patch, bias=False)
        self.first = nn.Parameter(torch.empty(width))
        self.position = nn.Parameter(torch.empty((size // patch) ** 2 + 1, width))
        self.before = nn.LayerNorm(width)
        blocks = [Block(width, heads, quick, inner) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.first, std=width**-0.5)
        nn.init.normal_(self.position, std=width**-0.5)
        initialise(blocks, width)

    def embed(self, x: Tensor) -> Tensor:
        """The input of the blocks: (B, 1 + n, width)."""
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(f"a picture of {x.shape[-2]}x{x.shape[-1]} where {self.size}x{self.size} is expected: resize it")
        h = self.patches(x).flatten(2).transpose(1, 2)  # (B, n, W)
        first = self.first.to(h.dtype).expand(len(h), 1, -1)  # (B, 1, W)
        return self.before(torch.cat([first, h], 1) + self.position)  # (B, 1 + n, W)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)  # (B, 1 + n, W)
        return h, self.norm(h[:, 0])  # (B, 1 + n, W), (B, W)

    def features(self, x: Tensor) -> list[Tensor]:
        """The state after every block, each (B, 1 + n, width): the layers of a perceptual distance."""
        h, out = self.embed(x), []
        for block in self.blocks:
            h = block(h)
            out.append(h)
        return out


class Similarity(NamedTuple):
    """logits: (B, N) scaled similarities of B things to N others. probability: (B, N) their softmax over the N."""

    logits: Tensor
    probability: Tensor


class Pair(nn.Module):
    """The picture tower and the linear maps that put pooled texts (B, words) and pictures on one sphere of `space` dimensions.

    s(x, y) = exp(scale) <picture(x), text(y)>; `scale` is the logarithm of the inverse temperature, learned, begun at
    ln(1 / 0.07), kept at or below ln 100 (section 2.5).
    """

    def __init__(self, words: int, image: ImageTower, space: int) -> None:
        super().__init__()
        self.image = image
        self.text_out = nn.Linear(words, space, bias=False)
        self.image_out = nn.Linear(image.first.shape[0], space, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for layer in (self.text_out, self.image_out):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def embed_text(self, pooled: Tensor) -> Tensor:
        """pooled: (B, words), a text tower's -> (B, space) of length 1, float32."""
        return F.normalize(self.text_out(pooled).float(), dim=-1)

    def embed_image(self, x: Tensor) -> Tensor:
        """x: (B, C, size, size) in [-1, 1] -> (B, space) of length 1, float32."""
        return F.normalize(self.image_out(self.image(x)[1]).float(), dim=-1)

    def compare(self, images: Tensor, texts: Tensor) -> Similarity:
        """images: (B, space), texts: (N, space), both embedded. Zero-shot classification is this with a text per class."""
        # Under autocast this product would be rounded to 1/256, which the temperature makes a third of a logit.
        with torch.autocast(images.device.type, enabled=False):
            logits = self.scale.clamp(max=math.log(100.0)).exp() * images @ texts.T  # (B, N)
        return Similarity(logits, logits.softmax(-1))

    def contrast(self, images: Tensor, texts: Tensor, same: Tensor | None = None) -> Tensor:
        """The symmetric cross-entropy of a batch of pairs, one value a pair (B,); its mean is CLIP's loss (figure 3 there).

        same: (B, B) bool, True where picture i and text j belong together although i != j, because two captions of the batch
        are equal; the target is then shared evenly (without this, chance repeats among few captions are trained apart).
        """
        logits = self.compare(images, texts).logits  # (B, B)
        eye = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        target = (eye if same is None else same | eye).to(logits.dtype)
        rows = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)  # (B,)
        columns = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0)  # (B,)
        return (rows + columns) / 2
