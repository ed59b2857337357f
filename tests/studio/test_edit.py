"""Edit: the mask's arithmetic against brute force, and a person's way from a run to a kept result, by pointer and by keys."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio


def _with(work: str) -> str:
    """A function of the page that works on a new mask of 48 x 40."""
    load = 'const { Mask, pack, unpack } = await import("/studio/js/mask.js"); const mask = new Mask(48, 40);'
    return f"async () => {{ {load} {work} }}"


def _mask(page: Page, work: str) -> np.ndarray:
    """The mask (40, 48) after `work`, of which 1 is painted."""
    found = page.evaluate(_with(work + "; return [...mask.data]"))
    return (np.array(found, np.uint8).reshape(40, 48) > 127).astype(int)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:40, :48] + 0.5
    return y, x


def _opened(page: Page, made: dict[str, Any]) -> None:
    page.goto(f"/edit/{made['id']}?picture=1")
    expect(page.locator(".paper img")).to_have_js_property("complete", True)


def _said(page: Page) -> str:
    return page.locator(".bench > p[role=status]").inner_text()


def test_tools_paint_the_pixels_they_say(page: Page, studio: Studio) -> None:
    page.goto("/edit")
    y, x = _grid()
    ax, ay, bx, by, r = 10.0, 8.0, 33.5, 29.0, 5.5
    u = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
    near = np.hypot(x - ax - u * (bx - ax), y - ay - u * (by - ay)) <= r
    assert (_mask(page, f"mask.stroke({ax}, {ay}, {bx}, {by}, {r})") == near).all()
    assert (_mask(page, "mask.stroke(20, 20, 20, 20, 7)") == (np.hypot(x - 20, y - 20) <= 7)).all()
    box = (x > 5) & (x < 30) & (y > 10) & (y < 22)
    assert (_mask(page, "mask.rectangle(30, 22, 5, 10)") == box).all()
    diamond = np.abs(x - 24.1) / 14 + np.abs(y - 20.3) / 10 < 1
    assert (_mask(page, "mask.lasso([[24.1, 10.3], [38.1, 20.3], [24.1, 30.3], [10.1, 20.3]])") == diamond).all()
    assert (_mask(page, "mask.rectangle(30, 22, 5, 10); mask.invert()") == ~box).all()
    ring = "mask.rectangle(5, 5, 40, 35); mask.rectangle(8, 8, 37, 32, 0);"
    inside = (x > 8) & (x < 37) & (y > 8) & (y < 32)
    whole = (x > 5) & (x < 40) & (y > 5) & (y < 35)
    assert (_mask(page, ring + "mask.fill(20, 20)") == whole).all()
    assert (_mask(page, ring + "mask.fill(1, 1)") == ~inside).all()


def test_undo_returns_every_state_and_packing_loses_nothing(page: Page, studio: Studio) -> None:
    page.goto("/edit")
    same = """
      const states = [], keep = () => states.push(mask.data.slice());
      keep();
      for (let i = 0; i < 12; i++) { mask.change(() => mask.stroke(4 * i, 3 * i, 40 - i, 30, 2 + i, i % 3 ? 255 : 0)); keep(); }
      mask.change(() => mask.stroke(500, 500, 500, 500, 3));
      const copy = mask.data.slice().fill(7); unpack(pack(mask.data), copy);
      const equal = (a, b) => a.every((v, i) => v === b[i]);
      const ok = [equal(copy, mask.data)];
      const distinct = states.filter((s, i) => !i || !equal(s, states[i - 1]));
      for (const s of distinct.slice(0, -1).reverse()) { mask.undo(); ok.push(equal(s, mask.data)); }
      ok.push(!mask.undo());
      for (const s of distinct.slice(1)) { mask.redo(); ok.push(equal(s, mask.data)); }
      return ok;"""
    assert all(page.evaluate(_with(same)))


def test_feather_follows_the_servers_ramp(page: Page, studio: Studio) -> None:
    """What is seen of the new picture, 0 at the edge and 1 beyond the feather, within 9 % of the exact distance (chamfer)."""
    torch = pytest.importorskip("torch")
    from safelight.task.canvas import ramp

    page.goto("/edit")
    work = "mask.lasso([[6, 6], [42, 10], [30, 36]]); return [...mask.rgba([0, 0, 48, 40], [255, 0, 0, 255], 6)]"
    shown = np.array(page.evaluate(_with(work)), float).reshape(40, 48, 4)[..., 3] / 255
    hole = torch.tensor(_mask(page, "mask.lasso([[6, 6], [42, 10], [30, 36]])"))[None, None].bool()
    assert np.abs(shown - ramp(hole, 6)[0, 0].numpy()).max() < 0.1


def test_brush_strokes_are_not_laggy(page: Page, studio: Studio) -> None:
    """A stroke of 80 pixels' width on a megapixel takes less than a frame of the page's own time."""
    page.goto("/edit")
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        return {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}["ScriptDuration"]

    page.evaluate("async () => { window.m = new (await import('/studio/js/mask.js')).Mask(1024, 1024) }")
    draw = "() => { for (let i = 0; i < 200; i++) { m.stroke(4 * i, 500, 4 * i + 4, 500 + i, 40); m.rgba(m.clean(), [1, 2, 3, 4]); } }"
    page.evaluate(draw)
    before = spent()
    page.evaluate(draw)
    assert (spent() - before) / 200 < 0.016


def test_strength_says_where_the_run_begins(page: Page, studio: Studio) -> None:
    """`begins` gives the number of steps that task/strength.py runs, for every strength and some grids."""
    from safelight.grid import Karras, Uniform
    from safelight.process.continuous import Flow
    from safelight.task.strength import times

    page.goto("/edit")
    ask = "async ([t, s]) => (await import('/studio/js/maths.js')).begins(t, s).run"
    for grid in (Uniform(), Karras()):
        whole = grid(Flow(), 9)
        for strength in (0.05, 0.3, 0.5, 0.6, 0.77, 1.0):
            ran = len(times(grid, Flow(), 9, strength, "scaled")) - 1
            assert page.evaluate(ask, [whole.tolist(), strength]) == ran, (grid, strength)


@pytest.mark.slow
def test_inpaint_by_brush_then_keep_then_outpaint(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    _opened(page, made)
    assert "No mask" in _said(page)
    box = page.locator(".paper canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=5)
    page.mouse.up()
    expect(page.locator(".bench > p[role=status]")).to_contain_text("Inpaint")
    page.keyboard.press("z")
    expect(page.locator(".bench > p[role=status]")).to_contain_text("No mask")
    page.keyboard.press("Shift+Z")
    expect(page.locator(".bench > p[role=status]")).to_contain_text("Inpaint")
    expect(page.get_by_label("Strength").first).to_have_attribute("aria-valuetext", "1.00")
    page.get_by_label("What shall be seen").fill("a blue umbrella")
    with page.expect_response(lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs")) as posted:
        page.get_by_role("button", name="Generate", exact=True).click()
    run = studio.wait(posted.value.json()["id"])
    assert (run["kind"], run["relation"], run["parent"]) == ("edit", "edit", made["id"])
    assert run["request"]["task"]["kind"] == "inpaint" and run["request"]["task"]["picture"] == made["pictures"][1]["seal"]

    sent = np.array(Image.open(io.BytesIO(studio.raw(f"/v1/pictures/{run['request']['task']['mask']}.png"))).convert("L")) > 127
    before = np.array(Image.open(io.BytesIO(studio.raw(made["pictures"][1]["url"]))).convert("RGB"))
    after = np.array(Image.open(io.BytesIO(studio.raw(run["pictures"][0]["url"]))).convert("RGB"))
    assert 0.01 < sent.mean() < 0.5
    assert (before[~sent] == after[~sent]).all() and (before[sent] != after[sent]).any()

    divider = page.get_by_label("Divider between Before and After")
    divider.fill("0.25")
    assert "75%" in (page.locator(".layers > div").first.get_attribute("style") or "")
    page.get_by_role("radio", name="What was preserved").click()
    expect(page.locator(".result > p[role=status]")).to_contain_text("where painted")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.get_by_text("Kept before")).to_be_visible()

    page.get_by_role("slider", name="Outpaint right").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".bench > p[role=status]")).to_contain_text("8 px right")
    with page.expect_response(lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs")) as posted:
        page.get_by_role("button", name="Generate", exact=True).click()
    grown = studio.wait(posted.value.json()["id"])
    assert grown["request"]["task"]["margins"] == [0, 0, 8, 0] and grown["parent"] == run["id"]
    assert grown["pictures"][0]["width"] == run["pictures"][0]["width"] + 8


def test_a_mask_by_keys_alone(page: Page, made: dict[str, Any]) -> None:
    _opened(page, made)
    page.locator(".sheet").focus()
    for key in ("ArrowLeft", "ArrowUp", "Enter", *["ArrowRight"] * 3, *["ArrowDown"] * 2, "Enter"):
        page.keyboard.press(key)
    side = made["pictures"][1]["width"]
    share = 100 * (3 * (side // 16)) * (2 * (side // 16)) / side**2
    expect(page.locator(".bench > p[role=status]")).to_contain_text(f"{share:.1f} %")
    page.keyboard.press("z")
    expect(page.locator(".bench > p[role=status]")).to_contain_text("No mask")


@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, made: dict[str, Any], clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    _opened(page, made)
    clean(page)
    page.goto("/edit")
    page.wait_for_selector(".picker li")
    clean(page)
