"""The API as a client sees it: what is asked for, watched, gone on with, taken along, and made again byte for byte."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safelight.picture import note
from safelight.serve.safety import _detector as detector
from safelight.serve.settings import Tokens
from safelight.trace import Trace
from tests.serve.live import Running, events, models, serving

TOKEN = "a-token-for-tests-that-nobody-guesses"


@pytest.fixture(scope="module")
def run(live: Running) -> dict[str, Any]:
    """A finished run of two pictures."""
    found = live.run(count=2, seed=3, steps=8)
    assert (found["state"], found["error"]) == ("done", "")
    return found


def json_of(live: Running, path: str, body: Any = None, method: str = "", status: int = 200) -> Any:
    answer = live.client.request(method or ("GET" if body is None else "POST"), path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


# ---- runs --------------------------------------------------------------------------------------------------------------------


def test_a_run_is_as_the_contract_says(live: Running, run: dict[str, Any]) -> None:
    assert (run["kind"], run["model"], run["prompt"], run["seed"], run["steps"], run["steps_done"]) == (
        "generate",
        "tiny",
        "bag",
        3,
        8,
        8,
    )
    assert len(run["levels"]) == 9
    assert run["request"]["sampler"]["kind"] == "ddim"
    assert [p["url"] for p in run["pictures"]] == [f"/v1/runs/{run['id']}/pictures/{k}.png" for k in range(2)]
    for one in run["pictures"]:
        data = live.client.get(one["url"]).content
        assert pixels(data).shape == (8, 8)
        assert data == live.client.get(f"/v1/pictures/{one['seal']}.png").content


def test_pages_of_runs(live: Running) -> None:
    ids = [live.run(steps=1, seed=k)["id"] for k in range(5)]
    first = json_of(live, "/v1/runs?limit=3")
    second = json_of(live, f"/v1/runs?limit=3&before={first['next']}")
    assert [one["id"] for one in first["runs"]] == ids[:1:-1]
    assert [one["id"] for one in second["runs"]][:2] == ids[1::-1]


def test_change_delete_restore(live: Running) -> None:
    id = live.run(steps=1)["id"]
    found = json_of(live, f"/v1/runs/{id}", {"star": True, "board": "best", "title": "mine"}, "PATCH")
    assert (found["star"], found["board"], found["title"]) == (True, "best", "mine")
    assert id in [one["id"] for one in json_of(live, "/v1/runs?star=true&board=best")["runs"]]
    assert json_of(live, f"/v1/runs/{id}", method="DELETE", status=204) is None
    json_of(live, f"/v1/runs/{id}", status=404)
    assert json_of(live, f"/v1/runs/{id}/restore", method="POST")["title"] == "mine"


def test_cancel_resume_is_the_uninterrupted_run(live: Running) -> None:
    whole = live.run(steps=120, seed=9, size=[32, 32])
    asked = live.ask(steps=120, seed=9, size=[32, 32])
    while live.client.get(f"/v1/runs/{asked['id']}").json()["steps_done"] < 5:
        time.sleep(0.005)
    json_of(live, f"/v1/runs/{asked['id']}/cancel", method="POST")
    stopped = live.over(asked["id"])
    assert stopped["state"] == "stopped"
    assert 5 <= stopped["steps_done"] < 120
    json_of(live, f"/v1/runs/{asked['id']}/resume", method="POST")
    assert live.over(asked["id"])["pictures"][0]["seal"] == whole["pictures"][0]["seal"]
    json_of(live, f"/v1/runs/{asked['id']}/resume", method="POST", status=409)


def test_a_fork_with_nothing_changed_is_the_same_picture(live: Running, run: dict[str, Any]) -> None:
    same = json_of(live, f"/v1/runs/{run['id']}/fork", {"step": 3}, status=202)
    other = json_of(live, f"/v1/runs/{run['id']}/fork", {"step": 3, "request": {"mix": {"scale": 9}}}, status=202)
    seals = [[p["seal"] for p in live.over(one["id"])["pictures"]] for one in (same, other)]
    assert seals[0] == [p["seal"] for p in run["pictures"]]
    assert seals[1] != seals[0]
    nodes = json_of(live, f"/v1/runs/{run['id']}/tree")["nodes"]
    assert {n["id"] for n in nodes if n["parent"] == run["id"]} >= {same["id"], other["id"]}


def test_a_hundred_jobs_of_eight_clients(tmp_path: Path) -> None:
    """Queued at once, without an error or a lost job; then ordered, paused and cancelled."""
    models(tmp_path)
    with serving(tmp_path, devices=()) as server:
        made: list[str] = []
        failed: list[str] = []

        def ask(k: int) -> None:
            for i in range(13):
                answer = server.client.post(
                    "/v1/runs", json={"model": "tiny", "request": {"prompt": "bag", "seed": 100 * k + i}}
                )
                (made if answer.status_code == 202 else failed).append(answer.json().get("id", answer.text))

        threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        queue = json_of(server, "/v1/jobs")["jobs"]
        assert sorted(one["id"] for one in queue) == sorted(made)
        assert [one["position"] for one in queue] == list(range(1, 105))
        last = queue[-1]["id"]
        order = [last, *(one["id"] for one in queue[:-1])]
        assert [one["id"] for one in json_of(server, "/v1/jobs/order", {"ids": order}, "PUT")["jobs"]] == order
        assert json_of(server, f"/v1/runs/{last}/cancel", method="POST")["state"] == "stopped"
        assert json_of(server, "/v1/jobs/pause", method="POST")["paused"]


# ---- commands ----------------------------------------------------------------------------------------------------------------


def typed(command: str, folder: Path) -> None:
    """Run a line as a person does, in a shell."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SAFELIGHT_TRACEBACK": "1"}
    command = re.sub(r"^safelight ", f"{sys.executable} -m safelight ", command)
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def asked_for(sort: str, live: Running) -> dict[str, Any]:
    """A finished run of each sort that has a command."""
    mix = {"kind": "cfg", "scale": 3.5}
    if sort == "words":
        words = {"prompt": ['-it\'s a (red:1.2) apple: "yes"', "b"], "negative": "no: 'none'"}
        return live.over(live.ask("words", seed=21, steps=4, sampler="euler-ancestral", mix=mix, **words)["id"])
    if sort == "mix":
        task = {"kind": "mix", "expression": '"a king" - 0.5 * "a man" + "a woman"'}
        return live.over(live.ask("words", seed=21, steps=3, prompt="", task=task)["id"])
    if sort == "vary":
        return live.run(seed=21, steps=3, task={"kind": "vary", "seed": 4, "strength": 0.3})
    if sort == "morph":
        ends = [{"prompt": "bag", "seed": 1}, {"prompt": "shoe", "seed": 2}]
        segment = {"task": {"kind": "interpolate", "ends": ends}, "frames": 5}
        body = {"model": "tiny", "request": {"steps": 3}, "every": 4, "segments": [segment]}
        return live.over(json_of(live, "/v1/morphs", body, status=202)["runs"][-1]["id"])
    first = live.run(seed=21, steps=4, sampler="euler-ancestral", negative="shoe", mix=mix)
    if sort == "fork":
        asked = {"step": 2, "request": {"prompt": ["shoe"], "mix": {"scale": 6}}, "noise": 0.25}
        return live.over(json_of(live, f"/v1/runs/{first['id']}/fork", asked, status=202)["id"])
    picture = first["pictures"][0]["seal"]
    if sort == "image":
        return live.run(seed=22, task={"kind": "image", "picture": picture, "strength": 0.6})
    if sort == "outpaint":
        return live.run(seed=22, task={"kind": "outpaint", "picture": picture, "margins": [4, 4, 0, 0]})
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6] = 255
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    marks = live.client.post("/v1/masks", content=out.getvalue(), headers={"content-type": "image/png"}).json()["seal"]
    return live.run(seed=22, task={"kind": "inpaint", "picture": picture, "mask": marks, "feather": 1})


