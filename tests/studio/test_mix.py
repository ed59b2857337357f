"""Mix: the browser's sums are the server's, the map's arrows carry the weights, and the terms are painted with one noise."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from safelight.text.arithmetic import Picture, Term, Text, parse, terms
from tests.studio.conftest import Studio, until

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
        {"text": "next to nothing", "weight": -0.00001},
        {"text": "", "weight": 0.5, "seal": "sha256:00ff"},
    ]
    said = page.evaluate(_MATHS, ["expression", [given]])
    assert terms(parse(said)) == (
        Term(1.0, Text('a "big" cat')),
        Term(-0.25, Text("a dog\\")),
        Term(2.0, Text("a red apple", "red")),
        Term(0.5, Picture("sha256:00ff")),
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


def _asked(page: Page) -> list[dict[str, Any]]:
    """The runs that the page asks for from now on."""
    runs: list[dict[str, Any]] = []
    page.on("response", lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs") and runs.append(r.json()))
    return runs


def _come(page: Page, runs: list[dict[str, Any]], n: int) -> None:
    """Wait for the answers to n requests."""
    for _ in range(600):
        if len(runs) >= n:
            break
        page.wait_for_timeout(50)
    assert len(runs) == n


def test_an_arrow_carries_its_weight_and_paints_on_release(page: Page, studio: Studio) -> None:
    """By pointer and by keys; the terms' own pictures are made once, each sum beside them."""
    page.goto(f"/mix?terms={_TERMS}&seed=5")
    tip = page.get_by_role("slider", name="Weight of a red apple", exact=True)
    tip.scroll_into_view_if_needed()
    svg, at = page.locator(".map").bounding_box(), tip.bounding_box()
    assert svg is not None and at is not None
    middle = svg["x"] + svg["width"] / 2, svg["y"] + svg["height"] / 2
    end = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    half = [m + (e - m) / 2 for m, e in zip(middle, end, strict=True)]
    runs = _asked(page)
    page.mouse.move(*end)
    page.mouse.down()
    page.mouse.move(*half, steps=4)
    expect(page.locator(".equation")).to_have_text('0.5 * "a red apple" - 0.5 * "a blue star"')
    assert not runs
    page.mouse.up()
    expect(page.locator(".shots figure")).to_have_count(3)
    _come(page, runs, 3)
    group = runs[0]["group"]
    assert [r["group"] for r in runs] == [group] * 3 and [r["request"]["seed"] for r in runs] == [5, 5, 5]
    assert runs[-1]["request"]["task"]["expression"] == '0.5 * "a red apple" - 0.5 * "a blue star"'
    done = [studio.wait(r["id"]) for r in runs]
    expect(page.locator(f".shots canvas[data-step='{done[-1]['steps'] - 1}']")).to_have_count(3)
    page.get_by_label("Step", exact=True).fill("1")
    expect(page.locator(".shots canvas[data-step='1']")).to_have_count(3)

    tip.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".equation")).to_have_text('0.6 * "a red apple" - 0.5 * "a blue star"')
    expect(tip).to_have_attribute("aria-valuenow", "0.6")
    page.keyboard.press("Enter")
    expect(page.locator(".shots figure")).to_have_count(4)
    _come(page, runs, 4)
    assert runs[3]["group"] == group
    expect(page.locator(".shots .sum figcaption").first).to_have_text('0.6 * "a red apple" - 0.5 * "a blue star"')
    page.reload()
    expect(page.locator(".shots figure")).to_have_count(4)
    studio.wait(runs[3]["id"])


