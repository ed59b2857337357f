"""`--sampler FILE`: a sampler that `safelight tune-sampler` fitted, with the steps, the grid and the guidance that belong to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.model import Model

_SUFFIXES = (".yaml", ".yml", ".json")
# What a file of a sampler may say of a request.
FIELDS = ("steps", "sampler", "grid", "mix")


def is_file(name: object) -> bool:
    """Whether --sampler names a file rather than a kind: by its suffix."""
    return isinstance(name, str) and Path(name).suffix.lower() in _SUFFIXES


def fitted(name: str, model: Model) -> dict[str, Any]:
    """The fields of a request that the file of a sampler holds. Says on stderr when it was fitted to other weights than the model's.

    Raises SpecError for a file that holds no sampler, or more than belongs to one; OSError when it cannot be read.
    """
    from safelight.cli.overrides import read

    found = read(name)
    if "sampler" not in found or set(found) - {*FIELDS, "kind"}:
        raise SpecError(
            f"--sampler {name}: that file is no sampler with its {', '.join(FIELDS)}; a whole request goes by --config"
        )
    sampler = found["sampler"]
    of = sampler.get("model", "") if isinstance(sampler, dict) else ""
    if of and model.fingerprint and of != model.fingerprint:
        print(f"hint     --sampler {name}: it was fitted to other weights ({of}, not {model.fingerprint})", file=sys.stderr)
    return {key: value for key, value in found.items() if key != "kind"}
