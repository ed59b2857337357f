"""Explain: the machine in one diagram and the zoom into its five stops, all with the run's own numbers, our code, the tour and the quiz."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from safelight.sample import trajectory
from tests.studio.conftest import REQUEST, Studio, until

STOPS = ("Words to tokens", "Tokens to vectors", "Noise to picture", "The loop", "Decode")


@pytest.fixture(scope="session")
def told(studio: Studio, made: dict[str, Any]) -> dict[str, Any]:
    """What the API says of the run's five stops."""
    found: dict[str, Any] = studio.call("GET", f"/v1/runs/{made['id']}/explain")
    return found


def _open(page: Page, run: dict[str, Any], stop: int | None = None, step: int | None = None, more: str = "") -> None:
    query = [f"stop={stop}"] * (stop is not None) + [f"step={step}"] * (step is not None) + [more] * bool(more)
    page.goto(f"/explain/{run['id']}?{'&'.join(query)}")
    page.wait_for_selector("#whole" if stop is None else "#stop", state="attached")
    expect(page.locator("main [aria-busy=true]")).to_have_count(0)


def _level(page: Page, stop: int | None) -> None:
    """The diagram (None) or a stop is what one sees, selected in the tabs, named in the address, and alone."""
    shown, gone = ("#whole", "#stop") if stop is None else ("#stop", "#whole")
    expect(page.locator(shown)).to_be_visible()
    expect(page.locator(gone)).to_be_hidden()
    expect(page.get_by_role("tab", selected=True)).to_have_text(
        "Whole picture" if stop is None else f"{stop + 1} {STOPS[stop]}"
    )
    found = re.search(r"[?&]stop=(\d)", page.url)
    assert (None if found is None else int(found[1])) == stop


def _numbers(box: Locator) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+\.\d+", box.inner_text())]


# ---- the diagram -----------------------------------------------------------------------------------------------------------------


def test_diagram_is_drawn_from_the_run(page: Page, studio: Studio, made: dict[str, Any], told: dict[str, Any]) -> None:
    """Words with their ids, heat strips of the real vectors, the step's frames and numbers, the channels and the picture."""
    _open(page, made, step=3)
    pieces = [p for p in told["tokens"]["places"] if p["role"] != "pad"]
    shown = page.locator("#whole .tok:not(.at-pad) small").all_inner_texts()
    assert shown == [str(p["id"]) for p in pieces]
    pads = len(told["tokens"]["places"]) - len(pieces)
    expect(page.locator("#whole .tok.at-pad")).to_have_text(f"pad × {pads}")
    size = page.get_by_label("Vectors after attention").evaluate("c => [c.width, c.height]")
    assert size == [len(told["vectors"]["encoded"][0]), len(told["vectors"]["tokens"])]
    step = next(s for s in told["loop"]["steps"] if s["k"] == 3)
    numbers = studio.call("GET", f"/v1/runs/{made['id']}/numbers")["steps"][3]
    rule = page.locator("#whole .rule")
    expect(rule.locator("b")).to_have_text(told["loop"]["sampler"])
    expect(rule).to_contain_text(f"x ← {step['keep']:.3f} x + {step['toward']:.3f} x0")
    expect(rule).to_contain_text(f"sigma {numbers['sigma']:.3f} → {step['sigma_next']:.3f}")
    expect(rule).to_contain_text(f"{numbers['decided'] * 100:.0f} % decided")
    expect(page.locator("#whole .guide b")).to_have_text(f"× {numbers['scale']:.1f}")
    c, h, w = told["decode"]["shape"]
    expect(page.locator("#whole [data-part=decode]")).to_contain_text(f"{c} × {h} × {w} numbers")
    expect(page.locator("#whole [data-part=decode] img")).to_have_attribute("src", f"/v1/runs/{made['id']}/pictures/0.png")


def test_diagram_scrubs_with_the_step(page: Page, made: dict[str, Any]) -> None:
    """The slider in the loop, the dock and the play button move every frame; the noise it began with stays."""
    _open(page, made, step=0)
    believed = page.get_by_label("What it believes at step")
    expect(believed).to_have_attribute("data-step", "0")
    answers = "() => ['with', 'without'].map((w) => document.querySelector(`[aria-label='What it believes ${w} the words']`)?.toDataURL())"
    until(page, f"() => ({answers})().every((u) => u && u.length > 200)")
    before = page.evaluate(f"({answers})()")
    assert before[0] != before[1]
    page.locator("#whole").get_by_label("Step", exact=True).fill("6")
    expect(believed).to_have_attribute("data-step", "6")
    expect(page.get_by_label("What the network sees at step 7")).to_have_attribute("data-step", "6")
    expect(page.get_by_label("The noise that it began with")).to_have_attribute("data-step", "0")
    until(page, f"(was) => ({answers})()[0] !== was[0]", before)
    until(page, "() => location.search.includes('step=6')")
    page.get_by_role("slider", name="Step of the run").press("Home")
    expect(believed).to_have_attribute("data-step", "0")
    page.get_by_role("button", name="Play the loop").click()
    expect(believed).to_have_attribute("data-step", "7")


