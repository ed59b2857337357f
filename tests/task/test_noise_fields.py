"""Temperature, churn and variation, fields of every request: what they do to the noise, and that they go with the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.assets import Assets
from safelight.denoise import Estimate
from safelight.generate import Finished, Started, generate
from safelight.process import Level
from safelight.spec import SpecError, describe, parse
from safelight.task import Request
from safelight.trace import Recorder, Trace
from tests import small
from tests.task import toys

FIELDS: dict[str, Any] = {
    "temperature": 0.8,
    "churn": {"amount": 2.0, "s_max": 40.0},
    "variation": {"seed": 9, "strength": 0.3},
}
SAMPLERS: list[dict[str, Any]] = [
    {"kind": "ddim"},
    {"kind": "ddpm"},
    {"kind": "dpm++3m-sde", "brownian": True},
    {"kind": "langevin", "times": 2},
    {"kind": "repaint", "times": 2},
]


def ask(**fields: Any) -> Request:
    return Request.model_validate({"prompt": ["bag", "shoe"], "count": 2, "seed": 5, "steps": 4, "sampler": "ddim", **fields})


def linear(x: Tensor, level: Level) -> Estimate:
    return Estimate(0.25 * x)


def tasks(assets: Assets) -> dict[str, dict[str, Any]]:
    seal, mask = assets.add(toys.noise((1, 8, 8))), torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[:, :4] = 255
    return {
        "text": {"kind": "text"},
        "image": {"kind": "image", "picture": seal, "strength": 0.7},
        "inpaint": {"kind": "inpaint", "picture": seal, "mask": assets.add(mask)},
        "vary": {"kind": "vary", "seed": 9, "strength": 0.3},
        "interpolate": {"kind": "interpolate", "ends": [{}, {"seed": 3}]},
        "invert": {"kind": "invert", "picture": seal, "vary": 0.4, "strength": 0.6},
    }


CHURNED = {"kind": "ddim", "churned": True}
# An inversion takes no sampler that draws noise.
PAIRS = [(t, s) for t in tasks(Assets()) for s in (*SAMPLERS, CHURNED) if t != "invert" or s["kind"] == "ddim"]


@pytest.mark.parametrize(("task", "sampler"), PAIRS, ids=str)
def test_every_draw_is_times_the_temperature(task: str, sampler: dict[str, Any]) -> None:
    """With a linear denoiser a picture is linear in its noise, and so in the temperature."""
    assets, how = Assets(), dict(sampler)
    churn = {"amount": 3.0} if how.pop("churned", False) else None
    made = toys.model(linear, process="cosine")
    fields = {"prompt": "", "count": 3, "task": tasks(assets)[task], "sampler": how, "churn": churn, "steps": 5}

    def of(temperature: float) -> Tensor:
        return toys.finished(made, Request.model_validate({**fields, "temperature": temperature}), assets=assets)

    less, half, whole = of(0.2), of(0.6), of(1.0)
    torch.testing.assert_close(half, (less + whole) / 2, rtol=0, atol=2e-4 * float(whole.abs().max()))
    assert torch.equal(whole, toys.finished(made, Request.model_validate(fields), assets=assets))
    assert float((whole - less).abs().max()) > 1e-2


def test_at_temperature_0_there_is_no_noise() -> None:
    made = toys.model(linear, process="cosine")
    for sampler in SAMPLERS:
        asked = Request.model_validate({"temperature": 0.0, "sampler": sampler, "steps": 4, "count": 2})
        assert not bool(toys.finished(made, asked).any())


def test_at_temperature_1_nothing_stands_between() -> None:
    model = small.model()
    start = next(e for e in generate(model, ask(temperature=1.0)) if isinstance(e, Started))
    assert torch.equal(start.x, next(e for e in generate(model, ask()) if isinstance(e, Started)).x)


@pytest.mark.parametrize("kind", ["text", "image", "inpaint", "vary"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++2m"])
def test_a_variation_is_the_task_vary_around_the_task(kind: str, sampler: str) -> None:
    """Bit for bit; at strength 0 the picture itself, at 1 the other seed's."""
    model, assets = toys.model(), Assets()
    of = tasks(assets)[kind]

    def made(**fields: Any) -> Tensor:
        return toys.finished(model, ask(prompt="", sampler=sampler, **fields), assets=assets)

    assert torch.equal(
        made(task=of, variation={"seed": 7, "strength": 0.3}), made(task={"kind": "vary", "seed": 7, "strength": 0.3, "of": of})
    )
    assert torch.equal(made(task=of, variation={"seed": 7, "strength": 0.0}), made(task=of))
    if kind != "vary":
        assert torch.equal(made(task=of, variation={"seed": 7, "strength": 1.0}), made(task=of, seed=7))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_picture_is_the_same_alone_and_in_any_batch(sampler: dict[str, Any]) -> None:
    model, churn = small.model(), FIELDS["churn"] if sampler["kind"] != "dpm++3m-sde" else None
    how = {**FIELDS, "sampler": sampler, "churn": churn}
    whole = toys.finished(model, ask(**how))
    assert float((toys.finished(model, ask(**how, micro_batch=1)) - whole).abs().max()) < 1 / 255
    alone = toys.finished(model, ask(**{**how, "prompt": "shoe", "count": 1, "index": 3}))
    assert float((alone - whole[3:]).abs().max()) < 1 / 255