def test_words_and_captions_come_by_themselves_and_a_change_leaves_the_search(page: Page, studio: Studio) -> None:
    """What is shown is what the server finds; an answer that nobody waits for any more is given up."""
    page.goto(f"/mix?terms={_TERMS}")
    near = page.locator(".card", has_text="Nearest words").locator("li")
    told = studio.call("POST", "/v1/mix", {"expression": '"a red apple" - 0.5 * "a blue star"', "k": 8, "captions": False})[
        "words"
    ]
    expect(near).to_have_text([f"{n['what']} {n['cosine']:.3f}" for n in told])
    left: list[str] = []
    page.on("requestfailed", lambda r: r.url.endswith("/v1/mix") and left.append(r.failure or ""))
    page.route("**/v1/mix", lambda route: None if route.request.post_data_json.get("captions") is None else route.continue_())
    with page.expect_request(lambda r: r.url.endswith("/v1/mix") and "captions" not in r.post_data_json):
        page.get_by_role("textbox", name="Term 2").fill("a green star")
    page.get_by_role("textbox", name="Term 2").fill("a blue cat")
    until(page, "() => document.querySelectorAll('.near li').length && true")
    expect(page.locator(".equation")).to_contain_text("a blue cat")
    page.wait_for_timeout(500)
    assert left and "ABORTED" in left[0]
    page.unroute("**/v1/mix")
    page.get_by_role("textbox", name="Term 2").fill("a blue star")
    captions = page.locator(".card", has_text="Nearest captions").locator("li")
    expect(captions).to_have_count(6, timeout=120_000)
    found = studio.call("POST", "/v1/mix", {"expression": '"a red apple" - 0.5 * "a blue star"', "k": 6})["captions"]
    expect(captions).to_have_text([f"{n['what']} {n['cosine']:.3f}" for n in found])


def test_blends_and_one_token(page: Page, studio: Studio) -> None:
    """A blend's weights are on the line or on the arc; in one token's scope all numbers are the server's."""
    terms_ = '[{"text":"a red apple","weight":0.5},{"text":"a blue star","weight":1.5}]'
    page.goto(f"/mix?terms={terms_}")
    expect(page.locator(".map .tip")).to_have_count(2)
    page.get_by_role("radio", name="Blend", exact=True).click()
    expect(page.locator(".equation")).to_have_text('0.25 * "a red apple" + 0.75 * "a blue star"')
    expect(page.locator(".map .tip")).to_have_count(0)
    page.get_by_role("radio", name="Blend on the arc").click()
    a, b = (np.array(v) for v in studio.call("POST", "/v1/embed", {"texts": ["a red apple", "a blue star"]})["vectors"])
    angle = math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    wanted = [f"{math.sin(u * angle) / math.sin(angle):.3f}" for u in (0.25, 0.75)]
    expect(page.locator(".equation")).to_contain_text(wanted[0][:5])
    expect(page.locator(".equation")).to_contain_text(wanted[1][:5])
    page.get_by_role("radio", name="Add", exact=True).click()
    page.get_by_role("radio", name="One token").click()
    page.get_by_label("Word of term 1").select_option("red")
    said = '0.5 * "a red apple"[red] + 1.5 * "a blue star"'
    expect(page.locator(".equation")).to_have_text(said)
    told = studio.call("POST", "/v1/mix", {"expression": said, "captions": False})
    lengths = [f"{r['length']:.2f}" for r in told["rows"]] + [f"{told['length']:.2f}"]
    expect(page.locator(".bars dd")).to_have_text(lengths)
    runs = _asked(page)
    page.get_by_role("button", name="Run", exact=True).first.click()
    expect(page.locator(".shots figure")).to_have_count(3)
    _come(page, runs, 3)
    assert studio.wait(runs[-1]["id"])["request"]["task"]["expression"] == said


