"""The machine checker: its parts against brute force, and all of it on scenes whose truth is known."""

from __future__ import annotations

import colorsys

import pytest
import torch

from safelight.data.scenes import rules
from safelight.data.scenes.adherence import check
from safelight.data.scenes.compose import Composer
from safelight.data.scenes.nouns import nouns
from safelight.data.scenes.prompts import asked, held_out_prompts, seen_prompts
from safelight.data.scenes.splits import Split
from safelight.data.scenes.sprites import load
from safelight.spec import SpecError


def flood(seen: torch.Tensor) -> list[int]:
    """Areas of the 8-connected pieces, largest first, by flood fill."""
    left = {tuple(p) for p in torch.nonzero(seen).tolist()}
    areas = []
    while left:
        todo, area = [left.pop()], 0
        while todo:
            y, x = todo.pop()
            area += 1
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    todo.append(near)
        areas.append(area)
    return sorted(areas, reverse=True)


def test_pieces_equal_a_flood_fill() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(60, 1, 24, 24, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[:, 0]
    masks = smooth < torch.linspace(0.3, 0.6, 60)[:, None, None]  # from islands to a labyrinth
    pieces = rules.components(masks)
    for i, mask in enumerate(masks):
        areas = [a for a in flood(mask) if a >= rules.SMALLEST * 576 / 4096][: rules.MOST]
        assert pieces.area[i, : len(areas)].tolist() == areas
        assert int(pieces.number[i]) == sum(a >= rules.SHARE * areas[0] for a in areas)
        for k, area in enumerate(areas):
            assert int((pieces.label[i] == k).sum()) == area


def test_a_spiral_is_one_piece() -> None:
    """The worst case for spreading along lines: a corridor that turns many times."""
    seen = torch.zeros(31, 31, dtype=torch.bool)
    y, x, dy, dx = 0, 0, 0, 1
    for _ in range(31 * 31):
        seen[y, x] = True
        ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
        inside = all(0 <= v < 31 for v in ahead)
        if not inside or (all(0 <= v < 31 for v in beyond) and seen[beyond]):
            dy, dx = dx, -dy
            if not all(0 <= v < 31 for v in (y + 2 * dy, x + 2 * dx)) or seen[y + 2 * dy, x + 2 * dx] or seen[y + dy, x + dx]:
                break
        y, x = y + dy, x + dx
    assert int(seen.sum()) > 300
    pieces = rules.components(seen[None])
    assert int(pieces.number) == 1 and int(pieces.area[0, 0]) == int(seen.sum())


def test_an_empty_picture_has_no_pieces() -> None:
    pieces = rules.components(torch.zeros(2, 16, 16, dtype=torch.bool))
    assert pieces.number.tolist() == [0, 0] and int(pieces.label.max()) == -1 and int(pieces.box.max()) == 0


def test_hue_is_that_of_the_standard_library() -> None:
    colours = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) * 255
    angle, _ = rules.hue(colours)
    for colour, degrees in zip(colours.tolist(), angle.tolist(), strict=True):
        assert degrees == pytest.approx(360 * colorsys.rgb_to_hsv(*(v / 255 for v in colour))[0], abs=1e-3)


def test_a_ground_that_is_none() -> None:
    noise = (torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255).to(torch.uint8)
    assert rules.ground(noise)[0].tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("every", "count"), [(6, 700), pytest.param(1, 5000, marks=pytest.mark.slow)], ids=["a sixth of the nouns", "all nouns"]
)
def test_the_checker_is_right_on_composed_scenes(every: int, count: int) -> None:
    """Each bar is above the plan's: background 97 %, count, relation and colour 95 %."""
    composer = Composer(load(concepts=sorted(nouns())[::every]))
    scenes = composer.draw(31, 0, count)
    rates = check(composer, composer.render(scenes), scenes).rates()
    assert rates["background"] >= 0.99
    assert rates["count"] >= 0.97 and rates["relation"] >= 0.97 and rates["colour"] >= 0.95
    assert rates["corner"] >= 0.97 and rates["size"] >= 0.95


def test_the_checker_sees_what_is_wrong(small: Composer) -> None:
    """Pictures of other scenes: each aspect must fail as often as chance makes it."""
    scenes = asked(small, 200, 3, Split.TEXT)
    pictures = small.render(scenes)
    wrong = check(small, pictures.flip(-1), scenes).relation  # mirrored: left and right are exchanged, above and below not
    sideways = scenes.relation < 2
    assert wrong._replace(applies=wrong.applies & sideways).rate <= 0.05
    assert wrong._replace(applies=wrong.applies & ~sideways).rate >= 0.9  # mirrored icons are harder to tell apart
    moved = scenes._replace(background=(scenes.background + 1) % 10)
    assert check(small, pictures, moved).background.rate == 0
    more = scenes._replace(number=torch.where(scenes.number > 1, 2 + (scenes.number - 1) % 3, 1))
    assert check(small, pictures, more).count.rate <= 0.03
    painted = scenes._replace(colour=torch.where(scenes.colour >= 0, (scenes.colour + 3) % 7, -1))
    own = torch.tensor([noun.colour is None for noun in small.pack.nouns])[scenes.concept[:, 0]]
    verdict = check(small, pictures, painted).colour
    assert verdict._replace(applies=verdict.applies & own & (scenes.colour[:, 0] >= 0)).rate <= 0.05


def test_one_picture_for_each_scene(small: Composer) -> None:
    scenes = small.draw(0, 0, 3)
    with pytest.raises(SpecError, match="2 pictures for 3 scenes"):
        check(small, small.render(scenes)[:2], scenes)


def test_prompts_are_balanced_fixed_and_true(composer: Composer) -> None:
    held, seen = (make(100, 5, composer) for make in (held_out_prompts, seen_prompts))
    for prompts in (held, seen):
        templates = [prompt.truth.template for prompt in prompts]
        assert {t: templates.count(t) for t in set(templates)} == {"single": 30, "colour": 20, "count": 20, "relation": 30}
        first = templates[:10]
        assert {t: first.count(t) for t in set(first)} == {"single": 3, "colour": 2, "count": 2, "relation": 3}
        assert all(p.truth.says_background and p.truth.says_style for p in prompts)
        assert all(p.truth.background in p.text and p.truth.style in p.text for p in prompts)
    assert held == held_out_prompts(100, 5, composer) and held != held_out_prompts(100, 6, composer)
    assert not {p.text for p in held} & {p.text for p in seen}


def test_too_few_concepts_to_hold_out() -> None:
    with pytest.raises(SpecError, match="2 concepts holds out too little"):
        held_out_prompts(50, 0, Composer(load(concepts=["cat", "dog"], styles=("noto",))))
