"""Data: from files to batches. Sources (one kind a format), `load` -> Pictures, `Order`, `split`, `check`.

The order of use: `detect(path)` or a Source -> `.open()` -> Dataset -> `load` -> Pictures -> `.batch(order.batch(step, size))`.
"""

from __future__ import annotations

from safelight.data.checks import CheckReport, check
from safelight.data.detect import detect
from safelight.data.holdout import split
from safelight.data.order import Order
from safelight.data.pictures import Pictures, load
from safelight.data.pile import memory
from safelight.data.source import CorruptError, DataError, Dataset, Example, Skipped, Source
from safelight.data.stream import Endless, Stream
from safelight.data.transform import Crop, Fit, Pad, Stretch, flip, from_unit, to_unit
from safelight.spec import import_all

import_all(__name__, __path__)

__all__ = [
    "CheckReport",
    "CorruptError",
    "Crop",
    "DataError",
    "Dataset",
    "Endless",
    "Example",
    "Fit",
    "Order",
    "Pad",
    "Pictures",
    "Skipped",
    "Source",
    "Stream",
    "Stretch",
    "check",
    "detect",
    "flip",
    "from_unit",
    "load",
    "memory",
    "split",
    "to_unit",
]
