"""Recorded runs: the one that ships, where there is nothing to run a model with; and a run as one HTML file, opened from the disk.

Both are walked alike: every lens, the charts, the dial, the loupe, attention, the five stops, the tour and the quiz, and no request.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from safelight.serve.page import bound, example
from tests.studio.conftest import Studio, until, watch

# A server with no worker, and with no model at all: it can make nothing, and decode nothing.
_IDLE = """
import sys
from pathlib import Path
import safelight.model
safelight.model.embedded = lambda: {}
from safelight.serve.app import serve
from safelight.serve.settings import Settings
serve(Settings(folder=Path(sys.argv[1]), port=0, devices=()), ready=lambda url: print(url, flush=True))
"""
KEYS = {"1": "Seen", "2": "Believed", "3": "Noise", "4": "Guidance", "5": "Attention", "6": "Difference"}
STOPS = ("1 Words to tokens", "2 Tokens to vectors", "3 Noise to picture", "4 The loop", "5 Decode")


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that can run nothing."""
    folder = tmp_path_factory.mktemp("idle")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _IDLE, str(folder / "data")], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    assert process.stdout is not None
    timer = threading.Timer(100, process.kill)
    timer.start()
    url = process.stdout.readline().strip()
    timer.cancel()
    assert url, (folder / "server.log").read_text()[-2000:]
    yield url
    process.terminate()
    process.wait(30)


def _opened(browser: Browser, home: str, **context: Any) -> Iterator[Page]:
    """A guarded page whose every request but to `home`, a server or a file, is a failure."""
    made = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
    made.set_default_timeout(60_000)
    page = made.new_page()
    found = _alone(page) if home.startswith("file:") else watch(page, home)
    asked: list[tuple[str, str]] = []
    page.asked = asked  # type: ignore[attr-defined]
    page.on("request", lambda r: None if r.url.startswith(("data:", "blob:")) else asked.append((r.method, r.url)))
    yield page
    made.close()
    assert not found, "\n".join(found)
    assert all(url.startswith(home) for _, url in asked), asked


def _alone(page: Page) -> list[str]:
    """What a page without a server complains of, as it does so."""
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(str(e)))
    return said


@pytest.fixture
def shop(browser: Browser, idle: str) -> Iterator[Page]:
    """A guarded page of the server that can run nothing."""
    yield from _opened(browser, idle, base_url=idle)


@pytest.fixture(scope="module")
def heard(studio: Studio) -> dict[str, Any]:
    """A run of eight steps whose attention was recorded."""
    run = studio.wait(studio.make(record="branches", count=1, steps=8, seed=8)["id"])
    studio.wait(studio.call("POST", f"/v1/runs/{run['id']}/attention")["id"])
    return run