@pytest.mark.parametrize(
    "sort",
    [
        "inpaint",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("words", "mix", "vary", "morph", "fork", "image", "outpaint")),
    ],
)
def test_copied_commands_make_the_same_bytes(sort: str, live: Running, tmp_path: Path) -> None:
    """curl and the command line, as the API gives them, end in the very file that the run has."""
    found = asked_for(sort, live)
    assert found["state"] == "done", found["error"]
    data = live.client.get(found["pictures"][0]["url"]).content
    commands = json_of(live, f"/v1/runs/{found['id']}/commands")
    for name in ("curl", "cli", "python"):
        folder = tmp_path / name
        folder.mkdir()
        for need in commands["needs"] if name != "curl" else ():
            typed(need, folder)
        if name == "python":
            (folder / "again.py").write_text(commands["python"])
        typed(f"{sys.executable} again.py" if name == "python" else commands[name], folder)
        several = sorted(
            file for file in (folder / "pictures").rglob("*.png") if file.stem != "pictures"
        )  # that one is the sheet of them
        made = several[0] if several else folder / "0.png"
        assert made.read_bytes() == data, name


def test_copied_curl_comes_in_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line holds no secret: the token is read from where a person keeps it."""
    monkeypatch.setenv("SAFELIGHT_TOKEN", TOKEN)
    data = tmp_path / "data"
    models(data)
    with serving(data, Tokens(data, (TOKEN,))) as server:
        server.client.headers["authorization"] = f"Bearer {TOKEN}"
        run = server.run(seed=5, steps=2)
        line = json_of(server, f"/v1/runs/{run['id']}/commands")["curl"]
        assert "$SAFELIGHT_TOKEN" in line and TOKEN not in line
        typed(line, tmp_path)
        assert (tmp_path / "0.png").read_bytes() == server.client.get(run["pictures"][0]["url"]).content


# ---- limits ------------------------------------------------------------------------------------------------------------------

LIMITS = {
    "pixels": 256,
    "work": 4000,
    "steps": 20,
    "count": 3,
    "prompt": 100,
    "body": 20_000,
    "decompressed": 400,
    "queue": 2,
    "cells": 3,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on which nearly everything is too much."""
    folder = tmp_path_factory.mktemp("small")
    models(folder)
    with serving(folder, devices=(), limits=LIMITS) as running:
        yield running


