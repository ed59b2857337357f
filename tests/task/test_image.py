"""Picture to picture: what strength means, what it leaves, and that a picture of any size comes back at its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.assets import Assets, as_pixels
from safelight.denoise import Estimate
from safelight.draw.pixels import to_bytes
from safelight.generate import Finished, Started, Stepped, generate
from safelight.noise import Noise
from safelight.process import Level
from safelight.spec import SpecError, build, describe, kinds, parse
from safelight.task import Request
from safelight.task.strength import times
from safelight.trace import Recorder, Trace
from tests import small
from tests.task import toys

PROCESSES = [
    {"kind": "linear"},
    {"kind": "linear", "T": 60},
    {"kind": "cosine"},
    {"kind": "ve"},
    {"kind": "edm"},
    {"kind": "flow"},
]
STRENGTHS = (0.02, 0.1, 0.3, 0.5, 0.6, 0.75, 0.9, 0.99, 1.0)
SAMPLERS = list(kinds("sampler"))


def edit(picture: Tensor, **fields: Any) -> tuple[Request, Assets]:
    """A request to edit a picture; `task` holds the task's own fields."""
    assets = Assets([picture])
    name = assets.add(picture)
    return Request.model_validate({**fields, "task": {"kind": "image", "picture": name, **fields.get("task", {})}}), assets


def test_strength_as_other_tools_count_it() -> None:
    """The last floor(strength n) steps of the grid, as floats multiply; at least one."""
    over, places = build("linear", "process"), build("trailing", "grid")
    for n in (1, 5, 10, 50):
        whole = places(over, n)
        for strength in STRENGTHS:
            found = times(places, over, n, strength, "grid")
            assert torch.equal(found, whole[n - max(int(n * strength), 1) :])


@pytest.mark.parametrize("process", PROCESSES, ids=str)
@pytest.mark.parametrize("grid", list(kinds("grid")))
def test_where_a_strength_begins(grid: str, process: dict[str, object]) -> None:
    """At t = strength, whatever the number of steps; lower only where the grid itself begins lower. Always one step, none empty."""
    over, places = build(process, "process"), build(grid, "grid")
    for n in (1, 2, 7, 20, 50):
        top = float(places(over, n)[0])
        counts = []
        for strength in STRENGTHS:
            found = times(places, over, n, strength, "scaled")
            assert float(found[0]) == min(strength, top) and float(found[-1]) == 0
            assert bool((found[1:] < found[:-1]).all()) and 2 <= len(found) <= n + 1
            assert set(found[1:].tolist()) <= set(places(over, n).tolist()), "the rest are the grid's own"
            counts.append(len(found) - 1)
        assert counts == sorted(counts) and counts[-1] == n
        # What the start could depend on is where the grid begins, and that is always in the same place.
        assert grid in ("leading", "published") or top == pytest.approx(float(places(over, 11)[0]), abs=1e-6)


def test_so_many_of_so_many_steps() -> None:
    """On the flow's even grid, strength x n steps, rounded up but for a step that would be a hundredth of one."""
    flow, uniform = build("flow", "process"), build("uniform", "grid")
    expected = {0.01: 1, 0.05: 1, 0.3: 6, 0.6: 12, 0.6001: 12, 0.61: 13, 1.0: 20}
    assert {s: len(times(uniform, flow, 20, s, "scaled")) - 1 for s in expected} == expected


