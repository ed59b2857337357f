"""The frame of every screen: budgets, both themes, 390 px, keys, palette, drop, notes that stay, and nothing lost by a reload."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, Page, expect

from tests.studio.conftest import Studio, until

SCREENS = ("create", "edit", "mix", "morph", "compare", "explain", "gallery", "jobs")
MINE = ("/create", "/jobs", "/jobs?tab=models", "/jobs?tab=api", "/jobs?tab=settings")


def test_page_is_small_and_soon_usable(browser: Browser, studio: Studio, made: dict[str, Any]) -> None:
    """The opened page is below 150 KB uncompressed, and takes input within a second.

    The second is measured in the processor's time of the page's main thread, which does not depend on what else runs here, and by
    the clock too where nothing else does.
    """
    context = browser.new_context(base_url=studio.url)
    page = context.new_page()
    tools = context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    began = time.perf_counter()
    page.goto("/create", wait_until="commit")
    page.wait_for_selector("#prompt")
    waited = time.perf_counter() - began
    spent = {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
    paths = page.evaluate(
        "performance.getEntriesByType('resource').map((r) => r.name).filter((name) => !name.includes('/v1/'))"
    )
    context.close()
    total = len(studio.raw("/create")) + sum(len(studio.raw(path.removeprefix(studio.url))) for path in set(paths))
    assert total < 150_000, total
    assert spent < 0.5
    assert waited < 1.0 or os.getloadavg()[0] > 1, waited


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_screens_are_accessible(
    page: Page, made: dict[str, Any], clean: Callable[[Page], None], scheme: Any, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for path in (*MINE, f"/run/{made['id']}?step=3&with=x"):
        page.goto(path)
        page.wait_for_selector("main h1")
        until(page, "!document.querySelector('[aria-busy=true]')")
        page.wait_for_timeout(400)
        clean(page)


def test_every_screen_opens_from_the_rail(page: Page, made: dict[str, Any]) -> None:
    page.goto("/")
    for name in SCREENS:
        link = page.locator(f".rail a[href^='/{name}']")
        link.click()
        expect(link).to_have_attribute("aria-current", "page")
        expect(page).to_have_url(re.compile(f"/{name}"))
        page.wait_for_selector("main .screen, main section")
    page.go_back()
    expect(page).to_have_url(re.compile("/gallery"))


def test_theme_is_kept_and_does_not_flash(page: Page) -> None:
    page.goto("/create")
    button = page.get_by_role("button", name=re.compile("^Theme"))
    button.click()
    button.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    dark = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    page.reload(wait_until="commit")
    page.wait_for_selector("#prompt")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") == dark


def test_palette_finds_screens_actions_and_runs(page: Page, made: dict[str, Any]) -> None:
    page.goto("/create")
    page.wait_for_selector("#prompt")
    page.keyboard.press("Control+k")
    page.keyboard.type("gall")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/gallery"))
    page.keyboard.press("Control+k")
    page.keyboard.type("red apple")
    page.get_by_role("option").filter(has_text="a red apple").first.click()
    expect(page).to_have_url(re.compile(r"/run/\w+"))
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_sheet_has_every_key_of_the_design(page: Page, made: dict[str, Any]) -> None:
    """Those that work here, and those of the other screens, on whatever screen it is opened."""
    keys = ["Ctrl", "Enter", "Esc", "←", "→", "Space", *"123456", "F", "C", "G", "[", "]", "Z"]
    for path, words in (
        (f"/run/{made['id']}", "Fork here"),
        ("/create", "Generate"),
        ("/edit", "Smaller brush"),
        ("/jobs", "Gallery"),
    ):
        page.goto(path)
        page.wait_for_selector("main h1")
        until(page, "!document.querySelector('[aria-busy=true]')")
        page.locator("main").focus()
        page.keyboard.press("?")
        sheet = page.get_by_role("dialog")
        expect(sheet).to_contain_text(words)
        shown = sheet.locator("kbd").all_text_contents()
        assert set(keys) <= set(shown), set(keys) - set(shown)
        expect(sheet.locator("dt", has_text=re.compile("^F$"))).to_have_count(1)  # each is said once
        page.keyboard.press("Escape")
        expect(sheet).to_have_count(0)


def test_every_key_does_what_the_sheet_says(page: Page, made: dict[str, Any]) -> None:
    page.goto(f"/run/{made['id']}?step=3")
    page.wait_for_selector(".charts")
    strip = page.get_by_role("slider", name="Step of the run")
    for key, step in (("ArrowLeft", "3"), ("ArrowRight", "4"), ("ArrowRight", "5")):
        page.keyboard.press(key)
        expect(strip).to_have_attribute("aria-valuenow", step)
    for number, lens in enumerate(("x", "x0", "noise", "guidance"), 1):
        page.keyboard.press(str(number))
        expect(page).to_have_url(re.compile(f"lens={lens}(&|$)") if lens != "x0" else re.compile("."))
    page.keyboard.press("6")
    expect(page).to_have_url(re.compile("lens=difference"))
    page.keyboard.press("5")  # nothing is recorded of attention: the lens offers to
    expect(page.locator("main")).to_contain_text(re.compile("attention", re.I))
    page.keyboard.press("Space")
    until(page, "Number(document.querySelector('.dock .strip').getAttribute('aria-valuenow')) !== 5")
    page.keyboard.press("Space")
    page.keyboard.press("c")
    expect(page.locator(".rail a[href^='/compare'] em")).to_have_text("1")
    page.keyboard.press("f")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    expect(page).to_have_url(re.compile("/gallery"))
    page.goto("/create")
    expect(strip).to_have_attribute("aria-valuenow", "8")
    page.locator("main").focus()
    page.keyboard.press("Space")  # in the dock of any screen
    expect(strip).not_to_have_attribute("aria-valuenow", "8")


def test_a_picture_is_made_scrubbed_forked_and_cancelled_without_a_mouse(page: Page, studio: Studio) -> None:
    """From the address bar on: Tab, letters, arrows and Enter alone."""
    page.goto("/create")
    page.wait_for_selector("#prompt")

    def tab_to(what: str) -> None:
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate("(css) => document.activeElement.matches(css)", what):
                return
        raise AssertionError(f"Tab does not reach {what}")

    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to("#prompt")
    page.keyboard.type("a yellow moon")
    with page.expect_response(re.compile("/v1/runs$")) as asked:
        page.keyboard.press("Control+Enter")
    parent = studio.wait(asked.value.json()["id"])["id"]
    page.locator(f".stage img[src*='{parent}']").wait_for()
    tab_to(".dock .strip")
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    strip = page.locator(".dock .strip")
    expect(strip).to_have_attribute("aria-valuenow", "4")
    tab_to(".dock a.button")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/run/"))
    page.wait_for_selector(".charts")
    page.keyboard.press("f")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    with page.expect_response(re.compile("/fork$")) as answered:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('dialog button.primary')"):
                break
        page.keyboard.press("Enter")
    fork = answered.value.json()
    assert fork["parent"] == parent and fork["fork_step"] == 3
    studio.wait(fork["id"])
    page.keyboard.press("Control+k")  # a long one, to be cancelled
    page.keyboard.type("create")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/create"))
    page.evaluate("import('/studio/js/store.js').then((s) => s.fill('form', s.FORM, { steps: 900, record: 'preview' }))")
    with page.expect_response(re.compile("/v1/runs$")) as answered:
        page.keyboard.press("Control+Enter")
    page.keyboard.press("Escape")
    assert studio.wait(answered.value.json()["id"], "stopped")["steps_done"] < 900


def test_views_are_addresses(page: Page, made: dict[str, Any]) -> None:
    """A link shows a view again: step, lens, picture, split, tab. Scrubbing writes it, and Back comes back to it."""
    path = f"/run/{made['id']}?step=5&lens=noise&picture=1&with=x"
    page.goto(path)
    page.wait_for_selector(".charts")
    expect(page.locator(".dock .strip")).to_have_attribute("aria-valuenow", "6")
    expect(page.get_by_role("radio", name=re.compile("Noise"))).to_be_checked()
    expect(page.locator(".tag.right")).to_contain_text("seen, step 6")
    page.locator(".dock .strip").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("g")  # at once: what scrubbing changed is not lost
    expect(page).to_have_url(re.compile("/gallery"))
    assert "step" not in page.url
    page.go_back()
    expect(page).to_have_url(re.compile("step=4&lens=noise&picture=1&with=x"))
    expect(page.locator(".dock .strip")).to_have_attribute("aria-valuenow", "5")
    page.goto("/jobs?tab=api")
    expect(page.get_by_role("radio", name="API")).to_be_checked()


SOON = "await new Promise((done) => setTimeout(done, 100))"
ROUTER = "import('/studio/js/router.js').then(async (r) => {{ {} }})"


@pytest.mark.parametrize(
    ("script", "path"),
    [
        ("r.amend({ step: 1 }, true); r.amend({ lens: 'x' }, true)", "/jobs?step=1&lens=x"),
        ("r.amend({ step: 1 }, true); r.amend({ step: 2 }); r.amend({ lens: 'x' }, true)", "/jobs?step=2&lens=x"),
        ("r.amend({ step: 1 }, true); r.amend({ step: null }, true)", "/jobs"),
        ("r.amend({ step: 1 }, true); r.go('/gallery'); r.amend({ q: 'a b' }, true)", "/gallery?q=a+b"),
        (
            f"r.go('/gallery'); r.amend({{ q: 'a' }}, true); history.back(); {SOON}; r.amend({{ tab: 'api' }}, true)",
            "/jobs?tab=api",
        ),
    ],
)
def test_changes_of_the_address_that_follow_quickly_all_arrive_where_they_belong(page: Page, script: str, path: str) -> None:
    page.goto("/jobs")
    page.wait_for_selector("main h1")
    page.evaluate(ROUTER.format(script + "; window.told = r.route()"))
    now = page.evaluate("window.told")  # a view that is drawn now sees it already
    page.wait_for_timeout(600)
    assert page.evaluate("location.pathname + location.search") == path
    assert page.evaluate(ROUTER.format("return r.route()")) == now


def test_the_dock_is_always_there(page: Page, made: dict[str, Any]) -> None:
    for name in SCREENS:
        page.goto(f"/{name}")
        expect(page.locator(".dock .strip")).to_be_visible()
    page.route("**/v1/runs?limit=40", lambda route: route.fulfill(json={"runs": [], "next": None}))
    page.route("**/v1/jobs", lambda route: route.fulfill(json={"paused": False, "jobs": [], "workers": []}))
    page.evaluate("localStorage.clear()")
    page.goto("/create")
    expect(page.locator(".dock")).to_contain_text("The steps of a picture will be here")


def test_the_dock_goes_on_when_its_run_is_deleted(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    run = studio.wait(studio.make(prompt=["short lived"], steps=2, count=1)["id"])
    page.goto("/create")
    page.evaluate("(id) => localStorage.setItem('safelight.current', JSON.stringify(id))", run["id"])
    with page.expect_response(re.compile("sprite/x0.webp")):
        page.reload()
    expect(page.locator(".dock")).to_contain_text("short lived")
    studio.call("DELETE", f"/v1/runs/{run['id']}")
    expect(page.locator(".dock")).not_to_contain_text("short lived")
    expect(page.locator(".dock .strip")).to_be_visible()


def test_errors_stay_until_dismissed(page: Page, made: dict[str, Any]) -> None:
    page.allowed += ["422", "Failed to load"]  # type: ignore[attr-defined]
    page.goto("/create")
    page.fill("#prompt", "a cat")
    page.evaluate("import('/studio/js/store.js').then((s) => s.fill('form', s.FORM, { size: [7, 7], locked: true }))")
    page.route("**/v1/lint", lambda route: route.fulfill(json={"findings": [], "fixed": {}}))
    page.evaluate("import('/studio/js/store.js').then((s) => s.fill('form', s.FORM, { count: 1000 }))")
    page.keyboard.press("Control+Enter")
    alert = page.get_by_role("alert")
    expect(alert).to_be_visible()
    page.wait_for_timeout(3000)
    expect(alert).to_be_visible()
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_have_count(0)


def drop(page: Page, data: bytes, name: str = "apple.png") -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([bytes, name]) => {
            const file = new File([Uint8Array.from(bytes)], name, { type: "image/png" });
            const data = new DataTransfer();
            data.items.add(file);
            for (const type of ["dragenter", "dragover", "drop"])
              document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [list(data), name],
    )


@pytest.mark.parametrize("screen", ["create", "gallery", "jobs", "explain"])
def test_a_dropped_picture_restores_its_settings_on_any_screen(
    page: Page, studio: Studio, made: dict[str, Any], screen: str
) -> None:
    page.goto(f"/{screen}")
    page.wait_for_selector("main h1")
    drop(page, studio.raw(made["pictures"][0]["url"]))
    expect(page.get_by_role("dialog")).to_contain_text("It remembers how it was made")
    page.get_by_role("button", name="Restore its settings").click()
    expect(page.locator("#prompt")).to_have_value("a red apple on a blue background")
    form = json.loads(page.evaluate("localStorage.getItem('safelight.form')"))
    assert (form["seed"], form["steps"], form["locked"]) == (7, 8, True)


@pytest.mark.parametrize(
    ("button", "address"), [("Use as start", r"/edit\?seal=sha256"), ("Inpaint", r"/edit\?seal=sha256.*tool=inpaint")]
)
def test_a_dropped_picture_is_edited(page: Page, studio: Studio, made: dict[str, Any], button: str, address: str) -> None:
    page.goto("/create")
    page.wait_for_selector("#prompt")
    drop(page, studio.raw(made["pictures"][0]["url"]))
    page.get_by_role("dialog").get_by_role("button", name=button).click()
    expect(page).to_have_url(re.compile(address))
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_picture_of_another_tool_is_restored_as_far_as_it_goes(page: Page) -> None:
    """The `parameters` text that A1111 writes."""
    text = PngInfo()
    text.add_text(
        "parameters", "a blue teapot\nNegative prompt: a dog\nSteps: 9, Sampler: Euler a, CFG scale: 3, Seed: 41, Size: 64x64"
    )
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG", pnginfo=text)
    page.goto("/create")
    page.wait_for_selector("#prompt")
    drop(page, file.getvalue(), "foreign.png")
    page.get_by_role("button", name="Restore its settings").click()
    expect(page.locator("#prompt")).to_have_value("a blue teapot")
    form = json.loads(page.evaluate("localStorage.getItem('safelight.form')"))
    assert (form["seed"], form["steps"], form["negative"], form["guidance"]) == (41, 9, "a dog", 3)


def test_a_picture_is_opened_without_a_mouse(page: Page, studio: Studio, made: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "kept.png"
    file.write_bytes(studio.raw(made["pictures"][0]["url"]))
    page.goto("/create")
    page.wait_for_selector("#prompt")
    page.keyboard.press("Control+k")
    page.keyboard.type("open a picture")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(file)
    expect(page.get_by_role("dialog")).to_contain_text("kept.png")


def test_tray_cancels_one_job_and_pauses_the_queue(page: Page, studio: Studio) -> None:
    page.goto("/jobs")
    page.get_by_role("button", name="Pause queue").first.click()
    runs = [studio.make(prompt=[f"number {k}"], steps=4, count=1) for k in range(3)]
    expect(page.locator("main tbody tr[draggable=true]")).to_have_count(3)
    assert studio.call("GET", "/v1/jobs")["paused"]
    page.get_by_role("button", name="Move number 2 up").click()
    page.get_by_role("button", name="Move number 2 up").click()
    until(page, "document.querySelector('main tbody tr[draggable=true]').textContent.includes('number 2')")
    assert next(r["prompt"] for r in studio.call("GET", "/v1/jobs")["jobs"]) == "number 2"
    page.locator("main").get_by_role("button", name="Cancel number 1").click()
    studio.wait(runs[1]["id"], "stopped")
    page.get_by_role("button", name="Resume queue").first.click()
    studio.wait(runs[0]["id"])
    assert studio.wait(runs[2]["id"])["finished"] <= studio.wait(runs[0]["id"])["finished"]
