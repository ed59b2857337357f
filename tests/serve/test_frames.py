"""What a run shows of itself while it goes: x0 as the decoder has it, x by a linear map, several steps at once, in their order."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from safelight.codec.kl import KLSpec
from safelight.model import Model, load
from safelight.serve import worker as module
from safelight.serve.frames import Linear, Seen, frames
from safelight.serve.jobs import Jobs
from safelight.serve.lenses import decode
from safelight.serve.worker import Desk
from tests import small
from tests.serve import bench


def opened(text: str) -> Tensor:
    """(H, W, 3) of a frame."""
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).copy())


@pytest.fixture(scope="module")
def latent() -> Model:
    """A model of latents, 4 channels of half the size."""
    base = small.spec()
    codec = KLSpec(pictures=1, latents=4, widths=(8, 8), blocks=1, patch=1, attention=False)
    spec = base.model_copy(update={"codec": codec, "network": base.network.model_copy(update={"channels": 4})})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return spec.build().eval()


def test_x0_is_decoded_and_every_step_has_its_own(latent: Model) -> None:
    draws = torch.Generator().manual_seed(1)
    channels = latent.codec.channels(latent.spec.channels)
    seen = [
        Seen(torch.randn(2, channels, 4, 4, generator=draws), torch.randn(2, channels, 4, 4, generator=draws)) for _ in range(3)
    ]
    found = frames(latent, seen)
    assert [sorted(one) for one in found] == [["x", "x0"]] * 3
    for one, step in zip(found, seen, strict=True):
        for text, wanted in zip(one["x0"], decode(latent, step.x0), strict=True):
            assert torch.equal(opened(text), torch.from_numpy(wanted))
    assert Linear.of(latent) is Linear.of(latent)


def test_the_linear_map_explains_most_of_what_the_shipped_decoder_makes_of_noise() -> None:
    model = load("sprites-small")
    z = torch.randn(8, 16, 8, 8, generator=torch.Generator().manual_seed(5))
    wanted, mine = (np.asarray(a, np.float64) for a in (decode(model, z), Linear.of(model).paint(z)))
    assert wanted.shape == mine.shape and 1 - np.square(wanted - mine).sum() / np.square(wanted - wanted.mean()).sum() > 0.7


def test_a_step_that_is_no_picture_shows_nothing_and_spoils_no_other(latent: Model) -> None:
    channels = latent.codec.channels(latent.spec.channels)
    good, bad = (
        Seen(*torch.zeros(2, 1, channels, 4, 4)),
        Seen(torch.zeros(1, channels, 4, 4), torch.full((1, channels, 4, 4), torch.nan)),
    )
    assert [sorted(one) for one in frames(latent, [good, bad, good], ("x0",))] == [["x0"], [], ["x0"]]
    assert frames(latent, []) == []


@pytest.mark.parametrize("sampler", bench.SAMPLERS)
def test_steps_told_together_say_what_steps_told_alone_say(
    tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is told once, in its order, with its own frames, also when the run is left in the middle."""
    told = []
    for together in (0.0, 1e9):
        monkeypatch.setattr(module, "_TOGETHER", together)
        folder = bench.folder(tmp_path / str(together))
        jobs, desk = Jobs(folder), Desk(folder, "cpu")
        run = jobs.enqueue(bench.ask(count=3, micro_batch=2, steps=9, sampler=sampler))
        desk.once()
        steps = bench.events(jobs, run, "step")
        assert jobs.runs.get(run.id).steps_done == 18
        told.append([(e["k"], e["part"], e["pictures"], e["frames"]["x0"]) for e in steps])
    assert told[0] == told[1] and [k for k, *_ in told[0]] == [*range(9), *range(9)]


def test_what_is_not_told_yet_is_told_before_a_run_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 1e9)
    folder = bench.folder(tmp_path / "data")
    jobs, desk = Jobs(folder), Desk(folder, "cpu")
    run = jobs.enqueue(bench.ask(steps=9))
    asked, seen = desk.jobs.asked, 0

    def cancelled(id: str) -> str:
        nonlocal seen
        seen += 1
        if seen == 5:
            jobs.cancel(run.id)
        return asked(id)

    monkeypatch.setattr(desk.jobs, "asked", cancelled)
    desk.once()
    left = jobs.runs.get(run.id)
    events = bench.events(jobs, run, "step")
    assert left.state == "stopped" and 0 < left.steps_done < 9
    assert [e["k"] for e in events] == list(range(left.steps_done)) and all(e["frames"] for e in events)
