"""TextEncoder: prompts -> Cond. A class label is a prompt too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from safelight.cond import Cond, Framing
from safelight.spec import Spec, SpecError


class TextSpec(Spec, family="text"):
    """The architecture of a text encoder, with its vocabulary."""

    @property
    def gives(self) -> tuple[int, int]:
        """The widths of Cond.tokens and of Cond.vector that the encoder makes, 0 for what it does not make."""
        raise NotImplementedError(type(self).__name__)

    @property
    def numbers(self) -> int:
        """How many raw numbers (of a `Framing`, of a class) stand at the end of Cond.vector, which are no embedding."""
        return 0

    def build(self) -> TextEncoder:
        """An encoder of this architecture with fresh weights."""
        raise NotImplementedError(type(self).__name__)


class TextEncoder(nn.Module):
    """Two stages, so that a data set's captions are tokenised once: words -> integers on the CPU -> Cond on the device."""

    spec: Any

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(chain(self.parameters(), self.buffers())).device

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, L) int64 on the CPU. "" is the null prompt. Raises SpecError for what it cannot read."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Cond:
        """tokens: (B, L), on the encoder's device."""
        raise NotImplementedError

    @torch.no_grad()
    def vectors(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """(N, D): the vectors of many prompts, `batch` at a time; what `forward` makes of each, up to rounding, without its numbers.

        Raises SpecError for an encoder that makes none.
        """
        device = self.device
        width = self.spec.gives[1] - self.spec.numbers
        if not width:
            raise SpecError(f"text '{self.spec.kind}' makes no vector, by which texts are compared")
        found = [self(self.tokenize(prompts[i : i + batch]).to(device)).vector for i in range(0, len(prompts), batch)]
        return torch.cat(found)[:, :width] if found else torch.empty(0, width, device=device)

    def read(self, prompts: Sequence[str], emphasis: str = "none", framing: Framing | None = None) -> Cond:
        """Prompts -> Cond, on the encoder's device.

        emphasis: how brackets weigh words, for encoders whose words can be weighted. framing: for encoders that tell it (None: their own).
        """
        cond: Cond = self(self.tokenize(prompts).to(self.device))
        return cond
