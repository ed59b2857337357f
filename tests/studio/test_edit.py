"""Edit: the mask's arithmetic against brute force, and a person's way from a run to a kept result, by pointer and by keys."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio, until


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


def _place(page: Page, selector: str) -> tuple[float, float, float, float]:
    """(left, top, width, height) of an element, in the window's pixels."""
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"], box["height"]


def _drag(page: Page, *points: tuple[float, float]) -> None:
    """A drag over points given in parts of the picture, 0..1."""
    x, y, w, h = _place(page, ".paper .inner")
    page.mouse.move(x + points[0][0] * w, y + points[0][1] * h)
    page.mouse.down()
    for u, v in points[1:]:
        page.mouse.move(x + u * w, y + v * h, steps=4)
    page.mouse.up()


def _share(page: Page) -> float:
    """The part of the picture that the page says is painted, 0..1."""
    found = re.search(r"([\d.]+) %", _said(page))
    return float(found[1]) / 100 if found else 0.0


def _generated(page: Page, studio: Studio, *states: str) -> dict[str, Any]:
    """The run that Generate asks for, once it is over."""
    with page.expect_response(lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs")) as posted:
        page.get_by_role("button", name="Generate", exact=True).click()
    return studio.wait(posted.value.json()["id"], *states)


def _pixels(studio: Studio, path: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(studio.raw(path))).convert("RGB"))


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


def test_feather_of_a_part_is_that_of_the_whole(page: Page, studio: Studio) -> None:
    """While one paints, only the surroundings of the brush are drawn anew: they are to the byte what the whole would be."""
    page.goto("/edit")
    work = """
      const feather = 5, shown = new Uint8ClampedArray(4 * 48 * 40);
      const draw = (box) => {
        const [x0, y0, x1, y1] = mask.around(box, feather), row = 4 * (x1 - x0);
        const part = mask.rgba([x0, y0, x1, y1], [255, 96, 32, 150], feather);
        for (let y = y0; y < y1; y++) shown.set(part.subarray((y - y0) * row, (y - y0 + 1) * row), 4 * (y * 48 + x0));
      };
      mask.clean();
      let x = 8, y = 30;
      for (const [u, v, r, value] of [[20, 12, 6, 255], [40, 30, 9, 255], [30, 20, 4, 0], [5, 5, 3, 255], [44, 38, 7, 255]]) {
        mask.stroke(x, y, u, v, r, value);
        draw(mask.clean());
        [x, y] = [u, v];
      }
      const whole = mask.rgba([0, 0, 48, 40], [255, 96, 32, 150], feather);
      return whole.every((v, i) => v === shown[i]) && whole.some((v) => v === 150);"""
    assert page.evaluate(_with(work))


def test_the_brush_follows_on_a_canvas_of_1024(page: Page, studio: Studio) -> None:
    """Real pointer moves over a megapixel, wide brush, feather on: the page's own work a move is less than a frame."""
    picture = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    page.goto("/edit")
    send = """async (data) => {
      const body = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      return (await (await fetch("/v1/pictures", { method: "POST", body })).json()).seal;
    }"""
    seal = page.evaluate(send, base64.b64encode(file.getvalue()).decode())
    page.goto(f"/edit?seal={seal}")
    page.get_by_label("Brush", exact=True).last.fill("80")
    page.get_by_label("Feather", exact=True).fill("16")
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        return {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}["ScriptDuration"]

    page.evaluate(
        "() => { window.moves = 0; document.querySelector('.sheet').addEventListener('pointermove', () => window.moves++) }"
    )
    x, y, w, h = _place(page, ".paper .inner")
    page.mouse.move(x + 0.1 * w, y + 0.1 * h)
    page.mouse.down()
    page.mouse.move(x + 0.2 * w, y + 0.5 * h, steps=20)
    before, moves = spent(), page.evaluate("window.moves")
    for k in range(4):
        page.mouse.move(x + (0.9 if k % 2 else 0.1) * w, y + (0.3 + 0.15 * k) * h, steps=25)
    cost = (spent() - before) / (page.evaluate("window.moves") - moves)
    page.mouse.up()
    assert cost < 0.016, f"{1000 * cost:.1f} ms a move"
    assert _share(page) > 0.05


