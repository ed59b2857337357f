"""Mix: the browser's sums are the server's, the map's arrows carry the weights, and the terms are painted with one noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from safelight.text.arithmetic import Term, Text, parse, terms
from tests.studio.conftest import Studio

_TERMS = '[{"text":"a red apple","weight":1},{"text":"a blue star","weight":-0.5}]'
_MATHS = "async ([name, args]) => (await import('/studio/js/maths.js'))[name](...args)"


def test_expressions_are_what_the_parser_reads(page: Page, studio: Studio) -> None:
    page.goto("/mix")
    given = [
        {"text": 'a "big" cat', "weight": 1},
        {"text": "a dog\\", "weight": -0.25},
        {"text": "a red apple", "weight": 2, "word": "red"},
        {"text": "  ", "weight": 1},
        {"text": "nothing", "weight": 0},
    ]
    said = page.evaluate(_MATHS, ["expression", [given]])
    assert terms(parse(said)) == (
        Term(1.0, Text('a "big" cat')),
        Term(-0.25, Text("a dog\\")),
        Term(2.0, Text("a red apple", "red")),
    )
    assert terms(parse(page.evaluate(_MATHS, ["expression", [[{"text": "x", "weight": -1}]]]))) == (Term(-1.0, Text("x")),)


def test_principal_axes_are_those_of_numpy(page: Page, studio: Studio) -> None:
    page.goto("/mix")
    rows = np.random.default_rng(3).normal(size=(9, 40)) @ np.diag(np.linspace(3, 0.1, 40))
    ask = "async ([r, c]) => { const p = (await import('/studio/js/maths.js')).pca(r, c); return [p.points, p.share] }"
    for centred in (True, False):
        points, share = page.evaluate(ask, [rows.tolist(), centred])
        again, _ = page.evaluate(ask, [rows.tolist(), centred])
        assert points == again
        moved = rows - rows.mean(0) if centred else rows
        u, s, _ = np.linalg.svd(moved, full_matrices=False)
        expected = u[:, :2] * s[:2]
        expected *= np.sign((expected * np.array(points)).sum(0))
        np.testing.assert_allclose(points, expected, atol=1e-6)
        np.testing.assert_allclose(share, (s**2 / (s**2).sum())[:2], atol=1e-9)


def test_blends_lie_on_the_line_and_on_the_arc(page: Page, studio: Studio) -> None:
    page.goto("/mix")
    assert page.evaluate(_MATHS, ["blendWeights", ["lerp", [3, 1]]]) == [0.75, 0.25]
    angle = 1.1
    a, b = page.evaluate(_MATHS, ["blendWeights", ["slerp", [1, 3], angle]])
    p, q = np.array([1, 0]), np.array([math.cos(angle), math.sin(angle)])
    np.testing.assert_allclose(a * p + b * q, [math.cos(0.75 * angle), math.sin(0.75 * angle)], atol=1e-12)


@pytest.mark.parametrize("lengths", [True, False])
def test_the_pages_sum_is_the_models(page: Page, studio: Studio, lengths: bool) -> None:
    """Lengths and cosines that the page works out from the embeddings are those of the task that paints, to 1e-4."""
    from safelight.model import load
    from safelight.task.mix import Mix

    page.goto("/mix")
    texts, weights = ["a red apple", "a blue star", "a star"], [1.0, 0.5, -0.75]
    ask = """async ([rows, w, t, l]) => {
      const r = (await import("/studio/js/mix.js")).reported(rows, w, t, l);
      return [r.length, r.rows.map((x) => x.cosine), r.result];
    }"""
    rows = studio.call("POST", "/v1/embed", {"texts": texts})["vectors"]
    length, cosines, result = page.evaluate(ask, [rows, weights, texts, lengths])
    task = Mix(
        expression=" + ".join(f'{w} * "{t}"' for w, t in zip(weights, texts, strict=True)).replace("+ -", "- "), lengths=lengths
    )
    model = load("sprites-small")
    assert model.text is not None
    with torch.inference_mode():
        blended = task.blend(model.text, "a1111")
    np.testing.assert_allclose(result, blended.vector.numpy(), atol=1e-4)
    np.testing.assert_allclose(length, float(blended.vector.norm()), rtol=1e-4)
    expected = [float(v.vector @ blended.vector / v.vector.norm() / blended.vector.norm()) for v in blended.values]
    np.testing.assert_allclose(cosines, expected, atol=1e-4)


def test_an_arrow_carries_its_weight_and_paints_on_release(page: Page, studio: Studio) -> None:
    page.goto(f"/mix?terms={_TERMS}&seed=5")
    tip = page.get_by_role("slider", name="Weight of a red apple", exact=True)
    tip.scroll_into_view_if_needed()
    svg, at = page.locator(".map").bounding_box(), tip.bounding_box()
    assert svg is not None and at is not None
    middle = svg["x"] + svg["width"] / 2, svg["y"] + svg["height"] / 2
    end = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    half = [m + (e - m) / 2 for m, e in zip(middle, end, strict=True)]
    runs: list[dict[str, Any]] = []
    page.on("response", lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs") and runs.append(r.json()))
    page.mouse.move(*end)
    page.mouse.down()
    page.mouse.move(*half, steps=4)
    expect(page.locator(".equation")).to_have_text('0.5 * "a red apple" - 0.5 * "a blue star"')
    assert not runs
    page.mouse.up()
    expect(page.locator(".shots figure")).to_have_count(3)
    assert {r["group"] for r in runs} == {page.evaluate("new URL(location).searchParams.get('group')") or runs[0]["group"]}
    assert [r["request"]["seed"] for r in runs] == [5, 5, 5]
    assert runs[-1]["request"]["task"]["expression"] == '0.5 * "a red apple" - 0.5 * "a blue star"'
    done = [studio.wait(r["id"]) for r in runs]
    expect(page.locator(f".shots canvas[data-step='{done[-1]['steps'] - 1}']")).to_have_count(3)
    page.get_by_label("Step", exact=True).fill("1")
    expect(page.locator(".shots canvas[data-step='1']")).to_have_count(3)


def test_a_concept_is_a_word_of_every_prompt(page: Page, studio: Studio) -> None:
    page.goto(f"/mix?terms={_TERMS}")
    page.get_by_label("Save this sum as").fill("my-style")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".concepts li")).to_contain_text(["<my-style>"])
    page.reload()
    expect(page.locator(".concepts li")).to_contain_text(["<my-style>"])
    run = studio.make(prompt=["<my-style>"], steps=1, count=1)
    assert terms(parse(run["request"]["task"]["expression"])) == (
        Term(1.0, Text("a red apple")),
        Term(-0.5, Text("a blue star")),
    )
    studio.call("POST", f"/v1/runs/{run['id']}/cancel")
    page.get_by_role("button", name="Delete my-style").click()
    expect(page.locator(".concepts li")).to_have_count(0)


def test_off_the_manifold_is_said_and_mended(page: Page, studio: Studio) -> None:
    page.goto(f"/mix?terms={_TERMS}&lengths=0")
    expect(page.get_by_text("off what the network has seen")).to_be_visible()
    page.get_by_role("button", name="Renormalise", exact=True).click()
    expect(page.get_by_text("off what the network has seen")).to_have_count(0)


@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, studio: Studio, clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/mix")
    page.wait_for_selector(".map .tip")
    clean(page)
