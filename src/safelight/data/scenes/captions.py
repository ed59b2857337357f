"""Captions: eight phrases a scene, joined as strings or as token ids.

    a picture of | three red | apples | | | | on a blue background | in flat style
    | a small | unicorn | | | | on an orange background |
    | | a teapot | to the left of | a red | car | on a gray background | , glossy style

Every phrase comes from one closed list, so a tokenizer has to see each phrase once; a batch of captions is then one gather.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.data.scenes.compose import Scenes
from safelight.data.scenes.nouns import Noun, article, indefinite, plural
from safelight.data.scenes.words import (
    BACKGROUND_WORDS,
    BACKGROUNDS,
    COLOURS,
    CORNER_WORDS,
    CORNERS,
    NUMBERS,
    PREFIXES,
    RELATION_WORDS,
    SIZE_WORDS,
    STYLE_WORDS,
    STYLES,
)
from safelight.spec import SpecError

SLOTS = 8
# Forms of a noun, in the order of the table: with its article, bare, plural; the same of the synonym; base singular and plural.
FORMS = 8
INDEFINITE, SINGULAR, PLURAL, BASE, BASES = 0, 1, 2, 6, 7
# What stands before a noun: nothing, an article and size, a number; each with or without a colour.
_HEADS = ("a", *(f"a {word}" for words in SIZE_WORDS for word in words), *NUMBERS)

Encode = Callable[[str], Sequence[int]]


class Phrases:
    """The phrase table of a vocabulary and the numbers of the eight phrases of each scene."""

    def __init__(self, nouns: Sequence[Noun], device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        texts: list[str] = [""]
        self._prefix = self._add(texts, PREFIXES)
        self._head = self._add(texts, _heads())
        self._noun = self._add(texts, (form for noun in nouns for form in forms(noun)))
        corners = [_corner(name, words) for name in CORNERS for words in CORNER_WORDS]
        self._corner = self._add(texts, corners)
        self._relation = self._add(texts, (words for pair in RELATION_WORDS for words in pair))
        grounds = [words.format(a=article(name), colour=name) for name in BACKGROUNDS for words in BACKGROUND_WORDS]
        self._ground = self._add(texts, grounds)
        self._style = self._add(texts, (words.format(style=name) for name in STYLES for words in STYLE_WORDS))
        self.texts = tuple(texts)

    @staticmethod
    def _add(texts: list[str], more: Iterable[str]) -> int:
        start = len(texts)
        texts.extend(more)
        return start

    def numbers(self, scenes: Scenes) -> Tensor:
        """The phrases of each scene: int64 (B, 8) into `texts`; 0 is the empty phrase."""
        prefix, alias_a, alias_b, size_word, corner_word, relation_word, ground, style = scenes.words[:, :8].unbind(1)
        nothing = torch.zeros_like(prefix)
        pair = scenes.relation >= 0
        many = scenes.number > 1
        head_a = torch.where(scenes.size >= 0, 1 + 2 * scenes.size + size_word, torch.where(many, 3 + scenes.number, 0))
        colour_a, colour_b = scenes.colour.unbind(1)
        bare_a = (scenes.size >= 0) | (colour_a >= 0)
        form_a = torch.where(many, PLURAL, torch.where(bare_a, SINGULAR, INDEFINITE)) + 3 * alias_a
        form_a = torch.where(colour_a >= 0, torch.where(many, BASES, BASE), form_a)
        form_b = torch.where(colour_b >= 0, BASE, INDEFINITE + 3 * alias_b)
        middle = torch.where(
            pair,
            self._relation + 2 * scenes.relation + relation_word,
            torch.where(scenes.corner >= 0, self._corner + 2 * scenes.corner + corner_word, 0),
        )
        columns = (
            torch.where(pair, nothing, self._prefix + prefix),
            self._heads_of(head_a, colour_a),
            self._noun + FORMS * scenes.concept[:, 0] + form_a,
            middle,
            torch.where(pair, self._heads_of(nothing, colour_b), nothing),
            torch.where(pair, self._noun + FORMS * scenes.concept[:, 1] + form_b, nothing),
            torch.where(ground > 0, self._ground + 2 * scenes.background + ground - 1, nothing),
            torch.where(style > 0, self._style + 2 * scenes.style + style - 1, nothing),
        )
        return torch.stack(columns, 1)

    def _heads_of(self, head: Tensor, colour: Tensor) -> Tensor:
        """The phrase before the noun; "a" alone is part of the noun's own form."""
        number = self._head + (1 + len(COLOURS)) * head + colour + 1
        return torch.where((head == 0) & (colour < 0), torch.zeros_like(number), number)

    def captions(self, scenes: Scenes) -> list[str]:
        """The captions as strings (about 300,000 a second on one core)."""
        return [self.join(row) for row in self.numbers(scenes).tolist()]

    def join(self, numbers: Sequence[int]) -> str:
        return " ".join(self.texts[number] for number in numbers if self.texts[number]).replace(" ,", ",")


