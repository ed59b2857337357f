"""Films decode to exactly the frames that were given; the last is held."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from safelight.draw.film import Frame, film, frames, shown, words
from safelight.spec import SpecError


def shots(n: int, pictures: int = 2, c: int = 1) -> list[Frame]:
    random = torch.Generator().manual_seed(n)
    both = torch.randint(0, 256, (n, 2, pictures, c, 8, 8), dtype=torch.uint8, generator=random)
    return [Frame(x, x0, f"step {i}", "noise", i / n) for i, (x, x0) in enumerate(both)]


def decoded(path: Path) -> tuple[list[np.ndarray], list[int]]:
    with Image.open(path) as image:
        pages, times = [], []
        for page in ImageSequence.Iterator(image):
            pages.append(np.asarray(page.convert("RGB")))
            page.load()
            times.append(int(page.info["duration"]))
        return pages, times


def holds(page: np.ndarray, picture: torch.Tensor, scale: int) -> bool:
    """Whether the picture, enlarged, is somewhere on the page, exactly."""
    large = np.kron(
        np.broadcast_to(picture.permute(1, 2, 0).numpy(), (*picture.shape[1:], 3)), np.ones((scale, scale, 1), np.uint8)
    )
    h, w = large.shape[:2]
    corner = (page[: page.shape[0] - h + 1, : page.shape[1] - w + 1] == large[0, 0]).all(-1)
    return any(np.array_equal(page[y : y + h, x : x + w], large) for y, x in np.argwhere(corner))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng"])
def test_grey_films_decode_exactly(tmp_path: Path, suffix: str) -> None:
    given = shots(7, pictures=3)
    path = film(tmp_path / f"film{suffix}", given, captions=["a", "b", "c"], scale=5, seconds=0.7, hold=1.0)
    pages, times = decoded(path)
    assert len(pages) == 7
    assert all(t == times[0] for t in times[:-1])
    assert times[-1] == times[0] + 1000
    for k in (0, 3, 6):
        for side in (given[k].x, given[k].x0):
            assert all(holds(pages[k], picture, 5) for picture in side)


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_coloured_films_decode_exactly(tmp_path: Path, suffix: str) -> None:
    given = shots(3, c=3)
    pages, _ = decoded(film(tmp_path / f"film{suffix}", given, scale=4))
    assert holds(pages[-1], given[-1].x0[1], 4)
    assert holds(pages[0], given[0].x[0], 4)


def test_a_coloured_gif_has_one_palette_and_is_close(tmp_path: Path) -> None:
    y, x = torch.meshgrid(torch.linspace(0, 255, 32), torch.linspace(0, 255, 32), indexing="ij")
    smooth = torch.stack([x, y, (x + y) / 2]).to(torch.uint8)[None]
    given = [Frame(smooth.flip(2 + i % 2), smooth, str(i)) for i in range(4)]
    path = film(tmp_path / "film.gif", given, scale=1)
    with Image.open(path) as image:
        palettes = {bytes(frame.global_palette.palette) for frame in [image]}
        assert len(palettes) == 1
        image.seek(3)
        page = np.asarray(image.convert("RGB")).astype(float)
    near = [
        np.abs(page[i : i + 32, j : j + 32] - smooth[0].permute(1, 2, 0).numpy()).mean()
        for i in range(page.shape[0] - 31)
        for j in range(page.shape[1] - 31)
    ]
    assert min(near) < 12


def test_long_runs_are_thinned_and_keep_both_ends(tmp_path: Path) -> None:
    given = shots(50, pictures=1)
    pages, _ = decoded(film(tmp_path / "film.png", given, most=10, scale=3))
    assert len(pages) == 10
    assert holds(pages[0], given[0].x[0], 3)
    assert holds(pages[-1], given[-1].x0[0], 3)


class Level(NamedTuple):
    alpha: float
    sigma: float


class Estimate(NamedTuple):
    x0: torch.Tensor


class Step(NamedTuple):
    i: int
    n: int
    before: torch.Tensor
    x: torch.Tensor
    now: Level
    level: Level
    estimate: Estimate


def test_frames_of_a_run_begin_in_noise_and_end_with_the_picture() -> None:
    levels = [Level(0.0, 1.0), Level(0.6, 0.8), Level(1.0, 0.0)]
    xs = [torch.full((1, 1, 2, 2), v) for v in (0.3, 0.2, 0.1)]
    steps = [Step(i, 2, xs[i], xs[i + 1], levels[i], levels[i + 1], Estimate(torch.full((1, 1, 2, 2), 0.5))) for i in range(2)]
    shown_ = list(frames(steps))
    assert [f.left for f in shown_] == ["step 1 of 2", "step 2 of 2", "after 2 steps"]
    assert [f.done for f in shown_] == [0.0, 0.5, 1.0]
    assert torch.equal(shown_[0].x, xs[0])
    assert torch.equal(shown_[1].x0, steps[1].estimate.x0)
    assert torch.equal(shown_[2].x, xs[2])
    assert torch.equal(shown_[2].x0, xs[2])
    assert shown_[0].right == "noise only"
    assert shown_[1].right == "noise 1.33 x signal, log-SNR -0.6"
    assert shown_[2].right == words(1, 0) == "no noise"


def test_an_exploding_process_is_shown_at_the_data_s_scale() -> None:
    x = 80 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert shown(x, 1.0, 80.0).std().item() == pytest.approx(1, abs=0.05)


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="avi"):
        film(tmp_path / "film.avi", shots(2))
    with pytest.raises(SpecError, match="at least one frame"):
        film(tmp_path / "film.gif", [])
    with pytest.raises(SpecError, match="NaN"):
        film(tmp_path / "film.gif", [Frame(torch.full((1, 1, 2, 2), float("nan")), torch.zeros(1, 1, 2, 2))])
    with pytest.raises(SpecError, match="captions"):
        film(tmp_path / "film.gif", shots(2), captions=["one"])
    with pytest.raises(SpecError, match="one shape"):
        film(tmp_path / "film.gif", [*shots(1), *shots(1, pictures=1)])
    assert not list(tmp_path.iterdir())
