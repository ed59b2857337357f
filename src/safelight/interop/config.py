"""A peer's config.json, read with care: what changes the output is honoured, or refused in one line that names it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from safelight.spec import SpecError


def fixed(config: Mapping[str, Any], where: str, **only: tuple[Any, ...]) -> None:
    """Raise SpecError for the first key of `only` whose value in the config is none of those named. A key that is absent is fine.

    where: what the config describes, as the message names it. The first value of each is the one the message offers.
    """
    for name, allowed in only.items():
        if name in config and not any(
            config[name] == v and isinstance(config[name], bool) == isinstance(v, bool) for v in allowed
        ):
            raise refused(where, name, config[name], f"{json.dumps(allowed[0])} is")


def refused(where: str, name: str, value: Any, known: str) -> SpecError:
    """What to raise for a key whose value has no counterpart here. known: the end of the sentence "here ..."."""
    return SpecError(f"{where}: {name} {json.dumps(value)} has no counterpart here, where {known}")


def whole(
    config: Mapping[str, Any], where: str, name: str, default: int | None = None, low: int = 1, high: int = 1 << 20
) -> int:
    """A whole number of the config in low..high. Raises SpecError for what is none; default: None where the key must be there."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpecError(f"{where}: {name} must be a whole number in {low}..{high}, not {json.dumps(value)}")
    return value


def real(config: Mapping[str, Any], where: str, name: str, default: float) -> float:
    """A positive number of the config. Raises SpecError for what is none."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise SpecError(f"{where}: {name} must be a positive number, not {json.dumps(value)}")
    return float(value)


def wholes(config: Mapping[str, Any], where: str, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """A list of positive whole numbers of the config, one at least. Raises SpecError for what is none."""
    value = config.get(name, default)
    if (
        not isinstance(value, list | tuple)
        or not value
        or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in value)
    ):
        raise SpecError(f"{where}: {name} must be a list of whole numbers, not {json.dumps(value)}")
    return tuple(value)
