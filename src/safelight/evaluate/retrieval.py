"""Does a picture find its own words among others', and words their picture? Measured with a joint model that does not condition."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.compose import Composer, Scenes, cat
from safelight.data.scenes.nouns import article, indefinite
from safelight.data.scenes.prompts import asked
from safelight.data.scenes.splits import Split
from safelight.data.scenes.words import BACKGROUNDS, SINGLE
from safelight.evaluate.adherence import Rate
from safelight.spec import SpecError
from safelight.text.joint import Joint, recall

FORMAT = 1
RANKS = (1, 5)


class Set(NamedTuple):
    """Scenes of which no two show the same, and their captions."""

    scenes: Scenes
    captions: tuple[str, ...]


def distinct(composer: Composer, n: int, seed: int, split: Split = Split.HELD) -> Set:
    """`n` scenes no two of which show the same things, however they are worded: what is left of what is the right of the other.

    Raises SpecError when the vocabulary holds out too little.
    """
    found: dict[tuple[int, ...], Scenes] = {}
    for step in range(16):
        scenes = asked(composer, 2 * n, seed * 1000 + step, split)
        for i, key in enumerate(_content(scenes).tolist()):
            if len(found) < n:
                found.setdefault(tuple(key), scenes.rows(slice(i, i + 1)))
        if len(found) == n:
            chosen = cat(list(found.values()))
            return Set(chosen, tuple(Phrases(composer.pack.nouns, composer.device).captions(chosen)))
    raise SpecError(f"retrieval: this vocabulary gives {len(found)} prompts that differ in what they show, {n} are needed")


def _content(scenes: Scenes) -> Tensor:
    """(B, K) numbers that are equal where two scenes ask for the same picture."""
    a, b = scenes.concept.unbind(1)
    swap = (scenes.relation == 1) | (scenes.relation == 3)  # right of, below: told from the other side
    axis = torch.where(scenes.relation >= 0, scenes.relation // 2, -1)
    concept = torch.where(swap[:, None], torch.stack([b, a], 1), scenes.concept)
    colour = torch.where(swap[:, None], scenes.colour.flip(1), scenes.colour)
    rest = (scenes.number, scenes.background, scenes.style, axis)
    return torch.cat([concept, colour, torch.stack(rest, 1)], 1)


def recalls(joint: Joint, pictures: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """R@1 and R@5 of N pairs, from picture to words and from words to picture; pictures (N, 3, H, W) uint8."""
    seen, said = joint.pictures(pictures), joint.texts(captions)
    both = {f"R@{k}": recall(seen, said, k) for k in RANKS}
    return {name: {"words": a, "picture": b} for name, (a, b) in both.items()}


def zero_shot(joint: Joint, composer: Composer, count: int, seed: int) -> dict[str, Any]:
    """Which of all concepts does a picture of one thing show? Of `count` fresh scenes, the rate at which it is the right one.

    plain: a class is "a picture of a teapot". ensemble: the mean embedding of "a teapot on a ... background", over all grounds.
    Seen and held-out (concept, style) cells apart.
    """
    scenes = composer.draw(seed, 0, 4 * count, Split.ALL)
    scenes = scenes.rows(((scenes.template == SINGLE) & (scenes.number == 1)).nonzero()[:count, 0])
    image = joint.pictures(composer.render(scenes))
    names = [indefinite(noun.phrase) for noun in composer.pack.nouns]
    plain = joint.texts([f"a picture of {name}" for name in names])
    grounds = [joint.texts([f"{name} on {article(g)} {g} background" for name in names]) for g in BACKGROUNDS]
    ensemble = F.normalize(torch.stack(grounds).mean(0), dim=-1)
    held, due = composer.held.cell[scenes.sprite[:, 0]], scenes.concept[:, 0].to(image.device)
    found: dict[str, Any] = {"classes": len(names), "chance": 1 / len(names)}
    for how, text in (("plain", plain), ("ensemble", ensemble)):
        right = ((image @ text.T).argmax(1) == due).to(held.device)
        groups = {"all": torch.ones_like(held), "seen cells": ~held, "held-out cells": held}
        found[how] = {name: Rate(int((right & mask).sum()), int(mask.sum())).json() for name, mask in groups.items()}
    return found


def retrieval(
    joint: Joint, sets: Sequence[Set], composer: Composer, made: Tensor | None = None, *, singles: int = 1000, seed: int = 11
) -> dict[str, Any]:
    """The whole result as JSON: recall over the real pictures of several sets of prompts, and over generated ones of the first.

    made: pictures (N, 3, H, W) uint8 generated for the captions of sets[0]; its recalls stand beside those of the same prompts' composed
    pictures. Rates of real pictures are means over the sets, with the least and the greatest.
    """
    began = time.perf_counter()
    if not sets:
        raise SpecError("retrieval: at least one set of prompts is needed")
    if made is not None and len(made) != len(sets[0].captions):
        raise SpecError(f"retrieval: {len(made)} generated pictures for {len(sets[0].captions)} prompts")
    real = [recalls(joint, composer.render(s.scenes), s.captions) for s in sets]
    numbers: dict[str, Any] = {
        "format": FORMAT, "what": "retrieval", "prompts": len(sets[0].captions), "sets": len(sets),
        "chance": {f"R@{k}": k / len(sets[0].captions) for k in RANKS},
        "real": {name: {way: _spread([r[name][way] for r in real]) for way in ("words", "picture")} for name in real[0]},
        "same": real[0],
        "zero_shot": zero_shot(joint, composer, singles, seed),
    }  # fmt: skip
    if made is not None:
        numbers["generated"] = recalls(joint, made, sets[0].captions)
        own = (joint.pictures(made) * joint.texts(sets[0].captions)).sum(1).mean().item()
        true = (joint.pictures(composer.render(sets[0].scenes)) * joint.texts(sets[0].captions)).sum(1).mean().item()
        numbers["similarity"] = {"generated": own, "real": true}
    return {**numbers, "seconds": round(time.perf_counter() - began, 1)}


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)}


def table(numbers: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    n, made = numbers["prompts"], numbers.get("generated")
    heads = ["| | R@1 | R@5 | chance R@1 |", "|---|---:|---:|---:|"]
    ways = {"words": "a picture finds its words", "picture": "words find their picture"}
    for way, text in ways.items():
        cells = []
        for name in numbers["real"]:
            row = numbers["real"][name][way]
            cells.append(f"**{100 * row['mean']:.1f} %** ({100 * row['low']:.0f} to {100 * row['high']:.0f})")
        heads.append(f"| {text}, composed pictures, {numbers['sets']} sets of {n} | {' | '.join(cells)} | {100 / n:.0f} % |")
    if made is not None:
        for way, text in ways.items():
            sides = (made, numbers["same"])
            ours, same = (" | ".join(f"{100 * side[name][way]:.1f} %" for name in side) for side in sides)
            heads.append(f"| {text}, **generated** pictures, the first set | {ours} | {100 / n:.0f} % |")
            heads.append(f"| {text}, composed pictures of the same prompts | {same} | {100 / n:.0f} % |")
    lines = ["\n".join(heads)]
    zero = numbers["zero_shot"]
    for how, text in (("plain", '"a picture of a teapot"'), ("ensemble", "mean over ten grounds")):
        each = ", ".join(
            f"{name} {100 * row['rate']:.1f} % of {row['n']:,}" for name, row in zero[how].items() if row["rate"] is not None
        )
        lines.append(f"Zero-shot over {zero['classes']} concepts, {text}: {each} (chance {100 * zero['chance']:.1f} %).")
    if "similarity" in numbers:
        s = numbers["similarity"]
        lines.append(f"Mean cosine of picture and own words: generated {s['generated']:.3f}, composed {s['real']:.3f}.")
    return "\n\n".join(lines)
