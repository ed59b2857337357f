"""The registry as JSON Schema: every kind of every family a request can hold, for /openapi.json and for forms that are made of it."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from safelight.spec import Spec, kinds

# The families that requests and settings hold.
FAMILIES = ("task", "sampler", "grid", "mix", "bend", "strength", "transform", "safety")
_KIND = re.compile(r"#/kinds/([^/]+)/(.+)")
_HOME = "#/components/schemas/"


def component(family: str, kind: str = "") -> str:
    """The name of a family, or of one of its kinds, among the schemas of /openapi.json."""
    return f"{family}.{kind}".rstrip(".").replace("+", "plus")


def linked(schema: Any, to: Callable[[str], dict[str, Any]]) -> Any:
    """A schema in which every place for a part of a family is what `to` makes of the family's name."""
    if isinstance(schema, Mapping):
        several = schema.get("oneOf")
        first = several[0] if isinstance(several, list) and several else {}
        match = _KIND.fullmatch(first.get("$ref", "")) if isinstance(first, Mapping) else None
        if match:
            return {**{k: linked(v, to) for k, v in schema.items() if k != "oneOf"}, **to(match[1])}
        return {k: linked(v, to) for k, v in schema.items()}
    if isinstance(schema, list):
        return [linked(v, to) for v in schema]
    return schema


def reference(family: str) -> dict[str, Any]:
    """A place for a part of a family, in /openapi.json."""
    return {"$ref": _HOME + component(family)}


def _generated(specs: Mapping[str, type[Spec]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(schemas by the names given, schemas that these refer to), with #/kinds/ in the places of families."""
    generator = GenerateJsonSchema(ref_template=_HOME + "{model}")
    inputs = [(name, "validation", spec.__pydantic_core_schema__) for name, spec in specs.items()]
    found, defined = generator.generate_definitions(inputs)  # type: ignore[arg-type]
    definitions: dict[str, Any] = {str(name): schema for name, schema in defined.items()}
    return {str(name): _whole(schema, definitions) for (name, _), schema in found.items()}, definitions


def _whole(schema: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A schema itself, where it is only a reference."""
    name = schema.get("$ref", "").removeprefix(_HOME)
    return definitions.get(name, schema)


@functools.cache
def components() -> dict[str, Any]:
    """The schemas of every family and kind, as /openapi.json has them."""
    found: dict[str, Any] = {}
    for family in FAMILIES:
        several = kinds(family)
        schemas, definitions = _generated(several)
        found |= definitions
        for kind, schema in schemas.items():
            whole = {**schema, "title": f"{family} {kind}"}
            whole["properties"] = {"kind": {"const": kind, "type": "string"}, **schema.get("properties", {})}
            whole["required"] = ["kind", *schema.get("required", [])]
            found[component(family, kind)] = whole
        plain = [kind for kind, schema in schemas.items() if not schema.get("required")]
        names: list[dict[str, Any]] = [{"type": "string", "enum": plain}] if plain else []
        refs = [{"$ref": _HOME + component(family, kind)} for kind in several]
        found[family] = {
            "title": family,
            "description": f"a {family}: its kind's name, or its kind and fields",
            "anyOf": [*names, *refs],
        }
    linked_all: dict[str, Any] = linked(found, reference)
    return linked_all


def parts(family: str) -> list[dict[str, Any]]:
    """Every kind of a family: its name, what it is in a sentence, the schema of its fields; {"x-family": F} where a part stands."""
    schemas, definitions = _generated(kinds(family))
    return [
        {"kind": kind, "doc": (inspect.getdoc(spec) or "").split("\n")[0], "schema": _portable(schemas[kind], definitions)}
        for kind, spec in kinds(family).items()
    ]


def request() -> dict[str, Any]:
    """The schema of a request's fields, as `parts` has it."""
    from safelight.task import Request

    schemas, definitions = _generated({"request": Request})
    return _portable(schemas["request"], definitions)


def _portable(schema: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that stands alone: what it refers to is in its own $defs."""
    found = linked(schema, lambda family: {"x-family": family})
    needed = {name: linked(each, lambda family: {"x-family": family}) for name, each in definitions.items()}
    used = _used(found, needed)
    return _moved({**found, **({"$defs": {name: needed[name] for name in sorted(used)}} if used else {})})


def _used(schema: Any, definitions: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> set[str]:
    names = {m for m in re.findall(rf'"{re.escape(_HOME)}([^"]+)"', json.dumps(schema)) if m in definitions} - seen
    return names.union(*(_used(definitions[name], definitions, seen | names) for name in names))


def _moved(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            k: "#/$defs/" + v.removeprefix(_HOME) if k == "$ref" and isinstance(v, str) and v.startswith(_HOME) else _moved(v)
            for k, v in value.items()
        }
    return [_moved(v) for v in value] if isinstance(value, list) else value


__all__ = ["FAMILIES", "component", "components", "linked", "parts", "reference", "request"]
