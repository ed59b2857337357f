"""DiT blocks that meet noise level and class as tokens: in the sequence, or beside it. Peebles and Xie 2023, section 3.2, figure 3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.attention import CrossAttention, Words
from safelight.nn.dit import DiT, DiTBlock, DiTSpec, Halves
from safelight.nn.told import Told


class InContext(DiTBlock, kind="in-context"):
    """Time and class are two more tokens of the sequence, appended before the first block and removed after the last.

    So are the tokens of a text (Bao et al. 2023, "All are worth words", section 3). The blocks are those of a plain transformer.
    """

    def network(self, spec: DiTSpec) -> InContextDiT:
        """An `InContextDiT`."""
        return InContextDiT(spec)


class CrossAttending(DiTBlock, kind="cross-attention"):
    """Time and class are a sequence of two, which the picture reads by cross-attention after its self-attention.

    The tokens of a text join that sequence.
    """

    def network(self, spec: DiTSpec) -> CrossDiT:
        """A `CrossDiT`."""
        return CrossDiT(spec)


class PlainBlock(Halves):
    """`y + look(LN(y))`, then `y + feed(LN(y))`, the norms with gain and bias. Dosovitskiy et al. 2021, eq. 2-3."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(spec)
        self.norm1, self.norm2 = nn.LayerNorm(spec.width, eps=1e-6), nn.LayerNorm(spec.width, eps=1e-6)

    def forward(self, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """y: (B, N, width). mask: (B or 1, 1, 1, N), True where a token is seen. Returns (B, N, width)."""
        y = y + self.look(self.norm1(y), mask)  # (B, N, width)
        return y + self.feed(self.norm2(y))  # (B, N, width)


class CrossBlock(Halves):
    """`y + look(LN(y))`, `y + cross(LN(y), words)`, `y + feed(LN(y))`. Vaswani et al. 2017, figure 1, right, with norms in front."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(spec)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(spec.width, eps=1e-6) for _ in range(3))
        self.cross = CrossAttention(spec.width, spec.heads, spec.width, spec.qk_norm, bias=True)

    def forward(self, y: Tensor, words: Words) -> Tensor:
        """y: (B, N, width). words: keys and values of time, class and text. Returns (B, N, width)."""
        y = y + self.look(self.norm1(y))  # (B, N, width)
        y = y + self.cross(self.norm2(y), words)  # (B, N, width)
        return y + self.feed(self.norm3(y))  # (B, N, width)


class TokenDiT(DiT):
    """What the two have in common: time and vector as a short sequence, and a last norm that is told nothing."""

    def __init__(self, spec: DiTSpec, blocks: Iterable[nn.Module]) -> None:
        super().__init__(spec, blocks)
        self.norm_last = nn.LayerNorm(spec.width, eps=1e-6)
        self.start()


class Text(NamedTuple):
    """A text as tokens of the picture's sequence: tokens (B, L, width); mask (B, L) bool or None."""

    tokens: Tensor
    mask: Tensor | None


class InContextDiT(TokenDiT):
    """A DiT of `PlainBlock`s on the sequence (patches, time, vector, text)."""

    blocks: Sequence[PlainBlock]

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(spec, (PlainBlock(spec) for _ in range(spec.depth)))

    def hear(self, time: Tensor, vector: Tensor | None) -> Told:
        """(n, 1 or 2, width): the tokens, which no block changes on the way in."""
        return (_sequence(time, vector),)

    def listen(self, text: Tensor, mask: Tensor | None) -> tuple[Text, ...]:
        """The text as it joins the sequence."""
        return (Text(text, mask),)

    def through(self, y: Tensor, told: Told, words: tuple[Text, ...]) -> Tensor:
        """y: (B, N, width). Returns the same shape, after the last norm."""
        b, n, _ = y.shape
        parts = [y, *told, *(text.tokens for text in words)]
        y = torch.cat([part.expand(b, -1, -1) for part in parts], dim=1)  # (B, N + 1 or 2 + L, width)
        mask = words[0].mask if words else None
        if mask is not None:  # what stands before the text is always seen
            mask = F.pad(mask, (y.shape[1] - mask.shape[1], 0), value=True)[:, None, None]  # (B or 1, 1, 1, N + 1 or 2 + L)
        for block in self.blocks:
            y = self.run(block, y, mask)  # (B, N + 1 or 2 + L, width)
        return self.norm_last(y[:, :n])  # (B, N, width)


class CrossDiT(TokenDiT):
    """A DiT of `CrossBlock`s, which read the sequence (time, vector, text)."""

    blocks: Sequence[CrossBlock]

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(spec, (CrossBlock(spec) for _ in range(spec.depth)))

    def hear(self, time: Tensor, vector: Tensor | None) -> Told:
        """Two a block, (n, heads, 1 or 2, head width) each: keys and values."""
        sequence = _sequence(time, vector)  # (n, 1 or 2, width)
        return tuple(part for block in self.blocks for part in block.cross.read(sequence)[:2])

    def listen(self, text: Tensor, mask: Tensor | None) -> tuple[Words, ...]:
        """Keys and values for each block."""
        shaped = None if mask is None else mask[:, None, None]  # (B, 1, 1, L)
        return tuple(block.cross.read(text)._replace(mask=shaped) for block in self.blocks)

    def through(self, y: Tensor, told: Told, words: tuple[Words, ...]) -> Tensor:
        """y: (B, N, width). Returns the same shape, after the last norm."""
        own = (Words(k, v) for k, v in zip(told[::2], told[1::2], strict=True))
        for block, o, w in zip(self.blocks, own, words or (None,) * len(self.blocks), strict=True):
            y = self.run(block, y, o if w is None else _joined(o, w))  # (B, N, width)
        return self.norm_last(y)  # (B, N, width)


def _sequence(time: Tensor, vector: Tensor | None) -> Tensor:
    """(n, width) each -> (n, 1 or 2, width)."""
    return torch.stack((time,) if vector is None else (time, vector), dim=1)


def _joined(first: Words, second: Words) -> Words:
    """Two sequences as one, each of batch B or 1; of the first every token counts."""
    b, n = max(len(first.k), len(second.k)), first.k.shape[2]
    k, v = (torch.cat([t.expand(b, -1, -1, -1) for t in pair], dim=2) for pair in zip(first[:2], second[:2], strict=True))
    return Words(k, v, None if second.mask is None else F.pad(second.mask, (n, 0), value=True))
