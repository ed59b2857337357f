"""The schema is true: what it says is accepted is, what is answered is as it says, and nothing that fits it breaks the server."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image

from safelight.serve.api import schema
from safelight.serve.app import app
from safelight.serve.settings import Settings
from safelight.spec import kinds
from tests.serve.live import models, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The schema of a server that queues and makes nothing: what is asked for is read, checked and kept."""
    folder = tmp_path_factory.mktemp("schema")
    models(folder)
    with serving(folder) as running:
        done = running.run(steps=5)
    limits = {"rate": 1e6, "burst": 10**6, "queue": 100_000}
    with (
        serving(folder, devices=(), limits=limits) as running,
        serving(full(folder), devices=(), limits={**limits, "queue": 1}) as busy,
    ):
        assert running.client.get("/openapi.json").status_code == 200  # made when it is first asked for, which takes a while
        busy.ask()
        yield schemathesis.openapi.from_url(f"{running.address}/openapi.json"), done["id"], busy.address


def full(folder: Path) -> Path:
    """Another data folder with the same models."""
    other = folder.parent / f"{folder.name}-full"
    models(other)
    return other


# A stream without an end, of which the beginning is read; and answers that wait for a worker, which this server has not: they are tried
# with a queue that has no room, so that everything is read and checked and nothing is waited for.
STREAM, WAITING = "/v1/events", re.compile(r"/v1/images/.*|/sdapi/v1/(txt2img|img2img)")
BOUNDED: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.generate],
}


@pytest.mark.parametrize("examples", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tag", ["runs", "words", "models", "studio", "a1111", "openai", "events", "health"])
def test_nothing_that_is_sent_breaks_the_server(tag: str, examples: int, served: Any) -> None:
    described, run, busy = served
    tried, failed = 0, dict[str, str]()
    for result in described.get_all_operations():
        operation = result.ok()
        if tag not in operation.definition.raw["tags"]:
            continue

        @given(case=operation.as_strategy())
        @settings(**BOUNDED, max_examples=examples)
        def fuzz(case: Any) -> None:
            nonlocal tried
            tried += 1
            if case.path == STREAM:
                with httpx.stream("GET", busy + STREAM, params=case.query, headers=case.headers, timeout=30) as stream:
                    assert stream.status_code in (200, 400, 422)
                    if stream.status_code == 200:
                        assert next(stream.iter_lines()) == ": safelight"
                return
            if case.path in ("/v1/runs", "/v1/runs/{id}/fork"):
                case.query.pop("picture", None)  # it would wait
            elif isinstance(case.query.get("picture"), int):
                case.query["picture"] %= 2
            if "id" in case.path_parameters and case.method != "DELETE":  # of which most would otherwise say that there is none
                case.path_parameters["id"] = run
                case.path_parameters.update({k: v % 8 for k, v in case.path_parameters.items() if isinstance(v, int)})
            answer = case.call(base_url=busy, timeout=30) if WAITING.fullmatch(case.path) else case.call(timeout=30)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

        try:
            fuzz()
        except Exception as error:
            failed[operation.label] = f"{type(error).__name__}: {error}"[:500]
    assert failed == {}
    assert tried > 0


# ---- what a fuzz does not come upon --------------------------------------------------------------------------------------------

HOSTILE: list[Any] = [
    None,
    True,
    -1,
    2**63,
    2**64,
    -(2**70),
    1e308,
    "",
    "\0",
    "\ud800",
    "a" * 70_000,
    "\u202e",
    [],
    [[]],
    {},
    {"kind": "text"},
    ["a"] * 2000,
]


@pytest.mark.parametrize(
    "path", ["/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/sdapi/v1/extra-single-image"]
)
def test_every_field_that_is_waited_for_may_hold_anything(path: str, served: Any) -> None:
    """One field at a time of a request that is otherwise right, to a server whose queue is full: read and checked, and then 429."""
    described, _, busy = served
    fields = described.raw_schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    named = described.raw_schema["components"]["schemas"][fields["$ref"].rpartition("/")[2]]["properties"]
    picture = base64.b64encode(PNG).decode()
    bodies: dict[str, dict[str, Any]] = {
        "/v1/images/generations": {"prompt": "bag", "model": "tiny"},
        "/sdapi/v1/txt2img": {"override_settings": {"sd_model_checkpoint": "tiny"}},
        "/sdapi/v1/img2img": {"override_settings": {"sd_model_checkpoint": "tiny"}, "init_images": [picture]},
        "/sdapi/v1/extra-single-image": {"image": picture},
    }
    right = bodies[path]
    told = dict[str, int]()
    with httpx.Client(base_url=busy, timeout=60) as client:
        first = client.post(path, json=right).status_code
        assert first == (200 if path.endswith("extra-single-image") else 429)
        for name in [*named, "nobody", "enable_hr", "script_name", "styles"]:
            for value in HOSTILE:
                body = json.dumps({**right, name: value})
                answer = client.post(path, content=body, headers={"content-type": "application/json"})
                if answer.status_code >= 500 or (answer.status_code >= 400 and set(answer.json()) != {"error"}):
                    told[f"{name}={str(value)[:20]!r}"] = answer.status_code
    assert told == {}


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/images/variations"])
def test_every_form_that_is_waited_for_may_hold_anything(path: str, served: Any) -> None:
    busy = served[2]
    texts = ["", "\0", "-1", "1e400", "NaN", "a" * 70_000, "\u202e", "null", "[]", "99999x99999", "8x8\r\n", "\ufffd"]
    names = ["prompt", "model", "n", "size", "response_format", "output_format", "stream", "partial_images", "background"]
    names += ["seed", "steps", "negative_prompt", "guidance", "strength", "nobody"]
    told = dict[str, int]()
    with httpx.Client(base_url=busy, timeout=60) as client:
        right: dict[str, str] = {"prompt": "bag", "model": "tiny"}
        assert client.post(path, data=right, files={"image": ("a.png", PNG, "image/png")}).status_code == 429
        for name in names:
            for text in texts:
                answer = client.post(path, data={**right, name: text}, files={"image": ("a.png", PNG, "image/png")})
                if answer.status_code >= 500:
                    told[f"{name}={text[:20]!r}"] = answer.status_code
        for file in (b"", b"none", PNG[:40], PNG + b"more"):
            for field in ("image", "image[]", "mask", "model"):
                sent = {"image": ("a.png", PNG, "image/png"), field: ("a.png", file, "image/png")}
                answer = client.post(path, data=right, files=sent)
                if answer.status_code >= 500:
                    told[f"{field} of {file[:8]!r}"] = answer.status_code
        for body, kind in (
            (b"", "multipart/form-data"),
            (b"--x", "multipart/form-data; boundary=x"),
            (b"{}", "application/json"),
        ):
            answer = client.post(path, content=body, headers={"content-type": kind})
            if answer.status_code >= 500:
                told[kind] = answer.status_code
    assert told == {}


def test_a_text_of_a_megabyte_is_refused_wherever_one_is_taken(served: Any) -> None:
    """Every field of every body that holds text, or a list of texts, filled with 1 MB: refused, and soon."""
    described, run, busy = served
    components, long = described.raw_schema["components"]["schemas"], "word " * 200_000
    told, tried = dict[str, int](), 0
    with httpx.Client(base_url=busy, timeout=120) as client:
        for path, methods in described.raw_schema["paths"].items():
            for method, one in methods.items():
                body = one.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
                found = components.get(str(body.get("$ref", "")).rpartition("/")[2])
                if found is None or method == "get":
                    continue
                for name, about in found.get("properties", {}).items():
                    if '"string"' not in json.dumps(about) or name in ("image", "mask", "init_images", "imageList"):
                        continue
                    tried += 1
                    where = path.replace("{id}", run).replace("{k}", "1").replace("{name}", "tiny")
                    for value in (long, [long]):
                        answer = client.request(method, where, json={**_least(found, components), name: value})
                        if not 400 <= answer.status_code < 500:
                            told[f"{method} {path} {name}"] = answer.status_code
    assert told == {}
    assert tried > 40


def _least(found: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """The fields that a body must have, with something in them."""
    values: dict[str, Any] = {"string": "a", "array": [], "object": {}, "integer": 1, "number": 1.0, "boolean": True}
    return {name: values.get(found["properties"][name].get("type"), "a") for name in found.get("required", ())}


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), 128).save(out, "PNG")
    return out.getvalue()


