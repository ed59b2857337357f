"""Sprite scenes as a source of pictures: endless for training, or so many of them as a set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.data.pictures import Pictures, load
from safelight.data.scenes.captions import Phrases, TokenTable
from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.small import SMALL
from safelight.data.scenes.splits import Split
from safelight.data.scenes.sprites import SIDE, Pack
from safelight.data.scenes.sprites import load as load_pack
from safelight.data.scenes.words import STYLES
from safelight.data.source import DataError, Dataset, Example, Pixels, Source
from safelight.data.stream import Stream
from safelight.spec import Spec, describe

# Pictures composed for an epoch, unless said otherwise.
EPOCH = 100_000


class Vocabulary(Spec):
    """Which sprites there are: concepts (None: all 709) in styles."""

    concepts: tuple[str, ...] | None = None
    styles: tuple[str, ...] = ("noto", "twemoji", "flat", "glossy", "blob")

    def pack(self) -> Pack:
        """These sprites. Raises SpecError for a concept or style that there is not."""
        return _packed(self.concepts, self.styles)


@lru_cache(maxsize=2)
def _packed(concepts: tuple[str, ...] | None, styles: tuple[str, ...]) -> Pack:
    return load_pack(concepts=concepts, styles=styles)


FULL = Vocabulary()
REDUCED = Vocabulary(concepts=SMALL, styles=("noto", "twemoji", "flat", "glossy"))


class ScenesSource(Source, kind="scenes"):
    """Scenes of `vocabulary` from `split`, which picture k of is a pure function of (seed, k). See data/scenes.

    count: how many; None is a stream without end, for training, of which `epoch` pictures are called an epoch.
    size: the side in pixels, 32, 48 or 64. mix: weights of single things, painted ones, sizes, corners, counts and relations, in
    place of the composer's own; what they leave out is not shown. relations: weights of left, right, above and below. That a cat
    left of a dog is a dog right of a cat is a parity of order and word, of which neither alone tells anything, so that training on
    all four alike may never begin to learn it; where one word of each pair comes more often, the order is learned first, then the
    other word.
    """

    vocabulary: Vocabulary = FULL
    split: Split = Split.TEXT
    seed: int = Field(0, ge=0)
    count: int | None = Field(None, ge=1)
    epoch: int = Field(EPOCH, ge=1)
    size: int = SIDE
    mix: tuple[int, int, int, int, int, int] | None = None
    relations: tuple[int, int, int, int] = (1, 1, 1, 1)

    @model_validator(mode="after")
    def _some(self) -> ScenesSource:
        for name, weights in (("mix", self.mix or (1,)), ("relations", self.relations)):
            if min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(f"{name}: weights are 0 or more and not all 0 (given: {list(weights)})")
        return self

    def scenes(self, composer: Composer, first: int, count: int) -> Scenes:
        """What pictures first..first+count-1 show."""
        return composer.draw(self.seed, 0, count, self.split, first=first, mix=self.mix, relations=self.relations)

    def open(self) -> Dataset:
        if self.count is None:
            raise DataError("scenes without a count have no end: set data.count, or train on them as they come")
        return SceneSet(self, self.composer(torch.device("cpu")))

    def composer(self, device: torch.device) -> Composer:
        """What draws and paints them."""
        return Composer(self.vocabulary.pack(), device, size=self.size)

    def stream(self, device: torch.device) -> SceneStream:
        """The endless set. Only for a source without a count."""
        return SceneStream(self, self.composer(device))


class SceneSet(Dataset):
    """So many scenes, painted at once."""

    def __init__(self, source: ScenesSource, composer: Composer) -> None:
        assert source.count is not None
        scenes = source.scenes(composer, 0, source.count)
        if not bool(scenes.valid.any()):
            raise DataError(f"no scene of split '{source.split.value}' can be drawn from this vocabulary: widen it")
        scenes = scenes.rows(scenes.valid)
        self.ids = [f"scene-{source.split.value}-{source.seed}-{k}" for k in range(len(scenes.template))]
        self.captions = Phrases(composer.pack.nouns).captions(scenes)
        self._pixels = composer.render(scenes).permute(0, 2, 3, 1).contiguous().numpy()

    def read(self, i: int) -> Example:
        return Example(self.ids[i], self._pixels[i], self.captions[i])

    def array(self) -> Pixels | None:
        return np.asarray(self._pixels)


class SceneStream(Stream):
    """Scenes as they come; `scenes(indices)` is what they show."""

    def __init__(self, source: ScenesSource, composer: Composer) -> None:
        name = f"scene-{source.split.value}-{source.seed}"
        seal = hashlib.blake2b(json.dumps(describe(source), sort_keys=True).encode(), digest_size=16)
        for sprite in composer.pack.sprites:
            seal.update(f"{sprite.style}/{sprite.concept}\n".encode())
        super().__init__(name, source.epoch, (3, source.size, source.size), seal.hexdigest())
        self.source, self.composer = source, composer
        self._phrases: Phrases | None = None
        self._last: tuple[tuple[int, int], Scenes] | None = None

    @property
    def phrases(self) -> Phrases:
        """The closed list of phrases that the captions are made of."""
        if self._phrases is None:
            self._phrases = Phrases(self.composer.pack.nouns, self.composer.device)
        return self._phrases

    @property
    def words(self) -> list[str]:
        """Every word of its captions, in alphabetical order."""
        absent = set(STYLES) - {sprite.style for sprite in self.composer.pack.sprites}
        return sorted({word.strip(",") for text in self.phrases.texts for word in text.split()} - absent - {""})

    def scenes(self, indices: Tensor) -> Scenes:
        """What pictures of consecutive numbers show."""
        first, count = int(indices[0]), len(indices)
        if self._last is None or self._last[0] != (first, count):
            self._last = (first, count), self.source.scenes(self.composer, first, count)
        return self._last[1]

    def batch(self, indices: Tensor) -> Tensor:
        return self.composer.render(self.scenes(indices))

    def said(self, indices: Tensor) -> list[str]:
        return self.phrases.captions(self.scenes(indices))

    def reader(self, text: Any) -> Callable[[Tensor], Tensor]:
        tokenizer = getattr(text, "tokenizer", None)
        if tokenizer is None:
            return lambda indices: text.tokenize(self.said(indices)).to(self.composer.device)
        pad = tokenizer.end if text.spec.pad is None else text.spec.pad
        table = TokenTable.make(
            self.phrases, tokenizer.encode, context=text.spec.length, begin=tokenizer.begin, end=tokenizer.end, pad=pad
        )
        longest = int(table.assemble(self.phrases.numbers(self.composer.draw(1, 0, 4096, self.source.split)))[1])
        if longest > text.spec.length:
            raise DataError(
                f"captions have up to {longest} tokens, the model's text reads {text.spec.length}: widen model.text.length"
            )
        return lambda indices: table.assemble(self.phrases.numbers(self.scenes(indices)))[0]

    def first(self, count: int) -> Pictures:
        return load(self.source.model_copy(update={"count": count}), device=self.composer.device)

    def summary(self) -> str:
        pack = self.composer.pack
        styles = len({sprite.style for sprite in pack.sprites})
        return (
            f"scenes without end {'x'.join(map(str, self.shape))}, split {self.source.split.value}: "
            f"{len(pack.sprites):,} sprites of {len(pack.nouns)} nouns in {styles} styles"
        )


__all__ = ["FULL", "REDUCED", "SceneSet", "SceneStream", "ScenesSource", "Vocabulary"]