@pytest.fixture(scope="module")
def files(heard: dict[str, Any], studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """name -> (file: address, run's id): what the studio exports, and what the documentation shows."""
    folder = tmp_path_factory.mktemp("files")
    own = folder / "own.html"
    own.write_bytes(studio.raw(f"/v1/runs/{heard['id']}/export/html"))
    site = folder / "example.html"
    site.write_text(bound(example()))
    return {"own": (own.as_uri(), heard["id"]), "site": (site.as_uri(), "example")}


@pytest.fixture(params=["own", "site"])
def disk(request: pytest.FixtureRequest, browser: Browser, files: dict[str, tuple[str, str]]) -> Iterator[tuple[Page, str]]:
    """(a guarded page that shows a file from the disk, the run's id); the file itself is all that it may ask for."""
    address, id = files[request.param]
    for page in _opened(browser, address):
        page.goto(address)
        yield page, id
        assert {url.split("#")[0] for _, url in page.asked} == {address}  # type: ignore[attr-defined]


# What the microscope shows at a step: true once it does, and it is none of the looks that were seen before.
_FRESH = """([step, seen]) => {
  const canvas = document.querySelector('.stage canvas');
  if (canvas?.dataset.step !== String(step)) return false;
  const blank = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height });
  const look = canvas.toDataURL();
  return look !== blank.toDataURL() && !seen.includes(look) && look;
}"""


def microscope(page: Page) -> None:
    """Every control of the microscope that needs no server."""
    expect(page.get_by_role("heading", name="Guidance dial")).to_be_visible()
    strip = page.get_by_role("slider", name="Step of the run")
    steps = int(strip.get_attribute("aria-valuemax") or 0)
    # every lens shows a picture of its own, at two steps
    looks = list[str]()
    for key, lens in KEYS.items():
        page.keyboard.press(key)
        expect(page.get_by_role("radio", name=lens, exact=True)).to_be_checked()
        for name, step in (("Home", 0), ("PageUp", 5)):
            strip.press(name)
            looks.append(until(page, _FRESH, [step, looks]))
    page.keyboard.press("2")
    # the charts follow the step
    charts = page.locator(".chart")
    assert charts.count() >= 6
    said = charts.locator("output").first.inner_text()
    strip.press("Home")
    expect(charts.locator("output").first).not_to_have_text(said)
    # play
    page.get_by_role("button", name="Play").click()
    expect(strip).to_have_attribute("aria-valuenow", str(steps))
    # two lenses, two steps
    page.get_by_role("radio", name="Two lenses").click()
    expect(page.get_by_label("Lens on the right")).to_be_visible()
    page.get_by_role("radio", name="Two steps").click()
    expect(page.get_by_role("button", name="Pin this step")).to_be_visible()
    page.get_by_role("radio", name="Whole").click()
    # the loupe reads the latent
    box = page.locator(".stage canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    expect(page.locator(".loupe li").first).to_have_text(re.compile(r"^\s*-?\d+\.\d\d$"))
    page.mouse.move(2, 2)
    # attention: a token, its mean, the ranks of a place
    page.keyboard.press("5")
    expect(page.get_by_role("radio", name="Attention", exact=True)).to_be_checked()
    chip = page.get_by_role("group", name="Tokens").get_by_role("button", name="red", exact=True)
    chip.click()
    looks.append(until(page, _FRESH, [steps - 1, looks]))
    chip.dblclick()
    expect(page.get_by_role("button", name="Mean of all steps")).to_have_attribute("aria-pressed", "true")
    looks.append(until(page, _FRESH, [steps - 1, looks]))
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    ranked = page.get_by_role("heading", name=re.compile("Looked at from here")).locator("xpath=..").locator("li .number")
    until(page, "document.querySelectorAll('aside li .number').length > 2")
    shares = [int(text.split()[0]) for text in ranked.all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0
    # the dial computes the step in the page
    dial = page.get_by_role("slider", name=re.compile("Guidance at step"))
    turned = """seen => {
      const box = document.querySelector('canvas.dialview'), look = box?.toDataURL();
      return !!box && box.width !== 300 && !seen.includes(look) && look;
    }"""
    seen = list[str]()
    for value in ("0.5", "9.5"):
        dial.fill(value)
        seen.append(until(page, turned, seen))
    # what would need a server is not offered
    for name in ("Fork here", "Run from here", "Copy curl", "GIF"):
        expect(page.get_by_role("button", name=re.compile(name)).filter(visible=True)).to_have_count(0)
    page.keyboard.press("f")
    expect(page.get_by_role("dialog")).to_have_count(0)


def explained(page: Page) -> None:
    """The five stops with their maths and code, the tour, and the quiz."""
    for name in STOPS:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        panel = page.locator("#stop")
        expect(panel.locator("[aria-busy=true]")).to_have_count(0)
        panel.get_by_text("Show maths").first.click()
        expect(panel.locator("details .maths").first).to_be_visible()
        panel.get_by_text("Show code").first.click()
        expect(panel.locator("pre").first).to_have_text(re.compile(r"^\s*(@|def|class) ?\w"))
        expect(panel.locator(".bad")).to_have_count(0)
    # the dial of the third stop, and painting at the fifth
    page.get_by_role("tab", name=STOPS[2]).click()
    before = page.locator("#stop .equation3").last.inner_text()
    page.locator("#stop").get_by_role("slider", name="Guidance", exact=True).fill("9")
    expect(page.locator("#stop .equation3").last).not_to_have_text(before)
    page.get_by_role("tab", name=STOPS[4]).click()
    live = page.get_by_role("img", name="Linear preview of the channels")
    plain = live.evaluate("e => e.toDataURL()")
    page.locator("canvas.paint").first.press("Enter")
    until(
        page,
        "before => document.querySelector('canvas[aria-label=\"Linear preview of the channels\"]').toDataURL() !== before",
        plain,
    )
    # the tour
    page.get_by_role("radio", name=re.compile("Tour")).click()
    bar = page.get_by_role("complementary", name="Tour")
    count = int(bar.locator("small").inner_text().split()[-1])
    for i in range(count - 1):
        expect(bar.locator("small")).to_have_text(f"{i + 1} of {count}")
        bar.get_by_role("button", name="Next").click()
    bar.get_by_role("button", name="To the quiz").click()
    # the quiz
    for i in range(8):
        expect(page.locator(".quiz [role=status]")).to_contain_text(f"Question {i + 1} of 8")
        expect(page.locator(".quiz canvas[data-step]")).to_have_count(2)
        first, second = (int(c.get_attribute("data-step") or -1) for c in page.locator(".quiz canvas").all())
        page.keyboard.press("a" if first < second else "b")
        expect(page.locator(".quiz .two button.right")).to_have_count(1)
        page.locator(".quiz button.primary").click()
    expect(page.locator(".quiz [role=status]")).to_contain_text("8 of 8 right")


# ---- the run that ships ----------------------------------------------------------------------------------------------------------


def test_nothing_can_be_run_here(idle: str, shop: Page) -> None:
    """The ground of what follows: no worker, no model."""
    assert shop.request.get("/v1/models").json()["models"] == []
    assert shop.request.get("/healthz").json()["workers"] == 0


def test_the_microscope_of_the_run_that_ships(shop: Page) -> None:
    shop.goto("/run/example")
    microscope(shop)
    asked = [(method, url) for method, url in shop.asked if "/v1/runs/example" in url or "/studio/example" in url]  # type: ignore[attr-defined]
    assert [url.split("/studio")[1] for _, url in asked] == ["/example/run.json"]  # once, and nothing of it from the API
    assert all(method == "GET" for method, _ in shop.asked)  # type: ignore[attr-defined]


def test_what_was_made_of_it_can_be_looked_at_too(shop: Page) -> None:
    """Its tree names its siblings; each opens, and is scrubbed in lockstep with it."""
    shop.goto("/run/example")
    tree = shop.locator("section.tree")
    expect(tree.locator("a")).to_have_count(4)
    shop.get_by_label("Scrub in lockstep with").select_option(index=1)
    expect(tree.locator(".pair canvas[data-step='9']")).to_have_count(2)
    shop.get_by_role("slider", name="Step of the run").press("Home")
    expect(tree.locator(".pair canvas[data-step='0']")).to_have_count(2)
    for id in ("ancestral", "umbrellas", "large"):
        shop.goto(f"/run/example-{id}")
        until(
            shop, _FRESH, [int(shop.get_by_role("slider", name="Step of the run").get_attribute("aria-valuemax") or 0) - 1, []]
        )
        expect(shop.locator(".chart").first).to_be_visible()


def test_explain_shows_it_where_there_is_no_run(shop: Page) -> None:
    shop.goto("/explain")
    expect(shop.get_by_role("heading", level=1)).to_contain_text("three red apples on a blue background")
    explained(shop)


@pytest.mark.parametrize("screen", ["create", "gallery"])
def test_empty_screens_lead_to_it(shop: Page, screen: str) -> None:
    shop.goto(f"/{screen}")
    shop.get_by_role("link", name="Watch a recorded run").click()
    shop.wait_for_url("**/run/example")
    expect(shop.get_by_role("heading", name="Guidance dial")).to_be_visible()
    # and it stays in the dock: over a reload, and on Create, where nothing can be made of it but another of its kind
    shop.goto("/create")
    expect(shop.get_by_role("region", name="Filmstrip")).to_contain_text("three red apples")
    tools = shop.get_by_role("group", name="With this picture")
    expect(tools.get_by_role("link", name="Explain")).to_be_visible()
    for name in ("Vary", "Upscale", "Copy CLI", "Copy curl"):
        expect(tools.get_by_role("button", name=name)).to_have_count(0)


def test_half_precision_is_read_as_it_was_written(shop: Page) -> None:
    """What the page reads of a step is, number by number, what NumPy reads of the file."""
    shop.goto("/run/example")
    data = base64.b64decode(example()["/v1/runs/example/steps/4/tensors.bin?picture=0"].split(",")[1])
    own = np.frombuffer(data.split(b"\n", 1)[1], "<f2").astype("<f4")
    read: list[float] = shop.evaluate(
        """async () => {
          const { bytes } = await import("/studio/js/api.js");
          const all = new Uint8Array(await bytes("/v1/runs/example/steps/4/tensors.bin?picture=0")), end = all.indexOf(10);
          return [...new Float32Array(all.slice(end + 1).buffer)];
        }"""
    )
    assert np.array_equal(np.array(read, np.float32), own)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
@pytest.mark.parametrize("path", ["/run/example?lens=attention&token=3", "/explain/example", "/explain/example?stop=2"])
def test_accessible(shop: Page, clean: Callable[[Page], None], path: str, scheme: Any, width: int) -> None:
    shop.emulate_media(color_scheme=scheme)
    shop.set_viewport_size({"width": width, "height": 800})
    shop.goto(path)
    expect(shop.get_by_role("region", name="Filmstrip")).to_be_visible()
    expect(shop.locator("main [aria-busy=true]")).to_have_count(0)
    shop.wait_for_timeout(500)
    clean(shop)


# ---- one file --------------------------------------------------------------------------------------------------------------------


def test_a_file_has_the_whole_microscope(disk: tuple[Page, str]) -> None:
    page, _ = disk
    microscope(page)


def test_a_file_explains_itself(disk: tuple[Page, str]) -> None:
    page, id = disk
    page.get_by_role("link", name="Explain", exact=True).click()
    expect(page).to_have_url(re.compile(f"#/explain/{id}"))
    explained(page)


def test_an_address_in_a_file_shows_the_same_view_again(browser: Browser, files: dict[str, tuple[str, str]]) -> None:
    address, id = files["own"]
    for page in _opened(browser, address):
        page.goto(f"{address}#/run/{id}?step=2&lens=guidance")
        expect(page.get_by_role("radio", name="Guidance")).to_be_checked()
        until(page, _FRESH, [2, []])


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_file_is_accessible(disk: tuple[Page, str], clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page, _ = disk
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.get_by_role("heading", name="Guidance dial")).to_be_visible()
    clean(page)
    page.get_by_role("link", name="Explain", exact=True).click()
    expect(page.get_by_role("tablist", name="Stops")).to_be_visible()
    page.wait_for_timeout(500)
    clean(page)


# ---- films -----------------------------------------------------------------------------------------------------------------------


def test_take_it_with_you(page: Page, heard: dict[str, Any], tmp_path: Path) -> None:
    """Every button gives its file."""
    page.goto(f"/run/{heard['id']}")
    panel = page.get_by_role("heading", name="Take it with you").locator("xpath=..")
    starts = {
        "GIF": b"GIF89a",
        "WebP": b"RIFF",
        "APNG": b"\x89PNG",
        "WebM": b"\x1a\x45\xdf\xa3",
        "MP4": b"ftyp",
        "One HTML file": b"<!doctype html>",
        "Frames as zip": b"PK",
    }
    pytest.importorskip("av")
    expect(panel.get_by_role("button", name=re.compile("|".join(starts)))).to_have_count(len(starts))
    for name, start in starts.items():
        with page.expect_download() as loading:
            panel.get_by_role("button", name=name, exact=True).click()
        target = tmp_path / loading.value.suggested_filename
        loading.value.save_as(target)
        assert start in target.read_bytes()[:16], name


def test_no_video_buttons_without_an_encoder(page: Page, heard: dict[str, Any]) -> None:
    def without(route: Any) -> None:
        told = route.fetch().json()
        route.fulfill(json={**told, "exports": [name for name in told["exports"] if name not in ("webm", "mp4")]})

    page.route("**/v1/settings", without)
    page.goto(f"/run/{heard['id']}")
    panel = page.get_by_role("heading", name="Take it with you").locator("xpath=..")
    expect(panel.get_by_role("button", name="GIF")).to_be_visible()
    expect(panel.get_by_role("button", name=re.compile("WebM|MP4"))).to_have_count(0)


@pytest.mark.parametrize("format", ["webm", "mp4"])
def test_browsers_play_the_films_in_their_colours(browser: Browser, studio: Studio, heard: dict[str, Any], format: str) -> None:
    """The last picture that the video shows is the last step, by every pixel's colour."""
    pytest.importorskip("av")
    film = base64.b64encode(studio.raw(f"/v1/runs/{heard['id']}/export/{format}?seconds=1")).decode()
    still = base64.b64encode(studio.raw(f"/v1/runs/{heard['id']}/steps/7/x0.png")).decode()
    page = browser.new_page()
    apart = page.evaluate(
        """async ([film, still]) => {
          const video = Object.assign(document.createElement("video"), { src: film, muted: true });
          await new Promise((done, fail) => { video.onloadeddata = done; video.onerror = () => fail(new Error(video.error.message)); });
          video.currentTime = video.duration - 0.05;
          await new Promise((done) => (video.onseeked = done));
          const picture = new Image();
          picture.src = still;
          await picture.decode();
          const read = (source, smooth) => {
            const pen = new OffscreenCanvas(256, 256).getContext("2d");
            pen.imageSmoothingEnabled = false;
            pen.drawImage(source, 0, 0, 256, 256);
            return pen.getImageData(0, 0, 256, 256).data;
          };
          const a = read(video), b = read(picture);
          return { seconds: video.duration, apart: a.reduce((sum, v, i) => sum + Math.abs(v - b[i]), 0) / (a.length * 0.75) };
        }""",
        [f"data:video/{format};base64,{film}", f"data:image/png;base64,{still}"],
    )
    page.close()
    assert apart["seconds"] == pytest.approx(2, abs=0.1)
    assert apart["apart"] < 4
