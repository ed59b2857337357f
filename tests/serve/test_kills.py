"""Processes that are killed at any moment: no job is lost, and every picture is the one that an undisturbed run makes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from safelight.serve import jobs as queue
from safelight.serve import worker as module
from safelight.serve.folder import Folder
from safelight.serve.jobs import Jobs
from safelight.serve.runs import Run
from safelight.serve.worker import Desk, Supervisor, work
from safelight.trace import Trace
from tests import forks
from tests.serve import bench

LONG, SHORT = 60, 12  # steps of the runs that are killed, some milliseconds each


def _hand(path: str, id: str, how: dict[str, float]) -> None:
    torch.set_num_threads(1)
    for name, value in how.items():
        setattr(queue if name == "LEASE" else module, name, value)
    module._EVERY, module._SHARE = 0.03, 1.0  # recordings are written all the time, so that kills fall into that too
    work(path, "cpu", id=id)


class Hands:
    """A worker process that is started again when it is killed, as the supervisor does, without the time that loading torch takes."""

    def __init__(self, folder: Folder, *, swept: bool = True, **how: float) -> None:
        self.how = how
        self.folder, self.jobs, self.swept, self.deaths = folder, Jobs(folder), swept, 0
        self.start()

    def start(self) -> None:
        self.id = f"hand {self.deaths}"
        self.process = forks.context().Process(target=_hand, args=(str(self.folder.path), self.id, self.how))
        self.process.start()

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.deaths += 1
        if self.swept:
            self.jobs.absent(self.id)
        self.start()

    def end(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)
        self.process.join(20)
        assert self.process.exitcode == 0


def killed(folder: Folder, kills: int, *, swept: bool = True, **how: float) -> None:
    """Kill the worker `kills` times at random moments of a queue: everything is made, and nothing differs."""
    jobs, draw = Jobs(folder), random.Random(kills)
    kinds: list[dict[str, Any]] = [{"sampler": s, "steps": LONG, "count": 2, "micro_batch": 1} for s in bench.SAMPLERS]
    kinds.append({"task": "twice", "sampler": "ddpm", "steps": SHORT})  # stopped in its second stage it is made anew
    wanted = [bench.plain(folder, **fields) for fields in kinds]
    records = ("branches", "preview", "exact")
    queued: list[tuple[Run, list[bytes]]] = []

    def feed() -> None:
        while sum(run.state in ("queued", "running") for run in jobs.list()) < 3:
            k = len(queued)
            queued.append((jobs.enqueue(bench.ask(record=records[k % 3], **kinds[k % 4])), wanted[k % 4]))

    feed()
    hands = Hands(folder, swept=swept, **how)
    try:
        for _ in range(kills):
            bench.until(lambda: any(run.state == "running" for run in jobs.list()) or not jobs.list())
            # At once, at some moment, or after some steps: however slow this machine is now, most lives get somewhere.
            if draw.random() < 0.3:
                time.sleep(draw.choice([0.0, draw.uniform(0, 0.3)]))
            else:
                seen = jobs.events.last() + draw.randrange(1, 60)
                bench.until(lambda seen=seen: jobs.events.last() >= seen or not jobs.list())  # type: ignore[misc]
            hands.kill()
            feed()
        bench.until(lambda: not jobs.list(), 120)
    finally:
        hands.end()
    for run, files in queued:
        found = jobs.runs.get(run.id)
        assert (found.state, found.error) == ("done", ""), found
        assert bench.files(jobs, run) == files
        trace = Trace.open(jobs.runs.trace(run.id))
        assert len(trace.steps) == len(trace.levels) - 1 and trace.x(len(trace.steps)).isfinite().all()
    assert [f for f in (folder.path / "runs").rglob("*") if f.name.startswith(".")] == []  # nothing half written is left


def test_a_worker_that_is_killed_5_times_loses_nothing(folder: Folder) -> None:
    killed(folder, 5)


def test_without_anyone_who_sees_it_die_the_lease_runs_out(folder: Folder) -> None:
    killed(folder, 2, swept=False, LEASE=0.4, _BEAT=0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_50_times_loses_nothing(folder: Folder) -> None:
    killed(folder, 50)


def test_a_worker_that_is_told_to_leave_hands_its_run_on(folder: Folder) -> None:
    jobs = Jobs(folder)
    run = jobs.enqueue(bench.ask(steps=300))
    hands = Hands(folder)
    bench.until(lambda: jobs.runs.get(run.id).steps_done > 5)
    hands.end()
    found = jobs.runs.get(run.id)
    assert found.state == "queued" and 5 < found.steps_done < 300 and jobs.workers() == []
    made = found.steps_done
    Desk(folder, "cpu").once()
    assert bench.files(jobs, run) == bench.plain(folder, steps=300)
    assert len(bench.events(jobs, run, "step")) == 300 and made < 300


def test_cancel_and_pause_reach_a_worker_at_its_next_step(folder: Folder) -> None:
    jobs = Jobs(folder)
    run, after = jobs.enqueue(bench.ask(steps=2000, record="preview")), jobs.enqueue(bench.ask())
    hands = Hands(folder, _TOGETHER=0.0)  # each step is told at once, so that what is known of it is where it is
    try:
        bench.until(lambda: jobs.runs.get(run.id).steps_done > 5)
        jobs.pause(run.id)
        at = jobs.runs.get(run.id).steps_done
        bench.until(lambda: jobs.runs.get(run.id).state == "paused")
        assert jobs.runs.get(run.id).steps_done <= at + 2
        bench.until(lambda: jobs.runs.get(after.id).state == "done")
        jobs.resume(run.id)
        bench.until(lambda: jobs.runs.get(run.id).steps_done > at + 5)
        jobs.cancel(run.id)
        bench.until(lambda: jobs.runs.get(run.id).state == "stopped")
    finally:
        hands.end()


SERVER = """
import sys, time
from safelight.serve.folder import Folder
from safelight.serve.worker import Supervisor
with Supervisor(Folder(sys.argv[1]), ["cpu"]) as supervisor:
    while True:
        time.sleep(1)
