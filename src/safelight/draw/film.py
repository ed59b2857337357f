"""Films of a denoising: the noisy picture and, beside it, the clean picture that the model sees in it, step by step."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from safelight.draw import page as lay
from safelight.draw.page import WHITE, Page, Paper
from safelight.draw.pixels import to_bytes, to_image
from safelight.draw.video import VIDEOS, video
from safelight.files import atomic
from safelight.spec import SpecError

SUFFIXES = (".gif", ".webp", ".png", ".apng", *VIDEOS)


class Frame(NamedTuple):
    """One moment: x (N, C, H, W) the noisy pictures as they shall be shown, x0 (N, C, H, W) the model's guesses of the clean
    ones, both in [-1, 1] or uint8; left and right: the words under them; done: the part of the way gone, 0..1."""

    x: Any
    x0: Any
    left: str = ""
    right: str = ""
    done: float = 0.0


def shown(x: Any, alpha: float, sigma: float) -> Any:
    """What is shown of x_t = alpha x0 + sigma eps: x_t / sqrt(alpha^2 + sigma^2), which has the data's scale on every process.

    Variance-preserving processes are shown as they are; a VE process at sigma = 80, or a flow, becomes comparable with them.
    """
    return x / math.sqrt(alpha * alpha + sigma * sigma)


def words(alpha: float, sigma: float) -> str:
    """A noise level in words: `noise 0.71 x signal, log-SNR +0.69`."""
    if sigma == 0:
        return "no noise"
    if alpha == 0:
        return "noise only"
    return f"noise {sigma / alpha:.3g} x signal, log-SNR {2 * math.log(alpha / sigma):+.1f}"


def frames(steps: Iterable[Any]) -> Iterator[Frame]:
    """The frames of a run: the start of every step of `trajectory`, and the end of the last one.

    steps: objects with `i` (from 0), `n`, `before` and `x` (N, C, H, W: the pictures when the step begins and when it ends),
    `now` and `level` (their levels, with alpha and sigma) and `estimate.x0`. Pictures, not latents: decode first.
    """
    last = None
    for step in steps:
        alpha, sigma = float(step.now.alpha), float(step.now.sigma)
        yield Frame(
            shown(step.before, alpha, sigma),
            step.estimate.x0,
            f"step {step.i + 1} of {step.n}",
            words(alpha, sigma),
            step.i / step.n,
        )
        last = step
    if last is not None:
        alpha, sigma = float(last.level.alpha), float(last.level.sigma)
        x = shown(last.x, alpha, sigma)
        yield Frame(x, x if sigma == 0 else last.estimate.x0, f"after {last.n} steps", words(alpha, sigma), 1.0)


def film(
    path: str | os.PathLike[str],
    frames: Iterable[Frame],
    *,
    captions: Sequence[str] = (),
    columns: int | None = None,
    scale: int | None = None,
    seconds: float = 5.0,
    hold: float = 2.5,
    most: int = 64,
    paper: Paper = WHITE,
) -> Path:
    """Write a looping film of pairs (noisy | guess), one pair a picture, and return its path.

    path: `.gif`, `.webp` (lossless) or `.png`/`.apng` (lossless; a viewer that knows no APNG shows the first frame), or with the extra
        `video` `.mp4` and `.webm`. Grey pictures are exact in the first three; in a GIF coloured ones share one palette of 256.
    frames: see `Frame`; when more than `most`, as many are taken evenly, first and last included.
    captions: a name under each pair. columns: pairs a row. scale: whole enlargement.
    seconds: how long the run lasts; hold: how long the end then stays.
    Raises SpecError for no frames, frames of unequal shape, NaN, an unknown suffix, or captions that do not match in number.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise SpecError(f"{target}: '{target.suffix}' is no film format here ({', '.join(SUFFIXES)})")
    if not seconds > 0 or not hold >= 0 or most < 2:
        raise SpecError("a film needs seconds > 0, hold >= 0 and most >= 2")
    shots = [
        (to_bytes(f.x, f"x in frame {i}"), to_bytes(f.x0, f"x0 in frame {i}"), f.left, f.right, f.done)
        for i, f in enumerate(frames)
    ]
    if not shots:
        raise SpecError("a film needs at least one frame")
    shape = shots[0][0].shape
    if any(x.shape != shape or x0.shape != shape for x, x0, *_ in shots):
        raise SpecError("a film's frames must all have pictures of one shape")
    if captions and len(captions) != shape[0]:
        raise SpecError(f"captions: {len(captions)} names for {shape[0]} pictures")
    if len(shots) > most:
        shots = [shots[round(i)] for i in np.linspace(0, len(shots) - 1, most)]
    layout = _Layout(shape, tuple(captions), columns, scale, paper)
    pages = [layout.page(*shot) for shot in shots]
    each = max(
        20, round(1000 * seconds / len(pages) / 10) * 10
    )  # GIF counts in 1/100 s, and browsers slow down what is below 2
    write(target, pages, [each] * (len(pages) - 1) + [each + round(1000 * hold)])
    return target


