"""What the camera does, which a still cannot and a film must."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from safelight.prompt.rules.case import Case, Finding, made, short
from safelight.prompt.text import Edit, Text, find, has_subject, phrases
from safelight.prompt.words import CAMERA, MOVEMENTS, TEMPORAL, listed

_MOVEMENT: Final = frozenset(tuple(p.split()) for p in listed(MOVEMENTS))
_STILL: Final = frozenset({("static", "camera"), ("static", "shot"), ("locked", "off", "shot"), ("locked", "off", "camera")})
_FILM: Final = frozenset(tuple(p.split()) for p in listed(TEMPORAL)) | _MOVEMENT
# As part of a sentence these are also something else: a frying pan, a stage's fade, a dolly for a piano.
_AMBIGUOUS: Final = frozenset(
    {("pan",), ("tracking",), ("orbit",), ("dolly",), ("transition",), ("dissolve",), ("looping",), ("handheld",), ("panning",)}
)
_MOVES = re.compile(
    r"(?:the )?camera (?:\w+ly )?(?:pans?|tilts?|zooms?|dollies|dolly|tracks?|orbits?|moves?|pushes|pulls|cranes?|flies|circles"
    r"|follows|glides)"
    r"(?: (?:left|right|up|down|in|out|across|over|around|through|along|to|towards?|past|back|away|from|the left|the right))*\b"
)


def camera(case: Case) -> Iterator[Finding]:
    """A still has no movement; a film's prompt says what the camera does."""
    text = case.prompt
    moving = [p for p in find(text.words, _FILM) if _as_film(text, p)]
    sentences = list(_MOVES.finditer(text.said))
    if case.film:
        if (
            text.words
            and not sentences
            and not any(tuple(w.text for w in text.words[a : b + 1]) in _MOVEMENT for a, b in moving)
        ):
            kinds = {p.text for p in phrases(text.words) if p.part == CAMERA}
            near = any("close" in k or "macro" in k or "portrait" in k or "head" in k for k in kinds)
            wide = any(
                w in k for k in kinds for w in ("wide", "long", "aerial", "establishing", "landscape", "panoram", "drone")
            )
            move = "slow push in" if near else "slow pan" if wide else "static camera"
            end = len(text.raw.rstrip(" ,.;\n"))
            edits: tuple[Edit, ...] = (Edit("prompt", end, len(text.raw), f", {move}"),)
            reason = "a film's prompt says what the camera does (static, pan, push in, tracking shot, ...)"
            yield made("camera", text, end, len(text.raw), reason, f"add '{move}'", edits)
        named = [tuple(w.text for w in text.words[a : b + 1]) for a, b in moving]
        moves = [n for n in named if n in _MOVEMENT and n not in _STILL]
        if len(moves) > 2:
            said = ", ".join(" ".join(m) for m in moves)
            yield Finding(
                "camera", "prompt", (0, len(text.raw)), f"{len(moves)} movements in one shot ({said}): one or two are followed"
            )
        return
    for found in sentences:
        reason = f"'{short(found[0])}' is a film's word; a still does not move"
        yield made("camera", text, *found.span(), reason, "leave it out", text.cut(*found.span()))
    for first, last in moving:
        start, stop = text.words[first].start, text.words[last].stop
        if any(s.start() < stop and start < s.end() for s in sentences):
            continue
        item = next(i for i in text.items if i.start <= start < i.stop)
        alone = len(item.key) <= last - first + 2 and not has_subject(item)
        said = text.slice(start, stop)
        edits = text.cut(item.start, item.stop) if alone else ()
        yield made("camera", text, start, stop, f"'{said}' is a film's word; a still does not move", "leave it out", edits)


def _as_film(text: Text, place: tuple[int, int]) -> bool:
    """Whether words that a film's camera knows are meant so: those of two meanings only as an item of their own."""
    words_ = text.words[place[0] : place[1] + 1]
    item = next((i for i in text.items if i.start <= words_[0].start < i.stop), None)
    if item is None or len({i.start for i in text.items if i.start <= words_[-1].start and words_[0].start < i.stop}) > 1:
        return False
    return tuple(w.text for w in words_) not in _AMBIGUOUS or item.key == tuple(w.text for w in words_)
