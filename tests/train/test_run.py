"""Runs in folders: killed at any moment they go on as if nothing had happened; a full disk and a wrong resume are told in one line."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import safelight
from safelight.spec import SpecError, describe
from safelight.train import Every, Run, Train, Unwritable, checkpoint, fit, recipe_of
from safelight.train.journal import Journal
from safelight.train.optim import AdamW
from tests import forks
from tests.train import tiny, victim


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 PNGs of 8x8 in three class folders."""
    home = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(48):
        image = rng.integers(0, 80, (8, 8), dtype=np.uint8)
        name = tiny.NAMES[k % 3]
        image[2 * (k % 3) : 2 * (k % 3) + 3, 2:6] = 220
        (home / name).mkdir(exist_ok=True)
        Image.fromarray(image).save(home / name / f"{k:02d}.png")
    return home


def spawn(*args: Any) -> Any:
    """A child at `victim.go`."""
    child = forks.context().Process(target=victim.go, args=args)
    child.start()
    return child


def finished(*args: Any) -> None:
    """Run to the end in a child."""
    child = spawn(*args)
    child.join(120)
    assert child.exitcode == 0


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, int, float]]:
    """Uninterrupted runs by accumulation, without workers: (folder, touches of files, seconds)."""
    found = {}
    for accumulation in (1, 3):
        out, tell = tmp_path_factory.mktemp("whole") / "run", forks.context().Queue()
        began = time.perf_counter()
        finished(str(folder), str(out), accumulation, 0, 0, tell)
        found[accumulation] = (out, tell.get(timeout=10), time.perf_counter() - began)
    return found


