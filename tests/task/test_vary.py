"""Variations: at 0 the picture itself and at 1 the other seed's, bit for bit and with every sampler; between them noise that is noise."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from safelight.assets import Assets
from safelight.generate import Finished, Started, generate
from safelight.spec import SpecError, describe, kinds, parse
from safelight.task import Request
from safelight.task.vary import Vary
from safelight.trace import Recorder, Trace
from tests import small
from tests.task import toys

SAMPLERS = [kind for kind in kinds("sampler") if kind not in ("repaint",)]


def ask(strength: float, *, number: int | None = None, **fields: object) -> Request:
    task = {"kind": "vary", "seed": 9, "strength": strength, "number": number}
    return Request.model_validate({"prompt": ["shoe"], "count": 3, "seed": 5, "index": 2, "steps": 4, "task": task, **fields})


def plain(**fields: object) -> Request:
    return ask(0).model_copy(update={"task": Request().task, **fields})


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_ends_are_the_two_seeds(sampler: str) -> None:
    """Also of samplers that draw noise on the way, as that is varied too."""
    model, how = small.model(), {"sampler": parse(sampler, "sampler")}
    assert torch.equal(toys.finished(model, ask(0, **how)), toys.finished(model, plain(**how)))
    assert torch.equal(toys.finished(model, ask(1, **how)), toys.finished(model, plain(seed=9, **how)))


def test_the_picture_moves_away_as_the_strength_rises() -> None:
    model = small.model()
    there = toys.finished(model, plain())
    moved = [float((toys.finished(model, ask(s)) - there).square().mean()) for s in (0, 0.01, 0.1, 0.3, 0.6, 1)]
    assert moved[0] == 0 and moved == sorted(moved) and moved[1] < 0.01 * moved[-1]


@pytest.mark.parametrize("process", ["flow", "cosine", "ve"])
def test_the_start_has_the_variance_of_noise(process: str) -> None:
    model = toys.model(size=(64, 64), process=process)
    asked = Request.model_validate({"count": 4, "task": {"kind": "vary", "seed": 3, "strength": 0.5}, "steps": 1})
    start = next(e for e in generate(model, asked) if isinstance(e, Started))
    level = start.levels[0]
    x = start.x / float(torch.hypot(level.alpha, level.sigma))
    assert abs(float(x.var()) - 1) < 4 * math.sqrt(2 / x.numel()) and abs(float(x.mean())) < 4 / math.sqrt(x.numel())


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_variations_of_one_picture(sampler: str) -> None:
    """With `number` each picture of the run varies that one; the k-th variation is the same alone, in a batch, and in any order."""
    model, how = small.model(), {"sampler": parse(sampler, "sampler"), "micro_batch": 1}
    original = toys.finished(model, plain(index=7, count=1, **how))
    assert torch.equal(toys.finished(model, ask(0, number=7, **how)), original.repeat(3, 1, 1, 1))
    some = toys.finished(model, ask(0.2, number=7, **how))
    assert torch.equal(toys.finished(model, ask(0.2, number=7, index=4, count=1, **how)), some[2:])
    assert min(float((some[i] - some[j]).abs().max()) for i in range(3) for j in range(i)) > 1e-3


def test_noise_does_not_depend_on_the_batch() -> None:
    model, starts = small.model(), []
    for size in (1, 2, None):
        asked = ask(0.3, number=1, count=7, micro_batch=size)
        starts.append(torch.cat([e.x for e in generate(model, asked) if isinstance(e, Started)]))
    assert torch.equal(starts[0], starts[2]) and torch.equal(starts[1], starts[2])


def test_a_variation_of_a_variation() -> None:
    """Its strength 0 is the variation it starts from, its strength 1 its own seed's picture."""
    model = small.model()
    inner = ask(0.4, number=3)
    of = describe(inner.task, family=False)

    def outer(strength: float) -> Request:
        task = {"kind": "vary", "seed": 70, "strength": strength, "number": 4, "of": of}
        return inner.model_copy(update={"task": parse(task, "task"), "micro_batch": 1})

    alone = toys.finished(model, inner.model_copy(update={"index": 4, "count": 1}))
    assert torch.equal(toys.finished(model, outer(0)), alone.repeat(3, 1, 1, 1))
    assert torch.equal(toys.finished(model, outer(1)), toys.finished(model, plain(seed=70, micro_batch=1)))


@pytest.mark.parametrize("kind", ["image", "inpaint"])
def test_any_task_that_draws_noise_is_varied(kind: str) -> None:
    """An edit of a picture keeps its size, its picture and, at strength 0, its bytes."""
    model, assets = toys.model(size=(8, 8)), Assets()
    of = {"kind": kind, "picture": assets.add(toys.noise((1, 16, 8)))}
    if kind == "inpaint":
        mask = torch.zeros(1, 16, 8, dtype=torch.uint8)
        mask[:, :8] = 255
        of["mask"] = assets.add(mask)
    edit = Request.model_validate({"task": of, "seed": 1, "count": 2, "steps": 4})

    def varied(strength: float) -> torch.Tensor:
        task = parse({"kind": "vary", "of": of, "seed": 2, "strength": strength}, "task")
        return toys.finished(model, edit.model_copy(update={"task": task}), assets=assets)

    there = toys.finished(model, edit, assets=assets)
    assert torch.equal(varied(0), there) and there.shape == (2, 1, 16, 8)
    assert torch.equal(varied(1), toys.finished(model, edit.model_copy(update={"seed": 2}), assets=assets))
    assert float((varied(0.5) - there).abs().max()) > 1e-2
    assert Vary.model_validate({"of": of}).inputs == parse(of, "task").inputs  # type: ignore[attr-defined]


def test_a_recorded_variation_goes_on_exactly(tmp_path: Path) -> None:
    """Also with a sampler that draws noise: a fork draws the varied noise, as the run did."""
    model, asked, recorder = small.model(), ask(0.4, sampler=parse("ddpm", "sampler")), Recorder()
    for event in generate(model, asked):
        recorder.see(event)
    recorder.save(tmp_path / "run.trace")
    trace = Trace.open(tmp_path / "run.trace")
    again = [e.pictures for e in generate(model, asked, recorded=trace, first=2) if isinstance(e, Finished)]
    assert torch.equal(torch.cat(again), trace.pictures)


def test_the_request_survives_as_json() -> None:
    asked = ask(0.25, number=4).resolve(small.model())
    again = type(asked).model_validate_json(asked.model_dump_json())
    assert again == asked and again.task == asked.task and parse(describe(asked), "request").model_dump() == asked.model_dump()


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ({"strength": 1.5}, "strength: Input should be less than or equal to 1"),
        ({"seed": 5}, r"the variation seed is the seed itself \(5\), so nothing would vary: choose another"),
        ({"of": {"kind": "interpolate", "ends": [{}, {}]}}, "'interpolate' does not draw its pictures' own noise"),
        ({"of": {"kind": "invert", "picture": "sha256:0"}}, "'invert' does not draw .*; it has a vary of its own"),
    ],
)
def test_refusals(task: dict[str, object], line: str) -> None:
    def run() -> None:
        list(generate(small.model(), plain(task=parse({"kind": "vary", **task}, "task"))))

    with pytest.raises(SpecError, match=line):
        run()
