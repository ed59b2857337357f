"""The packed asset: complete, licensed sprite by sprite, small, quick to read; and the pre-scaled bank."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safelight.data.scenes.sprites import SIDES, Bank, Pack, asset, hue_mask, kernel, load, recolour_matrix, resample, tight
from safelight.data.scenes.words import COLOURS, STYLES
from safelight.spec import SpecError


def test_what_is_in_it(pack: Pack) -> None:
    assert len(pack.nouns) == 709 and len(pack.sprites) == 3350
    styles = [sprite.style for sprite in pack.sprites]
    assert {style: styles.count(style) for style in STYLES} == {
        "noto": 709,
        "twemoji": 709,
        "flat": 709,
        "glossy": 709,
        "blob": 514,
    }
    assert asset().stat().st_size < 8_000_000
    assert pack.pixels.shape == (3350, 64, 64, 4)
    assert bool((pack.pixels[..., 3].max((1, 2)) > 100).all())  # none is empty


def test_every_sprite_names_its_licence_and_the_texts_are_there(pack: Pack) -> None:
    due = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0", "flat": "MIT", "glossy": "MIT", "blob": "Apache-2.0"}
    for sprite in pack.sprites:
        assert sprite.licence == due[sprite.style] and sprite.copyright and sprite.package.startswith("@iconify-json/")
    assert set(pack.licences) == set(due.values())
    assert "Permission is hereby granted" in pack.licences["MIT"] and "Microsoft" in pack.licences["MIT"]
    assert "TERMS AND CONDITIONS" in pack.licences["Apache-2.0"] and "Attribution" in pack.licences["CC-BY-4.0"]
    with zipfile.ZipFile(asset()) as file:
        assert "Twitter" in file.read("NOTICE.txt").decode()


def test_reading_takes_less_than_two_seconds() -> None:
    start = time.process_time()
    load()
    assert time.process_time() - start < 2


def test_a_part_of_it() -> None:
    pack = load(concepts=["cat", "dog"], styles=("flat", "noto"))
    assert [(s.style, s.concept) for s in pack.sprites] == [("noto", "cat"), ("noto", "dog"), ("flat", "cat"), ("flat", "dog")]
    assert pack.find("dog", "noto") == 1
    with pytest.raises(SpecError, match="styles: noto"):
        pack.find("dog", "blob")


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown concept 'automobil'; did you mean 'automobile'"):
        load(concepts=["automobil"])
    with pytest.raises(SpecError, match="unknown style 'glosy'; did you mean 'glossy'"):
        load(styles=("glosy",))
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"no zip")
    with pytest.raises(SpecError, match="not a pack of sprites"):
        load(bad)
    with zipfile.ZipFile(bad, "w") as file:
        file.writestr("about.json", json.dumps({"format": 99}))
    with pytest.raises(SpecError, match="another format"):
        load(bad)
    with pytest.raises(SpecError, match="not a pack of sprites"):
        load(tmp_path / "none.zip")


@pytest.mark.parametrize("side", SIDES)
def test_the_kernel_keeps_flat_and_linear(side: int) -> None:
    matrix = kernel(side).double()
    assert torch.allclose(matrix.sum(1), torch.ones(side, dtype=torch.float64))
    line = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    inner = slice(3, -3)
    want = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    assert torch.allclose((matrix @ line)[inner], want[inner], atol=2e-3)


def test_resampling_is_what_pillow_does() -> None:
    """Pillow's bicubic has a = -1/2 too, and widens it the same way when it shrinks."""
    rng = np.random.default_rng(0)
    plane = Image.fromarray(rng.integers(80, 176, (64, 64), dtype=np.uint8))  # nothing to clip
    for side in (20, 28, 46):
        theirs = np.asarray(plane.resize((side, side), Image.Resampling.BICUBIC)).astype(float)
        ours = resample(torch.tensor(np.asarray(plane)).float()[None], kernel(side))[0].clamp(0, 255).numpy()
        assert np.abs(theirs - ours)[3:-3, 3:-3].max() < 1.2  # they cut the kernel at the rim and round between the axes


def test_the_recolouring_map() -> None:
    """White, black and gray stay; the hue, its shades and its tints become those of the target."""
    hue = torch.tensor([200.0, 60.0, 40.0])
    for target in COLOURS.values():
        t = torch.tensor(target, dtype=torch.float32)
        matrix = recolour_matrix(hue, t)
        gray = torch.full((3,), 120.0)
        for before, after in ((gray, gray), (hue, t), (hue / 2, t / 2), ((hue + 255) / 2, (t + 255) / 2)):
            assert torch.allclose(matrix @ before, after, atol=1e-2)


def test_the_mask_takes_the_hue_and_nothing_else() -> None:
    row = torch.tensor([[200, 60, 40, 255], [100, 30, 20, 255], [255, 255, 255, 255], [90, 90, 90, 255], [40, 90, 200, 255]])
    mask = hue_mask(row.reshape(1, 1, 5, 4), torch.tensor([[200.0, 60.0, 40.0]]))
    assert mask.flatten().tolist() == [1, 1, 0, 0, 0]


def test_the_bank_is_premultiplied_and_its_boxes_are_tight() -> None:
    pack = load(concepts=["cat", "rocket"], styles=("noto",))
    bank = Bank(pack, torch.device("cpu"))
    assert int(bank.rgba[0]) == 0  # the clear pixel
    for k, side in enumerate(SIDES):
        start = int(bank.start[k])
        entries = bank.rgba[start : start + 2 * side * side]
        rgba = entries[:, None].view(torch.uint8).reshape(2, side, side, 4)
        assert bool((rgba[..., :3] <= rgba[..., 3:]).all())
        assert torch.equal(tight(rgba[..., 3] >= 32), bank.box[:, k])


def test_tight_boxes_by_search() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        seen = torch.rand(1, 9, 7, generator=generator) < 0.1
        found = torch.nonzero(seen[0])
        want = [0, 0, 0, 0]
        if len(found):
            (y0, x0), (y1, x1) = found.amin(0).tolist(), (found.amax(0) + 1).tolist()
            want = [x0, y0, x1, y1]
        assert tight(seen)[0].tolist() == want
