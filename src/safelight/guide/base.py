"""Guidance: a mix turns named branches into a denoiser; a bend turns a denoiser into a denoiser."""

from __future__ import annotations

from safelight.denoise import Branches, Denoise
from safelight.spec import Spec


class Mix(Spec, family="mix"):
    """Combines branches ("cond", "null", ...), evaluated in one batched pass, into one denoiser."""

    @property
    def names(self) -> tuple[str, ...]:
        """The branches it may ask for."""
        raise NotImplementedError(type(self).__name__)

    def __call__(self, branches: Branches) -> Denoise:
        """The guided denoiser."""
        raise NotImplementedError(type(self).__name__)


class Bend(Spec, family="bend"):
    """Changes a denoiser's estimate: thresholds, classifiers, masks."""

    def __call__(self, denoise: Denoise) -> Denoise:
        """The bent denoiser."""
        raise NotImplementedError(type(self).__name__)
