"""The judge: which concept, in which style, is the thing in this box of a picture? A small classifier trained on scenes.

The classes of the `Classifier` are cells, "concept/style"; a concept's probability is the sum over its styles. The judge knows every
sprite of its vocabulary, also the cells that a text-to-image model never trains on: it grades, so it has to know the answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from safelight import device as devices
from safelight.data.scenes import rules
from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.splits import Split
from safelight.data.scenes.sprites import SIDES
from safelight.data.scenes.words import STYLES
from safelight.evaluate.classifier import Classifier, ClassifierSpec
from safelight.spec import Spec, SpecError

SIDE = 32  # of a crop, in pixels
MARGIN = 1.12  # a crop's side, in units of the longer side of its box


def cells(composer: Composer) -> tuple[str, ...]:
    """The judge's classes, in the order in which the pack numbers its sprites."""
    return tuple(f"{sprite.concept}/{sprite.style}" for sprite in composer.pack.sprites)


def spec(composer: Composer, widths: tuple[int, ...] = (32, 64, 96, 128), features: int = 128) -> ClassifierSpec:
    """The architecture for a composer's vocabulary. 48 concepts in 4 styles: 364 thousand weights."""
    return ClassifierSpec(names=cells(composer), channels=3, size=(SIDE, SIDE), widths=widths, features=features, dropout=0.1)


def crops(pictures: Tensor, box: Tensor, side: int = SIDE) -> Tensor:
    """Squares around boxes: pictures (B, 3, H, W), 0..255, box (B, 4) x0, y0, x1, y1 in pixels, ends exclusive -> (B, 3, side, side)
    float, 0..255. Four samples a pixel, averaged; beyond the edge the edge goes on."""
    h, w = pictures.shape[-2:]
    box = box.float()
    middle = (box[:, :2] + box[:, 2:]) / 2
    half = (box[:, 2:] - box[:, :2]).amax(1).clamp(min=4) * (MARGIN / 2)
    size = torch.tensor([w, h], device=pictures.device, dtype=torch.float32)
    theta = torch.zeros(len(box), 2, 3, device=pictures.device)
    theta[:, 0, 0], theta[:, 1, 1] = half * 2 / w, half * 2 / h
    theta[:, :, 2] = middle / size * 2 - 1
    grid = F.affine_grid(theta, [len(box), 3, 2 * side, 2 * side], align_corners=False)
    return F.avg_pool2d(F.grid_sample(pictures.float(), grid, align_corners=False, padding_mode="border"), 2)


class Things(NamedTuple):
    """The things that the rule checker finds in B pictures: box (B, 4, 4) int64 pixels, there (B, 4) bool.

    A relation has two places, the two largest pieces. A count has a place for each of its first four pieces. Everything else has
    one place, around all pieces: not every icon is in one.
    """

    box: Tensor
    there: Tensor


def find(pictures: Tensor, scenes: Scenes) -> Things:
    """Where the things are in pictures (B, 3, H, W), 0..255, that were made for `scenes`."""
    _, base = rules.ground(pictures)
    pieces = rules.components(rules.different(pictures, base))
    used = pieces.area > 0  # (B, MOST)
    side = torch.tensor([pictures.shape[3], pictures.shape[2]], device=pictures.device)
    low = torch.where(used[..., None], pieces.box[..., :2], side).amin(1)
    high = torch.where(used[..., None], pieces.box[..., 2:], 0).amax(1)
    whole = torch.cat([low, high], 1)  # (B, 4)
    box, there = pieces.box[:, :4].clone(), used[:, :4].clone()
    pair, many = scenes.relation >= 0, scenes.number > 1
    place = torch.arange(4, device=pictures.device)
    most = torch.where(pair, 2, torch.where(many, pieces.number.clamp(max=4), 1))
    there &= place < most[:, None]
    one = ~(pair | many)
    box[one, 0] = whole[one]
    there[one, 0] = used[one, 0]
    return Things(torch.where(there[..., None], box, 0), there)


