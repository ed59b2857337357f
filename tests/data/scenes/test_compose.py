"""Scenes: keyed, exact to Pillow's compositing, with true boxes, and never with what is held out."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safelight import device
from safelight.data.scenes import layout
from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.splits import Split, codec_held
from safelight.data.scenes.sprites import SIDES, Pack, load
from safelight.data.scenes.words import (
    BACKGROUNDS,
    COLOUR,
    COLOURS,
    CORNER,
    COUNT,
    MIX,
    RELATION,
    SINGLE,
    SIZE,
    WHITE,
)
from safelight.spec import SpecError


def same(a: Scenes, b: Scenes) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def straight(composer: Composer, sprite: int, k: int) -> Image.Image:
    """One sprite of the bank as Pillow takes it: straight alpha, rounded back from premultiplied."""
    side = composer.bank.sides[k]
    start = int(composer.bank.start[k]) + sprite * side * side
    rgba = (
        composer.bank.rgba[start : start + side * side, None]
        .view(torch.uint8)
        .reshape(side, side, 4)
        .numpy()
        .astype(np.float64)
    )
    rgba[..., :3] = np.round(rgba[..., :3] * 255 / np.maximum(rgba[..., 3:], 1))
    return Image.fromarray(rgba.clip(0, 255).astype(np.uint8), "RGBA")


def test_pictures_equal_pillows_alpha_composite(small: Composer) -> None:
    scenes = small.draw(1, 0, 600)
    scenes = scenes.rows((scenes.colour < 0).all(1))
    pictures = small.render(scenes).permute(0, 2, 3, 1).numpy()
    grounds = list(BACKGROUNDS.values())
    for i in range(200):
        k = int(scenes.side[i])
        canvas = Image.new("RGBA", (64, 64), (*grounds[int(scenes.background[i])], 255))
        for slot in range(4):
            if int(scenes.x[i, slot]) >= 0:
                sprite = int(scenes.sprite[i, 1 if slot == 1 and int(scenes.relation[i]) >= 0 else 0])
                layer = Image.new("RGBA", (64, 64))
                layer.paste(straight(small, sprite, k), (int(scenes.x[i, slot]), int(scenes.y[i, slot])))
                canvas = Image.alpha_composite(canvas, layer)
        difference = np.abs(np.asarray(canvas.convert("RGB")).astype(int) - pictures[i].astype(int))
        assert difference.max() <= 1


def test_recoloured_pictures_equal_the_same_in_floats(small: Composer) -> None:
    """The integer painting against the formula in float64: A p clamped to 0..a, mixed by the mask, over the ground."""
    scenes = small.draw(2, 0, 2000)
    scenes = scenes.rows((scenes.template == COLOUR) & (scenes.colour[:, 0] >= 0)).rows(slice(0, 150))
    pictures = small.render(scenes)
    bank, grounds = small.bank, torch.tensor(list(BACKGROUNDS.values())).double()
    for i in range(len(pictures)):
        k, sprite = int(scenes.side[i]), int(scenes.sprite[i, 0])
        side, x, y = bank.sides[k], int(scenes.x[i, 0]), int(scenes.y[i, 0])
        span = slice(int(bank.start[k]) + sprite * side * side, int(bank.start[k]) + (sprite + 1) * side * side)
        p = bank.rgba[span, None].view(torch.uint8).double()
        alpha, mask = p[:, 3:], bank.mask[span, None].double() / 255
        q = p[:, :3] @ (bank.matrix[sprite, scenes.colour[i, 0]].double() / 256).T
        q = torch.minimum(q.clamp(min=0), alpha)
        want = mask * q + (1 - mask) * p[:, :3] + (1 - alpha / 255) * grounds[scenes.background[i]]
        got = pictures[i, :, y : y + side, x : x + side].permute(1, 2, 0).reshape(-1, 3).double()
        assert float((want - got).abs().max()) <= 1.6  # three roundings


def test_a_scene_is_the_same_alone_in_a_batch_and_in_chunks(small: Composer) -> None:
    whole = small.draw(9, 4, 300)
    part = small.draw(9, 4, 60, first=100)
    assert same(part, whole.rows(slice(100, 160)))
    assert torch.equal(small.render(part), small.render(whole, chunk=77)[100:160])
    assert not same(part, small.draw(9, 5, 60, first=100)) and not same(part, small.draw(8, 4, 60, first=100))


def test_the_draw_is_fixed(composer: Composer) -> None:
    """Numbers drawn once on one machine: a difference means another asset, another draw order, or a device that counts differently."""
    digest = hashlib.sha256()
    for field in composer.draw(2026, 11, 512):
        digest.update(field.to(torch.int64).numpy().tobytes())
    assert digest.hexdigest()[:16] == "efae98072848f7a4"


@pytest.mark.skipif("cuda" not in device.available(), reason="no GPU on this machine")
def test_a_gpu_makes_the_same_bytes(small: Composer) -> None:
    other = Composer(small.pack, device.pick("cuda"))
    here, there = small.draw(3, 1, 500), other.draw(3, 1, 500)
    assert same(here, there.to(torch.device("cpu")))
    assert torch.equal(small.render(here), other.render(there).cpu())


def test_boxes_are_where_the_pixels_are(small: Composer) -> None:
    """A box is where alpha >= 32. Painting over grounds that differ in all channels by 200 shows alpha itself."""
    scenes = small.draw(4, 0, 400)
    black, white = (torch.full_like(scenes.background, list(BACKGROUNDS).index(name)) for name in ("black", "white"))
    on_black, on_white = (small.render(scenes._replace(background=g)).int() for g in (black, white))
    ground = torch.tensor(BACKGROUNDS["white"]) - torch.tensor(BACKGROUNDS["black"])
    alpha = 255 * (1 - ((on_white - on_black) / ground[None, :, None, None]).mean(1))  # (B, 64, 64), to within a unit or two
    boxes = small.boxes(scenes)
    for i in range(len(scenes.template)):
        rest = alpha[i].clone()
        for x0, y0, x1, y1 in boxes[i].tolist():
            if x0 < 0:
                continue
            inside = alpha[i, y0:y1, x0:x1]
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert float(edge.max()) >= 30  # no box could be smaller
            rest[y0:y1, x0:x1] = 0
        assert float(rest.max()) < 35  # nothing is outside
    apart = boxes[scenes.relation == 0]  # the first is left of the second
    assert bool((apart[:, 0, 2] <= apart[:, 1, 0]).all())
    below = boxes[scenes.relation == 3]
    assert bool((below[:, 0, 1] >= below[:, 1, 3]).all())


def test_squares_never_meet(composer: Composer) -> None:
    scenes = composer.draw(6, 0, 5000)
    side = torch.tensor(SIDES)[scenes.side][:, None]
    used = scenes.x >= 0
    assert bool(((scenes.x + side <= 64) & (scenes.y + side <= 64) & (scenes.y >= 0))[used].all())
    for a in range(layout.SLOTS):
        for b in range(a):
            both = used[:, a] & used[:, b]
            gap_x = (scenes.x[:, a] - scenes.x[:, b]).abs() - side[:, 0]
            gap_y = (scenes.y[:, a] - scenes.y[:, b]).abs() - side[:, 0]
            assert bool((torch.maximum(gap_x, gap_y)[both] >= 4).all())


def test_the_mix(composer: Composer) -> None:
    scenes = composer.draw(0, 0, 20_000)
    share = torch.bincount(scenes.template, minlength=6) / 200
    assert torch.allclose(share, torch.tensor(MIX, dtype=torch.float32), atol=1.2)
    assert bool(scenes.valid.all())
    count, pair = scenes.template == COUNT, scenes.template == RELATION
    assert bool(((scenes.number > 1) == count).all()) and bool(((scenes.relation >= 0) == pair).all())
    assert bool(((scenes.size >= 0) == (scenes.template == SIZE)).all())
    assert bool(((scenes.corner >= 0) == (scenes.template == CORNER)).all())
    assert bool((scenes.colour[scenes.template == COLOUR, 0] >= 0).all())
    assert torch.equal((scenes.x >= 0).sum(1), torch.where(pair, 2, scenes.number))
    unsaid = scenes.words[:, 6] == 0
    assert bool((scenes.background[unsaid] == WHITE).all()) and 0.05 < float(unsaid.float().mean()) < 0.12
    for field, n in ((scenes.background, 10), (scenes.style, 5), (scenes.relation[pair], 4), (scenes.number[count] - 2, 3)):
        assert int(torch.bincount(field, minlength=n).min()) > 0.06 * len(field)
    assert len(scenes.concept[:, 0].unique()) == 709


def test_another_mix(composer: Composer) -> None:
    """Other weights give other shares and nothing else: the same weights are the same scenes, and a weight of 0 shows none."""
    weights = (10, 0, 5, 25, 0, 60)
    scenes = composer.draw(0, 0, 20_000, mix=weights)
    assert torch.allclose(
        torch.bincount(scenes.template, minlength=6) / 200, torch.tensor(weights, dtype=torch.float32), atol=1.2
    )
    usual, same = composer.draw(0, 0, 500), composer.draw(0, 0, 500, mix=MIX, relations=(2, 2, 2, 2))
    assert all(torch.equal(a, b) for a, b in zip(usual, same, strict=True))
    skewed = composer.draw(0, 0, 20_000, relations=(6, 2, 2, 0)).relation
    share = torch.bincount(skewed[skewed >= 0], minlength=4) / (skewed >= 0).sum()
    assert torch.allclose(share, torch.tensor([0.6, 0.2, 0.2, 0.0]), atol=0.02)


def held(composer: Composer, scenes: Scenes) -> dict[str, torch.Tensor]:
    """Which scenes show something held out, by kind, looked up one by one in the tables."""
    out = composer.held
    a, b = scenes.concept.unbind(1)
    painted = torch.zeros_like(scenes.valid)
    for thing, colour in ((a, scenes.colour[:, 0]), (b, scenes.colour[:, 1])):
        painted |= (colour >= 0) & out.colour[thing.clamp(min=0), colour.clamp(min=0)]
    return {
        "cell": out.cell[scenes.sprite[:, 0]] | ((b >= 0) & out.cell[scenes.sprite[:, 1].clamp(min=0)]),
        "colour": painted,
        "count": (scenes.number > 1) & out.count[a, (scenes.number - 2).clamp(min=0)],
        "pair": (b >= 0) & out.pair(a, b.clamp(min=0)),
    }


def test_training_never_draws_what_is_held_out(composer: Composer) -> None:
    for step in range(2):
        for asked in (False, True):
            found = held(composer, composer.draw(17, step, 10_000, Split.TEXT, asked=asked))
            assert {kind: int(which.sum()) for kind, which in found.items()} == {"cell": 0, "colour": 0, "count": 0, "pair": 0}


def test_held_out_scenes_all_show_it_and_one_thing_at_a_time(composer: Composer) -> None:
    scenes = composer.draw(18, 0, 4000, Split.HELD)
    scenes = scenes.rows(scenes.valid)
    found = held(composer, scenes)
    for template, kind in ((SINGLE, "cell"), (COLOUR, "colour"), (COUNT, "count"), (RELATION, "pair")):
        rows = scenes.template == template
        assert int(rows.sum()) > 200 and bool(found[kind][rows].all())
        for other in found.keys() - {kind}:
            assert not bool(found[other][rows].any())
    assert bool((scenes.words[:, 6:8] > 0).all())  # ground and style are said


def test_the_shares_held_out(composer: Composer, pack: Pack) -> None:
    out = composer.held
    assert 0.035 < float(out.cell.float().mean()) < 0.065
    assert 0.09 < float(out.colour.float().mean()) < 0.12
    assert 0.08 < float(out.count.float().mean()) < 0.12
    everyone = torch.arange(709)
    share = float(out.pair(everyone[:, None], everyone[None, :]).float().mean())
    assert abs(share - 0.2) < 0.005
    cells = {(s.concept, s.style): bool(h) for s, h in zip(pack.sprites, out.cell, strict=True)}
    assert all(cells[n.concept, "flat"] == cells[n.concept, "glossy"] for n in pack.nouns)  # near twins go together
    names = list(COLOURS)
    for noun in pack.nouns:
        if noun.colour:
            assert not out.colour[pack.concepts.index(noun.concept), names.index(noun.colour)]


def test_a_smaller_vocabulary_holds_out_the_same(composer: Composer, small: Composer) -> None:
    where = {(s.concept, s.style): i for i, s in enumerate(composer.pack.sprites)}
    for i, sprite in enumerate(small.pack.sprites):
        assert composer.held.cell[where[sprite.concept, sprite.style]] == small.held.cell[i]
    names = composer.pack.concepts
    big = torch.tensor([names.index(concept) for concept in small.pack.concepts])
    n = torch.arange(len(big))
    assert torch.equal(composer.held.pair(big[:, None], big[None, :]), small.held.pair(n[:, None], n[None, :]))


def test_the_codec_sees_609_concepts_and_is_measured_on_the_others(composer: Composer) -> None:
    out = codec_held()
    assert len(out) == 100
    names = composer.pack.concepts
    for split, inside in ((Split.CODEC, False), (Split.CODEC_HELD, True)):
        scenes = composer.draw(1, 0, 6000, split)
        seen = {names[c] for c in scenes.concept.flatten().tolist() if c >= 0}
        assert seen <= out if inside else not seen & out
        assert len(seen) > 90 if inside else len(seen) > 590


def test_sizes_and_errors(small: Composer) -> None:
    with pytest.raises(SpecError, match="32, 48 or 64 pixels wide, not 128"):
        Composer(small.pack, size=128)
    little = Composer(load(concepts=["cat", "dog"], styles=("noto",)), size=32)
    pictures, scenes = little.batch(0, 0, 40)
    assert pictures.shape == (40, 3, 32, 32) and pictures.dtype == torch.float32
    assert float(pictures.min()) >= -1 and float(pictures.max()) <= 1
    boxes: Any = little.boxes(scenes)
    assert int(boxes.max()) <= 32
