"""TextEncoder: prompts -> Cond. A class label is a prompt too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.spec import Spec, SpecError


class TextSpec(Spec, family="text"):
    """The architecture of a text encoder, with its vocabulary."""

    @property
    def gives(self) -> tuple[int, int]:
        """The widths of Cond.tokens and of Cond.vector that the encoder makes, 0 for what it does not make."""
        raise NotImplementedError(type(self).__name__)

    def build(self) -> TextEncoder:
        """An encoder of this architecture with fresh weights."""
        raise NotImplementedError(type(self).__name__)


class TextEncoder(nn.Module):
    """Two stages, so that a data set's captions are tokenised once: words -> integers on the CPU -> Cond on the device."""

    spec: Any

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, L) int64 on the CPU. "" is the null prompt. Raises SpecError for what it cannot read."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Cond:
        """tokens: (B, L), on the encoder's device."""
        raise NotImplementedError

    @torch.no_grad()
    def vectors(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """(N, D): the vectors of many prompts, `batch` at a time; what `forward` makes of each, up to rounding.

        Raises SpecError for an encoder that makes none.
        """
        device = next(self.parameters()).device
        found = [self(self.tokenize(prompts[i : i + batch]).to(device)).vector for i in range(0, len(prompts), batch)]
        if any(vector is None for vector in found):
            raise SpecError(f"text '{self.spec.kind}' makes no vector, by which texts are compared")
        return torch.cat(found) if found else torch.empty(0, self.spec.gives[1], device=device)

    def read(self, prompts: Sequence[str], emphasis: str = "none") -> Cond:
        """Prompts -> Cond, on the encoder's device. emphasis: how brackets weigh words, for encoders whose words can be weighted."""
        device = next(self.parameters()).device
        cond: Cond = self(self.tokenize(prompts).to(device))
        return cond
