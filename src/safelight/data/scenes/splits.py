"""What is held out of training, decided by hashes of names: the same for every vocabulary, machine and version.

| what | share | why |
|---|---|---|
| (concept, style) cells | 5 % | flat and glossy, near twins, go together |
| (noun, colour) | 10 % | never recoloured so; a colour in the noun's own name ("red apple") is never held out |
| (concept, count) | 10 % | |
| ordered concept pairs | 20 % | "a cat left of a dog" may be held out while "a dog left of a cat" is not |
| whole concepts, for the codec | 100 of 709 | flat and glossy go together here too |
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.data.scenes.draws import fold, name_hash
from safelight.data.scenes.nouns import nouns
from safelight.data.scenes.sprites import Pack
from safelight.data.scenes.words import COLOURS, NUMBERS, TWINS

CELLS, NOUN_COLOURS, NOUN_COUNTS, PAIRS = 500, 1000, 1000, 2000  # in 1/10,000
CODEC_CONCEPTS = 100


class Split(enum.Enum):
    """Which scenes may be drawn."""

    TEXT = "text"  # training of text to image: nothing that is held out, every concept
    HELD = "held"  # each scene shows at least one thing that TEXT never shows
    CODEC = "codec"  # training of a codec: every combination of 609 concepts
    CODEC_HELD = "codec-held"  # the other 100
    ALL = "all"


def codec_held() -> frozenset[str]:
    """The 100 concepts that no codec trains on: those with the smallest hashes among all 709."""
    return frozenset(sorted(nouns(), key=lambda name: name_hash("codec", name))[:CODEC_CONCEPTS])


@dataclass(frozen=True)
class Holdouts:
    """The held-out tables of one pack, True = held out. N sprites, C concepts."""

    cell: Tensor  # bool (N,): the sprite's (concept, style)
    colour: Tensor  # bool (C, colours)
    count: Tensor  # bool (C, 3) for two, three, four
    codec: Tensor  # bool (N,): the sprite's concept
    words: Tensor  # int64 (C,): the concepts' hashes, for pairs

    def pair(self, first: Tensor, second: Tensor) -> Tensor:
        """Is the ordered pair of concepts held out? Concept numbers of any broadcastable shapes -> bool."""
        return fold(self.words[first], self.words[second]) % 10000 < PAIRS

    def to(self, device: torch.device) -> Holdouts:
        return Holdouts(*(table.to(device) for table in (self.cell, self.colour, self.count, self.codec, self.words)))


def holdouts(pack: Pack) -> Holdouts:
    """The tables of `pack`, on the CPU."""
    own = {(noun.base, noun.colour) for noun in pack.nouns if noun.colour}
    codec = codec_held()
    cell = [_held(CELLS, "cell", s.concept, TWINS.get(s.style, s.style)) for s in pack.sprites]
    colour = [[(n.base, c) not in own and _held(NOUN_COLOURS, "colour", n.base, c) for c in COLOURS] for n in pack.nouns]
    count = [[_held(NOUN_COUNTS, "count", n.concept, number) for number in NUMBERS] for n in pack.nouns]
    return Holdouts(
        torch.tensor(cell),
        torch.tensor(colour),
        torch.tensor(count),
        torch.tensor([s.concept in codec for s in pack.sprites]),
        torch.tensor([name_hash("pair", n.concept) for n in pack.nouns]),
    )


def _held(share: int, *names: str) -> bool:
    return name_hash(*names) % 10000 < share