def test_zoom_by_mouse_keys_and_address(page: Page, made: dict[str, Any]) -> None:
    _open(page, made)
    _level(page, None)
    for stop in range(5):
        page.locator(f"#whole [data-stop='{stop}']").click()
        _level(page, stop)
        expect(page.locator("#stop")).to_be_focused()
        page.keyboard.press("Escape")
        _level(page, None)
        expect(page.locator(f"#whole [data-stop='{stop}']")).to_be_focused()
    page.keyboard.press("Enter")
    _level(page, 4)
    page.get_by_role("button", name=re.compile("^Whole picture")).click()
    _level(page, None)
    for stop in (2, 0, 4):
        page.keyboard.press(str(stop + 1))
        _level(page, stop)
    page.go_back()
    _level(page, 0)
    page.reload()
    _level(page, 0)
    page.keyboard.press("0")
    _level(page, None)
    page.get_by_role("tab", name="Whole picture").focus()
    page.keyboard.press("ArrowRight")
    _level(page, 0)
    expect(page.get_by_role("tab", name=STOPS[0])).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    _level(page, 4)


def test_the_camera_goes_to_the_part_and_back(page: Page, made: dict[str, Any]) -> None:
    """The zoom starts from the part's own place; where less motion is wanted there is none."""
    watching = """() => { globalThis.moves = [];
      const own = Element.prototype.animate;
      Element.prototype.animate = function (frames, how) {
        if (this.classList.contains('level'))
          moves.push([this.id, how.direction ?? 'normal', frames[0].transform ?? '', frames.at(-1).transform ?? '']);
        return own.call(this, frames, how); }; }"""
    _open(page, made)
    page.evaluate(watching)
    place = page.evaluate(
        """() => { const [s, r] = ['.zoom3', '[data-part=decode]'].map((one) => document.querySelector(one).getBoundingClientRect());
        return [r.left - s.left, r.top - s.top, r.width / s.width]; }"""
    )
    page.locator("#whole [data-stop='4']").click()
    _level(page, 4)
    (whole, _, _, close), (panel, way, small, _) = page.evaluate("moves")
    assert (whole, panel, way) == ("whole", "stop", "normal")
    x, y, scale = (float(n) for n in re.findall(r"-?[\d.]+", small))
    assert (x, y, scale) == pytest.approx(place, abs=1)
    assert float(re.findall(r"[\d.]+", close)[-1]) == pytest.approx(1 / place[2], rel=0.01)
    page.keyboard.press("Escape")
    _level(page, None)
    assert [m[1] for m in page.evaluate("moves")[2:]] == ["reverse", "reverse"]
    page.emulate_media(reduced_motion="reduce")
    page.evaluate("moves.length = 0")
    page.keyboard.press("2")
    _level(page, 1)
    page.keyboard.press("Escape")
    _level(page, None)
    assert page.evaluate("moves") == []


def test_phone_runs_downward(page: Page, made: dict[str, Any], clean: Callable[[Page], None]) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    _open(page, made)
    places = page.evaluate(
        """() => [...document.querySelectorAll('#whole [data-part]')].map((e) => [e.dataset.part, e.getBoundingClientRect()])
        .map(([name, r]) => [name, r.top, r.right])"""
    )
    order = [name for name, _, _ in sorted(places, key=lambda p: p[1]) if name != "looped"]
    assert order == ["words", "vectors", "seed", "noise", "loop", "decode"]
    assert all(right <= 390 for _, _, right in places)
    clean(page)
    page.locator("#whole [data-stop='4']").click()
    _level(page, 4)
    assert page.evaluate("document.querySelector('main').scrollTop") == 0
    page.keyboard.press("Escape")
    _level(page, None)
    expect(page.locator("#whole [data-stop='4']")).to_be_in_viewport()


# ---- the stops -------------------------------------------------------------------------------------------------------------------


