"""DiT blocks told by one map for all: adaLN-single of PixArt-alpha. Chen et al. 2023, arXiv 2310.00426, section 2.3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.dit import DiT, DiTBlock, DiTSpec
from safelight.nn.dit_adaln import ModulatedBlock, ModulatedDiT, silence
from safelight.nn.told import Told


class AdaLNSingle(DiTBlock, kind="adaln-single"):
    """adaLN-Zero with one linear map of silu(time) for the whole network, and a learned table of 6 width numbers a block added to it.

    A vector (a pooled text, a size) is added to the time. Text is read between the halves by a cross-attention that starts at zero.
    """

    def network(self, spec: DiTSpec) -> SingleDiT:
        """A `SingleDiT`."""
        return SingleDiT(spec)


class SingleBlock(ModulatedBlock):
    """A gated `ModulatedBlock` told `table + c`, c being the same for all blocks."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(spec, own=False)
        self.table = nn.Parameter(torch.randn(6, spec.width) * spec.width**-0.5)


class SingleDiT(ModulatedDiT):
    """A DiT of `SingleBlock`s; the last norm is told `table_last + time + vector`, without a map."""

    blocks: Sequence[SingleBlock]

    def __init__(self, spec: DiTSpec) -> None:
        DiT.__init__(self, spec, (SingleBlock(spec) for _ in range(spec.depth)))
        self.tell_all = nn.Linear(spec.width, 6 * spec.width)
        self.table_last = nn.Parameter(torch.randn(2, spec.width) * spec.width**-0.5)
        self.start()

    def start(self) -> None:
        """As `DiT.start`; N(0, 0.02^2) for the one map, and what the text adds starts at zero (the authors' code)."""
        DiT.start(self)
        nn.init.normal_(self.tell_all.weight, std=0.02)
        silence(self.blocks)

    def hear(self, time: Tensor, vector: Tensor | None) -> Told:
        """(n, 6 width) a block, and (n, 2 width) for the last norm."""
        e = time if vector is None else time + vector  # (n, width)
        c = self.tell_all(F.silu(e))  # (n, 6 width)
        last = (self.table_last + e[:, None]).flatten(1)  # (n, 2 width)
        return (*(block.table.flatten() + c for block in self.blocks), last)
