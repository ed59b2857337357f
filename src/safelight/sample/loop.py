"""The one loop of sampling. A generator: whoever runs it owns progress bars, previews, logging and cancelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.spec import SpecError


class Step(NamedTuple):
    """One finished step.

    i, n: this is step i = 0..n-1 of n. x: (B, C, *space), the result, at `level`. estimate: what was believed at `now`, where the
    step began from `before`. state: the solver's memory after it; with x and the remaining levels it continues the run exactly.
    """

    i: int
    n: int
    x: Tensor
    level: Level
    estimate: Estimate
    now: Level
    before: Tensor
    state: State


def trajectory(
    denoise: Denoise,
    x: Tensor,
    levels: Level | Sequence[Level],
    sampler: Sampler,
    noise: Draws | None = None,
    *,
    state: State | None = None,
    first: int = 0,
) -> Iterator[Step]:
    """Carry x from the first level to the last, one step for each pair of neighbours.

    denoise: (x, level) -> Estimate. x: (B, C, *space), at the first level; arithmetic is in its dtype, at least float32.
    levels: n + 1 levels of strictly falling time, `process.at(grid(process, n))` or a list. noise: needed by stochastic samplers.
    state, first: to continue a run from step `first` with the state recorded before it; x is then the x of that moment.
    Yields a Step after every step; the last one's x is the sample. Gradients are the caller's choice: wrap in torch.no_grad().
    Raises SpecError for fewer than two levels or times that do not fall.
    """
    stops = levels.split() if isinstance(levels, Level) else list(levels)
    times = [float(level.t) for level in stops]
    if len(stops) < 2:
        raise SpecError(f"a trajectory needs at least two levels (given: {len(stops)})")
    for a, b in zip(times, times[1:], strict=False):
        if not b < a:
            raise SpecError(f"levels must fall in time: {a:g} is followed by {b:g}")
    n = len(stops) - 1
    if not 0 <= first <= n:
        raise SpecError(f"a run of {n} steps cannot go on from step {first}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    memory = sampler.start(n) if state is None else state
    for i in range(first, n):
        now, to, before = stops[i], stops[i + 1], x
        x, memory, estimate = sampler.step(denoise, x, now, to, memory, noise)
        yield Step(i, n, x, to, estimate, now, before, memory)
