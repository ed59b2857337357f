"""A server that is killed at any moment and started again at the same folder: nothing is lost, nothing is made twice."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from safelight.serve.app import serve
from safelight.serve.folder import Folder
from safelight.serve.jobs import Jobs
from safelight.serve.settings import Settings
from safelight.serve.worker import Desk
from tests import forks
from tests.serve import bench

STEPS = 40
FORKED = 15


def _serve(folder: str, port: int) -> None:
    torch.set_num_threads(1)
    serve(Settings(folder=Path(folder), port=port, devices=("cpu",)))


class Killed:
    """A server in a process of its own, with a worker in another, that is killed as a power cut does and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.address, timeout=60)
        # Forked from a process that has loaded everything: fifty times that would be minutes.
        self.context = forks.context()
        self.start()

    def start(self) -> None:
        self.process = self.context.Process(target=_serve, args=(str(self.folder), self.port))
        self.process.start()
        bench.until(self.stands, 60)

    def stands(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/healthz").status_code == 200
        return False

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def end(self) -> None:
        self.process.terminate()
        self.process.join(60)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.client.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


class Follower:
    """A client of the events that goes on from the last one it saw, whatever happens to the server."""

    def __init__(self, address: str) -> None:
        self.address, self.seen, self.stop = address, list[tuple[int, str, dict[str, Any]]](), threading.Event()
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self) -> None:
        while not self.stop.is_set():
            with contextlib.suppress(httpx.HTTPError):
                self.read(str(self.seen[-1][0] if self.seen else 0))
            time.sleep(0.02)

    def read(self, last: str) -> None:
        fields: dict[str, str] = {}
        with httpx.stream("GET", f"{self.address}/v1/events", headers={"Last-Event-ID": last}, timeout=60) as stream:
            assert stream.status_code == 200
            for line in stream.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                else:
                    if "event" in fields:
                        self.seen.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                    fields = {}
                if self.stop.is_set():
                    return


