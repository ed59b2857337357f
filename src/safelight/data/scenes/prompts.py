"""Prompts to measure a model on: half of an honest table is what it has seen the parts of, the other half what was held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.compose import ASKED_MIX, Composer, Scenes, cat
from safelight.data.scenes.splits import Split
from safelight.data.scenes.sprites import load
from safelight.data.scenes.truth import Truth, truths
from safelight.data.scenes.words import RELATION
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
    quota = {t: round(n * share / 100) for t, share in enumerate(ASKED_MIX) if share}
    quota[RELATION] += n - sum(quota.values())
    found: list[Scenes] = []
    for step in range(64):
        scenes = composer.draw(seed, step, 2 * n, split, asked=True)
        found.append(scenes.rows(scenes.valid))
        scenes = cat(found)
        if all(int((scenes.template == t).sum()) >= due for t, due in quota.items()):
            return _spread(scenes, quota)
    concepts = len(composer.pack.nouns)
    raise SpecError(f"this vocabulary of {concepts} concepts holds out too little for {n} prompts; use more concepts")


def _spread(scenes: Scenes, quota: dict[int, int]) -> Scenes:
    """The first `quota` scenes of each template, evenly mixed, so that any part of the list is a fair one."""
    numbers, places = [], []
    for template, due in quota.items():
        numbers.append(torch.nonzero(scenes.template == template)[:due, 0])
        places.append((torch.arange(due, device=numbers[-1].device) + 0.5) / max(due, 1))
    order = torch.cat(places).argsort(stable=True)
    return scenes.rows(torch.cat(numbers)[order])


def held_out_prompts(n: int, seed: int, composer: Composer | None = None) -> list[Prompt]:
    """`n` prompts, each with something that training never shows: a (concept, style), a (noun, colour), a (concept, count),
    or an ordered pair. The truth's template says which: single, colour, count, relation."""
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