def lines(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the clock."""
    clock = ("time", "images_per_second", "data_wait")
    return [{k: v for k, v in record.items() if k not in clock} for record in Journal(out / "metrics.jsonl").read()]


def last(out: Path) -> Path:
    """The checkpoint that LATEST names."""
    return out / "checkpoints" / (out / "checkpoints" / "LATEST").read_text().strip()


def alike(a: Path, b: Path) -> None:
    """Assert that two runs ended the same: every tensor, every number, every logged line, bit for bit."""
    assert last(a).name == last(b).name == f"step-{victim.STEPS:08d}"
    for name in ("model.safetensors", "state.safetensors"):
        mine, theirs = load_file(last(a) / name), load_file(last(b) / name)
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert torch.equal(value, theirs[key]), key
    assert json.loads((last(a) / "state.json").read_text()) == json.loads((last(b) / "state.json").read_text())
    assert lines(a) == lines(b)


def sound(out: Path) -> None:
    """Assert that what a killed run left is either nothing or whole: LATEST names a checkpoint that verifies and loads."""
    latest = out / "checkpoints" / "LATEST"
    if latest.exists():
        assert checkpoint.damage(last(out)) == ""
        assert safelight.load(out).lineage["step"] <= victim.STEPS
    assert all(checkpoint.damage(p) == "" for p in (out / "checkpoints").glob("step-*"))


def kill_and_go_on(folder: Path, whole: tuple[Path, int, float], out: Path, accumulation: int, workers: int, seed: int) -> None:
    """Two deaths, one at a random touch of a file (most are in saves), one after a random time; then to the end."""
    chance = random.Random(seed)
    plain, touches, seconds = whole
    child = spawn(str(folder), str(out), accumulation, workers, chance.randint(1, touches))
    child.join(120)
    assert child.exitcode in (-signal.SIGKILL, 0)
    sound(out)
    child = spawn(str(folder), str(out), accumulation, workers)
    child.join(chance.uniform(0, seconds))
    child.kill()
    child.join(10)
    sound(out)
    finished(str(folder), str(out), accumulation, workers)
    alike(plain, out)
    assert not list((out / "checkpoints").glob(".*")), "leftovers of killed saves"


@pytest.mark.parametrize("accumulation, workers, seed", [(1, 0, 1), (3, 2, 2), (3, 0, 3)])
def test_killed_it_ends_bit_identical(
    folder: Path, whole: Any, tmp_path: Path, accumulation: int, workers: int, seed: int
) -> None:
    kill_and_go_on(folder, whole[accumulation], tmp_path / "run", accumulation, workers, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 15))
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_killed_twenty_times(folder: Path, whole: Any, tmp_path: Path, accumulation: int, workers: int, seed: int) -> None:
    kill_and_go_on(folder, whole[accumulation], tmp_path / "run", accumulation, workers, seed)


def test_killed_at_every_moment_of_a_save(folder: Path, whole: Any, tmp_path: Path) -> None:
    """From the run's first file to its last, at a dozen touches: what is there is sound, and LATEST never goes backwards."""
    steps = []
    for k in range(2, whole[1][1], max(1, whole[1][1] // 12)):
        out = tmp_path / f"run{k}"
        child = spawn(str(folder), str(out), 1, 0, k)
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        sound(out)
        latest = out / "checkpoints" / "LATEST"
        steps.append(int(latest.read_text().strip()[5:]) if latest.exists() else 0)
    assert steps == sorted(steps) and len(set(steps)) > 2


# In this process


def begun(folder: Path, out: Path, **fields: Any) -> Run:
    return fit(victim.recipe(folder, **fields), out, device="cpu")


def test_a_run_is_what_it_says(folder: Path, tmp_path: Path) -> None:
    run = begun(folder, tmp_path / "run")
    reports = list(run)
    assert len(reports) == victim.STEPS
    about = json.loads((run.out / "run.json").read_text())
    assert recipe_of(run.out) == run.recipe and about["seed"] == 0 and about["steps"] == victim.STEPS
    assert about["precision"] == {"asked": "auto", "effective": "fp32"}
    assert about["data"]["pictures"] + about["data"]["held_out"] == 48 and about["data"]["held_out"] > 0
    assert about["versions"]["torch"] == torch.__version__ and about["terminal_snr"] is None
    records = lines(run.out)
    assert [r["step"] for r in records] == [2, 4, 6, 8, 10, 12]
    assert {"train/loss", "lr", "grad_norm", "order", "seen", "epoch"} <= set(records[0])
    assert {"val/loss", "val/train", "val/gap", "val/trivial", "val/loss_t0"} <= set(records[1])
    # loadable as it is, raw and averages under their names
    for name in ("raw", "ema", "slow"):
        loaded = safelight.load(run.out, name)
        expected = run.state.snapshot(run.model, name)
        assert tiny.same(tiny.weights(loaded), tiny.weights(expected))
    assert tiny.same(tiny.weights(safelight.load(run.out)), tiny.weights(run.state.snapshot(run.model)))
    lineage = safelight.load(run.out).lineage
    assert lineage["images"] == 48 and str(folder) not in json.dumps(lineage)


def test_the_last_and_the_best_are_kept(folder: Path, tmp_path: Path) -> None:
    run = begun(folder, tmp_path / "run", every=Every(log=0, held_out=1, sample=0, save=1), keep=2)
    for report in run:
        # make step 5 the best there is
        if report.step == 4:
            run.state.history.append(run.state.history[-1]._replace(loss=99.0))
    kept = checkpoint.kept(run.out)
    best = min(run.state.history, key=lambda j: j.loss).step
    assert {k.step for k in kept} == {best, 11, 12}


def test_a_damaged_checkpoint_is_passed_over(folder: Path, tmp_path: Path) -> None:
    """A flipped byte in the newest: the one before is taken, the run says so, and ends as it would have."""
    run = begun(folder, tmp_path / "a")
    list(run)
    plain = begun(folder, tmp_path / "b")
    list(plain)
    newest = last(run.out) / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    again = fit(run.recipe, run.out, resume=True, device="cpu")
    assert again.state.step == 9
    assert again.notes == [
        "checkpoint step-00000012 is damaged (state.safetensors does not match its manifest); going on from step-00000009"
    ]
    list(again)
    alike(again.out, plain.out)


def test_a_half_written_one_is_never_taken(folder: Path, tmp_path: Path) -> None:
    run = begun(folder, tmp_path / "run")
    list(run)
    (run.out / "checkpoints" / "step-00000099").mkdir()
    (run.out / "checkpoints" / ".step-00000098.partial").mkdir()
    again = fit(run.recipe, run.out, resume=True, device="cpu")
    assert again.state.step == 12 and "manifest.json is missing" in again.notes[0]
    assert not (run.out / "checkpoints" / ".step-00000098.partial").exists()


def test_a_run_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    run = begun(folder, tmp_path / "run")
    next(iter(run))
    with pytest.raises(SpecError, match="holds a run already.*--resume"):
        begun(folder, tmp_path / "run")
    with pytest.raises(SpecError, match="no run to resume"):
        fit(run.recipe, tmp_path / "nothing", resume=True, device="cpu")


def test_two_processes_cannot_train_in_one_folder(folder: Path, tmp_path: Path) -> None:
    run = begun(folder, tmp_path / "run")
    going = iter(run)
    next(going)
    with pytest.raises(SpecError, match="another process is training here"):
        fit(run.recipe, run.out, resume=True, device="cpu")
    going.close()  # type: ignore[attr-defined]
    assert fit(run.recipe, run.out, resume=True, device="cpu").state.step == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"plan": {"seed": 1}}, r"plan\.seed: the run was begun with 0, not 1"),
        ({"plan": {"optimizer": describe(AdamW(lr=1e-4))}}, r"plan\.optimizer\.lr"),
        ({"objective": {"kind": "match", "drop": 0.3}}, r"objective\.drop"),
        ({"model": {"network": {**describe(tiny.network()), "widths": [8, 32]}}}, r"model\.network\.widths"),
    ],
)
def test_what_may_not_change_is_named(folder: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run = begun(folder, tmp_path / "run")
    next(iter(run))
    with pytest.raises(SpecError, match=message):
        fit(_changed(run.recipe, change), run.out, resume=True, device="cpu")


def test_what_may_change_does(folder: Path, tmp_path: Path) -> None:
    """Longer, with other cadences and another name; and the data elsewhere, as long as they are the same."""
    run = begun(folder, tmp_path / "run", every=Every(log=0, held_out=0, sample=0, save=3))
    list(run)
    moved = tmp_path / "moved"
    moved.symlink_to(folder)
    change = {"name": "longer", "plan": {"steps": 14, "every": {"save": 1}}, "data": {"path": str(moved)}, "workers": 1}
    again = fit(_changed(run.recipe, change), run.out, resume=True, device="cpu")
    assert [r.step for r in again] == [13, 14]
    assert recipe_of(run.out).plan.steps == 14
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for name in tiny.NAMES[:2]:
        (fewer / name).symlink_to(folder / name)
    with pytest.raises(SpecError, match="data are not those of the run"):
        fit(_changed(run.recipe, {"data": {"path": str(fewer)}}), run.out, resume=True, device="cpu")


def _changed(recipe: Train, change: dict[str, Any]) -> Train:
    def merged(a: Any, b: Any) -> Any:
        return {**a, **{k: merged(a.get(k), v) for k, v in b.items()}} if isinstance(a, dict) and isinstance(b, dict) else b

    return Train.model_validate(merged(describe(recipe), change))


def test_a_full_disk_leaves_the_checkpoint_before(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC while the second checkpoint is flushed: one line, the first one intact, nothing half-written, and room mends it."""
    run = begun(folder, tmp_path / "run")
    real, seen = os.fsync, []

    def full(handle: int) -> None:
        if "step-00000006" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unwritable, match="checkpoint of step 6 .* the disk is full; that of step 3 is intact; .*--resume"):  # noqa: PT012
        for report in run:
            seen.append(report.step)
    assert seen[-1] == 5 and last(run.out).name == "step-00000003"
    assert sorted(p.name for p in (run.out / "checkpoints").iterdir()) == ["LATEST", "step-00000003"]
    sound(run.out)
    monkeypatch.undo()
    again = fit(run.recipe, run.out, resume=True, device="cpu")
    list(again)
    plain = begun(folder, tmp_path / "plain")
    list(plain)
    alike(again.out, plain.out)


def _limited(data: str, out: str, limit: int, tell: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    torch.set_num_threads(1)
    try:
        for _ in fit(victim.recipe(Path(data)), out, device="cpu"):
            pass
    except SpecError as error:
        tell.put(str(error))


def test_a_disk_that_refuses_large_files(folder: Path, tmp_path: Path) -> None:
    """The system's own refusal (a limit on file sizes) in the middle of the weights: one line, and no checkpoint half-written."""
    tell = forks.context().Queue()
    child = forks.context().Process(target=_limited, args=(str(folder), str(tmp_path / "run"), 40_000, tell))
    child.start()
    message = tell.get(timeout=60)
    child.join(10)
    assert "checkpoint of step 3 could not be written" in message and "\n" not in message
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_the_journal_never_goes_backwards(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    for step in range(1, 6):
        journal.write({"step": step, "x": float("nan") if step == 2 else step / 3})
    with journal.path.open("a") as file:
        file.write('{"step": 6, "x"')  # torn by a kill
    journal.trim(4)
    assert [r["step"] for r in journal.read()] == [1, 2, 3, 4]
    assert journal.read()[1]["x"] is None and journal.read()[2]["x"] == 1.0


def test_wrong_recipes_write_nothing(folder: Path, tmp_path: Path) -> None:
    for fields, message in (
        ({"batch": 64}, "larger than the data"),
        ({"batch": 4, "accumulation": 50}, "larger than the data"),
    ):
        with pytest.raises(SpecError, match=message):
            begun(folder, tmp_path / "run", **fields)
    with pytest.raises(SpecError, match="exactly one of steps, epochs, images"):
        _parsed(victim.recipe(folder), {"plan": {"epochs": 3}})
    assert not (tmp_path / "run").exists()


def _parsed(recipe: Train, change: dict[str, Any]) -> Any:
    try:
        return _changed(recipe, change)
    except ValueError as error:
        raise SpecError(str(error)) from None


def test_a_nan_is_not_the_best(tmp_path: Path) -> None:
    for step, loss in ((1, float("nan")), (2, 0.5), (3, 0.7), (4, 0.9)):
        home = tmp_path / checkpoint.FOLDER / f"step-{step:08d}"
        home.mkdir(parents=True)
        (home / "manifest.json").write_text(json.dumps({"step": step, "held_out": loss, "files": {}}))
    checkpoint._retire(tmp_path, keep=1)
    assert [k.step for k in checkpoint.kept(tmp_path)] == [2, 4]