@pytest.mark.parametrize("process", PROCESSES, ids=str)
@pytest.mark.parametrize("grid", list(kinds("grid")))
def test_exact_steps(grid: str, process: dict[str, object]) -> None:
    """Exactly n, from the same start; refused only where a table or a grid has no room for them."""
    over, places = build(process, "process"), build(grid, "grid")
    refused = 0
    for n in (1, 5, 20):
        for strength in (0.3, 0.6, 1.0):
            try:
                found = times(places, over, n, strength, "exact")
            except SpecError:
                refused += 1
                continue
            assert len(found) == n + 1 and bool((found[1:] < found[:-1]).all())
            assert float(found[0]) == min(strength, float(places(over, n)[0]))
    assert refused <= (4 if process.get("T") else 1), "a table of 60 has no 20 entries below a third of it"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 5, 13), (3, 1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_strength_0_returns_the_picture(channels: int, shape: tuple[int, ...]) -> None:
    """Byte for byte, in the model's channels, without a step."""
    made = toys.model(channels=channels, codec=toys.CODEC if channels == 3 else None)
    picture = toys.noise(shape)
    request, assets = edit(picture, task={"strength": 0}, count=2)
    events = list(generate(made, request, assets=assets))
    assert [type(e) for e in events] == [Finished]
    back = torch.from_numpy(to_bytes(events[0].pictures)).permute(0, 3, 1, 2)
    expected = picture if shape[0] == channels else picture.expand(3, -1, -1) if channels == 3 else None
    assert back.shape == (2, channels, *shape[1:])
    if expected is not None:
        assert torch.equal(back[0], expected) and torch.equal(back[1], expected)


@pytest.mark.parametrize("process", ["flow", "cosine", "linear"])
def test_strength_1_is_the_text_task(process: str) -> None:
    made = small.model(process=process)
    request, assets = edit(toys.noise((1, 8, 8)), task={"strength": 1}, prompt=["bag", "shoe"], seed=4)
    plain = request.model_copy(update={"task": parse("text", "task")})
    assert torch.equal(toys.finished(made, request, assets=assets), toys.finished(made, plain))


@pytest.mark.parametrize("sampler", ["ddim", "dpm++2m", "ddpm", "heun"])
def test_more_strength_changes_more(sampler: str) -> None:
    """mean |out - in| never falls with strength, with the exact denoiser of white noise on 32x32 pictures of it."""

    def white(x: Tensor, level: Level) -> Estimate:
        alpha, sigma, _ = level.floats
        return Estimate(x * (alpha / (alpha**2 + sigma**2)))

    made = toys.model(white, size=(32, 32), process="cosine")
    picture = (
        ((torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(2)) * 0.4 + 1) * 127.5).round().clamp(0, 255).byte()
    )
    apart = []
    for strength in (0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1):
        request, assets = edit(picture, task={"strength": strength}, steps=40, sampler=sampler)
        apart.append(float((toys.finished(made, request, assets=assets) - as_pixels(picture)).abs().mean()))
    assert apart[0] == 0 and apart == sorted(apart) and len(set(apart)) == len(apart), apart


def test_the_start_is_the_noised_picture() -> None:
    """alpha z + sigma n with the text task's noise, encoded from the picture as padded by its own last pixels."""
    made = toys.model(channels=3, codec=toys.CODEC)
    picture = toys.noise((3, 7, 10))
    request, assets = edit(picture, task={"strength": 0.4}, steps=10)
    event = next(iter(generate(made, request, assets=assets)))
    assert isinstance(event, Started)
    x = as_pixels(picture)[None]
    rows, columns = [*range(7), 6], [*range(10), 9, 9]
    with torch.no_grad():
        z = made.codec.encode(x[..., rows, :][..., columns])
    n = Noise(0, 1).normal("start", None, None, z)
    torch.testing.assert_close(event.x, 0.6 * z + 0.4 * n)
    assert len(event.levels) - 1 == 4 and request.resolve(made, assets).size == (7, 10)
    assert request.task.runs(request.resolve(made, assets), made) == 4  # type: ignore[attr-defined]


