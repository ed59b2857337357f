"""A prompt laid open for rules: its words, items and sections with the places where they stand, and cuts that leave the rest alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from safelight.prompt.parse import Marks, marks
from safelight.prompt.words import ARTICLES, GRAMMAR, LONGEST, PHRASES, QUANTITIES

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_QUOTED = re.compile(r'"[^"\n]*"|“[^”\n]*”|(?<!\w)\'[^\'\n]+\'(?!\w)')
_ENDS = re.compile(r"[,;\n]|[.!?]+(?=\s|$)")


class Word(NamedTuple):
    """A word in lower case, and where it stands."""

    text: str
    start: int
    stop: int


class Item(NamedTuple):
    """What stands between two commas (or semicolons, line ends, full stops), and the number of its section between BREAKs."""

    start: int
    stop: int
    section: int
    words: tuple[Word, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """Its words without articles: two items of the same key say the same."""
        return tuple(w.text for w in self.words if w.text not in ARTICLES)


class Edit(NamedTuple):
    """Replace [start, stop) of the prompt, or of the negative prompt, by `text`."""

    field: str
    start: int
    stop: int
    text: str


class Phrase(NamedTuple):
    """Words that the lists know, first to last of a sequence of words, and the part of a picture that they speak of."""

    text: str
    first: int
    last: int
    part: int


class Text:
    """raw: as given. plain: the same places with syntax as spaces. said: that without what is quoted, in lower case."""

    def __init__(self, raw: str, field: str, emphasis: str) -> None:
        self.raw, self.field, self.emphasis = raw, field, emphasis
        self.marks: Marks = marks(raw, emphasis)
        self.plain = "".join(" " if w is None else c for c, w in zip(raw, self.marks.weights, strict=True))
        said = _QUOTED.sub(lambda m: "\0" * len(m[0]), self.plain)
        self.said = "".join(c.lower() if len(c.lower()) == 1 else c for c in said)
        self.words = words(self.said)
        self.items = list(self._items())

    def _items(self) -> Iterator[Item]:
        edges: list[tuple[int, int, bool]] = [
            (*m.span(), False) for m in _ENDS.finditer(self.plain) if not self._quoted(m.start())
        ]
        edges += [(*span, True) for span in self.marks.breaks]
        start = section = 0
        for low, high, breaks in [*sorted(edges), (len(self.raw), len(self.raw), False)]:
            body = self.plain[start:low]
            if body.strip():
                first, last = start + len(body) - len(body.lstrip()), start + len(body.rstrip())
                yield Item(first, last, section, tuple(w for w in self.words if first <= w.start < last))
            start, section = high, section + breaks

    def _quoted(self, place: int) -> bool:
        return self.said[place] == "\0"

    def slice(self, start: int, stop: int) -> str:
        """The plain text there, with single spaces."""
        return re.sub(r" (?=[,;.!?])", "", " ".join(self.plain[start:stop].split()))

    def cut(self, start: int, stop: int) -> tuple[Edit, ...]:
        """The edit that takes [start, stop) out, with the brackets that would be left empty and a comma or space that would be left over.

        Nothing when the weights of what stays would change.
        """
        whole = any(item.start == start for item in self.items) and any(item.stop == stop for item in self.items)
        start, stop = self._emptied(start, stop)
        left, right = self.raw[:start], self.raw[stop:]
        comma, space = _match(r"[,;]?\s*$", left), _match(r"\s*$", left)
        if whole:
            end = _match(r"\s*(?:[,;]|[.!?]+(?=\s|$))?\s*", right)
            if end.group().strip() and (end.end() < len(right) or not left.strip()):
                return self._sound(start, stop + end.end(), "")
            if comma.group().strip():
                return self._sound(comma.start(), stop + (0 if right.strip() else len(right)), "")
            return self._sound(space.start() if not right.strip() else start, stop + end.end(), "")
        gap = _match(r"\s*", right).end()
        if not left.strip() or left[-1] in "([" or left[-1].isspace():
            if right[gap:] and right[gap] not in ",;.!?)]:":
                return self._sound(start, stop + gap, "")
            return self._sound(space.start(), stop + (gap if gap == len(right) else 0), "")
        return self._sound(start, stop + gap, " " if right[gap:] and right[gap] not in ",;.!?)]:" else "")

    def _emptied(self, start: int, stop: int) -> tuple[int, int]:
        """Wider by the brackets, and compel's signs, that weigh nothing but what is there."""
        raw, weights = self.raw, self.marks.weights
        while start > 0 and stop < len(raw) and raw[start - 1] in '(["' and weights[start - 1] is None:
            end = _match(r'\s*(?::\s*[+-]?[.\d]+\s*)?(?:[)\]"][-+.\d]*)?', raw[stop:]).end() + stop
            while end > stop and weights[end - 1] is not None:  # a number behind a bracket is syntax in one mode only
                end -= 1
            if not raw[stop:end].strip():
                break
            start, stop = start - 1, end
        while self.emphasis == "compel" and stop < len(raw) and weights[stop] is None and raw[stop] in "+-":
            stop += 1
        return start, stop

    def _sound(self, start: int, stop: int, text: str) -> tuple[Edit, ...]:
        """The edit, if every character that stays keeps its weight."""
        after = marks(self.raw[:start] + text + self.raw[stop:], self.emphasis)
        mine = self.marks.weights[:start] + self.marks.weights[stop:]
        theirs = after.weights[:start] + after.weights[start + len(text) :]
        same = mine == theirs and len(after.breaks) == sum(not (start <= b[0] and b[1] <= stop) for b in self.marks.breaks)
        return (Edit(self.field, start, stop, text),) if same else ()


