"""The queue: claimed once, never lost, in order; paused, cancelled, tried again; and how long it will take."""

from __future__ import annotations

import time
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from safelight.generate import generate
from safelight.model import load
from safelight.serve import jobs as module
from safelight.serve.folder import Conflict, Folder, Missing
from safelight.serve.jobs import Jobs, Worker
from safelight.serve.runs import FROM, Ask, Run
from safelight.spec import SpecError
from safelight.trace import Recorder
from tests import forks
from tests.serve import bench


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(bench.folder(tmp_path))


def present(jobs: Jobs, id: str, run: str | None = None) -> None:
    jobs.present(Worker(id=id, device="cpu", pid=1, seen=time.time(), run=run, bytes=0, budget=0), {})


def finish(jobs: Jobs, run: Run, worker: str, ms: float = 10.0) -> None:
    assert jobs.stepped(run.id, worker, 6, ms, {"k": 5})
    assert jobs.over(run.id, worker, "done")


_together: Barrier


def _meet(barrier: Barrier) -> None:
    global _together
    _together = barrier


def _claim_all(path: str, worker: str) -> list[str]:
    jobs, mine = Jobs(Folder(path)), list[str]()
    while (run := jobs.claim(worker)) is not None:
        mine.append(run.id)
        if len(mine) == 1:
            _together.wait(60)  # nobody has claimed two before everybody has claimed one
        assert jobs.over(run.id, worker, "done")
    return mine


def _queue_some(path: str, client: int, count: int) -> list[str]:
    jobs = Jobs(Folder(path))
    return [jobs.enqueue(bench.ask(seed=100 * client + k)).id for k in range(count)]


def test_8_clients_queue_100_jobs_at_once_and_8_workers_claim_each_of_them_once(tmp_path: Path) -> None:
    bench.folder(tmp_path)
    fork = forks.context()
    with fork.Pool(8, initializer=_meet, initargs=(fork.Barrier(8),)) as pool:
        shares = [(str(tmp_path), client, 13 if client < 4 else 12) for client in range(8)]
        queued = [id for ids in pool.starmap(_queue_some, shares, chunksize=1) for id in ids]
        jobs = Jobs(Folder(tmp_path))
        assert len(set(queued)) == 100 and {run.id for run in jobs.list()} == set(queued)
        claimed = pool.starmap(_claim_all, [(str(tmp_path), f"worker {k}") for k in range(8)], chunksize=1)
    counts = Counter(id for ids in claimed for id in ids)
    assert set(counts) == set(queued) and set(counts.values()) == {1}
    assert all(claimed)
    seeds = sorted(run.seed for run in jobs.runs.find(state="done", limit=200))
    assert seeds == sorted(100 * client + k for _, client, count in shares for k in range(count))


def test_the_order_is_by_priority_then_by_arrival(jobs: Jobs) -> None:
    low, usual, second, high = (jobs.enqueue(bench.ask(priority=p)).id for p in (-1, 0, 0, 5))
    assert [run.position for run in map(jobs.runs.get, (high, usual, second, low))] == [1, 2, 3, 4]
    assert [run.id for run in jobs.list()] == [high, usual, second, low]
    jobs.rank(second, 9)
    order = [second, high, usual, low]
    assert [jobs.claim("w").id for _ in order] == order  # type: ignore[union-attr]
    assert jobs.claim("w") is None


def test_the_order_can_be_changed_over_priorities(jobs: Jobs) -> None:
    a, b, c, d = (jobs.enqueue(bench.ask(priority=p)).id for p in (5, 0, 0, 0))
    jobs.reorder([d, b, "0" * 12])
    assert [run.id for run in jobs.list()] == [a, d, c, b]
    jobs.reorder([c, a])
    assert [run.id for run in jobs.list()] == [c, a, d, b]
    assert jobs.claim("w").id == c  # type: ignore[union-attr]
    jobs.reorder([b, c, d])  # one that runs is passed over
    assert [run.id for run in jobs.list()] == [c, a, b, d]


