"""Adherence: a perfect model gets all of it, mixed-up prompts the level of chance, and one thing wrong is one aspect wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from safelight.data.scenes.adherence import Verdict
from safelight.data.scenes.compose import Scenes
from safelight.evaluate import show
from safelight.evaluate.adherence import (
    BARS,
    HELD_CELLS,
    MARKS,
    SEEN_CELLS,
    Asked,
    Graded,
    OfComposer,
    OfModel,
    Painted,
    Part,
    Plan,
    Report,
    adherence,
    prompts,
    table,
    wilson,
)
from safelight.generate import Finished, generate
from safelight.spec import SpecError
from tests.evaluate.scenes import Counting, checker, composer, tiny

SMALL = Plan(prompts=200, seen=60, scales=(1.0,), batch=50)


def last(events: object) -> Report:
    report = list(events)[-1]  # type: ignore[call-overload]
    assert isinstance(report, Report)
    return report


@pytest.fixture(scope="module")
def perfect() -> Report:
    return last(adherence(OfComposer(composer()), checker(), SMALL))


def test_a_perfect_model_gets_all_of_it(perfect: Report) -> None:
    for part in ("held", "seen"):
        rows = perfect.numbers[part]
        assert set(rows) >= {"background", "concept", SEEN_CELLS, "count", "relation", "colour", "everything"}
        for name, row in rows.items():
            assert row["rate"] >= 0.98, (part, name)
            assert row["rate"] == row["own"], "composed pictures are what the checkers are measured on"
            assert row["low"] <= row["rate"] <= row["high"] and row["codec"] is None
    held = perfect.numbers["held"]
    assert set(BARS) <= set(held)
    # 30 % single, 20 % colour, 20 % count, 30 % relation; a relation is of two things, and every single one of a held-out cell.
    assert [held[name]["n"] for name in ("background", "count", "relation", "colour")] == [200, 40, 60, 40]
    assert (held["concept"]["n"], held[HELD_CELLS]["n"]) == (260, 60)
    # Seen singles are the training sprites again, held-out cells are designs of their own.
    assert perfect.numbers["copies"]["seen"]["fraction"] == 1.0
    assert perfect.numbers["copies"]["held"]["fraction"] < 0.15
    assert perfect.numbers["copies"]["seen"]["n"] == 18
    assert all(mark is not False for row in perfect.held.marks()[:20] for mark in row)


def test_mixed_up_prompts_get_the_level_of_chance() -> None:
    paint = OfComposer(composer(), shuffled=True)
    report = last(adherence(paint, checker(), SMALL))
    asked = prompts(composer(), "held", SMALL.prompts, SMALL.seed)
    a: Scenes = asked.scenes
    parts = [paint.shown(asked.rows(slice(i, i + 50)).scenes, i) for i in range(0, 200, 50)]
    b = Scenes(*(torch.cat(field) for field in zip(*parts, strict=True)))
    rows = report.numbers["held"]
    assert rows["background"]["right"] == int((a.background == b.background).sum())
    shown = torch.where(b.relation >= 0, 2, b.number)
    count = a.number > 1
    assert rows["count"]["right"] == pytest.approx(int((shown == a.number)[count].sum()), abs=2)
    same = (a.concept[:, 0] == b.concept[:, 0]).double().mean().item()
    assert same < 0.08 and rows["concept"]["rate"] == pytest.approx(same, abs=0.05)
    assert rows["relation"]["rate"] <= 0.25 and rows["everything"]["rate"] <= 0.02
    assert 0.1 < rows["style"]["rate"] < 0.4  # four styles


def _but(scenes: Scenes, aspect: str) -> Scenes:
    """The same scenes with one thing wrong."""
    rows = torch.arange(len(scenes.template))
    if aspect == "background":
        grounds = composer().solid[scenes.sprite[:, 0]] & composer().solid[scenes.sprite[:, 1].clamp(min=0)]
        grounds[rows, scenes.background] = False
        return scenes._replace(background=grounds.int().argmax(1))
    if aspect == "relation":  # places changed
        return scenes._replace(x=scenes.x[:, [1, 0, 2, 3]], y=scenes.y[:, [1, 0, 2, 3]])
    if aspect == "count":  # the last is taken away
        x = scenes.x.clone()
        x[rows, scenes.number - 1] = -1
        return scenes._replace(x=x)
    if aspect == "colour":
        other = torch.where(scenes.colour[:, 0] == 0, 4, 0)  # red becomes blue, all else red
        return scenes._replace(colour=torch.stack([other, scenes.colour[:, 1]], 1))
    sprite = scenes.sprite[:, 0]
    concept = composer().concept
    other = torch.stack([(sprite + k) % len(concept) for k in range(1, 96)], 1)
    fine = composer().solid[other, scenes.background[:, None]] & (concept[other] != concept[sprite][:, None])
    return scenes._replace(
        sprite=torch.stack([other.gather(1, fine.int().argmax(1, keepdim=True))[:, 0], scenes.sprite[:, 1]], 1)
    )


@pytest.mark.parametrize(
    ("aspect", "template"), [("background", 5), ("relation", 5), ("count", 4), ("colour", 1), ("concept", 0)]
)
def test_one_thing_wrong_is_one_aspect_wrong(aspect: str, template: int) -> None:
    scenes = prompts(composer(), "seen", 200, 3).scenes
    scenes = scenes.rows(scenes.template == template)
    if aspect == "colour":  # red on red is another question
        scenes = scenes.rows((scenes.background != 3) & (scenes.background != 7) & (scenes.background != 4))
    rates = checker().grade(composer().render(_but(scenes, aspect)), scenes).rates()
    assert rates[aspect].rate <= 0.05 and rates[aspect].n >= 20
    assert rates["everything"].rate <= 0.05
    for name in ("background", "concept", "count", "relation", "colour"):
        if name != aspect and rates[name].n:
            assert rates[name].rate >= 0.9, name


def test_nothing_painted_is_nothing_right() -> None:
    scenes = prompts(composer(), "held", 40, 1).scenes
    grades = checker().grade(torch.full((40, 3, 64, 64), 255, dtype=torch.uint8), scenes)
    rates = grades.rates()
    assert [rates[n].right for n in ("concept", "count", "relation", "colour", "style", "everything")] == [0] * 6
    assert (grades.judged.concept == -1).all()


def test_a_mark_is_right_where_all_things_are() -> None:
    right = torch.tensor([[True, False], [True, True], [True, False], [False, False]])
    there = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
    nothing = Verdict(right[:, 1], there[:, 0] & ~there[:, 0])
    graded = Graded({**dict.fromkeys(MARKS, nothing), "concept": Verdict(right, there)}, None)  # type: ignore[arg-type]
    marks = Part(None, right, graded, {}, {}).marks()  # type: ignore[arg-type]
    assert [row[MARKS.index("concept")] for row in marks] == [False, True, True, None]
    assert all(row[0] is None for row in marks)


def test_the_best_scale_is_found_on_other_prompts_and_then_used() -> None:
    paint = Counting(good=2.0)
    plan = Plan(prompts=40, seen=0, curve=20, scales=(1.0, 2.0, 3.0), batch=20)
    report = last(adherence(paint, checker(), plan))
    assert report.best == report.numbers["scale"] == 2.0
    assert [row["scale"] for row in report.numbers["curve"]] == [1.0, 2.0, 3.0]
    assert report.numbers["curve"][1]["mean"] > 0.98 > 0.5 > report.numbers["curve"][0]["mean"]
    assert report.numbers["held"]["everything"]["rate"] >= 0.95 and report.seen is None
    assert paint.painted == plan.pictures == 100
    held, curve = (set(prompts(composer(), part, 20, plan.seed).captions) for part in ("held", "curve"))
    assert held != curve
    assert report.numbers["held"]["background"]["codec"] < 0.5  # this codec keeps nothing, and is seen to
    assert json.loads(json.dumps(report.numbers)) == json.loads(json.dumps(report.numbers, allow_nan=False))


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    plan = Plan(prompts=30, seen=10, scales=(1.0,), batch=10)
    first = Counting()
    for n, event in enumerate(adherence(first, checker(), plan, tmp_path), 1):
        assert event == Painted(10 * n, 40, 0)
        if n == 2:
            break
    second = Counting()
    events = list(adherence(second, checker(), plan, tmp_path))
    assert (first.painted, second.painted) == (20, 20)
    assert events[0] == Painted(10, 40, 10) and events[3] == Painted(40, 40, 20)
    whole, again = last(adherence(Counting(), checker(), plan)), events[-1]
    assert isinstance(again, Report)
    assert torch.equal(again.held.pictures, whole.held.pictures)
    assert {**again.numbers, "seconds": 0} == {**whole.numbers, "seconds": 0}
    # Another painter, a damaged file: painted again.
    other = Counting(name="other")
    list(adherence(other, checker(), plan, tmp_path))
    assert other.painted == 40
    (tmp_path / "held-1-00020.npz").write_bytes(b"PK\x03\x04 cut short")
    third = Counting(name="other")
    list(adherence(third, checker(), plan, tmp_path))
    assert third.painted == 10


def test_a_model_is_asked_with_its_own_guidance_and_a_picture_does_not_depend_on_its_batch() -> None:
    model = tiny()
    paint = OfModel(model, Plan(steps=2, seed=5), "ema")
    asked = prompts(composer(), "seen", 10, 0)
    whole = paint(asked, 0, 3.0)
    parts = torch.cat([paint(asked.rows(slice(i, i + 4)), i, 3.0) for i in (0, 4, 8)])
    assert whole.shape == (10, 3, 64, 64) and (whole.int() - parts.int()).abs().max() <= 1
    request = paint.request(asked.captions, "seen", 0, 3.0)
    mix = request.mix
    assert (mix.scale, mix.rescale, request.steps, request.seed) == (3.0, 0.25, 2, 5)  # type: ignore[union-attr]
    (finished,) = (event for event in generate(model, request) if isinstance(event, Finished))
    assert torch.equal(((finished.pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8), whole)
    assert not torch.equal(paint(Asked("held", asked.scenes, asked.captions), 0, 3.0), whole)  # each part has its own noise
    pictures = composer().render(asked.scenes)
    again = paint.through(pictures)
    assert again is not None
    x = model.codec.decode(model.codec.encode(pictures.float() / 127.5 - 1))
    assert torch.equal(again, ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(SpecError, match="4 pictures of 3x64x64 bytes"):
        next(iter(adherence(Wrong(), checker(), Plan(prompts=4, seen=0, scales=(1.0,)))))
    grey = tiny()
    object.__setattr__(grey, "text", None)
    with pytest.raises(SpecError, match="measured on a text-to-image model"):
        OfModel(grey, Plan())


class Wrong(Counting):
    """Paints small."""

    def __call__(self, asked: Asked, first: int, scale: float) -> torch.Tensor:
        return super().__call__(asked, first, scale)[..., :32, :32]


@pytest.mark.parametrize(("right", "n"), [(0, 10), (5, 10), (10, 10), (981, 1000), (1, 3)])
def test_wilson_solves_its_equation(right: int, n: int) -> None:
    """The ends are where |p - right/n| = z sqrt(p (1 - p) / n)."""
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    for p in (low, high):
        assert abs(p - right / n) == pytest.approx(1.959963984540054 * math.sqrt(p * (1 - p) / n), abs=1e-9)
    assert wilson(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)  # a value of the tables
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_table_and_the_pictures_say_what_the_report_says(perfect: Report, tmp_path: Path) -> None:
    text = table(perfect.numbers)
    assert f"| {HELD_CELLS} | **100.0 % of 60 (94.0 to 100.0)** | >= 70 % met |" in text
    assert "95 % intervals" in text and "nan" not in text
    lost = json.loads(json.dumps(perfect.numbers))
    lost["held"]["count"]["rate"] = 0.74
    assert ">= 75 % missed" in table(lost)
    del lost["held"]["count"]  # what nobody was asked is not met: its bar stays to be seen
    assert "| count | none asked | >= 75 % not measured |" in table(lost)
    sheet = show.samples(perfect.held, 6)
    assert sheet.getpixel((22, 22)) == show.RIGHT
    curve = [{"scale": s, "mean": 0.9, "rates": perfect.numbers["held"]} for s in (1.0, 2.0)]
    assert show.curve(tmp_path / "curve.png", {**perfect.numbers, "curve": curve, "scale": 2.0}).stat().st_size > 10_000
