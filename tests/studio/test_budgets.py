"""What opening a screen loads: the budgets of the page, by what the browser itself counted. How fast it is: benchmarks/studio.py."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page

from tests.studio.conftest import Studio, until

_LOADED = """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
  .filter((r) => r.entryType === 'navigation' || new URL(r.name).pathname.startsWith('/studio/'))
  .map((r) => [new URL(r.name).pathname, r.transferSize, r.decodedBodySize])"""
BUDGET = 150_000


def loaded(page: Page, path: str) -> list[tuple[str, int, int]]:
    """Of every file of the page its path, its bytes over the wire, and its bytes."""
    page.goto(path)
    until(page, "document.querySelector('main > *') && !document.querySelector('main .loading')")
    page.wait_for_timeout(1000)
    return [(name, wire, whole) for name, wire, whole in page.evaluate(_LOADED)]


def test_opening_create_is_less_than_150_kb_as_written(page: Page) -> None:
    files = loaded(page, "/create")
    assert {"/studio/js/create.js", "/studio/js/shell.js", "/studio/studio.css"} <= {name for name, _, _ in files}
    assert sum(whole for _, _, whole in files) < BUDGET, sorted(files, key=lambda f: -f[2])


@pytest.mark.parametrize("screen", ["create", "edit", "mix", "morph", "compare", "explain", "gallery", "jobs", "run"])
def test_every_screen_is_less_than_150_kb_over_the_wire(
    browser: Browser, studio: Studio, screen: str, made: dict[str, str]
) -> None:
    context = browser.new_context(base_url=studio.url)
    try:
        files = loaded(context.new_page(), f"/{screen}/{made['id']}" if screen in ("run", "explain") else f"/{screen}")
        assert all(wire > 0 for _, wire, _ in files), "nothing of this came from a cache"
        assert sum(wire for _, wire, _ in files) < BUDGET, sorted(files, key=lambda f: -f[1])
    finally:
        context.close()