def test_pause_of_one_and_of_all(jobs: Jobs) -> None:
    a, b = (jobs.enqueue(bench.ask()).id for _ in range(2))
    assert jobs.pause(a).state == "paused" and jobs.pause(a).state == "paused"
    jobs.pause_all()
    assert jobs.paused and Jobs(Folder(jobs.folder.path)).paused and jobs.claim("w") is None
    jobs.resume_all()
    assert jobs.claim("w").id == b  # type: ignore[union-attr]
    assert jobs.claim("w") is None
    assert jobs.resume(a).state == "queued" and jobs.claim("w").id == a  # type: ignore[union-attr]
    assert jobs.pause(a).state == "running" and jobs.asked(a) == "pause"
    jobs.resume(a)
    assert jobs.asked(a) == ""
    jobs.cancel(a)
    jobs.pause(a)
    assert jobs.asked(a) == "cancel"


@pytest.mark.parametrize("state", ["queued", "paused", "running", "stopped", "done", "failed"])
def test_cancel_in_every_state(jobs: Jobs, state: str) -> None:
    run, other = jobs.enqueue(bench.ask()), jobs.enqueue(bench.ask())
    if state == "paused":
        jobs.pause(run.id)
    elif state != "queued":
        jobs.claim("w")
        if state != "running":
            jobs.over(run.id, "w", state)  # type: ignore[arg-type]
    after = jobs.cancel(run.id)
    assert after.state == ("stopped" if state in ("queued", "paused") else state)
    assert jobs.asked(run.id) == ("cancel" if state == "running" else "")
    assert jobs.runs.get(other.id).state == "queued" and jobs.asked(other.id) == ""
    assert jobs.cancel(run.id) == after
    with pytest.raises(Missing):
        jobs.cancel("0" * 12)


def test_what_may_be_resumed_and_tried_again(jobs: Jobs) -> None:
    run = jobs.enqueue(bench.ask())
    with pytest.raises(Conflict):
        jobs.retry(run.id)
    jobs.cancel(run.id)
    assert jobs.resume(run.id).state == "queued"
    jobs.claim("w")
    jobs.over(run.id, "w", "failed", "it broke")
    assert jobs.runs.get(run.id).error == "it broke"
    with pytest.raises(Conflict):
        jobs.resume(run.id)
    with pytest.raises(Conflict):
        jobs.pause(run.id)
    left = jobs.folder.run(run.id) / "trace.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"half a recording")
    again = jobs.retry(run.id)
    assert (again.state, again.error, again.steps_done, again.started) == ("queued", "", 0, None) and not left.exists()
    jobs.claim("w")
    jobs.over(run.id, "w", "done")
    for change in (jobs.resume, jobs.retry, jobs.pause):
        with pytest.raises(Conflict):
            change(run.id)


