"""Create: chips, linter, presets, permutations, the live preview, stop and resume, batches, and what stands under a picture."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.studio.conftest import Studio, until, watch


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


def test_what_one_window_does_not_hold_is_red(page: Page, studio: Studio) -> None:
    open_(page)
    prompt = ", ".join(f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cat", "dog", "tree"))
    told = studio.call("POST", "/v1/tokenize", {"prompt": prompt})
    beyond = [t["text"] for t in told["tokens"] if t["window"] > 0]
    assert beyond
    page.fill("#prompt", prompt)
    over = page.locator(".token.over > span:first-child")
    expect(over).to_have_count(len(beyond))
    red = page.evaluate("getComputedStyle(document.querySelector('.token.over')).color")
    assert red == page.evaluate("getComputedStyle(document.querySelector('small .over')).color") != "rgb(0, 0, 0)"
    expect(page.get_by_text(f"{len(beyond)} beyond the {told['limit']} that one window holds")).to_be_visible()
    cut = page.locator(".finding", has_text="tokens")
    cut.get_by_role("button", name="Fix").click()
    expect(page.locator(".token.over")).to_have_count(0)
    assert prompt.startswith(page.input_value("#prompt"))


def test_findings_are_fixed_and_explained(page: Page) -> None:
    open_(page)
    page.fill("#prompt", "a red apple, no dogs")
    finding = page.locator(".finding").first
    finding.get_by_role("button", name="Why").click()
    expect(finding.get_by_role("link", name="See it in Explain")).to_have_attribute(
        "href", re.compile("/explain.*stop=0&at=no%20dogs")
    )
    finding.get_by_role("button", name="Fix").click()
    expect(page.locator("#prompt")).to_have_value("a red apple")
    assert "dogs" in form(page)["negative"]


@pytest.mark.parametrize(
    ("kind", "asked", "mended"),
    [
        ("size", {"prompt": "a cat", "size": [60, 60]}, {"size": [64, 64], "prompt": "a cat"}),
        ("guidance", {"prompt": "a cat", "guidance": 14}, {"guidance": 2, "prompt": "a cat", "negative": ""}),
        ("guidance", {"prompt": "a cat", "mix": {"kind": "cfg", "scale": 14}}, {"mix": {"kind": "cfg", "scale": 2}}),
        ("weight", {"prompt": "a (red:1.9) cat"}, {"prompt": "a (red:1.6) cat"}),
        ("duplicate", {"prompt": "a red cat, a dog, a red cat"}, {"prompt": "a red cat, a dog"}),
        ("contradiction", {"prompt": "a red cat", "negative": "cat"}, {"negative": "", "prompt": "a red cat"}),
        ("unknown", {"prompt": "a red umbrela"}, {"prompt": "a red umbrella"}),
    ],
)
def test_every_sort_of_finding_has_a_fix(page: Page, kind: str, asked: dict[str, Any], mended: dict[str, Any]) -> None:
    """Fix changes what it says and nothing else; what was found is gone then."""
    open_(page, **asked)
    finding = page.locator(".finding").filter(has=page.locator("b", has_text=re.compile(f"^{kind}$"))).first
    expect(finding.get_by_role("button", name="Why")).to_be_visible()
    finding.get_by_role("button", name="Fix").click()
    expect(finding).to_have_count(0)
    now, before = form(page), {"prompt": "", "negative": ""} | asked
    assert {name: now[name] for name in mended} == mended
    assert all(now[name] == value for name, value in before.items() if name not in mended and name != "mix")


def test_what_only_its_author_can_mend_is_shown(page: Page) -> None:
    """A word in many pieces: Show marks it in the prompt; Why opens Explain at the stop and the word."""
    open_(page)
    page.fill("#prompt", "a red apple and a xylophonist")
    finding = page.locator(".finding", has_text="xylophonist").first
    finding.get_by_role("button", name="Show").click()
    assert page.evaluate("getSelection().toString()") == "xylophonist"
    finding.get_by_role("button", name="Why").click()
    finding.get_by_role("link", name="See it in Explain").click()
    expect(page).to_have_url(re.compile(r"/explain.*stop=0&at=xylophonist"))
    expect(page.get_by_role("tab", name="1 Words to tokens")).to_have_attribute("aria-selected", "true")


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
    fill(page, steps=300)
    page.fill("#prompt", "a green tree")
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => { const c = document.querySelector('.view .stage canvas');
        if (c) window.seen.add(c.dataset.step); }).observe(document.body, { subtree: true, attributes: true, childList: true }); }"""
    )
    page.get_by_role("button", name="Generate").click()
    until(page, "window.seen.size >= 4")
    expect(page.locator(".view [aria-live=polite]")).to_contain_text(re.compile(r"step \d+ of 300, sigma [\d.]+"))
    page.locator(".go").get_by_role("button", name="Stop").click()
    resume = page.get_by_role("button", name="Resume", exact=True)
    expect(resume).to_be_visible()
    run = studio.call("GET", "/v1/runs?limit=1")["runs"][0]
    assert run["state"] == "stopped" and 0 < run["steps_done"] < 300
    # What there is stays, marked, also after a reload.
    page.reload()
    expect(page.locator(".view .stage .tag")).to_have_text(f"stopped, not finished: step {run['steps_done']} of 300")
    until(page, "Number(document.querySelector('.view .stage canvas')?.dataset.step) >= 0")
    resume.click()
    page.wait_for_selector(".stage img.shot", timeout=240_000)
    again = studio.wait(studio.make(prompt=["a green tree"], seed=3, steps=300, count=1)["id"], seconds=240)
    assert studio.wait(run["id"])["pictures"][0]["seal"] == again["pictures"][0]["seal"]