def _match(pattern: str, text: str) -> re.Match[str]:
    """Where a pattern that fits every text does: at its beginning, or before its end."""
    found = re.search(pattern, text) if pattern.endswith("$") else re.match(pattern, text)
    assert found is not None
    return found


def words(text: str) -> list[Word]:
    """The words of a text in lower case; a hyphen parts two."""
    return [Word(m[0], *m.span()) for m in _WORD.finditer(text)]


def phrases(sequence: Sequence[Word]) -> list[Phrase]:
    """The longest phrases of the lists that a sequence of words holds, none over another, from the left."""
    found: list[Phrase] = []
    i = 0
    while i < len(sequence):
        for n in range(min(LONGEST, len(sequence) - i), 0, -1):
            key = tuple(w.text.replace("’", "'") for w in sequence[i : i + n])
            if key in PHRASES:
                found.append(Phrase(" ".join(key), i, i + n - 1, PHRASES[key]))
                i += n
                break
        else:
            i += 1
    return found


def find(sequence: Sequence[Word], wanted: Iterable[tuple[str, ...]]) -> list[tuple[int, int]]:
    """Where any of these sequences of words stands: (first, last) of each place, in order."""
    texts = [w.text.replace("’", "'") for w in sequence]
    keys = set(wanted)
    sizes = sorted({len(k) for k in keys}, reverse=True)
    out: list[tuple[int, int]] = []
    for i in range(len(texts)):
        size = next((n for n in sizes if i + n <= len(texts) and tuple(texts[i : i + n]) in keys), 0)
        if size and (not out or i > out[-1][1]):
            out.append((i, i + size - 1))
    return out


def has_subject(item: Item) -> bool:
    """Whether an item says more than the lists know."""
    covered = {i for p in phrases(item.words) for i in range(p.first, p.last + 1)}
    rest = [w for i, w in enumerate(item.words) if i not in covered and w.text not in GRAMMAR]
    return bool(rest) and bool(item.words) and item.words[0].text in ARTICLES | QUANTITIES


def singular(word: str) -> str:
    """A plain guess at the singular of an English noun: enough to see that "cats" and "cat" are one thing."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def apply(prompt: str, negative: str, edits: Iterable[Edit]) -> tuple[str, str]:
    """Both texts after the edits, all of which name places in the texts as they are; of two that overlap the first given counts."""
    texts = {"prompt": prompt, "negative": negative}
    taken: list[Edit] = []
    for edit in edits:
        if all(edit.field != e.field or edit.stop <= e.start or e.stop <= edit.start for e in taken):
            taken.append(edit)
    for edit in sorted(taken, key=lambda e: (e.start, e.stop), reverse=True):
        text = texts[edit.field]
        texts[edit.field] = text[: edit.start] + edit.text + text[edit.stop :]
    return texts["prompt"], texts["negative"]
