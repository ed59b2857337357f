"""What comes first counts most."""

from __future__ import annotations

import re
from collections.abc import Iterator

from safelight.prompt.rules.case import Case, Finding, made, short
from safelight.prompt.rules.syntax import unpaired
from safelight.prompt.text import Edit, Item, Text, phrases
from safelight.prompt.words import ARTICLES, CLINGING, GRAMMAR, PARTS, PLACES, QUANTITIES, STYLE, SUBJECT


def order(case: Case) -> Iterator[Finding]:
    """Subject, environment, pose, light, camera, style: what comes first counts most."""
    text = case.prompt
    if re.search(r"[.!?;]\s+\S|\n\s*\S", text.plain) or any(True for _ in unpaired(text)):
        return
    start = 0
    for stop, following in [*text.marks.breaks, (len(text.raw), len(text.raw))]:
        yield from _ordered(text, start, stop)
        start = following


def _ordered(text: Text, low: int, high: int) -> Iterator[Finding]:
    blocks: list[tuple[int, list[str]]] = []
    spans = _outer(text, low, high)
    for a, b in spans:
        # an item in brackets with commas of its own is told by what it begins with
        mine = [i for i in text.items if a <= i.start < b]
        part = _part(mine[0]) if mine else None
        if part is None and blocks:
            blocks[-1][1].append(text.raw[a:b])
        else:
            blocks.append((SUBJECT if part is None else part, [text.raw[a:b]]))
    parts = [part for part, _ in blocks]
    if parts == sorted(parts):
        return
    wrong = next(i for i in range(1, len(parts)) if parts[i] < parts[i - 1])
    said = ", ".join(piece for _, pieces in sorted(blocks, key=lambda block: block[0]) for piece in pieces)
    start, stop = spans[0][0], spans[-1][1]
    edits = (Edit("prompt", start, stop, said),)
    late, early = PARTS[parts[wrong]], PARTS[parts[wrong - 1]]
    reason = f"'{short(blocks[wrong][1][0])}' ({late}) comes behind {early}: the order is {', '.join(PARTS)}"
    yield made("order", text, start, stop, reason, f"say '{short(said, 120)}'", edits)


def _outer(text: Text, low: int, high: int) -> list[tuple[int, int]]:
    """The places of the items that are in no bracket, each with its own brackets, without the white space around."""
    depth, start, out = 0, low, []
    for i in range(low, high + 1):
        end = i == high or (depth == 0 and text.raw[i] == "," and text.marks.weights[i] is not None and text.said[i] != "\0")
        if end:
            body = text.raw[start:i]
            if body.strip(" \n\t."):
                first = start + len(body) - len(body.lstrip())
                out.append((first, start + len(body.rstrip(" \n\t." if i == high else None))))
            start = i + 1
        elif text.marks.weights[i] is None and text.raw[i] in "()[]":
            depth += 1 if text.raw[i] in "([" else -1
    return out


def _part(item: Item) -> int | None:
    """The part of a picture that an item speaks of; None where it hangs on the item before, or where that cannot be told."""
    said = [w.text for w in item.words]
    if not said or said[0] in CLINGING:
        return None
    new = said[0] in ARTICLES or said[0] in QUANTITIES or said[0].isdigit()
    known = phrases(item.words)
    if said[0] == "by" or "of" in said[1:] or len(said) > 8:  # "by an artist", "a painting of a cat", a sentence
        return STYLE if said[0] == "by" and len(said) > 1 and said[1] not in ARTICLES else SUBJECT if new else None
    covered = {i for p in known for i in range(p.first, p.last + 1)}
    rest = [w for i, w in enumerate(said) if i not in covered and w not in GRAMMAR and w not in QUANTITIES]
    if known and known[-1].last == len(said) - 1 and (not rest or not new):
        return known[-1].part
    if said[0] in PLACES and not new:
        return known[-1].part if known else 1
    return SUBJECT if new and rest else None
