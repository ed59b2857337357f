"""The packed sprites: one zip of lossless RGBA WebP, 64x64 each and stacked in strips, with an index, a licence for each sprite
and the licence texts. One picture for many sprites: each alone would bring its own code tables and names, 8 % of the whole.

In memory: `Pack`, the table (what each sprite is, where it can be seen, how it can be recoloured), and `Bank`, all pixels at
all sizes used by the layouts in one flat tensor, so that a whole scene is one gather.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safelight.data.scenes.nouns import Noun, nouns
from safelight.data.scenes.words import BACKGROUNDS, COLOURS, RGB, STYLES
from safelight.spec import SpecError, nearest

FORMAT = 3
SIDE = 64
# Sides of a sprite in a 64-pixel picture: small, corner and pair, pair, middle, middle, big.
SIDES = (20, 24, 28, 40, 46, 60)


@dataclass(frozen=True)
class Sprite:
    """One icon. `clear` and `solid` are bit masks over the backgrounds: seen at all, and seen as one connected piece.
    `hue` is its dominant colour, None when it has no single one."""

    file: str
    concept: str
    style: str
    clear: int
    solid: int
    hue: RGB | None
    licence: str
    package: str
    copyright: str
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Pack:
    """The sprites in use, sorted by style and concept, and their pixels. N sprites, C concepts."""

    sprites: tuple[Sprite, ...]
    pixels: np.ndarray  # uint8 (N, 64, 64, 4), straight alpha
    nouns: tuple[Noun, ...]  # the C concepts in alphabetical order; tensors number concepts by it
    licences: dict[str, str]  # SPDX id -> text

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(noun.concept for noun in self.nouns)

    def concept_ids(self) -> Tensor:
        """int64 (N,): the concept of each sprite."""
        where = {name: i for i, name in enumerate(self.concepts)}
        return torch.tensor([where[sprite.concept] for sprite in self.sprites])

    def style_ids(self) -> Tensor:
        """int64 (N,): the style of each sprite."""
        return torch.tensor([STYLES.index(sprite.style) for sprite in self.sprites])

    def bits(self, field: str) -> Tensor:
        """bool (N, 10): the bit mask `clear` or `solid` opened."""
        masks = torch.tensor([getattr(sprite, field) for sprite in self.sprites])
        return (masks[:, None] >> torch.arange(len(BACKGROUNDS))) & 1 == 1

    def find(self, concept: str, style: str) -> int:
        """The number of one sprite."""
        for i, sprite in enumerate(self.sprites):
            if sprite.concept == concept and sprite.style == style:
                return i
        near = nearest(concept, self.concepts)
        raise SpecError(f"no sprite of '{concept}' in style '{style}'{near} (styles: {', '.join(STYLES)})")


def asset() -> Path:
    """The packed sprites that ship with the package."""
    return Path(str(resources.files("safelight"))) / "assets" / "sprites.zip"


def load(path: Path | None = None, *, concepts: Sequence[str] | None = None, styles: Sequence[str] = STYLES) -> Pack:
    """Read the pack (half a second of one core for all 3,350 sprites), or only some concepts and styles of it.

    Raises SpecError for a file that is no pack, an unknown concept or style, and when nothing is left.
    """
    path = path or asset()
    table = nouns()
    wanted = set(table if concepts is None else concepts)
    for name in sorted(wanted - set(table)):
        raise SpecError(f"unknown concept '{name}'{nearest(name, table)}")
    for name in sorted(set(styles) - set(STYLES)):
        raise SpecError(f"unknown style '{name}'{nearest(name, STYLES)} (styles: {', '.join(STYLES)})")
    try:
        with zipfile.ZipFile(path) as file:
            if json.loads(file.read("about.json"))["format"] != FORMAT:
                raise SpecError(f"{path}: packed in another format; build it again with scripts/build_sprites.py")
            index = json.loads(file.read("index.json"))
            rows = [row for style in styles for row in rows_of(index, style) if row["concept"] in wanted]
            rows.sort(key=lambda row: (STYLES.index(row["style"]), row["concept"]))
            pixels = _pixels(file, index, rows)
            texts = [name for name in file.namelist() if name.startswith("licences/")]
            licences = {Path(name).name.removesuffix(".txt"): file.read(name).decode() for name in texts}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{path}: not a pack of sprites ({error}); build it with scripts/build_sprites.py") from error
    if not rows:
        raise SpecError("no sprite has these concepts in these styles; ask for more of either")
    sprites = tuple(
        Sprite(**{**row, "hue": tuple(row["hue"]) if row["hue"] else None, "keywords": tuple(row["keywords"])}) for row in rows
    )
    present = {sprite.concept for sprite in sprites}
    return Pack(sprites, pixels, tuple(table[name] for name in sorted(present)), licences)


def rows_of(index: Mapping[str, Any], style: str) -> list[dict[str, Any]]:
    """The sprites of a style in the order in which their pictures are stacked.

    index: {"sources": {style: what its sprites share}, "concepts": {concept: {"code", "keywords"}}, "styles": {style: a list for each
    of "concept", "clear", "solid" and "hue", and "strips": how many sprites each picture has, and how many bytes}}.
    """
    columns = index["styles"][style]
    return [
        {
            "file": f"{style}/{index['concepts'][concept]['code']}",
            "concept": concept,
            "style": style,
            **index["sources"][style],
            "keywords": index["concepts"][concept]["keywords"],
            "clear": clear,
            "solid": solid,
            "hue": hue,
        }
        for concept, clear, solid, hue in zip(*(columns[name] for name in ("concept", "clear", "solid", "hue")), strict=True)
    ]


def _pixels(file: zipfile.ZipFile, index: Mapping[str, Any], wanted: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """uint8 (len(wanted), 64, 64, 4); pictures without a wanted sprite are not read."""
    pixels = np.zeros((len(wanted), SIDE, SIDE, 4), np.uint8)
    places = {(row["style"], row["concept"]): i for i, row in enumerate(wanted)}
    for style in dict.fromkeys(row["style"] for row in wanted):
        concepts, data = iter(index["styles"][style]["concept"]), io.BytesIO(file.read(f"{style}.webps"))
        for count, size in index["styles"][style]["strips"]:
            strip = data.read(size)
            found = [places.get((style, next(concepts))) for _ in range(count)]
            if any(place is not None for place in found):
                stack = np.array(Image.open(io.BytesIO(strip)).convert("RGBA")).reshape(-1, SIDE, SIDE, 4)
                stack[stack[..., 3] == 0] = 0  # a picture says nothing of the colour of what is clear
                for place, sprite in zip(found, stack, strict=True):
                    if place is not None:
                        pixels[place] = sprite
    return pixels


def kernel(side: int, source: int = SIDE) -> Tensor:
    """The matrix (side, source) that resamples a row of `source` pixels to `side`: Catmull-Rom (Keys 1981, a = -1/2) widened by
    source/side, so that shrinking does not alias; rows sum to 1."""
    scale = max(1.0, source / side)
    centre = (torch.arange(side, dtype=torch.float64) + 0.5) * source / side
    x = ((torch.arange(source, dtype=torch.float64) + 0.5)[None, :] - centre[:, None]).abs() / scale
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weight = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return (weight / weight.sum(1, keepdim=True)).float()


def resample(planes: Tensor, matrix: Tensor) -> Tensor:
    """Both axes of (..., s, s) by the rows of `matrix` (n, s): (..., n, n). Two large products, which one core does fast."""
    across = planes @ matrix.T  # (..., s, n)
    return (across.transpose(-1, -2).contiguous() @ matrix.T).transpose(-1, -2)


def hue_mask(pixels: Tensor, hue: Tensor) -> Tensor:
    """How far each pixel belongs to the dominant colour: 0..1, (n, 64, 64), from straight RGBA (n, 64, 64, 4) and `hue` (n, 3).

    In the plane across the gray axis, c = rgb - mean(rgb): a ramp over the cosine between the pixel's c and the hue's, from
    45 to 30 degrees, times a ramp over the length of c, so that white, black and gray stay as they are.
    """
    rgb = pixels[..., :3].float()
    c = rgb - rgb.mean(-1, keepdim=True)
    h = (hue - hue.mean(-1, keepdim=True))[:, None, None, :]
    length = c.norm(dim=-1)
    cosine = (c * h).sum(-1) / (length * h.norm(dim=-1)).clamp(min=1e-6)
    return ((cosine - 0.707) / (0.866 - 0.707)).clamp(0, 1) * ((length - 6) / 14).clamp(0, 1)


def recolour_matrix(hue: Tensor, target: Tensor) -> Tensor:
    """The linear map of RGB that takes `hue` to `target` and leaves white, black and every gray alone: (..., 3, 3).

    A [W, d, W x d] = [W, t, s (W x t)] with W the gray axis, d the hue, t the target: shades (multiples of d) become shades
    of t and tints (mixtures of d and W) tints of t. Hues beside d turn with it, at s = 0.6 of their distance, so that they do not
    cross into the next colour's name. Linear maps commute with resampling and with premultiplied alpha.
    """
    white = torch.full_like(hue, 255.0)

    def basis(colour: Tensor, spread: float) -> Tensor:
        side = torch.linalg.cross(white, colour)
        return torch.stack([white, colour, side / side.norm(dim=-1, keepdim=True) * 100 * spread], -1)

    return basis(target, 0.6) @ torch.linalg.inv(basis(hue, 1.0))


class Bank:
    """All sprites at all sides as one flat tensor: entry 0 is the clear pixel, then for each side N x side x side entries.

    `rgba` int32 holds four premultiplied bytes an entry (r lowest), `mask` uint8 the share that a new colour may paint,
    `box` int64 (N, sides, 4) the tight box x0, y0, x1, y1 of what is opaque enough to see (alpha >= 32; x1, y1 exclusive).
    """

    def __init__(self, pack: Pack, device: torch.device, canvas: int = SIDE) -> None:
        self.sides = tuple(round(side * canvas / SIDE) for side in SIDES)
        n = len(pack.sprites)
        sizes = [n * side * side for side in self.sides]
        starts = [1 + sum(sizes[:i]) for i in range(len(sizes))]
        self.start = torch.tensor(starts, device=device)
        rgba = np.zeros((1 + sum(sizes), 4), np.uint8)
        mask = np.zeros(1 + sum(sizes), np.uint8)
        box = torch.zeros(n, len(self.sides), 4, dtype=torch.int64)
        hues = torch.tensor([sprite.hue or (0, 0, 0) for sprite in pack.sprites], dtype=torch.float32)
        kernels = [kernel(side) for side in self.sides]
        for first in range(0, n, 256):
            straight = torch.from_numpy(pack.pixels[first : first + 256])
            planes = self._planes(straight, hues[first : first + 256])
            for k, side in enumerate(self.sides):
                small = resample(planes, kernels[k]).clamp_(0, 255).round_()  # (b, 5, side, side)
                small[:, :3] = torch.minimum(small[:, :3], small[:, 3:4])  # premultiplied: never more than alpha
                at = starts[k] + first * side * side
                end = at + len(straight) * side * side
                rgba[at:end] = small[:, :4].to(torch.uint8).permute(0, 2, 3, 1).reshape(-1, 4).numpy()
                share = (small[:, 4] * 255 / small[:, 3].clamp(min=1)).clamp(0, 255)
                mask[at:end] = share.round_().to(torch.uint8).reshape(-1).numpy()
                box[first : first + len(straight), k] = tight(small[:, 3] >= 32)
        self.rgba = torch.from_numpy(rgba.view(np.int32).reshape(-1)).to(device)
        self.mask = torch.from_numpy(mask).to(device)
        self.box = box.to(device)
        self.matrix = self._matrices(hues).to(device)

    @staticmethod
    def _planes(straight: Tensor, hues: Tensor) -> Tensor:
        """Premultiplied r, g, b, then alpha, then alpha x mask, all 0..255 float: (b, 5, 64, 64)."""
        image = straight.permute(0, 3, 1, 2).float()
        alpha = image[:, 3:]
        mask = torch.zeros_like(alpha)
        some = hues.sum(-1) > 0
        if bool(some.any()):
            mask[some, 0] = hue_mask(straight[some], hues[some])
        return torch.cat([image[:, :3] * alpha / 255, alpha, alpha * mask], 1)

    @staticmethod
    def _matrices(hues: Tensor) -> Tensor:
        """The recolouring matrices in units of 1/256, int32 (N, colours, 3, 3); the identity for a sprite without a hue."""
        targets = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
        some = hues.sum(-1) > 0
        table = torch.eye(3).expand(len(hues), len(targets), 3, 3).clone()
        if bool(some.any()):
            pairs = torch.broadcast_tensors(hues[some][:, None, :], targets[None, :, :])
            table[some] = recolour_matrix(*pairs)
        return (table * 256).round().to(torch.int32)


def tight(seen: Tensor) -> Tensor:
    """The box x0, y0, x1, y1 (ends exclusive) of each mask in bool (n, h, w): int64 (n, 4); all zero where nothing is seen."""

    def span(line: Tensor) -> tuple[Tensor, Tensor]:  # bool (n, length)
        n = line.shape[-1]
        first = line.int().argmax(-1)
        last = n - line.flip(-1).int().argmax(-1)
        return first, torch.where(line.any(-1), last, torch.zeros_like(last))

    x0, x1 = span(seen.any(-2))
    y0, y1 = span(seen.any(-1))
    return torch.stack([x0, y0, x1, y1], -1)