@pytest.mark.parametrize(
    ("limit", "path", "body", "status"),
    [
        ("pixels", "/v1/runs", {"request": {"size": [16, 24]}}, 422),
        ("work", "/v1/runs", {"request": {"size": [16, 16], "steps": 16}}, 422),
        ("steps", "/v1/runs", {"request": {"steps": 21}}, 422),
        ("count", "/v1/runs", {"request": {"count": 4}}, 422),
        ("prompt", "/v1/runs", {"request": {"prompt": "a" * 101}}, 422),
        ("prompt in parts", "/v1/runs", {"request": {"prompt": "a" * 60, "negative": "b" * 60}}, 422),
        (
            "prompt of a morph",
            "/v1/morphs",
            {"segments": [{"task": {"ends": [{"prompt": "a" * 101}, {"prompt": "b"}]}, "frames": 2}]},
            422,
        ),
        ("body", "/v1/runs", {"title": "a" * 21_000}, 413),
        ("cells", "/v1/grids", {"axes": [{"path": "seed", "values": [1, 2, 3, 4]}]}, 422),
        (
            "cells of a morph",
            "/v1/morphs",
            {"segments": [{"task": {"ends": [{"prompt": "a"}, {"prompt": "b"}]}, "frames": 9}]},
            422,
        ),
        ("queue", "/v1/grids", {"axes": [{"path": "seed", "values": [1, 2, 3]}]}, 429),
        ("pixels by A1111", "/sdapi/v1/txt2img", {"width": 64, "height": 64}, 422),
        ("count by A1111", "/sdapi/v1/txt2img", {"batch_size": 2, "n_iter": 2}, 422),
        ("steps by OpenAI", "/v1/images/generations", {"prompt": "bag", "steps": 21}, 422),
        ("pixels by OpenAI", "/v1/images/generations", {"prompt": "bag", "size": "64x64"}, 422),
    ],
)
def test_what_is_too_much_is_said(limit: str, path: str, body: dict[str, Any], status: int, small: Running) -> None:
    before = json_of(small, "/v1/jobs")["jobs"]
    named = {"override_settings": {"sd_model_checkpoint": "tiny"}} if path.startswith("/sdapi") else {"model": "tiny"}
    found = json_of(small, path, {**named, **body}, status=status)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert re.search(r"\d", found["message"]), "it says how much would do"
    assert json_of(small, "/v1/jobs")["jobs"] == before


