"""Compare: axes as the command line reads them, cells that fill live, one slider for all, two against each other, and exports."""

from __future__ import annotations

import argparse
import csv
import io
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio

_AXES = '[{"path":"mix.scale","text":"1, 4"},{"path":"seed","text":"0..1"}]'


def test_typed_values_are_read_as_the_command_line_does(page: Page, studio: Studio) -> None:
    from safelight.cli.grid import axis

    page.goto("/compare")
    for text in ("1, 2,4", "0..3", "-2..1", "euler,heun", '{"kind": "ddim", "eta": 1}, euler', '"a, b", c'):
        found = page.evaluate("async (t) => (await import('/studio/js/maths.js')).values(t)", text)
        assert len(found) == len(axis(f"x={text}", "x").values), text


def test_the_command_line_is_one_that_safelight_grid_parses(page: Page, studio: Studio) -> None:
    from safelight.cli import grid

    page.goto("/compare")
    axes = [{"path": "mix.scale", "values": [1, 2.5]}, {"path": "prompt~cat", "values": ["dog", "big bear"]}]
    line = page.evaluate("async ([p, a]) => (await import('/studio/js/compare.js')).line(p, a, 3)", ["it's a cat", axes])
    words = shlex.split(line)
    parser = argparse.ArgumentParser()
    grid.add(parser)
    args = parser.parse_args(words[2:])
    assert (words[:2], args.prompt, args.seed) == (["safelight", "grid"], "it's a cat", 3)
    assert grid.axis(args.y, "y") == grid.Axis("mix.scale", ("1", "2.5"))
    assert grid.axis(args.x, "x").path == "prompt~cat"


def test_axes_are_found_in_the_runs_themselves(page: Page, studio: Studio) -> None:
    page.goto("/compare")
    kinds = ("ddim", "heun")
    runs = [
        {
            "id": f"{k}{s}",
            "model": "m",
            "request": {"seed": s, "sampler": {"kind": k, **({"eta": 0} if k == "ddim" else {})}, "mix": {"scale": 2}},
        }
        for k in kinds
        for s in (4, 5, 6)
    ]
    ask = "async (r) => (await import('/studio/js/compare.js')).axesOf(r).map((a) => [a.path, a.values, a.place])"
    assert page.evaluate(ask, runs) == [
        ["sampler", ["ddim", "heun"], [0, 0, 0, 1, 1, 1]],
        ["seed", ["4", "5", "6"], [0, 1, 2, 0, 1, 2]],
    ]


