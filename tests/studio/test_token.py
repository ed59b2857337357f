"""A server that wants a token: how a browser comes in, stays in, and goes out again. And texts that would rather be programs."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from safelight.serve.settings import Tokens
from tests.studio.conftest import REQUEST, Studio, until, watch

HOSTILE = '</script><img src=x onerror="window.hit=1"><svg onload="window.hit=2"> ${window.hit=3} {{7*7}} "\'`<b>bold</b>'


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Studio, str, Tokens]]:
    """A server that wants a token, the token, and what may invite to it: a second hand on the same files."""
    data = tmp_path_factory.mktemp("closed") / "data"
    data.mkdir()
    tokens = Tokens(data)
    token = tokens.new()
    served = Studio(data)
    yield served, token, tokens
    served.stop()


@pytest.fixture
def visitor(browser: Browser, closed: tuple[Studio, str, Tokens]) -> Iterator[Page]:
    """A page of a fresh profile at that server, guarded as all are."""
    studio = closed[0]
    context = browser.new_context(base_url=studio.url, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(60_000)
    one = context.new_page()
    found = watch(one, studio.url)
    yield one
    context.close()
    assert not found, "\n".join(found)


def asked(studio: Studio, token: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(studio.url + path, data, headers), timeout=60) as answer:
        return json.loads(answer.read())


def test_a_browser_signs_in_and_stays(
    visitor: Page, closed: tuple[Studio, str, Tokens], clean: Callable[[Page], None], tmp_path: Path
) -> None:
    studio, token, _ = closed
    run = asked(studio, token, "/v1/runs", {"request": {**REQUEST, "count": 1}})
    visitor.goto(f"/run/{run['id']}?step=2")
    field = visitor.get_by_label("Token")
    expect(visitor.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(field).to_be_focused()
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
        visitor.set_viewport_size({"width": width, "height": 800})
        visitor.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        clean(visitor)
        visitor.screenshot(path=tmp_path / f"login-{width}-{scheme}.png")
    visitor.set_viewport_size({"width": 1280, "height": 800})
    visitor.allowed += [r"^401 POST .*/v1/session$", "status of 401"]  # type: ignore[attr-defined]
    for wrong in ("not-the-token", "kein Schlüssel"):
        field.fill(wrong)
        visitor.keyboard.press("Enter")
        expect(visitor.get_by_role("alert")).to_have_text("That is not a token of this server.")
    visitor.allowed.clear()  # type: ignore[attr-defined]
    field.fill(f"  {token} ")
    visitor.keyboard.press("Enter")
    # The address that was asked for opens; the stream runs; pictures, which carry no header, are shown.
    expect(visitor.get_by_role("navigation", name="Screens")).to_be_visible()
    assert f"/run/{run['id']}" in visitor.url
    until(visitor, "id => fetch(`/v1/runs/${id}`).then(r => r.json()).then(r => r.state === 'done')", run["id"], seconds=120)
    visitor.goto("/gallery")
    until(visitor, "[...document.querySelectorAll('main img')].some(i => i.complete && i.naturalWidth > 0)")
    # No script can read what keeps it signed in.
    assert visitor.evaluate("document.cookie") == ""
    assert token not in visitor.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
    key = next(one for one in visitor.context.cookies() if one["name"].startswith("safelight_"))
    assert (key["httpOnly"], key["sameSite"]) == (True, "Strict")
    assert token not in key["value"]
    # It stays in when the page, and when the server, comes again.
    studio.restart()
    visitor.allowed += [r"ERR_|Failed to fetch|net::"]  # type: ignore[attr-defined]
    visitor.goto("/gallery")
    expect(visitor.get_by_role("navigation", name="Screens")).to_be_visible()
    until(visitor, "fetch('/v1/settings').then(r => r.ok)")


def test_it_signs_out(visitor: Page, closed: tuple[Studio, str, Tokens]) -> None:
    token = closed[1]
    visitor.goto("/jobs?tab=settings")
    visitor.get_by_label("Token").fill(token)
    visitor.get_by_role("button", name="Sign in").click()
    visitor.allowed += [r"^401 ", "status of 401"]  # type: ignore[attr-defined]  # the stream that was open ends
    visitor.get_by_role("button", name="Sign out").click()
    expect(visitor.get_by_role("heading", name="Sign in")).to_be_visible()
    assert visitor.evaluate("fetch('/v1/runs').then(r => r.status)") == 401
    assert [one for one in visitor.context.cookies() if one["name"].startswith("safelight_")] == []


def test_an_invitation_opens_it_once(browser: Browser, tmp_path: Path) -> None:
    """As `safelight studio` opens a browser: the address carries an invitation, which is gone from it afterwards."""
    from safelight.serve.settings import Settings
    from tests.serve.live import serving

    tokens = Tokens(tmp_path, ("a-token-for-tests-that-nobody-guesses",))
    with serving(tmp_path, tokens, devices=()) as server:
        assert isinstance(server.settings, Settings)
        address = f"{server.address}/create#code={tokens.invite()}"
        context = browser.new_context()
        page = context.new_page()
        found = watch(page, server.address)
        page.goto(address)
        expect(page.get_by_role("navigation", name="Screens")).to_be_visible()
        assert page.url == f"{server.address}/create"
        assert found == []
        context.close()
        other = browser.new_context()
        page = other.new_page()
        page.goto(address)
        expect(page.get_by_role("alert")).to_have_text("That is not a token of this server.")
        assert "code=" not in page.url
        other.close()


# ---- texts that would rather be programs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(studio: Studio) -> dict[str, Any]:
    """A finished run whose every text is markup."""
    run = studio.make(prompt=[HOSTILE], count=1, steps=4, record="branches", title=HOSTILE)
    studio.wait(run["id"])
    found: dict[str, Any] = studio.call("PATCH", f"/v1/runs/{run['id']}", {"board": HOSTILE[:100]})
    return found


# Its text is somewhere on the page, to read or to hear.
SHOWN = """document.body.textContent.includes('window.hit=1')
    || document.querySelector('[title*="window.hit"], [alt*="window.hit"], [aria-label*="window.hit"]')
    || [...document.querySelectorAll('input, textarea')].some(field => field.value.includes('window.hit'))"""


@pytest.mark.parametrize(
    "screen", ["create", "run/ID", "gallery", "jobs", "compare?runs=ID", "explain/ID", "edit/ID", "morph?run=ID"]
)
def test_markup_in_a_prompt_is_text(screen: str, page: Page, hostile: dict[str, Any]) -> None:
    page.allowed += [r"^(4\d\d|404) "]  # type: ignore[attr-defined]
    page.goto("/" + screen.replace("ID", hostile["id"]))
    until(page, "document.querySelector('main') && !document.querySelector('main .loading')")
    if screen in ("create", "gallery", "run/ID"):
        until(page, SHOWN)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('img[src=x], img[onerror], svg[onload]').length") == 0


def test_markup_in_an_exported_page_is_text(browser: Browser, studio: Studio, hostile: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.html"
    file.write_bytes(studio.raw(f"/v1/runs/{hostile['id']}/export/html"))
    context = browser.new_context()
    one = context.new_page()
    asked_for = list[str]()
    one.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or asked_for.append(r.url))
    one.goto(file.as_uri())
    until(one, "document.querySelector('main') && !document.querySelector('main .loading')")
    one.wait_for_timeout(500)
    assert one.evaluate("window.hit") is None
    assert one.evaluate("document.querySelectorAll('img[src=x], img[onerror], svg[onload]').length") == 0
    assert asked_for == []
    context.close()


def test_a_table_holds_no_formulas(page: Page) -> None:
    """What a spreadsheet would run is written as text; numbers stay numbers."""
    page.goto("/create")
    rows = [
        ["prompt", "scale"],
        ['=HYPERLINK("http://evil.example")', -1.5],
        ["+1+cmd|' /C calc'!A0", "-2"],
        ["@SUM(A1)", "\t=1"],
        ["a, b", "c"],
    ]
    text = page.evaluate("rows => import('/studio/js/maths.js').then(m => m.csv(rows))", rows)
    import csv

    read = list(csv.reader(text.splitlines()))
    assert read[1] == ['\'=HYPERLINK("http://evil.example")', "-1.5"]
    assert read[2] == ["'+1+cmd|' /C calc'!A0", "-2"]
    assert read[3][0] == "'@SUM(A1)" and read[3][1].startswith("'")
    assert read[4] == ["a, b", "c"]
