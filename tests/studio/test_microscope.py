"""The microscope: lenses, scrubbing within a frame, the exact dial, forks, attention, the loupe, charts, split and export."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio, until

SHOWN = "document.querySelector('.scope .stage canvas').toDataURL()"


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


def test_scrubbing_is_drawn_at_once_and_asks_nothing(page: Page, made: dict[str, Any]) -> None:
    """Every view is drawn when the step is set, and not one scrub asks the server. (How long it takes: benchmarks/studio.py.)"""
    open_(page, made)
    page.wait_for_timeout(1000)
    page.mouse.move(5, 300)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.evaluate(
        """async () => { const { setStep } = await import('/studio/js/filmstrip.js');
        for (let i = 0; i < 64; i++) { setStep(i % 8);
          if (document.querySelector('.scope .stage canvas').dataset.step !== String(i % 8)) throw new Error('not drawn');
          await new Promise(requestAnimationFrame); } }"""
    )
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
    expect(page.get_by_text("Backwards this is the forward process, how a picture is noised")).to_be_visible()
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
    one = page.evaluate(SHOWN)
    page.locator(".heat .chip", has_text="background").click()
    until(page, "(one) => document.querySelector('.scope .stage canvas').toDataURL() !== one", one)
    page.locator(".scope .stage").click(position={"x": 100, "y": 100})
    expect(page.get_by_role("heading", name="Looked at from here, step 6")).to_be_visible()
    expect(page.locator("section:has-text('Looked at from here') li")).not_to_have_count(0)
    # The mean lies over the picture, whatever the step; its address shows it again. By keyboard: the button.
    token.dblclick()
    expect(page).to_have_url(re.compile(r"mean=1"))
    expect(page.get_by_role("button", name="Mean of all steps")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".heat")).to_contain_text("On the picture: the mean over all steps")
    page.wait_for_timeout(1500)
    mean = page.evaluate(SHOWN)
    page.reload()
    until(page, "(mean) => document.querySelector('.scope .stage canvas')?.toDataURL() === mean", mean)
    page.get_by_role("button", name="Mean of all steps").click()
    until(page, "(mean) => document.querySelector('.scope .stage canvas')?.toDataURL() !== mean", mean)
    # The stage itself is reached and used by keys: arrows move the loupe, Enter asks what is looked at from there.
    page.locator(".scope .stage").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".loupe")).to_contain_text("32, 32")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator(".loupe")).to_contain_text("32, 40")
    with page.expect_response(lambda r: "/attention/at?" in r.url) as ranked:
        page.keyboard.press("Enter")
    assert "x=0.5&y=0.625" in ranked.value.url
    expect(page.locator(".scope .stage canvas.frame")).to_have_attribute("data-step", "5")


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


def test_split_of_any_two_lenses(page: Page, made: dict[str, Any]) -> None:
    """Each of the others beside the first; the right half is the other lens and the left half is not."""
    open_(page, made, "?step=4&lens=noise")
    half = """(right) => { const c = document.querySelector('.scope .stage canvas'), w = c.width / 2;
      const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', { willReadFrequently: true });
      copy.drawImage(c, 0, 0);
      return [...copy.getImageData(right ? w + 2 : 0, 0, w - 2, c.height).data].join(); }"""
    end = time.monotonic() + 60
    while not (left := page.evaluate(half, False)).strip("0,"):
        assert time.monotonic() < end, "nothing was drawn"
        page.wait_for_timeout(100)
    page.get_by_role("radio", name="Two lenses").click()
    seen = set()
    for lens in ("x", "x0", "guidance", "difference", "noise"):
        page.get_by_label("Lens on the right").select_option(lens)
        expect(page.locator(".tag.right")).not_to_have_text("")
        page.wait_for_timeout(1200)
        assert page.evaluate(half, False) == left
        seen.add(page.evaluate(half, True))
    assert len(seen) == 5
    expect(page.locator(".tag.left")).to_have_text("noise, step 5")
    expect(page.locator(".view")).to_contain_text("A linear approximation of the latent")
    page.keyboard.press("2")
    page.get_by_label("Lens on the right").select_option("difference")
    expect(page.locator(".view")).not_to_contain_text("linear approximation")


def test_charts_say_when_it_was_decided(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """Six charts and their numbers at the step, which are the server's; 50 % and 90 % are marked where it says."""
    open_(page, made, "?step=3")
    numbers = studio.call("GET", f"/v1/runs/{made['id']}/numbers?picture=0")
    titles = page.locator(".chart h3 > span").all_inner_texts()
    assert titles == ["When was it decided?", "Sigma", "log-SNR", "Size of the update", "Time", "Power, coarse to fine"]
    about = page.locator(".chart canvas").first.get_attribute("aria-label") or ""
    assert f"50 % at step {numbers['half'] + 1}" in about and f"90 % at step {numbers['nine'] + 1}" in about
    for k in (3, 6):
        page.evaluate("(k) => import('/studio/js/filmstrip.js').then((f) => f.setStep(k))", k)
        step = numbers["steps"][k]
        shown = page.locator(".chart output").all_inner_texts()
        assert shown[0] == f"{round(100 * step['decided'])} %"
        for text, name in zip(shown[1:], ("sigma", "logsnr", "update", "ms"), strict=True):
            assert float(text.removesuffix(" ms")) == pytest.approx(step[name], rel=0.01), name
        bars = page.locator(".bands i").evaluate_all("(all) => all.map((el) => Number(el.style.transform.slice(7, -1)))")
        assert len(bars) == 8 and bars[0] == max(bars)


