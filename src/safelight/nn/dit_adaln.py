"""DiT blocks whose norms are told what to do: adaLN and adaLN-Zero. Peebles and Xie 2023, section 3.2 and figure 3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.attention import CrossAttention, Words
from safelight.nn.dit import DiT, DiTBlock, DiTSpec, Halves
from safelight.nn.told import Told


class AdaLN(DiTBlock, kind="adaln"):
    """Scale and shift of both norms are a linear map of silu(time + class). It starts at zero: plain norms, without a condition.

    Text is read between the halves, without a norm, by a cross-attention that starts at zero (as in PixArt-alpha).
    """

    each: ClassVar[bool] = True

    def network(self, spec: DiTSpec) -> ModulatedDiT:
        """A `ModulatedDiT` without gates."""
        return ModulatedDiT(spec, gated=False)


class AdaLNZero(DiTBlock, kind="adaln-zero"):
    """As adaLN, and a gate on what each half adds, told in the same way. All start at zero: a fresh block is the identity."""

    each: ClassVar[bool] = True

    def network(self, spec: DiTSpec) -> ModulatedDiT:
        """A `ModulatedDiT` with gates."""
        return ModulatedDiT(spec, gated=True)


class ModulatedBlock(Halves):
    """`y + g1 look(mod1(y))`, `y + cross(y, text)` if there is text, `y + g2 feed(mod2(y))`; mod(y) = LayerNorm(y) (1 + scale) + shift.

    gated: whether there are g1 and g2. own: whether the block makes what it is told by a map of its own.
    """

    def __init__(self, spec: DiTSpec, gated: bool = True, own: bool = True) -> None:
        super().__init__(spec, (6 if gated else 4) * spec.width if own else 0)
        self.gated = gated
        self.eps = spec.eps
        self.cross = CrossAttention(spec.width, spec.heads, spec.width, spec.qk_norm, bias=True) if spec.context else None

    def forward(self, y: Tensor, told: Tensor, words: Words | None = None) -> Tensor:
        """y: (B, N, width). told: (B or 1, 6 or 4 width). words: the text's keys and values. Returns (B, N, width)."""
        if self.gated:
            shift1, scale1, gate1, shift2, scale2, gate2 = told[:, None].chunk(6, dim=2)  # 6 x (B or 1, 1, width)
            y = torch.addcmul(y, gate1, self.look(modulated(y, shift1, scale1, self.eps[0])))  # (B, N, width)
            y = self._read(y, words)  # (B, N, width)
            return torch.addcmul(y, gate2, self.feed(modulated(y, shift2, scale2, self.eps[1])))  # (B, N, width)
        shift1, scale1, shift2, scale2 = told[:, None].chunk(4, dim=2)  # 4 x (B or 1, 1, width)
        y = self._read(y + self.look(modulated(y, shift1, scale1, self.eps[0])), words)  # (B, N, width)
        return y + self.feed(modulated(y, shift2, scale2, self.eps[1]))  # (B, N, width)

    def _read(self, y: Tensor, words: Words | None) -> Tensor:
        return y if self.cross is None or words is None else y + self.cross(y, words)  # (B, N, width)


class ModulatedDiT(DiT):
    """A DiT of `ModulatedBlock`s, each told `W silu(time + vector)`, as is the last norm."""

    blocks: Sequence[ModulatedBlock]

    def __init__(self, spec: DiTSpec, gated: bool = True) -> None:
        super().__init__(spec, (ModulatedBlock(spec, gated) for _ in range(spec.depth)))
        self.tell_last = nn.Linear(spec.width, 2 * spec.width)
        self.start()

    def start(self) -> None:
        """As `DiT.start`; what the norms are told and what the text adds start at zero."""
        super().start()
        for told in (self.tell_last, *(block.tell for block in self.blocks)):
            nn.init.zeros_(told.weight)
        silence(self.blocks)

    def hear(self, time: Tensor, vector: Tensor | None) -> Told:
        """(n, 6 or 4 width) a block, and (n, 2 width) for the last norm, which hears what the first block does."""
        c = F.silu(time if vector is None else time + vector)  # (n, width), or a share a block
        shares = c.chunk(len(self.blocks), dim=1) if self.spec.each else (c,) * len(self.blocks)  # (n, width) each
        return (*(block.tell(share) for block, share in zip(self.blocks, shares, strict=True)), self.tell_last(shares[0]))

    def listen(self, text: Tensor, mask: Tensor | None) -> tuple[Words, ...]:
        """Keys and values for each block."""
        return tuple(block.cross.read(text, mask) for block in self.blocks if block.cross is not None)

    def through(self, y: Tensor, told: Told, words: tuple[Words, ...]) -> Tensor:
        """y: (B, N, width). Returns the same shape, after the last norm."""
        for block, t, w in zip(self.blocks, told[:-1], words or (None,) * len(self.blocks), strict=True):
            y = self.run(block, y, t, w)  # (B, N, width)
        shift, scale = told[-1][:, None].chunk(2, dim=2)  # 2 x (B or 1, 1, width)
        return modulated(y, shift, scale)  # (B, N, width)


def modulated(y: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """`LayerNorm(y) (1 + scale) + shift`. y: (B, N, C); shift, scale: (B or 1, 1, C)."""
    return torch.addcmul(shift, F.layer_norm(y, y.shape[-1:], eps=eps), 1 + scale)  # (B, N, C)


def silence(blocks: Iterable[ModulatedBlock]) -> None:
    """Let every cross-attention begin by adding nothing."""
    for block in blocks:
        if block.cross is not None:
            nn.init.zeros_(block.cross.out.weight)
