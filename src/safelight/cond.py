"""Cond: what a denoiser is told beside the noisy picture. Typed, so that a network asks for what it uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from safelight.spec import Spec


class Framing(Spec):
    """What a picture is said to be cut from, told to networks that were trained with it. Podell et al. 2023, "SDXL", section 2.2.

    original: (height, width) in pixels before it was scaled and cut. crop: (top, left) of the cut, in pixels: (0, 0) is a picture that
    nothing was cut from. target: (height, width) after. None: the size that is asked for. score: how good it looks, 1 to 10 (SDXL's
    refiner), of what is wanted; low: of what the negative prompt is told.
    """

    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] | None = None
    score: float = Field(6.0, ge=0, le=10)
    low: float = Field(2.5, ge=0, le=10)

    def at(self, size: tuple[int, int]) -> Framing:
        """With `size` for what is left open."""
        return self.model_copy(update={"original": self.original or size, "target": self.target or size})

    @property
    def away(self) -> Framing:
        """What the negative prompt is told."""
        return self.model_copy(update={"score": self.low})


class Cond(NamedTuple):
    """The conditioning of a batch. Every field is optional; those present share the batch size B.

    tokens: (B, L, D) embedded words, for cross-attention. mask: (B, L) bool, True where a token counts.
    vector: (B, D) one embedding a picture: a class, pooled text, and behind it the raw numbers of a `Framing`. image: (B, C, *space) a map,
    concatenated to x.
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    image: Tensor | None = None

    @property
    def batch(self) -> int:
        """B, or 0 when nothing is given."""
        return next((len(field) for field in self if field is not None), 0)

    def to(self, like: Tensor) -> Cond:
        """On the device of `like`; floating fields in its dtype too (the mask keeps bool)."""
        return Cond(
            *(
                None if f is None else f.to(like.device, like.dtype if f.is_floating_point() else None, non_blocking=True)
                for f in self
            )
        )

    def take(self, index: Tensor | slice) -> Cond:
        """The rows of the batch named by `index` (a slice, or a LongTensor)."""
        return Cond(*(None if f is None else f[index] for f in self))

    def drop(self, mask: Tensor, null: Cond) -> Cond:
        """Rows where `mask` (B,) is True are replaced by those of `null` (batch 1 or B): dropout for guidance.

        Ho and Salimans 2022, "Classifier-free diffusion guidance", Algorithm 1. Raises ValueError when the two differ in their fields.
        """
        fields: list[Tensor | None] = []
        for name, mine, other in zip(self._fields, self, null, strict=True):
            if (mine is None) != (other is None):
                raise ValueError(f"the null condition {'lacks' if other is None else 'adds'} '{name}'")
            if mine is None or other is None:
                fields.append(None)
            else:
                fields.append(torch.where(mask.view(-1, *(1,) * (mine.ndim - 1)), other, mine))
        return Cond(*fields)

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """One batch from several. Tokens of unequal length are padded with zeros and masked out.

        Raises ValueError when a field is present in some and absent in others.
        """
        fields: list[Tensor | None] = []
        length = max((c.tokens.shape[1] for c in conds if c.tokens is not None), default=0)
        ragged = any(c.tokens is not None and c.tokens.shape[1] != length for c in conds)
        padded = [c._pad(length) if ragged else c for c in conds]
        if any(c.mask is not None for c in padded):
            padded = [
                c
                if c.mask is not None or c.tokens is None
                else c._replace(mask=torch.ones(c.tokens.shape[:2], dtype=torch.bool, device=c.tokens.device))
                for c in padded
            ]
        for name, column in zip(Cond._fields, zip(*padded, strict=True), strict=True):
            present = [f for f in column if f is not None]
            if present and len(present) != len(padded):
                raise ValueError(f"'{name}' is given for {len(present)} of {len(padded)} conditions")
            fields.append(torch.cat(present) if present else None)
        return Cond(*fields)

    def _pad(self, length: int) -> Cond:
        if self.tokens is None:
            return self
        b, n, _ = self.tokens.shape
        mask = self.mask if self.mask is not None else self.tokens.new_ones((b, n), dtype=torch.bool)
        pad = length - n
        return self._replace(
            tokens=torch.nn.functional.pad(self.tokens, (0, 0, 0, pad)),
            mask=torch.nn.functional.pad(mask, (0, pad), value=False),
        )
