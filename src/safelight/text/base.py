"""TextEncoder: prompts -> Cond. A class label is a prompt too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from safelight.cond import Cond
from safelight.spec import Spec


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

    def read(self, prompts: Sequence[str], emphasis: str = "none") -> Cond:
        """Prompts -> Cond, on the encoder's device. emphasis: how brackets weigh words, for encoders whose words can be weighted."""
        device = next(self.parameters()).device
        cond: Cond = self(self.tokenize(prompts).to(device))
        return cond