def test_every_tool_paints_by_pointer(page: Page, made: dict[str, Any]) -> None:
    _opened(page, made)
    pick = lambda name: page.get_by_role("radio", name=name).click()  # noqa: E731
    pick("Rectangle")
    _drag(page, (0.25, 0.25), (0.75, 0.75))
    assert _share(page) == pytest.approx(0.25, abs=0.02)
    page.get_by_role("button", name="Invert").click()
    assert _share(page) == pytest.approx(0.75, abs=0.02)
    page.get_by_role("button", name="Clear").click()
    assert _share(page) == 0
    pick("Lasso")
    _drag(page, (0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.1, 0.15))
    assert _share(page) == pytest.approx(0.32, abs=0.03)
    pick("Eraser")
    _drag(page, (0.1, 0.1), (0.6, 0.3))
    assert _share(page) < 0.31
    pick("Fill")
    x, y, w, h = _place(page, ".paper .inner")
    page.mouse.click(x + 0.95 * w, y + 0.95 * h)  # the background, of one colour
    expect(page.locator(".bench > p[role=status]")).not_to_contain_text("No mask")
    undo = page.get_by_role("button", name="Undo")
    for _ in range(6):
        undo.click()
    expect(undo).to_be_disabled()
    assert "No mask" in _said(page)
    redo = page.get_by_role("button", name="Redo")
    for _ in range(6):
        redo.click()
    expect(redo).to_be_disabled()


def test_the_view_moves_by_space_wheel_and_two_fingers(page: Page, made: dict[str, Any]) -> None:
    """Nothing of it paints; a point under the pointer, or between the fingers, stays there."""
    _opened(page, made)
    sheet = _place(page, ".sheet")
    x, y = sheet[0] + 0.6 * sheet[2], sheet[1] + 0.4 * sheet[3]
    left, _, width, _ = _place(page, ".paper .inner")
    page.mouse.move(x, y)
    page.mouse.wheel(0, -280)
    expect(page.locator(".zoom button").nth(1)).to_have_text("201 %")
    after = _place(page, ".paper .inner")
    assert after[2] == pytest.approx(2.014 * width, rel=0.01)
    assert (x - after[0]) / after[2] == pytest.approx((x - left) / width, abs=0.01)
    page.keyboard.down("Space")
    page.mouse.down()
    page.mouse.move(x - 60, y + 30, steps=3)
    page.mouse.up()
    page.keyboard.up("Space")
    moved = _place(page, ".paper .inner")
    assert (moved[0] - after[0], moved[1] - after[1]) == (pytest.approx(-60, abs=1), pytest.approx(30, abs=1))
    page.locator(".zoom button").nth(1).click()

    hand = page.context.new_cdp_session(page)
    cx, cy = sheet[0] + sheet[2] / 2 + 40, sheet[1] + sheet[3] / 2 - 20
    before = _place(page, ".paper .inner")

    def touch(kind: str, *apart: float) -> None:
        points = [{"x": cx + d, "y": cy, "id": k} for k, d in enumerate(apart)]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -30)
    touch("touchStart", -30, 30)
    for d in (36, 45, 54, 60):
        touch("touchMove", -d, d)
    touch("touchEnd")
    expect(page.locator(".zoom button").nth(1)).to_have_text("200 %")
    after = _place(page, ".paper .inner")
    assert (cx - after[0]) / after[2] == pytest.approx((cx - before[0]) / before[2], abs=0.02)
    assert "No mask" in _said(page) and page.get_by_role("button", name="Undo").is_disabled()


