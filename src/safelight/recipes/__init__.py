"""Recipes: each a Python function that returns a full `Train`, in a file of its own.

A file `name_of_it.py` with a function `recipe() -> Train` is the recipe `name-of-it`; nothing else has to know of it.
"""

from __future__ import annotations

import importlib
import pkgutil

from safelight.spec import SpecError, nearest
from safelight.train import Train


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def recipe(name: str) -> Train:
    """The recipe of that name. Raises SpecError with the nearest right name for an unknown one."""
    known = names()
    if name not in known:
        raise SpecError(f"no recipe '{name}'{nearest(name, known)} (recipes: {', '.join(known)})")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    found: Train = module.recipe()
    return found


__all__ = ["names", "recipe"]
