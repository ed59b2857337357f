"""Codecs. A new codec is one new file."""

from __future__ import annotations

from safelight.codec.base import Codec, CodecSpec
from safelight.spec import import_all

import_all(__name__, __path__)

__all__ = ["Codec", "CodecSpec"]
