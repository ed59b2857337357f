"""Textual inversion: words that a text encoder learned beside its own, known to it for a run.

Gal et al. 2023, "An image is worth one word", section 3: a pseudo-word S* stands for a learned vector v* (or several) in the place of a row
of the table of word embeddings. Here S* gets ids beyond the table, row k >= n of which is v*_(k-n): the table itself is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.adapt.lora import Words, Worn
from safelight.spec import Spec, SpecError
from safelight.text.clip import CLIPText


class WordUse(Spec):
    """A learned word of a request. name: of one at hand (its file without folder and suffix)."""

    name: str = Field(min_length=1, description="the word's file, without folder and suffix")
    word: str | None = Field(None, min_length=1, description="what stands for it in prompts; none: what its file says")
    hash: str = Field("", description="the first hex digits of the file's SHA-256; a file of another is refused")


class Inversion(NamedTuple):
    """A learned word. vectors: (n, D) for each text encoder, in the order of the encoders ("0", "1") or by the name of one, see `NAMES`."""

    word: str
    vectors: Mapping[str, Tensor]


# What files call the encoders, and how wide the words of that one are where it is published under the name.
NAMES: dict[str, int] = {"clip_l": 768, "clip_h": 1024, "clip_g": 1280}


class Table:
    """`forward` of a table of word embeddings with further rows: row k is `more[k - n]` where k >= n, the table's n rows else."""

    def __init__(self, table: nn.Embedding, more: Tensor) -> None:
        self.table, self.more = table, more

    def __call__(self, ids: Tensor) -> Tensor:
        """ids: (B, L). Returns (B, L, D)."""
        weight = self.table.weight
        n = len(weight)
        own = F.embedding(ids.clamp(max=n - 1), weight)  # (B, L, D)
        learned = F.embedding((ids - n).clamp(min=0), self.more.to(weight))  # (B, L, D)
        return torch.where((ids >= n)[..., None], learned, own)


def learn(model: nn.Module, inversions: Sequence[Inversion]) -> Worn:
    """The words, known to all CLIP text encoders of a model within `with` only.

    A word of several vectors is as many tokens. Raises SpecError for a model without such an encoder, for vectors of another width than its
    words, and for two of one name.
    """
    if not inversions:
        return Worn(model, {})
    encoders = [(name, m) for name, m in model.named_modules() if isinstance(m, CLIPText)]
    if not encoders:
        raise SpecError(
            f"'{inversions[0].word}' is a learned word, but the model has no text encoder of CLIP's kind to know it"
        )
    names = [one.word for one in inversions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"two learned words are called '{twice}': give one another name, as in --embedding FILE:NAME")
    shadows, words = dict[tuple[str, str], Table](), list[Words]()
    for i, (name, encoder) in enumerate(encoders):
        rows, ids, at = list[Tensor](), dict[str, tuple[int, ...]](), encoder.tower.token.num_embeddings
        for one in inversions:
            mine = _of(one, i, [e.spec.width for _, e in encoders])
            rows.append(mine)
            ids[one.word] = tuple(range(at, at + len(mine)))
            at += len(mine)
        shadows[f"{name}.tower.token".lstrip("."), "forward"] = Table(encoder.tower.token, torch.cat(rows))
        words.append((encoder.tokenizer, ids))
    return Worn(model, shadows, words)


def _of(inversion: Inversion, i: int, widths: Sequence[int]) -> Tensor:
    """The vectors of encoder i, of encoders whose words are `widths` wide."""
    found = inversion.vectors
    named = sorted((name for name in found if name in NAMES), key=list(NAMES).index)
    if str(i) in found:
        mine = found[str(i)]
    elif len(found) == len(widths):
        mine = found[named[i]] if len(named) == len(found) else [*found.values()][i]
    else:  # of several encoders one is there: the one whose words are as wide
        mine = next((v for v in found.values() if v.shape[1] == widths[i]), next(iter(found.values())))
    if mine.shape[1] != widths[i]:
        whose = f"text encoder {i + 1}" if len(widths) > 1 else "the text encoder"
        raise SpecError(
            f"'{inversion.word}' has vectors of {mine.shape[1]} numbers, the words of {whose} have {widths[i]}: another model's"
        )
    return mine
