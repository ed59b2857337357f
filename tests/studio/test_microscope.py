"""The microscope: lenses, scrubbing within a frame, the exact dial, forks, attention, the loupe, charts, split and export."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio, until


def open_(page: Page, run: dict[str, Any], query: str = "") -> None:
    page.goto(f"/run/{run['id']}{query}")
    page.wait_for_selector(".charts canvas")
    until(page, "document.querySelector('.scope .stage canvas').dataset.step !== '-1'")


def test_address_reproduces_the_view(page: Page, made: dict[str, Any]) -> None:
    open_(page, made, "?step=5&lens=x&picture=1&with=difference")
    expect(page.get_by_role("radio", name="Seen")).to_have_attribute("aria-checked", "true")
    expect(page.locator(".scope .stage canvas.frame")).to_have_attribute("data-step", "5")
    expect(page.locator(".tag.right")).to_have_text("difference, step 6")
    expect(page.locator(".dock small").first).to_contain_text("step 6 of 8")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("2")
    expect(page).to_have_url(re.compile(r"step=6"))
    assert "lens=" not in page.url and "picture=1" in page.url


def test_every_lens_draws_its_own_picture(page: Page, made: dict[str, Any]) -> None:
    open_(page, made, "?step=4")
    seen = set()
    for key in "12346":
        page.keyboard.press(key)
        page.wait_for_timeout(500)
        seen.add(page.evaluate("document.querySelector('.scope .stage canvas').toDataURL()"))
    assert len(seen) == 5


def test_scrubbing_asks_nothing_and_fits_a_frame(page: Page, made: dict[str, Any]) -> None:
    """95 % of scrubs are drawn within 16 ms, by every view at once, and not one of them asks the server."""
    open_(page, made)
    page.wait_for_timeout(1000)
    page.mouse.move(5, 300)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    times = page.evaluate(
        """async () => { const { setStep } = await import('/studio/js/filmstrip.js'); const all = [];
        for (let i = 0; i < 200; i++) { const began = performance.now(); setStep(i % 8); all.push(performance.now() - began);
          if (document.querySelector('.scope .stage canvas').dataset.step !== String(i % 8)) throw new Error('not drawn');
          await new Promise(requestAnimationFrame); }
        return all.sort((a, b) => a - b); }"""
    )
    assert times[190] < 16, times[180:]
    assert [url for url in asked if "/v1/" in url] == []


def test_dragging_the_strip_moves_every_cursor(page: Page, made: dict[str, Any]) -> None:
    open_(page, made)
    box = page.locator(".dock .strip").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + 20, steps=5)
    page.mouse.up()
    expect(page.locator(".scope .stage canvas.frame")).to_have_attribute("data-step", "0")
    expect(page.locator(".readout")).to_contain_text("1 of 8")
    assert page.locator(".chart .cursor").first.evaluate("(el) => el.style.transform") == "translateX(4px)"
    chart = page.locator(".plot").first.bounding_box()
    assert chart is not None
    page.mouse.click(chart["x"] + chart["width"] - 5, chart["y"] + 20)
    expect(page.locator(".scope .stage canvas.frame")).to_have_attribute("data-step", "7")


def test_play_loop_reverse(page: Page, made: dict[str, Any]) -> None:
    open_(page, made, "?step=0")
    page.keyboard.press("Space")
    until(page, "document.querySelector('.scope .stage canvas').dataset.step === '7'")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    page.get_by_role("button", name="Reverse").click()
    expect(page.get_by_text("Backwards this is the forward process")).to_be_visible()
    page.keyboard.press("Space") if page.evaluate("document.activeElement.tagName") != "BUTTON" else page.get_by_role(
        "button", name="Play"
    ).click()
    until(page, "document.querySelector('.scope .stage canvas').dataset.step === '0'")


def test_dial_equals_the_server_to_1e_5(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """null + w (cond - null), computed in the browser, against the server's own recomputation, at several steps and scales."""
    open_(page, made)
    for k, w in ((0, 9.5), (3, 0.0), (4, 1.0), (7, 6.3)):
        mine = page.evaluate(
            """async ([id, k, w]) => { const d = await import('/studio/js/dial.js'); const { at } = await d.tensors(id, k, 1);
            return [...d.guided(at['part/cond'].data, at['part/null'].data, w)]; }""",
            [made["id"], k, w],
        )
        body = {"mix": {"kind": "cfg", "scale": w}, "picture": 1}
        theirs = studio.call("POST", f"/v1/runs/{made['id']}/steps/{k}/recompute", body)["x0"]
        assert len(mine) == len(theirs)
        assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < 1e-5


