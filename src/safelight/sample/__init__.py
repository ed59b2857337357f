"""Samplers. A new solver family is one new file; `trajectory` is the one loop."""

from __future__ import annotations

from safelight.sample.base import Draws, Sampler, State
from safelight.sample.loop import Step, trajectory
from safelight.spec import import_all

import_all(__name__, __path__)

__all__ = ["Draws", "Sampler", "State", "Step", "trajectory"]