def test_a_lease_that_runs_out_is_anothers(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE", 0.2)
    run = jobs.enqueue(bench.ask())
    assert jobs.claim("first").id == run.id  # type: ignore[union-attr]
    for _ in range(4):  # as long as it is renewed it is held
        time.sleep(0.1)
        assert jobs.renew(run.id, "first") and jobs.claim("second") is None
    assert not jobs.renew(run.id, "second")
    time.sleep(0.25)
    assert jobs.claim("second").id == run.id  # type: ignore[union-attr]
    # Whoever comes back from the dead changes nothing.
    assert not jobs.renew(run.id, "first") and not jobs.stepped(run.id, "first", 3, 1.0, {"k": 1})
    assert not jobs.over(run.id, "first", "failed", "late")
    found = jobs.runs.get(run.id)
    assert (found.state, found.steps_done, found.error) == ("running", 0, "")


@pytest.mark.parametrize("asked, state", [("", "queued"), ("cancel", "stopped"), ("pause", "paused"), ("delete", "stopped")])
def test_what_was_asked_of_a_worker_that_died_is_done(jobs: Jobs, asked: str, state: str) -> None:
    run = jobs.enqueue(bench.ask())
    present(jobs, "w", run.id)
    jobs.claim("w")
    if asked:
        {"cancel": jobs.cancel, "pause": jobs.pause, "delete": jobs.runs.delete}[asked](run.id)
    jobs.absent("w")
    assert jobs.workers() == []
    assert jobs.runs.row(run.id, deleted=True)["state"] == state
    if asked == "delete":
        assert jobs.claim("w") is None


def test_a_job_that_kills_every_worker_fails_and_one_that_moves_on_does_not(jobs: Jobs) -> None:
    run = jobs.enqueue(bench.ask())
    for step in range(2 * module.DEATHS):
        assert jobs.claim("w") is not None
        jobs.stepped(run.id, "w", step + 1, 1.0, {"k": step})
        jobs.sweep("w")
    assert jobs.died(run.id)
    for _ in range(module.DEATHS - 1):
        assert jobs.claim("w") is not None
        jobs.sweep("w")
    found = jobs.runs.get(run.id)
    assert found.state == "failed" and "workers died" in found.error and jobs.claim("w") is None
    jobs.retry(run.id)
    for _ in range(module.FALLS):  # nor may one go on for ever that kills them all at its last step
        assert jobs.claim("w") is not None
        jobs.stepped(run.id, "w", 6, 1.0, {"k": 5})
        jobs.sweep("w")
    assert jobs.claim("w") is None and jobs.runs.get(run.id).state == "failed"


def test_the_time_left_is_that_of_the_steps_before_it(jobs: Jobs) -> None:
    assert jobs.enqueue(bench.ask()).eta is None  # nothing was measured yet
    first = jobs.claim("w")
    assert first is not None
    request = bench.ask().request.resolve(load(jobs.folder.model("tiny")))
    assert jobs.began(first.id, "w", request, [(1.0, 0.0, 1.0)], 6)
    finish(jobs, first, "w", ms=500.0)
    a, b, c = (jobs.enqueue(bench.ask(steps=4, **more)) for more in ({}, {}, {"count": 6, "micro_batch": 2}))
    assert jobs.eta(a.id) == pytest.approx(2.0) and jobs.eta(b.id) == pytest.approx(4.0)
    assert c.steps == 12 and jobs.eta(c.id) == pytest.approx(
        4.0 + 12 * 2 * 0.5
    )  # by the pixels of a micro-batch, from the nearest
    jobs.claim("w")
    jobs.stepped(a.id, "w", 1, 1000.0, {"k": 0})
    assert jobs.eta(a.id) == pytest.approx(3.0) and jobs.position(b.id) == 1 and jobs.eta(b.id) == pytest.approx(5.0)
    for name in ("w", "v"):
        present(jobs, name)
    assert jobs.eta(b.id) == pytest.approx(2.0) and jobs.eta(c.id) == pytest.approx(2.0 + 12.0)
    jobs.pause_all()
    assert jobs.eta(b.id) is None and jobs.position(b.id) == 1


def test_everything_that_changes_is_told(jobs: Jobs) -> None:
    run = jobs.enqueue(bench.ask())
    jobs.claim("w")
    jobs.stepped(run.id, "w", 1, 5.0, {"run": run.id, "k": 0})
    jobs.over(run.id, "w", "stopped")
    jobs.resume(run.id)
    jobs.pause_all()
    jobs.runs.delete(run.id)
    told = [event.kind for event in jobs.events.since(0)]
    assert told == ["run", "queue", "queue", "run", "step", "run", "queue", "run", "queue", "queue", "gone"]
    states = [event.data.split('"state":"')[1].split('"')[0] for event in jobs.events.since(0) if event.kind == "run"]
    assert states == ["queued", "running", "stopped", "queued"]


def test_what_cannot_be_run_is_refused_at_once(jobs: Jobs) -> None:
    with pytest.raises(Missing, match="did you mean 'tiny'"):
        jobs.enqueue(bench.ask(model="tinny"))
    with pytest.raises(Missing, match="send it first"):
        jobs.enqueue(bench.ask(task={"kind": "image", "picture": "sha256:" + "0" * 32}))
    with pytest.raises(Missing, match="no run"):
        jobs.enqueue(Ask(model="tiny", request=bench.ask().request, parent="0" * 12))
    for fields in (
        {"mix": {"kind": "autoguidance", "weak": "../../weak"}},
        {"prompt": [""], "task": {"kind": "mix", "expression": '"a"', "joint": "/etc/passwd"}},
        {"bends": [{"kind": "classifier", "classifier": "../x", "scale": 1}]},
    ):
        with pytest.raises(Missing, match="no model"):
            jobs.enqueue(bench.ask(**fields))
    assert jobs.list() == []


def recorded(jobs: Jobs, exact: bool = True, **fields: object) -> Run:
    """A run with a recording of six steps, as a worker leaves it."""
    run = jobs.enqueue(bench.ask(**fields))
    jobs.claim("w")
    recorder = Recorder(exact=exact)
    for event in generate(load(jobs.folder.model("tiny")), bench.ask(**fields).request):
        recorder.see(event)
    recorder.save(jobs.folder.run(run.id) / "trace.safetensors")
    jobs.over(run.id, "w", "done")
    return jobs.runs.get(run.id)


def test_a_fork_asks_for_what_is_left_and_keeps_its_parents_recording(jobs: Jobs) -> None:
    parent = recorded(jobs, count=3, index=4)
    fork = jobs.fork(parent.id, 2, {"mix": {"scale": 9.5}, "prompt": ["bag"], "index": 5, "count": 1}, noise=0.25)
    assert (fork.kind, fork.relation, fork.parent, fork.fork_step, fork.noise) == ("fork", "fork", parent.id, 2, 0.25)
    assert fork.request["mix"]["scale"] == 9.5 and fork.request["mix"]["kind"] == "cfg" and fork.request["steps"] == 6
    assert fork.steps_done == 2 and fork.prompt == "bag"
    jobs.runs.delete(parent.id)
    jobs.runs.purge(after=-1)
    assert (jobs.folder.run(fork.id) / FROM).is_file()


@pytest.mark.parametrize(
    "step, changes, noise, message",
    [
        (6, {}, 0.0, "nothing is left"),
        (7, {}, 0.0, "recorded steps 0..5"),
        (-1, {}, 0.0, "recorded steps"),
        (2, {"steps": 3}, 0.0, "steps: a fork goes on with the recorded one"),
        (2, {"size": [16, 16]}, 0.0, "size"),
        (2, {"task": {"kind": "vary"}}, 0.0, "task"),
        (2, {"count": 4}, 0.0, "holds pictures 0..1 at step 2, not 0..3"),
        (2, {"mix": {"scael": 3}}, 0.0, "did you mean 'scale'"),
        (2, {}, 1.5, "no part of the noise"),
        (2, {}, float("nan"), "no part of the noise"),
    ],
)
def test_what_cannot_be_forked_is_said_in_one_line(
    jobs: Jobs, step: int, changes: dict[str, object], noise: float, message: str
) -> None:
    parent = recorded(jobs, count=2)
    with pytest.raises(SpecError, match=message) as error:
        jobs.fork(parent.id, step, changes, noise=noise)
    assert "\n" not in str(error.value)


def test_previews_are_not_forked(jobs: Jobs) -> None:
    with pytest.raises(SpecError, match="record it 'exact'"):
        jobs.fork(recorded(jobs, exact=False).id, 2, {})
    with pytest.raises(Missing, match="no recording"):
        jobs.fork(jobs.enqueue(bench.ask()).id, 0, {})


def test_attention_is_asked_for_once(jobs: Jobs) -> None:
    parent = recorded(jobs)
    first = jobs.attention(parent.id)
    assert (first.kind, first.parent, first.state) == ("attention", parent.id, "queued")
    assert jobs.attention(parent.id).id == first.id
    assert [run.id for run in jobs.runs.find()] == [parent.id]


def test_models_are_wished_for(jobs: Jobs) -> None:
    present(jobs, "w")
    jobs.load("tiny")
    assert [(m.name, m.state) for m in jobs.models()] == [("tiny", "loading")]
    found = jobs.wish("w")
    assert found is not None and found[1] == ("tiny", True)
    jobs.present(jobs.workers()[0], {"tiny": 5})
    jobs.granted(found[0])
    assert [(m.name, m.state, m.bytes) for m in jobs.models()] == [("tiny", "loaded", 5)] and jobs.wish("w") is None
    jobs.unload("tiny")
    assert [m.state for m in jobs.models()] == ["unloading"]
    with pytest.raises(Missing):
        jobs.load("../tiny")
