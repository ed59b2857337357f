"""Every call that the studio's source holds is one of the schema: the page does nothing that a client could not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from safelight.serve.app import STUDIO, app
from safelight.serve.settings import Settings
from tests.studio.documented import Documented

# "/v1/..." in quotes of any sort, up to the quote that ends it; ${...} stands for what is not known here.
_CALL = re.compile(r"""(["'`])(/(?:v1|sdapi)/(?:\$\{(?:[^{}`]|`[^`]*`|\{[^{}]*\})*\}|(?!\1)[^$\n])*)\1""")
_HOLE = r"\$\{(?:[^{}`]|`[^`]*`|\{[^{}]*\})*\}"  # may hold slashes and question marks; "\0" is written for it below
# Said beside the path in the same call.
_METHOD = re.compile(r"""method:\s*["'](\w+)["']""")


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Documented:
    return Documented(app(Settings(folder=tmp_path_factory.mktemp("documented"), devices=())).openapi())


def calls(file: Path) -> list[tuple[int, str, str]]:
    """(line, path, what follows) of every call in a module; comments are left out."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), file.read_text(), flags=re.S)
    return [(text[: m.start()].count("\n") + 1, m[2], text[m.end() : m.end() + 90]) for m in _CALL.finditer(text)]


def test_every_path_in_the_pages_source_is_documented(documented: Documented) -> None:
    unknown, seen = [], 0
    for file in sorted((STUDIO / "js").glob("*.js")):
        for line, path, after in calls(file):
            seen += 1
            bare = re.sub(_HOLE, "\0", path).partition("?")[0]
            bare += "\0" if bare.endswith("/") else ""  # it goes on with something that stands beside it
            methods = {m for m, _, template, _ in documented.calls if _may_be(bare, template)}
            said = _METHOD.search(after.partition(")")[0])
            if not methods or (said and said[1] not in methods):
                unknown.append(f"{file.name}:{line} {said[1] if said else ''} {path}")
    assert unknown == []
    assert seen > 40


def _may_be(path: str, template: str) -> bool:
    """Whether a path with holes can be what a template of the schema describes: segment by segment, one filled in matches the other."""
    ours, theirs = _segments(path), _segments(re.sub(r"\{[^}]+\}", "\0", template))
    return len(ours) == len(theirs) and all(
        re.fullmatch(a.pattern, b.filled) or re.fullmatch(b.pattern, a.filled) for a, b in zip(ours, theirs, strict=True)
    )


class _Segment(NamedTuple):
    pattern: str
    filled: str


def _segments(path: str) -> list[_Segment]:
    return [_Segment(re.escape(s).replace("\0", ".+"), s.replace("\0", "x")) for s in path.split("/")]


@pytest.mark.parametrize(
    ("method", "url", "name"),
    [
        ("GET", "http://h/v1/runs/abc?x=1", None),
        ("GET", "http://h/v1/runs?q=a&limit=3", "GET /v1/runs"),
        ("PUT", "http://h/v1/runs", None),
        ("POST", "http://h/v1/runs/abc/fork", "POST /v1/runs/{id}/fork"),
        ("GET", "http://h/v1/runs/abc/pictures/0.png?credentials=true", "GET /v1/runs/{id}/pictures/{number}.{format}"),
        ("GET", "http://h/v1/nothing", None),
        ("GET", "http://h/v1/source/mix%2Fcfg", "GET /v1/source/{name}"),
        ("GET", "http://h/create", ""),
        ("GET", "http://h/studio/js/shell.js", ""),
        ("POST", "http://h/create", None),
    ],
)
def test_requests_are_named_by_the_schema(method: str, url: str, name: Any, documented: Documented) -> None:
    if name is None:
        with pytest.raises(LookupError):
            documented.name(method, url)
    else:
        assert documented.name(method, url) == name
