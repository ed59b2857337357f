"""The closed lists of the scenes, in the order in which tensors number them; -1 means "none"."""

from __future__ import annotations

from typing import Final

RGB = tuple[int, int, int]

STYLES: Final = ("noto", "twemoji", "flat", "glossy", "blob")
# Each near twin of another is held out together with it.
TWINS: Final = {"flat": "fluent", "glossy": "fluent"}

TEMPLATES: Final = ("single", "colour", "size", "corner", "count", "relation")
SINGLE, COLOUR, SIZE, CORNER, COUNT, RELATION = range(6)
MIX: Final = (40, 15, 5, 5, 15, 20)  # per cent

# What a scene stands on, and what its object may be painted in.
BACKGROUNDS: Final[dict[str, RGB]] = {
    "white": (255, 255, 255),
    "black": (22, 22, 26),
    "gray": (138, 140, 144),
    "red": (208, 48, 48),
    "orange": (245, 148, 48),
    "yellow": (250, 222, 92),
    "green": (72, 172, 84),
    "blue": (62, 122, 222),
    "purple": (138, 78, 190),
    "pink": (246, 166, 202),
}
WHITE: Final = 0  # the background of a caption that names none
BACKGROUND_ODDS: Final = (2, 1, 1, 1, 1, 1, 1, 1, 1, 1)

COLOURS: Final[dict[str, RGB]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 25),
    "yellow": (250, 205, 45),
    "green": (50, 165, 75),
    "blue": (45, 105, 220),
    "purple": (130, 60, 185),
    "pink": (245, 125, 180),
}

SIZES: Final = ("small", "big")
CORNERS: Final = ("top left", "top right", "bottom left", "bottom right")
RELATIONS: Final = ("left", "right", "above", "below")  # where the first object is, seen from the second
NUMBERS: Final = ("two", "three", "four")

SIZE_WORDS: Final = (("small", "tiny"), ("big", "large"))
CORNER_WORDS: Final = ("in the {v} {h} corner", "in the {u} {h} corner")
RELATION_WORDS: Final = (("to the left of", "left of"), ("to the right of", "right of"), ("above", "over"), ("below", "under"))
PREFIXES: Final = ("", "a picture of", "an icon of")
BACKGROUND_WORDS: Final = ("on {a} {colour} background", "against {a} {colour} background")
STYLE_WORDS: Final = ("in {style} style", ", {style} style")
