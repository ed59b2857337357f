"""Whether what a page asks for is in the OpenAPI schema: its method, its path, and every field of its query."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

# The page itself and its files, which are no deeds.
_PAGE = re.compile(
    r"/(studio/.*|favicon\.ico|openapi\.json)?|/(create|edit|mix|morph|compare|explain|gallery|jobs|models|settings|run|tour)(/.*)?"
)


class Documented:
    """The documented calls of a server, by its own schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.calls: list[tuple[str, re.Pattern[str], str, set[str]]] = []
        for path, methods in schema["paths"].items():
            pattern = "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]+\})", path))
            for method, one in methods.items():
                query = {p["name"] for p in one.get("parameters", ()) if p["in"] == "query"}
                self.calls.append((method.upper(), re.compile(pattern), path, query))

    @classmethod
    def of(cls, url: str) -> Documented:
        """Those of a running server."""
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=120) as answer:
            return cls(json.loads(answer.read()))

    def name(self, method: str, url: str) -> str:
        """The call of the schema that a request is, as `METHOD /path/{with}/parameters`; "" for the page and its files.

        Raises LookupError for a request that the schema does not know.
        """
        parts = urlsplit(url)
        path = parts.path  # as it was sent: a slash in a parameter is %2F
        if parts.scheme in ("data", "blob") or (method == "GET" and _PAGE.fullmatch(unquote(path))):
            return ""
        asked = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
        found = [(template, query) for m, pattern, template, query in self.calls if m == method and pattern.fullmatch(path)]
        if not found:
            raise LookupError(f"{method} {path} is in no schema")
        if not any(asked <= query for _, query in found):
            raise LookupError(f"{method} {path} is asked with {sorted(asked - found[0][1])}, of which its schema says nothing")
        return f"{method} {found[0][0]}"


__all__ = ["Documented"]
