"""Heat: numbers from 0 to 1 as colours of steadily growing lightness, readable in grey and by people who see few colours."""

from __future__ import annotations

from typing import Any

import numpy as np

# Lightness (L* of CIELAB) 2, 16, 34, 54, 75, 96: even steps.
_STOPS = np.array(((4, 4, 20), (48, 16, 88), (126, 32, 108), (208, 72, 72), (246, 150, 40), (252, 246, 188)), np.float32)


def heat(values: Any) -> np.ndarray:
    """(...) numbers -> (..., 3) uint8: 0 is nearly black, 1 nearly white, over purple, red and orange. Beyond 0..1 they are clipped."""
    place = np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0, 1) * (len(_STOPS) - 1)
    low = np.minimum(place.astype(np.int64), len(_STOPS) - 2)
    share = (place - low)[..., None]
    return np.rint(_STOPS[low] * (1 - share) + _STOPS[low + 1] * share).astype(np.uint8)


__all__ = ["heat"]
