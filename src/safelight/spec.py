"""Spec: the one serialiser. Every part of a system is described by a frozen, validated record of a registered kind.

A *family* is a place in the house (process, sampler, grid, ...); a *kind* is a name in it (`cosine`, `ddim`, `karras`).
A family's root is declared once, a kind is declared by subclassing it:

    class Sampler(Spec, family="sampler"): ...
    class DDIM(Sampler, kind="ddim"):
        eta: float = 0.0

and from then on `{"kind": "ddim", "eta": 1}` or just `"ddim"` is accepted wherever a `Sampler` is a field, in Python,
YAML, JSON, on the command line and in a file's header. Only registered kinds can be built, so nothing in a file executes.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# Where each family lives: importing the room registers its kinds. A room upstairs is named here, never imported here.
ROOMS: dict[str, str] = {
    "process": "safelight.process",
    "parameterization": "safelight.predict",
    "grid": "safelight.grid",
    "sampler": "safelight.sample",
    "mix": "safelight.guide",
    "bend": "safelight.guide",
    "strength": "safelight.guide",
    "network": "safelight.nn",
    "block": "safelight.nn",
    "norm": "safelight.nn",
    "attention": "safelight.nn",
    "dit-block": "safelight.nn",
    "down": "safelight.nn",
    "up": "safelight.nn",
    "embedding": "safelight.nn",
    "control": "safelight.nn",
    "picture-tokens": "safelight.nn",
    "codec": "safelight.codec",
    "text": "safelight.text",
    "model": "safelight.model",
    "token-network": "safelight.nn",
    "token-process": "safelight.discrete",
    "token-sampler": "safelight.discrete",
    "alphabet": "safelight.discrete",
    "tokens": "safelight.discrete",
    "task": "safelight.task",
    "request": "safelight.task",
    "source": "safelight.data",
    "transform": "safelight.data",
    "weighting": "safelight.train.objective",
    "times": "safelight.train.objective",
    "distance": "safelight.train.objective",
    "objective": "safelight.train.objective",
    "optimizer": "safelight.train.optim",
    "schedule": "safelight.train.optim",
    "average": "safelight.train.ema",
    "train": "safelight.train",
}

_kinds: dict[str, dict[str, type[Spec]]] = {}
_roots: dict[str, type[Spec]] = {}


class SpecError(ValueError):
    """A description that cannot be built. Its text is one line: where, what, and the nearest right name."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'ddim'?"` for the closest of `names`, or an empty string when none is close."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


class Spec(BaseModel):
    """A frozen, validated, self-describing record. Subclass a family's root with `kind=` to register a new kind."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    family: ClassVar[str] = ""
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, family: str | None = None, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # `family` and `kind` are read below, once pydantic has collected the fields

    @classmethod
    def __pydantic_init_subclass__(cls, family: str | None = None, kind: str | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if family is not None:
            cls.family, cls.kind = family, ""
            _roots[family] = cls
            _kinds.setdefault(family, {})
        if kind is not None:
            if not cls.family:
                raise TypeError(f"{cls.__name__} has kind {kind!r} but no family: subclass a family's root")
            there = _kinds[cls.family].get(kind)
            if there is not None and (there.__module__, there.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"{cls.family} '{kind}' is already {there.__module__}.{there.__qualname__}")
            cls.kind = kind
            _kinds[cls.family][kind] = cls

    def build(self) -> Any:
        """The working object. A Spec without weights is its own; networks, codecs, encoders and models return a module."""
        return self

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        own = {name: value for name, value in (("kind", cls.kind), ("family", cls.family)) if value}
        for name, value in own.items():
            if data.get(name, value) != value:
                raise PydanticCustomError(
                    "wrong_kind",
                    "{name} is '{given}', but only '{own}' can stand here",
                    {"name": name, "given": str(data[name]), "own": value},
                )
        data = {k: v for k, v in data.items() if k not in own}
        for name in data:
            if name not in cls.model_fields:
                known = ", ".join(cls.model_fields) or "none"
                raise PydanticCustomError(
                    "unknown_field",
                    "unknown field '{name}'{near} (fields: {known})",
                    {"name": str(name), "near": nearest(name, cls.model_fields), "known": known},
                )
        return data

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if cls.family and not cls.kind and cls is _roots.get(cls.family):
            # A field typed with a family's root takes any kind of it; errors inside keep their path.
            return core_schema.no_info_plain_validator_function(
                lambda value: _resolve(cls.family, value),
                serialization=core_schema.plain_serializer_function_ser_schema(lambda value: describe(value, family=False)),
            )
        return handler(source)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if cls.family and not cls.kind and cls is _roots.get(cls.family):
            return {"oneOf": [{"$ref": f"#/kinds/{cls.family}/{k}"} for k in kinds(cls.family)]}
        return handler(schema)


def kinds(family: str) -> dict[str, type[Spec]]:
    """Every registered kind of a family, by name. Imports the family's room. Raises SpecError for an unknown family."""
    if family not in ROOMS and family not in _roots:
        raise SpecError(f"no family '{family}'{nearest(family, ROOMS)} (families: {', '.join(sorted(ROOMS))})")
    if family in ROOMS:
        importlib.import_module(ROOMS[family])
    return dict(sorted(_kinds.get(family, {}).items()))


def families() -> list[str]:
    """The names of all families whose room can be imported."""
    return sorted(set(ROOMS) | set(_roots))


def _resolve(family: str, value: Any) -> Spec:
    root = _roots[family]
    if isinstance(value, root):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping):
        raise PydanticCustomError(
            "spec_type",
            "{a} {family} is given by its kind or by {'kind': ..., fields}, not by {type}",
            {"a": _article(family), "family": family, "type": type(value).__name__},
        )
    known = kinds(family)
    kind = value.get("kind")
    if kind is None and len(known) == 1:
        kind = next(iter(known))
    if kind is None:
        raise PydanticCustomError(
            "kind_missing",
            "{a} {family} needs a 'kind' (one of: {known})",
            {"a": _article(family), "family": family, "known": ", ".join(known)},
        )
    if not isinstance(kind, str) or kind not in known:
        raise PydanticCustomError(
            "unknown_kind",
            "no {family} '{kind}'{near} (kinds: {known})",
            {"family": family, "kind": str(kind), "near": nearest(str(kind), known), "known": ", ".join(known)},
        )
    return known[kind].model_validate(dict(value))


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def one_line(error: Exception, where: str = "") -> str:
    """A validation error as one line: `where.path: what; nearest right name`."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    errors = error.errors(include_url=False)
    first = errors[0]
    path = ".".join(str(p) for p in ([where] if where else []) + list(first["loc"]))
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] not in ("unknown_field", "unknown_kind", "kind_missing", "spec_type", "wrong_kind") and isinstance(
        first.get("input"), str | int | float | list | tuple | None
    ):
        given = repr(first["input"])
        text += f" (given: {given if len(given) <= 60 else given[:57] + '...'})"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{path}: {text}{more}" if path else text + more


def parse(spec: Spec | Mapping[str, Any] | str, family: str | None = None) -> Spec:
    """The Spec that a name, a dict or a Spec stands for.

    spec: a Spec (returned as it is), a dict with `kind` (and `family` unless given), or a kind's name.
    family: where the kind is looked up. Without it the dict's own `family` counts, else the kind must be unique over families.
    Raises SpecError, in one line, with the path of the faulty field and the nearest right name.
    """
    if isinstance(spec, Spec):
        if family is not None and spec.family != family:
            raise SpecError(f"'{spec.kind}' is {_article(spec.family)} {spec.family}, not {_article(family)} {family}")
        return spec
    if not isinstance(spec, str | Mapping):
        raise SpecError(f"a spec is a kind's name, a dict or a Spec, not {type(spec).__name__}")
    value: dict[str, Any] = {"kind": spec} if isinstance(spec, str) else dict(spec)
    family = family or value.get("family")
    if family is None:
        kind = value.get("kind")
        homes = [f for f in families() if isinstance(kind, str) and kind in kinds(f)]
        if len(homes) != 1:
            every = [k for f in families() for k in kinds(f)]
            if not homes:
                raise SpecError(f"no kind '{kind}' in any family{nearest(str(kind), every)}")
            raise SpecError(f"'{kind}' is a kind of {' and of '.join(homes)}: say which with 'family'")
        family = homes[0]
    kinds(family)
    try:
        return _resolve(family, value)
    except ValidationError as error:
        raise SpecError(one_line(error, family)) from None
    except PydanticCustomError as error:
        raise SpecError(f"{family}: {error.message()}") from None


def build(spec: Spec | Mapping[str, Any] | str, family: str | None = None) -> Any:
    """What a description describes: `build("ddim")` a sampler, `build(describe(model))` a model with fresh weights.

    See `parse` for what is accepted and what is raised.
    """
    return parse(spec, family).build()


def describe(obj: Any, *, family: bool = True) -> dict[str, Any]:
    """The JSON-ready description of a Spec, or of a module built from one (it keeps it as `.spec`).

    `build(describe(x))` gives an equal x (for modules: the same architecture). `family=False` leaves the family out, as
    inside a field whose type already says it.
    """
    spec = obj if isinstance(obj, Spec) else getattr(obj, "spec", None)
    if not isinstance(spec, Spec):
        raise SpecError(f"{type(obj).__name__} has no description: it is neither a Spec nor built from one")
    head: dict[str, Any] = {"family": spec.family} if family and spec.family else {}
    if spec.kind:
        head["kind"] = spec.kind
    return head | spec.model_dump(mode="json")


def import_all(package: str, paths: Iterable[str]) -> None:
    """Import every module of a room, so that a new file registers its kinds by existing. Called by the room's __init__."""
    import pkgutil

    for module in pkgutil.iter_modules(list(paths)):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


__all__ = ["Self", "Spec", "SpecError", "build", "describe", "families", "import_all", "kinds", "nearest", "one_line", "parse"]
