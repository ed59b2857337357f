"""`safelight sample`: what it writes is what the model makes, and a run can be told, kept, repeated and recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import safelight
from safelight.cli.overrides import read
from safelight.draw.film import shown
from safelight.draw.pixels import to_bytes
from safelight.trace import Trace


def pictures(folder: Path) -> dict[str, np.ndarray]:
    """The picture files of a run, by name."""
    return {p.name: np.asarray(Image.open(p)) for p in sorted((folder / "pictures").iterdir())}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_files_are_the_pictures_of_generate(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """Each file equals, byte for byte, what the library makes of the same request with the file's default weights."""
    ran = cli("sample", model, "-p", "bag", "-p", "dress", "--count", "2", "--seed", "7", "--out", "o")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("4 pictures of 12x12 in ")
    assert ran.out.splitlines()[1] == "picture  o/pictures.png"
    found = pictures(tmp_path / "o")
    assert list(found) == ["0000-bag.png", "0001-bag.png", "0002-dress.png", "0003-dress.png"]
    request = safelight.Request(prompt=("bag", "dress"), count=2, seed=7)
    *_, last = safelight.generate(safelight.load(model, "ema"), request)
    for file, picture in zip(found.values(), to_bytes(last.pictures), strict=True):
        np.testing.assert_array_equal(file, picture[..., 0])


def test_without_a_prompt_it_shows_every_class(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    assert cli("sample", model, "--count", "1").code == 0
    assert [name[5:-4] for name in pictures(tmp_path / "out" / "tiny")] == ["bag", "ankle-boot", "dress"]


def test_weights_can_be_chosen(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    for name in ("raw", "ema"):
        assert cli("sample", model, "-p", "bag", "--count", "1", "--weights", name, "--out", name).code == 0
    assert not np.array_equal(pictures(tmp_path / "raw")["0000-bag.png"], pictures(tmp_path / "ema")["0000-bag.png"])


def test_a_kept_request_repeats_the_run(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """All defaults are written out, and --config gives the same bytes; a flag or --set goes over the file."""
    flags = ["-p", "dress", "--count", "2", "--steps", "3", "--sampler", "ddim", "--set", "sampler.eta=1", "--guidance", "3"]
    assert cli("sample", model, *flags, "--out", "a", "--save-config", "kept.yaml").code == 0
    kept = read("kept.yaml")
    assert kept["sampler"] == {"kind": "ddim", "eta": 1.0, "free_noise": False, "stride": False}
    assert kept["mix"] == {"kind": "cfg", "scale": 3.0, "interval": [0.0, 1.0], "rescale": 0.25}, (
        "the model's own rescale stays"
    )
    assert (kept["prompt"], kept["count"], kept["steps"], kept["size"]) == (["dress"], 2, 3, [12, 12])
    assert cli("sample", model, "--config", "kept.yaml", "--out", "b").code == 0
    a, b = pictures(tmp_path / "a"), pictures(tmp_path / "b")
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert cli("sample", model, "--config", "kept.yaml", "--seed", "1", "--set", "count=1", "--out", "c").code == 0
    c = pictures(tmp_path / "c")
    assert list(c) == ["0000-dress.png"]
    assert not np.array_equal(c["0000-dress.png"], a["0000-dress.png"])


def test_micro_batches_change_nothing(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """Within one level of 255, also for a sampler that draws noise, and the film and the trace hold the same pictures."""
    flags = ["--sampler", "euler-ancestral", "--count", "3", "--seed", "3"]
    assert cli("sample", model, *flags, "--out", "a", "--film", "a.webp", "--trace", "a.safetensors").code == 0
    assert (
        cli("sample", model, *flags, "--out", "b", "--film", "b.webp", "--trace", "b.safetensors", "--micro-batch", "2").code
        == 0
    )
    a, b = pictures(tmp_path / "a"), pictures(tmp_path / "b")
    assert len(a) == 9
    for name in a:
        assert np.abs(a[name].astype(int) - b[name]).max() <= 1
    one, two = (np.asarray(Image.open(f).convert("L")).astype(int) for f in ("a.webp", "b.webp"))
    assert np.abs(one - two).max() <= 1
    torch.testing.assert_close(Trace.open("a.safetensors").x(2), Trace.open("b.safetensors").x(2), rtol=0, atol=2e-3)


def test_the_trace_is_the_run(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """The recording ends in the pictures of the files, and a step taken anew from it gives the recorded next one."""
    assert cli("sample", model, "-p", "bag", "--count", "2", "--trace", "t.safetensors", "--out", "o").code == 0
    trace = Trace.open("t.safetensors")
    assert [m.k for m in trace.steps] == [0, 1, 2, 3]
    assert list(trace.prompts) == ["bag", "bag"]
    assert trace.branches == ["cond", "null"]
    for file, picture in zip(pictures(tmp_path / "o").values(), to_bytes(trace.pictures), strict=True):
        np.testing.assert_array_equal(file, picture[..., 0])
    *_, last = safelight.generate(safelight.load(model), trace.request, recorded=trace, first=2)
    assert torch.equal(last.pictures, trace.pictures)


@pytest.mark.parametrize("name", ["f.gif", "f.webp", "f.apng"])
def test_a_film_has_a_frame_a_step_and_the_end(name: str, cli: Callable[..., Any], model: Path) -> None:
    ran = cli("sample", model, "-p", "bag", "--count", "1", "--steps", "5", "--film", name)
    assert f"film     {name}" in ran.out
    with Image.open(name) as film:
        assert film.n_frames == 6


def test_the_table_of_steps_shows_the_recorded_run(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """The table's cells are x_t and the guess of x_0 of the trace of the same run, enlarged without blending."""
    assert cli("sample", model, "-p", "bag", "--count", "1", "--show-steps", "--trace", "t.safetensors", "--out", "o").code == 0
    table = np.asarray(Image.open(tmp_path / "o" / "steps.png"))
    trace = Trace.open("t.safetensors")
    for k, moment in enumerate(trace.steps):
        for cell in (shown(trace.x(k), moment.alpha, moment.sigma), trace.x0(k)):
            wanted = to_bytes(cell)[0, ..., 0]
            scale = next(s for s in range(1, 20) if contains(table, np.kron(wanted, np.ones((s, s), np.uint8))))
            assert scale > 1


def contains(page: np.ndarray, cell: np.ndarray) -> bool:
    """Whether a cell stands somewhere on a page, pixel for pixel."""
    if cell.shape[0] > page.shape[0] or cell.shape[1] > page.shape[1]:
        return False
    windows = np.lib.stride_tricks.sliding_window_view(page, cell.shape)
    corners = np.argwhere((windows[..., 0, 0] == cell[0, 0]) & (windows[..., -1, -1] == cell[-1, -1]))
    return any(np.array_equal(windows[y, x], cell) for y, x in corners)


def test_guidance_of_one_is_no_guidance(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    assert cli("sample", model, "-p", "bag", "--count", "1", "--guidance", "1", "--out", "a").code == 0
    assert cli("sample", model, "-p", "bag", "--count", "1", "--set", "mix=none", "--out", "b").code == 0
    np.testing.assert_array_equal(pictures(tmp_path / "a")["0000-bag.png"], pictures(tmp_path / "b")["0000-bag.png"])


def test_another_size(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    ran = cli("sample", model, "-p", "bag", "--count", "1", "--size", "8x16", "--out", "o")
    assert "of 8x16" in ran.out
    assert pictures(tmp_path / "o")["0000-bag.png"].shape == (8, 16)