class _Layout:
    """Where everything stands on a page of the film; the same for every frame."""

    def __init__(
        self, shape: tuple[int, ...], captions: Sequence[str], columns: int | None, scale: int | None, paper: Paper
    ) -> None:
        n, h, w, c = shape
        self.paper, self.colour, self.captions = paper, c == 3, captions
        self.scale = lay.enlargement(h, w) if scale is None else scale
        self.w, self.h = w * self.scale, h * self.scale
        self.between, self.gap = 4, 24
        self.below = lay.leading() + 6 if captions else 0
        self.pair = 2 * self.w + self.between
        if columns is None:  # the page nearest to 3:2, rather without a gap in its last row

            def off(k: int) -> float:
                shape = k * (self.pair + self.gap) / (math.ceil(n / k) * (self.h + self.below + 16) + 90)
                return abs(math.log(shape / 1.5)) + (0.6 if n % k else 0.0)

            columns = min(range(1, n + 1), key=off)
        self.columns = max(1, min(columns, n))
        self.rows = math.ceil(n / self.columns)
        self.top = lay.MARGIN + lay.leading(lay.SMALL) + 4
        self.row = self.h + self.below + (10 if captions else 12)
        grid = self.columns * self.pair + (self.columns - 1) * self.gap
        self.narrow = grid < 380  # then the two words of the footer stand under each other
        self.width = max(grid, 260) + 2 * lay.MARGIN
        self.left = (self.width - grid) // 2
        self.foot = self.top + self.rows * self.row + 4
        self.height = self.foot + 10 + lay.leading() * (2 if self.narrow else 1) + lay.MARGIN - 4

    def page(self, x: np.ndarray, x0: np.ndarray, left: str, right: str, done: float) -> Image.Image:
        page, paper = Page((self.width, self.height), self.paper, self.colour), self.paper
        for k in range(self.columns):
            at = self.left + k * (self.pair + self.gap)
            for j, head in enumerate(("noisy x_t", "guess of x_0")):
                middle = at + j * (self.w + self.between) + self.w / 2
                page.text(
                    (middle, lay.MARGIN - 2), lay.fit(head, self.w, lay.SMALL), size=lay.SMALL, grey=paper.faint, anchor="ma"
                )
        for i in range(len(x)):
            r, k = divmod(i, self.columns)
            at, y = self.left + k * (self.pair + self.gap), self.top + r * self.row
            page.picture((at, y), x[i], self.scale)
            page.picture((at + self.w + self.between, y), x0[i], self.scale)
            if self.captions:
                page.text((at + self.pair / 2, y + self.h + 4), lay.fit(self.captions[i], self.pair), anchor="ma")
        end = self.width - lay.MARGIN
        page.bar((lay.MARGIN, self.foot, end, self.foot + 3), paper.rule)
        page.bar((lay.MARGIN, self.foot, lay.MARGIN + round((end - lay.MARGIN) * min(1.0, max(0.0, done))), self.foot + 3))
        page.text((lay.MARGIN, self.foot + 10), left)
        if self.narrow:
            page.text((lay.MARGIN, self.foot + 10 + lay.leading()), right, grey=paper.faint)
        else:
            page.text((end, self.foot + 10), right, grey=paper.faint, anchor="ra")
        return page.image


def write(target: Path, pages: list[Image.Image], durations: list[int]) -> None:
    """Write pages as a film in the format of the suffix, whole or not at all, looping where the format says so itself (videos do not).

    durations: of each page, in milliseconds. Raises SpecError for a video where there is no encoder.
    """
    suffix = target.suffix.lower()
    with atomic(target) as temporary:
        if suffix in VIDEOS:
            video(temporary, pages, durations, suffix[1:])
        elif suffix == ".gif":
            pages = _one_palette(pages) if pages[0].mode == "RGB" else pages
            pages[0].save(temporary, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=False)
        elif suffix == ".webp":
            pages[0].save(temporary, "WEBP", save_all=True, append_images=pages[1:], duration=durations, loop=0, lossless=True)
        else:
            pages[0].save(temporary, "PNG", save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=True)


def _one_palette(pages: list[Image.Image]) -> list[Image.Image]:
    """All frames in one palette of 256 made for the whole film, its end counting more: colours do not flicker."""
    chosen = [pages[round(i)] for i in np.linspace(0, len(pages) - 1, min(6, len(pages)))] + [pages[-1]] * 2
    pixels = np.concatenate([np.asarray(p).reshape(-1, 3)[::3] for p in chosen])
    side = math.isqrt(len(pixels))
    palette = to_image(np.ascontiguousarray(pixels[: side * side].reshape(side, side, 3))).quantize(
        256, Image.Quantize.MEDIANCUT
    )
    return [p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pages]