def test_fork_with_everything_changed_and_its_tree(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """?fork=1 opens the dialog; another prompt, guidance, sampler and noise from there on; only the remaining steps are computed."""
    open_(page, made, "?step=4&fork=1")
    dialog = page.get_by_role("dialog", name="Fork at step 5")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("remaining 4 steps")
    dialog.get_by_label("Prompt from here on").fill("a green tree on a blue background")
    dialog.get_by_label("Guidance from here on, number").fill("5")
    dialog.get_by_label("Guidance from here on, number").blur()
    dialog.get_by_label("Sampler from here on").select_option("euler")
    dialog.get_by_label("Fresh noise, number").fill("0.25")
    dialog.get_by_label("Fresh noise, number").blur()
    with page.expect_response(lambda r: r.url.endswith("/fork")) as sent:
        dialog.get_by_role("button", name="Fork", exact=True).click()
    body = json.loads(sent.value.request.post_data or "{}")
    assert (body["step"], body["noise"]) == (4, 0.25)
    changed = body["request"]
    assert changed["prompt"] == ["a green tree on a blue background"] and changed["mix"]["scale"] == 5
    assert changed["sampler"]["kind"] == "euler"
    fork = studio.wait(sent.value.json()["id"])
    steps = studio.call("GET", f"/v1/runs/{fork['id']}/numbers")["steps"]
    assert len(steps) == 8 and fork["pictures"][0]["seal"] != made["pictures"][0]["seal"]
    assert "fork" not in page.url.split("?")[-1]
    tree = page.locator(".tree svg")
    expect(tree).to_contain_text("fork at 5: a green tree")
    # The branch leaves its parent's line at the step it was forked at.
    start = tree.locator("g.now circle").get_attribute("cx")
    root = tree.locator("g").first.locator("circle").get_attribute("cx")
    assert float(start or 0) > float(root or 0)


def test_the_strip_follows_the_theme(page: Page, made: dict[str, Any]) -> None:
    """What is painted takes the colours of the theme as soon as it changes."""
    open_(page, made)
    # The colour of the well as a canvas says it, and the one that the strip was last painted with.
    same = """(theme) => { const pen = new OffscreenCanvas(1, 1).getContext('2d');
      pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--well');
      const strip = document.querySelector('.dock canvas').getContext('2d');
      return document.documentElement.dataset.theme === theme && strip.fillStyle === pen.fillStyle && pen.fillStyle; }"""
    colours = set()
    for theme in ("light", "dark", "light"):
        page.evaluate("(theme) => import('/studio/js/store.js').then((s) => s.set({ theme }))", theme)
        colours.add(until(page, same, theme))
    assert len(colours) == 2


def test_going_back_shows_the_step_of_the_address(page: Page, made: dict[str, Any]) -> None:
    open_(page, made, "?step=5")
    page.evaluate("(id) => import('/studio/js/router.js').then((r) => r.go('/run/' + id, { step: 2 }))", made["id"])
    stage = page.locator(".scope .stage canvas.frame")
    expect(stage).to_have_attribute("data-step", "2")
    page.go_back()
    expect(stage).to_have_attribute("data-step", "5")
    page.get_by_role("link", name="Explain this step").click()
    expect(page).to_have_url(re.compile(rf"/explain/{made['id']}\?stop=2&step=5"))


def test_a_run_without_its_steps_says_so(page: Page, made: dict[str, Any]) -> None:
    """Nothing is asked that the server no longer has."""
    id = made["id"]
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))

    def pruned(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        rows = [body, *body.get("runs", []), *body.get("jobs", [])] if isinstance(body, dict) else []
        for row in rows:
            row.update({"recorded": False} if row.get("id") == id else {})
        route.fulfill(response=answer, json=body)

    page.route(re.compile(r"/v1/(runs(/[0-9a-z]+)?|jobs)(\?|$)"), pruned)
    page.goto(f"/run/{id}")
    expect(page.get_by_text("The steps of this run were pruned; its picture is kept.")).to_be_visible()
    page.wait_for_timeout(800)
    assert not [url for url in asked if re.search(rf"{id}/(sprite|numbers|steps|attention)", url)]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_nothing_serious_for_axe_and_nothing_sideways(
    page: Page, made: dict[str, Any], clean: Callable[[Page], None], width: int, scheme: str
) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    open_(page, made, "?step=4&lens=noise&with=x0")
    dial = page.get_by_label("Guidance at step 5", exact=True)
    dial.fill("6")
    expect(page.locator("img.dialview")).to_be_visible()
    expect(page.locator("figure:has(canvas.dialview) small")).to_have_text("at once: a linear approximation")
    clean(page)


def test_frames_of_old_runs_are_let_go(page: Page, studio: Studio) -> None:
    """Live frames are pictures in memory: those of a few runs are kept, the others are closed; every strip still shows its run."""
    page.goto("/create")
    page.wait_for_selector("#prompt")
    ids = [studio.make(prompt=["a cat"], steps=2, count=1, seed=k)["id"] for k in range(12)]
    for id in ids:
        studio.wait(id, seconds=240)
    live = "import('/studio/js/store.js').then(({ state }) => Object.keys(state.live).length)"
    until(page, f"{live}.then((n) => n > 0 && n <= 9)")
    page.goto(f"/run/{ids[0]}")
    until(page, "Number(document.querySelector('.scope .stage canvas')?.dataset.step) === 1")


def test_export(page: Page, made: dict[str, Any]) -> None:
    open_(page, made)
    starts = {"GIF": b"GIF8", "WebP": b"RIFF", "One HTML file": b"<!doctype html", "Frames as zip": b"PK"}
    if importlib.util.find_spec("av"):
        starts = {"WebM": b"\x1aE\xdf\xa3", "MP4": b"\0\0\0", **starts}
    for name, start in starts.items():
        with page.expect_download() as got:
            page.get_by_role("button", name=name, exact=True).click()
        data = Path(got.value.path()).read_bytes()
        assert data[: len(start)].lower() == start.lower(), name
    assert len(zipfile.ZipFile(io.BytesIO(data)).namelist()) >= 8