def test_a_picture_may_unpack_to_so_much(small: Running) -> None:
    for side, status in ((20, 200), (21, 413)):
        out = io.BytesIO()
        Image.new("L", (side, side)).save(out, "PNG")
        for where in ("/v1/pictures", "/v1/masks"):
            answer = small.client.post(where, content=out.getvalue(), headers={"content-type": "image/png"})
            assert answer.status_code == status, (side, where)


def test_a_full_queue_says_so(tmp_path: Path) -> None:
    models(tmp_path)
    with serving(tmp_path, devices=(), limits={"queue": 2, "rate": 5.0, "burst": 6}) as server:
        told = [server.client.post("/v1/runs", json={"model": "tiny", "request": {"prompt": "bag"}}) for _ in range(3)]
        assert [one.status_code for one in told] == [202, 202, 429]
        assert told[2].json()["error"]["code"] == "queue_full"
        often = [server.client.get("/healthz") for _ in range(20)]
        assert {one.status_code for one in often} == {200, 429}
        late = next(one for one in often if one.status_code == 429)
        assert late.json()["error"]["code"] == "rate_limit_exceeded"
        time.sleep(int(late.headers["retry-after"]) + 0.1)
        assert server.client.get("/healthz").status_code == 200


# ---- recordings --------------------------------------------------------------------------------------------------------------


