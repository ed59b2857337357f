"""Morph: a path as one task, keyframes that are dropped in, progressive rendering, frames at equal distances, and films to take along."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from playwright.sync_api import Locator, Page, expect

from tests.studio.conftest import Studio, until

_ENDS = '[{"prompt":"a red apple","seed":1},{"prompt":"a blue star","seed":2}]'


@pytest.fixture(scope="module")
def quick(studio: Studio) -> dict[str, Any]:
    """A run of four steps: a morph that follows it takes four, too."""
    return studio.wait(studio.make(prompt=["a red apple"], seed=5, steps=4, count=1)["id"])


def _task(page: Page, ends: Any, parts: Any, loop: bool = False, at: Any = None) -> dict[str, Any]:
    ask = """async ([e, p, l, at]) => {
      const m = await import("/studio/js/morph.js"), f = m.path(e, p, l, at);
      return { ...f, places: m.placesOf({ ...f.task, frames: f.frames }) };
    }"""
    found: dict[str, Any] = page.evaluate(ask, [ends, parts, loop, at])
    return found


def test_a_path_is_one_task_that_the_server_reads_alike(page: Page, studio: Studio) -> None:
    """What a segment does not move is carried on; the frames lie where the task puts them, in the page as in the library."""
    from safelight.spec import parse
    from safelight.task.interpolate import Interpolate

    page.goto("/morph")
    ends = [{"prompt": p, "seed": s} for p, s in (("a", 1), ("b", 2), ("c", 3))]
    modes = [{"mode": "noise"}, {"mode": "words"}, {"mode": "both"}]
    found = _task(page, ends, modes, True)["task"]
    assert [(e["prompt"], e["seed"]) for e in found["ends"]] == [("a", 1), ("a", 2), ("c", 2), ("a", 1)]
    uneven = [{"frames": 3, "ease": "smooth"}, {"frames": 6}, {"frames": 2}]
    for parts, loop, at in (([], False, None), (modes, True, None), (uneven, True, None), ([], False, [0, 0.3, 1, 1.2, 2])):
        one = _task(page, ends, parts, loop, at)
        task = parse({**one["task"], **({} if one["task"].get("at") else {"frames": one["frames"]})}, "task")
        assert isinstance(task, Interpolate)
        there = [p.leg + p.part for p in task.places(one["frames"])]
        np.testing.assert_allclose(one["places"], there, atol=1e-12)
        assert len(there) == one["frames"]
    assert _task(page, ends, uneven, True)["frames"] == 3 + 6 + 2 - 2


def test_respread_frames_are_evenly_apart_and_hold_the_keyframes(page: Page, studio: Studio) -> None:
    page.goto("/morph")
    places = [i / 8 for i in range(17)]
    cuts = [0.1, 0.1, 5.0, 4.0, 0.2, 0.1, 0.1, 0.4, *([1.0] * 8)]
    found = page.evaluate("async (a) => (await import('/studio/js/morph.js')).respread(...a)", [places, cuts, 2])
    assert len(found) == 17 and {0, 1, 2} <= set(found) and all(b > a for a, b in zip(found, found[1:], strict=False))
    along = np.interp(found, places, np.concatenate([[0], np.cumsum(cuts)]))
    for low, high in ((0, 1), (1, 2)):
        steps = np.diff(along[found.index(low) : found.index(high) + 1])
        np.testing.assert_allclose(steps, steps.mean(), rtol=0.01)
    assert page.evaluate("async (a) => (await import('/studio/js/morph.js')).respread(...a)", [places, [0] * 16, 2]) is None


def test_even_spacing_is_even(page: Page, studio: Studio) -> None:
    page.goto("/morph")
    cuts = [1.0, 5.0, 0.5, 0.0, 3.0, 2.5]
    places = page.evaluate("async ([c, n]) => (await import('/studio/js/maths.js')).evenly(c, n)", [cuts, 9])
    along = np.interp(np.array(places) * len(cuts), np.arange(len(cuts) + 1), np.concatenate([[0], np.cumsum(cuts)]))
    np.testing.assert_allclose(np.diff(along), np.full(8, sum(cuts) / 8), atol=1e-9)


def _words(page: Page) -> list[str]:
    return list(page.locator(".lane textarea").evaluate_all("(all) => all.map((t) => t.value)"))


def _drop(page: Page, target: Locator, kind: str, text: str, x: float = 0.5) -> None:
    """Let go of text of a MIME type over an element, as a drag from another window does."""
    target.evaluate(
        """(node, [kind, text, x]) => {
          const data = new DataTransfer(), box = node.getBoundingClientRect();
          data.setData(kind, text);
          const more = { dataTransfer: data, bubbles: true, cancelable: true, clientX: box.left + x * box.width, clientY: box.top + 9 };
          for (const type of ["dragenter", "dragover", "drop"]) node.dispatchEvent(new DragEvent(type, more));
        }""",
        [kind, text, x],
    )


def test_keyframes_are_dropped_in_and_moved(page: Page, studio: Studio, quick: dict[str, Any], made: dict[str, Any]) -> None:
    """With the mouse from the shelf, from a link of another window, as words; and all of it with the keyboard."""
    page.goto("/morph")
    page.get_by_label("Search runs").fill("red apple")
    shelf = page.get_by_role("list", name="Runs to add")
    thumb = shelf.locator("li", has=page.locator(f"img[src*='{quick['id']}']"))
    expect(thumb).to_be_visible()
    box = page.locator(".lane .key").nth(0).bounding_box()
    assert box is not None
    thumb.drag_to(page.locator(".lane"), target_position={"x": 8, "y": 40})
    expect(page.locator(".lane .key")).to_have_count(3)
    assert _words(page) == ["a red apple", "a red apple", "a blue umbrella"]
    expect(page.get_by_label("Seed of keyframe 1")).to_have_value("5")
    expect(page.get_by_text("this run was made")).to_be_visible()
    # A link to a run, from wherever it comes, after the second keyframe.
    _drop(page, page.locator(".lane .key").nth(1), "text/uri-list", f"{studio.url}/run/{made['id']}?step=3", 0.9)
    expect(page.locator(".lane .key")).to_have_count(4)
    assert _words(page)[2] == made["prompt"]
    _drop(page, page.locator(".lane"), "text/plain", "a black star")
    expect(page.locator(".lane .key")).to_have_count(5)
    assert _words(page)[-1] == "a black star"
    # A keyframe is dragged to the front.
    page.locator(".lane .key b").last.scroll_into_view_if_needed()
    before = _words(page)
    page.get_by_role("button", name="Move keyframe 5 earlier").focus()
    page.keyboard.press("Enter")
    assert _words(page) == [*before[:3], before[4], before[3]]
    page.locator(".lane .key b").nth(1).drag_to(page.locator(".lane .key").nth(0), target_position={"x": 10, "y": 10})
    assert _words(page) == [before[1], before[0], *_words(page)[2:]]
    page.get_by_role("button", name="Remove keyframe 5").press("Enter")
    thumb.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".lane .key")).to_have_count(5)
    assert _words(page)[-1] == "a red apple"
    page.wait_for_timeout(400)
    page.reload()
    expect(page.locator(".lane .key")).to_have_count(5)


def test_runs_of_the_gallery_are_the_keyframes_in_their_order(page: Page, quick: dict[str, Any], made: dict[str, Any]) -> None:
    page.goto(f"/morph?run={made['id']},{quick['id']}")
    expect(page.get_by_label("Seed of keyframe 2")).to_have_value("5")
    assert _words(page) == [made["prompt"], quick["prompt"]]
    page.goto(f"/morph?run={quick['id']}")
    expect(page.get_by_label("Seed of keyframe 2")).to_have_value("6")


def test_hovering_shows_the_angle_that_slerp_turns(page: Page, studio: Studio) -> None:
    """The very angles of the noise and the words that the frames are made of; where one stands still it is 0."""
    page.goto(f"/morph?ends={_ENDS}")
    asked: list[str] = []
    page.on("request", lambda r: r.url.endswith("/angles") and asked.append(r.url))
    page.wait_for_timeout(500)
    assert not asked
    page.locator(".leg > div").hover()
    task = {"kind": "interpolate", "ends": json.loads(_ENDS)}
    leg = studio.call("POST", "/v1/morphs/angles", {"request": {"task": task}})["legs"][0]
    assert 80 < leg["noise"] < 100 and 1 < leg["words"] < 120
    expect(page.locator(".angle")).to_have_text(
        f"Slerp turns the noise by {leg['noise']:.1f}°, the words by {leg['words']:.1f}°."
    )
    page.locator(".leg select").first.select_option("words")
    expect(page.locator(".angle")).to_contain_text("the noise by 0.0°")


def test_rendered_in_passes_scrubbed_respread_and_exported(
    page: Page, studio: Studio, quick: dict[str, Any], tmp_path: Path
) -> None:
    page.goto(f"/morph?ends={_ENDS}&like={quick['id']}")
    page.locator(".leg input[type=range]").fill("10")
    expect(page.locator(".cost")).to_contain_text("10 frames")
    with page.expect_response(lambda r: r.url.endswith("/v1/morphs")) as posted:
        page.get_by_role("button", name="Render").click()
    made = posted.value.json()
    asked = [(r["request"]["index"], r["request"]["count"]) for r in made["runs"]]
    assert sorted(k for first, count in asked for k in range(first, first + count)) == list(range(10))
    assert [first for first, count in asked if count == 1][:3] == [0, 8, 9]
    assert all(r["request"]["steps"] == 4 for r in made["runs"])
    # Scrubbed while it is rendered: the nearest frame that is there.
    page.get_by_label("Frame", exact=True).fill("4")
    status = page.locator(".film > p[role=status]")
    expect(page.locator(".film canvas[data-step]")).to_be_visible()
    runs = [studio.wait(r["id"], seconds=120) for r in made["runs"]]
    expect(status).to_contain_text("10 of 10", timeout=60_000)
    expect(page.locator(".histogram i")).to_have_count(9)
    before = _largest(page)

    # Films, of the pictures themselves.
    name = {(r["request"]["index"] + i): (r["id"], i) for r in runs for i in range(r["request"]["count"])}
    frames = [
        np.array(Image.open(io.BytesIO(studio.raw(f"/v1/runs/{name[k][0]}/pictures/{name[k][1]}.png"))).convert("RGB"))
        for k in range(10)
    ]
    for format in page.get_by_label("Format").locator("option").evaluate_all("(all) => all.map((o) => o.value)"):
        page.get_by_label("Format").select_option(format)
        with page.expect_download() as got:
            page.get_by_role("button", name="Export loop").click()
        assert got.value.suggested_filename == f"morph.{format}"
        got.value.save_as(tmp_path / f"loop.{format}")
        shown = _shown(tmp_path / f"loop.{format}")
        if format in ("webm", "mp4"):  # at a fixed rate, a frame as often as it lasts
            shown = [shown[int((k + 0.5) * len(shown) / 18)] for k in range(18)]
        # There and back, so that it loops without a jump.
        assert len(shown) == 18, format
        scale = shown[0].shape[0] // frames[0].shape[0]
        for k, page_of in zip([*range(10), *range(8, 0, -1)], shown, strict=True):
            mine = page_of[::scale, ::scale].astype(int)
            assert np.abs(mine - frames[k]).mean() < (0.01 if format in ("apng", "webp") else 12), (format, k)

    page.get_by_role("button", name="Frames × steps").click()
    expect(page.locator(".lattice tbody tr")).to_have_count(4)
    expect(page.locator(".lattice tbody tr").first.locator("canvas")).to_have_count(9)
    expect(page.locator(".lattice + p")).to_contain_text("A line marks", timeout=60_000)
    page.get_by_role("button", name="Show frame 10 at step 2").click()
    expect(page.get_by_label("Frame", exact=True)).to_have_value("9")
    expect(page.get_by_label("Denoising step")).to_have_value("1")

    # New frames at equal distances: made at other places, and evener than before.
    with page.expect_response(lambda r: r.url.endswith("/v1/morphs")) as posted:
        page.get_by_role("button", name="Make 10 frames at equal distances").click()
    again = posted.value.json()
    at = again["runs"][0]["request"]["task"]["at"]
    assert len(at) == 10 and (at[0], at[-1]) == (0, 1) and at != [k / 9 for k in range(10)]
    assert {r["group"] for r in again["runs"]} != {r["group"] for r in made["runs"]}
    for one in again["runs"]:
        studio.wait(one["id"], seconds=120)
    expect(status).to_contain_text("10 of 10", timeout=60_000)
    expect(page.locator(".histogram i")).to_have_count(9)
    assert _largest(page) < before, (before, _largest(page))
    expect(page.get_by_label("Easing")).to_have_value("at")


def _largest(page: Page) -> float:
    """The largest gap as a multiple of the mean, from the heights of the bars."""
    heights = page.locator(".histogram i").evaluate_all("(all) => all.map((i) => parseFloat(i.style.height))")
    return max(heights) / (sum(heights) / len(heights))


def _shown(file: Path) -> list[np.ndarray]:
    if file.suffix in (".mp4", ".webm"):
        import av

        with av.open(str(file)) as film:
            return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    with Image.open(file) as film:
        return [np.array(page.convert("RGB")) for page in ImageSequence.Iterator(film)]


def test_segments_of_their_own_and_the_same_on_the_command_line(
    page: Page, studio: Studio, quick: dict[str, Any], tmp_path: Path
) -> None:
    """Words alone, then noise alone, of unequal lengths and easings; the line that is copied makes the same frames."""
    ends = [{"prompt": "a red apple", "seed": 5}, {"prompt": "a blue star", "seed": 5}, {"prompt": "a blue star", "seed": 6}]
    parts = [{"mode": "words", "ease": "smooth", "frames": 4}, {"mode": "noise", "frames": 3}]
    page.goto(f"/morph?ends={json.dumps(ends)}&parts={json.dumps(parts)}&like={quick['id']}")
    expect(page.locator(".cost")).to_contain_text("6 frames")
    with page.expect_response(lambda r: r.url.endswith("/v1/morphs")) as posted:
        page.get_by_role("button", name="Render").click()
    runs = [studio.wait(r["id"], seconds=120) for r in posted.value.json()["runs"]]
    at = runs[0]["request"]["task"]["at"]
    np.testing.assert_allclose(at, [0, 7 / 27, 20 / 27, 1, 1.5, 2], atol=1e-12)
    expect(page.locator(".film > p[role=status]")).to_contain_text("6 of 6", timeout=60_000)
    page.get_by_role("button", name="Copy CLI").click()
    line = until(page, "navigator.clipboard.readText()")
    words = shlex.split(line)
    assert words[:2] == ["safelight", "morph"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "morph" / "pictures").iterdir())
    assert len(files) == 6
    for run in runs:
        for i in range(run["request"]["count"]):
            there = np.array(Image.open(io.BytesIO(studio.raw(f"/v1/runs/{run['id']}/pictures/{i}.png"))).convert("RGB"))
            here = np.array(Image.open(files[run["request"]["index"] + i]).convert("RGB"))
            np.testing.assert_array_equal(there, here)


def test_a_picture_as_keyframe_is_led_through_by_inversion(
    page: Page, studio: Studio, quick: dict[str, Any], tmp_path: Path
) -> None:
    """What was not made of words alone is inverted; what its noise turned by is told once it is known, and the line fetches it."""
    task = {"kind": "vary", "seed": 9, "strength": 0.4}
    varied = studio.wait(studio.make(prompt=["a red apple"], seed=5, steps=4, count=1, task=task)["id"])
    page.goto(f"/morph?run={quick['id']},{varied['id']}")
    expect(page.get_by_text("found by inversion")).to_be_visible()
    page.locator(".leg input[type=range]").fill("3")
    expect(page.locator(".cost")).to_contain_text("3 frames")
    page.locator(".leg > div").hover()
    expect(page.locator(".angle")).to_contain_text("an angle that inversion finds")
    with page.expect_response(lambda r: r.url.endswith("/v1/morphs")) as posted:
        page.get_by_role("button", name="Render").click()
    runs = [studio.wait(r["id"], seconds=120) for r in posted.value.json()["runs"]]
    expect(page.locator(".film > p[role=status]")).to_contain_text("The noise turned by", timeout=60_000)
    page.get_by_role("button", name="Copy CLI").click()
    line = until(page, "navigator.clipboard.readText()")
    (tmp_path / "safelight").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m safelight "$@"\n')
    (tmp_path / "safelight").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "morph" / "pictures").iterdir())
    assert len(files) == 3
    for run in runs:
        there = np.array(Image.open(io.BytesIO(studio.raw(f"/v1/runs/{run['id']}/pictures/0.png"))).convert("RGB"))
        here = np.array(Image.open(files[run["request"]["index"]]).convert("RGB"))
        np.testing.assert_array_equal(there, here)


def test_a_run_alone_is_the_first_frame(page: Page, studio: Studio, quick: dict[str, Any], made: dict[str, Any]) -> None:
    """A keyframe that was a run comes out as that run, by its own settings."""
    page.goto(f"/morph?run={quick['id']},{made['id']}")
    page.locator(".leg input[type=range]").fill("2")
    expect(page.locator(".cost")).to_contain_text("2 frames")
    with page.expect_response(lambda r: r.url.endswith("/v1/morphs")) as posted:
        page.get_by_role("button", name="Render").click()
    first = next(r for r in posted.value.json()["runs"] if r["request"]["index"] == 0)
    run = studio.wait(first["id"])
    assert run["pictures"][0]["seal"] == quick["pictures"][0]["seal"]
    expect(page.locator(".film > p[role=status]")).to_contain_text("2 of 2", timeout=60_000)


@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, quick: dict[str, Any], clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"/morph?ends={_ENDS}")
    page.wait_for_selector(".lane .leg")
    page.locator(".leg > div").hover()
    expect(page.locator(".angle")).to_contain_text("the words by")
    page.get_by_role("button", name="Add runs").click()
    expect(page.get_by_role("list", name="Runs to add")).to_be_visible()
    clean(page)
