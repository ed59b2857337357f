"""Edges at which the server once failed: each test fails without its mend."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from safelight.serve.folder import Folder, Missing
from safelight.serve.jobs import Jobs
from safelight.serve.runs import FROM, Prune
from safelight.serve.worker import Desk, Making
from safelight.spec import SpecError, parse
from tests.serve import bench
from tests.serve.live import Running


def post(live: Running, path: str, **body: object) -> httpx.Response:
    # json.dumps writes half characters as escapes, which httpx's own encoding would refuse to send.
    return live.client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def test_connections_end_with_their_threads(folder: Folder) -> None:
    def look() -> None:
        folder.db.execute("SELECT 1").fetchone()

    for _ in range(50):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert len(folder._open) <= 3


def test_a_fork_that_is_killed_just_before_it_is_done_can_be_made_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(folder)
    desk = Desk(folder, "cpu", id="one")

    def make(id: str) -> None:
        run = jobs.claim("one")
        assert run is not None and run.id == id
        desk.do(run)

    parent = jobs.enqueue(bench.ask(steps=4))
    make(parent.id)
    fork = jobs.fork(parent.id, 2, {})
    claimed = jobs.claim("one")
    assert claimed is not None
    monkeypatch.setattr(jobs.runs.__class__, "pictured", lambda *args, **more: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # as a kill does: nothing after it happens
        Making(desk, claimed).make()
    monkeypatch.undo()
    assert (folder.run(fork.id) / FROM).exists()
    with folder.writing() as db:
        db.execute("UPDATE runs SET state = 'queued', worker = NULL, lease = NULL WHERE id = ?", (fork.id,))
    make(fork.id)
    assert jobs.runs.get(fork.id).state == "done", jobs.runs.get(fork.id).error
    assert not (folder.run(fork.id) / FROM).exists()
    assert jobs.runs.picture(fork.id, 0).read_bytes()[-100:]
    with Image.open(jobs.runs.picture(fork.id, 0)) as a, Image.open(jobs.runs.picture(parent.id, 0)) as b:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_attention_of_a_fork_is_of_the_fork(tmp_path: Path) -> None:
    """Of one with other guidance: heard from its own step on, it gives the identical picture, and its sheet shows all steps."""
    from safelight.model import load, save
    from safelight.serve.attention import Heard
    from safelight.serve.lenses import Lenses
    from safelight.trace import Trace
    from tests.serve.recorded import reader

    folder = Folder(tmp_path)
    save(folder.path / "models" / "tiny.safetensors", reader("unet"))
    jobs, desk = Jobs(folder), Desk(folder, "cpu", id="one")

    def made(id: str) -> None:
        claimed = jobs.claim("one")
        assert claimed is not None and claimed.id == id
        desk.do(claimed)
        assert jobs.runs.get(id).state == "done", jobs.runs.get(id).error

    parent = jobs.enqueue(bench.ask(steps=5, seed=3, mix={"kind": "cfg", "scale": 2.0}))
    made(parent.id)
    fork = jobs.fork(parent.id, 2, {"mix": {"scale": 6.0}})
    made(fork.id)
    made(jobs.attention(fork.id).id)
    heard = Heard.open(folder.run(fork.id) / "attention.safetensors")
    assert heard.identical and heard.steps == [2, 3, 4]
    seen = Lenses(Trace.open(jobs.runs.trace(fork.id)), load(folder.model("tiny")), 0, heard, since=2)
    assert seen.geometry().frames == 5
    assert seen.sheet("attention")[0]
    assert [step["scale"] for step in seen.numbers()["steps"]] == [None, None, 6.0, 6.0, 6.0]
    mix = parse({"kind": "cfg", "scale": 3.0}, "mix")
    with pytest.raises(SpecError, match="recompute it there"):
        seen.recompute(1, mix)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"prompt": [""] * 5000, "count": 1_000_000}, "pictures"),
        ({"prompt": [""] * 200_000}, "values in all"),
        (
            {"steps": 200, "sampler": {"kind": "repaint", "times": 1000, "inner": {"kind": "repaint", "times": 1000}}},
            "calls a step",
        ),
    ],
)
def test_small_requests_for_endless_work_are_refused(live: Running, request_: dict[str, object], said: str) -> None:
    answer = post(live, "/v1/runs", model="tiny", request={"prompt": "bag", **request_})
    assert answer.status_code == 422 and said in answer.text, answer.text


def test_addresses_of_the_page_take_no_bodies(live: Running) -> None:
    assert live.client.post("/create", content=b"x" * 10_000).status_code == 413


@pytest.mark.parametrize(
    "body", [{"model": "tiny", "request": {"prompt": "\ud800"}}, {"model": "\ud800", "request": {"prompt": "a"}}]
)
def test_half_a_character_is_refused(live: Running, body: dict[str, object]) -> None:
    assert post(live, "/v1/runs", **body).status_code in (404, 422)


def test_pages_that_were_away_are_told_what_went(folder: Folder) -> None:
    jobs = Jobs(folder)
    run = jobs.enqueue(bench.ask())
    since = jobs.events.last()
    jobs.runs.delete(run.id)
    jobs.runs.purge(-1.0)
    assert [event.kind for event in jobs.events.since(since, 100) if event.run == run.id] == ["gone"]


def test_pruning_leaves_what_others_may_take_back(folder: Folder) -> None:
    jobs = Jobs(folder)
    kept, old = (jobs.enqueue(bench.ask()).id for _ in range(2))
    for id in (kept, old):
        jobs.cancel(id)
    jobs.runs.delete(kept)
    jobs.runs.prune(Prune(days=1e-9, whole=True))
    with pytest.raises(Missing):
        jobs.runs.get(old)
    assert jobs.runs.restore(kept).id == kept


def test_a_model_whose_file_is_gone_is_no_model(folder: Folder, tmp_path: Path) -> None:
    lent = tmp_path / "lent.safetensors"
    lent.write_bytes(folder.model("tiny").read_bytes())
    folder.shelve(lent)
    assert "lent" in folder.models()
    lent.unlink()
    assert "lent" not in folder.models()
    with pytest.raises(Missing):
        folder.model("lent")


def test_seeds_of_foreign_pictures_are_numbers_or_nothing(folder: Folder, tmp_path: Path) -> None:
    for k, seed in enumerate(("1" * 5000, "12", "1.5")):
        note = PngImagePlugin.PngInfo()
        note.add_text("parameters", f"a cat\nSteps: 3, Sampler: Euler a, CFG scale: 7, Seed: {seed}, Size: 8x8")
        Image.fromarray(np.full((8, 8, 3), k, np.uint8)).save(tmp_path / f"{k}.png", pnginfo=note)
    found = Jobs(folder).runs.import_folder(tmp_path)
    assert len(found.runs) == 3 and sorted(Jobs(folder).runs.get(id).seed for id in found.runs) == [0, 0, 12]


def test_only_the_last_order_of_the_queue_is_kept(folder: Folder) -> None:
    jobs = Jobs(folder)
    for _ in range(20):
        jobs.enqueue(bench.ask())
    jobs.events.trim()
    assert sum(event.kind == "queue" for event in jobs.events.since(0, 1000)) == 1


def test_names_of_a_server_are_read_in_any_case(tmp_path: Path) -> None:
    from tests.serve.live import models, serving

    models(tmp_path)
    with serving(tmp_path, names=("MyBox",)) as running:
        port = running.address.rsplit(":", 1)[1]
        assert running.client.get("/healthz", headers={"host": f"mybox:{port}"}).status_code == 200
