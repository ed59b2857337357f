"""Compare: axes as the command line reads them, cells that fill live, one slider for all, two against each other, and exports."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
    expect(page.locator(".form [role=status]")).to_contain_text("4 images, about ", timeout=30_000)
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
    asked = {"texts": [runs[0]["prompt"]], "seals": [studio.call("GET", f"/v1/runs/{runs[0]['id']}")["pictures"][0]["seal"]]}
    told = studio.call("POST", "/v1/embed", asked | {"joint": "sprites-clip"})["cosines"][0][1]
    cell = page.locator(".flow li", has=page.locator(f"a[href='/run/{runs[0]['id']}']"))
    expect(cell.locator("b")).to_have_text(f"{told:.3f}")
    page.get_by_label("Sort").select_option("time")
    expect(page.locator(".flow b")).to_have_text([re.compile(r"^[\d.]+ s$")] * 4)
    times = [float(t.removesuffix(" s")) for t in page.locator(".flow b").all_inner_texts()]
    assert times == sorted(times) and times[0] > 0
    page.get_by_label("Sort").select_option("sharpness")
    with page.expect_download() as got:
        page.get_by_role("button", name="CSV").click()
    got.value.save_as(tmp_path / "cells.csv")
    rows = list(csv.DictReader((tmp_path / "cells.csv").open(newline="")))
    assert [float(r["sharpness"]) for r in rows] == sorted((float(r["sharpness"]) for r in rows), reverse=True)
    assert sorted((r["mix.scale"], r["seed"], r["id"]) for r in rows) == [
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
    assert sheet.shape == (34 + 2 * 226, 2 * 192, 3)
    assert np.abs(sheet[34 + 226 + 34 :, 192:].astype(int) - drawn).mean() < 1
    for band in (sheet[:34], sheet[34:68, :192], sheet[34 + 226 : 34 + 226 + 34, 192:]):
        assert (band < 128).any(), "a label is missing"
    with page.expect_download() as got:
        page.get_by_role("button", name="JSON", exact=True).click()
    told = json.loads(Path(got.value.path()).read_text())
    assert told["axes"] == [{"path": "mix.scale", "values": ["1", "4"]}, {"path": "seed", "values": ["0", "1"]}]
    assert [c["id"] for c in told["cells"]] == [r["id"] for r in runs]

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
    most = studio.call("GET", "/v1/settings")["limits"]["cells"]
    page.goto('/compare?axes=[{"path":"seed","text":"0..40"},{"path":"steps","text":"1..20"}]')
    expect(page.locator(".form [role=status]")).to_contain_text(f"820 cells: {most} at most")
    expect(page.get_by_role("button", name="Start")).to_be_disabled()


@pytest.fixture(scope="module")
def quick(studio: Studio) -> dict[str, Any]:
    """A run of four steps, of settings of its own, to vary."""
    return studio.wait(
        studio.make(prompt=["a red apple"], seed=5, steps=4, count=1, negative="blurry", mix={"kind": "cfg", "scale": 2})["id"]
    )


def _axis(page: Page, i: int, field: str, text: str | None = None, **more: str) -> None:
    page.get_by_label(f"Field of axis {i}").select_option(field)
    for label, value in more.items():
        box = page.get_by_label({"word": "Word to replace", "path": "Path of the field"}[label])
        if label == "word":
            box.select_option(value)
        else:
            box.fill(value)
    if text is not None:
        page.get_by_label(f"Values of axis {i}").fill(text)


def _started(page: Page, studio: Studio, images: int) -> list[dict[str, Any]]:
    """Its cost is said, it is started, and every cell is there once it is done."""
    expect(page.locator(".form [role=status]")).to_have_text(
        re.compile(f"^{images} images, (about .* s|no time measured yet)$")
    )
    with page.expect_response(lambda r: r.url.endswith("/v1/grids")) as posted:
        page.get_by_role("button", name=f"Start {images}").click()
    runs = [studio.wait(r["id"], seconds=180) for r in posted.value.json()["runs"]]
    expect(page.locator(".cell")).to_have_count(images)
    expect(page.locator(".sheet-bar [role=status]")).to_have_text(f"{images} of {images} done")
    return runs


def _at(run: dict[str, Any], path: str) -> Any:
    value: Any = run["request"]
    for key in path.split("."):
        value = value[key]
    return value["kind"] if isinstance(value, dict) else value


# Two axes a sheet, rows and columns: (field, text typed, further boxes, path in the request, values there).
_Axis = tuple[str, str | None, dict[str, str], str, list[Any]]
_SHEETS: list[tuple[_Axis, _Axis]] = [
    (
        ("prompt~", "star, green ball", {"word": "apple"}, "prompt", [["a red star"], ["a red green ball"]]),
        ("mix.scale", "1, 4", {}, "mix.scale", [1, 4]),
    ),
    (
        ("seed", "3..4", {}, "seed", [3, 4]),
        ("prompt-", None, {}, "prompt", [["a red apple"], ["red apple"], ["a apple"], ["a red"]]),
    ),
    (
        ("prompt", '"a red, round apple", a blue star', {}, "prompt", [["a red, round apple"], ["a blue star"]]),
        ("sampler", "ddim, euler", {}, "sampler", ["ddim", "euler"]),
    ),
    (("steps", "3, 5", {}, "steps", [3, 5]), ("grid", "uniform, leading", {}, "grid", ["uniform", "leading"])),
    (
        ("negative", '"a dog", blurry', {}, "negative", ["a dog", "blurry"]),
        ("=", "0, 0.5", {"path": "mix.rescale"}, "mix.rescale", [0, 0.5]),
    ),
]


@pytest.mark.parametrize("sheet", _SHEETS, ids=["-".join(a[0] for a in s) for s in _SHEETS])
def test_every_axis_and_the_line_that_makes_it_again(
    sheet: tuple[_Axis, _Axis], page: Page, studio: Studio, quick: dict[str, Any], tmp_path: Path
) -> None:
    """The fields vary and nothing else does; `safelight grid` with the copied line writes the same files, byte for byte."""
    page.goto(f"/compare?run={quick['id']}&axes=[]")
    expect(page.get_by_text("this run was made")).to_be_visible()
    for i, (field, text, more, _, _) in enumerate(sheet, 1):
        _axis(page, i, field, text, **more)
    (_, _, _, down, rows), (_, _, _, across, columns) = sheet
    runs = _started(page, studio, len(rows) * len(columns))
    assert [(_at(r, down), _at(r, across)) for r in runs] == [(v, w) for v in rows for w in columns]
    tops = {down.split(".")[0], across.split(".")[0]}
    for run in runs:
        same = {k: v for k, v in run["request"].items() if k not in tops}
        assert same == {k: quick["request"][k] for k in same}
    # The line numbers its files with x, the columns, before y.
    order = [runs[y * len(columns) + x] for x in range(len(columns)) for y in range(len(rows))]
    _again(page, studio, order, tmp_path, [f"grid/pictures/{k:04d}" for k in range(len(runs))], "safelight grid")


def _again(page: Page, studio: Studio, runs: list[dict[str, Any]], folder: Path, files: list[str], begins: str) -> None:
    """Run the line that is copied; each cell's file, by the beginning of its name, is the run's picture to the byte."""
    page.get_by_role("button", name="Copy CLI").click()
    expect(page.get_by_text("Command copied")).to_be_visible()
    line = page.evaluate("navigator.clipboard.readText()")
    assert line.startswith(begins), line
    (folder / "safelight").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m safelight "$@"\n')
    (folder / "safelight").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for run, name in zip(runs, files, strict=True):
        found = [p for p in folder.glob(f"{name}*") if p.is_file()]
        assert len(found) == 1, (name, line)
        assert found[0].read_bytes() == studio.raw(f"/v1/runs/{run['id']}/pictures/0.png"), line


def test_three_axes_are_sheets_of_rows_and_columns(page: Page, studio: Studio, quick: dict[str, Any], tmp_path: Path) -> None:
    page.goto(f"/compare?run={quick['id']}&axes=[]")
    _axis(page, 1, "mix.scale", "1, 3")
    _axis(page, 2, "seed", "0..1")
    _axis(page, 3, "steps", "2, 3")
    runs = _started(page, studio, 8)
    expect(page.locator(".cells")).to_have_count(2)
    expect(page.locator("h3")).to_have_text(["steps 2", "steps 3"])
    second = page.locator(".cells").nth(1)
    assert second.locator("tbody th").all_inner_texts() == ["mix.scale 1", "mix.scale 3"]
    ids = second.locator(".cell a").evaluate_all("(all) => all.map((a) => a.pathname.slice(5))")
    assert ids == [runs[i]["id"] for i in (1, 3, 5, 7)]
    # One slider scrubs cells of two and of three steps together.
    page.get_by_label("Step of every cell").fill("0")
    expect(page.locator(".cells canvas[data-step='0']")).to_have_count(8)
    # The line numbers its files with x before y: columns are x, rows y, sheets z.
    order = [(s, g, z) for s in range(2) for g in range(2) for z in range(2)]
    shuffled = [runs[g * 4 + s * 2 + z] for s, g, z in order]
    _again(page, studio, shuffled, tmp_path, [f"grid/pictures/{k:04d}" for k in range(8)], "safelight grid")
    page.reload()
    expect(page.locator(".cells")).to_have_count(2)


def test_models_against_each_other(page: Page, studio: Studio, tmp_path: Path) -> None:
    """Several models are no axis of `safelight grid`: the line is a command a cell."""
    page.goto("/compare?axes=[]&prompt=sneaker")
    names = [m["name"] for m in studio.call("GET", "/v1/models")["models"]]
    _axis(page, 1, "model")
    expect(page.get_by_label("Values of axis 1")).to_have_value(", ".join(names))
    _axis(page, 2, "steps", "3")
    runs = _started(page, studio, len(names))
    assert [r["model"] for r in runs] == names
    cells = page.locator(".cell a")
    cells.nth(0).click(modifiers=["Shift"])
    cells.nth(1).click(modifiers=["Shift"])
    page.get_by_role("radio", name="Difference").click()
    expect(page.locator(".versus p[role=status]")).to_have_text("The two are of different sizes.")
    page.get_by_role("radio", name="Trajectories").click()
    expect(page.locator(".versus .bad")).to_contain_text("share no map")
    _again(page, studio, runs, tmp_path, [f"{k}.png" for k in range(len(runs))], "safelight generate")


def test_forks_at_several_steps(page: Page, studio: Studio, quick: dict[str, Any], tmp_path: Path) -> None:
    """The run is chosen where none is, only the steps from there on are made, and both paths are on one map."""
    page.goto("/compare?axes=[]")
    _axis(page, 1, "fork", "1, 3")
    expect(page.locator(".form [role=status]")).to_have_text("Choose the run to fork.")
    page.get_by_role("button", name="Vary a run").click()
    page.get_by_label("Search").fill("red apple")
    page.locator(f".picker .thumb:has(img[src*='{quick['id']}'])").click()
    page.get_by_label("Prompt", exact=True).fill("a blue star")
    runs = _started(page, studio, 2)
    assert [(r["kind"], r["fork_step"], r["parent"], r["prompt"]) for r in runs] == [
        ("fork", k, quick["id"], "a blue star") for k in (1, 3)
    ]
    cells = page.locator(".cell a")
    cells.nth(0).click(modifiers=["Shift"])
    cells.nth(1).click(modifiers=["Shift"])
    page.get_by_role("radio", name="Trajectories").click()
    expect(page.locator(".versus .map polyline")).to_have_count(2)
    _again(page, studio, runs, tmp_path, ["0.png", "1.png"], "safelight runs fork")


def test_cells_fill_live_and_one_slider_follows(page: Page, studio: Studio) -> None:
    """While they are made cells show their newest step, and can be stopped together."""
    studio.call("POST", "/v1/jobs/pause")
    page.goto('/compare?axes=[{"path":"seed","text":"0..2"},{"path":"steps","text":"60"}]')
    expect(page.locator(".form [role=status]")).to_contain_text("3 images")
    page.get_by_role("button", name="Start 3").click()
    expect(page.locator(".cell .state")).to_have_text(["queued"] * 3)
    studio.call("POST", "/v1/jobs/resume")
    # Seen while it is made: its own canvas has steps, its label counts.
    expect(page.locator(".cell.running canvas[data-step]:not([data-step='-1'])").first).to_be_visible()
    expect(page.locator(".cell.running .state").first).to_contain_text("/60")
    page.get_by_role("button", name="Stop all").click()
    expect(page.locator(".sheet-bar [role=status]")).not_to_contain_text("to go")


def test_what_a_spreadsheet_would_run_is_text(page: Page, studio: Studio) -> None:
    page.goto("/compare")
    bad = ["=1+1", "+1", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"]
    good = [-2.5, 3, "a red apple", "-2", "1e-3"]
    text = page.evaluate("async (v) => (await import('/studio/js/maths.js')).csv([v])", bad + good)
    cells = next(csv.reader(io.StringIO(text, newline="")))
    assert cells == ["'" + v for v in bad] + [str(v) for v in good]


def test_gathered_runs_are_compared(
    page: Page, studio: Studio, quick: dict[str, Any], made: dict[str, Any], tmp_path: Path
) -> None:
    """The tray, filled with the C key, and a line that makes runs of different sorts again."""
    page.goto(f"/run/{quick['id']}")
    expect(page.locator("canvas").first).to_be_visible()
    page.keyboard.press("c")
    page.goto("/compare")
    expect(page.locator(".shots figure")).to_have_count(1)
    page.goto(f"/compare?runs={quick['id']},{made['id']}")
    expect(page.locator(".cell")).to_have_count(2)
    page.get_by_role("button", name="Copy CLI").click()
    expect(page.get_by_text("Command copied")).to_be_visible()
    line = page.evaluate("navigator.clipboard.readText()")
    assert line.count("safelight generate") == 2 and "--out 0.png" in line


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
