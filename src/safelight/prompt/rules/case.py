"""What a rule sees, and what it says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from safelight.prompt.text import Edit, Text, words
from safelight.prompt.words import ARTICLES


class Finding(NamedTuple):
    """One thing to say better. where: (start, stop) in the prompt, or in the negative prompt where `field` says so.

    reason: why. remedy: what the edits do, in words; "" and no edits where only its author can mend the prompt.
    """

    kind: str
    field: str
    where: tuple[int, int]
    reason: str
    remedy: str = ""
    edits: tuple[Edit, ...] = ()

    @property
    def fixable(self) -> bool:
        """Whether it comes with edits."""
        return bool(self.edits)


class Case(NamedTuple):
    """What a rule sees."""

    prompt: Text
    negative: Text
    film: bool
    vocabulary: frozenset[str] | None
    max_length: int

    @property
    def both(self) -> tuple[Text, Text]:
        return self.prompt, self.negative

    def add(self, what: Iterable[str]) -> tuple[Edit, ...]:
        """The edit that says these things in the negative prompt too, each once."""
        said = {item.key for item in self.negative.items}
        new = [w for w in dict.fromkeys(what) if _key(w) and _key(w) not in said]
        old = self.negative.raw.rstrip()
        if not new:
            return ()
        comma = "" if not old else " " if old.endswith((",", ";")) else ", "
        return (Edit("negative", len(old), len(self.negative.raw), comma + ", ".join(new)),)


def _key(text: str) -> tuple[str, ...]:
    return tuple(w.text for w in words(text.lower()) if w.text not in ARTICLES)


def made(kind: str, text: Text, start: int, stop: int, reason: str, remedy: str, edits: tuple[Edit, ...]) -> Finding:
    return Finding(kind, text.field, (start, stop), reason, remedy if edits else "", edits)


def short(text: str, most: int = 48) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."
