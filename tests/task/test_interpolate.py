"""Paths: the ends are what the text task makes of them, and between them noise stays noise and words turn into each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.assets import Assets
from safelight.between import slerp
from safelight.generate import Finished, Prepared, Started, generate
from safelight.spec import SpecError, describe, kinds, parse
from safelight.task import Request
from safelight.task.interpolate import Interpolate
from safelight.trace import Recorder, Trace
from tests.task import toys, worded

LONG = "a red apple, a blue ball, a green tree, a yellow car"  # two windows of the small tower
A, B, C = (
    {"prompt": "two cats", "seed": 3},
    {"prompt": LONG, "seed": 8, "number": 4},
    {"prompt": "", "seed": 1, "negative": "cats"},
)


def path(ends: list[dict[str, Any]], count: int = 5, task: dict[str, Any] | None = None, **fields: Any) -> Request:
    whole = {"kind": "interpolate", "ends": ends, **(task or {})}
    return Request.model_validate({"task": whole, "count": count, "steps": 4, "micro_batch": 1, **fields})


def text(end: dict[str, Any], **fields: Any) -> Request:
    """The end alone, as the text task is asked for it."""
    mine = {"prompt": [end["prompt"]], "seed": end["seed"], "index": end.get("number", 0), "negative": end.get("negative", "")}
    return Request.model_validate({**mine, "steps": 4, **fields})


def starts(made: Any, asked: Request, **rest: Any) -> list[Started]:
    return [e for e in generate(made, asked, **rest) if isinstance(e, Started)]


@pytest.mark.parametrize("sampler", [kind for kind in kinds("sampler") if kind != "repaint"])
def test_the_ends_are_those_of_the_text_task(sampler: str) -> None:
    """Bit for bit with the same micro-batch, of every end, whatever the sampler draws."""
    made = worded.words()
    found = toys.finished(made, path([A, B, C], 5, sampler=sampler))
    for k, end in ((0, A), (2, B), (4, C)):
        assert torch.equal(found[k : k + 1], toys.finished(made, text(end, sampler=sampler))), k
    whole = toys.finished(made, path([A, B, C], 5, sampler=sampler, micro_batch=None))
    assert float((whole - found).abs().max()) < 1e-5


def test_frames_move_evenly_and_only_where_the_ends_differ() -> None:
    """Equal seeds: the noise stands still and the words move; equal words: the other way round; each frame is nearest to its neighbours."""
    made = worded.words()
    for other in ({**A, "prompt": LONG}, {**A, "seed": 11}, B):
        asked = path([A, other], 9, micro_batch=None)
        x, frames = starts(made, asked)[0].x, toys.finished(made, asked)
        still = other["seed"] == A["seed"]
        assert all(torch.equal(x[0], row) for row in x) == still
        steps = [float((a - b).square().mean().sqrt()) for a, b in zip(frames, frames[1:], strict=False)]
        whole = float((frames[0] - frames[-1]).square().mean().sqrt())
        assert whole > 1e-3 and max(steps) < 0.5 * whole, (steps, whole)


def test_noise_on_the_way_is_noise() -> None:
    made = toys.model(size=(64, 64))
    x = starts(made, path([{"seed": 1}, {"seed": 2}], 5, micro_batch=None))[0].x.flatten(1).double()
    assert float((x.var(1) - 1).abs().max()) < 5 * math.sqrt(2 / x.shape[1])
    angles = [float(torch.nn.functional.cosine_similarity(x[0], row, dim=0).clamp(max=1).acos()) for row in x]
    wanted = angles[-1] * torch.linspace(0, 1, 5)
    torch.testing.assert_close(torch.tensor(angles), wanted, atol=5e-3, rtol=0)  # their lengths differ a little


def test_every_branch_of_the_guidance_moves() -> None:
    """Each branch is told a sentence between the two that the mix tells it at the ends, the negative ones too."""
    made = worded.words()
    ends = [{**A, "negative": "a dog"}, {**B, "negative": ""}]
    for mix in ("none", {"kind": "cfg", "scale": 3}, {"kind": "perpendicular"}):
        asked = path(ends, 3, mix=mix, micro_batch=None).resolve(made)
        task = asked.task
        assert isinstance(task, Interpolate)
        brief_of = lambda request: next(_briefs(made, request))  # noqa: E731
        conds = brief_of(asked).conds
        alone = [brief_of(text(end, mix=mix).resolve(made)).conds for end in ends]
        assert set(conds) == set(asked.mix.names)
        for name, cond in conds.items():
            assert cond is not None and cond.vector is not None
            for k, end in ((0, alone[0]), (2, alone[1])):
                mine = end[name]
                assert mine is not None and mine.tokens is not None and mine.mask is not None and cond.tokens is not None
                n = mine.tokens.shape[1]
                assert torch.equal(cond.tokens[k, :n], mine.tokens[0]) and torch.equal(cond.mask[k, :n], mine.mask[0])
                assert not bool(cond.mask[k, n:].any())
            torch.testing.assert_close(cond.vector[1:2], slerp(cond.vector[:1], cond.vector[2:], 0.5))


def _briefs(made: Any, request: Any) -> Any:
    """The first stage of a request, as its task starts it."""
    from safelight.noise import Noise
    from safelight.task import Brief

    numbers = tuple(range(request.index, request.index + len(request.pictures)))
    with torch.inference_mode():
        yield from request.task.stages(
            Brief(made, request, tuple(request.pictures), numbers, Noise(request.seed, numbers), Assets())
        )


def test_places() -> None:
    """Evenly over all legs, on every end that the count meets; smooth slows down at the ends and is half way in the middle."""
    ends = [{}] * 3
    task = parse({"kind": "interpolate", "ends": ends}, "task")
    assert isinstance(task, Interpolate)
    assert [tuple(p) for p in task.places(5)] == [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5), (1, 1.0)]
    for n in range(2, 40):
        along = [p.leg + p.part for p in task.places(n)]
        torch.testing.assert_close(torch.tensor(along), torch.linspace(0, 2, n))
        assert along[0] == 0 and along[-1] == 2 and all(0 <= p.part <= 1 for p in task.places(n))
    smooth = [p.part for p in task.model_copy(update={"ease": "smooth", "ends": task.ends[:2]}).places(5)]
    assert smooth == [0, 0.15625, 0.5, 0.84375, 1]


def test_places_that_are_given() -> None:
    """Frames lie exactly where `at` says, over all legs; a frame at a place is the frame that even spreading has there, bit for bit."""
    task = parse({"kind": "interpolate", "ends": [{}] * 3, "at": [0, 0.25, 1, 1.5, 2]}, "task")
    assert isinstance(task, Interpolate)
    assert [tuple(p) for p in task.places(99)] == [(0, 0.0), (0, 0.25), (1, 0.0), (1, 0.5), (1, 1.0)]
    assert task.places(99) == parse(describe(task), "task").places(1)  # type: ignore[attr-defined]
    made = worded.words()
    even = toys.finished(made, path([A, B], 5))
    some = toys.finished(made, path([A, B], 3, {"at": [0.25, 0.75, 1]}))
    assert torch.equal(some, even[[1, 3, 4]])
    last = toys.finished(made, path([A, B], 1, {"at": [0.25, 0.75, 1]}, index=1))
    assert torch.equal(last, even[3:4])


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({"at": [0, 0.5, 0.5, 1]}, "ascend"),
        ({"at": [0, 1.25]}, "from 0 to 1"),
        ({"at": [-0.1, 1]}, "from 0 to 1"),
        ({"at": [0]}, "at"),
        ({"at": [0, 1], "frames": 3}, "2 places"),
        ({"at": [0, 1], "ease": "smooth"}, "spread evenly"),
    ],
)
def test_places_that_are_none_are_refused(task: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        parse({"kind": "interpolate", "ends": [{}, {}], **task}, "task")


def test_how_far_a_leg_turns() -> None:
    """The noise by the angle between the two draws, the words by the mean of their tokens' angles; what stands still turns by 0."""
    made = worded.words()
    asked = path(
        [A, {**A, "prompt": LONG}, {**A, "prompt": LONG, "seed": 9}, {"picture": "sha256:0", "prompt": LONG}], 4
    ).resolve(made)
    from safelight.noise import Noise
    from safelight.task import Brief

    task = asked.task
    assert isinstance(task, Interpolate)
    brief = Brief(made, asked, ("",), (0,), Noise(0, (0,)), Assets())
    with torch.inference_mode():
        first, second, third = task.turns(brief)
    assert first.noise == pytest.approx(0, abs=1e-4) and first.words is not None and 1 < first.words < 179
    assert second.words == pytest.approx(0, abs=1e-2)
    u, v = (Noise(seed, (0,)).normal("start", None, None, brief.like).flatten().double() for seed in (A["seed"], 9))
    assert second.noise == pytest.approx(math.degrees(math.acos(float(u @ v / (u.norm() * v.norm())))), abs=1e-6)
    assert third.noise is None and third.words == pytest.approx(0, abs=1e-2)


