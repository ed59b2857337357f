"""Paper, ink and lettering. Colours are neutral greys, so that a grey picture stays grey and a GIF of it stays exact."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from safelight.draw.pixels import to_image

TEXT = 14  # pixels; below 13 captions stop being readable on a plain screen
SMALL = 13
TITLE = 20
MARGIN = 20


class Paper(NamedTuple):
    """What a sheet is printed on: grey values 0..255 of the ground, the main lettering, the lesser lettering, and rules."""

    ground: int
    ink: int
    faint: int
    rule: int


WHITE = Paper(ground=255, ink=28, faint=104, rule=214)
DARKROOM = Paper(ground=22, ink=236, faint=158, rule=64)


@functools.cache
def font(size: int, ascii_only: bool = True) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The lettering: Pillow's own (the same on every machine), or for other alphabets the broader one of matplotlib."""
    if not ascii_only:
        found = importlib.util.find_spec("matplotlib")  # does not import it
        for folder in (found.submodule_search_locations or []) if found else []:
            broad = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
            if broad.is_file():
                return ImageFont.truetype(str(broad), size - 1)
    return ImageFont.load_default(size)


def _font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return font(size, text.isascii())


def width(text: str, size: int = TEXT) -> int:
    """How many pixels wide a line of text is."""
    return int(np.ceil(_font(text, size).getlength(text)))


def leading(size: int = TEXT) -> int:
    """How many pixels high a line of text stands, air included."""
    return round(size * 1.4)


def fit(text: str, room: int, size: int = TEXT) -> str:
    """`text`, cut with an ellipsis to stand in `room` pixels."""
    text = " ".join(text.split())
    if width(text, size) <= room:
        return text
    while text and width(text + "...", size) > room:
        text = text[:-1].rstrip()
    return text + "..." if text else ""


def wrap(text: str, room: int, lines: int = 2, size: int = TEXT) -> list[str]:
    """`text` broken between words into at most `lines` lines of `room` pixels; what is left over ends in an ellipsis."""
    out: list[str] = []
    words = text.split()
    while words and len(out) < lines - 1:
        n = 1
        while n < len(words) and width(" ".join(words[: n + 1]), size) <= room:
            n += 1
        out.append(fit(" ".join(words[:n]), room, size))
        words = words[n:]
    return [*out, fit(" ".join(words), room, size)] if words else out


class Page:
    """A sheet being laid out: pictures and lines of text at pixel positions. `image` is L while all is grey, else RGB."""

    def __init__(self, size: tuple[int, int], paper: Paper, colour: bool) -> None:
        self.paper = paper
        self.image = Image.new("RGB" if colour else "L", size, self.shade(paper.ground, colour))
        self._draw = ImageDraw.Draw(self.image)

    @staticmethod
    def shade(grey: int, colour: bool) -> int | tuple[int, int, int]:
        return (grey, grey, grey) if colour else grey

    def _grey(self, grey: int | None) -> int | tuple[int, int, int]:
        return self.shade(self.paper.ink if grey is None else grey, self.image.mode == "RGB")

    def picture(self, at: tuple[int, int], picture: np.ndarray, scale: int) -> None:
        """picture: (H, W, C) uint8, each pixel a square of `scale` pixels, its corner at `at` = (x, y)."""
        large = np.repeat(np.repeat(picture, scale, 0), scale, 1)
        self.image.paste(to_image(large), at)

    def text(
        self, at: tuple[float, float], text: str, *, size: int = TEXT, grey: int | None = None, anchor: str = "la"
    ) -> None:
        """anchor: Pillow's two letters; `la` left and top, `ma` middle and top, `rm` right and middle."""
        self._draw.text(at, text, font=_font(text, size), fill=self._grey(grey), anchor=anchor)

    def bar(self, box: tuple[int, int, int, int], grey: int | None = None) -> None:
        """A filled rectangle, (x0, y0, x1, y1), x1 and y1 excluded."""
        x0, y0, x1, y1 = box
        if x1 > x0 and y1 > y0:
            self._draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=self._grey(grey))


def enlargement(height: int, width: int, target: int = 104) -> int:
    """The whole factor that brings a small picture to about `target` pixels; 1 for a large one."""
    return max(1, round(target / max(height, width)))
