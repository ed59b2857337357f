"""Every registered kind with its fields, types and defaults: what may stand in a config, in --set and in a file's header."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import types
import typing
from enum import Enum
from typing import Any

from pydantic_core import PydanticUndefined

from safelight.spec import ROOMS, Spec, SpecError, describe, families, kinds, nearest


def add(parser: argparse.ArgumentParser) -> None:
    """An optional family, an optional kind of it, `--json`."""
    parser.add_argument("family", nargs="?", help=f"one family: {', '.join(sorted(ROOMS))}")
    parser.add_argument("kind", nargs="?", help="one kind of that family")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the families asked for."""
    # A family without a room of its own (attention, norm, ...) is registered by importing the room it is in.
    rooms = [] if args.family in ROOMS else [family for family in sorted(ROOMS) if present(family)]
    if args.family is not None:
        known = kinds(args.family)
        if args.kind is not None and args.kind not in known:
            raise SpecError(f"no {args.family} '{args.kind}'{nearest(args.kind, known)} (kinds: {', '.join(known)})")
        chosen = {args.family: {k: v for k, v in known.items() if args.kind in (None, k)}}
    else:
        inside = [family for family in families() if family not in ROOMS]
        chosen = {family: kinds(family) for family in sorted([*rooms, *inside])}
    rows = {family: {kind: entry(cls) for kind, cls in found.items()} for family, found in chosen.items()}
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)
    return 0


def present(family: str) -> bool:
    """Whether the family's room is in this version; a room that is there but broken is an error and surfaces."""
    try:
        return bool(kinds(family))
    except ModuleNotFoundError as error:
        if error.name is None or not ROOMS[family].startswith(error.name):
            raise
        return False


def entry(cls: type[Spec]) -> dict[str, Any]:
    """One kind: the first line of its docstring and its fields as {name: {type, default, required, about}}."""
    doc = inspect.getdoc(cls) or ""
    fields = {}
    for name, field in cls.model_fields.items():
        required = field.is_required()
        default = field.get_default(call_default_factory=True) if not required else PydanticUndefined
        fields[name] = {
            "type": type_name(field.annotation),
            "required": required,
            "default": None if required else _plain(default),
            "about": field.description or "",
        }
    return {"about": doc.split("\n")[0], "fields": fields}


def type_name(annotation: Any) -> str:
    """A field's type as a person would write it: `int`, `float | None`, `'a' | 'b'`, a family's name."""
    if annotation is None or annotation is type(None):
        return "None"
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(args[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(a) for a in args)
    if origin is typing.Literal:
        return " | ".join(repr(a) for a in args)
    if origin is not None:
        inside = ", ".join("..." if a is Ellipsis else type_name(a) for a in args)
        return f"{origin.__name__}[{inside}]"
    if isinstance(annotation, type) and issubclass(annotation, Spec) and annotation.family:
        return annotation.family
    return getattr(annotation, "__name__", str(annotation))


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return describe(value, family=False)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity; "inf" is read back as one
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the rows for a person: kind, what it is, its fields."""
    for family, found in rows.items():
        print(family)
        for kind, row in found.items():
            print(f"  {kind:<18} {row['about']}".rstrip())
            for name, field in row["fields"].items():
                default = "required" if field["required"] else "= " + _short(field["default"])
                print(f"      {name}: {field['type']} {default}" + (f"  {field['about']}" if field["about"] else ""))


def _short(value: Any) -> str:
    if isinstance(value, dict) and "kind" in value:
        inside = ", ".join(f"{k}={_short(v)}" for k, v in value.items() if k != "kind")
        return f"{value['kind']}({inside})" if inside else str(value["kind"])
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