def test_dial_previews_at_once_decodes_on_release_and_forks(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    open_(page, made, "?step=3")
    dial = page.get_by_label("Guidance at step 4", exact=True)
    dial.fill("8")
    until(page, "document.querySelector('canvas.dialview')?.width === 64")
    decoded = page.locator("img.dialview")
    expect(decoded).to_have_attribute("src", re.compile("^data:image/png"))
    # The linear preview is near to what the decoder makes: within a tenth of the range, on average.
    apart = page.evaluate(
        """async () => { const a = document.querySelector('canvas.dialview'), b = document.querySelector('img.dialview');
        await b.decode();
        const c = new OffscreenCanvas(a.width, a.height).getContext('2d'); c.drawImage(b, 0, 0, a.width, a.height);
        const p = a.getContext('2d').getImageData(0, 0, a.width, a.height).data, q = c.getImageData(0, 0, a.width, a.height).data;
        return p.reduce((s, v, i) => s + Math.abs(v - q[i]), 0) / p.length; }"""
    )
    assert apart < 30, apart
    page.get_by_role("button", name="Run from here with 8").click()
    until(page, "(id) => !location.pathname.endsWith(id)", made["id"])
    fork = studio.wait(page.url.split("/run/")[1].split("?")[0])
    assert fork["fork_step"] == 3 and fork["parent"] == made["id"] and fork["request"]["mix"]["scale"] == 8
    page.wait_for_selector(".tree svg")
    expect(page.locator(".tree a")).to_have_count(len(studio.call("GET", f"/v1/runs/{fork['id']}/tree")["nodes"]))


def test_fork_with_nothing_changed_gives_the_same_picture(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """By F; then both branches are scrubbed in lockstep."""
    open_(page, made, "?step=5")
    page.keyboard.press("f")
    page.get_by_role("button", name="Fork", exact=True).click()
    until(page, "(id) => !location.pathname.endsWith(id)", made["id"])
    fork = studio.wait(page.url.split("/run/")[1].split("?")[0])
    assert [p["seal"] for p in fork["pictures"]] == [p["seal"] for p in made["pictures"]]
    page.get_by_label("Scrub in lockstep with").select_option(made["id"])
    page.wait_for_selector(".pair canvas")
    page.locator(".dock .strip").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator(".pair canvas").evaluate_all("(all) => all.map((c) => c.dataset.step)") == ["1", "1"]
    expect(page.locator(".tag.right")).to_contain_text("other run")


def test_attention_is_recorded_on_request(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    open_(page, made, "?step=5&lens=attention")
    page.get_by_role("button", name="Record attention").click()
    token = page.locator(".heat .chip", has_text="apple")
    expect(token).to_be_visible(timeout=60_000)
    expect(page.locator(".heat")).to_contain_text("identical picture")
    token.click()
    expect(page).to_have_url(re.compile(r"token=\d+"))
    page.wait_for_timeout(800)
    one = page.evaluate("document.querySelector('.scope .stage canvas').toDataURL()")
    page.locator(".heat .chip", has_text="background").click()
    page.wait_for_timeout(800)
    assert page.evaluate("document.querySelector('.scope .stage canvas').toDataURL()") != one
    page.locator(".scope .stage").click(position={"x": 100, "y": 100})
    expect(page.get_by_role("heading", name="Looked at from here, step 6")).to_be_visible()
    expect(page.locator("section:has-text('Looked at from here') li")).not_to_have_count(0)
    token.dblclick()
    expect(page.get_by_alt_text("Attention to this token, mean of all steps")).to_be_visible()


def test_loupe_shows_pixels_and_latent_values(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    open_(page, made, "?step=2")
    box = page.locator(".scope .stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.26, box["y"] + box["height"] * 0.51)
    values = page.locator(".loupe li")
    expect(values.first).to_be_visible()
    header, _, data = studio.raw(f"/v1/runs/{made['id']}/steps/2/tensors.bin?picture=0").partition(b"\n")
    import numpy as np

    offset = 0
    for tensor in json.loads(header)["tensors"]:
        count = int(np.prod(tensor["shape"]))
        if tensor["name"] == "x0":
            x0 = np.frombuffer(data, "<f4", count, offset).reshape(tensor["shape"])
        offset += 4 * count
    h, w = x0.shape[-2:]
    wanted = [f"{v:.2f}" for v in x0[:, int(0.51 * h), int(0.26 * w)]]
    assert [v.strip() for v in values.all_inner_texts()] == wanted
    page.keyboard.press("o")
    expect(page.locator(".loupe")).to_have_count(0)


def test_split_of_two_steps(page: Page, made: dict[str, Any]) -> None:
    open_(page, made, "?step=1")
    page.get_by_role("radio", name="Two steps").click()
    page.locator(".dock .strip").focus()
    page.keyboard.press("End")
    expect(page.locator(".tag.left")).to_have_text("believed, step 8")
    expect(page.locator(".tag.right")).to_have_text("believed, step 2")
    split = page.get_by_role("slider", name="Split between the two views")
    split.focus()
    page.keyboard.press("Home")
    expect(split).to_have_attribute("aria-valuenow", "0")


def test_export(page: Page, made: dict[str, Any]) -> None:
    open_(page, made)
    starts = {"GIF": b"GIF8", "WebP": b"RIFF", "One HTML file": b"<!doctype html", "Frames as zip": b"PK"}
    for name, start in starts.items():
        with page.expect_download() as got:
            page.get_by_role("button", name=name, exact=True).click()
        data = Path(got.value.path()).read_bytes()
        assert data[: len(start)].lower() == start.lower(), name
    assert len(zipfile.ZipFile(io.BytesIO(data)).namelist()) >= 8
