"""Classifier-free guidance and its absence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from safelight.denoise import Branches, Denoise, Estimate
from safelight.guide.base import Mix
from safelight.guide.strength import Interval, Scale, strength
from safelight.process import Level


class NoGuidance(Mix, kind="none"):
    """The conditional branch alone."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("cond",)

    def __call__(self, branches: Branches) -> Denoise:
        return lambda x, level: branches(x, level, ("cond",))["cond"]


class CFG(Mix, kind="cfg"):
    """x0 = x0_null + scale (x0_cond - x0_null) (Ho and Salimans 2022, eq. 6; scale = 1 + w there). Scale 1 is no guidance.

    The mix is linear, so it is the same in eps, v or x0. scale: a number, or a strength that changes over the run. interval: guide
    only at times t in [low, high] (Kynkaanniemi et al. 2024); outside, and at scale 1, one branch is evaluated instead of two.
    rescale: the part (0..1) by which each picture's standard deviation is brought back to that of the conditional branch (Lin et al.
    2023, eq. 14-16, applied to x0).
    """

    scale: Scale = 2.0
    interval: Interval = (0.0, 1.0)
    rescale: float = Field(0.0, ge=0, le=1)

    @property
    def names(self) -> tuple[str, ...]:
        return ("cond", "null")

    def __call__(self, branches: Branches) -> Denoise:
        def guided(x: Tensor, level: Level) -> Estimate:
            scale = strength(self.scale, self.interval, level)
            if scale == 1:
                return branches(x, level, ("cond",))["cond"]
            both = branches(x, level, ("cond", "null"))
            cond, null = both["cond"].x0, both["null"].x0
            x0 = null.lerp(cond, scale)
            if self.rescale:
                is_, was = _spread(x0), _spread(cond)
                over = torch.where(is_ > 0, was / is_, 1.0)  # what is flat has no spread to bring back
                x0 = x0 * (self.rescale * over + (1 - self.rescale))
            return Estimate(x0, both["cond"].fraction, {"cond": cond, "null": null})

        return guided


def scaled(mix: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """The description of a mix at another strength: all else of it stays. Where there is no strength it becomes CFG; of that 1 is none."""
    if "scale" in mix:
        return {**mix, "scale": scale}
    return {"kind": "none"} if scale == 1 else {"kind": "cfg", "scale": scale}


def _spread(x: Tensor) -> Tensor:
    """(B, 1, ..., 1) the standard deviation of each picture."""
    return x.flatten(1).std(1, correction=0).view(-1, *(1,) * (x.ndim - 1))
