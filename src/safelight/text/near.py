"""What a sum is near to: texts by the score of their embeddings, which are made once and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from safelight.prompt.lint import vocabulary_of
from safelight.text.tokens import END_OF_WORD

Embed = Callable[[Sequence[str]], Tensor]
# Texts that are embedded between two looks at whether anyone still waits, and texts that are kept.
CHUNK, MOST = 256, 40_000


def nothing() -> None:
    """A check that lets everything go on."""


class Memory:
    """Embeddings of texts by one encoder, of whatever sorts are asked for; for several threads.

    Neighbouring sums are sought among nearly the same captions, and embedding them is all the work. Beyond `most` texts of a sort
    everything of that sort is forgotten.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._kept: dict[str, tuple[dict[str, int], Tensor]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(places) for places, _ in self._kept.values())

    def reader(self, sort: str, embed: Embed, check: Callable[[], None] = nothing) -> Embed:
        """`embed` (N texts -> (N, D)) that remembers. check: called before each `CHUNK` of texts; what it raises ends the work,
        and what was embedded until then is kept."""

        def read(texts: Sequence[str]) -> Tensor:
            with self._lock:
                places, rows = self._kept.get(sort, ({}, torch.empty(0)))
                known = [text for text in dict.fromkeys(texts) if text in places]
                parts = [rows[[places[text] for text in known]]] if known else []
            fresh = sorted(set(texts).difference(known), key=lambda text: (len(text), text))
            for start in range(0, len(fresh), CHUNK):
                check()
                chunk = fresh[start : start + CHUNK]
                parts.append(embed(chunk))
                self._keep(sort, chunk, parts[-1])
            at = {text: i for i, text in enumerate([*known, *fresh])}
            return torch.cat(parts)[[at[text] for text in texts]] if texts else embed([])

        return read

    def _keep(self, sort: str, texts: Sequence[str], made: Tensor) -> None:
        with self._lock:
            places, rows = self._kept.get(sort, ({}, made[:0]))
            if len(places) + len(texts) > self.most:
                places, rows = {}, made[:0]
            new = [i for i, text in enumerate(texts) if text not in places]  # not what another thread has meanwhile read
            self._kept[sort] = places, torch.cat([rows, made[new]])
            places.update((texts[i], len(rows) + n) for n, i in enumerate(new))


def lexicon(trained: Any, tokenizer: Any) -> list[str]:
    """The words that a model's sums are told by: those it was trained on, else every token of its vocabulary that is a whole word."""
    known = vocabulary_of(trained)
    if known is not None:
        return sorted(known)
    return sorted(
        {
            t
            for t in (t.removesuffix(END_OF_WORD) for t in tokenizer.tokens if t.endswith(END_OF_WORD))
            if t.isascii() and t.isalpha()
        }
    )


__all__ = ["CHUNK", "Embed", "Memory", "lexicon", "nothing"]
