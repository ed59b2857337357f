"""Memory: what an objective remembers from one step to the next. It is part of a run's state: saved, and resumed exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from safelight.model import Model
    from safelight.train.objective import Draws


class Memory(Protocol):
    """It draws in its objective's place, and sees what came of it. Draws are a pure function of (seed, step) and of what it holds."""

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        """As `Objective.draw`."""
        ...

    def saw(self, draws: Draws, losses: Sequence[float]) -> None:
        """The losses of a step's pictures, before `draws.weight`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that it holds, by name."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave, bit for bit."""
        ...


class History:
    """The last losses at each of equal parts of the training times, and where they send the next pictures.

    Part i is drawn with p_i proportional to sqrt(mean of its last L^2) (Nichol and Dhariwal 2021, eq. 18), mixed with `floor` of the
    even distribution, so that none is forgotten; a loss there is divided by p_i times the number of parts, which keeps every mean.
    Until each part has `last` losses all are alike.
    """

    def __init__(self, parts: int, last: int, floor: float) -> None:
        self.losses = torch.zeros(parts, last, dtype=torch.float64)
        self.counts = torch.zeros(parts, dtype=torch.int64)
        self.floor = floor

    @property
    def full(self) -> bool:
        """Whether every part has all its losses."""
        return bool((self.counts >= self.losses.shape[1]).all())

    def shares(self) -> Tensor:
        """(parts,) the p_i, which sum to 1."""
        parts = len(self.counts)
        p = self.losses.square().mean(1).sqrt()
        if not self.full or not float(p.sum()) > 0:
            return torch.full((parts,), 1 / parts, dtype=torch.float64)
        return (1 - self.floor) * p / p.sum() + self.floor / parts

    def place(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Even v (B,) in [0, 1) -> u (B,), distributed by the shares and even within a part; its parts; the weights of its losses."""
        parts = len(self.counts)
        if not self.full:
            part = (v * parts).long().clamp(max=parts - 1)
            return v, part, torch.ones_like(v)
        p = self.shares()
        ends = p.cumsum(0)
        part = torch.searchsorted(ends, v, right=True).clamp(max=parts - 1)
        inside = ((v - (ends - p)[part]) / p[part]).clamp(1e-9, 1 - 1e-9)
        return (part + inside) / parts, part, 1 / (parts * p[part])

    def saw(self, part: Tensor, losses: Sequence[float]) -> None:
        """Put losses at their parts, each over the oldest there; what is not finite teaches nothing."""
        last = self.losses.shape[1]
        for i, loss in zip(part.tolist(), losses, strict=True):
            if math.isfinite(loss):
                self.losses[i, int(self.counts[i]) % last] = loss
                self.counts[i] += 1
