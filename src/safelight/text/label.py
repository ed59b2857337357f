"""Class labels: the smallest language, one word a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.spec import SpecError, nearest
from safelight.text.base import TextEncoder, TextSpec


class LabelSpec(TextSpec, kind="label"):
    """names: the classes, in order. width: of the embedding, Cond.vector (B, width)."""

    names: tuple[str, ...] = Field(min_length=1)
    width: int = Field(128, ge=1)

    @field_validator("names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names or len(set(names)) != len(names):
            raise ValueError('names must be distinct and not "", which is the null label')
        return names

    @property
    def gives(self) -> tuple[int, int]:
        return 0, self.width

    def build(self) -> Label:
        return Label(self)


class Label(TextEncoder):
    """An embedding a class, and one more for the null label ""."""

    def __init__(self, spec: LabelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(len(spec.names) + 1, spec.width)
        self._number = {name: i for i, name in enumerate(spec.names)} | {"": len(spec.names)}

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, 1): the number of each class; len(names) for "". Raises SpecError for an unknown class, with the nearest name."""
        for prompt in prompts:
            if prompt not in self._number:
                names = self.spec.names
                raise SpecError(
                    f"prompt: no class '{prompt}'{nearest(prompt, names)} (classes: {', '.join(names)}; '' for any)"
                )
        return torch.tensor([[self._number[prompt]] for prompt in prompts], dtype=torch.int64)

    def forward(self, tokens: Tensor) -> Cond:
        return Cond(vector=self.embedding(tokens[:, 0]))  # (B, 1) -> (B, width)
