"""Lenses: pictures of a recorded run at a step, its numbers, and a step with another guidance from the recorded branches."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from safelight.assets import Assets
from safelight.draw.heat import heat
from safelight.draw.pixels import to_bytes
from safelight.generate import Stepped, generate
from safelight.serve import lenses
from safelight.serve.attention import hear
from safelight.serve.lenses import Lenses, live
from safelight.spec import SpecError, build, parse
from safelight.task import Request
from tests import small
from tests.serve.recorded import PROMPT, reader, recording
from tests.task import toys

MIXES: list[dict[str, Any]] = [
    {"mix": {"kind": "cfg", "scale": 3.0}},
    {"mix": {"kind": "cfg", "scale": 3.0, "rescale": 0.7}},
    {"mix": {"kind": "cfg", "scale": [1.0, 5.0]}},
    {"mix": {"kind": "cfg", "scale": 4.0, "interval": (0.3, 0.7)}},
    {"mix": {"kind": "perpendicular", "scale": 2.0}, "negative": "a dog"},
    {"mix": {"kind": "cfg", "scale": 6.0}, "bends": [{"kind": "threshold", "percentile": 0.9}]},
    {"mix": "none"},
]


@pytest.mark.parametrize("fields", MIXES, ids=lambda f: str(f)[:60])
def test_at_the_recorded_guidance_a_step_is_the_recorded_one(fields: dict[str, Any]) -> None:
    made = reader()
    trace = recording(made, count=2, **fields)
    for picture in (0, 1):
        seen = Lenses(trace, made, picture)
        for k in range(5):
            got = seen.recompute(k, trace.request.mix)
            assert (got.x0 - trace.x0(k)[picture]).abs().max() < 1e-5
            assert np.array_equal(got.decoded, seen.frame("x0", k))


@pytest.mark.parametrize(
    "fields", [MIXES[0], MIXES[1], MIXES[4], MIXES[5]], ids=["cfg", "rescale", "perpendicular", "threshold"]
)
def test_at_another_scale_it_is_what_the_network_gives_there(fields: dict[str, Any]) -> None:
    """Against a fork at that step, which asks the network."""
    made = reader()
    trace = recording(made, **fields)
    mix = trace.request.mix.model_copy(update={"scale": 7.5})
    forked = trace.request.model_copy(update={"mix": mix})
    step = next(e.step for e in generate(made, forked, recorded=trace, first=2) if isinstance(e, Stepped))
    got = Lenses(trace, made).recompute(2, mix)
    assert (got.x0 - step.estimate.x0[0]).abs().max() < 1e-5


@pytest.mark.parametrize("process", ["flow", "cosine", "ve"])
def test_the_dials_formula_is_the_same_in_every_space(process: str) -> None:
    """x0 = null + w (cond - null), eps = eps_null + w (eps_cond - eps_null) and v likewise are one, at any w."""
    made = build(process, "process")
    level = made.at(torch.tensor(0.4, dtype=torch.float64))
    alpha, sigma, _ = level.floats
    g = torch.Generator().manual_seed(0)
    x, cond, null = (torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64) for _ in range(3))

    def eps(x0: Tensor) -> Tensor:
        return (x - alpha * x0) / sigma

    def v(x0: Tensor) -> Tensor:
        return (alpha * eps(x0) - sigma * x0) / np.hypot(alpha, sigma)

    for w in (0.0, 1.0, 2.5, 12.0):
        x0 = null + w * (cond - null)
        torch.testing.assert_close(eps(x0), eps(null) + w * (eps(cond) - eps(null)))
        torch.testing.assert_close(v(x0), v(null) + w * (v(cond) - v(null)))


def test_the_dial_from_the_bytes_that_a_browser_gets() -> None:
    made = reader(latent=True, size=(16, 24))
    trace = recording(made)
    seen = Lenses(trace, made)
    assert seen.dial
    header, body = seen.tensors(3)
    numbers, at = np.frombuffer(body, "<f4"), 0
    found = {}
    for tensor in header["tensors"]:
        size = int(np.prod(tensor["shape"]))
        found[tensor["name"]], at = numbers[at : at + size].reshape(tensor["shape"]), at + size
    assert at == len(numbers)
    assert set(found) == {"x", "x0", "part/cond", "part/null"}
    assert (header["t"], header["alpha"], header["sigma"]) == tuple(trace.about["levels"][3])
    for w in (0.0, 1.0, 3.0, 9.5):
        mine = found["part/null"] + np.float32(w) * (found["part/cond"] - found["part/null"])
        assert np.abs(mine - seen.recompute(3, parse({"kind": "cfg", "scale": w}, "mix")).x0.numpy()).max() < 1e-5
    assert np.array_equal(found["x"], trace.x(3)[0].numpy())
    eps = (found["x"] - header["alpha"] * found["x0"]) / header["sigma"]
    assert np.abs(header["alpha"] * found["x0"] + header["sigma"] * eps - found["x"]).max() < 1e-5


@pytest.mark.parametrize(
    "fields, dial",
    [
        ({}, True),
        ({"mix": {"kind": "cfg", "rescale": 0.5}}, False),
        ({"bends": [{"kind": "threshold"}]}, False),
        ({"mix": "none"}, False),
        ({"mix": {"kind": "perpendicular"}}, False),
        ({"exact": False}, False),
        ({"branches": False}, False),
    ],
)
def test_whether_the_dial_tells_the_whole_of_guidance(fields: dict[str, Any], dial: bool) -> None:
    made = reader()
    assert Lenses(recording(made, **fields), made).dial is dial


def test_what_was_not_recorded_is_refused() -> None:
    made = reader()
    cfg = parse({"kind": "cfg", "scale": 2.0}, "mix")
    with pytest.raises(SpecError, match="previews only"):
        Lenses(recording(made, exact=False), made).recompute(1, cfg)
    with pytest.raises(SpecError, match="step 1 was recorded without branch 'null'"):
        Lenses(recording(made, mix="none"), made).recompute(1, cfg)
    seen = Lenses(recording(made), made)
    with pytest.raises(SpecError, match="without branch 'negative'"):
        seen.recompute(1, parse("perpendicular", "mix"))
    with pytest.raises(SpecError, match=r"step 9 was not recorded \(steps 0..4\)"):
        seen.frame("x0", 9)
    with pytest.raises(SpecError, match="no lens 'noize'; did you mean 'noise'"):
        seen.frame("noize", 1)
    with pytest.raises(SpecError, match="was not heard yet"):
        seen.frame("attention", 1)
    with pytest.raises(SpecError, match=r"pictures 0\.\.0"):
        Lenses(seen.trace, made, 4)


def test_what_inpainting_holds_stays_at_any_guidance() -> None:
    made = small.listening()
    picture, mask = toys.noise((1, 8, 8)), torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[:, 2:6, 2:6] = 255
    assets = Assets([picture, mask])
    names = [assets.add(picture), assets.add(mask)]
    task = {"kind": "inpaint", "picture": names[0], "mask": names[1]}
    trace = recording(made, prompt=("shoe",), task=task, assets=assets)
    seen = Lenses(trace, made)
    got = seen.recompute(2, parse({"kind": "cfg", "scale": 9.0}, "mix")).x0
    kept = (got - trace.x0(2)[0]).abs() == 0
    assert bool(kept[:, :2].all())
    assert bool(kept[:, 6:].all())
    assert not bool(kept[:, 2:6, 2:6].any())
    assert not seen.dial


def test_frames_show_what_they_say() -> None:
    made = reader()
    trace = recording(made)
    seen = Lenses(trace, made)
    x, x0, alpha, sigma = trace.x(2), trace.x0(2), *(float(v) for v in trace.levels[2][1:3])
    grey = lambda z: to_bytes(z)[0].repeat(3, -1)  # noqa: E731
    assert np.array_equal(seen.frame("x", 2), grey(x / np.hypot(alpha, sigma)))
    assert np.array_equal(seen.frame("x0", 2), grey(x0))
    assert np.array_equal(seen.frame("noise", 2), grey((x - alpha * x0) / sigma / 3))
    pull = [(trace.part("cond", k) - trace.part("null", k)).abs()[0, 0].numpy() for k in range(5)]
    assert np.array_equal(seen.frame("guidance", 2), heat(pull[2] / max(p.max() for p in pull)))
    apart = np.abs(grey(x0).astype(float) - grey(trace.pictures)).mean(2) / 127.5
    assert np.abs(seen.frame("difference", 2).astype(int) - heat(apart)).max() <= 1
    assert not np.array_equal(seen.frame("x", 2), seen.frame("x", 3))
    assert np.array_equal(lenses.frame(trace, made, "x0", 2), seen.frame("x0", 2))


def test_a_live_step_shows_what_the_recording_will() -> None:
    made = reader()
    trace = recording(made, count=2)
    seen = Lenses(trace, made, 1)
    for event in generate(made, trace.request):
        if isinstance(event, Stepped):
            shown = live(made, event.step)
            for lens in ("x", "x0"):
                assert np.array_equal(shown[lens][1], seen.frame(lens, event.step.i))


def test_a_sheet_is_its_frames() -> None:
    made = reader(latent=True, size=(16, 24))
    trace = recording(made)
    seen = Lenses(trace, made, 0, hear(trace, made))
    assert seen.available == lenses.LENSES
    for lens in seen.available:
        data, where = seen.sheet(lens)
        page = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert page.shape == (where.rows * where.height, where.columns * where.width, 3)
        for i in range(where.frames):
            top, left = i // where.columns * where.height, i % where.columns * where.width
            assert np.array_equal(page[top : top + where.height, left : left + where.width], seen.frame(lens, i)), lens


@pytest.mark.parametrize(
    "frames, side, columns, rows, cell",
    [(50, 64, 50, 1, 64), (300, 64, 255, 2, 64), (50, 512, 31, 2, 512), (1000, 512, 63, 16, 256), (1000, 1024, 48, 21, 341)],
)
def test_a_sheet_stays_within_webp(frames: int, side: int, columns: int, rows: int, cell: int) -> None:
    made = reader()
    seen = Lenses(recording(made), made)
    seen.moments = dict.fromkeys(range(frames), seen.moments[0])
    seen.__dict__["_final"] = np.zeros((side, side, 3), np.uint8)
    assert seen.geometry() == (columns, rows, cell, cell, frames)
    assert max(columns, rows) * cell <= 16_383


def test_sheets_wrap_and_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    made = reader()
    seen = Lenses(recording(made), made)
    for longest, where in ((24, (3, 2, 8, 8, 5)), (12, (3, 2, 4, 4, 5))):
        monkeypatch.setattr(lenses, "LONGEST", longest)
        data, geometry = seen.sheet("x0")
        assert geometry == where
        page = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert page.shape == (where[1] * where[3], where[0] * where[2], 3)
        last = page[where[3] : 2 * where[3], where[2] : 2 * where[2]]  # frame 4
        small_ = Image.fromarray(seen.frame("x0", 4)).resize((where[2], where[3]), Image.Resampling.BOX)
        assert np.array_equal(last, np.asarray(small_))


def test_numbers_tell_the_run() -> None:
    made = reader()
    trace = recording(made)
    told = Lenses(trace, made).numbers()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    steps, end = told["steps"], trace.x(5)
    for k, step in enumerate(steps):
        away = (trace.x0(k) - end).square().mean().sqrt()
        assert step["distance"] == pytest.approx(float(away), rel=1e-6)
        assert step["update"] == pytest.approx(float((trace.x(k + 1) - trace.x(k)).square().mean().sqrt()), rel=1e-6)
        assert [step["t"], step["alpha"], step["sigma"]] == trace.about["levels"][k]
        assert step["ms"] == trace.about["milliseconds"][str(k)]
    assert steps[0]["decided"] == 0
    assert steps[-1]["decided"] == pytest.approx(1, abs=1e-5)
    assert steps[-1]["agreed"] == [None if a is None else pytest.approx(1) for a in steps[-1]["agreed"]]
    assert steps[0]["logsnr"] is None  # alpha is 0 there
    late = [s["k"] for s in steps if s["decided"] < 0.5]
    assert told["half"] == max(late) + 1
    assert told["nine"] >= told["half"]
    assert (told["exact"], told["branches"], told["scale"], told["dial"], told["r2"]) == (
        True,
        ["cond", "null"],
        3.0,
        True,
        1.0,
    )


def test_bands_hold_all_the_power_and_part_coarse_from_fine() -> None:
    """Parseval: over all bands the power is the variance; a wave lies in the band of its length."""
    pixels = toys.noise((64, 64, 3)).numpy()
    bands = lenses._bands(pixels)
    light = (pixels / 127.5 - 1) @ np.array((0.2126, 0.7152, 0.0722))
    twice = np.full(bands.waves.shape, 2.0)
    twice[:, [0, -1]] = 1  # rfft keeps these columns once
    total = (np.abs(bands.waves) ** 2 * twice)[bands.band >= 0].sum() / light.size**2
    assert total == pytest.approx(light.var(), rel=1e-9)
    for waves, band in ((1, 0), (4, 0), (5, 1), (16, 3), (31, 7)):
        row = 127.5 + 100 * np.sin(2 * np.pi * waves * np.arange(64) / 64)
        flat = np.broadcast_to(row[None, :, None], (64, 64, 3)).round().astype(np.uint8)
        assert int(np.argmax(lenses._bands(flat).power)) == band, waves


def test_the_linear_preview_finds_a_linear_decoder_and_says_how_far_it_holds() -> None:
    made = reader.__wrapped__(latent=True, size=(32, 32))
    trace = recording(made, steps=6, prompt=(PROMPT,))
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 0.05
    offset = torch.tensor((0.1, -0.2, 0.0))

    def decode(z: Tensor) -> Tensor:
        small_ = torch.einsum("kc,bchw->bkhw", weights, z) + offset[:, None, None]
        return small_.repeat_interleave(4, 2).repeat_interleave(4, 3).clamp(-1, 1)

    made.codec.decode = decode  # type: ignore[method-assign]
    preview = Lenses(trace, made).preview
    assert preview.r2 > 0.999
    assert (preview.weights - weights).abs().max() < 0.01
    assert (preview.offset - offset).abs().max() < 0.01

    made.codec.decode = lambda z: decode(z).mul(20).sin()  # type: ignore[method-assign]
    bent = Lenses(trace, made).preview
    assert bent.r2 < 0.9


def test_a_stopped_run_ends_where_it_believed_last() -> None:
    made = reader()
    trace = recording(made)
    names = [
        n for n in trace.names if n != "pictures" and not (n.startswith(("x/", "x0/", "part/")) and int(n.split("/")[-1]) > 3)
    ]
    about = {**trace.about, "milliseconds": {str(k): 1.0 for k in range(3)}}
    part = type(trace)(about, {n: trace.tensor(n) for n in names})
    seen = Lenses(part, made)
    assert np.array_equal(seen.decoded(), Lenses(trace, made).decoded(2))
    assert seen.numbers()["steps"][-1]["decided"] == 1


def test_requests_of_a_label_model_are_seen_too() -> None:
    made = small.model()
    trace = recording(made, prompt=("shoe",))
    seen = Lenses(trace, made)
    assert seen.available == ("x", "x0", "noise", "guidance", "difference")
    assert seen.dial
    assert Request.model_validate({}).mix is None  # and the trace's own is resolved
    assert trace.request.mix is not None
