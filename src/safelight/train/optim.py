"""Optimizers and learning rates. A learning rate is a pure function of the optimizer step: nothing to save, nothing to drift."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import nn

from safelight.spec import Spec

Groups = list[dict[str, Any]]


class Optimizer(Spec, family="optimizer"):
    """What turns gradients into steps. `lr` is the peak rate; a Schedule scales it."""

    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimizer over `parameters`, in one fused kernel where their device has one."""
        raise NotImplementedError(type(self).__name__)


class Adam(Optimizer, kind="adam"):
    """Adam (Kingma and Ba 2015, algorithm 1), no weight decay."""

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        there = list(parameters)
        return torch.optim.Adam(there, lr=self.lr, betas=self.betas, eps=self.eps, fused=fusable(there))


class AdamW(Optimizer, kind="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2): w <- (1 - lr decay) w before each step.

    weight_decay: for matrices and convolution kernels alone; gains, biases and scalars (fewer than two dimensions) are never decayed.
    """

    weight_decay: float = Field(0.01, ge=0)

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        there = list(parameters)
        groups: Groups = [
            {"params": [p for p in there if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in there if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fusable(there))


def fusable(parameters: list[nn.Parameter]) -> bool:
    """Whether torch has a fused Adam for these parameters: real floating ones, on devices that it names."""
    from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

    return all(p.device.type in _get_fused_kernels_supported_devices() and p.is_floating_point() for p in parameters)


class Schedule(Spec, family="schedule"):
    """lr(step) = peak * warm(step) * shape(step): step = 0 is the first optimizer step, whatever the accumulation or world size.

    warmup: optimizer steps over which the rate rises linearly, (step + 1) / warmup, to its full height. 0: none.
    """

    warmup: int = Field(0, ge=0)

    def shape(self, step: int, total: int) -> float:
        """The curve after the warm-up, in [0, 1]; `total` is the run's number of optimizer steps."""
        raise NotImplementedError(type(self).__name__)

    def scale(self, step: int, total: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.shape(step, total)


class Constant(Schedule, kind="constant"):
    """The peak rate throughout."""

    def shape(self, step: int, total: int) -> float:
        return 1.0


class Cosine(Schedule, kind="cosine"):
    """final + (1 - final) (1 + cos(pi u)) / 2, u from 0 after the warm-up to 1 at the last step (Loshchilov and Hutter 2017, eq. 5).

    final: what is left of the peak rate at the last step. Beyond the last step the rate stays there.
    """

    final: float = Field(0.0, ge=0, le=1)

    def shape(self, step: int, total: int) -> float:
        u = min(1.0, (step - self.warmup) / max(1, total - 1 - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * u)) / 2


class InverseSqrt(Schedule, kind="inverse-sqrt"):
    """sqrt(flat / max(step + 1, flat)): constant for `flat` steps, then falling as 1/sqrt(step) (Karras et al. 2024, EDM2, eq. 67)."""

    flat: int = Field(10_000, ge=1)

    def shape(self, step: int, total: int) -> float:
        return math.sqrt(self.flat / max(step + 1, self.flat))
