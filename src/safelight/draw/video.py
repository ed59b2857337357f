"""Films as video files, by PyAV: MP4 (H.264) and WebM (VP9), which play where a GIF does not."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safelight.spec import SpecError

# Codec and its options of a format. Nearly without loss: these are pictures to look at one by one.
_CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "mp4": ("libx264", {"crf": "14", "preset": "medium"}),
    "webm": ("libvpx-vp9", {"crf": "14", "b:v": "0", "deadline": "good", "cpu-used": "4"}),
}
VIDEOS = tuple(f".{name}" for name in _CODECS)
# Frames a second: every player and editor takes an even rate; the faster one where a picture stays shorter than 1/30 s.
_RATES = (30, 50)
_BT709 = 1


def encoder() -> bool:
    """Whether there is one here: the package `av`."""
    return importlib.util.find_spec("av") is not None


def video(target: Path, pages: Sequence[Image.Image], durations: Sequence[int], format: str) -> None:
    """Write pages of one size, each shown for so many milliseconds (20 at least), as a video. format: `mp4` or `webm`.

    Odd sides get one more row or column of their edge. Raises SpecError where there is no encoder.
    """
    try:
        import av
    except ImportError:
        raise SpecError(f".{format} films need the package 'av': pip install 'safelight[video]'") from None
    codec, options = _CODECS[format]
    rate = _RATES[min(durations) < 1000 / _RATES[0]]
    ends = [round(end * rate / 1000) for end in accumulate(durations)]
    with av.open(str(target), "w", format=format, options={"movflags": "faststart"} if format == "mp4" else {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = (side + side % 2 for side in pages[0].size)
        stream.pix_fmt = "yuv420p"
        about = stream.codec_context
        about.colorspace = about.color_primaries = about.color_trc = about.color_range = _BT709  # 1 of a range: of video
        for page, (begin, end) in zip(pages, pairwise([0, *ends]), strict=True):
            pixels = np.asarray(page.convert("RGB"))
            even = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            for number in range(begin, end):
                frame.pts = number
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


__all__ = ["VIDEOS", "encoder", "video"]
