"""Copies of designs: is a picture of one thing a training sprite again, whatever its place, size and ground?

Thing and sprite are cut out by the same rules and brought to one size; the sprites stand on the picture's ground. What is near is
calibrated on real drawings: how near each sprite is to the nearest training sprite of another design.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.data.scenes import layout, rules
from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.sprites import SIDES, tight
from safelight.data.scenes.words import BACKGROUNDS, SINGLE, STYLES, TWINS
from safelight.evaluate.copies import Copies, Nearest, copies
from safelight.evaluate.scene_classifier import crops, find
from safelight.spec import SpecError

THUMB = 24  # pixels of a cut-out
REFERENCE_SIDES = (3, 4)  # of the sprites, into SIDES: 40 and 46 pixels, as in scenes of one thing
STEPS = (-1.0, 0.0, 1.0)  # pixels by which a cut-out is moved and its edges are spread


def single(composer: Composer, sprite: Tensor, background: Tensor, side: Tensor) -> Scenes:
    """Scenes of one unpainted sprite each in the middle of a ground: (B,) numbers of sprites, grounds and entries of SIDES."""
    b, device = len(sprite), sprite.device
    none = torch.full((b,), -1, device=device)
    edge = (composer.size - torch.tensor([round(s * composer.size / 64) for s in SIDES], device=device)[side]) // 2
    place = torch.stack([edge, none, none, none], 1)
    nothing = torch.stack([none, none], 1)
    return Scenes(
        torch.full_like(none, SINGLE),
        torch.stack([sprite, none], 1),
        torch.stack([composer.concept[sprite], none], 1),
        nothing,
        torch.ones_like(none),
        background,
        composer.style[sprite],
        none,
        none,
        none,
        torch.full_like(none, layout.MIDDLE),
        side,
        place,
        place.clone(),
        torch.zeros(b, 9, dtype=torch.int64, device=device),
        none < 0,
    )


class Gallery:
    """The training sprites of text to image, on any ground, as cut-outs to compare with."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.sprite = (~composer.held.cell).nonzero()[:, 0]
        if not len(self.sprite):
            raise SpecError("copies: the vocabulary has no sprite to train on")
        families = sorted({TWINS.get(style, style) for style in STYLES})
        family = torch.tensor([families.index(TWINS.get(style, style)) for style in STYLES], device=composer.device)
        self.design = composer.concept * len(families) + family[composer.style]  # (N,): near twins are one design
        self._colours = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32, device=composer.device)
        self._grounds: dict[int, Tensor] = {}

    def _on(self, ground: int) -> Tensor:
        """Cut-outs of all training sprites on a ground: (2 S, 3 T T) float, the S at 40 pixels first."""
        if ground not in self._grounds:
            parts = []
            for side in REFERENCE_SIDES:
                filled = [torch.full_like(self.sprite, value) for value in (ground, side)]
                scenes = single(self.composer, self.sprite, *filled)
                for i in range(0, len(self.sprite), 256):
                    rows = scenes.rows(slice(i, i + 256))
                    pictures = self.composer.render(rows)
                    base = self._colours[ground].expand(len(pictures), 3)
                    box = tight(rules.different(pictures, base))  # as the checker finds it; composed pictures have no specks
                    parts.append(crops(pictures, box, THUMB).flatten(1))
            self._grounds[ground] = torch.cat(parts)
        return self._grounds[ground]

    def nearest(self, pictures: Tensor, scenes: Scenes, *, but: Tensor | None = None) -> Nearest:
        """The training sprite nearest to each picture (B, 3, H, W) uint8 of one thing: its number in the pack, and the root mean
        square difference of the cut-outs in grey levels, the least over shifts and spreads by a pixel. The sprites stand on the
        ground that is seen, where one is: a copy on another than the scene asks for is a copy too.

        but: (B,) a design for each picture that is left out of the search.
        """
        device, n = self.composer.device, len(pictures)
        index, distance = torch.zeros(n, dtype=torch.int64), torch.full((n,), torch.inf, dtype=torch.float64)
        own = self.design[self.sprite].repeat(len(REFERENCE_SIDES))  # (2 S,)
        seen = torch.cat([rules.ground(part.to(device))[0] for part in pictures.split(256)])  # (n,), -1: none
        grounds = torch.where(seen >= 0, seen, scenes.background)
        for ground in grounds.unique().tolist():
            theirs = self._on(ground)
            length = theirs.square().sum(1)
            for rows in (grounds == ground).nonzero()[:, 0].split(32):
                shown = pictures[rows.to(pictures.device)].to(device)
                box = find(shown, scenes.rows(rows)).box[:, 0].float()
                best = torch.full((len(rows), len(theirs)), torch.inf, device=device)
                for dx in STEPS:
                    for dy in STEPS:
                        for grow in STEPS:
                            by = torch.tensor([dx - grow, dy - grow, dx + grow, dy + grow], device=device)
                            ours = crops(shown, box + by, THUMB).flatten(1)
                            d = torch.addmm(length, ours, theirs.T, alpha=-2) + ours.square().sum(1, keepdim=True)
                            best = torch.minimum(best, d)
                if but is not None:
                    best = best.masked_fill(own == but[rows, None], torch.inf)
                low, at = best.min(1)
                index[rows.cpu()] = self.sprite[at % len(self.sprite)].cpu()
                distance[rows.cpu()] = (low.clamp(min=0) / theirs.shape[1]).sqrt().double().cpu()
        return Nearest(index, distance)

    @cached_property
    def real(self) -> Nearest:
        """How near real drawings are to training sprites of another design: up to 400 sprites, each once on a ground it is seen on,
        its own design (near twins in other finishes too) left out."""
        composer, most, seed = self.composer, 400, 77
        random = torch.Generator().manual_seed(seed)
        some = torch.randperm(len(composer.concept), generator=random).to(composer.device)
        some = some[composer.clear[some].any(1)][:most]
        weight = composer.clear[some].float().cpu()
        ground = torch.multinomial(weight, 1, generator=random)[:, 0].to(composer.device)
        side = torch.randint(len(REFERENCE_SIDES), (len(some),), generator=random).to(composer.device) + REFERENCE_SIDES[0]
        scenes = single(composer, some, ground, side)
        return self.nearest(composer.render(scenes), scenes, but=self.design[some])


class Designs(NamedTuple):
    """copies: of the pictures asked for one thing, as `evaluate.copies` has them; rows: which pictures those are. real: what
    composed pictures of the same scenes get: the number of a model that recalls perfectly."""

    copies: Copies
    real: Copies
    rows: Tensor


def designs(gallery: Gallery, pictures: Tensor, scenes: Scenes) -> Designs | None:
    """Look for copies among the pictures of `scenes` that were asked for one unpainted thing; None when there is none."""
    rows = ((scenes.template == SINGLE) & (scenes.number == 1) & (scenes.colour[:, 0] < 0)).nonzero()[:, 0]
    if not len(rows):
        return None
    asked = scenes.rows(rows)
    ours = gallery.nearest(pictures[rows.to(pictures.device)], asked)
    real = gallery.nearest(gallery.composer.render(asked), asked)
    return Designs(copies(ours, gallery.real), copies(real, gallery.real), rows.cpu())