def test_words_are_merged_as_the_tokenizer_merges(page: Page, made: dict[str, Any], told: dict[str, Any]) -> None:
    words = told["tokens"]["words"]
    _open(page, made, 0)
    read = [[s.replace("</w>", "·") for s in row] for w in words for row in (w["merges"][-1],)]
    assert page.locator(".word b").all_inner_texts() == [w["text"] for w in words]
    for box, word, pieces in zip(page.locator(".word").all(), words, read, strict=True):
        assert box.locator(".pieces span").all_inner_texts() == pieces
        expect(box.locator("small")).to_have_text(f"id {', '.join(map(str, word['ids']))}")
    page.get_by_label("Merges").fill("0")
    for box, word in zip(page.locator(".word").all(), words, strict=True):
        assert box.locator(".pieces span").all_inner_texts() == [s.replace("</w>", "·") for s in word["merges"][0]]
        if word["ranks"]:
            expect(box.locator("small")).to_have_text(f"next: pair no. {word['ranks'][0] + 1}")
            left, right = box.locator(".left").first.inner_text(), box.locator(".next").first.inner_text()
            assert left + right in [s.replace("</w>", "·") for s in word["merges"][1]]
    page.get_by_role("button", name="Play the merges").click()
    most = max(len(w["merges"]) for w in words) - 1
    expect(page.locator("[data-part=merges] output")).to_have_text(f"{most} of {most}")


def test_truncation_keeps_the_first(page: Page, made: dict[str, Any], told: dict[str, Any]) -> None:
    """All places with their ids; with less room the first pieces stay and the last are cut."""
    places, limit = told["tokens"]["places"], told["tokens"]["limit"]
    _open(page, made, 0)
    window = page.locator("[data-part=window]")
    assert window.locator(".places small").all_inner_texts() == [str(p["id"]) for p in places]
    assert window.locator(".places .at-pad").count() == sum(p["role"] == "pad" for p in places)
    words = [p["text"].replace("</w>", "").strip() for p in places if p["role"] == "word"]
    page.get_by_label("What if there were room for").fill("3")
    assert [
        t.split("\n")[0] for t in window.locator(".cut").evaluate_all("e => e.map((x) => x.firstChild.textContent)")
    ] == words[3:]
    expect(window.locator("p[role=status]")).to_contain_text(f"the first 3 are kept, and {len(words) - 3} are never read")
    assert window.locator(".at-pad").count() == limit - 3


