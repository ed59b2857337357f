"""Stream: pictures without an end, composed as they are asked for. Sample number k of a run is picture k, and no picture comes twice.

It stands where `Pictures` stands in a training run. An epoch is only a measure of length here; what is held out comes from a
source of its own, as a share of something endless is no set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from safelight.data.pictures import Pictures
from safelight.data.source import Skipped

Shape = tuple[int, int, int]


class Endless:
    """The order of a stream: as it comes, since it is drawn at random already. Batch b of size s is pictures s b .. s b + s - 1."""

    def batch(self, step: int, size: int) -> Tensor:
        """Picture numbers, int64 (size,), on the CPU."""
        return torch.arange(step * size, (step + 1) * size)


class Numbers(Sequence[str]):
    """The names of a stream's pictures: `name-0`, `name-1`, ..., made when asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 2**32

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return [f"{self.name}-{k}" for k in range(*i.indices(len(self)))]
        return f"{self.name}-{i}"


class Stream(ABC):
    """n: pictures that are counted as an epoch. ids: names. shape: (C, H, W). fingerprint: changes when the pictures do.

    quarantined and replaced are always empty: nothing is read that could be broken.
    """

    in_memory = True

    def __init__(self, name: str, n: int, shape: Shape, fingerprint: str) -> None:
        self.n, self.shape, self.fingerprint = n, shape, fingerprint
        self.ids = Numbers(name)
        self.quarantined: list[Skipped] = []
        self.replaced = 0

    @abstractmethod
    def batch(self, indices: Tensor) -> Tensor:
        """uint8 (B, C, H, W) on the device for picture numbers (B,)."""

    @abstractmethod
    def said(self, indices: Tensor) -> list[str]:
        """The captions of these pictures."""

    @abstractmethod
    def reader(self, text: Any) -> Callable[[Tensor], Tensor]:
        """Picture numbers (B,) -> the captions as `text` (a TextEncoder) tokenises them, (B, L), on the device."""

    @property
    @abstractmethod
    def words(self) -> list[str]:
        """Every word that its captions are made of: what a model trained on it has read."""

    @abstractmethod
    def first(self, count: int) -> Pictures:
        """The first `count` pictures as a set in memory: what a loss on trained pictures is measured on."""

    @abstractmethod
    def summary(self) -> str:
        """One line for the start of a run."""

    def order(self, seed: int) -> Endless:
        """In which order a run sees them; the stream's own seed decides what they are."""
        return Endless()

    def actual(self, indices: Tensor) -> Tensor:
        """The pictures that `batch(indices)` gives: these."""
        return indices

    def prefetch(self, indices: Tensor) -> None:  # noqa: B027 (there is nothing to decode ahead)
        """These pictures come next, which changes nothing here."""