class Judged(NamedTuple):
    """concept (B, 2) int64: what the first and, in a relation, the second thing is taken for, by the judge's numbers; -1 where
    there is none. right (B, 2) bool: whether that is what was asked. style (B,) int64, as `words.STYLES` is numbered, of all
    things together; -1 for an empty picture."""

    concept: Tensor
    right: Tensor
    style: Tensor


class Judge:
    """A classifier of cells, asked about the things of a composer's vocabulary and no others."""

    def __init__(self, eye: Classifier, composer: Composer) -> None:
        known = {name: i for i, name in enumerate(eye.spec.names)}
        missing = [name for name in cells(composer) if name not in known]
        if missing:
            raise SpecError(
                f"the judge does not know '{missing[0]}' and {len(missing) - 1} other sprites of this vocabulary: "
                "train one with `safelight evaluate train-judge`"
            )
        self.eye, self.composer = eye.to(composer.device), composer
        self._rows = torch.tensor([known[name] for name in cells(composer)], device=composer.device)
        self._concepts = len(composer.pack.nouns)

    def logp(self, pictures: Tensor, box: Tensor) -> Tensor:
        """log p(cell | a cell of the vocabulary) of each box (N, 4) of pictures (N, 3, H, W), 0..255: (N, sprites)."""
        looked = self.eye.look(crops(pictures, box) / 127.5 - 1)
        return looked.logits.to(box.device)[:, self._rows].log_softmax(1)

    def marginal(self, logp: Tensor, of: Tensor, n: int) -> Tensor:
        """log of the sums of p (N, sprites) over equal numbers in `of` (sprites,): (N, n)."""
        p = torch.zeros(len(logp), n, device=logp.device).index_add_(1, of, logp.exp())
        return p.clamp(min=1e-30).log()

    def look(self, pictures: Tensor, scenes: Scenes, batch: int = 128) -> Judged:
        """What is in pictures (B, 3, H, W) uint8, made for `scenes`.

        Equal things are judged together, by the mean of their log-probabilities. Which piece is which thing of a pair is
        decided by the likelier assignment. A thing that is not there is wrong.
        """
        parts = [
            self._look(pictures[i : i + batch].to(self.composer.device), scenes.rows(slice(i, i + batch)))
            for i in range(0, len(pictures), batch)
        ]
        return Judged(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _look(self, pictures: Tensor, scenes: Scenes) -> Judged:
        things = find(pictures, scenes)
        b, k = things.there.shape
        row, place = things.there.nonzero(as_tuple=True)
        if not len(row):
            none = torch.full((b, 2), -1, device=pictures.device)
            return Judged(none, none >= 0, none[:, 0])
        cell = self.logp(pictures[row], things.box[row, place])
        concept, style = torch.zeros(b, k, self._concepts), torch.zeros(b, k, len(STYLES))
        concept, style = concept.to(cell.device), style.to(cell.device)
        concept[row, place] = self.marginal(cell, self.composer.concept, self._concepts)
        style[row, place] = self.marginal(cell, self.composer.style, len(STYLES))
        pair = scenes.relation >= 0
        first, second = scenes.concept[:, 0], scenes.concept[:, 1].clamp(min=0)
        at = torch.arange(b, device=cell.device)
        straight = concept[at, 0, first] + concept[at, 1, second]
        crossed = concept[at, 1, first] + concept[at, 0, second]
        swap = (pair & (crossed > straight)).long()  # a piece that is not there has 0 everywhere, and takes no side
        a, c = (torch.where(things.there[at, which], concept[at, which].argmax(1), -1) for which in (swap, 1 - swap))
        together = torch.where(things.there[:, 0], concept.sum(1).argmax(1), -1)
        seen = torch.stack([torch.where(pair, a, together), torch.where(pair, c, -1)], 1)
        kind = torch.where(things.there[:, 0], style.sum(1).argmax(1), -1)
        return Judged(seen, (seen == scenes.concept) & (scenes.concept >= 0), kind)


class Teach(Spec):
    """How a judge is trained: AdamW under one cycle, on crops of scenes that are composed as they come."""

    steps: int = Field(default=2500, ge=1)
    batch: int = Field(default=128, ge=2, description="scenes a step; a relation gives two crops")
    lr: float = Field(default=3e-3, gt=0, description="at the top of the cycle, reached after 10 % of the steps")
    weight_decay: float = Field(default=0.05, ge=0)
    wander: float = Field(default=0.12, ge=0, description="how far an edge of a box moves, standard deviation in its side")
    precision: devices.PrecisionName = "bf16"
    seed: int = Field(default=0, ge=0)
    report: int = Field(default=100, ge=1, description="yield after so many steps")


class Lesson(NamedTuple):
    """After some steps: how many, their mean loss (nats) and accuracy on the training crops, seconds so far, the classifier."""

    step: int
    loss: float
    accuracy: float
    seconds: float
    eye: Classifier


def teach(composer: Composer, how: Teach | None = None, widths: tuple[int, ...] = (32, 64, 96, 128)) -> Iterator[Lesson]:
    """Train a judge of all sprites of `composer`, of which every scene may be drawn (`Split.ALL`); yields every `how.report` steps.

    Minimised is the cross-entropy of the cell plus that of the concept. Pictures are blurred, halved in resolution, made noisy and
    tinted at random, as those of a model and its codec may be; boxes wander. Same seed, device and threads: same weights.
    """
    how = how or Teach()
    device = composer.device
    plan = spec(composer, widths)
    with devices.forked(device):
        devices.seed(device, how.seed)
        eye = plan.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    random = torch.Generator(device).manual_seed(how.seed)
    decay = [p for p in eye.parameters() if p.ndim > 1]
    rest = [p for p in eye.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": how.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, how.lr, betas=(0.9, 0.99))
    dtype = devices.precision(how.precision, device).dtype
    warm, began, lost, right, n = max(1, how.steps // 10), time.perf_counter(), 0.0, 0, 0
    concept, concepts = composer.concept, len(composer.pack.nouns)
    for step in range(how.steps):
        eye.train()
        x, label = _lesson(composer, how, step, random)
        rate = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, how.steps - warm)))
        for group in optimizer.param_groups:
            group["lr"] = how.lr * rate
        with devices.forked(device), devices.autocast(device, dtype):  # dropout draws from the global stream
            devices.seed(device, how.seed * 1_000_003 + step)
            logits = eye(x.contiguous(memory_format=torch.channels_last))
        logits = logits.float()
        p = logits.softmax(1)
        kinds = torch.zeros(len(p), concepts, device=device).index_add(1, concept, p)
        loss = F.cross_entropy(logits, label) + F.nll_loss(kinds.clamp(min=1e-9).log(), concept[label])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        lost += float(loss.detach())
        right += int((kinds.argmax(1) == concept[label]).sum())
        n += len(label)
        if (step + 1) % how.report == 0 or step + 1 == how.steps:
            if not math.isfinite(lost):
                raise SpecError(f"the judge's loss is not finite at step {step + 1}: lower lr ({how.lr:g})")
            since = (step % how.report) + 1
            yield Lesson(step + 1, lost / since, right / n, time.perf_counter() - began, eye)
            lost, right, n = 0.0, 0, 0


