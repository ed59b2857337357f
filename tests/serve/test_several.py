"""What is done with several runs at once: taken away, brought back, changed, packed, filmed, and written as one line."""

from __future__ import annotations

import io
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from tests.serve.live import Running, serving


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from tests.serve.live import models

    folder = tmp_path_factory.mktemp("several")
    models(folder)
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def runs(live: Running) -> list[dict[str, Any]]:
    return [live.run(prompt=word, steps=2, seed=seed) for word, seed in (("bag", 1), ("shoe", 2), ("bag", 3))]


def post(live: Running, path: str, body: Any, status: int = 200) -> Any:
    answer = live.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json() if "json" in answer.headers["content-type"] else answer.content


def test_deleted_and_restored_together(live: Running, runs: list[dict[str, Any]]) -> None:
    ids = [r["id"] for r in runs]
    nobody = "0" * 12
    assert post(live, "/v1/runs/delete", {"ids": [*ids[:2], nobody, ids[0]]}) == {"ids": ids[:2], "missing": [nobody]}
    assert live.client.get(f"/v1/runs/{ids[0]}").status_code == 404
    assert post(live, "/v1/runs/restore", {"ids": [*ids[:2], nobody]}) == {"ids": ids[:2], "missing": [nobody]}
    assert live.client.get(f"/v1/runs/{ids[0]}").json()["state"] == "done"
    assert post(live, "/v1/runs/change", {"ids": ids, "star": True, "board": "bags"})["ids"] == ids
    assert [r["id"] for r in live.client.get("/v1/runs?star=true&board=bags").json()["runs"]] == ids[::-1]
    post(live, "/v1/runs/change", {"ids": ids, "star": False, "board": ""})
    wrong: list[dict[str, Any]] = [{"ids": []}, {"ids": ["../x"]}, {"ids": ids, "title": "x"}]
    for body in wrong:
        assert live.client.post("/v1/runs/change", json=body).status_code == 422


def test_a_zip_holds_the_files_as_they_were_written(live: Running, runs: list[dict[str, Any]]) -> None:
    ids = [r["id"] for r in runs]
    data = post(live, "/v1/runs/zip", {"ids": ids})
    packed = zipfile.ZipFile(io.BytesIO(data))
    assert packed.namelist() == [f"{id}-0.png" for id in ids]
    for id in ids:
        assert packed.read(f"{id}-0.png") == live.client.get(f"/v1/runs/{id}/pictures/0.png").content
    assert data == post(live, "/v1/runs/zip", {"ids": ids})
    post(live, "/v1/runs/zip", {"ids": ["0" * 12]}, 404)


def test_a_film_has_the_pictures_in_the_order_given(live: Running, runs: list[dict[str, Any]]) -> None:
    frames = [{"run": r["id"]} for r in runs]
    own = [
        np.asarray(Image.open(io.BytesIO(live.client.get(f"/v1/runs/{r['id']}/pictures/0.png").content)).convert("RGB"))
        for r in runs
    ]
    for back, order in ((False, [0, 1, 2]), (True, [0, 1, 2, 1])):
        data = post(live, "/v1/films/apng", {"frames": frames, "seconds": 1, "back": back})
        with Image.open(io.BytesIO(data)) as film:
            assert (film.n_frames, film.info["loop"]) == (len(order), 0)
            for k, i in enumerate(order):
                film.seek(k)
                shown = np.asarray(film.convert("RGB"))
                scale = shown.shape[0] // own[i].shape[0]
                assert (shown[::scale, ::scale] == own[i]).all()
    other = live.run(prompt="bag", steps=2, size=[16, 16])
    wrong = [
        ({"frames": frames[:1]}, 422),
        ({"frames": [*frames, {"run": other["id"]}]}, 422),
        ({"frames": [*frames, {"run": "0" * 12}]}, 404),
        ({"frames": [{"run": runs[0]["id"], "picture": 7}] * 2}, 404),
    ]
    for body, status in wrong:
        post(live, "/v1/films/gif", body, status)


