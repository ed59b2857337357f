"""The machine checker: what a picture of a scene shows, from its pixels alone, without any network.

Ground: the colour most of the border has. Things: connected pieces that differ from the ground. Colour: the hue that most
of a thing's coloured pixels have. Place: the boxes of the pieces; which piece is which of two concepts, by the nearest sprite.
It is measured on composed scenes, where the truth is known; its accuracy there is printed beside every number it gives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.data.scenes.sprites import tight
from safelight.data.scenes.words import BACKGROUNDS, COLOURS

CONTRAST = 36  # a pixel whose channels all lie within this of the ground is ground
SMALLEST = 10  # pixels of a 64 x 64 picture: less is a speck
SHARE = 0.3  # and less than this share of the largest piece is a splinter, when equal things are counted
MOST = 6  # pieces looked at, largest first


class Pieces(NamedTuple):
    """The pieces of B pictures, largest first: up to MOST that are more than specks. Unused slots hold zeros."""

    number: Tensor  # int64 (B,): how many are things, not splinters of the largest
    area: Tensor  # int64 (B, MOST)
    box: Tensor  # int64 (B, MOST, 4): x0, y0, x1, y1, ends exclusive
    label: Tensor  # int64 (B, H, W): which slot a pixel belongs to, -1 = none


def different(image: Tensor, ground: Tensor) -> Tensor:
    """bool (B, H, W): does a pixel of `image` (B, 3, H, W), 0..255, differ from its picture's `ground` (B, 3)?"""
    return (image.float() - ground[:, :, None, None]).abs().amax(1) > CONTRAST


def components(seen: Tensor) -> Pieces:
    """The 8-connected pieces of bool masks (B, H, W): the highest pixel number spreads along rows, columns and then by one
    pixel in all directions, until nothing changes; about five rounds for icons."""
    b, h, w = seen.shape
    number = torch.arange(1, h * w + 1, device=seen.device).reshape(1, h, w)
    label = number * seen
    rows, columns = _Runs(seen, 2), _Runs(seen, 1)
    for _ in range(h * w):
        spread = columns.spread(rows.spread(label))
        spread = F.max_pool2d(spread[:, None].float(), 3, 1, 1)[:, 0].long() * seen  # numbers below 2^24 are exact
        if torch.equal(spread, label):
            break
        label = spread
    flat = label.reshape(b, h * w)
    area = torch.zeros(b, h * w + 1, dtype=torch.int64, device=seen.device).scatter_add_(1, flat, torch.ones_like(flat))
    area[:, 0] = 0
    top, names = area.topk(MOST, dim=1)  # (B, MOST)
    real = top >= max(1.0, SMALLEST * h * w / 4096)
    member = (flat[:, None, :] == names[:, :, None]) & real[:, :, None]  # (B, MOST, H W)
    slot = torch.arange(1, MOST + 1, device=seen.device)[:, None]
    label_slot = (member * slot).sum(1).reshape(b, h, w) - 1
    count = (real & (top >= SHARE * top[:, :1])).sum(1)
    return Pieces(count, top * real, _boxes(member.reshape(b, MOST, h, w)), label_slot)


class _Runs:
    """Unbroken runs of a mask along one axis, numbered, so that one cumulative maximum serves all: number x 2^20 + value."""

    def __init__(self, seen: Tensor, axis: int) -> None:
        self.seen, self.axis = seen, axis
        self.ahead = (~seen).long().cumsum(axis) << 20
        self.back = (~seen).flip(axis).long().cumsum(axis) << 20

    def spread(self, label: Tensor) -> Tensor:
        """The maximum of `label` over the run that each pixel lies in."""
        ahead = (label + self.ahead).cummax(self.axis).values - self.ahead
        back = ((label.flip(self.axis) + self.back).cummax(self.axis).values - self.back).flip(self.axis)
        return torch.maximum(ahead, back) * self.seen


def _boxes(masks: Tensor) -> Tensor:
    b, k, h, w = masks.shape
    return tight(masks.reshape(b * k, h, w)).reshape(b, k, 4)


def ground(image: Tensor) -> tuple[Tensor, Tensor]:
    """Which background, int64 (B,), -1 when most of the border has no one listed colour; and its mean colour, float (B, 3).

    Each pixel of the two outermost rings votes for the nearest listed colour within 60 (distance in RGB).
    """
    image = image.float()
    b, _, h, w = image.shape
    ring = torch.ones(h, w, dtype=torch.bool, device=image.device)
    ring[2:-2, 2:-2] = False
    border = image[:, :, ring].permute(0, 2, 1)  # (B, P, 3)
    table = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32, device=image.device)
    distance, nearest = torch.cdist(border, table.expand(b, -1, -1)).min(-1)  # (B, P)
    good = distance < 60
    votes = F.one_hot(nearest, len(table)) * good[..., None]  # (B, P, 10)
    share, winner = votes.sum(1).max(-1)
    mine = (nearest == winner[:, None]) & good
    colour = (border * mine[..., None]).sum(1) / mine.sum(1, keepdim=True).clamp(min=1)
    some = share > 0.5 * border.shape[1]
    return torch.where(some, winner, -1), torch.where(some[:, None], colour, border.median(1).values)


# Where one colour's hue ends and the next begins, in degrees: about halfway between those of `words.COLOURS`, but lime is green.
_EDGES = (
    (14.0, "red"),
    (38.0, "orange"),
    (66.0, "yellow"),
    (176.0, "green"),
    (246.0, "blue"),
    (303.0, "purple"),
    (347.0, "pink"),
)


def hue(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Hue in degrees and chroma max - min of `rgb` (..., 3), 0..255 (the hexagon of HSV)."""
    high, low = rgb.amax(-1), rgb.amin(-1)
    chroma = high - low
    safe = chroma.clamp(min=1e-6)
    r, g, b = rgb.unbind(-1)
    angle = torch.where(high == r, ((g - b) / safe) % 6, torch.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
    return angle * 60, chroma


def colour(image: Tensor, mask: Tensor) -> Tensor:
    """The colour name that most of the coloured pixels under `mask` (B, H, W) have, weighted by chroma: int64 (B,) into
    `words.COLOURS`, -1 when less than a fifth of the masked pixels are coloured at all."""
    angle, chroma = hue(image.float().permute(0, 2, 3, 1))  # (B, H, W)
    names = tuple(COLOURS)
    bin_ = torch.zeros_like(angle, dtype=torch.int64)  # beyond the last edge: red again
    for edge, name in reversed(_EDGES):
        bin_ = torch.where(angle < edge, names.index(name), bin_)
    strong = mask & (chroma > 40)
    votes = (F.one_hot(bin_, len(names)) * (chroma * strong)[..., None]).sum((1, 2))  # (B, 7)
    enough = strong.sum((1, 2)) > 0.2 * mask.sum((1, 2)).clamp(min=1)
    return torch.where(enough, votes.argmax(-1), -1)
