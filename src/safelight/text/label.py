"""Class labels: the smallest language, one word a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.spec import SpecError, nearest
from safelight.text.base import TextEncoder, TextSpec

_SHOWN = 30  # classes that a message names


class LabelSpec(TextSpec, kind="label"):
    """names: the classes, in order. width: of the embedding, Cond.vector (B, width).

    raw: Cond.vector is (B, 1), the class's number itself, for a network that holds the table (ADM). There is then no null label.
    """

    names: tuple[str, ...] = Field(min_length=1)
    width: int = Field(128, ge=1)
    raw: bool = False

    @field_validator("names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names or len(set(names)) != len(names):
            raise ValueError('names must be distinct and not "", which is the null label')
        return names

    @property
    def numbers(self) -> int:
        return 1 if self.raw else 0

    @property
    def gives(self) -> tuple[int, int]:
        return 0, 1 if self.raw else self.width

    def build(self) -> Label:
        return Label(self)


class Label(TextEncoder):
    """An embedding a class, and one more for the null label "".

    A prompt is a class's name, its number, or one of the names that stand in it between commas ("tench, Tinca tinca"), if that one is no
    other class's.
    """

    def __init__(self, spec: LabelSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.raw:  # nothing to learn, but a place to be at
            self.register_buffer("place", torch.empty(0), persistent=False)
        else:
            self.embedding = nn.Embedding(len(spec.names) + 1, spec.width)
        self._number = _numbers(spec.names)
        if not spec.raw:
            self._number[""] = len(spec.names)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, 1): the number of each class; len(names) for "". Raises SpecError for an unknown class, with the nearest name."""
        for prompt in prompts:
            if prompt not in self._number:
                names = self.spec.names
                some = ", ".join(names[:_SHOWN]) + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
                anything = "" if self.spec.raw else "; '' for any"
                raise SpecError(f"prompt: no class '{prompt}'{nearest(prompt, self._number)} (classes: {some}{anything})")
        return torch.tensor([[self._number[prompt]] for prompt in prompts], dtype=torch.int64)

    def forward(self, tokens: Tensor) -> Cond:
        """tokens: (B, 1) -> Cond.vector (B, width), or (B, 1) if raw."""
        return Cond(vector=tokens.float() if self.spec.raw else self.embedding(tokens[:, 0]))


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """Every way of naming a class: number, part of a name that is no other's, whole name; the later wins."""
    parts: dict[str, set[int]] = {}
    for i, name in enumerate(names):
        for part in name.split(",") if "," in name else ():
            parts.setdefault(part.strip(), set()).add(i)
    found = {str(i): i for i in range(len(names))}
    found |= {part: next(iter(which)) for part, which in parts.items() if part and len(which) == 1}
    return found | {name: i for i, name in enumerate(names)}
