"""Explain: five stops with the run's own numbers, our code, the exact dial, painting on latents, the tour and the quiz."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio

STOPS = ("Words to tokens", "Tokens to vectors", "Noise to picture", "The loop", "Decode")


def _stop(page: Page, made: dict[str, Any], stop: int, step: int | None = None) -> None:
    page.goto(f"/explain/{made['id']}?stop={stop}" + (f"&step={step}" if step is not None else ""))
    page.wait_for_selector("#stop")
    expect(page.locator("#stop [aria-busy=true]")).to_have_count(0)


def test_words_are_merged_as_the_tokenizer_merges(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    words = studio.call("GET", f"/v1/runs/{made['id']}/explain")["tokens"]["words"]
    _stop(page, made, 0)
    assert page.locator(".word b").all_inner_texts() == [w["text"] for w in words]
    for box, word in zip(page.locator(".word").all(), words, strict=True):
        assert box.locator(".pieces span").all_inner_texts() == word["merges"][-1]
        expect(box.locator("small")).to_have_text(f"id {', '.join(map(str, word['ids']))}")
    page.get_by_label("Merges").fill("0")
    for box, word in zip(page.locator(".word").all(), words, strict=True):
        assert box.locator(".pieces span").all_inner_texts() == word["merges"][0]


def test_vectors_compare_two_pieces(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    vectors = studio.call("GET", f"/v1/runs/{made['id']}/explain")["vectors"]
    _stop(page, made, 1)
    page.locator("#stop select[aria-label='Word 1']").select_option(index=2)
    page.locator(".places .chip").nth(3).drag_to(page.locator("#stop select[aria-label='Word 2']"))
    table, after = vectors["cosines_table"][2][3], vectors["cosines"][2][3]
    expect(page.locator("#stop [role=status]")).to_contain_text(f"{table:.3f}")
    expect(page.locator("#stop [role=status]")).to_contain_text(f"{after:.3f}")


def test_the_equation_holds_with_the_numbers_shown(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """The values under "show maths" are of this step, and satisfy the equation they stand in, to their last digit."""
    _stop(page, made, 2, 3)
    page.get_by_text("Show maths").click()
    text = page.locator(".maths").inner_text()
    value = {m[1]: float(m[2]) for m in re.finditer(r"^\s+(\w+) = (-?[\d.]+)", text, re.M)}
    run = studio.call("GET", f"/v1/runs/{made['id']}")
    _, alpha, sigma = run["levels"][3]
    assert "step 4" in text
    assert value["x"] == pytest.approx(alpha * value["x0"] + sigma * value["eps"], abs=2e-4)
    scale = run["request"]["mix"]["scale"]
    assert value["x0"] == pytest.approx(value["null"] + scale * (value["cond"] - value["null"]), abs=1e-3)


def test_dial_decode_and_fork(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    _stop(page, made, 2, 2)
    page.get_by_label("Guidance").fill("6")
    page.get_by_role("button", name="Decode it").click()
    expect(page.get_by_alt_text("The belief at guidance 6")).to_be_visible()
    page.get_by_role("button", name="the words' doing").click()
    expect(page.locator(".channels canvas")).to_have_count(
        studio.call("GET", f"/v1/runs/{made['id']}/explain")["decode"]["shape"][0]
    )
    page.get_by_role("button", name="Run from here with 6.0").click()
    page.wait_for_url("**/run/*")
    forked = studio.wait(page.url.split("/run/")[1].split("?")[0])
    assert (forked["parent"], forked["fork_step"], forked["request"]["mix"]["scale"]) == (made["id"], 2, 6)


def test_our_own_code_is_shown(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    import inspect

    from safelight.sample import trajectory

    _stop(page, made, 3)
    page.get_by_text("Show code").click()
    page.get_by_role("radio", name="loop", exact=True).click()
    expect(page.locator("#stop pre")).to_contain_text("def trajectory")
    assert page.locator("#stop pre").inner_text().strip() == inspect.getsource(trajectory).strip()


def test_another_sampler_is_set_up_in_compare(page: Page, made: dict[str, Any]) -> None:
    _stop(page, made, 3)
    page.get_by_label("Another sampler").select_option("ddpm")
    page.get_by_role("button", name="Set it up in Compare").click()
    page.wait_for_url("**/compare*")
    expect(page.get_by_label("Values of axis 1")).to_have_value(re.compile("ddpm"))


def test_painting_on_a_channel_changes_the_decoded_picture(page: Page, made: dict[str, Any]) -> None:
    _stop(page, made, 4)
    for name in ("The channels", "Linear preview"):
        expect(page.locator(f"input[aria-label*='{name}'], input[aria-label*='Three channels']").first).to_be_attached()
    before = page.locator("img[alt='Decoded']").last.get_attribute("src")
    page.locator("canvas.paint").first.focus()
    page.keyboard.press("Enter")
    painted = page.get_by_alt_text("Decoded from what you painted")
    expect(painted).to_be_visible()
    assert painted.get_attribute("src") != before
    page.get_by_role("button", name="As it was").click()
    expect(painted).to_have_count(0)


def test_tour_leads_through_all_five_and_remembers(page: Page, made: dict[str, Any]) -> None:
    page.goto(f"/explain/{made['id']}?mode=tour")
    bar = page.get_by_role("complementary", name="Tour")
    visited = []
    for i in range(10):
        expect(bar.locator("small")).to_have_text(f"{i + 1} of 10")
        visited.append(page.locator("[role=tab][aria-selected=true]").inner_text())
        if i == 4:
            page.reload()
            expect(bar.locator("small")).to_have_text("5 of 10")
        if i < 9:
            bar.get_by_role("button", name="Next").click()
    assert list(dict.fromkeys(visited)) == [f"{i + 1} {name}" for i, name in enumerate(STOPS)]
    bar.get_by_role("button", name="To the quiz").click()
    expect(page.get_by_role("heading", name="Which came first?")).to_be_visible()


def test_quiz_is_scored(page: Page, made: dict[str, Any]) -> None:
    """Whoever knows the steps gets all eight; the pictures shown are those of the steps asked about."""
    page.goto(f"/explain/{made['id']}?mode=quiz")
    for i in range(8):
        expect(page.locator(".quiz [role=status]")).to_contain_text(f"Question {i + 1} of 8")
        expect(page.locator(".quiz canvas[data-step]")).to_have_count(2)
        steps = [int(c.get_attribute("data-step") or -1) for c in page.locator(".quiz canvas").all()]
        assert steps[0] != steps[1]
        page.keyboard.press("a" if steps[0] < steps[1] else "b")
        expect(page.locator(".quiz .two button.right")).to_have_count(1)
        page.locator(".quiz button.primary").click()
    expect(page.locator(".quiz [role=status]")).to_contain_text("8 of 8 right")


def test_two_prompts_one_noise(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    page.goto(f"/explain/{made['id']}?mode=prompts")
    page.get_by_label("The other prompt").fill("a red umbrella on a blue background")
    with page.expect_response(lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs")) as posted:
        page.get_by_role("button", name="Run it").click()
    other = studio.wait(posted.value.json()["id"])
    assert (other["seed"], other["steps"]) == (made["seed"], made["steps"])
    expect(page.locator(".map polyline")).to_have_count(2)
    marked = page.locator(".pieces span[style*=outline]")
    assert [t.replace("</w>", "").strip() for t in marked.all_inner_texts()] == ["apple", "umbrella"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, made: dict[str, Any], clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for stop in range(5):
        _stop(page, made, stop)
        for summary in page.locator("#stop summary").all():
            summary.click()
        page.wait_for_timeout(300)
        clean(page)
    for mode in ("quiz", "tour", "prompts"):
        page.goto(f"/explain/{made['id']}?mode={mode}")
        page.wait_for_selector("main h1")
        page.wait_for_timeout(500)
        clean(page)
