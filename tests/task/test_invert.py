"""Inversion against exact denoisers: the way up undoes the way down, to the solver's order or to the last digits; prompts swap."""

from __future__ import annotations

import math
import re
from collections import deque
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.assets import Assets, as_pixels
from safelight.generate import Finished, Prepared, Started, Stepped, generate
from safelight.grid import grid
from safelight.process import Process
from safelight.sample import Sampler, trajectory
from safelight.sample.invert import rise
from safelight.spec import SpecError, build, describe, kinds
from safelight.task import Request
from tests import small
from tests.oracle import Mixture, final
from tests.task import toys, worded

STEPS = (40, 80, 160, 320)


def there_and_back(sampler: str, process: str, n: int, refine: int, tolerance: float = 1e-7) -> Tensor:
    """(32,) the relative error of x_0 -> x_T -> x_0 on the exact mixture."""
    mixture, solver, where = Mixture.ring(), build(sampler, "sampler"), build(process, "process")
    assert isinstance(solver, Sampler) and isinstance(where, Process)
    levels = where.at(grid(where, n, "karras" if process == "edm" else "uniform")).split()
    x = mixture.sample(32, seed=5)
    top = deque(rise(mixture.denoise, x, levels, solver, refine=refine, tolerance=tolerance), maxlen=1)[0]
    assert top.level is levels[0] and top.i == n - 1
    back = final(trajectory(mixture.denoise, top.x, levels, solver)).x
    return (back - x).norm(dim=1) / x.norm(dim=1)


@pytest.mark.parametrize("process", ["cosine", "linear", "flow", "edm"])
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_the_plain_round_trip_misses_by_order_one(sampler: str, process: str) -> None:
    errors = [float(there_and_back(sampler, process, n, refine=0).median()) for n in STEPS]
    slope = math.log2(errors[0] / errors[-1]) / math.log2(STEPS[-1] / STEPS[0])
    assert 0.75 < slope < 1.35 and errors[-1] < 5e-3, errors


@pytest.mark.parametrize("process", ["cosine", "flow", "edm"])
def test_the_plain_round_trip_of_heun_is_nearer(process: str) -> None:
    for n in STEPS[:2]:
        assert float(there_and_back("heun", process, n, 0).median()) < 0.5 * float(
            there_and_back("ddim", process, n, 0).median()
        )


