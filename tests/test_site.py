"""The documentation as it is read: built, served, opened in a real browser, in the light and in the dark."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
pytest.importorskip("mkdocs")

from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md"))
pytestmark = pytest.mark.slow


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    one = browser.new_page(base_url=site, viewport={"width": 1280, "height": 900})
    yield one
    one.close()


def formulas(name: Path) -> int:
    """How many formulas a page's source has: outside of code, `$$` pairs and what stands between two `$`."""
    text = re.sub(r"^( *)```.*?^\1```$", "", (ROOT / "docs" / name.with_suffix(".md")).read_text(), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]+`|^ {4,}.*$", "", text, flags=re.M)
    displayed = len(re.findall(r"^\$\$$", text, re.M)) // 2
    return displayed + len(re.findall(r"(?<![\\$])\$[^$]+\$(?!\$)", re.sub(r"^\$\$$.*?^\$\$$", "", text, flags=re.M | re.S)))


@pytest.mark.parametrize("name", PAGES, ids=str)
def test_every_formula_is_set_and_nothing_is_asked_of_elsewhere(name: Path, page: Page, site: str) -> None:
    wrong: list[str] = []
    page.on("request", lambda r: None if r.url.startswith((site, "data:", "blob:")) else wrong.append(f"asks {r.url}"))
    page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("console", lambda m: wrong.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: wrong.append(f"page error: {e}"))
    address = "/" if str(name) == "index" else f"/{name}/"
    page.goto(address, wait_until="load")
    assert page.locator(".katex-error").all_text_contents() == []
    assert page.locator(".arithmatex").count() == page.locator(".arithmatex > .katex, .arithmatex > .katex-display").count()
    assert page.locator(".arithmatex").count() == formulas(name)
    plain = page.evaluate(
        """() => {
          const text = document.querySelector("article").cloneNode(true);
          text.querySelectorAll("pre, code, .arithmatex").forEach((part) => part.remove());
          return text.textContent;
        }"""
    )
    assert re.findall(r".{0,20}(?:\$|\\[a-z(\[]).{0,20}", plain) == [], "a formula was left as it was written"
    # A formula in a line or a table does not make the page scroll sideways.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_formulas_have_the_colour_of_the_text(scheme: str, browser: Browser, site: str) -> None:
    context = browser.new_context(base_url=site, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto("/processes/", wait_until="load")
    formula, text = (
        page.locator(where).first.evaluate("e => getComputedStyle(e).color") for where in (".katex .mord", "article p")
    )
    assert formula == text
    context.close()
