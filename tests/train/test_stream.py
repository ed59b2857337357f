"""Training on a stream: a resumed run equals one that was never stopped, parts may begin trained, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from safelight import model as files
from safelight.codec.kl import KLSpec
from safelight.data.composed import ScenesSource, Vocabulary
from safelight.spec import SpecError
from safelight.train import Every, Plan, Train, fit
from safelight.train.autoencode import Autoencode
from safelight.train.objective import Match
from tests.train import tiny

FEW = Vocabulary(concepts=("cat", "banana"), styles=("noto", "flat"))


def recipe(**fields: Any) -> Train:
    """A tiny text-to-image run on scenes of 32 pixels."""
    given: dict[str, Any] = {
        "name": "tiny",
        "model": tiny.worded(),
        "data": ScenesSource(vocabulary=FEW, size=32),
        "held_out_data": ScenesSource(vocabulary=FEW, size=32, seed=7, count=16),
        "objective": Match(drop=0.2),
        "plan": Plan(batch=8, steps=6, held=16, every=Every(log=2, held_out=3, sample=0, save=3)),
    }
    return Train(**(given | fields))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(files.load(folder, "raw").state_dict())


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    for _ in fit(recipe(), tmp_path / "whole", device="cpu"):
        pass
    for report in fit(recipe(), tmp_path / "cut", device="cpu"):
        if report.step == 3:
            break
    for _ in fit(recipe(), tmp_path / "cut", resume=True, device="cpu"):
        pass
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    logs = [[(r["step"], r.get("order"), r.get("val/loss")) for r in journal(tmp_path / n)] for n in ("whole", "cut")]
    assert logs[0] == logs[1]


def journal(folder: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_part_begins_as_that_of_a_trained_model(tmp_path: Path) -> None:
    """The codec is the other run's to the last bit and stays so; the rest begins fresh; the lineage names the parent's file."""
    codec = recipe(name="codec", objective=Autoencode(), plan=Plan(batch=8, steps=3, every=Every(log=0, held_out=0, sample=0)))
    for _ in fit(codec, tmp_path / "codec", device="cpu"):
        pass
    parent = files.load(tmp_path / "codec")
    run = fit(
        recipe(start={"codec": str(tmp_path / "codec")}, plan=recipe().plan.model_copy(update={"seed": 1})),
        tmp_path / "u",
        device="cpu",
    )
    for _ in run:
        pass
    child = files.load(tmp_path / "u", "raw")
    mine, theirs = child.codec.state_dict(), parent.codec.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not torch.equal(child.text.tower.token.weight, parent.text.tower.token.weight)
    assert child.lineage["start"] == {"codec": parent.fingerprint}
    for _ in fit(
        recipe(start={"codec": "gone"}, plan=recipe().plan.model_copy(update={"seed": 1})),
        tmp_path / "u",
        resume=True,
        device="cpu",
    ):
        pass  # a resumed run takes its weights from its checkpoint


def test_only_the_decoder_learns(tmp_path: Path) -> None:
    """encoder=False: latents and their scale stay to the last bit, the decoder moves."""
    first = recipe(name="codec", objective=Autoencode(), plan=Plan(batch=8, steps=3, every=Every(log=0, held_out=0, sample=0)))
    for _ in fit(first, tmp_path / "a", device="cpu"):
        pass
    sharp = first.model_copy(
        update={
            "name": "sharp",
            "start": {"codec": str(tmp_path / "a")},
            "objective": Autoencode(encoder=False, adversarial=0.1, warmup=1),
        }
    )
    for _ in fit(sharp, tmp_path / "b", device="cpu"):
        pass
    a, b = files.load(tmp_path / "a").codec, files.load(tmp_path / "b").codec
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(a.encode(x), b.encode(x))
    assert not torch.equal(a.decode(a.encode(x)), b.decode(b.encode(x)))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a share of a stream without end is no set; give held_out_data"):
        fit(recipe(held_out_data=None, held_out=0.1), tmp_path / "a", device="cpu")
    with pytest.raises(SpecError, match="start.codec: no file"):
        fit(recipe(start={"codec": "runs/none.safetensors"}), tmp_path / "b", device="cpu")
    other = recipe(model=recipe().model.model_copy(update={"codec": KLSpec(latents=4, widths=(16, 32), blocks=1)}))
    files.save(tmp_path / "other.safetensors", other.model.build())
    with pytest.raises(SpecError, match="start.codec: .* is of another network"):
        fit(recipe(start={"codec": str(tmp_path / "other.safetensors")}), tmp_path / "c", device="cpu")
    assert not (tmp_path / "c").exists()