@pytest.mark.slow
def test_a_grid_from_cost_to_pair(page: Page, studio: Studio, made: dict[str, Any], tmp_path: Any) -> None:
    page.goto(f"/compare?run={made['id']}&axes={_AXES}")
    expect(page.locator(".form [role=status]")).to_contain_text("4 pictures, 32 steps", timeout=30_000)
    with page.expect_response(lambda r: r.url.endswith("/v1/grids")) as posted:
        page.get_by_role("button", name="Start 4").click()
    runs = posted.value.json()["runs"]
    expect(page.locator(".cells .cell")).to_have_count(4)
    for run in runs:
        studio.wait(run["id"])
    expect(page.locator(".sheet-bar [role=status]")).to_contain_text("4 of 4 done")
    assert page.locator(".cells tbody th").all_inner_texts() == ["mix.scale 1", "mix.scale 4"]
    assert page.locator(".cells thead th").all_inner_texts() == ["seed 0", "seed 1"]
    expect(page.locator(".cells canvas[data-step='7']")).to_have_count(4)
    page.get_by_label("Step of every cell").fill("2")
    expect(page.locator(".cells canvas[data-step='2']")).to_have_count(4)

    cells = page.locator(".cells .cell a")
    cells.nth(0).click(modifiers=["Shift"])
    cells.nth(3).click(modifiers=["Shift"])
    page.get_by_role("radio", name="Difference").click()
    expect(page.locator(".versus p[role=status]")).to_contain_text("Mean difference")
    page.get_by_role("radio", name="Trajectories").click()
    expect(page.locator(".versus .map polyline")).to_have_count(2)
    expect(page.locator(".versus .map .p0 circle")).to_have_count(8)

    page.get_by_role("button", name="Star mix.scale 1, seed 0").click(force=True)
    expect(page.get_by_role("button", name="Star mix.scale 1, seed 0")).to_have_attribute("aria-pressed", "true")
    assert studio.call("GET", f"/v1/runs/{runs[0]['id']}")["star"] is True
    page.get_by_label("Sort").select_option("sharpness")
    expect(page.locator(".flow b")).to_have_count(4)
    scores = [float(t) for t in page.locator(".flow b").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.get_by_label("Sort").select_option("alignment")
    expect(page.locator(".flow b").first).to_contain_text("0.")
    with page.expect_download() as got:
        page.get_by_role("button", name="CSV").click()
    got.value.save_as(tmp_path / "cells.csv")
    rows = list(csv.DictReader((tmp_path / "cells.csv").open(newline="")))
    assert [(r["mix.scale"], r["seed"], r["id"]) for r in rows] == [
        (g, s, run["id"]) for (g, s), run in zip([("1", "0"), ("1", "1"), ("4", "0"), ("4", "1")], runs, strict=True)
    ]
    page.get_by_label("Sort").select_option("grid")
    page.get_by_label("Step of every cell").fill("7")
    with page.expect_download() as got:
        page.get_by_role("button", name="PNG", exact=True).click()
    got.value.save_as(tmp_path / "sheet.png")
    sheet = np.array(Image.open(tmp_path / "sheet.png").convert("RGB"))
    own = Image.open(io.BytesIO(studio.raw(f"/v1/runs/{runs[3]['id']}/pictures/0.png"))).convert("RGB")
    drawn = np.array(own.resize((192, 192), Image.Resampling.NEAREST))
    assert sheet.shape == (2 * 226, 2 * 192, 3)
    assert np.abs(sheet[226 + 34 :, 192:].astype(int) - drawn).mean() < 1

    page.reload()
    expect(page.locator(".cells .cell")).to_have_count(4)
    cells.nth(2).click()
    page.wait_for_url(f"**/run/{runs[2]['id']}*")


def test_scrubbing_many_cells_stays_within_a_frame(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """One move of the slider over 24 cells takes less than 16 ms of the page's own time."""
    others = [made["id"]] * 1 + [
        r["id"] for r in studio.call("GET", "/v1/runs?state=done&limit=24")["runs"] if r["id"] != made["id"]
    ]
    page.goto(f"/compare?runs={','.join(others)}")
    expect(page.locator(".cell").first).to_be_visible()
    page.wait_for_timeout(1500)
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        return {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

    move = """async () => { const s = document.querySelector(".sheet-bar input"); for (let i = 0; i < 40; i++) { s.value = i % (+s.max + 1);
      s.dispatchEvent(new Event("input", { bubbles: true })); await new Promise(requestAnimationFrame) } }"""
    page.evaluate(move)
    before = spent()
    page.evaluate(move)
    cells = page.locator(".cell").count()
    assert (spent() - before) / 40 * 24 / max(cells, 1) < 0.016 * max(1.0, 24 / max(cells, 1))


def test_too_many_cells_are_refused_before_they_start(page: Page, studio: Studio) -> None:
    page.goto('/compare?axes=[{"path":"seed","text":"0..40"},{"path":"steps","text":"1..10"}]')
    expect(page.locator(".form [role=status]")).to_contain_text("144 at most")
    expect(page.get_by_role("button", name="Start")).to_be_disabled()


@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, made: dict[str, Any], clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/compare")
    page.wait_for_selector(".axis-form")
    clean(page)
    page.goto(f"/compare?runs={made['id']}")
    page.wait_for_selector(".cell canvas")
    clean(page)
