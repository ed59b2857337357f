"""Does a picture show what its scene says? The rules of `rules.py` applied to a batch, each aspect with where it applies.

    report = check(composer, pictures, scenes)         # pictures: uint8 (B, 3, H, W), generated for the scenes' captions
    report.rates()                                     # {"background": 0.99, "count": 0.81, ...}

On composed scenes the same call measures the checker itself; that accuracy belongs beside every rate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.data.scenes import rules
from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.sprites import Pack, recolour_matrix, tight
from safelight.data.scenes.words import COLOURS, STYLES
from safelight.spec import SpecError

THUMB = 12
BATCH = 128


class Verdict(NamedTuple):
    """One aspect of B pictures: right, and where it was asked at all; bool (B,) both."""

    right: Tensor
    applies: Tensor

    @property
    def rate(self) -> float:
        """The share of right ones among those asked; nan when none was."""
        asked = int(self.applies.sum())
        return float((self.right & self.applies).sum()) / asked if asked else float("nan")


@dataclass(frozen=True)
class Report:
    """background: the ground's colour. count: in counts, how many pieces. colour: of a painted or colour-named thing.
    relation: which of two is where. corner: the thing's quarter. size: small is under 0.45 of the side, big over 0.7."""

    background: Verdict
    count: Verdict
    colour: Verdict
    relation: Verdict
    corner: Verdict
    size: Verdict

    def rates(self) -> dict[str, float]:
        """The share of right pictures, by aspect."""
        return {name: verdict.rate for name, verdict in self.aspects().items()}

    def aspects(self) -> dict[str, Verdict]:
        """The verdicts by name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Matcher:
    """Thumbnails of all sprites, to tell which of two pieces is which concept."""

    def __init__(self, pack: Pack, device: torch.device) -> None:
        pixels = torch.from_numpy(pack.pixels).permute(0, 3, 1, 2).float().to(device)
        straight, alpha = pixels[:, :3], pixels[:, 3:] / 255
        box = tight(alpha[:, 0] >= 0.125)
        self.thumb = crop(torch.cat([straight * alpha, alpha * 255], 1), box)  # (N, 4, T, T), premultiplied
        self.aspect = _aspect(box)
        hues = torch.tensor([sprite.hue or (0, 0, 0) for sprite in pack.sprites], dtype=torch.float32)
        targets = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
        some = hues.sum(-1) > 0
        self.matrix = torch.eye(3).expand(len(hues), len(targets), 3, 3).clone()
        if bool(some.any()):
            self.matrix[some] = recolour_matrix(*torch.broadcast_tensors(hues[some][:, None], targets[None]))
        self.matrix = self.matrix.to(device)
        table = torch.full((len(pack.nouns), len(STYLES)), -1, dtype=torch.int64)
        table[pack.concept_ids(), pack.style_ids()] = torch.arange(len(pack.sprites))
        self.sprite = table.to(device)  # (C, styles), -1 = none

    def cost(self, thumb: Tensor, aspect: Tensor, ground: Tensor, concept: Tensor, colour: Tensor) -> Tensor:
        """How unlike the crop of each piece (B, 3, T, T) is its concept (B,), painted `colour` (-1: not) on `ground` (B, 3),
        in the likest style: (B,)."""
        sprite = self.sprite[concept]  # (B, styles)
        theirs = self.thumb[sprite.clamp(min=0)]  # (B, styles, 4, T, T)
        rgb, alpha = theirs[:, :, :3], theirs[:, :, 3:] / 255
        painted = torch.einsum("bsij,bsjhw->bsihw", self.matrix[sprite.clamp(min=0), colour.clamp(min=0)[:, None]], rgb)
        rgb = torch.where((colour >= 0)[:, None, None, None, None], painted.clamp(0, 255), rgb)
        theirs = rgb + (1 - alpha) * ground[:, None, :, None, None]
        shape = (self.aspect[sprite.clamp(min=0)] - aspect[:, None]).abs()
        unlike = (theirs - thumb[:, None]).abs().mean((2, 3, 4)) + 40 * shape
        return unlike.masked_fill(sprite < 0, torch.inf).amin(1)


def crop(image: Tensor, box: Tensor) -> Tensor:
    """The boxes of `image` (B, C, H, W) as (B, C, 12, 12): four samples a pixel, averaged."""
    h, w = image.shape[-2:]
    size = torch.tensor([w, h], device=image.device, dtype=torch.float32)
    low, high = box[:, :2] / size * 2 - 1, box[:, 2:] / size * 2 - 1
    theta = torch.zeros(len(box), 2, 3, device=image.device)
    theta[:, 0, 0], theta[:, 1, 1] = ((high - low) / 2).unbind(1)
    theta[:, :, 2] = (high + low) / 2
    grid = F.affine_grid(theta, [len(box), image.shape[1], 4 * THUMB, 4 * THUMB], align_corners=False)
    return F.avg_pool2d(F.grid_sample(image, grid, align_corners=False, padding_mode="border"), 4)


def _aspect(box: Tensor) -> Tensor:
    side = (box[..., 2:] - box[..., :2]).clamp(min=1).float()
    return (side[..., 0] / side[..., 1]).log()


def check(composer: Composer, pictures: Tensor, scenes: Scenes, matcher: Matcher | None = None) -> Report:
    """The report of `pictures`, uint8 (B, 3, H, W) or float 0..255, one for each of `scenes`."""
    matcher = matcher or Matcher(composer.pack, composer.device)
    if len(pictures) != len(scenes.template):
        raise SpecError(f"{len(pictures)} pictures for {len(scenes.template)} scenes; give one for each")
    parts = []
    for i in range(0, len(pictures), BATCH):
        part = pictures[i : i + BATCH].to(composer.device)
        parts.append(_check(composer, part, scenes.rows(slice(i, i + BATCH)), matcher).aspects())
    joined = {}
    for name in parts[0]:
        right, applies = zip(*(part[name] for part in parts), strict=True)
        joined[name] = Verdict(torch.cat(right), torch.cat(applies))
    return Report(**joined)


def _check(composer: Composer, pictures: Tensor, scenes: Scenes, matcher: Matcher) -> Report:
    b, _, h, w = pictures.shape
    ground, base = rules.ground(pictures)
    pieces = rules.components(rules.different(pictures, base))
    pair = scenes.relation >= 0

    # which piece is the first thing of a pair
    crops = [crop(pictures.float(), pieces.box[:, k]) for k in (0, 1)]
    aspect = _aspect(pieces.box)

    def cost(piece: int, thing: int) -> Tensor:
        concept, paint = scenes.concept[:, thing].clamp(min=0), scenes.colour[:, thing]
        return matcher.cost(crops[piece], aspect[:, piece], base, concept, paint)

    first = torch.where(cost(0, 0) + cost(1, 1) <= cost(1, 0) + cost(0, 1), 0, 1)
    rows = torch.arange(b, device=pictures.device)
    middle = (pieces.box[..., :2] + pieces.box[..., 2:]).float() / 2  # (B, MOST, 2)
    dx, dy = (middle[rows, first] - middle[rows, 1 - first]).unbind(1)
    wide = dx.abs() > dy.abs()
    seen = torch.where(wide, torch.where(dx < 0, 0, 1), torch.where(dy < 0, 2, 3))
    relation = Verdict((seen == scenes.relation) & (pieces.area[:, 1] > 0), pair)

    # the colour of the first thing: painted, or in its name
    names = tuple(COLOURS)
    own = torch.tensor([names.index(n.colour) if n.colour else -1 for n in composer.pack.nouns], device=pictures.device)
    due = torch.where(scenes.colour[:, 0] >= 0, scenes.colour[:, 0], own[scenes.concept[:, 0]])
    mask = torch.where(pair[:, None, None], pieces.label == first[:, None, None], pieces.label >= 0)
    shown = rules.colour(pictures, mask)

    used = (pieces.area > 0)[..., None]  # the box around all pieces: not every icon is in one
    low = torch.where(used, pieces.box[..., :2], max(h, w)).amin(1).float()
    high = torch.where(used, pieces.box[..., 2:], 0).amax(1).float()
    right, down = ((low + high) / 2 / torch.tensor([w, h], device=low.device) > 0.5).long().unbind(1)
    extent = ((high - low) / torch.tensor([w, h], device=low.device)).amax(1)
    some = pieces.number >= 1
    return Report(
        Verdict(ground == scenes.background, torch.ones_like(pair)),
        Verdict(pieces.number == scenes.number, scenes.number > 1),
        Verdict(shown == due, due >= 0),
        relation,
        Verdict(some & (2 * down + right == scenes.corner), scenes.corner >= 0),
        Verdict(some & torch.where(scenes.size == 0, extent < 0.45, extent > 0.7), scenes.size >= 0),
    )
