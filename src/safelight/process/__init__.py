"""Processes: how a picture becomes noise. A new process is one new file with one class."""

from __future__ import annotations

from safelight.process.base import Process
from safelight.process.level import Level
from safelight.spec import import_all

import_all(__name__, __path__)

__all__ = ["Level", "Process"]