def _lesson(composer: Composer, how: Teach, step: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops in [-1, 1] and the numbers of their sprites: of each scene one thing, of a relation both."""
    device = composer.device
    scenes = composer.draw(how.seed, step, how.batch, Split.ALL)
    pictures = _worn(composer.render(scenes).float(), random)
    boxes = composer.boxes(scenes)
    there = boxes[..., 0] >= 0  # (B, 4)
    b = len(there)
    lot = torch.rand(b, 4, generator=random, device=device) * there
    pair = scenes.relation >= 0
    one = torch.where(pair, torch.zeros_like(pair, dtype=torch.int64), lot.argmax(1))
    row = torch.cat([torch.arange(b, device=device), pair.nonzero()[:, 0]])
    place = torch.cat([one, torch.ones(int(pair.sum()), dtype=torch.int64, device=device)])
    label = scenes.sprite[row, torch.where(pair[row], place, 0)]
    box = boxes[row, place].float()
    reach = (box[:, 2:] - box[:, :2]).amax(1, keepdim=True) * how.wander
    box = box + torch.randn(box.shape, generator=random, device=device) * reach
    return crops(pictures[row], box) / 127.5 - 1, label


def _worn(x: Tensor, random: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, W), 0..255, as a model may give them back: half blurred, a quarter coarse, all a little noisy and tinted."""
    b, device = len(x), x.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=random, device=device)

    line = torch.tensor([0.25, 0.5, 0.25], device=device)
    blur = (line[:, None] * line).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), blur, groups=3)
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear", align_corners=False)
    which = draw(1, 1, 1)
    x = torch.where(which < 0.35, soft, torch.where(which < 0.55, coarse, x))
    tint = 1 + 0.2 * (draw(3, 1, 1) - 0.5)
    noise = torch.randn(x.shape, generator=random, device=device) * (12 * draw(1, 1, 1))
    return (x * tint + noise).clamp(0, 255)


