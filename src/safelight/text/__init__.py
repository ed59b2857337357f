"""Text encoders. A new one is one new file."""

from __future__ import annotations

from safelight.spec import import_all
from safelight.text.base import TextEncoder, TextSpec

import_all(__name__, __path__)

__all__ = ["TextEncoder", "TextSpec"]
