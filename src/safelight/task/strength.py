"""Strength: how much of a picture an edit throws away, and which levels are then run.

Strength is a time of the model's process: an edit begins at t = strength, where x_t = alpha(t) x_0 + sigma(t) n, and 1 keeps nothing.
The start therefore rises strictly with strength and depends neither on the number of steps nor on the grid; only a grid that begins
below it (`leading`, or one with a start of its own) caps it there. Mode "grid" is what other tools mean by strength: that part of
the grid's steps, each where it stands in the whole run.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from safelight.grid import Grid
from safelight.model import Model
from safelight.process import Level, Process
from safelight.spec import SpecError
from safelight.task.base import Brief, Resolved

Mode = Literal["scaled", "exact", "grid"]
# A first step shorter than this part of the grid's own is left out: it would be a rounding error of the grid.
_NO_STEP = 0.01
# A lower strength than this is this: to float64 some tables have no noise below it.
_LEAST = 1e-9
# No grid is made finer than this to find "exact" steps under a low strength.
_FINEST = 100_000


def times(grid: Grid, process: Process, n: int, strength: float, mode: Mode) -> Tensor:
    """The times of an edit: the first is `strength`, but in mode grid, the last is 0; float64, strictly decreasing.

    scaled: the grid of n steps from where it passes `strength`, so that about strength x n steps are run, and always one.
    exact: n steps, the lower end of as fine a grid as has n of them below `strength`.
    grid: the last floor(strength n) steps of the grid of n, at least one: the run begins at a level of the grid, near strength only
    where its steps are even in t.
    Raises SpecError for strength 0, which runs no step, and where no grid has n steps below it.
    """
    if not 0 < strength <= 1:
        raise SpecError(f"strength: between 0 and 1, and 0 runs no step (given: {strength:g})")
    whole = grid(process, n)
    if mode == "grid":
        return whole[-1 - max(int(n * strength), 1) :]
    start = min(max(strength, _LEAST), float(whole[0]))
    if mode == "scaled" or start == float(whole[0]):
        return _below(whole, start)
    few, many = n, n  # the steps of a grid that has too few below the start, and of one that has enough
    most = min(process.entries or _FINEST, _FINEST)
    while len(_tail(grid, process, many, start)) <= n:
        few, many = many, min(2 * many, most)
        if few == most:
            raise SpecError(
                f"steps: {n} exact steps do not fit below strength {strength:g} on process '{process.kind}' with grid"
                f" '{grid.kind}': ask for fewer, or for steps 'scaled'"
            )
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if len(_tail(grid, process, middle, start)) <= n else (few, middle)
    found = _tail(grid, process, many, start)
    return torch.cat([found[:1], found[-n:]])


def levels(request: Resolved, model: Model, strength: float, mode: Mode, n: int | None = None) -> list[Level]:
    """The levels of an edit, from the strength's own to the clean one; one more than there are steps. n: instead of the request's steps."""
    grid, process, n = request.grid, model.process, n or request.steps
    return list(grid.at(process, times(grid, process, n, strength, mode), n).split())


def noised(brief: Brief, z: Tensor, level: Level, anew: Tensor | bool) -> Tensor:
    """(B, c, h, w) alpha z + sigma n at a level; where `anew` nothing of z, but noise as the text task begins with.

    z: (1 or B, c, h, w), the latents. anew: bool, broadcast to them.
    """
    like = torch.empty(len(brief.prompts), *z.shape[1:], dtype=torch.float32, device=z.device)
    n = brief.noise.normal("start", None, None, like)
    pure = n * brief.request.grid.spread(level)
    return torch.where(torch.as_tensor(anew, device=z.device), pure, float(level.alpha) * z + float(level.sigma) * n)


def _below(whole: Tensor, start: float) -> Tensor:
    """`start`, and the times of `whole` below it."""
    above = max(int((whole >= start).sum()), 1)
    last, rest = whole[above - 1], whole[above:]
    if len(rest) > 1 and start - float(rest[0]) < _NO_STEP * float(last - rest[0]):
        rest = rest[1:]
    return torch.cat([torch.tensor([start], dtype=torch.float64), rest])


def _tail(grid: Grid, process: Process, n: int, start: float) -> Tensor:
    """What a grid of n steps leaves below `start`; nothing where it has no room for n."""
    try:
        return _below(grid(process, n), start)
    except SpecError:
        return torch.empty(0)
