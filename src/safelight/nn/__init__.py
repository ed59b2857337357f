"""Networks. A new network is one new file with one config (`NetworkSpec`) and one module (`Network`)."""

from __future__ import annotations

from safelight.nn.network import Network, NetworkSpec, Output
from safelight.spec import import_all

import_all(__name__, __path__)

__all__ = ["Network", "NetworkSpec", "Output"]
