"""Prompts to measure a model on: half of an honest table is what it has seen the parts of, the other half what was held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.compose import Composer, Scenes, cat
from safelight.data.scenes.splits import Split
from safelight.data.scenes.sprites import load
from safelight.data.scenes.truth import Truth, truths
from safelight.spec import SpecError


@dataclass(frozen=True)
class Prompt:
    """One prompt and what a picture of it has to show."""

    text: str
    truth: Truth


def asked(composer: Composer, n: int, seed: int, split: Split) -> Scenes:
    """`n` scenes whose captions are to be asked of a model: HELD, or TEXT for combinations that may have been seen.

    Raises SpecError when the vocabulary is so small that nothing of it is held out.
    """
    if n < 1:
        raise SpecError(f"{n} prompts asked for; ask for at least one")
    found: list[Scenes] = []
    have = 0
    for step in range(64):
        scenes = composer.draw(seed, step, 2 * n, split, asked=True)
        scenes = scenes.rows(scenes.valid)
        found.append(scenes)
        have += len(scenes.template)
        if have >= n:
            return cat(found).rows(slice(0, n))
    raise SpecError(f"this vocabulary of {len(composer.pack.nouns)} concepts holds out too little for {n} prompts; use more concepts")


def held_out_prompts(n: int, seed: int, composer: Composer | None = None) -> list[Prompt]:
    """`n` prompts, each with something that training never shows: a (concept, style), a (noun, colour), a (concept, count), or an
    ordered pair. The truth's template says which: single, colour, count, relation."""
    return list(_prompts(n, seed, composer, Split.HELD))


def seen_prompts(n: int, seed: int, composer: Composer | None = None) -> list[Prompt]:
    """`n` prompts of the same mix from what training draws."""
    return list(_prompts(n, seed, composer, Split.TEXT))


def _prompts(n: int, seed: int, composer: Composer | None, split: Split) -> Iterator[Prompt]:
    composer = composer or Composer(load())
    scenes = asked(composer, n, seed, split)
    captions = Phrases(composer.pack.nouns, composer.device).captions(scenes)
    for text, truth in zip(captions, truths(composer, scenes, boxes=False), strict=True):
        yield Prompt(text, truth)
