"""T5's encoder as the language of a diffusion model: PixArt's and DeepFloyd IF's. It was never trained on pictures, and reads sentences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.cond import Cond, Framing
from safelight.nn.t5 import T5Tower
from safelight.spec import SpecError
from safelight.text.base import TextEncoder, TextSpec
from safelight.text.pieces import unigram
from safelight.text.vocabulary import Carried, unpack


class T5TextSpec(TextSpec, kind="t5"):
    """The tower of nn/t5.py over a vocabulary of pieces of words.

    length: places of a prompt, what is shorter is filled up with `pad` (PixArt: 120, IF: 77); what is longer is read whole. masks:
    Cond.mask ends behind the text (PixArt), or the network looks at what fills the places too (IF); the tower itself never does.
    lower: prompts are read in lower case without white space around them, as both pipelines give them. framed: Cond.vector is (height,
    width, height / width) of the picture, raw (PixArt at 1024 pixels; Chen et al. 2023, "PixArt-alpha", appendix A.2).
    """

    vocabulary: Carried = Carried(size=32_128, begin=0, end=1)
    width: int = Field(512, ge=1)
    layers: int = Field(8, ge=1)
    heads: int = Field(6, ge=1)
    head_width: int = Field(64, ge=1)
    inner: int = Field(1024, ge=1)
    gated: bool = True
    buckets: int = Field(32, ge=4)
    far: int = Field(128, ge=2)
    length: int = Field(120, ge=1)
    pad: int = Field(0, ge=0)
    masks: bool = True
    lower: bool = True
    framed: bool = False
    size: tuple[int, int] = (1024, 1024)

    @classmethod
    def small(cls) -> Self:
        """T5 v1.1 small: 35,332,800 parameters in its encoder."""
        return cls()

    @classmethod
    def base(cls) -> Self:
        """T5 v1.1 base: 109,628,544 parameters in its encoder."""
        return cls(width=768, layers=12, heads=12, inner=2048)

    @classmethod
    def large(cls) -> Self:
        """T5 v1.1 large: 341,231,104 parameters in its encoder."""
        return cls(width=1024, layers=24, heads=16, inner=2816)

    @classmethod
    def xl(cls) -> Self:
        """T5 v1.1 XL: 1,223,527,424 parameters in its encoder."""
        return cls(width=2048, layers=24, heads=32, inner=5120)

    @classmethod
    def xxl(cls) -> Self:
        """T5 v1.1 XXL, the language of PixArt and DeepFloyd IF: 4,762,310,656 parameters in its encoder."""
        return cls(width=4096, layers=24, heads=64, inner=10_240)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.buckets % 4 or self.far <= self.buckets // 4:
            raise ValueError(
                f"buckets: a multiple of 4, and far more than a quarter of them, not {self.buckets} and {self.far}"
            )
        if self.pad >= self.vocabulary.size:
            raise ValueError(f"pad {self.pad} lies beyond a vocabulary of {self.vocabulary.size}")
        return self

    @property
    def numbers(self) -> int:
        return 3 if self.framed else 0

    @property
    def gives(self) -> tuple[int, int]:
        return self.width, self.numbers

    def build(self) -> T5Text:
        return T5Text(self)


class T5Text(TextEncoder):
    """Prompts -> Cond(tokens (B, L, W), mask (B, L) or None, vector (B, 3) or None), L the longest prompt's, at least `length`.

    Words are not weighted: brackets are read as they stand, as in the published pipelines.
    """

    def __init__(self, spec: T5TextSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.vocabulary.packed:
            self.register_buffer("vocabulary", spec.vocabulary.empty())
        self.tower = T5Tower(
            spec.vocabulary.size,
            spec.width,
            spec.layers,
            spec.heads,
            spec.head_width,
            spec.inner,
            spec.gated,
            spec.buckets,
            spec.far,
        )

    @cached_property
    def pieces(self) -> Any:
        """The `tokenizers.Tokenizer` of its vocabulary. Raises SpecError for a model that came without."""
        return unigram(unpack(getattr(self, "vocabulary", None)))

    def ids(self, prompt: str) -> list[int]:
        """The ids of a prompt, without `end`. Raises SpecError for half of a character, which is no text."""
        if any("\ud800" <= c <= "\udfff" for c in prompt):
            raise SpecError("prompt: it holds half of a character (a lone surrogate), which is no text: write it in UTF-8")
        text = prompt.lower().strip() if self.spec.lower else prompt
        found: list[int] = self.pieces.encode(text, add_special_tokens=False).ids
        return found

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, L) int64 on the CPU: each prompt, `end`, and `pad` to the length of the longest, at least the spec's."""
        rows = [[*self.ids(prompt), self.spec.vocabulary.end] for prompt in prompts]
        length = max((self.spec.length, *map(len, rows)))
        return torch.tensor([[*row, *[self.spec.pad] * (length - len(row))] for row in rows], dtype=torch.int64).view(
            -1, length
        )

    def forward(self, tokens: Tensor, framing: Framing | None = None) -> Cond:
        """tokens: (B, L), each row closed by `end`; what follows its last is no text."""
        said = (tokens == self.spec.vocabulary.end).flip(1).cumsum(1).flip(1) > 0  # (B, L)
        states = self.tower(tokens, said)
        vector = None
        if self.spec.framed:
            height, width = (framing or Framing()).at(self.spec.size).target or self.spec.size
            vector = torch.tensor([[height, width, height / width]], device=states.device, dtype=states.dtype).expand(
                len(states), -1
            )
        return Cond(states, said if self.spec.masks else None, vector)

    def read(self, prompts: Sequence[str], emphasis: str = "none", framing: Framing | None = None) -> Cond:
        """Prompts -> Cond; a prompt's is the same alone and in a batch."""
        known: dict[str, Cond] = {}
        for prompt in prompts:
            if prompt not in known:
                known[prompt] = self(self.tokenize([prompt]).to(self.tower.token.weight.device), framing)
        return Cond.cat([known[prompt] for prompt in prompts])