@pytest.mark.parametrize("process", ["cosine", "linear", "flow", "edm"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun"])
def test_the_refined_round_trip_is_exact(sampler: str, process: str) -> None:
    """The issue's bar is 1e-3; what is missed is what the refinement says it missed."""
    error = there_and_back(sampler, process, 60, refine=60, tolerance=1e-6)
    assert float(error.max()) < 1e-3 and float(error.median()) < 2e-5, error


def test_refinement_tells_what_it_misses_and_stops() -> None:
    """`missed` is the miss of the step down, it never grows with more corrections, and a loose tolerance spends fewer."""
    mixture, solver, where = Mixture.ring(), build("ddim", "sampler"), build("flow", "process")
    levels, x = where.at(grid(where, 12)).split(), mixture.sample(16, 3)
    before, worst = x, []
    for k, step in enumerate(rise(mixture.denoise, x, levels, solver, refine=4)):
        down = solver.step(mixture.denoise, step.x, step.level, step.now, {}, None)[0]
        torch.testing.assert_close((before - down).norm(dim=1) / before.norm(dim=1), step.missed)
        before = step.x
        assert step.now is levels[-1 - k] and step.level is levels[-2 - k]
    for refine in (1, 2, 5, 20):
        steps = list(rise(mixture.denoise, x, levels, solver, refine=refine, tolerance=1e-9))
        worst.append(float(steps[0].missed.max()))
    assert worst == sorted(worst, reverse=True) and worst[-1] < worst[0] / 5
    looks = [sum(s.looks for s in rise(mixture.denoise, x, levels, solver, refine=30, tolerance=t)) for t in (1e-1, 1e-3, 1e-6)]
    assert looks == sorted(looks) and looks[0] < looks[-1]


@pytest.mark.parametrize("sampler", ["ddpm", "euler-ancestral", "dpm++2m-sde"])
def test_what_is_drawn_cannot_be_undone(sampler: str) -> None:
    with pytest.raises(SpecError, match=re.escape(f"sampler '{sampler}' draws noise, and what is drawn cannot be undone")):
        list(rise(Mixture.ring().denoise, torch.zeros(1, 2), [], build(sampler, "sampler")))


# ---- the task ----------------------------------------------------------------------------------------------------------------


def ask(seal: str, task: dict[str, Any] | None = None, **fields: Any) -> Request:
    whole = {"kind": "invert", "picture": seal, **(task or {})}
    return Request.model_validate({"task": whole, "steps": 20, "sampler": "ddim", **fields})


def sample(made: Any, prompt: str, seed: int = 4) -> Tensor:
    """uint8 (C, H, W): a picture of the model's own."""
    found = toys.finished(
        made, Request.model_validate({"prompt": prompt, "seed": seed, "steps": 60, "sampler": "heun", "mix": "none"})
    )
    return ((found[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def top(made: Any, asked: Request, assets: Assets) -> Tensor:
    return next(e.x for e in generate(made, asked, assets=assets) if isinstance(e, Started))


@pytest.mark.parametrize("process", ["flow", "cosine", "linear"])
def test_a_prompt_swap(process: str) -> None:
    """The other words from the very same x_T make a picture of the other class; the source's words give the picture back."""
    made, assets = worded.two(process=process), Assets()
    picture = sample(made, "shirt")
    seal = assets.add(picture)
    asked = ask(seal, {"source": "shirt", "refine": 60, "tolerance": 1e-6}, prompt=["shirt", "shoe"], mix="none")
    x = top(made, asked, assets)
    assert float(torch.corrcoef(x.flatten(1))[0, 1]) == pytest.approx(1, abs=1e-6) and torch.equal(x[0], x[1])
    found = toys.finished(made, asked, assets=assets)
    assert worded.classes(made, found) == [0, 1]
    assert float((found[0] - as_pixels(picture)[0]).abs().max()) < 2e-3
    assert float(x.std()) == pytest.approx(1, abs=0.35)


def test_how_far_up_decides_how_much_stays() -> None:
    """Nearer to the source with every lower strength; 0 is the picture; steps are those of the grid below it."""
    made, assets = worded.two(std=0.4), Assets()
    picture = sample(made, "shirt")
    seal, x0 = assets.add(picture), as_pixels(picture)
    off, ran = [], []
    for strength in (0, 0.2, 0.5, 0.8, 1):
        events = list(
            generate(made, ask(seal, {"strength": strength, "source": "shirt"}, prompt="shoe", mix="none"), assets=assets)
        )
        off.append(float((next(e.pictures for e in events if isinstance(e, Finished)) - x0).square().mean()))
        ran.append(sum(isinstance(e, Stepped) for e in events))
        assert sum(isinstance(e, Prepared) for e in events) == ran[-1]
    assert off[0] == 0 and off == sorted(off) and off[-1] > 0.1
    assert ran == [0, 4, 10, 16, 20]


@pytest.mark.parametrize("codec", [None, toys.CODEC], ids=["pixels", "kl"])
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_a_network_gives_the_picture_back(sampler: str, codec: dict[str, Any] | None) -> None:
    """Any picture, through a network of random weights: its latents come back, to 1e-3 of their size, and not without refinement."""
    made, assets = toys.model(channels=3 if codec else 1, size=(16, 16), codec=codec), Assets()
    seal = assets.add(toys.noise((3 if codec else 1, 16, 16)))
    with torch.inference_mode():
        z = made.codec.encode(as_pixels(assets.picture(seal))[None])

    def missed(refine: int) -> float:
        events = list(generate(made, ask(seal, {"refine": refine, "tolerance": 1e-6}, sampler=sampler), assets=assets))
        x = [e.step.x for e in events if isinstance(e, Stepped)][-1]
        return float((x - z).norm() / z.norm())

    assert missed(60) < 1e-3 < missed(0)


def test_guided_both_ways() -> None:
    """mix null: guided up as well as down, which comes back; up without guidance and down with it does not."""
    made, assets = worded.two(std=0.4), Assets()
    picture = sample(made, "shirt")
    seal, x0 = assets.add(picture), as_pixels(picture)
    fields = {"prompt": "shirt", "negative": "shoe", "mix": {"kind": "cfg", "scale": 1.3}, "steps": 40}
    both, one = (
        float(
            (toys.finished(made, ask(seal, {"source": "shirt", "refine": 60, "mix": mix}, **fields), assets=assets) - x0)
            .abs()
            .max()
        )
        for mix in (None, "none")
    )
    assert both < 1e-2 < one


def test_variations_of_a_foreign_picture() -> None:
    """vary 0 is the inversion, 1 the image task bit for bit, and between them the numbered pictures move away."""
    made, assets = worded.two(), Assets()
    seal = assets.add(sample(made, "shirt"))
    for strength in (0.6, 1):
        fields = {"prompt": "shirt", "seed": 3, "index": 2, "count": 3, "mix": "none"}
        image = Request.model_validate(
            {"task": {"kind": "image", "picture": seal, "strength": strength}, "steps": 20, "sampler": "ddim", **fields}
        )
        one = toys.finished(made, ask(seal, {"strength": strength, "vary": 1}, **fields), assets=assets)
        assert torch.equal(one, toys.finished(made, image, assets=assets))
        still = top(made, ask(seal, {"strength": strength}, **{**fields, "count": 1}), assets)
        off = [
            float((top(made, ask(seal, {"strength": strength, "vary": v}, **fields), assets) - still).square().mean())
            for v in (0.01, 0.1, 0.5, 1)
        ]
        assert off == sorted(off) and 0 < off[0] < 0.01 * off[-1]


def test_parts_and_prompts_share_one_inversion() -> None:
    """x_T does not depend on the batch, and an odd size is padded for the run and cropped after it."""
    made, assets = toys.model(channels=3, size=(16, 16), codec=toys.CODEC, labelled=True), Assets()
    seal = assets.add(toys.noise((3, 13, 18)))
    prompts = ["shirt", "shoe", "bag"]
    whole = top(made, ask(seal, prompt=prompts), assets)
    parts = [e.x for e in generate(made, ask(seal, prompt=prompts, micro_batch=1), assets=assets) if isinstance(e, Started)]
    assert torch.equal(torch.cat(parts), whole)
    assert toys.finished(made, ask(seal, prompt=prompts), assets=assets).shape == (3, 3, 13, 18)


def test_the_request_survives_as_json() -> None:
    made, assets = small.model(), Assets()
    seal = assets.add(toys.noise((1, 8, 8)))
    asked = ask(seal, {"source": "a/b, c", "mix": None, "strength": 0.4, "vary": 0.2, "fit": "pad"}).resolve(made, assets)
    again = type(asked).model_validate_json(asked.model_dump_json())
    assert again == asked and again.task == asked.task and describe(again) == describe(asked)
    assert asked.task.inputs == (seal,) and asked.size == (8, 8)
    mixes = [ask(seal, {"mix": m}).task.mix for m in (None, "none", {"kind": "cfg", "scale": 3})]  # type: ignore[attr-defined]
    assert [m and m.kind for m in mixes] == [None, "none", "cfg"]


@pytest.mark.parametrize(
    ("task", "fields", "line"),
    [
        ({}, {"count": 2}, "without vary nothing is drawn by number, every picture of a prompt is the same: set count to 1"),
        ({}, {"sampler": "ddpm"}, "sampler 'ddpm' draws noise"),
        ({"source": "shirt"}, {}, "unconditional, it cannot follow 'shirt'"),
        ({"picture": "sha256:0"}, {}, "picture sha256:0 is not at hand: give its file with --input"),
        ({}, {"steps": 1}, "one step from the data to nothing but noise leaves nothing to invert: use more steps"),
    ],
)
def test_refusals(task: dict[str, Any], fields: dict[str, Any], line: str) -> None:
    assets = Assets()
    seal = assets.add(toys.noise((1, 8, 8)))
    with pytest.raises(SpecError, match=line):
        list(generate(small.model(labelled=False), ask(seal, task, **fields), assets=assets))


def test_every_deterministic_solver_rises() -> None:
    """One that draws nothing is accepted, whatever its memory, and its plain round trip is near."""
    for kind, cls in kinds("sampler").items():
        solver = cls()
        assert isinstance(solver, Sampler)
        if kind != "repaint" and not solver.stochastic:
            assert float(there_and_back(kind, "flow", 80, refine=10).median()) < 1e-2, kind


def test_a_sampler_that_nobody_named_is_one_that_can_be_undone() -> None:
    """Instead of a model's default that remembers or draws; what a request names is taken at its word."""
    made, assets = small.model(), Assets()
    seal = assets.add(toys.noise((1, 8, 8)))
    usual = made.spec.defaults
    for kind, wanted in (("dpm++2m", "ddim"), ("ddpm", "ddim"), ("heun", "heun"), ("euler", "euler")):
        made.spec = made.spec.model_copy(update={"defaults": usual.model_copy(update={"sampler": build(kind, "sampler")})})
        for task in ({"kind": "invert", "picture": seal}, {"kind": "interpolate", "ends": [{"picture": seal}, {}]}):
            assert Request.model_validate({"task": task, "count": 2}).resolve(made, assets).sampler.kind == wanted
            named = Request.model_validate({"task": task, "count": 2, "sampler": kind})
            assert named.resolve(made, assets).sampler.kind == kind
        assert Request().resolve(made).sampler.kind == kind
        assert path_of_words().resolve(made).sampler.kind == kind


def path_of_words() -> Request:
    return Request.model_validate({"task": {"kind": "interpolate", "ends": [{}, {"seed": 1}]}, "count": 2})