def test_queueing_cancelling_and_batches_in_step(page: Page, studio: Studio) -> None:
    open_(page, count=3)
    page.fill("#prompt", "a yellow sun")
    fill(page, steps=100)
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Queue another").click()
    expect(page.get_by_role("list", name="Waiting")).to_contain_text("a yellow sun: queued, 1 ahead")
    expect(page.locator(".count")).to_contain_text("2 jobs")
    page.locator(".count").click()
    expect(page.locator("#tray li").nth(1)).to_contain_text("queued")
    page.locator("#tray li").nth(1).get_by_role("button").click()
    expect(page.locator("#tray li")).to_have_count(1)
    page.keyboard.press("Escape")
    page.wait_for_selector(".view .stage img.shot", timeout=240_000)
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


def test_dice_lock_and_the_true_seed(page: Page, studio: Studio) -> None:
    open_(page, more=True, prompt="a cat")
    page.get_by_role("button", name="New seed").click()
    rolled = form(page)["seed"]
    lock = page.get_by_role("button", name="Keep the seed")
    expect(lock).to_have_attribute("aria-pressed", "true")

    def generated() -> int:
        with page.expect_response(lambda r: r.url.endswith("/v1/runs") and r.request.method == "POST") as sent:
            page.locator(".go .primary").click()
        run = studio.wait(sent.value.json()["id"])
        expect(page.locator(".view .status b")).to_have_text(str(run["seed"]))
        return int(run["seed"])

    assert generated() == rolled
    lock.click()
    assert generated() != rolled
    page.get_by_label("Seed", exact=True).fill("12345")
    expect(lock).to_have_attribute("aria-pressed", "true")
    assert generated() == 12345