def test_padding_is_cropped_away() -> None:
    """A denoiser that believes in the picture gives back what the codec makes of it, at its own size."""
    picture = toys.noise((3, 6, 11))
    made = toys.model(channels=3, codec=toys.CODEC)
    rows, columns = [*range(6), 5, 5], [*range(11), 10]
    with torch.no_grad():
        z = made.codec.encode(as_pixels(picture)[None][..., rows, :][..., columns])
        expected = made.codec.decode(z)[..., :6, :11]
    sure = toys.model(lambda x, level: Estimate(z.expand(len(x), -1, -1, -1)), channels=3, codec=toys.CODEC)
    request, assets = edit(picture, steps=5, count=2)
    torch.testing.assert_close(toys.finished(sure, request, assets=assets), expected.expand(2, -1, -1, -1))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_another_size_is_fitted(fit: str) -> None:
    picture = toys.noise((1, 20, 30))
    request, assets = edit(picture, task={"strength": 0, "fit": fit}, size=(8, 8))
    found = to_bytes(toys.finished(toys.model(), request, assets=assets))[0]
    expected = build(fit, "transform")(picture.permute(1, 2, 0).numpy(), (8, 8))
    assert (found == expected).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_is_the_same_alone_and_in_any_batch(sampler: str) -> None:
    made, picture = small.model(), toys.noise((1, 9, 7))
    request, assets = edit(picture, prompt=["bag", "shoe", ""], count=2, seed=5, sampler=sampler)
    whole = toys.finished(made, request, assets=assets)
    parts = toys.finished(made, request.model_copy(update={"micro_batch": 4}), assets=assets)
    alone, _ = edit(picture, prompt="shoe", seed=5, index=3, sampler=sampler)
    assert float((parts - whole).abs().max()) < 1 / 255
    assert float((toys.finished(made, alone, assets=assets) - whole[3:4]).abs().max()) < 1 / 255
    assert float((whole[2] - whole[3]).abs().max()) > 1 / 255


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_recorded_edit_goes_on_exactly(tmp_path: Path, sampler: str) -> None:
    made = small.model()
    request, assets = edit(toys.noise((1, 8, 8)), prompt=["bag", ""], seed=5, steps=8, sampler=sampler)
    recorder = Recorder()
    for event in generate(made, request, assets=assets):
        recorder.see(event)
    recorder.save(tmp_path / "run.trace")
    trace = Trace.open(tmp_path / "run.trace")
    assert trace.request.resolve(made, assets) == request.resolve(made, assets) and len(trace.steps) == 5
    for k in (1, 4):
        again = toys.finished(made, request, assets=assets, recorded=trace, first=k)
        assert torch.equal(again, trace.pictures)


def test_a_request_survives_json() -> None:
    request, assets = edit(toys.noise((1, 8, 8)), task={"strength": 0.3, "steps": "exact", "fit": {"kind": "pad", "fill": 0}})
    resolved = request.resolve(small.model(), assets)
    assert parse(describe(resolved), "request").resolve(small.model(), assets) == resolved  # type: ignore[attr-defined]
    assert resolved.task.inputs == (assets.add(toys.noise((1, 8, 8))),)


def test_refusals() -> None:
    made = small.model()
    request, assets = edit(toys.noise((1, 8, 8)))
    with pytest.raises(SpecError, match=r"picture sha256:[0-9a-f]{32} is not at hand: give its file with --input"):
        list(generate(made, request))
    with pytest.raises(SpecError, match=r"strength"):
        build({"kind": "image", "picture": "x", "strength": 1.1}, "task")
    crowded, assets = edit(toys.noise((1, 8, 8)), task={"strength": 0.01, "steps": "exact"}, steps=50)
    with pytest.raises(SpecError, match="50 exact steps do not fit below strength 0.01 on process 'linear'"):
        list(generate(small.model(process="linear"), crowded, assets=assets))


def test_a_run_says_how_many_steps_it_takes() -> None:
    request, assets = edit(toys.noise((1, 8, 8)), task={"strength": 0.6}, steps=20)
    events = list(generate(toys.model(), request, assets=assets))
    assert isinstance(events[0], Started) and len(events[0].levels) == 13 and events[0].request.steps == 20
    assert sum(isinstance(e, Stepped) for e in events) == 12


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_the_least_strength_is_a_step(process: dict[str, object]) -> None:
    """Any strength above 0 runs one, also where the process has no noise there that a number could hold."""
    for strength in (1e-300, 1e-12, 1e-9):
        found = times(build("uniform", "grid"), build(process, "process"), 10, strength, "scaled")
        assert found.tolist() == [1e-9, 0]
    model = small.model(process=str(process["kind"]))
    request, assets = edit(torch.zeros(1, 8, 8, dtype=torch.uint8), prompt="shoe", task={"strength": 1e-12})
    *_, last = generate(model, request, assets=assets)
    assert isinstance(last, Finished) and bool((last.pictures.abs() <= 1.05).all())  # VE's least noise is 0.01