def test_angles_of_a_path(live: Running) -> None:
    ends = [{"prompt": "bag", "seed": 1}, {"prompt": "bag", "seed": 2}, {"prompt": "shoe", "seed": 2}]
    body = {"model": "tiny", "request": {"task": {"kind": "interpolate", "ends": ends}}}
    first, second = post(live, "/v1/morphs/angles", body)["legs"]
    assert 45 < first["noise"] < 135 and first["words"] == pytest.approx(0, abs=0.1)
    assert second["noise"] == pytest.approx(0, abs=1e-4) and second["words"] > 1
    post(live, "/v1/morphs/angles", {"model": "tiny", "request": {}}, 422)
    post(live, "/v1/morphs/angles", {"model": "nobody", "request": body["request"]}, 404)


def test_lines_of_a_sheet(live: Running, runs: list[dict[str, Any]], tmp_path: Path) -> None:
    """`safelight grid` where it knows the axes and would read the values as they are; else a command a cell."""

    def line(sheet: list[dict[str, Any]], axes: list[tuple[str, list[Any]]], prompt: str = "bag") -> list[str]:
        body = {"ids": [r["id"] for r in sheet], "axes": [{"path": p, "values": v} for p, v in axes], "prompt": prompt}
        return shlex.split(post(live, "/v1/runs/commands", body)["cli"])

    made = post(
        live,
        "/v1/grids",
        {"model": "tiny", "request": {"prompt": "bag", "steps": 2}, "axes": [{"path": "seed", "values": [4, 5]}]},
        202,
    )
    sheet = [live.over(r["id"]) for r in made["runs"]]
    words = line(sheet, [("seed", [4, 5])])
    assert words[:3] == ["safelight", "grid", "bag"] and words[words.index("--x") + 1] == "seed=4,5"
    assert "--seed" not in words and words[words.index("--steps") + 1] == "2"
    assert words[-2:] == ["--out", "grid"]
    for axes in (
        [("seed", [4, 5, 6])],  # not as many cells
        [("model", ["tiny", "words"])],
        [("prompt~bag", ["a,b", "c"])],  # a comma parts values there
        [("prompt", ['say "bag"', "bag"])],
        [("negative", ["a\\b", "c"])],
        [("seed", [4, 4])],
        [("prompt~a=b", ["c", "d"])],
    ):
        words = line(sheet, axes)
        assert words[:2] == ["safelight", "generate"], axes
    assert line(sheet, [("prompt~bag", ["shoe", "dress"])], "a {bag|shoe}")[1] == "generate"
    assert [line(runs, [])[i] for i in (0, 1)] == ["safelight", "generate"]
    edit = live.run(prompt="shoe", steps=2, task={"kind": "image", "picture": runs[0]["pictures"][0]["seal"], "strength": 0.5})
    told = post(live, "/v1/runs/commands", {"ids": [edit["id"], runs[0]["id"]]})
    assert len(told["needs"]) == 1 and f"{live.address}/v1/pictures/sha256:" in told["needs"][0] and "--input" in told["cli"]
    text = post(live, "/v1/runs/commands", {"ids": [r["id"] for r in runs]})["cli"]
    assert [f"--out {k}.png" in text for k in range(3)] == [True] * 3 and text.count("&&") == 2


def test_a_command_says_what_a_task_would_choose_otherwise(live: Running, runs: list[dict[str, Any]]) -> None:
    """A path through a picture takes a sampler that can be undone, an edit its picture's size: what was asked for instead is told."""
    seal = runs[0]["pictures"][0]["seal"]
    usual = live.client.get("/v1/models/tiny").json()["defaults"]["sampler"]
    task = {"kind": "interpolate", "ends": [{"prompt": "bag", "seed": 1}, {"prompt": "bag", "picture": seal}]}
    path = live.run(prompt="", steps=2, count=2, sampler=usual, task=task)
    edit = live.run(prompt="shoe", steps=2, size=[8, 8], task={"kind": "image", "picture": seal, "strength": 0.5})
    for run, name in ((path, "sampler"), (edit, "size")):
        words = shlex.split(live.client.get(f"/v1/runs/{run['id']}/commands").json()["cli"])
        assert any(word.startswith(f"{name}=") for word in words), words
