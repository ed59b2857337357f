"""Strengths: a scale for each moment of a run, said as a number, a list or a curve; what was said before still parses."""

from __future__ import annotations

import json
import math

import pytest
import torch

from safelight.denoise import Estimate
from safelight.grid import grid
from safelight.guide.strength import Strength, strength
from safelight.process import Level, Process
from safelight.spec import SpecError, build, describe, kinds, parse
from safelight.task import Request

PROCESS = build("cosine", "process")
CURVES = {
    "constant": ({"scale": 2.5}, lambda t: 2.5),
    "linear": ({"noisy": 1, "clean": 4}, lambda t: 4 - 3 * t),
    "cosine": ({"noisy": 1, "clean": 4}, lambda t: 4 - 3 * math.sin(math.pi * t / 2) ** 2),
    "power": ({"noisy": 1, "clean": 4, "power": 3}, lambda t: 4 - 3 * t * t * t),
    "points": ({"scales": [1, 5, 2]}, lambda t: 1 + 8 * (1 - t) if t >= 0.5 else 5 - 6 * (0.5 - t)),
}


def branches(x: torch.Tensor, level: Level, names: tuple[str, ...]) -> dict[str, Estimate]:
    return {name: Estimate(x + {"cond": 1.0, "null": 0.25, "weak": -0.5}[name]) for name in names}


def test_every_strength_has_its_curve_here() -> None:
    assert set(CURVES) == set(kinds("strength"))


@pytest.mark.parametrize("kind", CURVES)
def test_a_curve_is_its_formula(kind: str) -> None:
    fields, formula = CURVES[kind]
    strength = build({"kind": kind, **fields}, "strength")
    for t in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0):
        assert strength.at(t) == pytest.approx(formula(t), abs=1e-12)


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("mix", ["cfg", "autoguidance"])
def test_a_mix_is_at_each_time_what_it_is_at_that_number(mix: str, kind: str) -> None:
    """Guidance by a curve is guidance by a number, another one at each level; equal to the last bit."""
    fields, _ = CURVES[kind]
    rest = {"weak": "x"} if mix == "autoguidance" else {}
    curve = {"kind": kind, **fields}
    guided = build({"kind": mix, "scale": curve, **rest}, "mix")(branches)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for t in (0.05, 0.4, 0.95):
        number = parse(curve, "strength").at(t)  # type: ignore[attr-defined]
        assert torch.equal(
            guided(x, PROCESS.at(t)).x0, build({"kind": mix, "scale": number, **rest}, "mix")(branches)(x, PROCESS.at(t)).x0
        )


def test_a_list_is_points_and_depends_on_no_number_of_steps() -> None:
    mix = build({"kind": "cfg", "scale": [1, 5, 2]}, "mix")
    assert mix == build({"kind": "cfg", "scale": {"kind": "points", "scales": [1, 5, 2]}}, "mix")
    assert build({"kind": "points", "scales": [3]}, "strength").at(0.3) == 3
    x, level = torch.zeros(1, 1, 2, 2), PROCESS.at(0.5)
    assert torch.equal(mix(branches)(x, level).x0, build({"kind": "cfg", "scale": 5}, "mix")(branches)(x, level).x0)


def test_what_was_written_before_still_parses() -> None:
    """A number stays a number, in and out."""
    for text in ('{"kind": "cfg", "scale": 2.0}', '{"kind": "cfg", "scale": 3, "interval": [0.2, 0.8], "rescale": 0.7}'):
        mix = parse(json.loads(text), "mix")
        assert isinstance(mix.scale, float)  # type: ignore[attr-defined]
        assert describe(mix, family=False) == {"interval": [0.0, 1.0], "rescale": 0.0} | json.loads(text)


@pytest.mark.parametrize("kind", CURVES)
def test_a_request_with_a_curve_goes_through_json(kind: str) -> None:
    asked = Request.model_validate({"mix": {"kind": "cfg", "scale": {"kind": kind, **CURVES[kind][0]}}})
    again = parse(json.loads(json.dumps(describe(asked))), "request")
    assert again == asked and isinstance(again.mix.scale, Strength)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("scale", "line"),
    [
        (-1, r"^mix\.scale: a guidance scale is a number from 0 to 1,000,000 \(given: -1\)$"),
        (math.nan, r"^mix\.scale: a guidance scale is a number from 0"),
        (1e308, r"^mix\.scale: a guidance scale is a number from 0 to 1,000,000"),
        ([1, 1e308], r"^mix\.scale\.scales\.1: "),
        ("lineer", r"^mix\.scale: no strength 'lineer'; did you mean 'linear'\?"),
        ({"kind": "linear", "nosiy": 1}, r"^mix\.scale: unknown field 'nosiy'; did you mean 'noisy'\?"),
        ({"kind": "linear", "noisy": -1}, r"^mix\.scale\.noisy: "),
        ([], r"^mix\.scale\.scales: "),
        ([2, -1], r"^mix\.scale\.scales\.1: "),
        (None, r"^mix\.scale: a strength is given by its kind"),
    ],
)
def test_a_bad_scale_is_one_clear_line(scale: object, line: str) -> None:
    with pytest.raises(SpecError, match=line) as caught:
        build({"kind": "cfg", "scale": scale}, "mix")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n", [10, 20, 50])
def test_the_ends_of_an_interval_count_however_they_are_written(n: int) -> None:
    process: Process = build("flow", "process")
    for k, level in enumerate(process.at(grid(process, n)).split()[:-1]):
        end = float(f"{1 - k / n:.6g}")  # 0.3, where the grid has 0.30000000000000004
        assert strength(5.0, (0.0, end), level) == 5.0
        assert k == 0 or (strength(5.0, (end, 1.0), level), strength(5.0, (end + 1e-6, 1.0), level)) == (5.0, 1.0)
