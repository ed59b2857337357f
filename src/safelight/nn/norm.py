"""Normalisations over channels, for tensors (B, C, *space)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from safelight.spec import Spec, SpecError


class Norm(Spec, family="norm"):
    """What keeps activations at unit scale."""

    def make(self, width: int) -> nn.Module:
        """The module for `width` channels: (B, width, *space) -> same shape. Raises SpecError when the width does not fit."""
        raise NotImplementedError(type(self).__name__)


class GroupNormSpec(Norm, kind="group-norm"):
    """Mean 0 and variance 1 over each of `groups` groups of channels and all of space. Wu and He 2018, eq. 1-2."""

    groups: int = Field(32, ge=1, description="number of groups; must divide every width")
    eps: float = Field(1e-5, gt=0)

    def make(self, width: int) -> nn.Module:
        """A GroupNorm with gain and bias. Raises SpecError when `groups` does not divide `width`."""
        if width % self.groups:
            raise SpecError(f"norm.groups: {self.groups} groups do not divide {width} channels; choose a common divisor of all widths")
        return nn.GroupNorm(self.groups, width, eps=self.eps)


class RMSNormSpec(Norm, kind="rms-norm"):
    """Each pixel's channel vector to root mean square 1: `y = g * sqrt(C) * x / |x|`. Zhang and Sennrich 2019, eq. 4."""

    def make(self, width: int) -> nn.Module:
        """An RMSNorm with gain."""
        return RMSNorm(width)


class RMSNorm(nn.Module):
    """`y = g * x / rms(x)`, the root mean square taken over channels at each place. Zhang and Sennrich 2019, eq. 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, *space). Returns the same shape."""
        y = x.movedim(1, -1)  # (B, *space, C)
        y = torch.nn.functional.rms_norm(y, y.shape[-1:], self.g.to(y.dtype), eps=1e-12)  # (B, *space, C)
        return y.movedim(-1, 1)  # (B, C, *space)
