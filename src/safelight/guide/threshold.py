"""Dynamic thresholding."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.guide.base import Bend
from safelight.process import Level


class Threshold(Bend, kind="threshold"):
    """x0 -> clip(x0, -m, m) / m, m = max(bound, the `percentile` quantile of |x0| over a picture) (Saharia et al. 2022, section 2.3).

    bound: the data's range: 1 for pixels; for latents of unit variance, which have no hard range, about 4 (of a normal variable 1 in
    16,000 values lies beyond): with 1 they would be flattened. percentile = 1 with a picture inside the range changes nothing; m is
    never below `bound`.
    limit: m is not allowed above this (None as in the paper: no limit); limit = bound is plain clipping.
    between: the quantile may lie between two of the values, instead of being one of them.
    """

    percentile: float = Field(0.995, gt=0, le=1)
    bound: float = Field(1.0, gt=0)
    limit: float | None = Field(None, gt=0)
    between: bool = False

    def __call__(self, denoise: Denoise) -> Denoise:
        def bent(x: Tensor, level: Level) -> Estimate:
            estimate = denoise(x, level)
            size = estimate.x0.abs().flatten(1)
            m = self._quantile(size).clamp(min=self.bound)
            if self.limit is not None:
                m = m.clamp(max=max(self.limit, self.bound))
            m = m.view(-1, *(1,) * (x.ndim - 1))
            free = estimate.x0 if estimate.free is None else estimate.free
            return estimate._replace(x0=estimate.x0.clamp(-m, m) * (self.bound / m), free=free)

        return bent

    def _quantile(self, size: Tensor) -> Tensor:
        """(B,) of values (B, N)."""
        # By sorting: torch.quantile refuses pictures of more than 16 million values.
        n = size.shape[1]
        if not self.between:
            return torch.kthvalue(size, max(1, min(n, round(self.percentile * n))), dim=1).values
        place = self.percentile * (n - 1)
        low, high = (torch.kthvalue(size, k + 1, dim=1).values for k in (int(place), min(int(place) + 1, n - 1)))
        return low.lerp(high, place - int(place))
