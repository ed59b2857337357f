"""Where things stand: for each layout and each slot, the cell that a sprite's square lies in and how far it may wander.

Cells are in sixty-fourths of the picture: x from, x to, y from, y to, wander. Cells of one layout never meet and keep four
pixels between them, so things never overlap and can be counted; a picture can be composed with one gather.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

Cell = tuple[int, int, int, int, int]

_LEFT, _RIGHT = (2, 30), (34, 62)
_TL: Cell = (*_LEFT, *_LEFT, 4)
_TR: Cell = (*_RIGHT, *_LEFT, 4)
_BL: Cell = (*_LEFT, *_RIGHT, 4)
_BR: Cell = (*_RIGHT, *_RIGHT, 4)
_L: Cell = (2, 30, 4, 60, 5)
_R: Cell = (34, 62, 4, 60, 5)
_T: Cell = (4, 60, 2, 30, 5)
_B: Cell = (4, 60, 34, 62, 5)

LAYOUTS: Final[dict[str, tuple[Cell, ...]]] = {
    "middle": ((0, 64, 0, 64, 4),),
    "loose": ((0, 64, 0, 64, 8),),
    "top left": ((2, 31, 2, 31, 9),),
    "top right": ((33, 62, 2, 31, 9),),
    "bottom left": ((2, 31, 33, 62, 9),),
    "bottom right": ((33, 62, 33, 62, 9),),
    "left": (_L, _R),  # the first thing is left of the second
    "right": (_R, _L),
    "above": (_T, _B),
    "below": (_B, _T),
    "falling": (_TL, _BR),
    "rising": (_BL, _TR),
    "pyramid": ((16, 48, 2, 30, 4), _BL, _BR),
    "funnel": (_TL, _TR, (16, 48, 34, 62, 4)),
    "square": (_TL, _TR, _BL, _BR),
}
NAMES: Final = tuple(LAYOUTS)
MIDDLE, LOOSE, CORNER0, PAIR0 = 0, 1, 2, 6
# For two, three, four: the layouts to choose from. A row of two is twice as likely as a diagonal.
COUNT_LAYOUTS: Final = (("left", "left", "falling", "rising"), ("pyramid", "pyramid", "funnel", "funnel"), ("square",) * 4)
SLOTS: Final = 4


def cells(device: torch.device) -> Tensor:
    """int64 (layouts, 4 slots, 5); a slot that a layout lacks is (-1, ...)."""
    table = [[*(list(cell) for cell in layout), *([[-1] * 5] * (SLOTS - len(layout)))] for layout in LAYOUTS.values()]
    return torch.tensor(table, device=device)


def place(low: Tensor, high: Tensor, wander: Tensor, side: Tensor, word: Tensor) -> Tensor:
    """Where a square of `side` pixels begins in [low, high): within `wander` of the middle, uniform by a 32-bit `word`."""
    free = (high - side - low).clamp(min=0)
    reach = torch.minimum(wander, free // 2)
    return low + free // 2 - reach + ((word * (2 * reach + 1)) >> 32)
