"""`safelight train` as a person uses it: whole runs of a tiny model, in this process."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safelight.cli import train as verb
from safelight.cli.main import main
from safelight.cli.overrides import read
from safelight.train import Every
from safelight.train.journal import Journal
from tests.train import victim
from tests.train.test_run import alike


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A YAML file of a run of 12 steps on a folder of pictures."""
    import numpy as np

    rng = np.random.default_rng(0)
    for k in range(48):
        home = tmp_path / "pictures" / "abc"[k % 3]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(home / f"{k:02d}.png")
    path = tmp_path / "tiny.yaml"
    recipe = victim.recipe(tmp_path / "pictures", every=Every(log=4, held_out=6, sample=6, save=6))
    verb.keep(str(path), recipe)
    assert verb.resolve(_parsed([str(path)]))[0] == recipe  # what is kept is what comes back
    return path


def _parsed(argv: list[str]) -> Any:
    import argparse

    parser = argparse.ArgumentParser()
    verb.add(parser)
    return parser.parse_args(argv)


def test_a_whole_run(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out), "--device", "cpu", "--set", "model.defaults.steps=2"]) == 0
    said = capsys.readouterr()
    assert "12 steps of 4" in said.out and f"safelight sample {out}" in said.out
    assert "step 12/12" in said.err and "held-out" in said.err
    assert [r["step"] for r in Journal(out / "metrics.jsonl").read()] == [4, 6, 8, 12]
    for step in (6, 12):
        with Image.open(out / "samples" / f"step-{step:08d}.png") as picture:
            assert picture.size[0] > 8
    assert main(["train", str(config), "--out", str(out)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_interrupted_it_saves_and_says_how_to_go_on(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT at step 5: that step is finished and saved, exit 130; the resumed run ends as one never interrupted."""
    show = verb._show

    def interrupting(progress: Any, task: Any, report: Any) -> None:
        show(progress, task, report)
        if report.step == 5:
            signal.raise_signal(signal.SIGINT)

    quick = ["--device", "cpu", "--set", "model.defaults.steps=2"]
    out, plain = tmp_path / "run", tmp_path / "plain"
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    with monkeypatch.context() as patch:
        patch.setattr(verb, "_show", interrupting)
        assert main(["train", str(config), "--out", str(out), *quick]) == 130
    said = capsys.readouterr().out
    assert "stopped after step 5 of 12" in said and f"safelight train --resume --out {out}" in said
    assert (out / "checkpoints" / "LATEST").read_text().strip() == "step-00000005"
    assert main(["train", "--resume", "--out", str(out), "--device", "cpu"]) == 0
    assert main(["train", str(config), "--out", str(plain), *quick]) == 0
    alike(out, plain)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_dry_run_writes_nothing(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, kept = tmp_path / "run", tmp_path / "kept.yaml"
    argv = ["train", str(config), "--out", str(out), "--dry-run", "--save-config", str(kept), "--set", "plan.optimizer.lr=2e-4"]
    assert main(argv) == 0
    assert not out.exists() and read(kept)["plan"]["optimizer"]["lr"] == 2e-4
    assert "12 steps of 4" in capsys.readouterr().out


def test_one_length_replaces_the_other(config: Path) -> None:
    recipe, out = verb.resolve(_parsed([str(config), "--set", "plan.epochs=2"]))
    assert recipe.plan.epochs == 2 and recipe.plan.steps is None and out == Path("runs/victim")


def test_other_data(config: Path, tmp_path: Path) -> None:
    """--data with another folder; and with a Fashion-MNIST recipe, whose held-out part then comes from those pictures."""
    recipe, _ = verb.resolve(_parsed([str(config), "--data", str(tmp_path / "pictures")]))
    assert recipe.data.kind == "folder" and recipe.held_out == 0.2
    recipe, _ = verb.resolve(_parsed(["fashion-mnist", "--data", str(tmp_path / "pictures")]))
    assert recipe.data.kind == "folder" and recipe.held_out_data is None and recipe.held_out == 0.05


@pytest.mark.parametrize(
    "argv, message",
    [
        (["fashion-mnits"], "no recipe 'fashion-mnits'; did you mean 'fashion-mnist'?"),
        ([], "name a recipe"),
        (["CONFIG", "--set", "plan.optimizer.rl=1"], "train.plan.optimizer: unknown field 'rl'; did you mean 'lr'?"),
        (["CONFIG", "--set", "plan.bacth=1"], "unknown field 'bacth'; did you mean 'batch'?"),
        (["CONFIG", "--set", "plan.batch=many"], "plan.batch"),
        (["CONFIG", "--set", "plan.batch=400"], "larger than the data"),
        (["CONFIG", "--data", "nowhere"], "nowhere"),
        (["CONFIG", "--device", "gpu9"], "device: no 'gpu9' here"),
        (["CONFIG", "--set", "objective.times={kind: uniform, entries: true}"], "times.entries"),
        (["missing.yaml"], "missing.yaml"),
        (["--resume", "--out", "nowhere"], "no run to resume"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], message: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(config) if a == "CONFIG" else a for a in argv]
    out = tmp_path / "run"
    assert main(["train", *argv, *([] if "--out" in argv else ["--out", str(out)])]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not out.exists()


def test_tensorboard_names_its_extra(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else find(name, *a))
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--tensorboard"]) == 2
    assert "pip install 'safelight[track]'" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_tensorboard_holds_what_the_journal_holds(config: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert (
        main(["train", str(config), "--out", str(out), "--device", "cpu", "--tensorboard", "--set", "model.defaults.steps=2"])
        == 0
    )
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    journal = {r["step"]: r for r in Journal(out / "metrics.jsonl").read()}
    logged = {e.step: e.value for e in events.Scalars("train/loss")}
    assert logged == pytest.approx({s: r["train/loss"] for s, r in journal.items() if "train/loss" in r}, rel=1e-6)
    assert [e.step for e in events.Scalars("val/loss")] == [6, 12]
    image = events.Images("samples")[0]
    assert image.width > 8 and image.encoded_image_string[:4] == b"\x89PNG"


def test_run_json_says_how_the_snr_ends(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table whose last level is not pure noise says so, on the screen and in run.json."""
    argv = [
        "train",
        str(config),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--set",
        "model.process={kind: linear, T: 200}",
    ]
    argv += ["--set", "model.defaults.steps=2", "--set", "plan.steps=1"]
    assert main(argv) == 0
    assert "x_T keeps 0.36 of the picture" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["terminal_snr"] == pytest.approx(0.1523, abs=1e-4)
