"""The schema is true: what it says is accepted is, what is answered is as it says, and nothing that fits it breaks the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

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
    with serving(folder, devices=(), limits=limits) as running:
        assert running.client.get("/openapi.json").status_code == 200  # made when it is first asked for, which takes a while
        yield schemathesis.openapi.from_url(f"{running.address}/openapi.json"), done["id"]


# Streams without an end, and answers that wait for a worker, which this server has not.
WAITING = re.compile(r"/v1/(events|images/.*)|/sdapi/v1/(txt2img|img2img)")
BOUNDED: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.generate],
}


@pytest.mark.parametrize("examples", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tag", ["runs", "words", "models", "studio", "a1111", "health"])
def test_nothing_that_is_sent_breaks_the_server(tag: str, examples: int, served: Any) -> None:
    described, run = served
    tried, failed = 0, dict[str, str]()
    for result in described.get_all_operations():
        operation = result.ok()
        if WAITING.fullmatch(operation.path) or tag not in operation.definition.raw["tags"]:
            continue

        @given(case=operation.as_strategy())
        @settings(**BOUNDED, max_examples=examples)
        def fuzz(case: Any) -> None:
            nonlocal tried
            tried += 1
            if case.path in ("/v1/runs", "/v1/runs/{id}/fork"):
                case.query.pop("picture", None)  # it would wait
            elif isinstance(case.query.get("picture"), int):
                case.query["picture"] %= 2
            if "id" in case.path_parameters and case.method != "DELETE":  # of which most would otherwise say that there is none
                case.path_parameters["id"] = run
                case.path_parameters.update({k: v % 8 for k, v in case.path_parameters.items() if isinstance(v, int)})
            answer = case.call(timeout=30)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

        try:
            fuzz()
        except Exception as error:
            failed[operation.label] = f"{type(error).__name__}: {error}"[:500]
    assert failed == {}
    assert tried > 0


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