def forms(noun: Noun) -> tuple[str, ...]:
    """The eight forms of a noun."""
    three = [(indefinite(p), p, plural(p)) for p in (noun.phrase, noun.alias)]
    return (*three[0], *three[1], noun.base, plural(noun.base))


def _heads() -> list[str]:
    heads = []
    for head in _HEADS:
        heads.append(head)
        heads.extend(f"{article(colour) if head == 'a' else head} {colour}" for colour in COLOURS)
    return heads


def _corner(name: str, words: str) -> str:
    vertical, horizontal = name.split()
    return words.format(v=vertical, u="upper" if vertical == "top" else "lower", h=horizontal)


@dataclass(frozen=True)
class TokenTable:
    """The phrases as token ids: captions of a batch by one scatter, at the speed of the device.

    `ids` int64 (P, longest), `length` int64 (P,), and the frame: `begin` and `end` ids (None for a tokenizer without), `pad`,
    and the `context` that every row is padded to.
    """

    phrases: Phrases
    ids: Tensor
    length: Tensor
    context: int
    begin: int | None
    end: int | None
    pad: int

    @classmethod
    def make(
        cls, phrases: Phrases, encode: Encode, *, context: int, begin: int | None, end: int | None, pad: int
    ) -> TokenTable:
        """Tokenize every phrase once. `encode(text)` gives the bare ids of a text, without begin, end or padding.

        A tokenizer that works word by word (CLIP's does) gives joined phrases the ids of the joined text; one that does not is
        refused, with the first text that shows it.
        """
        pieces = [list(encode(text)) if text else [] for text in phrases.texts]
        heads, nouns = phrases._head, phrases._noun
        probe = [phrases._prefix + 1, heads + 1, nouns + SINGULAR, phrases._corner, 0, 0, phrases._ground, phrases._style + 1]
        for numbers in (probe, [0, 0, nouns, phrases._relation, 0, nouns, phrases._ground + 1, phrases._style]):
            text = phrases.join(numbers)
            if list(encode(text)) != [token for number in numbers for token in pieces[number]]:
                raise SpecError(f"the tokenizer does not work word by word ('{text}' is more than its phrases); use captions()")
        longest = max(map(len, pieces))
        table = torch.zeros(len(pieces), longest, dtype=torch.int64)
        for row, piece in zip(table, pieces, strict=True):
            row[: len(piece)] = torch.tensor(piece, dtype=torch.int64)
        length = torch.tensor([len(piece) for piece in pieces])
        return cls(phrases, table.to(phrases.device), length.to(phrases.device), context, begin, end, pad)

    def tokens(self, scenes: Scenes) -> Tensor:
        """int64 (B, context): begin, the caption, end, padding. Raises SpecError when a caption does not fit."""
        tokens, longest = self.assemble(self.phrases.numbers(scenes))
        if int(longest) > self.context:
            raise SpecError(f"a caption has {int(longest)} tokens with its frame and the context is {self.context}: widen it")
        return tokens

    def assemble(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The same without the check (which waits for the device): the ids, and the length of the longest caption, () int64."""
        b, width = len(numbers), self.ids.shape[1]
        length = self.length[numbers]  # (B, 8)
        first = 0 if self.begin is None else 1
        at = length.cumsum(1) - length + first  # where each phrase begins
        slot = torch.arange(width, device=numbers.device)
        place = torch.where(slot < length[..., None], at[..., None] + slot, self.context).clamp(max=self.context)
        # (B, 8, width) places in rows of one column more than the context, where what is not a token is thrown
        out = torch.full((b, self.context + 1), self.pad, dtype=torch.int64, device=numbers.device)
        out.scatter_(1, place.reshape(b, -1), self.ids[numbers].reshape(b, -1))
        total = length.sum(1) + first
        if self.begin is not None:
            out[:, 0] = self.begin
        if self.end is not None:
            out.scatter_(1, total[:, None].clamp(max=self.context), self.end)
            total = total + 1
        return out[:, : self.context], total.max()
