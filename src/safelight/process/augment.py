"""Noise on the picture that a super-resolution network enlarges, so that it forgives what the model before it got wrong."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.process.base import Process
from safelight.process.level import Level
from safelight.spec import Spec, SpecError


class Augment(Spec):
    """Noise-conditioning augmentation: the network sees c_s = alpha_s c + sigma_s n of the low-resolution picture c, and is told s.

    Ho et al. 2022, "Cascaded diffusion models for high fidelity image generation", section 4.2. It is told s as the last number
    of Cond.vector. process: a table, whose entries s are. level: the entry where a request names none.
    """

    process: Process
    level: int = Field(20, ge=0)

    @model_validator(mode="after")
    def _tabled(self) -> Augment:
        self.at(self.level)
        return self

    def at(self, s: int) -> Level:
        """The level of entry s. Raises SpecError for a process without a table or an entry beyond it."""
        entries = self.process.entries
        if not entries:
            raise SpecError(f"augment: process '{self.process.kind}' has no table of levels to be told by number")
        if not 0 <= s < entries:
            raise SpecError(f"augment: level {s} is not in the table's 0..{entries - 1}")
        return self.process.at(torch.tensor((s + 1) / entries, dtype=torch.float64))

    def noised(self, c: Tensor, n: Tensor, s: int) -> Tensor:
        """alpha_s c + sigma_s n, of their shape."""
        alpha, sigma, _ = self.at(s).floats
        return alpha * c + sigma * n
