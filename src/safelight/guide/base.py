"""Guidance: a mix turns named branches into a denoiser; a bend turns a denoiser into a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safelight.denoise import Branches, Denoise
from safelight.spec import Spec


class Mix(Spec, family="mix"):
    """Combines branches ("cond", "null", ...), evaluated in one batched pass, into one denoiser."""

    @property
    def names(self) -> tuple[str, ...]:
        """The branches it may ask for."""
        raise NotImplementedError(type(self).__name__)

    @property
    def others(self) -> Mapping[str, str]:
        """Branches that another model evaluates: branch -> the model's name, as `Assets.model` takes it."""
        return {}

    def words(self, prompt: str, negative: str) -> dict[str, str]:
        """What each branch is told for a prompt: "null" hears the negative prompt, every other branch the prompt."""
        return {name: negative if name == "null" else prompt for name in self.names}

    def __call__(self, branches: Branches) -> Denoise:
        """The guided denoiser."""
        raise NotImplementedError(type(self).__name__)


class Bend(Spec, family="bend"):
    """Changes a denoiser's estimate: thresholds, classifiers, masks."""

    def bind(self, assets: Any, prompts: Sequence[str]) -> Callable[[Denoise], Denoise]:
        """The bend with all it names at hand (`assets`: safelight.assets.Assets), for pictures of these prompts."""
        return self

    def __call__(self, denoise: Denoise) -> Denoise:
        """The bent denoiser."""
        raise NotImplementedError(type(self).__name__)
