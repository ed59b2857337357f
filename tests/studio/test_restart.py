"""A tab that stays open while everything around it goes: nothing that was typed, queued, seen or made is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.studio.conftest import Studio, until, watch

# What a browser itself says of a server that is gone.
GONE = [r"net::ERR_", "Failed to load resource"]
STEPS = 1000  # as many as there may be: it is under way as long as the test needs it
PROMPT = "a green tree, half typed"
GONE_NOTE = "The connection to the server is gone"


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Studio]:
    """A server of this test alone, as it is killed."""
    served = Studio(tmp_path / "data")
    yield served
    served.stop()


@pytest.fixture
def profile(browser: Browser, mine: Studio) -> Iterator[BrowserContext]:
    """A browser's profile, in which tabs are opened and closed."""
    context = browser.new_context(base_url=mine.url, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(90_000)
    yield context
    context.close()


def tab(context: BrowserContext, home: str, path: str = "/create") -> tuple[Page, list[str]]:
    """An opened tab, and what it does that it must not do."""
    page = context.new_page()
    found = watch(page, home)
    page.allowed += GONE  # type: ignore[attr-defined]
    page.goto(path)
    page.wait_for_selector("main h1")
    return page, found


def settle(page: Page, studio: Studio, runs: list[dict[str, Any]]) -> None:
    """What must be there by itself: the form, the queue, the preview's frames, and no error."""
    expect(page.locator(".note", has_text=GONE_NOTE)).to_have_count(0, timeout=90_000)
    assert page.input_value("#prompt") == PROMPT
    form = json.loads(page.evaluate("localStorage.getItem('safelight.form')"))
    assert (form["steps"], form["seed"], form["negative"]) == (12, 77, "a dog")
    wanted = [run["id"] for run in studio.call("GET", "/v1/jobs")["jobs"]]
    assert wanted == [run["id"] for run in runs if run["id"] in wanted]  # the order that it was asked for in
    until(page, "(n) => document.querySelectorAll('#tray li').length === n", len(wanted))
    links = page.eval_on_selector_all("#tray li a", "(all) => all.map((a) => a.getAttribute('href').split('/').pop())")
    assert links == wanted
    expect(page.get_by_role("alert")).to_have_count(0)


LIVE = "import('/studio/js/store.js').then(({ state }) => state.live"


def frames(page: Page, run: str) -> list[int]:
    """The steps of a run whose frames the tab has."""
    found: list[int] = page.evaluate(f"(id) => {LIVE}[id]?.frames.x0 ?? []).then((all) => Object.keys(all).map(Number))", run)
    return found


def shown(page: Page, run: str, k: int) -> None:
    """Wait until the tab has the frame of a step, or of a later one."""
    until(page, f"([id, k]) => {LIVE}[id]?.frames.x0?.length > k)", [run, k])


def steps(studio: Studio, run: str) -> int:
    return int(studio.call("GET", f"/v1/runs/{run}")["steps_done"])


def further(studio: Studio, run: str, by: int) -> None:
    """Wait until a run has made some more steps."""
    from tests.serve.bench import until as waited

    now = steps(studio, run)
    waited(lambda: steps(studio, run) >= now + by, 90)


@pytest.mark.timeout(1200)
def test_reload_new_tab_and_killed_servers_lose_nothing(profile: BrowserContext, mine: Studio) -> None:
    page, found = tab(profile, mine.url)
    page.fill("#prompt", PROMPT)
    form = "{ steps: 12, seed: 77, locked: true, negative: 'a dog' }"
    page.evaluate(f"import('/studio/js/store.js').then((s) => s.fill('form', s.FORM, {form}))")
    first = mine.make(prompt=["a red apple on a blue background"], steps=STEPS, count=1, record="preview")
    runs = [first, *(mine.make(prompt=[f"number {k}"], steps=6, count=1, seed=k) for k in range(3))]
    page.wait_for_selector(".stage canvas[data-step]")
    further(mine, first["id"], 4)
    settle(page, mine, runs)

    # 1: a reload, in the middle of the run.
    had = frames(page, first["id"])
    page.reload()
    page.wait_for_selector(".stage canvas[data-step]")
    settle(page, mine, runs)
    shown(page, first["id"], had[-1])
    assert set(had) <= set(frames(page, first["id"]))

    # 2: the tab is closed and another opened.
    page.close()
    assert not found, found
    page, found = tab(profile, mine.url)
    page.wait_for_selector(".stage canvas[data-step]")
    settle(page, mine, runs)
    shown(page, first["id"], had[-1])
    assert set(had) <= set(frames(page, first["id"]))

    # 3: the server is killed, three times, and the tab stays as it is.
    for _ in range(3):
        had = frames(page, first["id"])
        mine.stop(kill=True)
        note = page.locator(".note", has_text=GONE_NOTE)
        expect(note).to_have_count(1, timeout=90_000)  # said while it lasts, in one line
        assert note.evaluate("(n) => n.querySelector('span').getClientRects().length") == 1
        page.locator("#prompt").press("End")
        page.keyboard.type("!")  # one goes on typing
        page.keyboard.press("Backspace")
        mine.start()
        settle(page, mine, runs)
        assert set(had) <= set(frames(page, first["id"]))
        further(mine, first["id"], 3)
        shown(page, first["id"], had[-1] + 1)

    # 4: killed, and the tab is opened anew while there is no server; then it comes back.
    mine.restart(kill=True)
    page.reload()
    settle(page, mine, runs)

    # The first is stopped by its button, keeps what was seen, and the others become what they would have been.
    had = frames(page, first["id"])
    page.get_by_role("button", name="Stop", exact=True).click()
    mine.wait(first["id"], "stopped")
    done = [mine.wait(run["id"], seconds=180) for run in runs[1:]]
    expect(page.locator("#tray li")).to_have_count(0, timeout=60_000)
    assert page.locator(".stage canvas[data-step]").count() == 1 and set(had) <= set(frames(page, first["id"]))
    assert [run["finished"] for run in done] == sorted(run["finished"] for run in done)
    page.get_by_role("link", name="Jobs").first.click()
    for k in range(3):
        picture = page.locator("main tbody tr").filter(has_text=f"number {k}").locator("img")
        expect(picture).to_have_js_property("naturalWidth", 64)
    page.get_by_role("link", name="Create").first.click()
    assert page.input_value("#prompt") == PROMPT
    expect(page.get_by_role("alert")).to_have_count(0)
    again = mine.wait(mine.make(prompt=["number 2"], steps=6, count=1, seed=2)["id"], seconds=180)
    assert mine.raw(again["pictures"][0]["url"]) == mine.raw(done[2]["pictures"][0]["url"])
    assert not found, found


def test_what_is_asked_while_the_server_is_away_is_said_and_stays_typed(profile: BrowserContext, mine: Studio) -> None:
    """A button that cannot do what it says says so, the words stay in the form, and the next press works."""
    page, found = tab(profile, mine.url)
    page.fill("#prompt", PROMPT)
    mine.stop(kill=True)
    expect(page.locator(".note", has_text=GONE_NOTE)).to_have_count(1, timeout=90_000)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    mine.start()
    expect(page.locator(".note", has_text=GONE_NOTE)).to_have_count(0, timeout=90_000)
    expect(page.get_by_role("alert")).to_be_visible()  # it was not done, and that stays said
    page.get_by_role("alert").get_by_role("button", name="Dismiss").click()
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector(".stage img.shot")
    assert [run["prompt"] for run in mine.call("GET", "/v1/runs")["runs"]] == [PROMPT]
    assert not found, found


@pytest.mark.timeout(1200)
def test_every_screen_outlives_a_restart_without_an_error(profile: BrowserContext, mine: Studio) -> None:
    run = f"/run/{mine.wait(mine.make(steps=4, count=1)['id'])['id']}"
    for paths in (("/jobs", "/jobs?tab=models", "/gallery"), ("/compare", "/mix", "/morph"), ("/edit", "/explain", run)):
        tabs = [tab(profile, mine.url, path) for path in paths]
        for page, _ in tabs:
            until(page, "!document.querySelector('[aria-busy=true]')")
        mine.stop(kill=True)
        for page, _ in tabs:
            expect(page.locator(".note", has_text=GONE_NOTE)).to_have_count(1, timeout=90_000)
        mine.start()
        for page, found in tabs:
            expect(page.locator(".note", has_text=GONE_NOTE)).to_have_count(0, timeout=90_000)
            page.wait_for_timeout(500)
            expect(page.get_by_role("alert")).to_have_count(0)
            assert not found, found
            page.close()
