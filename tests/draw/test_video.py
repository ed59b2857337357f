"""Films as videos: decoded again, every picture is there, in its order, for its time, in its colours."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from safelight.draw import film
from safelight.draw.film import Frame
from safelight.draw.reel import reel
from safelight.draw.video import VIDEOS, encoder
from safelight.spec import SpecError


def colours(n: int, height: int = 16, width: int = 24) -> np.ndarray:
    """(n, 3, H, W) uint8: a colour each over its left, grey getting lighter over its right."""
    made = np.zeros((n, 3, height, width), np.uint8)
    for i in range(n):
        made[i, :, :, : width // 2] = np.array([40 + 60 * (i % 4), 40 + 60 * (i // 4 % 4), 200 - 15 * i])[:, None, None]
        made[i, :, :, width // 2 :] = 20 + 20 * i
    return made


def decoded(path: Path) -> tuple[list[np.ndarray], list[float], float]:
    """(frames (H, W, 3), the second each begins at, seconds of the whole)."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        found = [(frame.to_ndarray(format="rgb24"), float(frame.time)) for frame in container.decode(video=0)]
        return [f for f, _ in found], [t for _, t in found], container.duration / 1e6


@pytest.mark.parametrize("suffix", VIDEOS)
def test_all_pictures_in_their_order_and_time(tmp_path: Path, suffix: str) -> None:
    given = colours(8)
    frames, times, whole = decoded(reel(tmp_path / f"film{suffix}", given, seconds=2.4, hold=0.6))
    assert whole == pytest.approx(3.6, abs=0.05)
    assert np.allclose(np.diff(times), 1 / 30, atol=2e-3)  # an even rate
    large = given.transpose(0, 2, 3, 1).repeat(11, 1).repeat(11, 2)
    assert {f.shape for f in frames} == {large.shape[1:]}
    ends = np.cumsum([0.9, *[0.3] * 6, 0.9])
    for frame, time in zip(frames, times, strict=True):
        i = int(np.searchsorted(ends, time + 1e-3, "right"))
        assert np.abs(frame.astype(float) - large[i]).mean() < 4, (i, time)


@pytest.mark.parametrize("suffix", VIDEOS)
def test_and_back_again(tmp_path: Path, suffix: str) -> None:
    given = colours(5)
    frames, _, whole = decoded(reel(tmp_path / f"film{suffix}", given, seconds=1, hold=0, back=True, scale=8))
    assert whole == pytest.approx(8 / 5, abs=0.05)
    large = given.transpose(0, 2, 3, 1).repeat(8, 1).repeat(8, 2).astype(float)
    nearest = [int(np.abs(large - frame).mean((1, 2, 3)).argmin()) for frame in frames]
    assert [i for i, _ in itertools.groupby(nearest)] == [0, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize("suffix", VIDEOS)
def test_fast_films_drop_nothing_and_odd_sides_are_padded(tmp_path: Path, suffix: str) -> None:
    given = colours(12, 9, 15)
    frames, times, whole = decoded(reel(tmp_path / f"film{suffix}", given, seconds=0.1, hold=0, scale=3))
    assert (len(frames), frames[0].shape) == (12, (28, 46, 3))
    assert whole == pytest.approx(12 * 0.02, abs=0.03)
    assert np.allclose(np.diff(times), 0.02, atol=2e-3)
    large = np.pad(given.transpose(0, 2, 3, 1).repeat(3, 1).repeat(3, 2), ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    assert all(np.abs(f.astype(float) - g).mean() < 9 for f, g in zip(frames, large, strict=True))


@pytest.mark.parametrize("suffix", VIDEOS)
def test_the_film_of_a_denoising_too(tmp_path: Path, suffix: str) -> None:
    given = colours(4)
    shots = [Frame(given[i : i + 1], given[i : i + 1], f"step {i + 1}", "", i / 4) for i in range(4)]
    frames, _, whole = decoded(film(tmp_path / f"film{suffix}", shots, seconds=2, hold=1))
    assert whole == pytest.approx(3, abs=0.05)
    assert all(side % 2 == 0 for side in frames[0].shape[:2])
    assert len({frame.tobytes() for frame in frames[:: len(frames) // 6]}) >= 4


def test_without_an_encoder_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert not encoder()
    with pytest.raises(SpecError, match=r"^\.mp4 films need the package 'av': pip install 'safelight\[video\]'$"):
        reel(tmp_path / "film.mp4", colours(2))
    assert list(tmp_path.iterdir()) == []