def test_variation_safety_and_what_recording_costs(page: Page, studio: Studio) -> None:
    """The drawer says what recording will take before it is done; what it took is what it said."""
    open_(page, more=True, prompt="a cat")
    fill(page, steps=24)
    page.get_by_label("Variation, number").fill("0.3")
    page.get_by_label("Variation, number").blur()
    page.get_by_label("Variation seed").fill("77")
    page.get_by_label("Temperature, number").fill("0.9")
    page.get_by_label("Temperature, number").blur()
    page.get_by_label("Sampler", exact=True).select_option("heun-sde")
    page.get_by_text("How it is steered").click()
    page.get_by_label("Churn", exact=True).fill("3")
    page.get_by_label("Churn up to noise level").fill("20")
    page.get_by_label("Churn up to noise level").blur()
    expect(page.locator(".more")).to_contain_text("Safety: nothing is refused")
    page.get_by_role("radio", name="Everything").click()
    cost = page.locator(".more small", has_text="the dial works at every step")
    said = re.search(r"([\d.]+) (KB|MB)", cost.inner_text())
    assert said
    bytes_ = float(said[1]) * {"KB": 1e3, "MB": 1e6}[said[2]]
    with page.expect_response(lambda r: r.url.endswith("/v1/runs") and r.request.method == "POST") as sent:
        page.locator(".go .primary").click()
    asked = json.loads(sent.value.request.post_data or "{}")
    assert asked["request"]["variation"] == {"seed": 77, "strength": 0.3} and asked["record"] == "branches"
    assert asked["request"]["temperature"] == 0.9 and asked["request"]["churn"] == {"amount": 3, "s_max": 20}
    run = studio.wait(sent.value.json()["id"])
    assert run["state"] == "done" and run["request"]["churn"]["amount"] == 3
    took = len(studio.raw(f"/v1/runs/{run['id']}/trace.safetensors"))
    assert 0.8 < took / bytes_ < 1.25, (took, bytes_)


def test_a_picture_larger_than_the_models_own_may_take_two_passes(page: Page, studio: Studio) -> None:
    """Then the field is there, what is asked for is the task, and the form of the run says so again."""
    open_(page, more=True, prompt="a cat")
    second = page.get_by_label("Second pass, number")
    expect(second).to_have_count(0)
    width = page.get_by_label("Width, number")
    width.fill(str(2 * int(width.input_value())))
    width.blur()
    second.fill("0.4")
    second.blur()
    with page.expect_response(lambda r: r.url.endswith("/v1/runs") and r.request.method == "POST") as sent:
        page.locator(".go .primary").click()
    asked = json.loads(sent.value.request.post_data or "{}")["request"]
    assert asked["task"] == {"kind": "hires", "second": {"strength": 0.4}}
    run = studio.wait(sent.value.json()["id"])
    assert run["state"] == "done" and run["request"]["task"]["second"]["strength"] == 0.4
    made = run["pictures"][0]
    assert [made["height"], made["width"]] == asked["size"]
    second.fill("0")
    second.blur()
    with page.expect_response(lambda r: r.url.endswith("/v1/runs") and r.request.method == "POST") as sent:
        page.locator(".go .primary").click()
    assert "task" not in json.loads(sent.value.request.post_data or "{}")["request"]


def test_every_action_opens_its_screen_with_the_picture(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    here = f"localStorage.setItem('safelight.current', JSON.stringify('{made['id']}'))"
    title = "a red apple on a blue background"
    wanted = {
        "Edit": f".sheet img[src*='{made['id']}'], .sheet canvas",
        "Morph": f".key input[value*='apple'], .key textarea, .lane >> text={title}",
        "Explain": f"h1:has-text('{title}')",
        "Microscope": ".scope .stage canvas",
    }
    for name, sign in wanted.items():
        page.goto("/create")
        page.evaluate(here)
        page.reload()
        page.locator(".tools").get_by_role("link", name=name, exact=True).click()
        page.wait_for_selector(sign.split(", ")[0] if name != "Morph" else ".lane .key", state="attached")
        assert made["id"] in page.url, name


def test_a_first_visit_has_something_to_watch(browser: Browser, tmp_path: Path, clean: Callable[[Page], None]) -> None:
    """No run yet: examples, and a recorded run; nothing sideways at 390 px, nothing that axe has against it, light and dark."""
    fresh = Studio(tmp_path / "data")
    try:
        for scheme in ("light", "dark"):
            context = browser.new_context(base_url=fresh.url, viewport={"width": 390, "height": 844}, color_scheme=scheme)
            page = context.new_page()
            found = watch(page, fresh.url)
            page.goto("/create")
            expect(page.get_by_text("Say what shall be seen")).to_be_visible()
            clean(page)
            page.get_by_role("link", name="Watch a recorded run").click()
            expect(page.locator(".charts canvas").first).to_be_visible()
            until(page, "Number(document.querySelector('.scope .stage canvas').dataset.step) > 0")
            clean(page)
            context.close()
            assert not found, "\n".join(found)
    finally:
        fresh.stop()
