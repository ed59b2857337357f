"""Create: chips, linter, presets, permutations, the live preview, stop and resume, batches, and what stands under a picture."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio, until


def fill(page: Page, **fields: Any) -> None:
    """Set fields of the form, as a screen that preloads it does."""
    page.evaluate("(fields) => import('/studio/js/store.js').then((s) => s.fill('form', s.FORM, fields))", fields)


def form(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.evaluate("localStorage.getItem('safelight.form')"))
    return found


def open_(page: Page, **fields: Any) -> None:
    page.goto("/create")
    page.wait_for_selector("#prompt")
    fill(page, locked=True, seed=3, steps=4, **fields)


def test_chips_show_tokens_and_weigh_words(page: Page) -> None:
    open_(page)
    page.fill("#prompt", "a (red:1.2) apple")
    chip = page.locator(".token", has_text="apple")
    expect(chip).to_be_visible()
    page.get_by_role("button", name="More apple").click()
    expect(page.locator("#prompt")).to_have_value("a (red:1.2) (apple:1.1)")
    page.get_by_role("button", name="More red").click()
    expect(page.locator("#prompt")).to_have_value("a (red:1.3) (apple:1.1)")
    expect(page.locator(".token.heavy")).to_have_count(2)
    page.get_by_role("button", name="Less apple").click()
    expect(page.locator("#prompt")).to_have_value("a (red:1.3) apple")


@pytest.mark.parametrize(
    ("prompt", "word", "had", "weight", "wanted"),
    [
        ("a cat", "cat", 1, 1.1, "a (cat:1.1)"),
        ("a (cat:1.1)", "cat", 1.1, 1.0, "a cat"),
        ("((cat:1.5) dog:1.2)", "cat", 1.8, 1.2, "(cat dog:1.2)"),
        ("(big cat:1.2)", "cat", 1.2, 1.32, "(big (cat:1.1):1.2)"),
        ("schön", "schön", 1, 0.9, "(schön:0.9)"),
    ],
)
def test_reweigh(page: Page, prompt: str, word: str, had: float, weight: float, wanted: str) -> None:
    page.goto("/create")
    start = prompt.index(word)
    args = [prompt, start, start + len(word), had, weight]
    assert page.evaluate("(a) => import('/studio/js/create.js').then((c) => c.reweigh(...a))", args) == wanted


def test_findings_are_fixed_and_explained(page: Page) -> None:
    open_(page)
    page.fill("#prompt", "a red apple, no dogs")
    finding = page.locator(".finding").first
    finding.get_by_role("button", name="Why").click()
    expect(finding.get_by_role("link", name="See it in Explain")).to_have_attribute("href", re.compile("/explain"))
    finding.get_by_role("button", name="Fix").click()
    expect(page.locator("#prompt")).to_have_value("a red apple")
    assert "dogs" in form(page)["negative"]


def test_presets_scratchpad_remix_and_permutations(page: Page) -> None:
    open_(page)
    page.fill("#prompt", "a {red|blue} {cat|dog}")
    expect(page.locator("label[for=prompt]")).to_contain_text("4 prompts, 4 pictures")
    page.get_by_role("button", name="Draft").click()
    assert form(page)["steps"] == 8
    page.get_by_role("button", name="Preset", exact=True).click()
    page.get_by_label("Name of the preset").fill("mine")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Model's own").click()
    assert form(page)["steps"] is None
    page.get_by_role("button", name="mine", exact=True).click()
    assert form(page)["steps"] == 8
    page.fill("#prompt", "one red cat")
    page.get_by_role("button", name="To scratchpad").click()
    page.get_by_role("button", name="Remix").click()
    mixed = page.input_value("#prompt")
    assert mixed != "one red cat" and mixed
    page.reload()
    expect(page.locator("#prompt")).to_have_value(mixed)
    page.locator("summary", has_text="Scratchpad").click()
    page.get_by_role("button", name="one red cat").click()
    expect(page.locator("#prompt")).to_have_value("one red cat")


def test_drawer_is_made_of_the_registry_and_makes_the_request(page: Page, studio: Studio) -> None:
    open_(page, more=True)
    page.fill("#prompt", "a cat")
    kinds = [part["kind"] for part in studio.call("GET", "/v1/samplers")["samplers"]]
    until(page, "document.querySelectorAll('.more select option').length > 5")
    sampler = page.get_by_label("Sampler")
    assert list(sampler.locator("option").all_inner_texts())[1:] == kinds
    sampler.select_option("ddim")
    page.get_by_label("Eta, number").fill("0.5")
    page.get_by_label("Eta, number").blur()
    page.get_by_label("Negative prompt").fill("red")
    page.get_by_label("Guidance, number").fill("4")
    page.get_by_label("Guidance, number").blur()
    assert form(page)["guidance"] == 4
    page.get_by_label("Steps, number").fill("3")
    page.get_by_label("Steps, number").blur()
    page.get_by_role("radio", name="To fork").click()
    with page.expect_response(lambda r: r.url.endswith("/v1/runs") and r.request.method == "POST") as sent:
        page.keyboard.press("Control+Enter")
    body = json.loads(sent.value.request.post_data or "{}")
    asked = body["request"]
    assert asked["sampler"] == {"kind": "ddim", "eta": 0.5} and asked["negative"] == "red" and asked["steps"] == 3
    assert asked["mix"]["scale"] == 4 and body["record"] == "exact"
    run = studio.wait(sent.value.json()["id"])
    assert run["request"]["sampler"]["eta"] == 0.5 and run["seed"] == 3


def test_picture_develops_live_then_stops_and_resumes_to_the_same(page: Page, studio: Studio) -> None:
    """Every step is shown as it is made; a stopped run keeps what it has and goes on to the picture of an uninterrupted one."""
    open_(page)
    fill(page, steps=1000)
    page.fill("#prompt", "a green tree")
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => { const c = document.querySelector('.view .stage canvas');
        if (c) window.seen.add(c.dataset.step); }).observe(document.body, { subtree: true, attributes: true, childList: true }); }"""
    )
    page.get_by_role("button", name="Generate").click()
    until(page, "window.seen.size >= 4")
    expect(page.locator(".view [aria-live=polite]")).to_contain_text(re.compile(r"step \d+ of 1000, sigma [\d.]+"))
    page.locator(".go").get_by_role("button", name="Stop").click()
    resume = page.get_by_role("button", name="Resume", exact=True)
    expect(resume).to_be_visible()
    run = studio.call("GET", "/v1/runs?limit=1")["runs"][0]
    assert run["state"] == "stopped" and 0 < run["steps_done"] < 1000
    resume.click()
    page.wait_for_selector(".stage img.shot")
    again = studio.wait(studio.make(prompt=["a green tree"], seed=3, steps=1000, count=1)["id"])
    assert studio.wait(run["id"])["pictures"][0]["seal"] == again["pictures"][0]["seal"]
    assert len(page.evaluate("[...window.seen]")) >= 12