PNG = _png()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return app(Settings(folder=tmp_path_factory.mktemp("whole"), devices=())).openapi()


def test_every_reference_leads_somewhere(whole: dict[str, Any]) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    there = {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}
    assert set(references(whole)) <= there


@pytest.mark.parametrize("family", schema.FAMILIES)
def test_every_kind_is_in_it_with_its_fields(family: str, whole: dict[str, Any]) -> None:
    """The registry is parametrised over: a new part is in the schema by existing."""
    for kind, spec in kinds(family).items():
        found = whole["components"]["schemas"][schema.component(family, kind)]
        assert set(found["properties"]) == {"kind", *spec.model_fields}


def test_every_path_says_what_it_answers(whole: dict[str, Any]) -> None:
    silent = {
        f"{method} {path}"
        for path, methods in whole["paths"].items()
        for method, one in methods.items()
        for status, answer in one["responses"].items()
        if status.startswith("2")
        and status != "204"
        and not any("schema" in c or "image/" in m or "text/" in m for m, c in answer.get("content", {}).items())
    }
    assert silent == set()
    assert all(one.get("description") or one.get("summary") for methods in whole["paths"].values() for one in methods.values())


def test_a_form_can_be_made_of_the_parts() -> None:
    request = schema.request()
    assert request["properties"]["sampler"]["anyOf"][0] == {"x-family": "sampler"}
    inpaint = next(part for part in schema.parts("task") if part["kind"] == "inpaint")
    assert {"mask", "feather", "strength"} <= set(inpaint["schema"]["properties"])
    assert "#/components" not in str(inpaint)
