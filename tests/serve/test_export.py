"""A run to take along: every film holds the run's steps in their order, the archive all its files; without an encoder one line says so."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from safelight.serve.api import export
from safelight.spec import SpecError
from tests.serve.live import Running

STEPS = 7


@pytest.fixture(scope="module")
def run(live: Running) -> dict[str, Any]:
    return live.run(steps=STEPS, count=2, seed=5)


@pytest.fixture(scope="module")
def frames(live: Running, run: dict[str, Any]) -> np.ndarray:
    """uint8 (N, H, W, 3): what was believed at every step of the second picture."""
    found = [live.client.get(f"/v1/runs/{run['id']}/steps/{k}/x0.png?picture=1").content for k in range(STEPS)]
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found])


def taken(live: Running, run: dict[str, Any], format: str, **query: Any) -> bytes:
    answer = live.client.get(f"/v1/runs/{run['id']}/export/{format}", params={"picture": 1, **query})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == f'attachment; filename="{run["id"]}.{format}"'
    return answer.content


@pytest.mark.parametrize("format", ["gif", "webp", "apng"])
def test_a_film_is_the_steps_in_their_order(live: Running, run: dict[str, Any], frames: np.ndarray, format: str) -> None:
    film = Image.open(io.BytesIO(taken(live, run, format, seconds=1.4)))
    pages = [(np.asarray(page.convert("RGB")), page.info["duration"]) for page in ImageSequence.Iterator(film)]
    assert [duration for _, duration in pages] == [700, 200, 200, 200, 200, 200, 700]
    scale = pages[0][0].shape[0] // frames.shape[1]
    assert scale * frames.shape[1] >= 256
    large = frames.repeat(scale, 1).repeat(scale, 2).astype(float)
    apart = [float(np.abs(page - step).mean()) for (page, _), step in zip(pages, large, strict=True)]
    assert max(apart) <= (0 if format != "gif" else 2)  # a GIF has 256 colours for the whole film


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_a_video_decodes_to_the_steps(live: Running, run: dict[str, Any], frames: np.ndarray, format: str) -> None:
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(taken(live, run, format, seconds=1.4))) as container:
        assert container.streams.video[0].codec_context.name == {"mp4": "h264", "webm": "vp9"}[format]
        decoded = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
        assert container.duration / 1e6 == pytest.approx(2.4, abs=0.04)
    assert (len(decoded), decoded[0].shape) == (72, (256, 256, 3))
    large = frames.repeat(32, 1).repeat(32, 2)
    for i, shown in enumerate(np.repeat(np.arange(STEPS), [21, 6, 6, 6, 6, 6, 21])):
        assert np.abs(decoded[i] - large[shown]).mean() < 3, (i, shown)


@pytest.mark.parametrize("lens", ["x", "noise", "difference"])
def test_through_any_lens(live: Running, run: dict[str, Any], lens: str) -> None:
    film = Image.open(io.BytesIO(taken(live, run, "webp", lens=lens)))
    last = Image.open(io.BytesIO(live.client.get(f"/v1/runs/{run['id']}/steps/0/{lens}.png?picture=1").content))
    assert film.n_frames == STEPS  # type: ignore[attr-defined]
    assert film.convert("RGB").resize(last.size, Image.Resampling.NEAREST).tobytes() == last.convert("RGB").tobytes()


def test_the_archive_has_every_file_and_is_always_the_same(live: Running, run: dict[str, Any], frames: np.ndarray) -> None:
    data = taken(live, run, "zip")
    assert taken(live, run, "zip") == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["run.json", "0.png", "1.png", *(f"steps/{k:04d}.png" for k in range(STEPS))]
        assert json.loads(archive.read("run.json"))["id"] == run["id"]
        assert archive.read("1.png") == live.client.get(f"/v1/runs/{run['id']}/pictures/1.png").content
        for k in range(STEPS):
            step = np.asarray(Image.open(io.BytesIO(archive.read(f"steps/{k:04d}.png"))).convert("RGB"))
            assert np.array_equal(step, frames[k])


def test_a_film_of_any_pictures(frames: np.ndarray) -> None:
    """As a morph is exported: back and forth, without a hold."""
    film = Image.open(io.BytesIO(export.pictures(frames, "webp", 0.7, back=True)))
    pages = [(np.asarray(page.convert("RGB"))[::32, ::32], page.info["duration"]) for page in ImageSequence.Iterator(film)]
    order = [*range(STEPS), *range(STEPS - 2, 0, -1)]
    assert all(np.array_equal(page, frames[i]) for (page, _), i in zip(pages, order, strict=True))
    assert [duration for _, duration in pages] == [100] * len(order)


def test_one_picture_is_no_film(live: Running, frames: np.ndarray) -> None:
    with pytest.raises(SpecError, match="two frames at least"):
        export.pictures(frames[:1], "gif", 1.0)
    short = live.run(steps=1)
    answer = live.client.get(f"/v1/runs/{short['id']}/export/gif")
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "export: a film needs two frames at least")


def test_without_an_encoder(live: Running, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The formats that are offered have no video, and who asks all the same is told in one line what to install."""
    monkeypatch.setitem(sys.modules, "av", None)
    assert live.client.get("/v1/settings").json()["exports"] == ["gif", "webp", "apng", "html", "zip"]
    for format in ("mp4", "webm"):
        answer = live.client.get(f"/v1/runs/{run['id']}/export/{format}")
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == f".{format} films need the package 'av': pip install 'safelight[video]'"