def test_tensors_are_those_of_the_recording(live: Running, run: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(live.client.get(f"/v1/runs/{run['id']}/trace.safetensors").content)
    trace = Trace.open(tmp_path / "t.safetensors")
    answer = live.client.get(f"/v1/runs/{run['id']}/steps/5/tensors.bin?picture=1").content
    head, _, body = answer.partition(b"\n")
    header, flat, at = json.loads(head), np.frombuffer(body, "<f4"), 0
    for one in header["tensors"]:
        size = int(np.prod(one["shape"]))
        name = one["name"]
        own = trace.x(5) if name == "x" else trace.x0(5) if name == "x0" else trace.part(name.removeprefix("part/"), 5)
        assert (flat[at : at + size].reshape(one["shape"]) == own[1].numpy()).all()
        at += size
    assert at == len(flat)
    arrays = np.load(io.BytesIO(live.client.get(f"/v1/runs/{run['id']}/steps/5/tensors.npz?picture=1").content))
    assert (arrays["part.cond"] == trace.part("cond", 5)[1].numpy()).all()
    assert float(arrays["sigma"]) == pytest.approx(trace.steps[5].sigma)


def test_recompute_at_the_recorded_scale_is_the_recording(live: Running, run: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(live.client.get(f"/v1/runs/{run['id']}/trace.safetensors").content)
    trace = Trace.open(tmp_path / "t.safetensors")
    where = f"/v1/runs/{run['id']}/steps/4/recompute"
    same = json_of(live, where, {"mix": run["request"]["mix"]})
    assert torch.tensor(same["x0"]).view(same["shape"]).sub(trace.x0(4)[0]).abs().max() < 1e-6
    dialled = json_of(live, where, {"mix": {"kind": "cfg", "scale": 7}})
    null, cond = (trace.part(name, 4)[0] for name in ("null", "cond"))
    assert torch.tensor(dialled["x0"]).view(dialled["shape"]).sub(null + 7 * (cond - null)).abs().max() < 1e-5
    painted = json_of(live, where, {"x0": dialled["x0"]})
    assert painted["picture"] == dialled["picture"]
    json_of(live, where, {"x0": [0.0]}, status=422)


def test_sprites_hold_every_step(live: Running, run: dict[str, Any]) -> None:
    lenses = json_of(live, f"/v1/runs/{run['id']}/sprites")
    assert {"x", "x0", "noise", "guidance", "difference"} <= set(lenses)
    for lens, place in lenses.items():
        sheet = Image.open(io.BytesIO(live.client.get(f"/v1/runs/{run['id']}/sprite/{lens}.webp").content))
        assert sheet.size == (place["columns"] * place["width"], place["rows"] * place["height"])
        assert place["frames"] == 8
    first = live.client.get(f"/v1/runs/{run['id']}/steps/2/x0.png")
    assert (
        live.client.get(f"/v1/runs/{run['id']}/steps/2/x0.png", headers={"if-none-match": first.headers["etag"]}).status_code
        == 304
    )


def test_numbers_and_explanations(live: Running, run: dict[str, Any]) -> None:
    found = json_of(live, f"/v1/runs/{run['id']}/numbers")
    assert [step["k"] for step in found["steps"]] == list(range(8))
    assert found["steps"][-1]["decided"] == pytest.approx(1, abs=0.05)
    assert {"tokens", "vectors", "noise", "loop", "decode"} <= set(json_of(live, f"/v1/runs/{run['id']}/explain"))
    named = next(iter(json_of(live, "/v1/source")["sources"]))
    assert "def " in json_of(live, f"/v1/source/{named}")["source"]


def test_exports(live: Running, run: dict[str, Any]) -> None:
    for format in ("gif", "webp", "apng"):
        film = Image.open(io.BytesIO(live.client.get(f"/v1/runs/{run['id']}/export/{format}").content))
        assert film.n_frames == 8  # type: ignore[attr-defined]
    names = zipfile.ZipFile(io.BytesIO(live.client.get(f"/v1/runs/{run['id']}/export/zip").content)).namelist()
    assert names == ["run.json", "0.png", "1.png", *(f"steps/{k:04d}.png" for k in range(8))]
    page = live.client.get(f"/v1/runs/{run['id']}/export/html")
    assert page.text.lower().startswith("<!doctype html>")
    assert not re.search(r'(src|href)="(https?:)?//', page.text)


def test_missing_things_are_404(live: Running, run: dict[str, Any]) -> None:
    for where in ("pictures/9.png", "sprite/x0.webp?picture=9", "numbers?picture=9", "attention"):
        json_of(live, f"/v1/runs/{run['id']}/{where}", status=404)
    for where in ("steps/99/x0.png", "steps/99/tensors.bin"):
        assert live.client.get(f"/v1/runs/{run['id']}/{where}").status_code in (404, 422)


# ---- events ------------------------------------------------------------------------------------------------------------------


def test_events_come_and_come_again(live: Running) -> None:
    """A line that broke goes on from its last event: nothing twice, nothing left out but orders of the queue that a later one replaced."""
    begin = next(iter(events(live, 0)))[0] - 1
    asked = live.ask(steps=6)
    live.over(asked["id"])
    whole = []
    for event in events(live, begin):
        whole.append(event)
        if event[1] == "run" and event[2]["id"] == asked["id"] and event[2]["state"] == "done":
            break
    mine = [data for _, kind, data in whole if kind == "step" and data["run"] == asked["id"]]
    assert [step["k"] for step in mine] == list(range(6))
    assert all(step["frames"]["x0"] for step in mine)
    middle = whole[len(whole) // 2][0]
    rest = []
    for event in events(live, headers={"last-event-id": str(middle)}):
        rest.append(event)
        if event[0] >= whole[-1][0]:
            break
    assert [event for event in rest if event[1] != "queue"] == [e for e in whole if e[0] > middle and e[1] != "queue"]
    assert [event[0] for event in whole] == sorted({event[0] for event in whole})


def test_an_id_of_another_folder_is_told_to_read_anew(live: Running) -> None:
    number, kind, _ = next(iter(events(live, 10**12)))
    assert kind == "reset"
    assert number < 10**12


# ---- words -------------------------------------------------------------------------------------------------------------------


def test_tokens_say_where_they_stand(live: Running) -> None:
    prompt = "a (red:1.3) apple"
    found = json_of(live, "/v1/tokenize", {"prompt": prompt, "model": "words"})
    assert [(prompt[t["start"] : t["end"]], t["weight"]) for t in found["tokens"]] == [("a", 1), ("red", 1.3), ("apple", 1)]
    assert (found["limit"], found["windows"]) == (30, 1)


def test_hints_come_with_what_mends_them(live: Running) -> None:
    body = {
        "prompt": "a table without chairs",
        "model": "words",
        "request": {"size": [64, 8], "mix": {"kind": "cfg", "scale": 90}},
    }
    found = json_of(live, "/v1/lint", body)
    assert {"negation", "size", "guidance"} <= {one["kind"] for one in found["findings"]}
    assert found["fixed"]["negative"] == "chairs"
    assert next(one for one in found["findings"] if one["kind"] == "size")["fix"]["request"] == {"size": [8, 8]}


def test_sums_of_words(live: Running) -> None:
    found = json_of(live, "/v1/mix", {"expression": '"a cat" * 2 - "a dog"', "model": "words", "lengths": False})
    rows = np.array(found["vectors"])
    assert np.allclose(2 * rows[0] - rows[1], found["result"], atol=1e-5)
    assert np.allclose(np.diag(found["cosines"]), 1)
    assert len(found["pca"]) == 3
    same = json_of(live, "/v1/embed", {"texts": ["a cat", "a dog", "a cat"], "model": "words"})
    assert np.allclose(same["cosines"][0][2], 1)


def test_concepts_stand_for_expressions(live: Running) -> None:
    json_of(live, "/v1/concepts/my-style", {"expression": '"bag" + 0.5 * "shoe"'}, "PUT")
    assert json_of(live, "/v1/concepts")["concepts"][0]["name"] == "my-style"
    made = live.run(prompt="shirt <my-style>", steps=2)
    assert made["request"]["task"]["expression"] == '"shirt" + ("bag" + 0.5 * "shoe")'
    alone = live.run(prompt="<my-style>", steps=2)
    direct = live.run(prompt="", task={"kind": "mix", "expression": '"bag" + 0.5 * "shoe"'}, steps=2)
    assert alone["pictures"][0]["seal"] == direct["pictures"][0]["seal"]
    json_of(live, "/v1/concepts/bad", {"expression": '"bag" +'}, "PUT", 422)
    json_of(live, "/v1/concepts/my-style", method="DELETE", status=204)


def test_grids_are_runs_of_their_cells(live: Running, run: dict[str, Any]) -> None:
    body = {"model": "tiny", "request": {"prompt": "bag", "steps": 2}, "title": "which?"}
    axes = [{"path": "mix.scale", "values": [1, 4]}, {"path": "prompt~bag", "values": ["bag", "shoe"]}]
    cost = json_of(live, "/v1/grids?dry=1", {**body, "axes": axes})
    assert (cost["runs"], cost["cost"]["pictures"], cost["cost"]["steps"]) == ([], 4, 8)
    made = json_of(live, "/v1/grids", {**body, "axes": axes}, status=202)
    done = [live.over(one["id"]) for one in made["runs"]]
    assert [(one["request"]["mix"]["scale"], one["prompt"]) for one in done] == [
        (1, "bag"),
        (1, "shoe"),
        (4, "bag"),
        (4, "shoe"),
    ]
    assert {one["group"] for one in done} == {made["group"]}
    alone = live.run(prompt="shoe", steps=2, mix={"kind": "cfg", "scale": 4})
    assert done[3]["pictures"][0]["seal"] == alone["pictures"][0]["seal"]
    forks = json_of(
        live, "/v1/grids", {"model": "tiny", "parent": run["id"], "axes": [{"path": "fork", "values": [2, 6]}]}, status=202
    )
    assert [live.over(one["id"])["fork_step"] for one in forks["runs"]] == [2, 6]


def test_morphs_fill_in(live: Running) -> None:
    task = {"kind": "interpolate", "ends": [{"prompt": "bag", "seed": 1}, {"prompt": "shoe", "seed": 2}]}
    made = json_of(
        live,
        "/v1/morphs",
        {"model": "tiny", "request": {"steps": 2}, "every": 3, "segments": [{"task": task, "frames": 6}]},
        status=202,
    )
    spans = [(one["request"]["index"], one["request"]["count"]) for one in made["runs"]]
    assert spans == [(0, 1), (3, 1), (5, 1), (1, 2), (4, 1)]
    assert made["cost"]["pictures"] == 6
    assert all(live.over(one["id"])["state"] == "done" for one in made["runs"])


# ---- pictures, models, settings ----------------------------------------------------------------------------------------------


def test_pictures_that_are_brought(live: Running, run: dict[str, Any]) -> None:
    data = live.client.get(run["pictures"][0]["url"]).content
    sent = live.client.post("/v1/pictures", content=data, headers={"content-type": "image/png"}).json()
    assert sent["seal"] == run["pictures"][0]["seal"]
    assert sent["note"]["request"]["seed"] == 3
    form = live.client.post("/v1/pictures", files={"file": ("a.png", data, "image/png")}).json()
    assert form == sent


def test_another_tools_picture_says_what_was_asked(live: Running) -> None:
    from PIL import PngImagePlugin

    text = "a red apple\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5, Seed: 7, Size: 64x64"
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", text + ", Face restoration: GFPGAN")
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "PNG", pnginfo=chunks)
    found = live.client.post("/v1/pictures", content=out.getvalue(), headers={"content-type": "image/png"}).json()
    asked = found["request"]
    assert (asked["prompt"], asked["negative"], asked["steps"], asked["seed"]) == (["a red apple"], "blurry", 20, 7)
    assert found["note"] is None
    assert any("Face restoration" in line for line in found["reports"])
    assert json_of(live, "/v1/runs", {"request": asked}, status=202)["seed"] == 7


def test_import_keeps_what_pictures_say(live: Running, tmp_path: Path) -> None:
    with serving_elsewhere(tmp_path) as other:
        run = live.run(seed=77, steps=2)
        data = live.client.get(run["pictures"][0]["url"]).content
        files = [
            ("files", ("a.png", data, "image/png")),
            ("files", ("b.png", b"none", "image/png")),
            ("files", ("a2.png", data, "image/png")),
        ]
        found = other.client.post("/v1/runs/import", files=files).json()
        assert (len(found["runs"]), found["known"], len(found["refused"])) == (1, 1, 1)
        assert found["runs"][0]["request"]["seed"] == 77
        assert other.client.get(found["runs"][0]["pictures"][0]["url"]).content == data


def serving_elsewhere(folder: Path) -> Any:
    models(folder)
    return serving(folder, devices=())


def test_pictures_in_other_formats_carry_the_same_note(live: Running, run: dict[str, Any], tmp_path: Path) -> None:
    notes = []
    for suffix in ("png", "webp", "jpg"):
        file = tmp_path / f"a.{suffix}"
        file.write_bytes(live.client.get(f"/v1/runs/{run['id']}/pictures/1.{suffix}").content)
        notes.append(note(file))
    assert notes[0] is not None
    assert notes[0] == notes[1] == notes[2]


def test_models_say_what_they_are(live: Running) -> None:
    found = {one["name"]: one for one in json_of(live, "/v1/models")["models"]}
    tiny = found["tiny"]
    assert (tiny["size"], tiny["latent"], tiny["multiple"], tiny["conditional"]) == ([8, 8], [1, 8, 8], 1, True)
    assert tiny["classes"] == ["shirt", "shoe", "bag"]
    live.run(steps=1)
    until = time.monotonic() + 20
    while not json_of(live, "/v1/models/tiny")["loaded"] and time.monotonic() < until:
        time.sleep(0.1)
    assert json_of(live, "/v1/models/tiny")["memory"] > 0
    json_of(live, "/v1/models/nobody", status=404)


def test_settings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models(tmp_path)
    with serving(tmp_path, devices=()) as server:
        public = json_of(server, "/v1/settings")["settings"]
        assert public["safety"] == {"kind": "none"}
        changed = {"safety": {"kind": "words", "refuse": ["bag"]}, "prune": {"days": 3, "bytes": None, "whole": False}}
        assert json_of(server, "/v1/settings", changed, "PUT")["settings"] == {
            **changed,
            "safety": {**changed["safety"], "reason": "this word is not used here"},
        }  # type: ignore[dict-item]
        refused = json_of(server, "/v1/runs", {"model": "tiny", "request": {"prompt": "a BÁG"}}, status=403)["error"]
        assert refused["code"] == "content_policy_violation"
        assert "'bag'" in refused["message"]
        monkeypatch.setitem(sys.modules, "nudenet", None)
        detector.cache_clear()
        assert (
            "safelight[safety]"
            in json_of(server, "/v1/settings", {"safety": {"kind": "nudenet"}}, "PUT", 422)["error"]["message"]
        )
        json_of(server, "/v1/settings", {"limits": {"pixels": 10**9}}, "PUT", 422)
    with serving(tmp_path, devices=()) as server:
        assert json_of(server, "/v1/settings")["settings"]["prune"]["days"] == 3


def test_metrics_are_prometheus_text(live: Running, run: dict[str, Any]) -> None:
    text = live.client.get("/metrics").text
    line = re.compile(r'(# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+)')
    assert [row for row in text.splitlines() if not line.fullmatch(row)] == []
    assert re.search(r'safelight_runs\{state="done"\} [1-9]', text)
    assert re.search(r'safelight_requests_total\{method="GET",status="200"\} [1-9]', text)


def test_the_page_has_every_address(live: Running) -> None:
    index = live.client.get("/").content
    for where in (
        "create",
        "edit/abc123abc123",
        "run/abc123abc123",
        "gallery",
        "compare",
        "jobs",
        "explain/abc123abc123",
        "mix",
        "morph",
    ):
        assert live.client.get(f"/{where}").content == index
    for name in re.findall(rb'(?:src|href)="(/studio/[^"]+)"', index):
        where = name.decode()
        packed, plain = (live.client.get(where, headers={"accept-encoding": how}) for how in ("gzip", "identity"))
        assert (packed.status_code, plain.status_code) == (200, 200)
        assert packed.content == plain.content
        assert (packed.headers.get("content-encoding"), plain.headers.get("content-encoding")) == ("gzip", None)
        assert packed.headers["etag"] != plain.headers["etag"]
        for one, how in ((packed, "gzip"), (plain, "identity")):
            again = live.client.get(where, headers={"accept-encoding": how, "if-none-match": one.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
    assert (
        live.client.get("/studio/js/shell.js", headers={"accept-encoding": "gzip;q=0, br"}).headers.get("content-encoding")
        is None
    )
    kept = [live.client.get("/studio/example/run.json", headers={"accept-encoding": how}) for how in ("gzip", "identity")]
    assert kept[0].json() == kept[1].json()
    assert kept[0].headers["content-type"] == "application/json"
