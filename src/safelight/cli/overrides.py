"""`--set path=value`, `--config FILE`, `--save-config FILE`: how a description is changed and kept from the command line.

Values are YAML 1.2, so `2e-4` is a number and `no` is a word. Nothing here knows a field: what comes out is validated by the
Spec it is for, which names the faulty path and the nearest right name.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safelight.files import atomic_bytes
from safelight.spec import SpecError, nearest


def assign(config: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """`config` with every `path=value` of `settings` put in, in order; `config` itself is left alone.

    A path goes through fields and list positions: `plan.optimizer.lr=2e-4`, `bends.0.percentile=0.99`. A part given by its
    kind's name alone opens up when a field of it is set: after `sampler=ddim` comes `sampler.eta=1`. What stands at a path is
    replaced whole, so `sampler=ddim` forgets the fields of the sampler before. Raises SpecError for a setting without `=`, a
    value that is no YAML, and a path that leads into a number, past a list's end, or into nothing.
    """
    result = _copied(config)
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise SpecError(f"--set {setting}: write path=value, as in sampler.eta=1")
        _put(result, keys, _value(text, setting), setting)
    return result


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML or JSON file. Raises SpecError when it holds something else, OSError when it cannot be read."""
    try:
        found = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise SpecError(f"{path} holds no fields: it must be a mapping of names to values")
    return found


def write(path: str | os.PathLike[str], config: Mapping[str, Any], about: str = "") -> None:
    """Write a description as YAML, whole or not at all, below a comment of one line."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    text = io.StringIO()
    if about:
        text.write(f"# {about}\n")
    yaml.dump(_copied(config), text)
    atomic_bytes(path, text.getvalue().encode())


def _value(text: str, setting: str) -> Any:
    try:
        return YAML(typ="safe").load(text) if text.strip() else ""
    except YAMLError:
        raise SpecError(f"--set {setting}: the value is not YAML; quote it, as in path='\"value\"'") from None


def _put(here: Any, keys: list[str], value: Any, setting: str) -> None:
    for depth, key in enumerate(keys):
        so_far = ".".join(keys[:depth])
        last = depth == len(keys) - 1
        at: Any = key
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise SpecError(f"--set {setting}: '{so_far}' is a list of {len(here)}; give a position from 0")
            at = int(key)
        elif not isinstance(here, dict):
            raise SpecError(f"--set {setting}: '{so_far}' is {here!r}, it has no fields")
        elif not last and key not in here:
            raise SpecError(
                f"--set {setting}: no '{'.'.join(keys[: depth + 1])}'{nearest(key, here)} (there: {', '.join(here)})"
            )
        if last:
            here[at] = value
            return
        if here[at] is None:
            raise SpecError(f"--set {setting}: '{'.'.join(keys[: depth + 1])}' is not set; set it whole first")
        if isinstance(here[at], str):
            here[at] = {"kind": here[at]}
        here = here[at]


def _copied(value: Any) -> Any:
    """A deep copy in plain dicts and lists, whatever mapping or tuple it was."""
    if isinstance(value, Mapping):
        return {str(k): _copied(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(v) for v in value]
    return value