def test_a_picture_is_a_term(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """Dropped onto the equation or chosen among the runs; it is summed in the shared space, and painted as the same request is."""
    page.goto('/mix?terms=[{"text":"a blue star","weight":1}]')
    page.wait_for_selector(".map")
    drop = """async ([data, away]) => {
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), carried = new DataTransfer();
      carried.items.add(new File([bytes], "photo.png", { type: "image/png" }));
      const box = document.querySelector(".terms").getBoundingClientRect(), clientX = box.left + 20;
      const clientY = away ? innerHeight - 4 : box.top + 10;
      for (const kind of ["dragenter", "dragover", "drop"]) {
        const event = new DragEvent(kind, { clientX, clientY, dataTransfer: carried, bubbles: true, cancelable: true });
        document.elementFromPoint(clientX, clientY).dispatchEvent(event);
      }
    }"""
    data = base64.b64encode(studio.raw(made["pictures"][0]["url"])).decode()
    page.evaluate(drop, [data, True])
    expect(page.get_by_role("dialog")).to_contain_text("It remembers how it was made")  # beside the equation it is the shell's
    page.keyboard.press("Escape")
    page.evaluate(drop, [data, False])
    expect(page.locator(".pictured")).to_have_text("photo.png")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("radio", name="Pooled")).to_have_attribute("aria-checked", "true")
    expect(page.locator(".equation")).to_have_text('"a blue star" + ▣')
    expect(page.locator(".map .tip")).to_have_count(2)
    page.get_by_role("button", name="Add a picture").click()
    page.get_by_role("dialog").get_by_role("button", name="a red apple on a blue background").first.click()
    expect(page.locator(".pictured")).to_have_count(2)
    page.get_by_role("button", name="Remove term 3").click()
    seal = made["pictures"][0]["seal"]
    lengths = studio.call(
        "POST", "/v1/mix", {"expression": f'"a blue star" + {seal}', "joint": "sprites-clip", "captions": False}
    )
    expect(page.locator(".bars dd")).to_have_text(
        [f"{v:.2f}" for v in [*(r["length"] for r in lengths["rows"]), lengths["length"]]]
    )
    runs = _asked(page)
    page.get_by_role("button", name="Run", exact=True).first.click()
    expect(page.locator(".shots figure")).to_have_count(3)
    _come(page, runs, 2)
    wanted = {"expression": f'"a blue star" + {seal}', "joint": "sprites-clip"}
    assert {name: runs[1]["request"]["task"][name] for name in wanted} == wanted
    assert studio.wait(runs[1]["id"], seconds=240)["pictures"]
    page.reload()
    expect(page.locator(".pictured")).to_have_count(1)


def test_a_concept_is_a_word_of_every_prompt(page: Page, studio: Studio) -> None:
    """Saved in Mix with its space and lengths, written in Create's prompt, it paints what its expression paints; also after a restart."""
    page.goto(f"/mix?terms={_TERMS}&lengths=0")
    page.get_by_label("Save this sum as").fill("my-style")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".concepts li")).to_contain_text(["<my-style>"])
    studio.restart()
    page.allowed += [r"ERR_", "console error"]  # type: ignore[attr-defined]
    page.goto("/mix")
    expect(page.locator(".concepts li")).to_contain_text(["<my-style>"])
    page.get_by_role("button", name="Use in Create").click()
    box = page.locator("#prompt")
    expect(box).to_have_value("<my-style>")
    runs = _asked(page)
    page.get_by_role("button", name="Generate", exact=True).click()
    _come(page, runs, 1)
    run = studio.wait(runs[0]["id"])
    task = run["request"]["task"]
    assert terms(parse(task["expression"])) == (Term(1.0, Text("a red apple")), Term(-0.5, Text("a blue star")))
    assert task["lengths"] is False and task["joint"] is None
    same = {k: run["request"][k] for k in ("seed", "steps", "count", "sampler", "grid", "mix", "size")}
    direct = studio.make(
        prompt=[""], task={"kind": "mix", "expression": '"a red apple" - 0.5 * "a blue star"', "lengths": False}, **same
    )
    plain = studio.make(prompt=["my-style"], **same)
    seals = [studio.wait(one["id"])["pictures"][0]["seal"] for one in (run, direct, plain)]
    assert seals[0] == seals[1] != seals[2]
    page.goto("/mix")
    page.get_by_role("button", name="Delete my-style").click()
    expect(page.locator(".concepts li")).to_have_count(0)
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator(".concepts li")).to_contain_text(["<my-style>"])
    kept = studio.call("GET", "/v1/concepts")["concepts"][0]
    assert (kept["lengths"], kept["joint"]) == (False, None)
    page.get_by_role("button", name="Delete my-style").click()
    expect(page.locator(".concepts li")).to_have_count(0)
    assert studio.call("GET", "/v1/concepts") == {"concepts": []}


def test_an_address_that_tells_nonsense_opens_all_the_same(page: Page, studio: Studio) -> None:
    for query in ("terms=nonsense", "terms=[1]", 'terms=[{"weight":"x","text":5}]&mode=odd&scope=odd&seed=x'):
        page.goto(f"/mix?{query}")
        expect(page.locator(".terms li").first).to_be_visible()


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
