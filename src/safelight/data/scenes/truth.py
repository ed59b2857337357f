"""What a scene shows, as plain records: for people, for JSON and for the checker's report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.words import BACKGROUNDS, COLOURS, CORNERS, RELATIONS, SIZES, STYLES, TEMPLATES


@dataclass(frozen=True)
class Thing:
    """One kind of thing in a scene: its concept, and the colour it is painted in or named by (None: as it is)."""

    concept: str
    colour: str | None


@dataclass(frozen=True)
class Truth:
    """What is to be seen. `boxes` are x0, y0, x1, y1 in pixels, ends exclusive, one a thing, in the order of `things` for a
    relation; empty when no picture was composed."""

    template: str
    things: tuple[Thing, ...]  # one, or two in a relation
    count: int  # of equal things; 1 in a relation
    background: str
    style: str
    says_background: bool
    says_style: bool
    size: str | None
    corner: str | None
    relation: str | None
    boxes: tuple[tuple[int, int, int, int], ...] = ()

    def json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return asdict(self)


def truths(composer: Composer, scenes: Scenes, *, boxes: bool = True) -> list[Truth]:
    """The truth of each scene. `boxes=False` leaves them out and needs no bank of pixels."""
    nouns = composer.pack.nouns
    columns = {name: field.tolist() for name, field in scenes._asdict().items()}
    places = composer.boxes(scenes).tolist() if boxes else None
    colours = tuple(COLOURS)
    found = []
    for i in range(len(scenes.template)):
        things = []
        for concept, painted in zip(columns["concept"][i], columns["colour"][i], strict=True):
            if concept >= 0:
                colour = colours[painted] if painted >= 0 else nouns[concept].colour
                things.append(Thing(nouns[concept].concept, colour))
        own = tuple(tuple(box) for box in places[i] if box[0] >= 0) if places else ()
        found.append(
            Truth(
                TEMPLATES[columns["template"][i]],
                tuple(things),
                columns["number"][i],
                tuple(BACKGROUNDS)[columns["background"][i]],
                STYLES[columns["style"][i]],
                columns["words"][i][6] > 0,
                columns["words"][i][7] > 0,
                _name(SIZES, columns["size"][i]),
                _name(CORNERS, columns["corner"][i]),
                _name(RELATIONS, columns["relation"][i]),
                own,
            )
        )
    return found


def _name(names: tuple[str, ...], number: int) -> str | None:
    return names[number] if number >= 0 else None
