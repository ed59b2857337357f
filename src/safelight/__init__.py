"""Safelight: diffusion models you can watch.

One small set of parts; every diffusion system is a recipe of them; every run can be recorded and looked at.

    import safelight
    model = safelight.load("fashion-mnist")
    for event in safelight.generate(model, safelight.Request(prompt="ankle boot", count=4)): ...
    safelight.load("default")("three red apples on a blue background").save("apples.png")

The names below are the public face. They are imported when first touched, so `import safelight` costs milliseconds and
loads neither torch nor pydantic.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from safelight.cond import Cond as Cond
    from safelight.denoise import Denoise as Denoise
    from safelight.denoise import Denoiser as Denoiser
    from safelight.denoise import Estimate as Estimate
    from safelight.generate import Request as Request
    from safelight.generate import generate as generate
    from safelight.generate import load as load
    from safelight.grid import Grid as Grid
    from safelight.grid import grid as grid
    from safelight.model import Model as Model
    from safelight.model import ModelSpec as ModelSpec
    from safelight.model import save as save
    from safelight.noise import Noise as Noise
    from safelight.process import Level as Level
    from safelight.process import Process as Process
    from safelight.sample import Sampler as Sampler
    from safelight.sample import trajectory as trajectory
    from safelight.spec import Spec as Spec
    from safelight.spec import SpecError as SpecError
    from safelight.spec import build as build
    from safelight.spec import describe as describe
    from safelight.spec import kinds as kinds
    from safelight.trace import Trace as Trace
    from safelight.train import train as train

# Public name -> the room it lives in.
_HOME: dict[str, str] = {
    "Cond": "safelight.cond",
    "Denoise": "safelight.denoise",
    "Denoiser": "safelight.denoise",
    "Estimate": "safelight.denoise",
    "Grid": "safelight.grid",
    "Level": "safelight.process",
    "Model": "safelight.model",
    "ModelSpec": "safelight.model",
    "Noise": "safelight.noise",
    "Process": "safelight.process",
    "Request": "safelight.generate",
    "Sampler": "safelight.sample",
    "Spec": "safelight.spec",
    "SpecError": "safelight.spec",
    "Trace": "safelight.trace",
    "build": "safelight.spec",
    "describe": "safelight.spec",
    "generate": "safelight.generate",
    "grid": "safelight.grid",
    "kinds": "safelight.spec",
    "load": "safelight.generate",
    "save": "safelight.model",
    "train": "safelight.train",
    "trajectory": "safelight.sample",
}

__all__ = sorted([*_HOME, "__version__"])


class _Face(ModuleType):
    """Keeps `safelight.generate`, `safelight.grid` and `safelight.train` the functions they are.

    Importing a submodule makes Python bind it as an attribute of its package, which would put the modules of the same
    names in their place. The rooms stay reachable as `from safelight.train import ...`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        try:  # a room by its own name: `safelight.process`, `safelight.sample`
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


sys.modules[__name__].__class__ = _Face
