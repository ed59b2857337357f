"""Training: `train` is the only way to do it, `fit` does it in a folder, `Train` describes it."""

from __future__ import annotations

from safelight.spec import import_all
from safelight.train.checkpoint import Unwritable
from safelight.train.loop import Broken, Diverged, Report, begin, train
from safelight.train.plan import Every, Plan
from safelight.train.run import Run, Train, fit, recipe_of
from safelight.train.state import TrainState

import_all(__name__, __path__)  # objectives beside `match` are registered by existing

__all__ = [
    "Broken",
    "Diverged",
    "Every",
    "Plan",
    "Report",
    "Run",
    "Train",
    "TrainState",
    "Unwritable",
    "begin",
    "fit",
    "recipe_of",
    "train",
]
