"""Prompt guidance: what about a prompt could be said better, why, and the edit that says it so. Pure functions of strings.

    found = check("please draw me a cat, no dogs")
    for finding in found: print(finding.kind, finding.reason, finding.remedy)
    fix("please draw me a cat, no dogs", "", found)        # ("a cat", "dogs")

| kind | says |
|---|---|
| `caption` | an order, a question or a thank-you: a prompt is the caption of the finished picture |
| `length` | more than 1,024 characters |
| `negation` | "no x", "without x", "not x": belongs into the negative prompt |
| `order` | items that are not in the order subject, environment, pose, light, camera, style |
| `unknown` | words that are not in the model's vocabulary, where it has one |
| `duplicate` | the same item or word twice |
| `contradiction` | what cannot be at once; what is both wanted and unwanted |
| `camera` | a film's movement asked of a still, or a film without one |
| `syntax` | brackets without their other half; a weight as another tool writes it |
| `weight` | a weight beyond 0.1 to 1.6 |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from safelight.prompt.rules import RULES, Case, Finding
from safelight.prompt.rules.length import length
from safelight.prompt.text import Edit, Text, apply, words

LONGEST: Final = 1024
_MOST = 4 * LONGEST  # beyond, the rules would take seconds and more
_ROUNDS = 40  # a fix can uncover another finding; no prompt that was seen took more than 6


@dataclass(frozen=True)
class Findings:
    """What `check` found, in the order of the places, with what it was asked."""

    prompt: str
    negative: str
    items: tuple[Finding, ...]
    film: bool = False
    vocabulary: frozenset[str] | None = None
    max_length: int = LONGEST
    emphasis: str = "a1111"

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def fixable(self) -> tuple[Finding, ...]:
        """Those that come with edits."""
        return tuple(finding for finding in self.items if finding.fixable)


def check(
    prompt: str,
    negative: str = "",
    *,
    film: bool = False,
    vocabulary: Iterable[str] | None = None,
    max_length: int = LONGEST,
    emphasis: str = "a1111",
) -> Findings:
    """What could be said better.

    Of texts of more than 4,096 signs together only their length is said: the rules look at every pair of items.
    film: the prompt is a film's, whose camera moves. vocabulary: the words (or phrases) that a model knows; None asks nothing.
    emphasis: the mode in which brackets are read. Raises SpecError for an unknown one.
    """
    known = None if vocabulary is None else vocabulary if isinstance(vocabulary, frozenset) else frozenset(words_of(vocabulary))
    refused: list[Finding] = []
    texts = []
    for field, raw in (("prompt", prompt), ("negative", negative)):
        try:
            texts.append(Text(raw, field, emphasis))
        except ValueError as error:  # what the mode has beside weights; an unknown mode is refused again below
            texts.append(Text(raw, field, "none" if emphasis == "compel" else emphasis))
            refused.append(Finding("syntax", field, (0, len(raw)), str(error).removeprefix("prompt: ")))
    case = Case(texts[0], texts[1], film, known, max_length)
    rules = RULES if len(prompt) + len(negative) <= _MOST else (length,)
    found = [*refused, *(finding for rule in rules for finding in rule(case))]
    found.sort(key=lambda f: (f.field != "prompt", f.where))
    return Findings(prompt, negative, tuple(found), film, known, max_length, emphasis)


def fix(prompt: str, negative: str, findings: Findings) -> tuple[str, str]:
    """The prompt and the negative prompt, mended of everything that comes with edits, as `findings` was asked to look.

    To the end: an edit that uncovers another finding is followed by the next, so that checking the result finds nothing fixable.
    To apply a single finding use `one`.
    """
    for _ in range(_ROUNDS):
        found = check(
            prompt,
            negative,
            film=findings.film,
            vocabulary=findings.vocabulary,
            max_length=findings.max_length,
            emphasis=findings.emphasis,
        )
        first = min(found.fixable, key=lambda f: _ORDER.index(f.kind), default=None)
        if first is None:
            break
        prompt, negative = one(prompt, negative, first)
    return prompt, negative


def one(prompt: str, negative: str, finding: Finding) -> tuple[str, str]:
    """Both texts with the edits of one finding of theirs."""
    return apply(prompt, negative, finding.edits)


_ORDER = tuple(rule.__name__ for rule in RULES)


def hints(prompt: str, negative: str = "", **asked: Any) -> list[str]:
    """The findings of `check`, which takes the same arguments, a line each."""
    found = check(prompt, negative, **asked)
    return [f"{f.kind}: {f.reason}" + (f"; {f.remedy}" if f.remedy else "") for f in found]


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of phrases, in lower case, each once, sorted: what a model's lineage keeps under "vocabulary"."""
    return sorted({word.text for text in texts for word in words(text.lower())})


def vocabulary_of(model: Any) -> frozenset[str] | None:
    """The words that a model knows, None for one that does not say: it may know any.

    model: a model, a file's header, or a lineage. The words are its lineage's "vocabulary", a list of words or phrases; for a model
    of class labels they are those of its labels.
    """
    lineage = model if isinstance(model, Mapping) else model.lineage
    listed = lineage.get("vocabulary")
    if listed is None and not isinstance(model, Mapping):
        spec = model.spec if isinstance(model.spec, Mapping) else {"text": getattr(model.spec, "text", None)}
        text = spec.get("text")
        listed = text.get("names") if isinstance(text, Mapping) else getattr(text, "names", None)
    return None if listed is None else frozenset(words_of(listed))


__all__ = ["Edit", "Finding", "Findings", "check", "fix", "hints", "one", "vocabulary_of", "words_of"]
