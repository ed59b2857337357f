"""A training sprite is found again at another place, size and ground; another design is not taken for it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from safelight.data.scenes.splits import Split
from safelight.data.scenes.words import SINGLE
from safelight.evaluate.copies import copies
from safelight.evaluate.designs import Gallery, designs, single
from tests.evaluate.scenes import checker, composer


def gallery() -> Gallery:
    return checker().gallery


def test_a_sprite_is_found_at_any_place_size_and_ground() -> None:
    some = gallery().sprite[::9]
    ground = composer().solid[some].int().flip(1).argmax(1)
    ground = 9 - ground  # the last ground it is one piece on
    for side in (2, 3, 5):  # 28, 40 and 60 pixels
        scenes = single(composer(), some, ground, torch.full_like(some, side))
        moved = scenes._replace(x=torch.where(scenes.x >= 0, (scenes.x - 2).clamp(min=0), -1))
        found = gallery().nearest(composer().render(moved), moved)
        assert (found.index == some).double().mean() > 0.9, side
        near = copies(found, gallery().real)
        assert near.fraction > 0.9 and near.median < 0.4 * near.held_out_median


def test_a_copy_on_another_ground_than_asked_is_a_copy() -> None:
    some = gallery().sprite[::11]
    fine = composer().solid[some].int()
    shown, asked = fine.argmax(1), 9 - fine.flip(1).argmax(1)  # the first and the last ground it is one piece on
    scenes = single(composer(), some, shown, torch.full_like(some, 4))
    pictures = composer().render(scenes)
    found, right = gallery().nearest(pictures, scenes._replace(background=asked)), gallery().nearest(pictures, scenes)
    assert (shown != asked).all() and torch.equal(found.index, right.index)
    torch.testing.assert_close(found.distance, right.distance)


def test_brute_force_agrees() -> None:
    """Distances are those of the definition, searched one by one."""
    from safelight.evaluate.designs import STEPS, THUMB
    from safelight.evaluate.scene_classifier import crops, find

    scenes = composer().draw(3, 0, 60, Split.HELD)
    scenes = scenes.rows(scenes.template == SINGLE).rows(slice(0, 4))
    pictures = composer().render(scenes)
    found = gallery().nearest(pictures, scenes)
    for i in range(len(pictures)):
        box = find(pictures[i : i + 1], scenes.rows(slice(i, i + 1))).box[:, 0].float()
        theirs = gallery()._on(int(scenes.background[i]))
        low = torch.inf
        for dx in STEPS:
            for dy in STEPS:
                for g in STEPS:
                    ours = crops(pictures[i : i + 1], box + torch.tensor([dx - g, dy - g, dx + g, dy + g]), THUMB).flatten(1)
                    d = (ours - theirs).square().mean(1).sqrt()
                    if float(d.min()) < low:
                        low, at = float(d.min()), int(d.argmin()) % len(gallery().sprite)
        torch.testing.assert_close(found.distance[i].item(), low, rtol=1e-3, atol=0.05)
        assert found.index[i] == gallery().sprite[at]


def test_calibration_leaves_a_design_and_its_twins_out() -> None:
    real = gallery().real
    assert copies(real, real).fraction <= 0.02
    pack = composer().pack
    flat, glossy = pack.find("teapot", "flat"), pack.find("teapot", "glossy")
    design = gallery().design
    assert design[flat] == design[glossy] != design[pack.find("teapot", "noto")]
    one = torch.tensor([flat])
    scenes = single(composer(), one, torch.tensor([0]), torch.tensor([4]))
    picture = composer().render(scenes)
    with_, without = gallery().nearest(picture, scenes), gallery().nearest(picture, scenes, but=design[one])
    assert with_.index.item() == flat and with_.distance.item() < 1
    assert without.index.item() not in (flat, glossy) and without.distance.item() > 10


def test_only_pictures_of_one_plain_thing_are_looked_at() -> None:
    scenes = composer().draw(2, 0, 120, Split.TEXT)
    found = designs(gallery(), composer().render(scenes), scenes)
    assert found is not None
    assert found.rows.tolist() == (scenes.template == SINGLE).nonzero()[:, 0].tolist()
    assert found.copies.fraction == found.real.fraction > 0.95
    blurred = F.avg_pool2d(composer().render(scenes).float(), 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
    vague = designs(gallery(), blurred.to(torch.uint8), scenes)
    assert vague is not None and vague.copies.fraction < 0.3
    assert designs(gallery(), composer().render(scenes)[:0], scenes.rows(slice(0, 0))) is None