def shipped() -> Path:
    """Where the judge of the reduced vocabulary lies."""
    return Path(__file__).parent.parent / "assets" / "sprites-judge.safetensors"


class Grade(NamedTuple):
    """How often the judge was right, of how many."""

    right: int
    n: int

    @property
    def rate(self) -> float:
        """right / n; nan of nothing."""
        return self.right / self.n if self.n else float("nan")


def exam(judge: Judge, count: int = 4000, seed: int = 1_000_001) -> dict[str, Grade]:
    """The judge's own accuracy on fresh scenes, with boxes found by the rule checker, as in grading a model.

    By concept: "all" things, those of "seen cells" and "held-out cells" of text to image, "painted" ones, and by the side of
    the sprite, "20 px" to "60 px". "style" is the style of all things.
    """
    composer = judge.composer
    scenes = composer.draw(seed, 0, count, Split.ALL)
    looked = judge.look(composer.render(scenes), scenes)
    asked = scenes.concept >= 0  # (B, 2)
    held = composer.held.cell[scenes.sprite.clamp(min=0)]
    side = scenes.side[:, None].expand_as(asked)
    groups = {
        "all": asked,
        "seen cells": asked & ~held,
        "held-out cells": asked & held,
        "painted": asked & (scenes.colour >= 0),
    }
    groups |= {f"{pixels} px": asked & (side == k) for k, pixels in enumerate(SIDES)}
    grades = {name: Grade(int((looked.right & mask).sum()), int(mask.sum())) for name, mask in groups.items()}
    grades["style"] = Grade(int((looked.style == scenes.style).sum()), count)
    return grades


def confusions(judge: Judge, looked: Judged, scenes: Scenes, most: int = 10) -> list[tuple[str, int, int, str]]:
    """The concepts that are taken for others most often: name, wrong, asked, and the most frequent wrong answer."""
    names = judge.composer.pack.concepts
    asked = scenes.concept >= 0
    due, seen = scenes.concept[asked], looked.concept[asked]
    rows = []
    for c in due.unique().tolist():
        mine = seen[due == c]
        wrong = mine[mine != c]
        if len(wrong):
            other = int(wrong.mode().values)
            rows.append((names[c], len(wrong), len(mine), names[other] if other >= 0 else "nothing"))
    return sorted(rows, key=lambda row: -row[1] / row[2])[:most]
