"""Autoguidance: away from a worse version of the same model."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from safelight.denoise import Branches, Denoise, Estimate
from safelight.guide.base import Mix
from safelight.guide.strength import Interval, Scale, strength
from safelight.process import Level


class Autoguidance(Mix, kind="autoguidance"):
    """x0 = x0_weak + scale (x0_cond - x0_weak) (Karras et al. 2024, "Guiding a diffusion model with a bad version of itself").

    weak: a worse model that makes the same mistakes, only more of them: smaller, or trained for less long; a path, a run's folder or
    an embedded name, with `:WEIGHTS` behind it for a set of its weights (`runs/early:raw`). It hears the same prompt, so variety is
    kept where classifier-free guidance gives it up, and a model without text can be guided too. It must denoise the same latents at
    the same levels: process, codec and channels are compared, and another raises SpecError.
    scale, interval: as in `cfg`; where the scale is 1 the weak model is not run.
    """

    weak: str = Field(min_length=1)
    scale: Scale = 2.0
    interval: Interval = (0.0, 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        return ("cond", "weak")

    @property
    def others(self) -> Mapping[str, str]:
        return {"weak": self.weak}

    def __call__(self, branches: Branches) -> Denoise:
        def guided(x: Tensor, level: Level) -> Estimate:
            scale = strength(self.scale, self.interval, level)
            if scale == 1:
                return branches(x, level, ("cond",))["cond"]
            both = branches(x, level, ("cond", "weak"))
            cond, weak = both["cond"].x0, both["weak"].x0
            return Estimate(weak.lerp(cond, scale), both["cond"].fraction, {"cond": cond, "weak": weak})

        return guided
