"""Jobs, models, settings: each row of the design, walked in a real browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from safelight.model import load, save
from safelight.serve.worker import _runs
from tests.studio.conftest import Studio, until

ROWS = "main tbody tr[draggable=true]"


@pytest.fixture
def held(studio: Studio) -> Any:
    """The queue stands still, and is empty again afterwards."""
    studio.call("POST", "/v1/jobs/pause")
    yield
    for run in studio.call("GET", "/v1/jobs")["jobs"]:
        studio.call("POST", f"/v1/runs/{run['id']}/cancel")
    studio.call("POST", "/v1/jobs/resume")


def order(studio: Studio) -> list[str]:
    return [run["prompt"] for run in studio.call("GET", "/v1/jobs")["jobs"]]


def row(page: Page, words: str) -> Locator:
    return page.locator("main tbody tr").filter(has_text=words).first


# ---- the queue ---------------------------------------------------------------------------------------------------------------


def test_the_mouse_drags_the_queue_into_order(page: Page, studio: Studio, held: None) -> None:
    for k in range(3):
        studio.make(prompt=[f"dragged {k}"], steps=2, count=1)
    page.goto("/jobs")
    rows = page.locator(ROWS)
    expect(rows).to_have_count(3)
    rows.nth(2).drag_to(rows.nth(0))
    expect(rows.nth(0)).to_contain_text("dragged 2")
    until(page, "fetch('/v1/jobs').then((r) => r.json()).then((q) => q.jobs[0].prompt === 'dragged 2')")
    assert order(studio) == ["dragged 2", "dragged 0", "dragged 1"]


def test_the_keyboard_moves_a_job_and_keeps_the_focus(page: Page, studio: Studio, held: None) -> None:
    for k in range(3):
        studio.make(prompt=[f"moved {k}"], steps=2, count=1)
    page.goto("/jobs")
    rows = page.locator(ROWS)
    expect(rows).to_have_count(3)
    page.locator("[id^=grip-]").nth(2).focus()
    for key, after in (("ArrowUp", "021"), ("Home", "201"), ("ArrowDown", "021"), ("End", "012")):
        wanted = [f"moved {k}" for k in after]
        page.keyboard.press(key)
        expect(rows.nth(wanted.index("moved 2"))).to_contain_text("moved 2")
        expect(page.locator(":focus")).to_have_attribute(
            "aria-label", re.compile(rf"^Place {wanted.index('moved 2') + 1} of 3: moved 2")
        )
        until(
            page,
            "(p) => fetch('/v1/jobs').then((r) => r.json()).then((q) => q.jobs.map((j) => j.prompt).join() === p)",
            ",".join(wanted),
        )
    up = page.get_by_role("button", name="Move moved 2 up")
    up.focus()
    page.keyboard.press("Enter")
    expect(rows.nth(1)).to_contain_text("moved 2")
    expect(up).to_be_focused()
    page.keyboard.press("Enter")  # at the top there is no further up: the focus goes to the row's grip
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("^Place 1 of 3: moved 2"))


def test_pause_resume_cancel_retry(page: Page, studio: Studio, held: None) -> None:
    runs = [studio.make(prompt=[f"handled {k}"], steps=3, count=1) for k in range(3)]
    page.goto("/jobs")
    expect(page.locator("main [role=status]").filter(has_text="paused")).to_be_visible()
    page.get_by_role("button", name="Pause handled 0").click()
    expect(row(page, "handled 0")).to_contain_text("paused at step 0 of 3")
    page.get_by_role("button", name="Cancel handled 1").click()
    studio.wait(runs[1]["id"], "stopped")
    expect(row(page, "handled 1")).to_contain_text("stopped after step 0")
    page.locator("main").get_by_role("button", name="Resume queue").click()
    studio.wait(runs[2]["id"])
    assert studio.call("GET", f"/v1/runs/{runs[0]['id']}")["state"] == "paused"
    page.get_by_role("button", name="Resume handled 0").click()
    studio.wait(runs[0]["id"])
    with page.expect_response(re.compile("/retry$")):
        page.get_by_role("button", name="Retry handled 1").click()
    studio.wait(runs[1]["id"])
    expect(row(page, "handled 1")).to_contain_text("3 steps")


def test_a_running_job_is_paused_and_cancelled(page: Page, studio: Studio) -> None:
    run = studio.make(prompt=["long one"], steps=900, count=1, record="preview")
    page.goto("/jobs")
    expect(row(page, "long one")).to_contain_text(re.compile(r"step \d+ of 900.*left.*ms a step"), timeout=60_000)
    page.get_by_role("button", name="Pause long one").click()
    expect(row(page, "long one")).to_contain_text("paused at step")
    studio.wait(run["id"], "paused")
    page.get_by_role("button", name="Resume long one").click()
    studio.wait(run["id"], "running")
    page.locator("main").get_by_role("button", name="Cancel long one").click()
    studio.wait(run["id"], "stopped")


def test_what_waits_says_when_it_is_done_by_measured_speed(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """The time left comes from the measured milliseconds a step of runs like it, and what is before it counts."""
    first = studio.make(prompt=["before"], steps=700, count=2, record="preview")
    after = studio.make(prompt=["after"], steps=10, count=2)
    page.goto("/jobs")
    expect(row(page, "after")).to_contain_text(re.compile("1 ahead, done in about"), timeout=60_000)
    now = studio.wait(first["id"], "running")
    while now["ms_per_step"] is None or now["steps_done"] < 20:  # the first steps are no measure
        now = studio.call("GET", f"/v1/runs/{first['id']}")
    told = studio.call("GET", f"/v1/runs/{after['id']}")
    left = (now["steps"] - now["steps_done"]) * now["ms_per_step"] / 1000
    assert told["eta"] == pytest.approx(left, rel=0.9)
    expect(page.locator("main section").first).to_contain_text("2 jobs, all done in about")
    page.get_by_role("button", name=re.compile("2 jobs")).click()
    expect(page.locator("#tray")).to_contain_text("done in about")
    for run in (first, after):
        studio.call("POST", f"/v1/runs/{run['id']}/cancel")
        studio.wait(run["id"], "stopped")


def test_the_log_of_a_job_is_disclosed(page: Page, studio: Studio) -> None:
    run = studio.make(prompt=["told"], steps=3, count=1)
    studio.wait(run["id"])
    page.goto("/jobs")
    button = page.get_by_role("button", name="Log of told")
    expect(button).to_have_attribute("aria-expanded", "false")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    log = page.get_by_role("list", name="Log")
    for words in (
        "asked for: 1 picture",
        "claimed by process",
        "model sprites-small",
        "stage 1: 3 steps of",
        "done after 3 of 3 steps",
    ):
        expect(log).to_contain_text(words)
    button.click()
    expect(log).to_have_count(0)


def test_a_failed_job_keeps_its_error_and_shows_no_paths(page: Page, studio: Studio) -> None:
    """A model file that is damaged after it was asked for: the error stays, names the file alone, and the traceback stays here."""
    file = studio.folder / "models" / "frail.safetensors"
    save(file, load("fashion-mnist"))
    studio.call("POST", "/v1/jobs/pause")
    run = studio.make(model="frail", prompt=[""], steps=2, count=1, title="frail one")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    page.goto("/jobs")
    page.locator("main").get_by_role("button", name="Resume queue").click()
    failed = studio.wait(run["id"], "failed")
    assert str(studio.folder) not in failed["error"] and "frail.safetensors" in failed["error"]
    alert = page.get_by_role("alert").filter(has_text="frail one")
    expect(alert).to_be_visible()
    page.get_by_role("button", name="Log of frail one").click()
    expect(page.get_by_role("list", name="Log")).to_contain_text("failed: ")
    told = studio.call("GET", f"/v1/runs/{run['id']}/log")
    assert "Traceback" not in json.dumps(told) and str(studio.folder) not in json.dumps(told)
    assert "Traceback" in (studio.folder / "runs" / run["id"] / "error.txt").read_text()
    page.goto("/gallery")  # over screens and reloads, until it is dismissed
    expect(alert).to_be_visible()
    page.reload()
    expect(alert).to_be_visible()
    file.write_bytes(data)
    page.goto("/jobs")
    with page.expect_response(re.compile("/retry$")):
        page.get_by_role("button", name="Retry frail one").click()
    studio.wait(run["id"])
    alert.get_by_role("button", name="Dismiss").click()
    page.reload()
    page.wait_for_selector("main h1")
    expect(alert).to_have_count(0)
    file.unlink()


# ---- models ------------------------------------------------------------------------------------------------------------------


def test_model_cards_say_what_a_model_is(page: Page, studio: Studio) -> None:
    page.goto("/jobs?tab=models")
    card = page.locator("article").filter(has=page.get_by_role("heading", name="sprites small"))
    for words in ("64 × 64", "10.8", "Apache-2.0", "weights", "ema", "guidance", "steps"):
        expect(card).to_contain_text(words)
    card.locator("summary").click()
    for words in ("sprites-unet", "100,000 pictures", "400,000 pictures in 6,250 steps", "adamw", "0.6251"):
        expect(card).to_contain_text(words)
    card.get_by_role("button", name="Card").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("main")).to_contain_text("No model file here carries an adapter.")


def test_models_are_loaded_unloaded_and_used(page: Page, studio: Studio) -> None:
    page.goto("/jobs?tab=models")
    card = page.locator("article").filter(has=page.get_by_role("heading", name="fashion mnist"))
    expect(card).to_be_visible()
    if card.get_by_role("button", name="Unload").count():
        card.get_by_role("button", name="Unload").click()
    card.get_by_role("button", name="Load", exact=True).click()
    expect(card).to_contain_text(re.compile(r"in memory, [\d.]+ MB"))
    expect(card).to_contain_text(re.compile(r"MB on cpu"))
    assert any(m["loaded"] for m in studio.call("GET", "/v1/models")["models"] if m["name"] == "fashion-mnist")
    card.get_by_role("button", name="Unload").click()
    expect(card).to_contain_text("on the disk")
    card.get_by_role("button", name="Use").click()
    expect(card.get_by_role("button", name="Use")).to_have_attribute("aria-pressed", "true")
    page.goto("/create")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fashion-mnist")


def test_the_benchmark_is_a_real_run_at_the_models_own_size(page: Page, studio: Studio) -> None:
    page.goto("/jobs?tab=models")
    card = page.locator("article").filter(has=page.get_by_role("heading", name="fashion mnist"))
    card.get_by_role("button", name="Benchmark").click()
    expect(card).to_contain_text(re.compile(r"[\d.]+ steps/s, [\d.]+ ms a step at 28 × 28"), timeout=90_000)
    run = studio.call("GET", "/v1/runs?q=benchmark&limit=1")["runs"][0]
    assert run["model"] == "fashion-mnist" and run["state"] == "done"
    expect(card).to_contain_text(f"{1000 / run['ms_per_step']:.1f} steps/s")
    page.reload()  # it was measured, and is not forgotten
    expect(card).to_contain_text(f"{run['ms_per_step']:.1f} ms a step")


# ---- the API -----------------------------------------------------------------------------------------------------------------


def form(page: Page, **fields: Any) -> None:
    page.evaluate("(form) => import('/studio/js/store.js').then((s) => s.fill('form', s.FORM, form))", fields)


@pytest.mark.parametrize("language", ["curl", "Python", "OpenAI client"])
def test_the_code_of_the_form_runs_and_makes_the_same_picture(
    page: Page, studio: Studio, tmp_path: Path, language: str
) -> None:
    """What stands there is copied and run as it is. Words that mean something to Python stay words."""
    page.goto("/jobs?tab=api")
    page.get_by_role("radio", name=language).click()
    form(page, prompt="a null cat, not true", steps=3, seed=11, locked=True)
    code = page.get_by_label("Code", exact=True)
    expect(code).to_contain_text("a null cat, not true")
    form(page, prompt='a null cat, not true; it\'s "red"')
    expect(code).to_contain_text("red")
    page.get_by_role("button", name="Copy").click()
    text = page.evaluate("navigator.clipboard.readText()")
    assert text == code.text_content()
    wanted = studio.make(prompt=['a null cat, not true; it\'s "red"'], steps=3, seed=11, count=1)
    command = ["sh", "-c", text] if language == "curl" else [sys.executable, "-c", text]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "NO_PROXY": "*"}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0.png").read_bytes() == studio.raw(studio.wait(wanted["id"])["pictures"][0]["url"])


# ---- settings ----------------------------------------------------------------------------------------------------------------


def test_storage_says_what_lies_where_and_is_pruned(page: Page, studio: Studio) -> None:
    run = studio.wait(studio.make(prompt=["pruned"], steps=3, count=1)["id"])
    kept = studio.wait(studio.make(prompt=["starred"], steps=3, count=1)["id"])
    studio.call("PATCH", f"/v1/runs/{kept['id']}", {"star": True})
    others = [r["id"] for r in studio.call("GET", "/v1/runs?limit=500")["runs"] if r["id"] != run["id"] and not r["star"]]
    for id in others:
        studio.call("PATCH", f"/v1/runs/{id}", {"star": True})
    page.goto("/jobs?tab=settings")
    for words in ("recordings", "pictures", "free on the disk", "in all"):
        expect(page.locator("main")).to_contain_text(words)
    most = page.get_by_label("Keep at most (GB)")
    most.fill("0")
    most.blur()
    until(page, "fetch('/v1/settings').then((r) => r.json()).then((s) => s.settings.prune.bytes === 0)")
    expect(page.locator("main")).to_contain_text("beyond 0 B")
    page.get_by_role("button", name="Prune now").click()
    page.get_by_role("dialog").get_by_role("button", name="Prune", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="freed")).to_be_visible()
    assert studio.call("GET", f"/v1/runs/{run['id']}")["recorded"] is False
    assert studio.call("GET", f"/v1/runs/{kept['id']}")["recorded"] is True
    most.fill("")
    most.blur()
    days = page.get_by_label("Keep recordings for (days)")
    days.fill("12")
    days.blur()
    until(
        page,
        "fetch('/v1/settings').then((r) => r.json()).then((s) => s.settings.prune.days === 12 && s.settings.prune.bytes === null)",
    )
    for id in others:
        studio.call("PATCH", f"/v1/runs/{id}", {"star": False})


def test_the_safety_policy_is_chosen_and_holds(page: Page, studio: Studio) -> None:
    page.allowed += ["403", "Failed to load"]  # type: ignore[attr-defined]
    page.goto("/jobs?tab=settings")
    page.get_by_label("Policy").select_option("words")
    refuse = page.get_by_label("refuse")
    refuse.fill('["zeppelin"]')
    refuse.blur()
    page.get_by_role("button", name="Apply").click()
    until(page, "fetch('/v1/settings').then((r) => r.json()).then((s) => s.settings.safety.kind === 'words')")
    page.goto("/create")
    page.fill("#prompt", "a zeppelin")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("zeppelin")
    page.get_by_role("alert").get_by_role("button", name="Dismiss").click()
    page.goto("/jobs?tab=settings")
    page.get_by_label("Policy").select_option("none")
    page.get_by_role("button", name="Apply").click()
    until(page, "fetch('/v1/settings').then((r) => r.json()).then((s) => s.settings.safety.kind === 'none')")


def test_a_server_without_a_token_says_why(page: Page) -> None:
    page.goto("/jobs?tab=settings")
    expect(page.locator("section").filter(has=page.get_by_role("heading", name="Token"))).to_contain_text("this machine alone")


# ---- two servers -------------------------------------------------------------------------------------------------------------


def test_a_second_server_of_the_folder_says_that_it_waits(page: Page, studio: Studio) -> None:
    second = Studio.__new__(Studio)
    second.folder, second.port = studio.folder, 0
    second.start()
    try:
        page.allowed += ["external request", "Failed to load"]  # type: ignore[attr-defined]
        bench = second.make(prompt=["asked of the second"], steps=3, count=1)
        second.wait(bench["id"])  # the first one's worker makes it
        assert len(second.call("GET", "/v1/jobs")["workers"]) == 1
        end = 200
        while not second.call("GET", "/v1/models")["elsewhere"] and end:
            page.wait_for_timeout(100)
            end -= 1
        page.goto(f"{second.url}/jobs")
        expect(page.locator("main")).to_contain_text("Another server of this data folder makes the pictures (cpu)")
    finally:
        second.stop()
    assert not _runs(second.process.pid)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_part_is_accessible_and_fits(
    page: Page, studio: Studio, made: dict[str, Any], held: None, clean: Callable[[Page], None], scheme: Any, width: int
) -> None:
    for k in range(2):
        studio.make(prompt=[f"a rather long prompt of number {k} that waits in the queue for its turn"], steps=2, count=1)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for path in ("/jobs", "/jobs?tab=models", "/jobs?tab=api", "/jobs?tab=settings"):
        page.goto(path)
        page.wait_for_selector("main h1")
        if path == "/jobs":
            page.locator("main").get_by_role("button", name=re.compile("^Log of")).last.click()
            page.get_by_role("list", name="Log").wait_for()
        if path.endswith("models"):
            page.locator("article summary").first.click()
        until(page, "!document.querySelector('[aria-busy=true]')")
        page.wait_for_timeout(400)
        clean(page)
        if shots := os.environ.get("SAFELIGHT_SHOTS"):
            page.screenshot(path=f"{shots}/jobs-{path.rpartition('=')[2].strip('/')}-{scheme}-{width}.png", full_page=True)