def asks(seal: str, parent: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, body) of what is asked for in turn: pictures by several samplers, edits of a picture that was brought, forks."""
    plain: dict[str, Any] = {"prompt": ["shoe"], "steps": STEPS}
    several = [{**plain, "sampler": {"kind": sampler}, "count": 2, "micro_batch": 1} for sampler in bench.SAMPLERS]
    edit = {**plain, "task": {"kind": "image", "picture": seal, "strength": 0.7}, "sampler": {"kind": "ddpm"}}
    fork = {"step": FORKED, "request": {"mix": {"kind": "cfg", "scale": 4.0}, "seed": 9}}
    yield from (
        ("/v1/runs", {"model": "tiny", "record": r, "request": q})
        for r, q in zip(("branches", "exact", "preview"), several, strict=True)
    )
    yield "/v1/runs", {"model": "tiny", "record": "exact", "request": edit}
    yield f"/v1/runs/{parent}/fork", fork


def uninterrupted(path: Path, upload: Any) -> list[list[bytes]]:
    """The files of what `asks` asks for, made in a folder where nothing happens; the parent of the forks is made first."""
    folder = bench.folder(path)
    jobs, desk = Jobs(folder), Desk(folder, "cpu")
    seal = folder.keep(upload)
    parent = jobs.enqueue(bench.ask(steps=STEPS, sampler="ddpm", record="exact"))
    made = []
    for where, body in asks(seal, parent.id):
        if where == "/v1/runs":
            run = jobs.enqueue(bench.ask(record=body["record"], **body["request"]))
        else:
            while desk.once():
                pass
            run = jobs.fork(parent.id, body["step"], body["request"])
        while desk.once():
            pass
        made.append(bench.files(jobs, run))
    folder.close()
    return made


def restarted(tmp_path: Path, kills: int) -> None:
    """Kill the server `kills` times at random moments of a queue."""
    draw = random.Random(kills)
    upload = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = uninterrupted(tmp_path / "quiet", upload)
    folder = bench.folder(tmp_path / "data")
    jobs = Jobs(folder)
    seal = folder.keep(upload)
    parent = jobs.enqueue(bench.ask(steps=STEPS, sampler="ddpm", record="exact"))
    server = Killed(folder.path)
    follower = Follower(server.address)
    bench.until(lambda: jobs.runs.get(parent.id).state == "done", 60)
    turn = itertools.cycle(list(enumerate(asks(seal, parent.id))))
    accepted: list[tuple[str, int]] = []  # (id, which of `asks`) as they were answered with 202
    tried: dict[str, int] = {}  # titles of all that was sent, answered or not

    def post() -> None:
        which, (path, body) = next(turn)
        title = f"number {len(tried)}"
        tried[title] = which
        with contextlib.suppress(httpx.TransportError):
            accepted.append((server.call("POST", path, {**body, "title": title})["id"], which))

    def feed() -> None:
        while sum(run.state in ("queued", "running") for run in jobs.list()) < 4:
            post()

    deaths = 0
    try:
        feed()
        server.call("POST", "/v1/jobs/pause")  # an order that somebody chose is kept, too
        bench.until(lambda: all(run.state == "queued" for run in jobs.list()), 60)
        waiting = [run.id for run in jobs.list()][::-1]
        server.call("PUT", "/v1/jobs/order", {"ids": waiting})
        server.kill()
        server.start()
        deaths += 1
        assert [run.id for run in jobs.list()] == waiting and jobs.paused
        server.call("POST", "/v1/jobs/resume")
        order = [id for id, _ in accepted if id not in waiting] + waiting  # what was done before, then as it was put
        while deaths < kills:
            feed()
            if draw.random() < 0.3:
                time.sleep(draw.choice([0.0, draw.uniform(0, 1)]))
            else:  # after some steps: however slow this machine is now, most lives get somewhere
                seen = jobs.events.last() + draw.randrange(1, 80)
                bench.until(lambda seen=seen: jobs.events.last() >= seen or not jobs.list(), 90)  # type: ignore[misc]
            asking = threading.Thread(target=post) if draw.random() < 0.4 else None
            if asking is not None:
                asking.start()
                time.sleep(draw.uniform(0, 0.02))
            server.kill()
            if asking is not None:
                asking.join()
            server.start()
            deaths += 1
        bench.until(lambda: not jobs.list(), 120)
        bench.until(lambda: follower.seen[-1][0] == jobs.events.last())
    finally:
        follower.stop.set()
        server.end()
    check(folder, jobs, accepted, tried, wanted, order)
    replayed(jobs, follower.seen)


def check(
    folder: Folder,
    jobs: Jobs,
    accepted: list[tuple[str, int]],
    tried: dict[str, int],
    wanted: list[list[bytes]],
    order: list[str],
) -> None:
    """Every run that was promised is done, once, with the bytes of an uninterrupted one, in the order of the queue."""
    made = [run for run in jobs.runs.find(limit=1000) if run.title.startswith("number")]
    assert {id for id, _ in accepted} <= {run.id for run in made}
    assert len({run.title for run in made}) == len(made)  # what was asked for once is there once
    for run in made:
        assert (run.state, run.error, run.recorded) == ("done", "", True), run
        assert bench.files(jobs, run) == wanted[tried[run.title]], run.title
        said = [line.text for line in jobs.runs.log(run.id)]
        # Nobody claims what another one holds: between two claims the first was left, or died.
        ends = [text.split()[0] for text in said if text.startswith(("claimed", "left", "its worker died", "done"))]
        assert ends[0] == "claimed" and ends[-1] == "done" and ends.count("done") == 1, said
        assert all((a == "claimed") != (b == "claimed") for a, b in itertools.pairwise(ends)), said
    finished = sorted(made, key=lambda run: run.finished or 0)
    rest = [run.id for run in sorted(made, key=lambda run: run.id) if run.id not in order]
    assert [run.id for run in finished] == [*[id for id in order if id in {run.id for run in made}], *rest]
    assert [f for f in (folder.path / "runs").rglob("*") if f.name.startswith(".")] == []


def replayed(jobs: Jobs, seen: list[tuple[int, str, dict[str, Any]]]) -> None:
    """A client that was there all the time heard everything, in order and once."""
    ids = [id for id, _, _ in seen]
    assert ids == sorted(set(ids)) and not any(kind == "reset" for _, kind, _ in seen)
    kept = [event.id for event in jobs.events.since(0, 100_000)]
    assert set(kept) <= set(ids)
    last: dict[str, dict[str, Any]] = {data["id"]: data for _, kind, data in seen if kind == "run"}
    assert all(run["state"] == "done" for run in last.values())
    steps: dict[str, set[tuple[int, int]]] = {}
    for _, kind, data in seen:
        if kind == "step":
            steps.setdefault(data["run"], set()).add((data["part"], data["k"]))
    for id, run in last.items():
        first, parts = run["fork_step"] or 0, run["request"]["count"] if run["request"].get("micro_batch") else 1
        count = len(run["levels"]) - 1
        assert steps[id] == {(part, k) for part in range(parts) for k in range(first, count)}, run["title"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_5_times_loses_nothing(tmp_path: Path) -> None:
    restarted(tmp_path, 5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_server_that_is_killed_50_times_loses_nothing(tmp_path: Path) -> None:
    restarted(tmp_path, 50)
