"""Which caption says it best? A beam search over the grammar of the captions, for any score of texts.

A caption is eight choices: its form (plain, a size, a corner, a number, a relation), two things, two colours, how it opens, the
ground and the style. Every caption that `Composer.draw` can give rise to is among them, in every wording, and no ill-formed one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.compose import Scenes
from safelight.data.scenes.sprites import Pack
from safelight.data.scenes.words import (
    BACKGROUND_WORDS,
    BACKGROUNDS,
    COLOURS,
    CORNER_WORDS,
    CORNERS,
    NUMBERS,
    PREFIXES,
    RELATION_WORDS,
    RELATIONS,
    SIZE_WORDS,
    SIZES,
    STYLE_WORDS,
)

# The columns of a caption's row of choices; 0 is "none" but for the things, which are 2 concept + (1 for its second name).
FORM, A, B, COLOUR_A, COLOUR_B, PREFIX, GROUND, STYLE = range(8)
# Forms: 0 plain, then sizes, corners, numbers, relations; of the first, second and last each in every wording.
_SIZE = 1
_CORNER = _SIZE + len(SIZES) * len(SIZE_WORDS[0])
_NUMBER = _CORNER + len(CORNERS) * len(CORNER_WORDS)
_RELATION = _NUMBER + len(NUMBERS)
_FORMS = _RELATION + len(RELATIONS) * len(RELATION_WORDS[0])
# Where each sort of form after the first begins.
_SORTS = (_SIZE, _CORNER, _NUMBER, _RELATION)
# Captions whose neighbours are looked at in a round, and rounds after which a search ends in any case.
BEAM, ROUNDS = 16, 24

# The other way round: left for right, above for below, in the same wording; other forms have none.
_OPPOSITE = torch.tensor([form if form < _RELATION else _RELATION + (form - _RELATION ^ 2) for form in range(_FORMS)])
# A ground's colour (0: no ground) as a thing's, 0 where things have none such; and a thing's as a ground's.
_PAINT = torch.tensor([0, *(1 + list(COLOURS).index(c) if c in COLOURS else 0 for c in BACKGROUNDS)])
_PAINTED = torch.tensor([0, *(list(BACKGROUNDS).index(c) for c in COLOURS)])

Score = Callable[[Sequence[str]], Tensor]


class Found(NamedTuple):
    """A caption and its score."""

    caption: str
    score: float


class Grammar:
    """The captions of a vocabulary as rows of choices, int64 (K, 8)."""

    def __init__(self, pack: Pack) -> None:
        self.phrases = Phrases(pack.nouns)
        styles = sorted({int(s) for s in pack.style_ids()})
        self.styles = torch.tensor([0, *(1 + 2 * s + w for s in styles for w in range(len(STYLE_WORDS)))])
        things = torch.arange(2 * len(pack.nouns))
        grounds = torch.arange(1 + len(BACKGROUNDS) * len(BACKGROUND_WORDS))
        colours = torch.arange(1 + len(COLOURS))
        self.choices = (
            torch.arange(_FORMS),
            things,
            things,
            colours,
            colours,
            torch.arange(len(PREFIXES)),
            grounds,
            self.styles,
        )

    def sound(self, rows: Tensor) -> Tensor:
        """The rows with what their form has no place for set to none; those that set a thing beside itself are left out."""
        rows = rows.clone()
        form = rows[:, FORM]
        pair = form >= _RELATION
        rows[:, PREFIX] *= ~pair
        rows[:, COLOUR_A] *= (form == 0) | (form >= _NUMBER)
        rows[:, COLOUR_B] *= pair
        rows[:, B] = torch.where(pair, rows[:, B], 0)
        return rows[~pair | (rows[:, A] // 2 != rows[:, B] // 2)]

    def captions(self, rows: Tensor) -> list[str]:
        """The captions of sound rows."""
        form, a, b, colour_a, colour_b, prefix, ground, style = rows.unbind(1)
        nothing = torch.zeros_like(form)

        def part(start: int, end: int) -> tuple[Tensor, Tensor]:
            """(which of the forms start..end-1, in which of two wordings); -1 and 0 for other forms."""
            inside = (form >= start) & (form < end)
            return torch.where(inside, (form - start) // 2, -1), torch.where(inside, (form - start) % 2, 0)

        size, size_word = part(_SIZE, _CORNER)
        corner, corner_word = part(_CORNER, _NUMBER)
        relation, relation_word = part(_RELATION, _FORMS)
        number = torch.where((form >= _NUMBER) & (form < _RELATION), form - _NUMBER + 2, 1)
        ground_word = torch.where(ground > 0, (ground - 1) % 2 + 1, 0)
        style_word = torch.where(style > 0, (style - 1) % 2 + 1, 0)
        words = (prefix, a % 2, b % 2, size_word, corner_word, relation_word, ground_word, style_word, nothing)
        scenes = Scenes(
            template=nothing,
            sprite=torch.stack([nothing, nothing], 1),
            concept=torch.stack([a, b], 1) // 2,
            colour=torch.stack([colour_a, colour_b], 1) - 1,
            number=number,
            background=(ground - 1).clamp(min=0) // 2,
            style=(style - 1).clamp(min=0) // 2,
            size=size,
            corner=corner,
            relation=relation,
            layout=nothing,
            side=nothing,
            x=nothing[:, None],
            y=nothing[:, None],
            words=torch.stack(words, 1),
            valid=nothing == 0,
        )
        return self.phrases.captions(scenes)

    def seeds(self) -> Tensor:
        """Where a search begins: every thing in every form alone, and on every ground."""
        a = self.choices[A]
        zero = torch.zeros(len(a), 8, dtype=torch.int64)
        zero[:, A] = a
        forms, grounds = [], []
        for form in self.choices[FORM]:
            rows = zero.clone()
            rows[:, FORM] = form
            rows[:, B] = (a + 2) % len(a)
            forms.append(rows)
        for ground in self.choices[GROUND]:
            rows = zero.clone()
            rows[:, GROUND] = ground
            grounds.append(rows)
        return torch.cat([*forms, *grounds])

    def neighbours(self, rows: Tensor) -> Tensor:
        """Every row with one choice made otherwise, or with things, colours or both exchanged, said as before or the other way
        round (above, below), or with the colour of a thing and that of the ground exchanged: (M, 8), the rows themselves among them.
        """
        found = []
        for column, values in enumerate(self.choices):
            more = rows.repeat_interleave(len(values), 0)
            more[:, column] = values.repeat(len(rows))
            found.append(more)
        exchanged = [rows]
        for these, those in (([A, B], [B, A]), ([COLOUR_A, COLOUR_B], [COLOUR_B, COLOUR_A])):
            for row in tuple(exchanged):
                other = row.clone()
                other[:, these] = row[:, those]
                exchanged.append(other)
        for row in tuple(exchanged):
            other = row.clone()
            other[:, FORM] = _OPPOSITE[row[:, FORM]]
            exchanged.append(other)
        ground, word = (rows[:, GROUND] - 1) // 2, (rows[:, GROUND] - 1) % 2  # -1 for none
        for column in (COLOUR_A, COLOUR_B):
            other = rows.clone()
            other[:, column] = _PAINT[ground + 1]
            other[:, GROUND] = torch.where(rows[:, column] > 0, 1 + 2 * _PAINTED[rows[:, column]] + word, 0)
            exchanged.append(other)
        return torch.cat([*found, *exchanged])


def seek(pack: Pack, score: Score, k: int = 5, *, beam: int = BEAM, rounds: int = ROUNDS) -> list[Found]:
    """The `k` best captions found, best first.

    score: captions -> (N,), the higher the better; no caption is asked for twice. Each round looks at all neighbours of the best
    `beam` captions, and of the best of each sort of form (a relation begins with the wrong second thing, behind every plain
    caption); the search ends when none of these is new. So the best cannot be bettered by one change; that it is the best of all
    (10^9 for 48 concepts) is likely, not certain.
    """
    grammar = Grammar(pack)
    known: dict[str, float] = {}
    pool: dict[str, Tensor] = {}
    done: set[str] = set()

    def look(rows: Tensor) -> None:
        rows = torch.unique(grammar.sound(rows), dim=0)
        fresh = {c: row for c, row in zip(grammar.captions(rows), rows, strict=True) if c not in known}
        if fresh:
            known.update(zip(fresh, score(list(fresh)).tolist(), strict=True))
            pool.update(fresh)

    def ranked() -> list[str]:
        return sorted(pool, key=lambda c: (-known[c], c))

    look(grammar.seeds())
    for _ in range(rounds):
        order = ranked()
        firsts = {bisect_right(_SORTS, int(pool[c][FORM])): c for c in reversed(order)}
        front = [c for c in dict.fromkeys([*order[:beam], *firsts.values()]) if c not in done]
        if not front:
            break
        done.update(front)
        look(grammar.neighbours(torch.stack([pool[c] for c in front])))
    return [Found(c, known[c]) for c in ranked()[:k]]


__all__ = ["Found", "Grammar", "seek"]