def test_a_part_of_the_path_is_the_same_part() -> None:
    made = worded.words()
    whole = toys.finished(made, path([A, B], 6))
    some = toys.finished(made, path([A, B], 2, {"frames": 6}, index=3))
    assert torch.equal(some, whole[3:5])


def test_what_an_end_leaves_out_is_the_request_s() -> None:
    made = worded.words()
    short = path([{}, {"seed": 8}], 3, prompt="two cats", negative="a dog", seed=3)
    said = path([{**A, "negative": "a dog"}, {"prompt": "two cats", "negative": "a dog", "seed": 8}], 3)
    assert torch.equal(toys.finished(made, short), toys.finished(made, said))


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_a_path_between_pictures(sampler: str) -> None:
    """Pictures are inverted by their words and come back at their ends; a picture and a seed make a path too."""
    made = worded.two(process="cosine")
    assets, given = Assets(), []
    for k, prompt in enumerate(("shirt", "shoe")):
        made_one = toys.finished(made, Request.model_validate({"prompt": prompt, "seed": k, "steps": 40, "sampler": "heun"}))
        given.append(((made_one[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    ends = [{"picture": assets.add(p), "prompt": w} for p, w in zip(given, ("shirt", "shoe"), strict=True)]
    task = {"refine": 40, "tolerance": 1e-5}
    asked = path(ends, 5, task, steps=20, sampler=sampler, mix={"kind": "cfg", "scale": 1.5})
    events = list(generate(made, asked.model_copy(update={"micro_batch": None}), assets=assets))
    assert [e.aside.i for e in events if isinstance(e, Prepared)] == [*range(20), *range(20)]
    frames = next(e.pictures for e in events if isinstance(e, Finished))
    for k, picture in ((0, given[0]), (4, given[1])):
        assert float((frames[k] - (picture.float() / 127.5 - 1)).abs().max()) < 2 / 255
    assert worded.classes(made, frames)[0] == 0 and worded.classes(made, frames)[4] == 1
    assert asked.task.inputs == tuple(assets.add(p) for p in given)
    mixed = toys.finished(
        made, path([ends[0], {"prompt": "shoe", "seed": 5}], 3, task, steps=20, sampler=sampler), assets=assets
    )
    alone = Request.model_validate({"prompt": "shoe", "seed": 5, "steps": 20, "sampler": sampler})
    assert torch.equal(mixed[2:], toys.finished(made, alone))


def test_a_picture_between_two_is_a_picture() -> None:
    """On the exact model of one class every frame's noise is likely, so every frame is as far from the mean as its ends are."""
    made = worded.two()
    frames = toys.finished(
        made, path([{"prompt": "shoe", "seed": 1}, {"prompt": "shoe", "seed": 2}], 7, steps=40, sampler="heun")
    )
    means: Tensor = made.denoiser.means  # type: ignore[assignment]
    off = (frames.flatten(1).double() - means[1]).square().mean(1).sqrt()
    assert float(off.min()) > 0.2 and float(off.max()) < 0.4  # std 0.3 over 64 values


def test_a_recorded_path_goes_on_exactly(tmp_path: Path) -> None:
    made, recorder = worded.words(), Recorder()
    asked = path([A, B], 4, sampler="ddpm", micro_batch=None)
    for event in generate(made, asked):
        recorder.see(event)
    recorder.save(tmp_path / "run.trace")
    trace = Trace.open(tmp_path / "run.trace")
    again = [e.pictures for e in generate(made, asked, recorded=trace, first=2) if isinstance(e, Finished)]
    assert torch.equal(torch.cat(again), trace.pictures)


def test_the_request_survives_as_json() -> None:
    asked = path(
        [A, {"picture": "sha256:" + "0" * 32}], 6, {"ease": "smooth", "words": "straight", "frames": 9, "fit": "stretch"}
    )
    again = Request.model_validate_json(asked.model_dump_json())
    assert again == asked and again.task == asked.task and describe(again) == describe(asked)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (lambda: path([A]), "Tuple should have at least 2 items after validation, not 1"),
        (lambda: path([A, B], 1), "a path has 2 frames at least: set count, or the task's frames"),
        (lambda: path([A, B], 4, {"frames": 3}), r"the path has frames 0\.\.2, there is no frame 3"),
        (lambda: path([A, B], prompt=["x", "y"]), "several prompts are several ends"),
        (lambda: path([{"picture": "sha256:1", "seed": 3}, B]), "a picture has its own noise"),
        (lambda: path([{"picture": "sha256:1"}, B]), "picture sha256:1 is not at hand: give its file with --input"),
        (
            lambda: path([{"picture": "PICTURE"}, B], sampler="ddpm"),
            "sampler 'ddpm' draws noise, and what is drawn cannot be undone",
        ),
    ],
)
def test_refusals(asked: Any, line: str) -> None:
    assets = Assets()
    seal = assets.add(toys.noise((1, 8, 8)))

    def run() -> None:
        text = asked().model_dump_json().replace("PICTURE", seal)
        request = Request.model_validate_json(text).model_copy(update={"micro_batch": None})
        list(generate(worded.words(), request, assets=assets))

    with pytest.raises((SpecError, ValueError), match=line):
        run()
