"""What all networks have in common that steer another one by a picture."""

from __future__ import annotations

from torch import nn

from safelight.spec import Spec


class ControlSpec(Spec, family="control"):
    """A network that steers another one by a picture: loaded beside a model for a run, see adapt/control.py."""

    def build(self) -> nn.Module:
        """A network of this architecture with fresh weights."""
        raise NotImplementedError(type(self).__name__)