def test_queueing_cancelling_and_batches_in_step(page: Page, studio: Studio) -> None:
    open_(page, count=3)
    page.fill("#prompt", "a yellow sun")
    fill(page, steps=12)
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Queue another").click()
    expect(page.locator(".count")).to_contain_text("2 jobs")
    page.locator(".count").click()
    expect(page.locator("#tray li").nth(1)).to_contain_text("queued")
    page.locator("#tray li").nth(1).get_by_role("button").click()
    expect(page.locator("#tray li")).to_have_count(1)
    page.keyboard.press("Escape")
    page.wait_for_selector(".view .stage img.shot")
    thumbs = page.locator(".batch button")
    expect(thumbs).to_have_count(3)
    thumbs.nth(2).click()
    strip = page.locator(".dock .strip")
    strip.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    steps = page.locator(".batch canvas, .view .stage canvas").evaluate_all("(all) => all.map((c) => c.dataset.step)")
    assert steps == ["1"] * 4
    page.get_by_role("button", name="back to the finished picture").click()
    expect(page.locator(".view .stage img.shot")).to_have_attribute("src", re.compile(r"/pictures/2\.png"))


def test_under_the_picture(page: Page, studio: Studio, made: dict[str, Any], tmp_path: Path) -> None:
    """Every action leads where it says; Copy curl makes the same bytes, Copy CLI the same command as the server's own."""
    page.goto("/create")
    page.evaluate("(id) => localStorage.setItem('safelight.current', JSON.stringify(id))", made["id"])
    page.reload()
    page.wait_for_selector(".view .tools")
    with page.expect_download() as got:
        page.get_by_role("link", name="Download").click()
    assert Path(got.value.path()).read_bytes() == studio.raw(made["pictures"][0]["url"])
    page.get_by_role("button", name="Copy CLI").click()
    expect(page.locator(".note").filter(has_text="Command copied")).to_be_visible()
    commands = studio.call("GET", f"/v1/runs/{made['id']}/commands")
    assert page.evaluate("navigator.clipboard.readText()") == commands["cli"]
    page.get_by_role("button", name="Copy curl").click()
    expect(page.locator(".note").filter(has_text="curl command copied")).to_be_visible()
    subprocess.run(page.evaluate("navigator.clipboard.readText()"), shell=True, check=True, cwd=tmp_path, timeout=90)
    assert (tmp_path / "0.png").read_bytes() == studio.raw(made["pictures"][0]["url"])
    for name, address in (("Edit", "/edit/"), ("Morph", "/morph?run="), ("Explain", "/explain/"), ("Microscope", "/run/")):
        link = page.locator(".tools").get_by_role("link", name=name, exact=True)
        assert (link.get_attribute("href") or "").startswith(address)
    page.get_by_role("button", name="Reuse settings").click()
    assert form(page)["prompt"] == "a red apple on a blue background" and form(page)["seed"] == 7
    page.get_by_role("button", name="Vary").click()
    page.wait_for_selector(".batch button:nth-child(4)")
    runs = studio.call("GET", "/v1/runs?limit=3")["runs"]
    varied = next(r for r in runs if r["parent"] == made["id"] and r["relation"] == "vary")
    assert studio.wait(varied["id"])["kind"] == "vary" and len(studio.wait(varied["id"])["pictures"]) == 4
    page.get_by_role("button", name="Upscale").wait_for()
    with page.expect_response(lambda r: r.url.endswith("/v1/runs") and r.request.method == "POST") as sent:
        page.get_by_role("button", name="Upscale").click()
    large = studio.wait(sent.value.json()["id"])
    assert large["parent"] == varied["id"] and [(p["width"], p["height"]) for p in large["pictures"]] == [(128, 128)]
    page.wait_for_selector(".view .tools")
    page.get_by_role("button", name="Compare").click()
    expect(page).to_have_url(re.compile("/compare"))
