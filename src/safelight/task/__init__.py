"""Tasks. A new one is one new file."""

from __future__ import annotations

from safelight.spec import import_all
from safelight.task.base import Aside, Brief, Request, Resolved, Start, Task, conditions, launch

import_all(__name__, __path__)

__all__ = ["Aside", "Brief", "Request", "Resolved", "Start", "Task", "conditions", "launch"]
