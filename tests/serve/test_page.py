"""A run as one HTML file, opened from disk in a real browser that may reach nothing."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from safelight.guide import Mix
from safelight.serve.attention import hear
from safelight.serve.lenses import LENSES, Lenses
from safelight.serve.page import EXAMPLE, Packing, bound, example, page, recorded
from safelight.spec import SpecError, parse
from tests import small
from tests.serve.recorded import reader, recording

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PROMPT = "a </script><b>red</b> cube"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = reader(latent=True, size=(16, 24))
    trace = recording(made, prompt=(PROMPT,), count=2)
    path = tmp_path_factory.mktemp("page") / "run.html"
    path.write_text(page({"id": "abc", "title": "A <run>"}, trace, made, heard=hear(trace, made)))
    return path


def bundle(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="bundle">(.*?)</script>', text, re.S)
    assert found
    answers: dict[str, Any] = json.loads(found[1])
    return answers


def test_it_holds_what_the_screens_ask_for(file: Path) -> None:
    answers = bundle(file.read_text())
    assert answers["route"] == "/run/abc"
    run = answers["/v1/runs/abc"]
    assert (run["prompt"], run["steps"], run["state"], len(run["pictures"])) == (PROMPT, 5, "done", 2)
    assert set(answers["/v1/runs/abc/sprites"]) == set(LENSES)
    for i in (0, 1):
        assert run["pictures"][i]["url"] == answers[f"/v1/runs/abc/pictures/{i}.png"]
        assert (run["pictures"][i]["width"], run["pictures"][i]["height"]) == (24, 16)
        assert len(answers[f"/v1/runs/abc/numbers?picture={i}"]["steps"]) == 5
        assert list(answers[f"/v1/runs/abc/explain?picture={i}"]) == ["tokens", "vectors", "noise", "loop", "decode"]
        for lens in LENSES:
            assert answers[f"/v1/runs/abc/sprite/{lens}.webp?picture={i}"].startswith("data:image/webp;base64,")
        for k in range(5):
            assert f"/v1/runs/abc/steps/{k}/tensors.bin?picture={i}" in answers
    for stop in answers["/v1/runs/abc/explain?picture=0"].values():
        assert all(f"/v1/source/{name}" in answers for name in stop["sources"])


def test_it_names_no_other_place(file: Path) -> None:
    text = file.read_text()
    code = re.sub(r'<script type="(application/json|importmap|text/plain)".*?</script>', "", text, flags=re.S)
    assert not re.search(r"""(src|href)=["'](?!data:|#)[^"']+""", code.split("</head>")[0])
    assert "default-src 'none'" in text
    assert "MIT" in text  # the licences of what is packed


def test_what_is_no_run_and_no_studio_is_refused(tmp_path: Path) -> None:
    made = small.model()
    trace = recording(made, prompt=("shoe",))
    with pytest.raises(SpecError, match="is no studio"):
        page({}, trace, made, tmp_path)
    with pytest.raises(SpecError, match="no step yet"):
        page({}, type(trace)({**trace.about, "milliseconds": {}}, {}), made)


def tensors(answers: dict[str, Any], path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(header, values by name) of a tensors.bin as it is recorded."""
    head, body = base64.b64decode(answers[path].split(",")[1]).split(b"\n", 1)
    header: dict[str, Any] = json.loads(head)
    flat, found = np.frombuffer(body, {"float16": "<f2", "float32": "<f4"}[header["dtype"]]).astype(np.float32), {}
    for one in header["tensors"]:
        size = int(np.prod(one["shape"]))
        found[one["name"]], flat = flat[:size].reshape(one["shape"]), flat[size:]
    assert not flat.size
    return header, found


def test_what_is_packed_is_smaller_and_close() -> None:
    """Half the tensors' room within the rounding of half precision, sheets lossy, and only what was asked for."""
    made = reader(latent=True, size=(16, 24))
    trace = recording(made)
    whole = recorded({"id": "abc"}, trace, made)
    less = recorded(
        {"id": "abc"}, trace, made, packing=Packing(sheets=60, half=True, lenses=("x",), tensors=("x0", "part/null"))
    )
    path = "/v1/runs/abc/steps/2/tensors.bin?picture=0"
    (_, own), (header, kept) = tensors(whole, path), tensors(less, path)
    assert (header["dtype"], list(kept), list(own)) == ("float16", ["x0", "part/null"], ["x", "x0", "part/cond", "part/null"])
    for name, values in kept.items():
        assert np.abs(values - own[name]).max() <= np.abs(own[name]).max() * 2**-11
    assert list(less["/v1/runs/abc/sprites"]) == ["x"]
    assert [path for path in less if "/sprite/" in path] == ["/v1/runs/abc/sprite/x.webp?picture=0"]
    assert len(less["/v1/runs/abc/sprite/x.webp?picture=0"]) < len(whole["/v1/runs/abc/sprite/x.webp?picture=0"])


def test_the_shares_of_a_place_are_those_that_were_heard(file: Path) -> None:
    made = reader(latent=True, size=(16, 24))
    trace = recording(made, prompt=(PROMPT,), count=2)
    heard = hear(trace, made)
    told = bundle(file.read_text())["/v1/runs/abc/attention/at?picture=1"]
    shares = np.frombuffer(base64.b64decode(told["shares"].split(",")[1]), np.uint8)
    grid = shares.reshape(len(told["steps"]), len(told["texts"]), told["height"], told["width"]) / 255
    for y, x, k in ((0.1, 0.9, 0), (0.6, 0.4, 4)):
        own = {s.token: s.share for s in heard.at(y, x, k, 1)}
        mine = grid[told["steps"].index(k), :, int(y * told["height"]), int(x * told["width"])]
        assert max(abs(mine[i] - share) for i, share in own.items()) <= 1 / 500
        assert told["texts"] == [token.text for token in heard.tokens(1)]


# ---- the run that ships ----------------------------------------------------------------------------------------------------------


def test_the_run_that_ships_is_small_and_whole() -> None:
    """300 kB on the disk, and everything that a run's screens ask for; its guidance is exact to half precision."""
    packed = Path(page.__code__.co_filename).parents[1] / "studio" / "example" / "run.json.gz"
    assert packed.stat().st_size <= 300_000
    answers, at = example(), f"/v1/runs/{EXAMPLE}"
    run = answers[at]
    assert (run["id"], run["state"], run["steps"], run["steps_done"]) == (EXAMPLE, "done", 10, 10)
    assert set(answers[f"{at}/sprites"]) == set(LENSES)
    assert all(f"{at}/sprite/{lens}.webp?picture=0" in answers for lens in LENSES)
    assert answers[f"{at}/attention"]["identical"]
    assert answers[f"{at}/numbers?picture=0"]["dial"]
    scale = run["request"]["mix"]["scale"]
    for k in range(run["steps"]):
        _, kept = tensors(answers, f"{at}/steps/{k}/tensors.bin?picture=0")
        mixed = kept["part/null"] + scale * (kept["part/cond"] - kept["part/null"])
        assert np.abs(mixed - kept["x0"]).max() < 4 * 2**-11 * max(np.abs(value).max() for value in kept.values())
    nodes = answers[f"{at}/tree"]["nodes"]
    assert [(node["parent"], node["relation"]) for node in nodes] == [
        (None, ""),
        *((EXAMPLE, r) for r in ("cell", "vary", "edit")),
    ]
    runs = [answers[f"/v1/runs/{node['id']}"] for node in nodes]
    assert all(run["state"] == "done" for run in runs)
    assert runs[-1]["request"]["task"]["picture"] == run["pictures"][0]["seal"]


def test_the_run_that_ships_is_told_as_a_run_is_told_now() -> None:
    """The fields of a stop, of the numbers and of a token are those that the code gives: else make it anew."""
    made = reader(latent=True, size=(16, 24))
    trace = recording(made, mix={"kind": "cfg", "scale": 2.0})
    now, then = recorded({"id": EXAMPLE}, trace, made, heard=hear(trace, made)), example()
    for path in ("/explain?picture=0", "/numbers?picture=0", "/attention?picture=0", "/attention/at?picture=0", "/sprites"):
        assert fields(then[f"/v1/runs/{EXAMPLE}{path}"]) == fields(now[f"/v1/runs/{EXAMPLE}{path}"]), (
            "python -m scripts.build_example"
        )


def fields(value: Any, depth: int = 3) -> Any:
    """The names in a JSON value, of lists those of the first item."""
    if isinstance(value, dict) and depth:
        free = {"terms", "weights", "process", "parameterization", "guidance", "settings"}  # of the model, not of the format
        return {name: None if name in free else fields(one, depth - 1) for name, one in value.items()}
    return [fields(value[0], depth)] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def test_answers_of_no_run_are_no_page() -> None:
    with pytest.raises(SpecError, match="no answers of a run"):
        bound({"/v1/models": {}})


def test_the_site_shows_it(tmp_path: Path) -> None:
    """`mkdocs build --strict` writes it as a page of its own, linked and embedded; nothing of it lies in docs/."""
    pytest.importorskip("mkdocs")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "example.html").read_text() == bound(example())
    shown = (tmp_path / "studio" / "index.html").read_text()
    assert shown.count('="../example.html"') == 2
    assert not (root / "docs" / "example.html").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: set CHROMIUM to its path")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def tab(browser: Any, file: Path) -> Iterator[Page]:
    """The page, open; what it asks for beyond itself, and what it complains of, fails at the end."""
    made: Page = browser.new_page(viewport={"width": 1200, "height": 1000})
    made.set_default_timeout(10_000)
    asked, said = list[str](), list[str]()
    made.on("request", lambda r: asked.append(r.url[:100]))
    made.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    made.on("pageerror", lambda e: said.append(str(e)))
    made.route("**/*", lambda r: r.continue_() if r.request.url.startswith(("file:", "data:", "blob:")) else r.abort())
    made.goto(file.as_uri())
    made.get_by_role("heading", name="Guidance dial").wait_for()
    yield made
    made.close()
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert said == []


def shot(tab: Page) -> str:
    tab.wait_for_timeout(400)
    pixels: str = tab.evaluate("() => document.querySelector('.stage canvas').toDataURL()")
    return pixels


@pytest.mark.slow
def test_every_lens_and_step_is_there(tab: Page) -> None:
    seen = set[str]()
    for key in "123456":
        tab.keyboard.press(key)
        for arrow in ("ArrowLeft", "ArrowRight"):
            seen.add(shot(tab))
            tab.keyboard.press(arrow)
    assert len(seen) == 12
    tab.get_by_role("button", name="cube", exact=True).click()
    assert shot(tab) not in seen
    assert "The replay gave the identical picture" in tab.inner_text("body")
    assert tab.locator("b").filter(has_text="red").count() == 0  # the prompt is text


def test_the_dial_recomputes_a_step_without_a_server(tab: Page) -> None:
    """The page's own arithmetic, on its own bytes, against the mix's code, to 1e-5; and its preview follows the dial."""
    made = reader(latent=True, size=(16, 24))
    seen = Lenses(recording(made, prompt=(PROMPT,), count=2), made, 1)
    for k, w in ((1, 0.0), (2, 7.5), (4, 3.0)):
        mine = tab.evaluate(
            """async ([k, w]) => {
              const data = await (await fetch(SAFELIGHT_BUNDLE[`/v1/runs/abc/steps/${k}/tensors.bin?picture=1`])).arrayBuffer();
              const bytes = new Uint8Array(data), end = bytes.indexOf(10);
              const about = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
              const floats = new Float32Array(data.slice(end + 1)), at = {};
              let i = 0;
              for (const { name, shape } of about.tensors) at[name] = floats.subarray(i, i += shape.reduce((a, b) => a * b));
              return [...at["part/null"]].map((n, i) => n + w * (at["part/cond"][i] - n));
            }""",
            [k, w],
        )
        mix = parse({"kind": "cfg", "scale": w}, "mix")
        assert isinstance(mix, Mix)
        own = seen.recompute(k, mix).x0.flatten().tolist()
        assert max(abs(a - b) for a, b in zip(mine, own, strict=True)) < 1e-5
    dial = tab.get_by_role("slider", name=re.compile("Guidance at step"))
    looks = set[str]()
    for value in ("9.5", "0.5"):
        dial.fill(value)
        tab.wait_for_timeout(400)
        looks.add(tab.evaluate("() => document.querySelector('canvas.dialview').toDataURL()"))
    assert len(looks) == 2
    assert not tab.get_by_role("button", name=re.compile("Run from here")).is_visible()


@pytest.mark.slow
def test_it_explains_itself_and_fits_a_phone(tab: Page) -> None:
    tab.get_by_role("link", name="Explain", exact=True).click()
    tab.get_by_text("cube").first.wait_for()
    assert tab.url.endswith("#/explain/abc")
    for stop in ("Tokens to vectors", "Noise to picture", "The loop", "Decode", "Words to tokens"):
        tab.get_by_text(stop).first.click()
        code = tab.get_by_text("Show code").first
        code.click()
        tab.get_by_text(re.compile(r"^\s*(def|class) ")).first.wait_for()
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 390
    tab.get_by_role("link", name="Microscope", exact=True).click()
    tab.get_by_role("heading", name="Guidance dial").wait_for()
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 390
