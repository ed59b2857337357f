"""Libraries of the `data` extra, imported where they are used; one line says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from safelight.data.source import DataError


def need(module: str, what: str) -> ModuleType:
    """The module, or a DataError that names the extra which brings it, and why it does not import when it is there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise DataError(f"{what} need {module.split('.')[0]}: pip install 'safelight[data]'") from None
    except ImportError as error:
        why = " ".join(str(error.__cause__ or error).split())[:200]
        raise DataError(f"{what} need {module.split('.')[0]}, which does not import here ({why})") from None
