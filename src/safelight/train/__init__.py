"""Training: `train` is the only way to do it, `fit` does it in a folder, `Train` describes it."""

from __future__ import annotations

# Objectives beside `match` are registered by being imported.
from safelight.train import autoencode as autoencode
from safelight.train import classify as classify
from safelight.train import contrast as contrast
from safelight.train.checkpoint import Unwritable
from safelight.train.loop import Broken, Diverged, Report, begin, train
from safelight.train.plan import Every, Plan
from safelight.train.run import Run, Train, fit, recipe_of
from safelight.train.state import TrainState

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
