"""Contact sheets: every picture is there, exactly, where it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safelight.draw.grid import save, sheet
from safelight.draw.page import DARKROOM, MARGIN, fit, width, wrap
from safelight.spec import SpecError


def pictures(n: int, c: int = 1, h: int = 5, w: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(n + c))


@pytest.mark.parametrize("c", [1, 3])
def test_without_words_the_sheet_is_the_pictures(c: int) -> None:
    x = pictures(6, c)
    image = sheet(x, columns=3, scale=2, gap=0)
    assert image.mode == ("L" if c == 1 else "RGB")
    whole = np.asarray(image).reshape(*image.size[::-1], c)
    inside = whole[MARGIN:-MARGIN, MARGIN:-MARGIN]
    rows = [
        np.concatenate([np.kron(x[r * 3 + k].permute(1, 2, 0).numpy(), np.ones((2, 2, 1), np.uint8)) for k in range(3)], 1)
        for r in (0, 1)
    ]
    assert np.array_equal(inside, np.concatenate(rows))


def test_with_words_every_picture_is_still_there_exactly() -> None:
    x = pictures(10, 1, 8, 8)
    image = np.asarray(
        sheet(
            x,
            columns=5,
            captions=[f"picture {i}" for i in range(10)],
            heads=list("abcde"),
            rows=["x", "y"],
            title="t",
            note="n",
            scale=3,
        )
    )
    for i in range(10):
        large = np.kron(x[i, 0].numpy(), np.ones((3, 3), np.uint8))
        views = np.lib.stride_tricks.sliding_window_view(image, large.shape)
        first = np.argwhere((views[:, :, 0, 0] == large[0, 0]) & (views[:, :, -1, -1] == large[-1, -1]))
        assert any(np.array_equal(views[y, z], large) for y, z in first), f"picture {i} is not on the sheet"


def test_small_pictures_grow_by_a_whole_factor_and_large_ones_stay() -> None:
    assert sheet(pictures(1, 1, 28, 28)).size == (28 * 4 + 2 * MARGIN,) * 2
    assert sheet(pictures(1, 3, 256, 256)).size == (256 + 2 * MARGIN,) * 2


def test_dark_paper_and_incomplete_rows() -> None:
    image = np.asarray(sheet(pictures(3), columns=2, paper=DARKROOM))
    assert image[0, 0] == DARKROOM.ground
    assert image[-MARGIN - 2, -MARGIN - 2] == DARKROOM.ground  # the empty fourth cell


def test_lettering_fits_its_room() -> None:
    for text in ("ankle boot", "a very long caption that cannot stand here", "日本語の長い説明文", ""):
        assert width(fit(text, 60)) <= 60
        assert all(width(line) <= 60 for line in wrap(text, 60, 3))
    assert fit("boot", 200) == "boot"
    assert wrap("one two", 500) == ["one two"]


@pytest.mark.parametrize(
    "wrong",
    [{"captions": ["one"]}, {"rows": ["a"], "columns": 2}, {"heads": ["a"], "columns": 2}, {"columns": 0}, {"scale": 0}],
)
def test_names_that_do_not_match_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        sheet(pictures(4), **wrong)  # type: ignore[arg-type]


def test_saved_losslessly_or_not_at_all(tmp_path: Path) -> None:
    image = sheet(pictures(4, 3))
    for suffix in (".png", ".webp"):
        with Image.open(save(tmp_path / f"s{suffix}", image)) as back:
            assert np.array_equal(np.asarray(back.convert("RGB")), np.asarray(image))
    with pytest.raises(SpecError, match="bmpp"):
        save(tmp_path / "s.bmpp", image)
    with pytest.raises(SpecError, match="NaN"):
        save(tmp_path / "nan.png", sheet(torch.full((1, 1, 2, 2), float("nan"))))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.png", "s.webp"]


def test_long_names_of_rows_are_broken_and_not_cut() -> None:
    """Names that differ only in their last word give different sheets, no wider than the room for names allows."""
    x = pictures(1, 3, 32, 32)
    long = "a dog to the left of a rocket on a green background, {} style"
    one, other = (sheet(x, rows=[long.format(word)], scale=3) for word in ("flat", "blob"))
    assert one.tobytes() != other.tobytes()
    assert one.size[0] <= 32 * 3 + 240 + 12 + 2 * MARGIN