def test_a_recorded_run_goes_on_exactly(tmp_path: Path) -> None:
    model, asked, recorder = small.model(), ask(**FIELDS, steps=6), Recorder()
    for event in generate(model, asked):
        recorder.see(event)
    recorder.save(tmp_path / "run.trace")
    trace = Trace.open(tmp_path / "run.trace")
    for first in (0, 2, 5):
        again = [e.pictures for e in generate(model, asked, recorded=trace, first=first) if isinstance(e, Finished)]
        assert torch.equal(torch.cat(again), trace.pictures)
    # A fork that churns more does so from there on.
    more = asked.model_copy(update={"churn": asked.churn.model_copy(update={"amount": 6.0})})  # type: ignore[union-attr]
    forked = [e.pictures for e in generate(model, more, recorded=trace, first=2) if isinstance(e, Finished)]
    assert float((torch.cat(forked) - trace.pictures).abs().max()) > 1e-3


def test_the_request_survives_as_json() -> None:
    asked = ask(**FIELDS).resolve(small.model())
    assert type(asked).model_validate_json(asked.model_dump_json()) == asked
    again = parse(describe(asked), "request")
    assert isinstance(again, Request) and again.churn == asked.churn and again.variation == asked.variation


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": 11}, "temperature: Input should be less than or equal to 10"),
        ({"churn": {"amount": 1}, "sampler": "dpm++2m"}, r"churn: sampler 'dpm\+\+2m' looks back on earlier steps"),
        ({"churn": {"amount": 1}, "sampler": {"kind": "euler", "churn": 1}}, "churn: sampler 'euler' has a churn of its own"),
        ({"churn": {"much": 1}}, "churn: unknown field 'much'"),
        ({"variation": {"strength": 0.5}}, "variation.seed: Field required"),
        ({"variation": {"seed": 2, "strength": 1.5}}, "variation.strength: Input should be less than or equal to 1"),
        ({"variation": {"seed": 5}}, "the variation seed is the seed itself"),
        (
            {"variation": {"seed": 2}, "task": {"kind": "interpolate", "ends": [{}, {}]}},
            "^variation: task 'interpolate' does not",
        ),
    ],
)
def test_refusals(fields: dict[str, Any], line: str) -> None:
    def run() -> None:
        asked = parse({"sampler": "ddim", "seed": 5, **fields}, "request")
        assert isinstance(asked, Request)
        list(generate(small.model(), asked))

    with pytest.raises(SpecError, match=line) as refused:
        run()
    assert "\n" not in str(refused.value)
