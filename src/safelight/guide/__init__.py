"""Guidance. A new mix or bend is one new file."""

from __future__ import annotations

from safelight.guide.base import Bend, Mix
from safelight.spec import import_all

import_all(__name__, __path__)

__all__ = ["Bend", "Mix"]
