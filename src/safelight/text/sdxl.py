"""The language of Stable Diffusion XL: two CLIP encoders side by side, the pooled vector of the last, and what the picture is cut from.

Podell et al. 2023, "SDXL: improving latent diffusion models for high-resolution image synthesis", sections 2.1 and 2.2. Its refiner
reads the last encoder alone, and an aesthetic score in place of the target size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.cond import Cond, Framing
from safelight.text.base import TextEncoder, TextSpec
from safelight.text.clip import CLIPText, CLIPTextSpec
from safelight.text.prompt import Reading
from safelight.text.tokens import Tokenizer


class SDXLTextSpec(TextSpec, kind="sdxl"):
    """encoders: CLIP towers of one window length, their states laid side by side; the last gives the vector.

    zeros: the empty prompt is zeros throughout, as the base model's missing negative prompt is. scored: the numbers are those of the
    refiner, (height, width, top, left, score), and not (height, width, top, left, target height, target width). size: what they say where
    no framing is given.
    """

    encoders: tuple[CLIPTextSpec, ...] = Field((CLIPTextSpec.openai_l(), CLIPTextSpec.openclip_g()), min_length=1)
    zeros: bool = True
    scored: bool = False
    size: tuple[int, int] = (1024, 1024)

    @classmethod
    def of(
        cls, *encoders: CLIPTextSpec, zeros: bool = True, scored: bool = False, size: tuple[int, int] = (1024, 1024)
    ) -> Self:
        """Of encoders as their files describe them, read as SDXL does: before the last block, without the last norm."""
        read = tuple(one.model_copy(update={"raw": True, "skip": 1}) for one in encoders)
        return cls(encoders=read, zeros=zeros, scored=scored, size=size)

    @classmethod
    def base(cls) -> Self:
        """SDXL's base model: states 2048 wide, a vector of 1280 and 6 numbers."""
        return cls.of(CLIPTextSpec.openai_l(), CLIPTextSpec.openclip_g())

    @classmethod
    def refiner(cls) -> Self:
        """SDXL's refiner: states 1280 wide, a vector of 1280 and 5 numbers."""
        return cls.of(CLIPTextSpec.openclip_g(), zeros=False, scored=True)

    @model_validator(mode="after")
    def _alike(self) -> Self:
        for name in ("length", "masks"):
            if len({getattr(one, name) for one in self.encoders}) > 1:
                raise ValueError(f"encoders: their states lie side by side, so {name} must be the same in all")
        return self

    @property
    def length(self) -> int:
        """The places of a window."""
        return self.encoders[0].length

    @property
    def numbers(self) -> int:
        return 5 if self.scored else 6

    @property
    def gives(self) -> tuple[int, int]:
        return sum(one.width for one in self.encoders), self.encoders[-1].gives[1] + self.numbers

    def build(self) -> SDXLText:
        return SDXLText(self)


class SDXLText(TextEncoder):
    """Prompts -> Cond(tokens (B, k L, sum of the widths), vector (B, width of the last + numbers)); windows as in `CLIPText`."""

    def __init__(self, spec: SDXLTextSpec) -> None:
        super().__init__()
        self.spec = spec
        encoders = [one.build() for one in spec.encoders]
        self.encoders: Sequence[CLIPText] = nn.ModuleList(encoders)  # type: ignore[assignment]

    @property
    def tokenizer(self) -> Tokenizer:
        """The first encoder's."""
        return self.encoders[0].tokenizer

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, n k L) int64 on the CPU: the ids that each of the n encoders reads, behind one another."""
        rows = [one.tokenize(prompts) for one in self.encoders]
        most = max(row.shape[1] for row in rows)
        return torch.cat(
            [F.pad(row, (0, most - row.shape[1]), value=_pad(e)) for row, e in zip(rows, self.encoders, strict=True)], 1
        )

    def forward(self, tokens: Tensor, framing: Framing | None = None) -> Cond:
        """tokens: as `tokenize` gives them. Raises ValueError for a length that is none of its own."""
        n = len(self.encoders)
        if tokens.shape[1] % n:
            raise ValueError(f"{tokens.shape[1]} tokens are not those of {n} encoders: use this encoder's own tokenize")
        parts = tokens.chunk(n, 1)
        first = parts[0]
        begin, end = self.encoders[0].ends
        empty = (first[:, 1] == end) & ~(first[:, self.spec.length :] == begin).any(1)  # (B,)
        return self._joined([one(ids) for one, ids in zip(self.encoders, parts, strict=True)], empty, framing)

    @torch.no_grad()
    def states(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """(N, sum of the widths): of each prompt the mean state of its own tokens, as `CLIPText.states`."""
        return torch.cat([one.states(prompts, batch) for one in self.encoders], -1)

    def windows(self, prompts: Sequence[str], emphasis: str = "a1111") -> list[Reading]:
        """How each prompt will be read by the first encoder; the others cut it likewise. Raises as `read` does."""
        return self.encoders[0].windows(prompts, emphasis)

    def read(self, prompts: Sequence[str], emphasis: str = "none", framing: Framing | None = None) -> Cond:
        """Prompts -> Cond, with the weights of `CLIPText.read` on each encoder's own states."""
        conds = [one.read(prompts, emphasis) for one in self.encoders]
        tokens = conds[0].tokens
        assert tokens is not None  # a CLIP tower gives them
        empty = [not reading.tokens and len(reading.windows) == 1 for reading in self.windows(prompts, emphasis)]
        return self._joined(conds, torch.tensor(empty, device=tokens.device), framing)

    def _joined(self, conds: Sequence[Cond], empty: Tensor, framing: Framing | None) -> Cond:
        states = [c.tokens for c in conds if c.tokens is not None]  # (B, k L, W) each
        longest = max(range(len(states)), key=lambda i: states[i].shape[1])
        length = states[longest].shape[1]
        tokens = torch.cat([F.pad(s, (0, 0, 0, length - s.shape[1])) for s in states], -1)
        vector = conds[-1].vector
        assert vector is not None  # a CLIP tower gives one
        if self.spec.zeros:
            tokens = tokens.masked_fill(empty[:, None, None], 0.0)
            vector = vector.masked_fill(empty[:, None], 0.0)
        shown = (framing or Framing()).at(self.spec.size)
        assert shown.original is not None and shown.target is not None  # `at` fills them
        last = (shown.score,) if self.spec.scored else shown.target
        numbers = torch.tensor([*shown.original, *shown.crop, *last], device=vector.device, dtype=vector.dtype)
        return Cond(tokens, conds[longest].mask, torch.cat([vector, numbers.expand(len(vector), -1)], -1))


def _pad(encoder: CLIPText) -> int:
    return encoder.ends[1] if encoder.spec.pad is None else int(encoder.spec.pad)
