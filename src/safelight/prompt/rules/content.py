"""What is said twice, against itself, or in words that the model has never met."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from safelight.prompt.rules.case import Case, Finding, made, short
from safelight.prompt.rules.negation import denials
from safelight.prompt.text import Edit, Item, Text, Word, find, has_subject, singular
from safelight.prompt.words import GRAMMAR, KNOWN, NUMBERS, OPPOSITES, QUANTITIES, TWINS

_NEAR = 0.75  # how alike a known word must be to be proposed


class _Side(NamedTuple):
    """One side of a contradiction: phrases, those that count only as an item of their own, and the words that they begin with."""

    free: frozenset[tuple[str, ...]]
    alone: frozenset[tuple[str, ...]]
    first: frozenset[str]


def _side(listed: tuple[str, ...]) -> _Side:
    free = frozenset(tuple(phrase.split()) for phrase in listed if not phrase.endswith("|"))
    alone = frozenset(tuple(phrase[:-1].split()) for phrase in listed if phrase.endswith("|"))
    return _Side(free, alone, frozenset(words[0] for words in free | alone))


_PAIRS: Final = tuple((_side(a), _side(b)) for a, b in OPPOSITES)


def duplicate(case: Case) -> Iterator[Finding]:
    """Everything once: a weight says more than a repetition."""
    for text in case.both:
        seen: dict[tuple[int, tuple[str, ...]], Item] = {}
        for item in text.items:
            key = (item.section, item.key)
            if not item.key or "\0" in text.said[item.start : item.stop]:
                continue
            if key in seen:
                said = text.slice(item.start, item.stop)
                edits = text.cut(item.start, item.stop)
                reason = f"'{short(said)}' is said twice; a weight says more than a repetition"
                yield made("duplicate", text, item.start, item.stop, reason, "leave out the second", edits)
            seen.setdefault(key, item)
        for a, b in zip(text.words, text.words[1:], strict=False):
            between = text.said[a.stop : b.start]
            rightly = a.text in TWINS or a.text.isdigit() or "BREAK" in text.raw[a.stop : b.start]
            if a.text == b.text and between.isspace() and not rightly:
                reason = f"'{a.text}' stands twice in a row"
                yield made("duplicate", text, b.start, b.stop, reason, "leave out the second", text.cut(b.start, b.stop))


def contradiction(case: Case) -> Iterator[Finding]:
    """What cannot be in one picture at once, or is wanted and unwanted."""
    text = case.prompt
    unwanted = [(start, stop) for start, stop, _ in denials(text)]
    wanted = [w for w in text.words if not any(start <= w.start < stop for start, stop in unwanted)]
    said = {w.text for w in wanted}
    for pair in _PAIRS:
        if any(said.isdisjoint(side.first) for side in pair):
            continue
        places = [[(*p, i) for p in _named(text, wanted, side)] for i, side in enumerate(pair)]
        if not places[0] or not places[1]:
            continue
        first, second = sorted((places[0][0], places[1][0]))
        if (first[0], first[1]) == (second[0], second[1]) or second[0] <= first[1]:
            continue
        a, b = (text.slice(wanted[p[0]].start, wanted[p[1]].stop) for p in (first, second))
        start, stop = wanted[second[0]].start, wanted[second[1]].stop
        item = next((i for i in text.items if i.start <= start < i.stop), None)
        alone = item is not None and len(item.key) <= second[1] - second[0] + 2 and not has_subject(item)
        edits = text.cut(item.start, item.stop) if item is not None and alone else ()
        yield made("contradiction", text, start, stop, f"'{b}' contradicts '{a}'", f"keep '{a}', which was said first", edits)
    counts: dict[str, tuple[str, Word]] = {}
    for i, word in enumerate(text.words):
        if word.text not in NUMBERS:
            continue
        head = _head(text.words[i + 1 :], text)
        if head is None:
            continue
        known = counts.setdefault(singular(head.text), (word.text, head))
        if known[0] != word.text:
            reason = f"'{word.text} {head.text}' contradicts '{known[0]} {known[1].text}'"
            yield Finding("contradiction", "prompt", (word.start, head.stop), reason)
    for item in case.negative.items:
        if _wanted(text, wanted, item):
            denied = case.negative.slice(item.start, item.stop)
            edits = case.negative.cut(item.start, item.stop)
            reason = f"'{short(denied)}' is in the prompt and in the negative prompt"
            yield made(
                "contradiction", case.negative, item.start, item.stop, reason, "leave it out of the negative prompt", edits
            )


def _named(text: Text, wanted: Sequence[Word], side: _Side) -> list[tuple[int, int]]:
    """Where a prompt names a side among the words it wants: the first and last of them."""
    index = {word: i for i, word in enumerate(wanted)}
    own = [i.words for i in text.items if tuple(w.text for w in i.words) in side.alone and i.words[0] in index]
    return sorted([(index[words[0]], index[words[-1]]) for words in own] + find(wanted, side.free))


def _head(after: list[Word], text: Text) -> Word | None:
    """The noun of the phrase that begins here: its last word before a preposition, a sign or the end."""
    head: Word | None = None
    for word in after[:5]:
        if word.text in GRAMMAR or (head and text.said[head.stop : word.start].strip()):
            break
        head = word
    return head


def _wanted(text: Text, wanted: Sequence[Word], item: Item) -> bool:
    """Whether the prompt names as a thing what an item of the negative prompt names."""
    key = tuple(singular(w) for w in item.key)
    mine = [singular(w.text) for w in wanted]
    for last in range(len(key) - 1, len(mine)) if key else ():
        if tuple(mine[last - len(key) + 1 : last + 1]) != key:
            continue
        after = wanted[last + 1] if last + 1 < len(mine) else None
        if after is None or after.text in GRAMMAR or text.said[wanted[last].stop : after.start].strip():
            return True
    return False


def unknown(case: Case) -> Iterator[Finding]:
    """Words that the model has met: it can only guess at others."""
    if case.vocabulary is None:
        return
    known = case.vocabulary
    for text in case.both:
        for word in text.words:
            if word.text in known or word.text in GRAMMAR or word.text.isdigit() or singular(word.text) in known:
                continue
            parts = re.split(r"['’]", word.text)
            if len(parts) > 1 and parts[0] in known:
                continue
            near = difflib.get_close_matches(word.text, sorted(known), n=1, cutoff=_NEAR)
            meant = near[0] if near and word.text not in KNOWN and word.text not in QUANTITIES and len(word.text) > 3 else ""
            edits = (Edit(text.field, word.start, word.stop, meant),) if meant else ()
            reason = f"the model has never met the word '{word.text}'"
            yield made("unknown", text, word.start, word.stop, reason, f"say '{meant}'", edits)