"""


def test_the_supervisor_starts_a_worker_again(folder: Folder) -> None:
    """Real processes: a worker that is killed is replaced, and none is left when the supervisor ends."""
    jobs = Jobs(folder)
    run = jobs.enqueue(bench.ask(steps=100, sampler="ddpm"))
    with Supervisor(folder, ["cpu"]) as supervisor:
        bench.until(lambda: jobs.runs.get(run.id).steps_done > 3, 60)
        assert supervisor.alive()
        killed = supervisor.pids()[0]
        os.kill(killed, signal.SIGKILL)
        bench.until(lambda: not jobs.list(), 60)
        pids = supervisor.pids()
    assert pids and not any(map(module._runs, [killed, *pids])) and jobs.workers() == []
    assert bench.files(jobs, run) == bench.plain(folder, steps=100, sampler="ddpm")


@pytest.mark.slow
def test_a_server_that_is_killed_takes_its_worker_along_and_the_next_one_goes_on(folder: Folder) -> None:
    """Real processes throughout."""
    jobs = Jobs(folder)
    runs = [jobs.enqueue(bench.ask(steps=150, seed=k, sampler="ddpm")) for k in range(3)]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(folder.path)])
    try:
        bench.until(lambda: jobs.runs.get(runs[0].id).steps_done > 3, 60)
        worker = jobs.workers()[0].pid
    finally:
        server.kill()
        server.wait()
    bench.until(lambda: not module._runs(worker))
    bench.until(lambda: all(run.state == "queued" for run in jobs.list()))
    with Supervisor(folder, ["cpu"]):
        bench.until(lambda: not jobs.list(), 60)
    for k, run in enumerate(runs):
        assert bench.files(jobs, run) == bench.plain(folder, steps=150, seed=k, sampler="ddpm")


def _alone(path: str, ready: Any) -> None:
    torch.set_num_threads(1)
    with Supervisor(Folder(path), ["cpu"]):
        ready.set()
        time.sleep(1000)


def test_two_servers_of_one_folder_have_one_worker_and_the_second_takes_over(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first server is killed: its worker leaves, and only then the second server starts its own."""
    monkeypatch.setattr(module, "_SAY", 0.0)
    jobs, context = Jobs(folder), forks.context()
    ready = context.Event()
    first = context.Process(target=_alone, args=(str(folder.path), ready))
    first.start()
    assert ready.wait(30)
    run = jobs.enqueue(bench.ask(steps=3000, record="preview"))
    with Supervisor(folder, ["cpu"]) as second:
        bench.until(lambda: jobs.runs.get(run.id).steps_done > 5, 60)
        bench.until(lambda: second.elsewhere() == ["cpu"])
        (worker,) = jobs.workers()
        assert second.pids() == [] and not second.alive()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        bench.until(lambda: second.pids() != [], 30)
        bench.until(lambda: not module._runs(worker.pid))  # it ended before, and is only not buried yet
        at = jobs.runs.get(run.id).steps_done
        bench.until(lambda: jobs.runs.get(run.id).steps_done > at + 5, 60)
        assert second.elsewhere() == [] and second.alive() and len(jobs.workers()) == 1
        jobs.cancel(run.id)
        bench.until(lambda: jobs.runs.get(run.id).state == "stopped")
    ends = [
        line.text.split()[0] for line in jobs.runs.log(run.id) if line.text.startswith(("claimed", "left", "stopped", "its"))
    ]
    assert ends == ["claimed", "left", "claimed", "stopped"]


def test_what_dead_processes_left_is_swept_up(folder: Folder) -> None:
    run = Jobs(folder).enqueue(bench.ask())
    there, orphan, upload = folder.run(run.id), folder.path / "runs" / ("0" * 12), folder.path / "tmpabc"
    for path in (there, orphan, upload):
        path.mkdir(exist_ok=True)
    old = [there / ".tmpXyZ", folder.path / "pictures" / ".0.partial.png", upload / "picture", orphan / "0.png"]
    young = there / ".trace.partial.safetensors"
    for file in (*old, young):
        file.write_bytes(b"half")
    long_ago = time.time() - 2 * module._OLD
    for path in (*old, orphan, upload):
        os.utime(path, (long_ago, long_ago))
    Supervisor(folder, [])._sweep_up()
    assert not any(path.exists() for path in (*old, orphan, upload)) and young.exists()


def _stuck(path: str, tied: Connection) -> None:
    module._PATIENCE = 0.3
    Desk.do = lambda *_: time.sleep(1000)  # type: ignore[method-assign]
    work(path, "cpu", id="stuck", tied=os.fdopen(tied.fileno()))


def test_a_worker_in_a_step_without_end_ends_all_the_same(folder: Folder) -> None:
    """Its server is gone and it cannot leave: the run is another's when the lease has run out."""
    read, write = forks.context().Pipe(duplex=False)
    jobs = Jobs(folder)
    run = jobs.enqueue(bench.ask())
    process = forks.context().Process(target=_stuck, args=(str(folder.path), read))
    process.start()
    read.close()
    bench.until(lambda: jobs.runs.get(run.id).state == "running")
    write.close()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
