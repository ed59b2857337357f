"""Composer: scenes by the thousand, drawn and painted as tensors on the device, a pure function of (seed, step, index).

    composer = Composer(load(), device)
    scenes = composer.draw(seed=0, step=17, count=1024)          # what, where, how it is said: small integer tensors
    picture = composer.render(scenes)                            # uint8 (1024, 3, 64, 64)

No Python runs per scene. A scene is one gather from the bank of pre-scaled sprites (cells never overlap) and one addition:
out = p + round(b (255 - a) / 255), p premultiplied, which is exact in bytes since p <= a.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.data.scenes import layout
from safelight.data.scenes.draws import Draws
from safelight.data.scenes.splits import Split, holdouts
from safelight.data.scenes.sprites import SIDE, SIDES, Bank, Pack
from safelight.data.scenes.words import (
    BACKGROUND_ODDS,
    BACKGROUNDS,
    COLOUR,
    COLOURS,
    CORNER,
    COUNT,
    MIX,
    RELATION,
    SINGLE,
    SIZE,
    STYLES,
    TEMPLATES,
    WHITE,
)
from safelight.spec import SpecError

COLUMNS = 96  # words of randomness a scene: more than are used, so that a later draw does not change the earlier ones
ASKED_MIX = (30, 20, 0, 0, 20, 30)  # of the prompts that a model is measured on
CODEC_MIX = (50, 20, 5, 0, 15, 10)
PARTNERS = 8  # tries at a second sprite; at one pair in five held out, all fail for 3 scenes in a million
HELD_PARTNERS = 40
NONE = -(2**29)


class Scenes(NamedTuple):
    """B scenes as numbers, int64 (B,) unless said otherwise; -1 = none. Lists: `words.py`; sprites and concepts: the pack."""

    template: Tensor
    sprite: Tensor  # (B, 2): the thing, and in a relation the second thing
    concept: Tensor  # (B, 2)
    colour: Tensor  # (B, 2): painted in, -1 = as it is
    number: Tensor  # 1..4 equal things; 1 in a relation
    background: Tensor
    style: Tensor
    size: Tensor  # 0 small, 1 big
    corner: Tensor
    relation: Tensor
    layout: Tensor
    side: Tensor  # index into SIDES
    x: Tensor  # (B, 4): left edge of each slot's square; -1 = empty slot
    y: Tensor  # (B, 4)
    words: Tensor  # (B, 9): how it is said, see captions.py
    valid: Tensor  # bool: the split could be kept; False happens only in HELD

    def rows(self, which: Tensor | slice) -> Scenes:
        """The chosen scenes, by numbers, a bool mask or a slice."""
        return Scenes(*(field[which] for field in self))

    def to(self, device: torch.device) -> Scenes:
        return Scenes(*(field.to(device) for field in self))


def cat(parts: list[Scenes]) -> Scenes:
    """Several batches as one."""
    return Scenes(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


class Composer:
    """Draws and paints scenes of `pack` on `device`. `size`: the picture's side in pixels, a multiple of 16 from 32 to 64.

    Painting needs the bank (about 150 MB on the device for all sprites, 3 s to make on one core); it is made when first used.
    """

    def __init__(self, pack: Pack, device: torch.device | None = None, *, size: int = SIDE) -> None:
        if size not in (32, 48, 64):
            raise SpecError(f"scenes are 32, 48 or 64 pixels wide, not {size}: the sprites have {SIDE}")
        self.pack, self.size = pack, size
        self.device = device or torch.device("cpu")
        self._bank: Bank | None = None
        self.concept = pack.concept_ids().to(self.device)
        self.style = pack.style_ids().to(self.device)
        self.clear = pack.bits("clear").to(self.device)
        self.solid = pack.bits("solid").to(self.device)
        self.held = holdouts(pack).to(self.device)
        fixed = {noun.concept for noun in pack.nouns if not noun.recolour}
        paintable = [sprite.hue is not None and sprite.concept not in fixed for sprite in pack.sprites]
        self.paintable = torch.tensor(paintable, device=self.device)  # bool (N,): may be recoloured
        self._cells = layout.cells(self.device)
        names = [[layout.NAMES.index(name) for name in row] for row in layout.COUNT_LAYOUTS]
        self._count_layouts = torch.tensor(names, device=self.device)
        self._apart = _apart().to(self.device)
        own = [[noun.colour == colour for colour in COLOURS] for noun in pack.nouns]
        self._own = torch.tensor(own, device=self.device)
        self._lists = {split: self._lists_of(split) for split in Split}
        table = torch.tensor(list(BACKGROUNDS.values()))
        rest = (table[:, None, :] * (255 - torch.arange(256))[None, :, None] * 2 + 255) // 510  # (10, 256, 3)
        self._rest = (rest[..., 0] | rest[..., 1] << 8 | rest[..., 2] << 16).to(torch.int32).reshape(-1).to(self.device)

    @property
    def bank(self) -> Bank:
        if self._bank is None:
            self._bank = Bank(self.pack, self.device, self.size)
        return self._bank

    # ---- what and where

    def draw(
        self,
        seed: int,
        step: int,
        count: int,
        split: Split = Split.TEXT,
        *,
        first: int = 0,
        asked: bool = False,
        mix: Sequence[int] | None = None,
        relations: Sequence[int] = (1, 1, 1, 1),
    ) -> Scenes:
        """Scenes first..first+count-1 of (seed, step). Scene i is the same on every device and in every batch.

        The mix is 40 % single, 15 % colour, 5 % size, 5 % corner, 15 % count, 20 % relation, or the six weights `mix`; where a
        split leaves no choice (no count of this noun, no partner) the scene becomes a single. In HELD such scenes have valid = False
        instead. `relations` weighs left, right, above and below. `asked` draws prompts to measure a model on, as HELD always does:
        30 % single, 20 % colour, 20 % count, 30 % relation; the ground and the style are said; a count and a relation have no
        colours, so that one thing is asked at a time.
        """
        index = torch.arange(first, first + count, device=self.device)
        draws = Draws(seed, step, index, COLUMNS)
        lists = self._lists[split]
        held = split is Split.HELD
        asked = asked or held
        free = split not in (Split.TEXT, Split.HELD)  # the codec may see every combination

        odds = mix or (ASKED_MIX if asked else CODEC_MIX if free and split is not Split.ALL else MIX)
        template, _ = draws.weighted(torch.tensor(odds, device=self.device) * (lists.length > 0))
        a = lists.flat[lists.start[template] + draws.below(lists.length[template])]  # (B,)
        style, concept = self.style[a], self.concept[a]
        valid = torch.ones_like(a, dtype=torch.bool)

        # a partner of the same style: the first candidate that is another concept, allowed, and seen on a common ground
        tries = HELD_PARTNERS if held else PARTNERS
        choices = lists.partner_length[style][:, None]
        at = lists.partner_start[style][:, None] + ((draws.word(HELD_PARTNERS)[:, :tries] * choices) >> 32)
        others = lists.flat[at.clamp(max=len(lists.flat) - 1)]  # (B, tries)
        good = (self.concept[others] != concept[:, None]) & (choices > 0)
        good &= (self.solid[others] & self.solid[a][:, None]).any(-1)
        if not free:
            good &= self.held.pair(concept[:, None], self.concept[others]) == held
        b = others.gather(1, good.int().argmax(1, keepdim=True))[:, 0]
        failed = (template == RELATION) & ~good.any(1)

        # how many
        allowed = torch.ones_like(self.held.count) if free else self.held.count == held
        n, some = draws.weighted(allowed[concept].long())
        failed |= (template == COUNT) & ~some
        valid &= ~failed if held else valid
        template = torch.where(failed, torch.full_like(template, SINGLE), template)
        relation_scene, count_scene = template == RELATION, template == COUNT
        things = torch.where(count_scene, n + 2, torch.ones_like(n))

        # the ground, then colours that stand out from it
        seen = torch.where(
            (template == COLOUR)[:, None],
            torch.ones_like(self.clear[a]),
            torch.where((relation_scene | count_scene)[:, None], self.solid[a], self.clear[a]),
        )
        seen = torch.where(relation_scene[:, None], seen & self.solid[b], seen)
        background, _ = draws.weighted(seen * torch.tensor(BACKGROUND_ODDS, device=self.device))
        pick = draws.below(100, 2)  # chances of a colour in a count, and of each colour in a relation
        want = (template == COLOUR) | (count_scene & (pick[:, 0] < 25)) | (relation_scene & (pick[:, 0] < 20))
        plain = count_scene | relation_scene if asked else torch.zeros_like(want)
        colour_a, ok_a = self._colour(draws, a, background, split, want & ~plain)
        colour_b, _ = self._colour(draws, b, background, split, relation_scene & (pick[:, 1] < 20) & ~plain)
        valid &= (template != COLOUR) | ok_a
        template = torch.where((template == COLOUR) & ~ok_a, torch.full_like(template, SINGLE), template)

        # where
        dice = draws.below(4, 2)
        facing, _ = draws.weighted(torch.tensor(relations, device=self.device))
        is_size, is_corner = template == SIZE, template == CORNER
        size = torch.where(is_size, dice[:, 0] % 2, -1)
        corner = torch.where(is_corner, dice[:, 1], -1)
        relation = torch.where(relation_scene, facing, -1)
        middle = torch.where(size == 0, layout.LOOSE, layout.MIDDLE)
        where_ = torch.where(is_corner, layout.CORNER0 + corner, middle)
        where_ = torch.where(relation_scene, layout.PAIR0 + relation, where_)
        where_ = torch.where(count_scene, self._count_layouts[n, draws.below(4)], where_)
        which = draws.below(2)
        side = torch.where(relation_scene | count_scene, 1 + which, 3 + which)
        side = torch.where(is_corner, 1, side)
        side = torch.where(size == 0, 0, torch.where(size == 1, len(SIDES) - 1, side))
        cell = self._cells[where_]  # (B, 4, 5)
        pixels = torch.tensor(SIDES, device=self.device)[side][:, None]
        x = layout.place(cell[..., 0], cell[..., 1], cell[..., 4], pixels, draws.word(4))
        y = layout.place(cell[..., 2], cell[..., 3], cell[..., 4], pixels, draws.word(4))
        empty = cell[..., 0] < 0
        x, y = (torch.where(empty, -1, v * self.size // SIDE) for v in (x, y))

        words = self._words(draws, background, asked=asked)
        return Scenes(
            template,
            torch.stack([a, torch.where(relation_scene, b, -1)], 1),
            torch.stack([concept, torch.where(relation_scene, self.concept[b], -1)], 1),
            torch.stack([colour_a, colour_b], 1),
            things,
            background,
            style,
            size,
            corner,
            relation,
            where_,
            side,
            x,
            y,
            words,
            valid,
        )

    def _colour(self, draws: Draws, sprite: Tensor, background: Tensor, split: Split, want: Tensor) -> tuple[Tensor, Tensor]:
        """A colour for each sprite where wanted and possible, else -1; and whether there is one."""
        concept = self.concept[sprite]
        allowed = self._apart[:, background].T & self.paintable[sprite][:, None] & ~self._own[concept]  # (B, colours)
        if split is Split.TEXT:
            allowed &= ~self.held.colour[concept]
        elif split is Split.HELD:
            allowed &= self.held.colour[concept]
        colour, some = draws.weighted(allowed.long())
        some = some & want
        return torch.where(some, colour, -1), some

    def _words(self, draws: Draws, background: Tensor, *, asked: bool) -> Tensor:
        """How it is said: prefix, two synonyms of nouns, size, corner, relation and background words, style said, style words."""
        quarter = (draws.below(4, 7) == 0).long()  # 1 in a quarter of the captions
        prefix = (draws.below(10) - 7).clamp(min=0)  # 0 in eight of ten
        half = draws.below(2, 2)
        say_ground = (background != WHITE) | (half[:, 0] == 0)  # a caption without a ground stands on white
        ground = torch.where(say_ground, 1 + quarter[:, 5], 0)
        if asked:
            prefix, ground, half = torch.zeros_like(prefix), 1 + quarter[:, 5], torch.ones_like(half)
        style = torch.where(half[:, 1] == 1, 1 + quarter[:, 6], 0)
        return torch.stack([prefix, *quarter[:, :5].unbind(1), ground, style], 1)

    def _lists_of(self, split: Split) -> Lists:
        """Which sprites each template may draw, and which may be partners in each style."""
        everyone = torch.ones_like(self.held.cell)
        held_cell = self.held.cell
        if split is Split.CODEC:
            base = ~self.held.codec
        elif split is Split.CODEC_HELD:
            base = self.held.codec
        else:
            base = everyone if split is Split.ALL else ~held_cell
        countable = torch.tensor([noun.countable for noun in self.pack.nouns], device=self.device)[self.concept]
        seen, solid = base & self.clear.any(1), base & self.solid.any(1) & countable
        single = seen if split is not Split.HELD else held_cell & self.clear.any(1)
        per_template = [single, base & self.paintable, seen, seen, solid, solid]
        partners = [solid & (self.style == style) for style in range(len(STYLES))]
        return Lists.make(
            [torch.nonzero(mask)[:, 0] for mask in per_template], [torch.nonzero(mask)[:, 0] for mask in partners]
        )

    # ---- the picture

    def render(self, scenes: Scenes, *, chunk: int | None = None) -> Tensor:
        """uint8 (B, 3, size, size), RGB. Exact integers: the same bytes on every device. `chunk` scenes are painted at a time;
        by default 256 on a CPU, where what is in flight should stay in its cache (18,000 scenes a second on one core; 9,700 at
        1,024), and 8,192 elsewhere."""
        chunk = chunk or (256 if self.device.type == "cpu" else 8192)
        parts = [self._render(scenes.rows(slice(i, i + chunk))) for i in range(0, len(scenes.template), chunk)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _render(self, scenes: Scenes) -> Tensor:
        b, bank = len(scenes.template), self.bank
        side = torch.tensor(bank.sides, device=self.device)[scenes.side]
        pair = scenes.relation >= 0
        where = torch.full(
            (b, self.size, self.size), NONE, dtype=torch.int32, device=self.device
        )  # entry of the bank, per pixel
        second = where
        line = torch.arange(self.size, device=self.device)
        for slot in range(layout.SLOTS):
            sprite = torch.where(pair, scenes.sprite[:, 1], scenes.sprite[:, 0]) if slot == 1 else scenes.sprite[:, 0]
            base = bank.start[scenes.side] + sprite * side * side
            u = line - scenes.x[:, slot, None]  # (B, size)
            v = line - scenes.y[:, slot, None]
            there = scenes.x[:, slot, None] >= 0
            column = torch.where(there & (u >= 0) & (u < side[:, None]), u, NONE).int()
            row = torch.where(there & (v >= 0) & (v < side[:, None]), base[:, None] + v * side[:, None], NONE).int()
            entry = row[:, :, None] + column[:, None, :]
            if slot == 1:
                second = entry
            where = torch.maximum(where, entry)
        where = where.clamp_(min=0)
        rgba = bank.rgba.index_select(0, where.reshape(-1)).reshape(where.shape)
        painted = torch.nonzero((scenes.colour >= 0).any(1))[:, 0]
        if len(painted):
            on_second = (second[painted] >= 0) & pair[painted, None, None]
            rgba[painted] = self._paint(rgba[painted], where[painted], on_second, scenes.rows(painted))
        alpha = (rgba >> 24) & 255
        rest = self._rest.index_select(0, (scenes.background.int()[:, None, None] * 256 + alpha).reshape(-1)).reshape(
            where.shape
        )
        out = (rgba & 0xFFFFFF) + rest  # no byte overflows: premultiplied p <= a, and the rest <= 255 - a
        return out[..., None].view(torch.uint8)[..., :3].permute(0, 3, 1, 2).contiguous()

    def _paint(self, rgba: Tensor, where: Tensor, on_second: Tensor, scenes: Scenes) -> Tensor:
        """The recoloured pixels, packed again: q = A p clamped to 0..a, mixed in by the mask. Integers in 1/256."""
        alpha = (rgba >> 24) & 255
        p = [(rgba >> shift) & 255 for shift in (0, 8, 16)]
        share = self.bank.mask.index_select(0, where.reshape(-1)).reshape(where.shape).int()
        eye = torch.eye(3, dtype=torch.int32, device=self.device) * 256
        tables = []
        for k in (0, 1):
            table = self.bank.matrix[scenes.sprite[:, k].clamp(min=0), scenes.colour[:, k].clamp(min=0)]
            tables.append(torch.where((scenes.colour[:, k] >= 0)[:, None, None], table, eye))
        two = bool((scenes.colour[:, 1] >= 0).any())
        out = rgba & (0xFF << 24)
        for i in range(3):
            q = sum(p[j] * tables[0][:, i, j, None, None] for j in range(3))
            if two:
                q = torch.where(on_second, sum(p[j] * tables[1][:, i, j, None, None] for j in range(3)), q)
            else:
                q = torch.where(on_second, p[i] << 8, q)
            q = torch.minimum(((q + 128) >> 8).clamp(min=0), alpha)
            mixed = (share * q + (255 - share) * p[i] + 127) // 255
            out = out | (mixed << (8 * i))
        return out

    def batch(self, seed: int, step: int, count: int, split: Split = Split.TEXT, *, first: int = 0) -> tuple[Tensor, Scenes]:
        """Scenes and their pictures as a model takes them: float32 (B, 3, size, size) in [-1, 1]."""
        scenes = self.draw(seed, step, count, split, first=first)
        return self.render(scenes).float() / 127.5 - 1, scenes

    def boxes(self, scenes: Scenes) -> Tensor:
        """The tight box of each slot, x0, y0, x1, y1 in pixels (ends exclusive), int64 (B, 4, 4); -1 for an empty slot."""
        sprite = torch.where(scenes.relation >= 0, scenes.sprite[:, 1], scenes.sprite[:, 0])
        sprite = torch.stack([scenes.sprite[:, 0], sprite, scenes.sprite[:, 0], scenes.sprite[:, 0]], 1)  # (B, 4)
        box = self.bank.box[sprite, scenes.side[:, None]] + torch.stack([scenes.x, scenes.y, scenes.x, scenes.y], -1)
        return torch.where((scenes.x < 0)[..., None], -1, box)


class Lists(NamedTuple):
    """Lists of sprites of unequal length as one tensor: list t is flat[start[t] : start[t] + length[t]]."""

    flat: Tensor
    start: Tensor
    length: Tensor
    partner_start: Tensor
    partner_length: Tensor

    @classmethod
    def make(cls, templates: list[Tensor], partners: list[Tensor]) -> Lists:
        device = templates[0].device
        everything = [*templates, *partners]
        length = torch.tensor([len(part) for part in everything], device=device)
        start = length.cumsum(0) - length
        n = len(TEMPLATES)
        flat = torch.cat([*everything, torch.zeros(1, dtype=torch.int64, device=device)])
        return cls(flat, start[:n], length[:n], start[n:], length[n:])


def _apart() -> Tensor:
    """bool (colours, backgrounds): is a thing of this colour easily told from this ground? Distance in RGB of 100 or more."""
    colours = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    grounds = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)
    return torch.cdist(colours, grounds) >= 100
