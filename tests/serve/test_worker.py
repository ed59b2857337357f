"""The worker: what it makes is what `generate` makes, whatever happens to it on the way."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from safelight import picture
from safelight.assets import seal
from safelight.between import slerp
from safelight.draw.pixels import to_bytes
from safelight.generate import Finished, generate
from safelight.model import load, save
from safelight.noise import Noise
from safelight.serve import worker as module
from safelight.serve.folder import Folder
from safelight.serve.jobs import Jobs
from safelight.serve.runs import FROM, Prune, Run
from safelight.serve.worker import Desk, Models, Shelf
from safelight.spec import SpecError
from safelight.trace import Trace
from tests import small
from tests.serve import bench


@pytest.fixture
def jobs(folder: Folder) -> Jobs:
    return Jobs(folder)


@pytest.fixture
def desk(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """One that tells each step by itself, so that something can be done between two of them."""
    monkeypatch.setattr(module, "_TOGETHER", 0.0)
    return Desk(folder, "cpu")


def at_step(desk: Desk, run: Run, count: int, then: Callable[[], object]) -> None:
    """Do something in the middle of a run, when so many of its steps are done (those of what a task prepares, too)."""
    seen, told = 0, desk.jobs.stepped

    def stepped(id: str, *args: Any) -> bool:
        nonlocal seen
        after = told(id, *args)
        seen += id == run.id
        if seen == count and id == run.id:
            then()
        return after

    desk.jobs.stepped = stepped  # type: ignore[method-assign]


def same(a: Trace, b: Trace) -> None:
    """Two recordings are the same but for the milliseconds."""
    assert a.names == b.names
    for name in a.names:
        assert torch.equal(a.tensor(name), b.tensor(name)), name
    assert {**a.about, "milliseconds": list(a.about["milliseconds"])} == {
        **b.about,
        "milliseconds": list(b.about["milliseconds"]),
    }


# ---- a run -------------------------------------------------------------------------------------------------------------------


def test_a_run_is_what_the_command_line_makes_and_tells_of_itself(jobs: Jobs, desk: Desk) -> None:
    asked = bench.ask(prompt=["shoe", "bag"], count=2, seed=7)
    run = jobs.enqueue(asked)
    assert desk.once() and not desk.once()
    done = jobs.runs.get(run.id)
    assert (done.state, done.steps_done, done.steps, done.error) == ("done", 6, 6, "")
    assert bench.files(jobs, run) == bench.plain(desk.folder, prompt=["shoe", "bag"], count=2, seed=7)
    assert [p.seal for p in done.pictures] == [seal(picture.read(jobs.runs.picture(run.id, k))[0]) for k in range(4)]
    assert done.fingerprint == desk.models.get("tiny").fingerprint and done.request["sampler"]["kind"] == "ddim"
    assert done.levels is not None and len(done.levels) == 7 and done.levels[0][1] < 0.01
    assert done.ms_per_step is not None and done.ms_per_step > 0 and done.bytes == desk.folder.size("runs", run.id)
    trace = Trace.open(jobs.runs.trace(run.id))
    assert len(trace.steps) == 6 and trace.branches == ["cond", "null"] and len(trace.pictures) == 4
    assert "resume" not in trace.about and list(trace.prompts) == ["shoe", "shoe", "bag", "bag"]
    assert [r["state"] for r in bench.events(jobs, run, "run")][0::1][-1] == "done"
    # The next one of its kind is known to take about as long.
    assert jobs.enqueue(asked).eta == pytest.approx(6 * done.ms_per_step / 1000)


def test_steps_are_told_with_what_the_network_saw_and_believed(jobs: Jobs, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOKING", 1e9)
    run = jobs.enqueue(bench.ask(count=3, micro_batch=2))
    desk.once()
    told, trace = bench.events(jobs, run, "step"), Trace.open(jobs.runs.trace(run.id))
    assert [(e["k"], e["n"], e["part"], e["pictures"]) for e in told] == [
        (k, 6, part, pictures) for part, pictures in ((0, [0, 1]), (1, [2])) for k in range(6)
    ]
    assert [e["t"] for e in told[:6]] == [moment.t for moment in trace.steps]
    assert told[0]["eta"] > told[-1]["eta"] == 0 and all(e["ms"] > 0 and not e["aside"] for e in told)

    def shown(text: str) -> Tensor:
        return torch.tensor(list(Image.open(io.BytesIO(base64.b64decode(text))).convert("L").tobytes()))

    for event, row in ((told[3], 0), (told[9], 2)):
        level = trace.levels[event["k"]]
        x = trace.x(event["k"])[row] / float(torch.hypot(level.alpha, level.sigma))
        for name, lens in (("x", x), ("x0", trace.x0(event["k"])[row])):
            wanted = torch.from_numpy(to_bytes(lens[None])[0, :, :, 0].copy()).flatten()
            assert torch.equal(shown(event["frames"][name][0]), wanted), name


def test_looking_takes_no_more_than_its_share(jobs: Jobs, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOKING", 0.0)
    run = jobs.enqueue(bench.ask())
    desk.once()
    assert [sorted(e["frames"]) for e in bench.events(jobs, run, "step")] == [["x", "x0"]] + [["x0"]] * 5


@pytest.mark.parametrize("sampler", bench.SAMPLERS)
def test_being_watched_changes_nothing(tmp_path: Path, sampler: str) -> None:
    made = []
    for frames, record in ((True, "branches"), (False, "branches"), (False, "preview")):
        folder = bench.folder(tmp_path / f"{frames} {record}")
        jobs, random_state = Jobs(folder), torch.get_rng_state()
        run = jobs.enqueue(bench.ask(record=record, sampler=sampler, count=2))
        Desk(folder, "cpu", frames=frames).once()
        assert all(bool(e["frames"]) == frames for e in bench.events(jobs, run, "step"))
        made.append(bench.files(jobs, run))
        assert torch.equal(torch.get_rng_state(), random_state)
    assert made[0] == made[1] == made[2] == bench.plain(folder, sampler=sampler, count=2)


# ---- stopped and gone on with ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["branches", "exact", "preview"])
@pytest.mark.parametrize("sampler", bench.SAMPLERS)
def test_a_stopped_run_goes_on_to_the_same_picture_and_recording(jobs: Jobs, desk: Desk, sampler: str, record: str) -> None:
    fields: dict[str, Any] = {"sampler": sampler, "count": 3, "micro_batch": 2, "seed": 11}
    straight = jobs.enqueue(bench.ask(record=record, **fields))
    desk.once()
    for step in (5, 6, 11):
        run = jobs.enqueue(bench.ask(record=record, **fields))
        at_step(desk, run, step, lambda run=run: jobs.cancel(run.id))  # type: ignore[misc]
        desk.once()
        left = jobs.runs.get(run.id)
        assert (left.state, left.steps_done, left.steps) == ("stopped", step, 12)
        partial = Trace.open(jobs.runs.trace(run.id))  # what there is can be looked at
        assert len(partial.steps) == min(step, 6) and partial.x0(0).isfinite().all()
        before = len(bench.events(jobs, run, "step"))
        assert jobs.resume(run.id).state == "queued"
        desk.once()
        assert jobs.runs.get(run.id).state == "done"
        assert len(bench.events(jobs, run, "step")) - before == 12 - step  # no step was made twice
        assert bench.files(jobs, run) == bench.files(jobs, straight)
        same(Trace.open(jobs.runs.trace(run.id)), Trace.open(jobs.runs.trace(straight.id)))
    assert bench.files(jobs, straight) == bench.plain(desk.folder, **fields)


def test_a_run_can_be_stopped_again_and_again(jobs: Jobs, desk: Desk) -> None:
    run = jobs.enqueue(bench.ask(sampler="dpm++2m", steps=9))
    for _ in range(8):
        at_step(desk, run, 1, lambda: jobs.pause(run.id))
        desk.once()
        assert jobs.runs.get(run.id).state == "paused"
        jobs.resume(run.id)
    desk.jobs = Jobs(desk.folder)
    desk.once()
    assert bench.files(jobs, run) == bench.plain(desk.folder, sampler="dpm++2m", steps=9)


@pytest.mark.parametrize("step", [2, 7, 8, 11, 16, 17])
def test_a_task_of_two_stages_is_two_recordings_and_goes_on_too(jobs: Jobs, desk: Desk, step: int) -> None:
    fields: dict[str, Any] = {"task": "twice", "sampler": "ddpm", "count": 2, "micro_batch": 1}
    straight, run = jobs.enqueue(bench.ask(**fields)), jobs.enqueue(bench.ask(**fields))
    desk.once()
    assert jobs.runs.get(straight.id).steps_done == jobs.runs.get(straight.id).steps_done == 18
    at_step(desk, run, step, lambda: jobs.cancel(run.id))
    desk.once()
    assert jobs.runs.get(run.id).state == "stopped"
    jobs.resume(run.id)
    desk.once()
    assert bench.files(jobs, run) == bench.files(jobs, straight) == bench.plain(desk.folder, **fields)
    for stage in (0, 1):
        same(*(Trace.open(jobs.runs.trace(r.id, stage)) for r in (run, straight)))
    with pytest.raises(SpecError, match="several stages"):
        jobs.fork(run.id, 1, {})


def test_what_a_task_prepares_is_told_and_can_be_stopped(jobs: Jobs, desk: Desk) -> None:
    given = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    name = desk.folder.keep(given)
    fields: dict[str, Any] = {"task": {"kind": "invert", "picture": name, "refine": 2}, "seed": 1}
    wanted = bench.plain(desk.folder, parents=[(given, None)], **fields)
    for step in (2, 9):
        run = jobs.enqueue(bench.ask(**fields))
        at_step(desk, run, step, lambda run=run: jobs.cancel(run.id))  # type: ignore[misc]
        desk.once()
        jobs.resume(run.id)
        desk.once()
        assert jobs.runs.get(run.id).error == "" and bench.files(jobs, run) == wanted
        told = bench.events(jobs, run, "step")
        assert [e["aside"] for e in told[:7]] == ([True] * 6 + [False] if step == 9 else [True] * 7)
        assert (jobs.runs.get(run.id).kind, picture.note(jobs.runs.picture(run.id, 0)).inputs) == ("edit", (name,))  # type: ignore[union-attr]


def test_a_run_without_a_step_has_a_picture_and_no_recording(jobs: Jobs, desk: Desk) -> None:
    given = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    run = jobs.enqueue(bench.ask(task={"kind": "image", "picture": desk.folder.keep(given), "strength": 0}))
    desk.once()
    assert torch.equal(picture.read(jobs.runs.picture(run.id, 0))[0], given)
    with pytest.raises(SpecError, match="no recording"):
        jobs.runs.trace(run.id)


def test_retry_begins_anew(jobs: Jobs, desk: Desk) -> None:
    run = jobs.enqueue(bench.ask())
    at_step(desk, run, 3, lambda: jobs.cancel(run.id))
    desk.once()
    jobs.retry(run.id)
    desk.once()
    assert len(bench.events(jobs, run, "step")) == 3 + 6 and bench.files(jobs, run) == bench.plain(desk.folder)


# ---- forks -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", bench.SAMPLERS)
def test_a_fork_with_nothing_changed_is_the_same_picture(jobs: Jobs, desk: Desk, sampler: str) -> None:
    parent = jobs.enqueue(bench.ask(sampler=sampler, count=2))
    desk.once()
    for step in (0, 3, 5):
        fork = jobs.fork(parent.id, step, {})
        desk.once()
        done = jobs.runs.get(fork.id)
        assert (done.state, done.error, done.steps_done) == ("done", "", 6) and len(
            bench.events(jobs, fork, "step")
        ) == 6 - step
        assert [p.seal for p in done.pictures] == [p.seal for p in jobs.runs.get(parent.id).pictures]
        # It has its parent's steps too, so that it can be looked at from the beginning, and forked from there.
        a, b = (Trace.open(jobs.runs.trace(r.id)) for r in (fork, parent))
        assert a.names == b.names and all(torch.equal(a.tensor(n), b.tensor(n)) for n in a.names)
        note = picture.note(jobs.runs.picture(fork.id, 1))
        assert note is not None and note.engine["fork_step"] == step
        assert [ancestor.seal for ancestor in note.lineage] == [done.pictures[1].seal]
        assert not (desk.folder.run(fork.id) / FROM).exists()


def test_a_fork_of_one_picture_with_another_guidance_is_that_of_the_library(jobs: Jobs, desk: Desk) -> None:
    parent = jobs.enqueue(bench.ask(sampler="dpm++2m", count=3))
    desk.once()
    fork = jobs.fork(parent.id, 2, {"mix": {"scale": 9.0}, "index": 1, "count": 1})
    at_step(desk, fork, 2, lambda: jobs.cancel(fork.id))  # it can be stopped, and forked itself, like any run
    desk.once()
    again = jobs.fork(fork.id, 1, {"prompt": ["bag"]})
    jobs.resume(fork.id)
    desk.once()
    desk.once()
    model, trace = load(desk.folder.model("tiny")), Trace.open(jobs.runs.trace(parent.id))
    asked = bench.ask(sampler="dpm++2m", count=1, index=1, mix={"kind": "cfg", "scale": 9.0, "rescale": 0}).request
    made = [e.pictures for e in generate(model, asked, recorded=trace, first=2) if isinstance(e, Finished)]
    wanted = torch.from_numpy(to_bytes(made[0])[0].transpose(2, 0, 1).copy())
    assert torch.equal(picture.read(jobs.runs.picture(fork.id, 0))[0], wanted)
    assert jobs.runs.get(again.id).state == "done" and len(Trace.open(jobs.runs.trace(again.id)).steps) == 6
    assert {(n.id, n.parent) for n in jobs.runs.tree(parent.id)} == {
        (parent.id, None),
        (fork.id, parent.id),
        (again.id, fork.id),
    }


def test_fresh_noise_turns_a_fork_as_far_as_it_is_asked(jobs: Jobs, desk: Desk) -> None:
    parent = jobs.enqueue(bench.ask())
    desk.once()
    trace, apart = Trace.open(jobs.runs.trace(parent.id)), []
    for noise in (0.1, 0.5, 1.0):
        fork = jobs.fork(parent.id, 2, {}, noise=noise)
        desk.once()
        x = Trace.open(jobs.runs.trace(fork.id)).x(2)
        level, x0 = trace.levels[2], trace.x0(2)
        rest = (x - float(level.alpha) * x0) / float(level.sigma)
        before = (trace.x(2) - float(level.alpha) * x0) / float(level.sigma)
        apart.append(float(1 - torch.nn.functional.cosine_similarity(rest.flatten(), before.flatten(), 0)))
        fresh = Noise(0, [0]).normal("fork", level, None, x)
        assert torch.allclose(rest, slerp(before, fresh, [noise]), atol=1e-4)
    assert 0 < apart[0] < apart[1] < apart[2]
    assert torch.allclose(rest, fresh, atol=1e-4)


# ---- what goes wrong ---------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_run_is_its_error_in_one_line(jobs: Jobs, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = jobs.enqueue(bench.ask(prompt=["no such class"]))
    fine = jobs.enqueue(bench.ask())
    desk.once()
    desk.once()
    found = jobs.runs.get(unknown.id)
    assert found.state == "failed" and "no such class" in found.error and "\n" not in found.error
    assert jobs.runs.get(fine.id).state == "done"

    def broken(*_: object, **__: object) -> Iterator[object]:
        raise MemoryError("all\nof it")

    monkeypatch.setattr(module, "generate", broken)
    run = jobs.enqueue(bench.ask())
    desk.once()
    assert (jobs.runs.get(run.id).state, jobs.runs.get(run.id).error) == ("failed", "MemoryError: all of it")


def test_pictures_of_nothing_fail_and_leave_no_file(folder: Folder) -> None:
    broken = small.model()
    with torch.no_grad():
        next(broken.denoiser.parameters()).fill_(float("nan"))
    save(folder.path / "models" / "broken.safetensors", broken)
    jobs = Jobs(folder)
    run = jobs.enqueue(bench.ask(model="broken"))
    Desk(folder, "cpu").once()
    found = jobs.runs.get(run.id)
    assert found.state == "failed" and "non-finite" in found.error and found.pictures == ()
    assert not list(folder.run(run.id).glob("*.png"))


def test_another_model_under_the_same_name_is_not_used_in_silence(jobs: Jobs, desk: Desk) -> None:
    run = jobs.enqueue(bench.ask())
    save(desk.folder.path / "models" / "tiny.safetensors", small.model(seed=5))
    desk.once()
    assert "another one than when this was asked for" in jobs.runs.get(run.id).error


def test_who_lost_the_lease_leaves_the_run_alone(jobs: Jobs, desk: Desk) -> None:
    run = jobs.enqueue(bench.ask())

    def lose() -> None:
        desk.folder.db.execute("UPDATE runs SET worker = 'another' WHERE id = ?", (run.id,))

    at_step(desk, run, 2, lose)
    desk.once()
    found = jobs.runs.get(run.id)
    assert (found.state, found.pictures) == ("running", ()) and not (desk.folder.run(run.id) / "trace.safetensors").exists()


# ---- models ------------------------------------------------------------------------------------------------------------------


def test_models_stay_within_their_budget(folder: Folder) -> None:
    for name in ("a", "b", "c"):
        save(folder.path / "models" / f"{name}.safetensors", small.model())
    one = sum(p.numel() * 4 for p in small.model().state_dict().values())
    models = Models(folder, torch.device("cpu"), budget=2 * one + 100)
    a = models.get("a")
    models.get("b")
    assert models.get("a") is a and list(models.sizes()) == ["b", "a"] and models.sizes()["a"] == one
    models.get("c")  # b was not used the longest
    assert list(models.sizes()) == ["a", "c"] and models.get("a") is a
    save(folder.path / "models" / "a.safetensors", small.model(seed=1))
    assert models.get("a") is not a and models.get("a").fingerprint != a.fingerprint
    models.drop("a")
    assert list(models.sizes()) == ["c"]
    tight = Models(folder, torch.device("cpu"), budget=1)  # one is always possible
    tight.get("a")
    tight.get("b")
    assert list(tight.sizes()) == ["b"]


def test_no_request_reaches_a_file_by_its_path(folder: Folder, tmp_path: Path) -> None:
    save(tmp_path / "outside.safetensors", small.model())
    shelf = Shelf(Models(folder, torch.device("cpu")))
    for wrong in (str(tmp_path / "outside.safetensors"), "../outside", str(tmp_path / "outside.safetensors") + ":raw"):
        for door in (shelf.model, shelf.joint, shelf.classifier):
            with pytest.raises(SpecError, match="no model"):
                door(wrong)
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert torch.equal(shelf.picture(folder.keep(pixels)), pixels)


def test_wishes_for_models_are_fulfilled(jobs: Jobs, desk: Desk) -> None:
    desk.present()
    jobs.load("tiny")
    assert desk.once() and [(m.name, m.state) for m in jobs.models()] == [("tiny", "loaded")]
    jobs.unload("tiny")
    assert desk.once() and jobs.models() == []


# ---- attention ---------------------------------------------------------------------------------------------------------------


def test_attention_is_recorded_beside_the_run_and_changes_nothing(tmp_path: Path) -> None:
    from safelight.serve.attention import Heard

    folder = Folder(tmp_path)
    jobs, desk = Jobs(folder), Desk(folder, "cpu")
    run = jobs.enqueue(bench.ask(model="default", prompt=["a red apple"], steps=2))
    desk.once()
    assert jobs.runs.get(run.id).error == ""
    before = bench.files(jobs, run)
    heard = jobs.attention(run.id)
    desk.once()
    assert jobs.runs.get(heard.id).error == "" and jobs.runs.get(heard.id).state == "done"
    found = Heard.open(folder.run(run.id) / "attention.safetensors")
    assert found.identical and len(found.steps) == 2 and bench.files(jobs, run) == before


# ---- the log -----------------------------------------------------------------------------------------------------------------


def said(jobs: Jobs, run: Run) -> list[str]:
    return [line.text for line in jobs.runs.log(run.id)]


def test_a_run_says_what_happened_to_it(jobs: Jobs, desk: Desk) -> None:
    desk.present()
    run = jobs.enqueue(bench.ask(count=3, micro_batch=2, record="exact"))
    at_step(desk, run, 4, lambda: jobs.cancel(run.id))
    desk.once()
    jobs.resume(run.id)
    desk.once()
    lines = said(jobs, run)
    assert lines[0] == "asked for: 3 pictures of tiny, recorded as exact"
    assert re.fullmatch(r"claimed by process \d+ on cpu", lines[1]) and re.fullmatch(
        r"model tiny loaded in \d+\.\d\d s", lines[2]
    )
    assert lines[3:5] == ["stage 1, part 1 of 2: 6 steps of ddim at 8 x 8", "asked to stop at its next step"]
    assert re.fullmatch(r"stopped after 4 of 12 steps, \d+\.\d ms each", lines[5]) and lines[6] == "resumed"
    assert lines[8:11] == [
        "model tiny was at hand",
        "goes on from what was recorded: part 1 of 2, stage 1, step 4",
        "stage 1, part 1 of 2: 2 steps of ddim at 8 x 8",
    ]
    assert lines[-1].startswith("done after 12 of 12 steps") and len(lines) == 13
    times = [line.time for line in jobs.runs.log(run.id)]
    assert times == sorted(times)
    jobs.runs.delete(run.id)
    jobs.runs.purge(-1.0)
    assert jobs.folder.db.execute("SELECT count(*) FROM log").fetchone()[0] == 0


def test_a_fork_says_where_it_comes_from(jobs: Jobs, desk: Desk) -> None:
    parent = jobs.enqueue(bench.ask(record="exact"))
    desk.once()
    fork = jobs.fork(parent.id, 4, {})
    desk.once()
    assert f"goes on with run {parent.id} from step 4" in said(jobs, fork)
    assert "stage 1: 2 steps of ddim at 8 x 8" in said(jobs, fork)


def test_an_error_keeps_its_traceback_here_and_its_paths_to_itself(
    jobs: Jobs, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = jobs.enqueue(bench.ask())

    def broken(_: object, name: str) -> Any:
        raise OSError(2, "No such file", str(tmp_path / "elsewhere" / f"{name}.safetensors"))

    monkeypatch.setattr(Models, "get", broken)
    desk.once()
    found = jobs.runs.get(run.id)
    assert found.error == "FileNotFoundError: [Errno 2] No such file: 'tiny.safetensors'"
    assert said(jobs, run)[-1].startswith(f"failed: {found.error}; after 0 of 6 steps")
    kept = (jobs.folder.run(run.id) / "error.txt").read_text()
    assert kept.startswith("Traceback") and str(tmp_path / "elsewhere") in kept
    monkeypatch.undo()
    jobs.retry(run.id)
    desk.once()
    assert said(jobs, run)[-1].startswith("done") and "tried again, from its beginning" in said(jobs, run)
    assert not (jobs.folder.run(run.id) / "error.txt").exists()


def test_a_run_says_whether_it_is_recorded(jobs: Jobs, desk: Desk) -> None:
    run = jobs.enqueue(bench.ask())
    assert not jobs.runs.get(run.id).recorded
    desk.once()
    assert jobs.runs.get(run.id).recorded and bench.events(jobs, run, "run")[-1]["recorded"]
    jobs.runs.prune(Prune(days=None, bytes=0))
    assert not jobs.runs.get(run.id).recorded and not bench.events(jobs, run, "run")[-1]["recorded"]


def test_without_the_model_as_it_was_nothing_can_be_looked_at(jobs: Jobs, desk: Desk) -> None:
    run = jobs.enqueue(bench.ask())
    desk.once()
    file = jobs.folder.model("tiny")
    data = file.read_bytes()
    file.unlink()
    assert not jobs.runs.get(run.id).recorded
    save(file, small.model(False))
    assert not jobs.runs.get(run.id).recorded
    file.write_bytes(data)
    assert jobs.runs.get(run.id).recorded
