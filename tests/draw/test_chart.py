"""Charts: written whole, the same bytes for the same data, and the numbers in them are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safelight.draw import chart
from safelight.draw.losses import beside, column, losses, read, smooth
from safelight.spec import SpecError, build, kinds


def log(folder: Path, steps: int = 40, more: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for s in range(1, steps + 1):
        row = {"step": s, "train/loss": 1 / s, "lr": 1e-3, "images_per_second": 100.0}
        if s % 10 == 0:
            row |= {"val/loss": 1.1 / s, "val/trivial": 1.0, "val/loss_t0": 2 / s, "val/loss_t1": 0.2 / s}
        rows.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n" + more)
    return folder


def test_schedules_state_the_terminal_snr(tmp_path: Path) -> None:
    # The tutorial's table: T = 200 linear keeps 0.36 of the signal.
    text = chart.terminal(build({"kind": "linear", "T": 200}, "process"))
    betas = np.linspace(1e-4, 0.02, 200)
    alpha2 = np.prod(1 - betas)
    assert (
        text == f"terminal alpha {alpha2**0.5:.3g}, SNR {alpha2 / (1 - alpha2):.3g} (log {np.log(alpha2 / (1 - alpha2)):+.1f})"
    )
    assert "alpha 0.364" in text
    assert "noise alone" in chart.terminal(build("cosine", "process"))
    assert "noise alone" in chart.terminal(build({"kind": "linear", "zero_terminal_snr": True}, "process"))
    processes = {"linear": build("linear", "process"), "cosine": build("cosine", "process")}
    with Image.open(chart.schedules(tmp_path / "s.png", processes)) as image:
        assert image.size[0] > image.size[1] > 300


def test_the_same_chart_is_the_same_bytes(tmp_path: Path) -> None:
    grids = {k: v() for k, v in kinds("grid").items()}
    for suffix in (".svg", ".png"):
        a, b = (chart.grids(tmp_path / f"{n}{suffix}", build("flow", "process"), grids, 10).read_bytes() for n in "ab")
        assert a == b


def test_losses_are_drawn_with_buckets_and_compared_without(tmp_path: Path) -> None:
    run = log(tmp_path / "run", more='{"step": 41, "train/l')
    rows = read(run)
    assert len(rows) == 40
    steps, values = column(rows, "val/loss")
    assert steps.tolist() == [10, 20, 30, 40]
    assert values[0] == pytest.approx(0.11)
    assert losses(beside(run), {"run": rows}).read_bytes()[:4] == b"\x89PNG"
    assert losses(tmp_path / "two.svg", {"a": rows, "b": rows}).stat().st_size > 1000


def test_a_step_logged_twice_counts_once_with_its_later_row(tmp_path: Path) -> None:
    run = log(tmp_path / "run", 5, '{"step": 3, "train/loss": 9.0}\n')
    assert [r["step"] for r in read(run)] == [1, 2, 3, 4, 5]
    assert read(run)[2]["train/loss"] == 9.0


def test_smoothing_does_not_lag() -> None:
    line = np.linspace(5, 1, 101)
    np.testing.assert_allclose(smooth(line)[10:-10], line[10:-10], rtol=1e-12)
    assert smooth(np.array([3.0])).tolist() == [3.0]


def test_refusals(tmp_path: Path) -> None:
    cosine = build("cosine", "process")
    with pytest.raises(SpecError, match="gif"):
        chart.schedules(tmp_path / "c.gif", {"cosine": cosine})
    with pytest.raises(SpecError, match="at least one"):
        chart.schedules(tmp_path / "c.png", {})
    with pytest.raises(SpecError, match="at least one"):
        chart.grids(tmp_path / "c.png", cosine, {})
    with pytest.raises(SpecError, match="no log"):
        read(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(SpecError, match="line 2"):
        read(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": NaN}\n')
    with pytest.raises(SpecError, match="no loss"):
        losses(tmp_path / "c.png", {"run": read(tmp_path)})
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
