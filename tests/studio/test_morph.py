"""Morph: segments as tasks, frames where they belong, progressive rendering, and a loop whose pixels are the frames'."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio

_ENDS = '[{"prompt":"a red apple","seed":1},{"prompt":"a blue star","seed":2}]'


def test_what_a_segment_does_not_move_is_carried_on(page: Page, studio: Studio) -> None:
    page.goto("/morph")
    ends = [{"prompt": p, "seed": s} for p, s in (("a", 1), ("b", 2), ("c", 3))]
    ask = """async ([e, p, l]) => {
      const { segments } = await import("/studio/js/morph.js");
      return segments(e, p, l).map((s) => s.task.ends.map((x) => [x.prompt, x.seed]));
    }"""
    modes = [{"mode": "noise"}, {"mode": "words"}, {"mode": "both"}]
    found = page.evaluate(ask, [ends, modes, True])
    assert found == [[["a", 1], ["a", 2]], [["a", 2], ["c", 2]], [["c", 2], ["a", 1]]]
    from safelight.spec import parse

    for one in page.evaluate("async (e) => (await import('/studio/js/morph.js')).segments(e, [], false)", ends):
        assert parse(one["task"], "task").kind == "interpolate"


def test_even_spacing_is_even(page: Page, studio: Studio) -> None:
    page.goto("/morph")
    cuts = [1.0, 5.0, 0.5, 0.0, 3.0, 2.5]
    places = page.evaluate("async ([c, n]) => (await import('/studio/js/maths.js')).evenly(c, n)", [cuts, 9])
    along = np.interp(np.array(places) * len(cuts), np.arange(len(cuts) + 1), np.concatenate([[0], np.cumsum(cuts)]))
    np.testing.assert_allclose(np.diff(along), np.full(8, sum(cuts) / 8), atol=1e-9)


def test_an_animated_png_holds_every_frame_to_the_byte(page: Page, studio: Studio) -> None:
    page.goto("/morph")
    draws = np.random.default_rng(1).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    files = []
    for one in draws:
        out = io.BytesIO()
        Image.fromarray(one).save(out, "PNG")
        files.append(list(out.getvalue()))
    ask = """async (files) => {
      const { apng } = await import("/studio/js/maths.js"), film = apng(files.map((f) => Uint8Array.from(f)), 83);
      return [...new Uint8Array(await film.arrayBuffer())];
    }"""
    film = Image.open(io.BytesIO(bytes(page.evaluate(ask, files))))
    assert film.n_frames == 3 and film.info["loop"] == 0
    for i, one in enumerate(draws):
        film.seek(i)
        assert film.info["duration"] == pytest.approx(83)
        assert (np.array(film.convert("RGB")) == one).all()


@pytest.mark.slow
def test_rendered_in_passes_scrubbed_and_exported(page: Page, studio: Studio, tmp_path: Any) -> None:
    page.goto(f"/morph?ends={_ENDS}")
    page.locator(".leg input[type=range]").fill("10")
    expect(page.locator("section.mine > p[role=status]")).to_contain_text("10 frames")
    with page.expect_response(lambda r: r.url.endswith("/v1/morphs")) as posted:
        page.get_by_role("button", name="Render").click()
    made = posted.value.json()
    asked = [(r["request"]["index"], r["request"]["count"]) for r in made["runs"]]
    assert sorted(k for first, count in asked for k in range(first, first + count)) == list(range(10))
    assert [first for first, count in asked if count == 1][:3] == [0, 8, 9]
    studio.wait(made["runs"][0]["id"])
    page.get_by_label("Frame", exact=True).fill("4")
    status = page.locator(".film > p[role=status]")
    expect(page.locator(".film canvas[data-step]")).to_be_visible()
    runs = [studio.wait(r["id"], seconds=120) for r in made["runs"]]
    expect(status).to_contain_text("10 of 10", timeout=60_000)
    expect(page.locator(".histogram i")).to_have_count(9)
    with page.expect_download() as got:
        page.get_by_role("button", name="Export loop").click()
    got.value.save_as(tmp_path / "loop.png")
    film = Image.open(tmp_path / "loop.png")
    assert film.n_frames == 18
    first = np.array(Image.open(io.BytesIO(studio.raw(runs[0]["pictures"][0]["url"]))).convert("RGB"))
    assert (np.array(film.convert("RGB")) == first).all()
    page.get_by_role("button", name="Frames × steps").click()
    expect(page.locator(".lattice tbody tr")).to_have_count(8)
    expect(page.locator(".lattice tbody tr").first.locator("canvas")).to_have_count(9)
    page.get_by_label("Play at equal distances").check()


@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, studio: Studio, clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"/morph?ends={_ENDS}")
    page.wait_for_selector(".lane .leg")
    page.locator(".leg > div").hover()
    expect(page.locator(".angle")).to_contain_text("Angle of the words")
    clean(page)