def test_a_word_of_ones_own_is_cut(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    _open(page, made, 0)
    page.get_by_label("A word of your own").fill("umbrellaphantastic")
    page.get_by_role("button", name="Cut it").click()
    found = studio.call("POST", "/v1/tokenize", {"prompt": "umbrellaphantastic", "model": "default"})["tokens"]
    assert len(found) > 1
    expect(page.locator(".try .places small")).to_have_text([str(t["id"]) for t in found])


def test_words_of_a_finding_are_marked(page: Page, made: dict[str, Any]) -> None:
    _open(page, made, 0, more="at=apple")
    expect(page.locator(".word[aria-current]")).to_have_count(1)
    expect(page.locator(".word[aria-current] b")).to_have_text("apple")
    _open(page, made, 0, more="at=umbrellaphant")
    expect(page.locator("#stop .bad")).to_contain_text("“umbrellaphant” is not in this run's prompt")


def test_vectors_compare_two_pieces(page: Page, made: dict[str, Any], told: dict[str, Any]) -> None:
    """Two heat maps of the real vectors; pieces dragged onto the boxes show their cosines before and after attention."""
    vectors = told["vectors"]
    _open(page, made, 1)
    for name in ("Embeddings from the table", "Embeddings after attention"):
        assert page.get_by_label(name).evaluate("c => [c.width, c.height]") == [
            len(vectors["table"][0]),
            len(vectors["tokens"]),
        ]
    page.locator(".places .chip").nth(2).drag_to(page.locator(".slot").nth(0))
    page.locator(".places .chip").nth(5).drag_to(page.locator(".slot").nth(1))
    expect(page.get_by_label("Word 1")).to_have_value("2")
    expect(page.get_by_label("Word 2")).to_have_value("5")
    status = page.locator("[data-part=cosine] [role=status]")
    expect(status).to_contain_text(f"{vectors['cosines_table'][2][5]:.3f}")
    expect(status).to_contain_text(f"{vectors['cosines'][2][5]:.3f}")
    page.get_by_label("Word 1").select_option("1")
    expect(status).to_contain_text(f"{vectors['cosines'][1][5]:.3f}")
    page.locator(".places .chip").nth(4).press("Enter")
    assert "4" in [page.get_by_label(f"Word {i}").input_value() for i in (1, 2)]


def test_schedule_has_the_step_cursor(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    _open(page, made, 2, 1)
    curve = page.locator("#stop .curve")
    box = curve.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 5 / 7, box["y"] + 40)
    _, alpha, sigma = studio.call("GET", f"/v1/runs/{made['id']}")["levels"][5]
    expect(page.locator("#stop .legend")).to_contain_text(f"how much picture: {alpha:.3f}")
    expect(page.locator("#stop .legend")).to_contain_text(f"how much noise: {sigma:.3f}")
    assert float(curve.locator("line").get_attribute("x1") or 0) == pytest.approx(400 * 5 / 7, abs=0.1)
    expect(page.get_by_role("slider", name="Step of the run")).to_have_attribute("aria-valuenow", "6")


def test_the_equation_holds_with_the_numbers_shown(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """The values under "show maths" are of this step, and satisfy the equation they stand in, to their last digit."""
    _open(page, made, 2, 3)
    page.get_by_text("Show maths").click()
    text = page.locator("#stop details .maths").inner_text()
    value = {m[1]: float(m[2]) for m in re.finditer(r"^\s+(\w+) = (-?[\d.]+)", text, re.M)}
    run = studio.call("GET", f"/v1/runs/{made['id']}")
    _, alpha, sigma = run["levels"][3]
    assert "step 4" in text
    assert value["x"] == pytest.approx(alpha * value["x0"] + sigma * value["eps"], abs=2e-4)
    scale = run["request"]["mix"]["scale"]
    assert value["x0"] == pytest.approx(value["null"] + scale * (value["cond"] - value["null"]), abs=1e-3)
    expect(page.locator("[data-part=equation]")).to_contain_text(f"= {alpha:.3f} ·")
    expect(page.locator("[data-part=equation]")).to_contain_text(f"+ {sigma:.3f} ·")


def test_a_term_shows_its_tensor(page: Page, studio: Studio, made: dict[str, Any], told: dict[str, Any]) -> None:
    """The rms and the ranges of the channels are those of the recorded tensor; every term has its picture."""
    _open(page, made, 2, 3)
    step = next(s for s in told["noise"]["steps"] if s["k"] == 3)
    for name, label in (("x", "x, what it sees"), ("eps", "eps, the noise it sees"), ("null", "null, without words")):
        button = page.locator("#stop .term").filter(has=page.locator(f"b:text-is('{name}')")).first
        expect(button).to_have_attribute("aria-label", f"{label}, rms {step['terms'][name]['rms']:.3f}")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#stop .channels canvas")).to_have_count(told["decode"]["shape"][0])
        drawn = button.locator("canvas").evaluate(
            "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
        )
        assert drawn > 8
    raw = studio.raw(f"/v1/runs/{made['id']}/steps/3/tensors.bin")
    x = np.frombuffer(raw[raw.index(b"\n") + 1 :], "<f4")[: int(np.prod(told["decode"]["shape"]))].reshape(
        told["decode"]["shape"]
    )
    page.locator("#stop .term").first.click()
    expect(page.locator("#stop .channels figcaption").first).to_have_text(f"1: {x[0].min():.1f} to {x[0].max():.1f}")


def test_dial_is_exact_then_decoded_and_forked(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """At the run's own scale the page's sum is the recorded x0 to 1e-5; elsewhere its distance is the server's own."""
    _open(page, made, 2, 2)
    status = page.locator("[data-part=guidance] [role=status]")
    expect(status).to_contain_text("differs from what the run believed by")
    assert float(re.findall(r"\d\.\de-?\d+|0e\+0", status.inner_text())[0]) < 1e-5
    page.get_by_label("Guidance").fill("6")
    expect(page.get_by_label("Linear preview at guidance 6.0")).to_be_visible()
    mix = {k: v for k, v in made["request"]["mix"].items() if k != "family"}
    two = [
        np.array(studio.call("POST", f"/v1/runs/{made['id']}/steps/2/recompute", {"mix": mix | {"scale": s}})["x0"])
        for s in (6, mix["scale"])
    ]
    expect(status).to_contain_text(f"It is {np.sqrt(((two[0] - two[1]) ** 2).mean()):.3f} (rms) away")
    page.get_by_role("button", name="Decode it").click()
    expect(page.get_by_alt_text("The belief at guidance 6")).to_be_visible()
    page.get_by_role("button", name="Run from here with 6.0").click()
    page.wait_for_url("**/run/*")
    forked = studio.wait(page.url.split("/run/")[1].split("?")[0])
    assert (forked["parent"], forked["fork_step"], forked["request"]["mix"]["scale"]) == (made["id"], 2, 6)


def test_the_loop_with_its_numbers(page: Page, made: dict[str, Any], told: dict[str, Any]) -> None:
    _open(page, made, 3, 2)
    step = next(s for s in told["loop"]["steps"] if s["k"] == 2)
    text = page.locator("#stop > .maths").inner_text()
    assert f"x_next = {step['keep']:.4f} x + {step['toward']:.4f} x0" in text
    assert f"sigma {step['sigma']:.4f} → {step['sigma_next']:.4f}" in text
    frames = page.locator("[data-part=walk] canvas[data-step]")
    expect(frames).to_have_count(3)
    for frame, k in zip(frames.all(), ("2", "2", "3"), strict=True):
        expect(frame).to_have_attribute("data-step", k)


def test_our_own_code_is_shown_at_every_stop(page: Page, studio: Studio, made: dict[str, Any], told: dict[str, Any]) -> None:
    for stop, name in enumerate(("tokens", "vectors", "noise", "loop", "decode")):
        _open(page, made, stop)
        page.get_by_text("Show code").click()
        source = studio.call("GET", f"/v1/source/{told[name]['sources'][0]}")["source"]
        expect(page.locator("#stop pre")).to_have_text(source)
    _open(page, made, 3)
    page.get_by_text("Show code").click()
    page.get_by_role("radio", name="loop", exact=True).click()
    expect(page.locator("#stop pre")).to_contain_text("def trajectory")
    assert page.locator("#stop pre").inner_text().strip() == inspect.getsource(trajectory).strip()


def test_two_samplers_side_by_side(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """The same request under an ancestral sampler: queued as a cell of this run, then both loops in lockstep, with their noise."""
    _open(page, made, 3, 2)
    page.get_by_label("Another sampler").select_option("euler-ancestral")
    with page.expect_response(lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs")) as posted:
        page.get_by_role("button", name="Run it with euler-ancestral").click()
    other = studio.wait(posted.value.json()["id"])
    assert (other["parent"], other["relation"], other["seed"], other["steps"]) == (
        made["id"],
        "cell",
        made["seed"],
        made["steps"],
    )
    assert other["request"]["sampler"]["kind"] == "euler-ancestral"
    assert {k: v for k, v in other["request"].items() if k not in ("sampler", "count")} == {
        k: v for k, v in made["request"].items() if k not in ("sampler", "count")
    }
    assert f"against={other['id']}" in page.url
    cards = page.locator(".duel article")
    expect(cards).to_have_count(2)
    expect(cards.nth(1)).to_contain_text("euler-ancestral, adds fresh noise")
    # In lockstep, and with what was really added at that step.
    for k in (2, 5):
        page.locator("#stop").get_by_label("Step", exact=True).first.fill(str(k))
        for card in cards.all():
            expect(card.locator("canvas[data-step]").first).to_have_attribute("data-step", str(k))
        fresh = studio.call("GET", f"/v1/runs/{other['id']}/explain")["loop"]["steps"][k]["fresh"]
        expect(cards.nth(1)).to_contain_text(f"Fresh noise: {fresh:.3f} here")
        expect(cards.nth(1).get_by_label("a step toward it, linear preview")).to_be_visible()
    tensors = [studio.raw(f"/v1/runs/{r['id']}/steps/5/tensors.bin") for r in (made, other)]
    n = int(np.prod(studio.call("GET", f"/v1/runs/{made['id']}/explain")["decode"]["shape"]))
    x, y = (np.frombuffer(t[t.index(b"\n") + 1 :], "<f4")[: 2 * n].reshape(2, n) for t in tensors)
    far = np.sqrt(((x - y) ** 2).mean(1))
    expect(page.locator("[data-part=samplers] > [role=status]")).to_contain_text(
        f"{far[1]:.3f} apart (rms), what they see {far[0]:.3f}"
    )
    page.reload()
    expect(cards).to_have_count(2)


def test_wipe_over_channels_preview_picture_and_enlarged(
    page: Page, studio: Studio, made: dict[str, Any], told: dict[str, Any]
) -> None:
    """Without an enlarged run plain Lanczos, said to be that, is as PIL's; the button makes one, and then it is shown."""
    _open(page, made, 4)
    names = ("Three channels as colours", "Linear preview", "Decoded", "Twice the size by Lanczos")
    expect(page.locator(".wipe figcaption span")).to_have_text(list(names))
    for a, b in zip(names, names[1:], strict=False):
        expect(page.get_by_label(f"Divider between {a} and {b}")).to_be_attached()
    page.get_by_label("Divider between Linear preview and Decoded").fill("0.9")
    clips = page.locator(".layers > div").evaluate_all("e => e.map((x) => x.style.clipPath)")
    assert re.search(r"\b90(\.0*)?%", clips[2])
    h, w = told["decode"]["size"]
    read = """async ([i, w, h]) => {
        const p = document.querySelectorAll('.flow4 img')[i], pen = new OffscreenCanvas(w, h).getContext('2d');
        await p.decode(); pen.drawImage(p, 0, 0); return [p.naturalWidth, [...pen.getImageData(0, 0, w, h).data]]; }"""
    small = np.array(page.evaluate(read, [1, w, h])[1], np.uint8).reshape(h, w, 4)
    wide, large = page.evaluate(read, [2, 2 * w, 2 * h])
    assert wide == 2 * w
    expected = np.asarray(Image.fromarray(small[..., :3]).resize((2 * w, 2 * h), Image.Resampling.LANCZOS)).astype(int)
    off = np.abs(np.array(large).reshape(2 * h, 2 * w, 4)[..., :3] - expected)
    assert off.max() <= 4 and off.mean() < 0.5  # PIL rounds to whole values between its two passes
    with page.expect_response(lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs")) as posted:
        page.get_by_role("button", name="Upscale it").click()
    larger = studio.wait(posted.value.json()["id"])
    assert (larger["parent"], larger["relation"], larger["pictures"][0]["width"]) == (made["id"], "edit", 2 * w)
    expect(page.locator(".wipe figcaption span").last).to_have_text("Enlarged: its details drawn again")
    expect(page.locator(".flow4 img").nth(2)).to_have_attribute("src", f"/v1/runs/{larger['id']}/pictures/0.png")
    page.keyboard.press("Escape")
    expect(page.get_by_alt_text("The enlarged picture")).to_be_visible()


def test_painting_on_a_channel_changes_the_decoded_picture(page: Page, made: dict[str, Any]) -> None:
    """With the mouse, with Enter on a channel, and cell by cell with arrows and Space; and back."""
    _open(page, made, 4)
    plain = page.get_by_alt_text("Decoded", exact=True).last.get_attribute("src")
    painted = page.get_by_alt_text("Decoded from what you painted")
    canvas = page.locator("canvas.paint")
    pictures = [plain]
    for deed in ("Enter", "mouse", "Space"):
        if deed == "Enter":
            canvas.first.focus()
            page.keyboard.press("Enter")
        elif deed == "mouse":
            canvas.nth(1).scroll_into_view_if_needed()
            box = canvas.nth(1).bounding_box()
            assert box is not None
            page.mouse.move(box["x"] + 20, box["y"] + 20)
            page.mouse.down()
            page.mouse.move(box["x"] + 70, box["y"] + 60, steps=4)
            page.mouse.up()
        else:
            canvas.nth(2).focus()
            for key in ("ArrowRight", "ArrowDown", "Space"):
                page.keyboard.press(key)
        expect(painted).to_be_visible()
        until(
            page,
            "(was) => !was.includes(document.querySelector(\"img[alt='Decoded from what you painted']\")?.getAttribute('src'))",
            pictures,
        )
        pictures.append(painted.get_attribute("src"))
    assert len(set(pictures)) == 4
    page.get_by_role("button", name="As it was").click()
    expect(painted).to_have_count(0)
    expect(page.get_by_role("button", name="As it was")).to_be_disabled()


# ---- the modes -------------------------------------------------------------------------------------------------------------------


def test_tour_leads_through_the_whole_and_all_stops(page: Page, made: dict[str, Any]) -> None:
    """One sentence and one lit part a station; it can be left and gone on with, survives a reload, and ends at the quiz."""
    page.goto(f"/explain/{made['id']}?mode=tour")
    bar = page.get_by_role("complementary", name="Tour")
    visited, words = [], 0
    for i in range(14):
        expect(bar.locator("small")).to_have_text(f"{i + 1} of 14")
        visited.append(page.get_by_role("tab", selected=True).inner_text())
        text = bar.locator("p").inner_text()
        words += len(text.split())
        assert len(re.findall(r"[.?!](\s|$)", text)) == 1, text
        if i:
            expect(page.locator("[data-lit]")).to_have_count(1)
            expect(page.locator("[data-lit]")).to_be_in_viewport()
        if i == 4:
            page.reload()
            expect(bar.locator("small")).to_have_text("5 of 14")
            bar.get_by_role("button", name="Leave").click()
            expect(bar).to_have_count(0)
            expect(page.locator("[data-lit]")).to_have_count(0)
            page.get_by_role("radio", name="Tour, 4 minutes").click()
            expect(bar.locator("small")).to_have_text("5 of 14")
        if i < 13:
            bar.get_by_role("button", name="Next").click()
    stops = list(dict.fromkeys(visited))
    assert sorted(stops) == sorted(["Whole picture", *(f"{i + 1} {name}" for i, name in enumerate(STOPS))])
    assert visited.count("Whole picture") >= 3
    assert 2 < words / 110 < 5  # minutes, read aloud with time to look
    bar.get_by_role("button", name="To the quiz").click()
    expect(page.get_by_role("heading", name="Which came first?")).to_be_visible()


def test_quiz_is_scored(page: Page, made: dict[str, Any]) -> None:
    """Whoever knows the steps gets all eight; the pictures shown are those of the steps asked about."""
    page.goto(f"/explain/{made['id']}?mode=quiz")
    for i in range(8):
        expect(page.locator(".quiz [role=status]")).to_contain_text(f"Question {i + 1} of 8")
        asked = "[...document.querySelectorAll('.quiz canvas[data-step]')].map((c) => +c.dataset.step)"
        steps = until(page, f"() => (([a, b]) => a >= 0 && b >= 0 && a !== b && [a, b])({asked})")
        wrong = i == 3
        page.keyboard.press("a" if (steps[0] < steps[1]) != wrong else "b")
        expect(page.locator(".quiz .two button.right")).to_have_count(1)
        expect(page.locator(".quiz .two button.wrong")).to_have_count(int(wrong))
        page.locator(".quiz button.primary").click()
    expect(page.locator(".quiz [role=status]")).to_contain_text("7 of 8 right")


def test_two_prompts_one_noise(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """Another prompt from the same noise: the changed words are marked, both frames move together, one map holds both paths."""
    page.goto(f"/explain/{made['id']}?mode=prompts")
    page.get_by_label("The other prompt").fill("a red umbrella on a blue blue background")
    with page.expect_response(lambda r: r.request.method == "POST" and r.url.endswith("/v1/runs")) as posted:
        page.get_by_role("button", name="Run it").click()
    other = studio.wait(posted.value.json()["id"])
    assert (other["seed"], other["steps"], other["request"]["index"]) == (made["seed"], made["steps"], made["request"]["index"])
    expect(page.locator(".map polyline")).to_have_count(2)
    expect(page.locator(".pieces mark")).to_have_text(["apple", "umbrella", "blue"])
    sizes = page.locator(".map polyline").evaluate_all("e => e.map((p) => p.points.length)")
    assert sizes == [made["steps"]] * 2
    page.get_by_label("Step of both").fill("2")
    for canvas in page.locator(".two canvas").all():
        expect(canvas).to_have_attribute("data-step", "2")
    page.reload()
    expect(page.locator(".map polyline")).to_have_count(2)
    # Both began with the same noise.
    first = [studio.raw(f"/v1/runs/{r['id']}/steps/0/tensors.bin") for r in (made, other)]
    n = int(np.prod(studio.call("GET", f"/v1/runs/{made['id']}/explain")["decode"]["shape"]))
    x, y = (np.frombuffer(t[t.index(b"\n") + 1 :], "<f4")[:n] for t in first)
    assert (x == y).all()


def test_another_picture_of_a_run_is_explained_by_its_own(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    second = studio.call("GET", f"/v1/runs/{made['id']}/explain?picture=1")
    _open(page, made, 4, more="picture=1")
    first = second["decode"]["ranges"][0]
    expect(page.locator("#stop .channels figcaption").first).to_have_text(f"1: {first[0]:.1f} to {first[1]:.1f}")


def test_without_a_run_named_the_newest_is_explained(page: Page, made: dict[str, Any]) -> None:
    page.goto("/explain")
    expect(page.locator("main h1")).to_contain_text("Explain: ")
    expect(page.locator("#whole .parts")).to_be_visible()
    page.get_by_role("button", name="Another run").click()
    page.get_by_label("Search").fill(REQUEST["prompt"][0])
    page.locator(".picker .thumb").last.click()
    page.wait_for_url("**/explain/*")
    expect(page.locator("#whole .parts")).to_be_visible()


def test_without_any_run_the_recorded_one_is_shown_at_once(page: Page) -> None:
    """No finished run: the bundled one, whole, with its siblings; nothing that needs a server is offered, and none is asked."""
    page.route(re.compile(r"/v1/runs(\?.*)?$"), lambda route: route.fulfill(json={"runs": [], "next": None}))
    page.route(re.compile(r"/v1/jobs$"), lambda route: route.fulfill(json={"paused": False, "jobs": [], "workers": []}))
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if re.search(r"/v1/runs/|/recompute", r.url) else None)
    page.goto("/explain")
    expect(page.get_by_text("A recorded run that ships with the studio")).to_be_visible()
    expect(page.locator("#whole .tok")).not_to_have_count(0)
    expect(page.locator("main [aria-busy=true]")).to_have_count(0)
    until(page, "() => document.querySelector(\"[aria-label='What it believes with the words']\")?.width > 8")
    expect(page.get_by_alt_text("The enlarged picture")).to_be_visible()
    for key, stop in (("1", 0), ("2", 1), ("3", 2)):
        page.keyboard.press(key)
        _level(page, stop)
        expect(page.locator("#stop [aria-busy=true]")).to_have_count(0)
    expect(page.get_by_role("button", name="Decode it")).to_have_count(0)
    page.keyboard.press("4")
    expect(page.locator(".duel article")).to_have_count(2)
    expect(page.get_by_role("button", name=re.compile("^Run it with"))).to_have_count(0)
    page.keyboard.press("5")
    expect(page.locator(".wipe figcaption span").last).to_have_text("Enlarged: its details drawn again")
    live = page.get_by_label("Linear preview of the channels")
    before = live.evaluate("c => c.toDataURL()")
    page.locator("canvas.paint").nth(1).focus()
    page.keyboard.press("Enter")
    until(
        page, "(was) => document.querySelector(\"[aria-label='Linear preview of the channels']\").toDataURL() !== was", before
    )
    expect(page.locator("#stop")).to_contain_text("by the linear preview; the decoder needs the studio")
    page.get_by_role("radio", name="Compare prompts").click()
    expect(page.locator(".map polyline")).to_have_count(2)
    expect(page.locator(".pieces mark")).not_to_have_count(0)
    expect(page.get_by_role("button", name="Run it")).to_have_count(0)
    assert asked == []


def test_a_run_is_drawn_while_it_is_made(page: Page, studio: Studio) -> None:
    """Frames as they come, its numbers when it is done."""
    run = studio.make(steps=120, count=1, sampler={"kind": "ddim"})
    page.goto(f"/explain/{run['id']}")
    expect(page.locator("#whole .parts")).to_be_visible()
    studio.wait(run["id"])
    expect(page.locator("#whole .tok")).not_to_have_count(0)
    expect(page.locator("main [aria-busy=true]")).to_have_count(0)
    expect(page.get_by_text("its numbers are here when it is done")).to_have_count(0)
    expect(page.get_by_label("What it believes at step 120")).to_have_attribute("data-step", "119")


def test_pixels_and_labels_are_explained_too(page: Page, studio: Studio) -> None:
    """A model without a tokenizer and without a decoder: every stop says what there is."""
    run = studio.wait(studio.make(model="fashion-mnist", prompt=["sneaker"], count=1)["id"])
    _open(page, run)
    expect(page.locator("#whole .comes")).to_contain_text("1 × 28 × 28 numbers")
    for stop, text in enumerate(
        ("the name of a class", "a whole prompt is one vector", "what it believes", "with dpm++2m", "Nothing has to be decoded")
    ):
        page.keyboard.press(str(stop + 1))
        _level(page, stop)
        expect(page.locator("#stop")).to_contain_text(text)
        expect(page.locator("#stop [aria-busy=true]")).to_have_count(0)
    expect(page.locator(".wipe figcaption span")).to_have_text(["The pixels", "Twice the size by Lanczos"])


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, made: dict[str, Any], clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for stop in (None, *range(5)):
        _open(page, made, stop)
        for summary in page.locator("#stop summary").all():
            summary.click()
        page.wait_for_timeout(300)
        clean(page)
    for mode in ("quiz", "tour", "prompts"):
        page.goto(f"/explain/{made['id']}?mode={mode}")
        page.wait_for_selector("main h1")
        page.wait_for_timeout(500)
        clean(page)
