"""`safelight tune-sampler`: what it writes is a sampler that every verb takes, and a stopped run goes on."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import safelight
from safelight import picture
from safelight.cli.main import main
from safelight.cli.overrides import read
from safelight.evaluate import tune
from safelight.sample.tuned import Tuned
from safelight.spec import parse

SMALL = ("--trajectories", 12, "--unseen", 6, "--reference", 12, "--fits", 2, "--iterations", 5, "--batch", 6)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a small run, of 3 and of 4 steps, and what was said."""
    out, said = tmp_path_factory.mktemp("tuned"), io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["tune-sampler", str(model), "--steps", "3,4", *map(str, SMALL), "--out", str(out)]) == 0
    return out, said.getvalue()


@pytest.fixture
def tuned(made: tuple[Path, str]) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(made[0], "t"))


def test_what_is_said(made: tuple[Path, str]) -> None:
    said = made[1]
    assert "12 trajectories of 12 steps, which differ by " in said
    assert "4 steps, error of 6 unseen pictures" in said and "greatest of the fits" in said
    assert "ddim, uniform (the model's)" in said and f"sampler  {made[0] / 'tuned-3.yaml'}" in said


def test_the_file_is_a_request_of_its_steps(cli: Callable[..., Any], model: Path, tuned: Path) -> None:
    """Sampler, grid, steps, guidance and fingerprint; the errors in result.json are those of the sampler in the file."""
    found = read(tuned / "tuned-3.yaml")
    assert list(found) == ["steps", "sampler", "grid", "mix"] and found["steps"] == 3
    sampler, loaded = parse(found["sampler"], "sampler"), safelight.load(model)
    assert isinstance(sampler, Tuned) and sampler.model == loaded.fingerprint and len(sampler.weights) == 3
    assert found["grid"] == {"kind": "optimised", "s": found["sampler"]["s"]}
    assert found["mix"]["scale"] == 2

    result = json.loads((tuned / "result.json").read_text())
    three = result["steps"]["3"]
    assert len(three["fits"]) == 2 and three["kept"] in (0, 1) and result["model"] == loaded.fingerprint
    asked = safelight.Request(seed=1, prompt=("bag",)).resolve(loaded)
    names = ["bag", "ankle boot", "dress"]
    case = tune.of_model(loaded, asked, names * 2, range(6))  # seed 1: the one that was not fitted to
    ends = torch.cat(list(tune.reference(case, 12)))
    grid = parse(found["grid"], "grid")
    errors = tune.errors(tune.solve(case, sampler, grid(loaded.process, 3)), ends)  # type: ignore[operator]
    assert float(errors.median()) == pytest.approx(three["fits"][three["kept"]]["median"], rel=1e-3)


def test_a_stopped_run_goes_on(cli: Callable[..., Any], model: Path, tuned: Path) -> None:
    """With a chunk of trajectories and a fit gone the rest is read again, and the same sampler comes out."""
    before = (tuned / "tuned-4.yaml").read_bytes()
    (work,) = tuned.glob("work-*")
    (work / "seen" / "0000.safetensors").unlink()
    fits = sorted(work.glob("fit-4-*"))
    assert len(fits) == 2
    fits[0].unlink()
    ran = cli("tune-sampler", model, "--steps", "4", *SMALL, "--out", "t")
    assert ran.code == 0, ran.err
    assert (tuned / "tuned-4.yaml").read_bytes() == before
    assert len(list(tuned.glob("work-*"))) == 1
    assert cli("tune-sampler", model, "--steps", "4", *SMALL, "--guidance", "1", "--out", "t").code == 0
    assert len(list(tuned.glob("work-*"))) == 2  # another request, other trajectories


@pytest.mark.parametrize("flag", ["--sampler", "--config"])
def test_every_verb_takes_the_file(cli: Callable[..., Any], model: Path, tuned: Path, flag: str) -> None:
    ran = cli("sample", model, "-p", "bag", "--count", 1, flag, "t/tuned-4.yaml", "--seed", 3, "--out", "a.png")
    assert ran.code == 0, ran.err
    assert "4 steps of tuned, cfg" in ran.out and "hint" not in ran.err
    assert cli("reproduce", "a.png", "--model", model).code == 0
    note = picture.read("a.png")[1]
    assert note is not None and note.request["sampler"]["kind"] == "tuned"
    ran = cli("sample", model, "-p", "bag", flag, "t/tuned-4.yaml", "--steps", "5")
    assert ran.code == 2 and "was fitted for 4 steps and takes no other number (given: 5)" in ran.err
    assert ran.err.count("\n") == 1


def test_a_sampler_of_other_weights_is_told(cli: Callable[..., Any], model: Path, tuned: Path, tmp_path: Path) -> None:
    text = (tuned / "tuned-3.yaml").read_text()
    fingerprint = safelight.load(model).fingerprint
    Path("other.yaml").write_text(text.replace(fingerprint, "0123456789abcdef"))
    ran = cli("sample", model, "-p", "bag", "--count", 1, "--sampler", "other.yaml", "--out", "b.png")
    assert ran.code == 0 and f"it was fitted to other weights (0123456789abcdef, not {fingerprint})" in ran.err
    Path("whole.yaml").write_text(text + "seed: 3\n")
    ran = cli("sample", model, "--sampler", "whole.yaml")
    assert ran.code == 2 and "that file is no sampler with its steps, sampler, grid, mix" in ran.err
    ran = cli("sample", model, "--sampler", "none.yaml")
    assert ran.code == 2 and "none.yaml: No such file" in ran.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--steps", "eight"), "--steps eight: write numbers, as in 8 or 5,8,10"),
        (("--steps", "1"), "--steps 1: a single step has nothing to fit"),
        (("--steps", "8", "--reference", "12"), "--reference 12: it must be well above --steps"),
        (("--steps", "4", "--fits", "0"), "--fits 0: at least 1"),
        (("--steps", "4", "--prompt", "bag", "--prompts", "p.txt"), "--prompt and --prompts both say"),
        (("--steps", "4", "-p", "bagg"), "bagg"),
    ],
)
def test_bad_input_is_one_line_before_the_work(cli: Callable[..., Any], model: Path, given: tuple[str, ...], said: str) -> None:
    ran = cli("tune-sampler", model, *given)
    assert ran.code == 2 and said in ran.err and ran.err.count("\n") == 1
    assert not Path("out").exists()
