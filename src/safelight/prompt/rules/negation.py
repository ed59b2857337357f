"""What shall not be there is said in the negative prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator

from safelight.prompt.rules.case import Case, Finding, made, short
from safelight.prompt.text import Edit, Item, Text, Word
from safelight.prompt.words import AFTER_NOUN, ARTICLES, CLINGING, FREE_OF, QUANTITIES

_LEAD = (
    r"(?:(?:and|but|yet|though|with|having|has|have|had|showing|containing|there (?:is|are|should be|must be)"
    r"|(?:that|which|who) (?:has|have|is|are)|please|is|are|was|were)\s+)*"
)
_NOT = (
    r"(?:(?:(?:do|does|did|should|must|can|could|will|would|may|is|are|was|were) not|don['’]t|doesn['’]t|didn['’]t|isn['’]t|aren['’]t"
    r"|wasn['’]t|weren['’]t|shouldn['’]t|mustn['’]t|can['’]t|cannot|won['’]t|not|never)"
    r"(?:\s+(?:show|showing|include|including|have|having|add|adding|draw|use|using|contain|containing|wear|wearing|put|want|make"
    r"|depict|hold|holding|carry|carrying|be|being)\b)?)"
)
_NEGATION = re.compile(
    rf"\b{_LEAD}(?:no one|no-one|nobody|no(?![-.])|without|sans|devoid of|free of|free from|lacking|excluding|avoid|avoiding|omit|omitting"
    rf"|leave out|exclude|{_NOT})(?=[\s,.;]|$)"
)
_IDIOM = re.compile(
    r"(?:no\s+(?:[\w-]+ )?(?:sign|symbol|entry|smoking|parking|fly zone|man['’]s land|longer|matter|wonder|more than|less than|doubt|\d)"
    r"|not (?:only|far|yet|unlike|to mention|quite|just)|without (?:end|doubt|limit)|nothing but)\b"
)
_NOBODY = re.compile(r"\b(?:no one|no-one|nobody)$")
_DETERMINER = frozenset(
    {*ARTICLES, "any", "single", "visible", "additional", "extra", "other", "more", "too", "very", "no", "not", "without"}
)
_TURN = frozenset({"but", "just", "only", "instead", "except", "while"})
_FREE = re.compile(rf"\b({'|'.join(sorted(FREE_OF))})s?[- ]free\b")


def negation(case: Case) -> Iterator[Finding]:
    """A model paints what is named: what shall not be there belongs into the negative prompt."""
    text = case.prompt
    for start, stop, unwanted in denials(text):
        cut = text.cut(start, stop) if unwanted else ()
        named = ", ".join(unwanted)
        reason = f"'{short(text.slice(start, stop))}' names what shall not be there, and a model paints what is named"
        edits = (*cut, *case.add(unwanted)) if cut else ()
        yield made("negation", text, start, stop, reason, f"move '{named}' to the negative prompt", edits)
    for found in _FREE.finditer(text.said):
        cut = text.cut(*found.span())
        reason = f"'{found[0]}' names what shall not be there, and a model paints what is named"
        edits = (*_article(text, *found.span()), *cut, *case.add([found[1]])) if cut else ()
        yield made("negation", text, *found.span(), reason, f"move '{found[1]}' to the negative prompt", edits)
    text = case.negative
    for item in text.items:
        twice = _NEGATION.match(text.said, item.start, item.stop)
        rest = [w for w in item.words if twice and w.start >= twice.end()]
        if twice and rest and not _idiom(text.said, twice):
            at = next((w.start for w in rest if w.text not in _DETERMINER), rest[0].start)
            reason = "denied twice: the negative prompt names what shall not be there"
            remedy = f"say '{short(text.slice(at, item.stop))}' there"
            yield made("negation", text, item.start, at, reason, remedy, text.cut(item.start, at))


def denials(text: Text) -> Iterator[tuple[int, int, list[str]]]:
    """Every denial of a text: from where to where it reaches, and the things it denies (none where that cannot be told)."""
    done = 0
    for found in _NEGATION.finditer(text.said):
        item = next((i for i in text.items if i.start <= found.start() < i.stop), None)
        if item is not None and found.start() >= done and not _idiom(text.said, found):
            start, done, unwanted = _denied(text, item, found)
            yield start, done, unwanted


def _article(text: Text, start: int, stop: int) -> tuple[Edit, ...]:
    """The edit that makes "a" of "an", or the other way round, before words that are taken out."""
    before = next((w for w in reversed(text.words) if w.stop <= start), None)
    after = next((w for w in text.words if w.start >= stop), None)
    if before is None or after is None or before.text not in ("a", "an") or text.said[before.stop : start].strip():
        return ()
    article = "an" if after.text[0] in "aeiou" else "a"
    return (Edit(text.field, before.start, before.stop, article),) if article != before.text else ()


def _idiom(said: str, found: re.Match[str]) -> bool:
    """Whether the denying word belongs to an expression that denies nothing: "a no entry sign", "not far"."""
    word = re.search(r"\b(?:no|not|without|nothing)\b[^,;]*$", said[found.start() : found.end()])
    if word and _IDIOM.match(said, found.start() + word.start()):
        return True
    return bool(re.search(r"\b(?:or|why|if|whether)\s+$", said[: found.start()]) and "not" in found[0])


def _denied(text: Text, item: Item, found: re.Match[str]) -> tuple[int, int, list[str]]:
    """From where to where a negation reaches, and the things it denies."""
    rest = [w for w in item.words if w.start >= found.end()]
    opens = not text.said[item.start : found.start()].strip()
    start, stop = (item.start if opens else found.start()), found.end()
    if _NOBODY.search(found[0]):
        return start, stop, ["people"]
    groups: list[list[Word]] = [[]]
    for place, word in enumerate(rest):
        after = rest[place + 1].text if place + 1 < len(rest) else ""
        if word.text in _TURN or (word.text == "and" and (after in ARTICLES or after in CLINGING or after in QUANTITIES)):
            stop = word.stop if word.text in ("and", "but") else stop
            break
        if word.text in ("and", "or", "nor"):
            groups.append([])
        elif not opens and word.text in AFTER_NOUN and word.text != "of":
            break
        elif groups[-1] or word.text not in _DETERMINER:
            groups[-1].append(word)
        stop = word.stop
    unwanted = [text.slice(g[0].start, g[-1].stop) for g in groups if g]
    if opens and stop == item.stop:  # "no text, watermark, or logo"
        later = [i for i in text.items if i.section == item.section and i.start > item.start]
        last = max((n for n, i in enumerate(later[:5]) if i.words and i.words[0].text in ("or", "nor")), default=-1)
        for i in later[: last + 1]:
            kept = [w for w in i.words if w.text not in ("or", "nor", *_DETERMINER)]
            if kept:
                unwanted.append(text.slice(kept[0].start, i.stop))
            stop = i.stop
    if stop < item.stop and not text.said[stop : item.stop].strip():
        stop = item.stop
    return start, stop, unwanted
