"""Perpendicular negative guidance: leaves what is unwanted without leaving what is asked for."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from safelight.denoise import Branches, Denoise, Estimate
from safelight.guide.base import Mix
from safelight.guide.strength import HIGHEST, Interval, Scale, strength, within
from safelight.process import Level


class Perpendicular(Mix, kind="perpendicular"):
    """x0 = x0_null + scale (p - weight sum_i q_i) (Armandpour et al. 2023, "Re-imagine the negative prompt algorithm", Perp-Neg).

    p = x0_cond - x0_null, q_i = n_i - p <n_i, p>/<p, p>, n_i = x0_(negative i) - x0_null: of each negative prompt only the component
    perpendicular to the prompt, picture by picture. So a negative prompt that overlaps with the prompt ("a red apple" without "a
    green apple") takes nothing away from it, and an empty one does nothing. The differences in x0 are -sigma/alpha times those in
    eps, in which the paper writes it, so the two are one.
    `null` is always told the empty prompt, `negative` the request's negative one. further: more negative prompts, a branch each.
    weight: how much the negatives count; at 0 it is `cfg`, and they are not evaluated. scale, interval: as in `cfg`; outside of the
    interval the conditional branch stands alone.
    """

    scale: Scale = 2.0
    weight: float = Field(1.0, ge=0, le=HIGHEST)
    further: tuple[str, ...] = ()
    interval: Interval = (0.0, 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        return ("cond", "null", *self.negatives)

    @property
    def negatives(self) -> tuple[str, ...]:
        """The branches to leave: "negative", "negative 2", ..."""
        return () if not self.weight else ("negative", *(f"negative {i + 2}" for i in range(len(self.further))))

    def words(self, prompt: str, negative: str) -> dict[str, str]:
        return {"cond": prompt, "null": "", **dict(zip(self.negatives, (negative, *self.further), strict=False))}

    def __call__(self, branches: Branches) -> Denoise:
        def guided(x: Tensor, level: Level) -> Estimate:
            scale = strength(self.scale, self.interval, level)
            if not within(self.interval, level) or (scale == 1 and not self.negatives):
                return branches(x, level, ("cond",))["cond"]
            found = branches(x, level, self.names)
            x0 = {name: estimate.x0 for name, estimate in found.items()}
            goal, toward = x0["cond"], x0["cond"] - x0["null"]
            for name in self.negatives:
                goal = goal - self.weight * _perpendicular(x0[name] - x0["null"], toward)
            return Estimate(x0["null"].lerp(goal, scale), found["cond"].fraction, x0)

        return guided


def _perpendicular(v: Tensor, u: Tensor) -> Tensor:
    """v - u <v, u>/<u, u>, picture by picture; v where u is zero. v, u: (B, C, *space)."""
    a, b = v.flatten(1), u.flatten(1)
    part = (a * b).sum(1) / b.square().sum(1).clamp(min=1e-30)  # (B,)
    return v - part.view(-1, *(1,) * (v.ndim - 1)) * u
