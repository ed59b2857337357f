"""The frame of every screen: budgets, both themes, 390 px, keys, palette, drop, notes that stay, and nothing lost by a reload."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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


def test_shortcut_sheet_names_the_keys_of_the_screen(page: Page, made: dict[str, Any]) -> None:
    page.goto(f"/run/{made['id']}")
    page.wait_for_selector(".charts")
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog")
    for words in ("Fork here", "Play and pause", "Step back", "Add to compare", "Gallery"):
        expect(sheet).to_contain_text(words)


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


def test_dropped_picture_restores_its_settings(page: Page, studio: Studio, made: dict[str, Any], tmp_path: Path) -> None:
    data = studio.raw(made["pictures"][0]["url"])
    page.goto("/create")
    page.wait_for_selector("#prompt")
    page.evaluate(
        """(bytes) => {
            const file = new File([Uint8Array.from(bytes)], "apple.png", { type: "image/png" });
            const data = new DataTransfer();
            data.items.add(file);
            for (const type of ["dragenter", "dragover", "drop"])
              document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        list(data),
    )
    page.get_by_role("button", name="Restore its settings").click()
    expect(page.locator("#prompt")).to_have_value("a red apple on a blue background")
    form = json.loads(page.evaluate("localStorage.getItem('safelight.form')"))
    assert (form["seed"], form["steps"], form["locked"]) == (7, 8, True)


def test_reload_restart_and_a_new_tab_lose_nothing(browser: Browser, studio: Studio) -> None:
    """Form, queue, live preview and result survive a reload, a kill of the server, and a tab that was closed."""
    context = browser.new_context(base_url=studio.url)
    page = context.new_page()
    page.goto("/create")
    page.fill("#prompt", "a green tree")
    page.evaluate("import('/studio/js/store.js').then((s) => s.fill('form', s.FORM, { steps: 400, seed: 5, locked: true }))")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector(".stage canvas[data-step]")
    page.get_by_role("button", name="Queue another").click()
    until(page, "document.querySelectorAll('#tray li').length === 2")
    seen = page.evaluate("document.querySelector('.dock .strip').getAttribute('aria-valuenow')")
    page.close()
    page = context.new_page()
    page.goto("/create")
    page.wait_for_selector(".stage canvas[data-step]")
    assert page.input_value("#prompt") == "a green tree"
    until(page, "(n) => Number(document.querySelector('.dock .strip').getAttribute('aria-valuenow')) >= n", int(seen))
    studio.restart(kill=True)
    page.wait_for_selector(".stage img.shot", timeout=120_000)
    expect(page.locator("#tray li")).to_have_count(1, timeout=60_000)
    page.reload()
    page.wait_for_selector(".stage img.shot")
    for run in studio.call("GET", "/v1/jobs")["jobs"]:
        studio.call("POST", f"/v1/runs/{run['id']}/cancel")
    context.close()


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


def test_drag_orders_the_queue(page: Page, studio: Studio) -> None:
    studio.call("POST", "/v1/jobs/pause")
    runs = [studio.make(prompt=[f"dragged {k}"], steps=2, count=1) for k in range(3)]
    page.goto("/jobs")
    rows = page.locator("main tbody tr[draggable=true]")
    expect(rows).to_have_count(3)
    rows.nth(2).drag_to(rows.nth(0))
    expect(rows.nth(0)).to_contain_text("dragged 2")
    assert [r["prompt"] for r in studio.call("GET", "/v1/jobs")["jobs"]] == ["dragged 2", "dragged 0", "dragged 1"]
    for run in runs:
        studio.call("POST", f"/v1/runs/{run['id']}/cancel")
    studio.call("POST", "/v1/jobs/resume")


def test_settings_models_and_code(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    page.goto("/jobs?tab=models")
    card = page.locator("article").first
    card.get_by_role("button", name="Card").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.goto("/jobs?tab=api")
    for language, word in (("curl", "curl -sS"), ("Python", "urllib"), ("OpenAI client", "images.generate")):
        page.get_by_role("radio", name=language).click()
        expect(page.locator("main pre")).to_contain_text(word)
    page.goto("/jobs?tab=settings")
    expect(page.locator("main")).to_contain_text("recordings")
    days = page.get_by_label("Keep recordings for (days)")
    days.fill("12")
    days.blur()
    until(page, "fetch('/v1/settings').then((r) => r.json()).then((s) => s.settings.prune.days === 12)")