def test_an_edge_is_dragged_and_the_mask_is_painted_in_one_run(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """One request of the task `outpaint` with the mask: the border and the mask are new, every other byte is the picture's."""
    _opened(page, made)
    page.get_by_role("radio", name="Rectangle").click()
    _drag(page, (0.25, 0.25), (0.5, 0.75))
    for side, by in (("left", (-90, 0)), ("bottom", (0, 60))):
        x, y, w, h = _place(page, f".edge.{side}")
        page.mouse.move(x + w / 2, y + h / 2)
        page.mouse.down()
        page.mouse.move(x + w / 2 + by[0], y + h / 2 + by[1], steps=5)
        page.mouse.up()
    left, bottom = (
        int(page.get_by_role("slider", name=f"Outpaint {s}").get_attribute("aria-valuenow") or 0) for s in ("left", "bottom")
    )
    assert left and bottom and not left % 8
    expect(page.locator(".bench > p[role=status]")).to_contain_text("in the same run")
    assert page.get_by_label("The area begins as").locator("option").count() == 3
    runs: list[str] = []
    page.on("request", lambda r: r.method == "POST" and r.url.endswith("/v1/runs") and runs.append(r.url))
    run = _generated(page, studio)
    assert len(runs) == 1
    task = run["request"]["task"]
    assert task["kind"] == "outpaint" and task["margins"] == [left, 0, 0, bottom]
    before, after = _pixels(studio, made["pictures"][1]["url"]), _pixels(studio, run["pictures"][0]["url"])
    mask = _pixels(studio, f"/v1/pictures/{task['mask']}.png")[..., 0] > 127
    side = before.shape[0]
    assert after.shape == (side + bottom, side + left, 3) and mask.mean() == pytest.approx(0.125, abs=0.02)
    inside = after[:side, left:]
    assert (inside[~mask] == before[~mask]).all() and (inside[mask] != before[mask]).any()
    page.get_by_role("radio", name="What was preserved").click()
    expect(page.locator(".result > p[role=status]")).to_contain_text("put back at every step")
    page.get_by_label("Step of the edit").fill("2")
    alphas = """() => {
      const c = document.querySelector(".over"), whole = c?.width && c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
      return whole && [c.width, c.height, ...whole.filter((_, i) => i % 4 === 3)];
    }"""
    green = until(page, alphas)
    kept = np.array(green[2:]).reshape(green[1], green[0])[:side, left:] > 0
    cells = (
        np.kron(np.array([[m.any() for m in np.hsplit(row, side // 4)] for row in np.vsplit(mask, side // 4)]), np.ones((4, 4)))
        > 0
    )
    assert kept[~cells].mean() > 0.8 > kept[mask].mean()
    page.get_by_role("button", name="Keep", exact=True).click()
    tree = studio.call("GET", f"/v1/runs/{run['id']}/tree")["nodes"]
    assert {(n["id"], n["parent"], n["relation"]) for n in tree} >= {(run["id"], made["id"], "edit")}


def test_strength_shows_the_start_in_pixels_and_then_from_the_recording(
    page: Page, studio: Studio, made: dict[str, Any]
) -> None:
    _opened(page, made)
    strength, drawn = (
        page.locator(".strength"),
        """(other) => {
      const c = document.querySelector(".start canvas");
      const pen = c?.width > 1 && new OffscreenCanvas(c.width, c.height).getContext("2d");
      if (pen) pen.drawImage(c, 0, 0);
      const now = pen && [...pen.getImageData(0, 0, c.width, c.height).data];
      return now && now.some((v, i) => v !== other[i]) && now;
    }""",
    )
    first = until(page, drawn, [])
    strength.get_by_label("Strength").fill("0.5")
    expect(strength).to_contain_text(" of 8 steps: begins at t = 0.50, here with the noise drawn in pixels.")
    skip = int(re.search(r"Skip (\d) of 8", strength.inner_text())[1])  # type: ignore[index]
    assert strength.locator(".ticks .off").count() == skip > 0
    half = until(page, drawn, first)
    strength.get_by_label("Strength").fill("0")
    expect(strength).to_contain_text("No step is run: the picture is returned.")
    clean = np.array(until(page, drawn, half), float)
    picture = _pixels(studio, made["pictures"][1]["url"]).astype(float)
    assert np.abs(clean.reshape(*picture.shape[:2], 4)[..., :3] - picture).mean() < 1 < np.abs(np.array(half) - clean).mean()
    strength.get_by_label("Strength").fill("0.5")
    run = _generated(page, studio)
    task = run["request"]["task"]
    assert (task["kind"], task["strength"], run["steps"]) == ("image", 0.5, 8 - skip)
    expect(strength).to_contain_text("here as the network saw it, from the recording.")
    expect(strength.get_by_role("img", name="What this run began with")).to_have_attribute("data-step", "0")
    strength.get_by_label("Strength").fill("0.75")
    expect(strength).to_contain_text("drawn in pixels")


def test_an_edit_is_there_again_after_a_reload(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """Mask, margins, words, and a run in the middle of its way; it is stopped, taken up again, and its result is there too."""
    _opened(page, made)
    page.get_by_role("radio", name="Rectangle").click()
    _drag(page, (0.25, 0.25), (0.75, 0.5))
    page.get_by_label("What shall be seen").fill("a blue star")
    page.get_by_role("slider", name="Outpaint top").focus()
    page.keyboard.press("ArrowUp")
    said = _said(page)
    until(page, "() => JSON.parse(localStorage.getItem('safelight.edit') ?? 'null')?.margins[1] === 8")
    page.reload()
    expect(page.locator(".bench > p[role=status]")).to_have_text(said)
    expect(page.get_by_label("What shall be seen")).to_have_value("a blue star")
    studio.call("POST", "/v1/jobs/pause")
    with page.expect_response(lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs")) as posted:
        page.get_by_role("button", name="Generate", exact=True).click()
    id = posted.value.json()["id"]
    expect(page.get_by_text("Waiting its turn")).to_be_visible()
    until(page, f"() => JSON.parse(localStorage.getItem('safelight.edit')).made === '{id}'")
    page.reload()
    expect(page.get_by_text("Waiting its turn")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()
    page.get_by_role("button", name="Resume", exact=True).click()
    studio.call("POST", "/v1/jobs/resume")
    studio.wait(id)
    expect(page.get_by_label("Divider between Before and After")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Divider between Before and After")).to_be_visible()
    page.get_by_role("button", name="Back to the mask").click()
    expect(page.locator(".bench > p[role=status]")).to_have_text(said)


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
