"""A real server, a real browser: the studio as a person has it before them. The page fails on what must never happen."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")
pytest.importorskip("fastapi")

from playwright.sync_api import Browser, Page, Request, expect

from tests.studio.documented import Documented

_SERVE = """
import sys
from pathlib import Path
from safelight.serve.app import serve
from safelight.serve.settings import Settings
serve(Settings(folder=Path(sys.argv[1]), port=int(sys.argv[2]), devices=("cpu",)), ready=lambda url: print(url, flush=True))
"""
# A shared core can be slow; what never comes fails all the same.
expect.set_options(timeout=30_000)
REQUEST = {"prompt": ["a red apple on a blue background"], "seed": 7, "steps": 8, "count": 2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser, a server and a worker each: minutes in all, so they run with the slow tests."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


class Studio:
    """A server of its own data folder, that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.start()

    def start(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", _SERVE, str(self.folder), str(self.port)]
        self.log = (self.folder.parent / "server.log").open("ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        assert self.process.stdout is not None
        timer = threading.Timer(100, self.process.kill)
        timer.start()
        self.url = self.process.stdout.readline().strip()
        timer.cancel()
        assert self.url, (self.folder.parent / "server.log").read_text()[-2000:]
        self.port = int(self.url.rsplit(":", 1)[1])

    def stop(self, kill: bool = False) -> None:
        """End the server; `kill`: as a power cut does."""
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def restart(self, kill: bool = True) -> None:
        self.stop(kill)
        self.start()

    def raw(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return bytes(answer.read())

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def make(self, **fields: Any) -> dict[str, Any]:
        """Queue a run. fields: of the request, and record, title, parent, ... beside it."""
        beside = {
            name: fields.pop(name) for name in ("record", "title", "parent", "relation", "priority", "model") if name in fields
        }
        run: dict[str, Any] = self.call("POST", "/v1/runs", {"request": REQUEST | fields, **beside})
        return run

    def wait(self, id: str, *states: str, seconds: float = 90) -> dict[str, Any]:
        """The run, once it is in one of the states (default: done)."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            run: dict[str, Any] = self.call("GET", f"/v1/runs/{id}")
            if run["state"] in (states or ("done",)):
                return run
            assert run["state"] != "failed" or "failed" in states, run["error"]
            time.sleep(0.1)
        raise AssertionError(f"run {id} is still {run['state']}")


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A running server."""
    served = Studio(tmp_path_factory.mktemp("studio") / "data")
    yield served
    served.stop()


@pytest.fixture(scope="session")
def made(studio: Studio) -> dict[str, Any]:
    """A finished run of two pictures in eight steps, with everything recorded."""
    return studio.wait(studio.make(record="branches")["id"])


@functools.cache
def documented(home: str) -> Documented:
    """What the API of a server says of itself; of one that tells nobody, as a token is wanted, that of the code."""
    try:
        return Documented.of(home)
    except urllib.error.HTTPError:
        from safelight.serve.app import app
        from safelight.serve.settings import Settings

        with tempfile.TemporaryDirectory() as folder:
            return Documented(app(Settings(folder=Path(folder), devices=())).openapi())


def watch(page: Page, home: str) -> list[str]:
    """What a page did that it must not do, as it happens: ask another host, or what no schema knows; be refused; write an error.

    `page.allowed` may name (by regex) what a test provokes.
    """
    found: list[str] = []
    allowed: list[str] = []
    page.allowed = allowed  # type: ignore[attr-defined]

    def add(text: str) -> None:
        if not any(re.search(pattern, text) for pattern in allowed):
            found.append(text)

    def look(request: Request) -> None:
        if not request.url.startswith((home, "data:", "blob:")):
            return add(f"external request: {request.url}")
        try:
            documented(home).name(request.method, request.url)
        except LookupError as error:
            add(f"not documented: {error}")

    page.on("request", look)
    page.on("response", lambda r: r.status >= 400 and add(f"{r.status} {r.request.method} {r.url}"))
    page.on("console", lambda m: m.type in ("error", "warning") and add(f"console {m.type}: {m.text}"))
    page.on("pageerror", lambda e: add(f"page error: {e}"))
    return found


def until(page: Page, script: str, value: Any = None, seconds: float = 60) -> Any:
    """What a script gives once it is true. (Playwright's own waiting evaluates text in the page, which the page's CSP refuses.)"""
    end = time.monotonic() + seconds
    while not (found := page.evaluate(script, value)):
        assert time.monotonic() < end, f"never true: {script}"
        page.wait_for_timeout(50)
    return found


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    """A guarded page of a fresh profile."""
    context = browser.new_context(base_url=studio.url, viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(60_000)
    one = context.new_page()
    found = watch(one, studio.url)
    yield one
    context.close()
    assert not found, "\n".join(found)


@pytest.fixture
def clean() -> Callable[[Page], None]:
    """Fails on serious findings of axe, and on sideways scroll."""
    from axe_core_python.sync_playwright import Axe

    def check(page: Page) -> None:
        results = Axe().run(page)
        serious = [
            f"{v['id']} ({v['impact']}): {v['help']}; {[n['target'] for n in v['nodes']][:3]}"
            for v in results["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert not serious, "\n".join(serious)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        inner = page.evaluate("(m => m.scrollWidth - m.clientWidth)(document.querySelector('main'))")
        assert wide <= 0 and inner <= 0, f"sideways scroll of {max(wide, inner)} px"

    return check
