"""Second passes: what is enlarged and how, where they begin, that tiles agree on one picture, and that hires is two commands in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from safelight import model as files
from safelight.assets import Assets, as_pixels
from safelight.denoise import Estimate
from safelight.draw.pixels import to_bytes
from safelight.generate import Finished, Started, Stepped, generate
from safelight.model import Model
from safelight.noise import Noise
from safelight.spec import SpecError, describe, parse
from safelight.task import Request, canvas
from safelight.task.tiles import Tiles
from tests import small
from tests.task import toys


def byted(x: Tensor) -> Tensor:
    return torch.from_numpy(to_bytes(x)).permute(0, 3, 1, 2)


def asked(task: dict[str, Any], picture: Tensor | None = None, **fields: Any) -> tuple[Request, Assets]:
    assets = Assets()
    if picture is not None:
        task["picture"] = assets.add(picture)
    return Request.model_validate({"steps": 4, "sampler": "ddim", **fields, "task": task}), assets


@pytest.fixture(scope="module")
def latent() -> Model:
    return toys.model(channels=3, codec=toys.CODEC, size=(16, 16))


@pytest.mark.parametrize("size", [(40, 52), (20, 26), (11, 60), (7, 9), (31, 13)])
def test_lanczos_is_pillows(size: tuple[int, int]) -> None:
    picture = 64 + toys.noise((1, 20, 26)) // 2  # Pillow cuts at 0 and 255 between its two passes
    theirs = np.asarray(Pillow.fromarray(picture[0].numpy()).resize(size[::-1], Pillow.Resampling.LANCZOS))
    ours = canvas.resampled(picture[None].double(), size, "lanczos")[0, 0].round().clamp(0, 255)
    assert int((ours - torch.from_numpy(theirs.astype(np.int16))).abs().max()) <= 1  # and rounds there


def test_filters_keep_a_constant_and_what_they_interpolate() -> None:
    flat = torch.full((1, 2, 5, 7), 0.3)
    for by in ("nearest", "bilinear", "bicubic", "lanczos"):
        torch.testing.assert_close(canvas.resampled(flat, (11, 4), by), torch.full((1, 2, 11, 4), 0.3))
    x = torch.randn(1, 1, 4, 5)
    assert torch.equal(canvas.resampled(x, (12, 15), "nearest")[..., 1::3, 1::3], x)
    torch.testing.assert_close(canvas.resampled(x, (12, 15), "lanczos")[..., 1::3, 1::3], x)


@pytest.mark.parametrize("by", [None, "bilinear", "lanczos"])
def test_where_a_second_pass_begins(latent: Model, by: str | None) -> None:
    """x = alpha z + sigma n, z the latents of the enlarged pixels, or the enlarged latents of the pixels."""
    picture = toys.noise((3, 16, 24))
    request, assets = asked({"kind": "upscale", "scale": 2, "second": {"strength": 0.4, "latent": by}}, picture, seed=5)
    assert request.resolve(latent, assets).size == (32, 48)
    event = next(iter(generate(latent, request, assets=assets)))
    assert isinstance(event, Started)
    with torch.no_grad():
        if by is None:
            enlarged = Pillow.fromarray(picture.permute(1, 2, 0).numpy()).resize((48, 32), Pillow.Resampling.LANCZOS)
            z = latent.codec.encode(as_pixels(torch.from_numpy(np.array(enlarged)).permute(2, 0, 1))[None])
        else:
            z = canvas.resampled(latent.codec.encode(as_pixels(picture)[None]), (8, 12), by)  # type: ignore[arg-type]
    alpha, sigma, _ = event.levels[0].floats
    assert float(event.levels[0].t) == 0.4
    torch.testing.assert_close(event.x, alpha * z + sigma * Noise(5, 1).normal("start", None, None, event.x))


@pytest.mark.parametrize("by", [None, "bicubic"])
@pytest.mark.parametrize("own, scale, size", [((13, 18), 1.5, (20, 27)), ((5, 30), 2, (10, 60)), ((16, 16), 1, (16, 16))])
def test_pictures_of_any_size_come_out_at_theirs(
    latent: Model, own: tuple[int, int], scale: float, size: tuple[int, int], by: str | None
) -> None:
    request, assets = asked({"kind": "upscale", "scale": scale, "second": {"latent": by}}, toys.noise((3, *own)), count=2)
    resolved = request.resolve(latent, assets)
    found = toys.finished(latent, request, assets=assets)
    assert found.shape == (2, 3, *size) and resolved.size == size and resolved.resolve(latent, assets) == resolved
    assert parse(describe(resolved), "request").resolve(latent, assets) == resolved  # type: ignore[attr-defined]


def test_how_many_steps_a_second_pass_takes(latent: Model) -> None:
    for second, steps in (
        ({"strength": 0.5}, 2),
        ({"strength": 0.5, "count": 8}, 4),
        ({"strength": 0.5, "steps": "exact", "count": 3}, 3),
    ):
        request, assets = asked({"kind": "upscale", "second": second}, toys.noise((3, 16, 16)))
        events = list(generate(latent, request, assets=assets))
        assert sum(isinstance(e, Stepped) for e in events) == steps
        assert request.resolve(latent, assets).task.runs(request.resolve(latent, assets), latent) == steps  # type: ignore[attr-defined]


@pytest.mark.parametrize("sampler", ["ddim", "dpm++2m", "dpm++2m-sde"])
def test_hires_is_the_text_task_and_an_upscale_of_its_picture(latent: Model, sampler: str) -> None:
    second = {"strength": 0.6, "tile": 24, "overlap": 8}
    both, assets = asked({"kind": "hires", "second": second}, seed=3, count=2, sampler=sampler)
    assert both.resolve(latent, assets).size == (32, 32)
    found = toys.finished(latent, both, assets=assets)
    first, _ = asked({"kind": "text"}, seed=3, count=2, sampler=sampler)
    for k, picture in enumerate(byted(toys.finished(latent, first))):
        again, brought = asked({"kind": "upscale", "second": second}, picture, seed=3, index=k, sampler=sampler)
        torch.testing.assert_close(found[k], toys.finished(latent, again, assets=brought)[0], rtol=0, atol=1e-5)


def test_the_model_that_ships_counts_at_twice_its_size_only_in_two_passes() -> None:
    """Three apples at 128x128: told directly, a model of 64x64 paints a dozen."""
    made = files.load("default")
    found = {}
    for kind in ("text", "hires"):
        request, _ = asked(
            {"kind": kind}, prompt="three red apples on a blue background", size=(128, 128), sampler=None, steps=12
        )
        pixels = byted(toys.finished(made, request))[0].int()
        found[kind] = areas((pixels[0] > 150) & (pixels[1] < 120) & (pixels[2] < 120), 80)
    assert found["hires"] == 3 and found["text"] > 6


def areas(mask: Tensor, least: int) -> int:
    """How many connected areas of at least so many places a mask has."""
    label = torch.where(mask, torch.arange(1, mask.numel() + 1).view(mask.shape), 0)
    while True:
        spread = torch.nn.functional.max_pool2d(label[None, None].float(), 3, 1, 1)[0, 0].long() * mask
        if torch.equal(spread, label):
            return int((label[mask].bincount() >= least).sum())
        label = spread


def test_hires_enlarges_latents_without_a_detour(latent: Model) -> None:
    request, assets = asked({"kind": "hires", "second": {"latent": "nearest", "strength": 0.5}}, seed=1, size=(32, 48))
    events = [e for e in generate(latent, request, assets=assets) if isinstance(e, Started | Stepped)]
    starts = [e for e in events if isinstance(e, Started)]
    # As many pixels as 16x16 in the proportions 2:3, in cells of 4: 12x20, of which the middle 12x16 is enlarged.
    assert starts[0].x.shape[-2:] == (3, 5) and starts[1].x.shape[-2:] == (8, 12)
    last = events[events.index(starts[1]) - 1] if starts[1] in events else None
    assert isinstance(last, Stepped)
    alpha, sigma, _ = starts[1].levels[0].floats
    z = (starts[1].x - sigma * Noise(1, 1).normal("start", None, None, starts[1].x)) / alpha
    rows, columns = ((torch.arange(n) + 0.5) * m / n for n, m in ((8, 3), (12, 4)))
    torch.testing.assert_close(z, last.step.x[..., rows.long(), :][..., columns.long()], rtol=1e-4, atol=1e-4)


def test_sizes_of_a_first_pass(latent: Model) -> None:
    task: Any = parse({"kind": "hires"}, "task")
    assert (
        task.began((32, 32), latent) == (16, 16)
        and task.began((64, 16), latent) == (32, 8)
        and task.began((8, 8), latent) == (8, 8)
    )
    task = parse({"kind": "hires", "first": [8, 12]}, "task")
    assert task.size(Request(), latent, Assets()) == (16, 24) and task.began((99, 3), latent) == (8, 12)


def test_tiles_of_a_pointwise_denoiser_are_the_whole() -> None:
    """What no place of which depends on another is the same in tiles, at every step, with guidance and noise of the steps."""
    made = toys.model(lambda x, level: Estimate(torch.tanh(x) * float(level.alpha)), size=(16, 16))
    picture = toys.noise((1, 21, 30))
    for sampler in ("ddim", "dpm++2m-sde"):
        plain, assets = asked({"kind": "upscale", "second": {"strength": 0.8}}, picture, sampler=sampler, count=2)
        parted, _ = asked(
            {"kind": "upscale", "second": {"strength": 0.8, "tile": 16, "overlap": 5}}, picture, sampler=sampler, count=2
        )
        whole = toys.finished(made, plain, assets=assets)
        torch.testing.assert_close(toys.finished(made, parted, assets=assets), whole, rtol=0, atol=1e-5)


def test_a_codec_of_bounded_reach_gives_the_picture_of_one_piece() -> None:
    """However small the tiles: where the network is pointwise, so is nothing else left that could differ."""
    made = toys.model(
        lambda x, level: Estimate(torch.tanh(x) * float(level.alpha)), channels=3, codec=toys.CODEC, size=(16, 16)
    )
    found = []
    for tiles in ({}, {"tile": 16, "overlap": 4}):
        request, assets = asked({"kind": "upscale", "second": {"strength": 0.7, **tiles}}, toys.noise((3, 60, 90)))
        found.append(toys.finished(made, request, assets=assets))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4)


def test_tiles_are_blended_by_their_distance_from_the_edge() -> None:
    """Tiles that believe in their own number: 0 and 1 in steps over what they share."""
    seen: list[tuple[int, ...]] = []

    def count(x: Tensor, level: Any) -> Estimate:
        seen.append(tuple(x.shape[-2:]))
        return Estimate(torch.full_like(x, float(len(seen) - 1)))

    made = toys.model(count, size=(8, 8))
    level = made.process.at(0.5)
    evaluate = Tiles(8, 4).branches(made.denoiser, {"cond": None})
    found = evaluate(torch.zeros(1, 1, 4, 12), level, ("cond",))["cond"].x0[0, 0]
    assert seen == [(4, 8), (4, 8)]
    torch.testing.assert_close(found, torch.tensor([0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1]).expand(4, 12))


def test_a_network_in_one_tile_is_the_network(latent: Model) -> None:
    made = small.model()
    picture = toys.noise((1, 8, 8))
    fields: dict[str, Any] = {"prompt": ["bag", ""], "seed": 4, "mix": {"kind": "cfg", "scale": 3}}
    one, assets = asked({"kind": "upscale", "scale": 1, "second": {"tile": 8}}, picture, **fields)
    none, _ = asked({"kind": "upscale", "scale": 1}, picture, **fields)
    torch.testing.assert_close(
        toys.finished(made, one, assets=assets), toys.finished(made, none, assets=assets), rtol=0, atol=1e-5
    )


def test_no_more_than_a_tile_goes_through_network_and_codec(latent: Model) -> None:
    """Also of the map that a network is told, of which each tile hears its own part."""
    made = toys.model(channels=3, codec={**toys.CODEC, "groups": 4}, size=(16, 16), image=1)
    heard: list[tuple[int, ...]] = []
    maps: list[Tensor] = []
    forward, decode, encode = made.denoiser.network.bind, made.codec.decode, made.codec.encode

    def bind(cond: Any, noises: Any = ()) -> Any:
        maps.append(cond.image)
        inner = forward(cond, noises)

        def listening(x: Tensor, noise: Tensor) -> Any:
            heard.append(tuple(x.shape[-2:]))
            return inner(x, noise)

        return listening

    sides: list[int] = []

    def painted(z: Tensor) -> Tensor:
        sides.append(max(z.shape[-2:]))
        return decode(z)

    def seen(x: Tensor, noise: Any = None) -> Tensor:
        sides.append(max(x.shape[-2:]) // 4)
        return encode(x, noise)

    made.denoiser.network.bind = bind  # type: ignore[method-assign]
    made.codec.decode, made.codec.encode = painted, seen  # type: ignore[method-assign]
    assets = Assets()
    depth = torch.arange(64, dtype=torch.uint8).repeat_interleave(4)[None, None].expand(1, 64, 256)[..., ::4].contiguous()
    inner = {"kind": "upscale", "picture": assets.add(toys.noise((3, 32, 32))), "second": {"tile": 32, "overlap": 8}}
    request = Request.model_validate({"steps": 2, "task": {"kind": "depth", "depth": assets.add(depth), "of": inner}})
    found = toys.finished(made, request, assets=assets)
    assert found.shape == (1, 3, 64, 64)
    assert set(heard) == {(8, 8)} and max(sides) == 8
    assert len(maps) == 9 and maps[0].mean() < maps[1].mean()
    torch.testing.assert_close(maps[0][..., 6:], maps[1][..., :2])  # neighbours hear what they share


def test_refusals(latent: Model) -> None:
    picture = toys.noise((3, 16, 16))
    for second, said in (
        ({"overlap": 4}, "overlap is what tiles share"),
        ({"tile": 16, "overlap": 9}, "give a tile at least twice as large"),
        ({"strength": 0}, "strength"),
    ):
        with pytest.raises(ValueError, match=said):
            asked({"kind": "upscale", "second": second}, picture)
    request, assets = asked({"kind": "upscale"}, picture)
    with pytest.raises(SpecError, match="is not at hand"):
        toys.finished(latent, request, assets=Assets())
    deep = toys.model(channels=3, codec={"kind": "kl", "latents": 4, "widths": [8, 8, 8, 8], "patch": 2}, size=(16, 16))
    request, assets = asked({"kind": "upscale", "second": {"tile": 8}}, picture)
    with pytest.raises(SpecError, match="tiles of 8 pixels are less than the codec's stride 16"):
        toys.finished(deep, request, assets=assets)
    assert isinstance(list(generate(latent, request, assets=assets))[-1], Finished)
