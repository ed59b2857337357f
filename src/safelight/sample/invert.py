"""Inversion: from a picture up to the noise from which a solver would have made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.denoise import Denoise
from safelight.process import Level
from safelight.sample.base import Sampler
from safelight.sample.edm import euler
from safelight.spec import SpecError


class Rise(NamedTuple):
    """One finished step upward: i = 0..n-1 of n, x (B, C, *space) at `level`, where the step down from it is `now`'s.

    missed: (B,) how far the step down from x misses the x that this step began from, as a part of its size: 0 is an exact inverse.
    NaN where `refine` was 0, which does not look. looks: how often the denoiser's step was tried.
    """

    i: int
    n: int
    x: Tensor
    level: Level
    now: Level
    missed: Tensor
    looks: int


def rise(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[Level],
    sampler: Sampler,
    *,
    refine: int = 0,
    tolerance: float = 1e-5,
) -> Iterator[Rise]:
    """Integrate the probability-flow ODE from the last of `levels` up to the first, undoing what `trajectory` does over them.

    x: (B, C, *space), at the last level, the data as a rule. levels: as for `trajectory`, falling. sampler: deterministic.

    With refine = 0 each step is the solver's own, taken upward: for `ddim` x' = alpha' x0 + sigma' eps with x0 and eps as believed at
    the lower level (Song et al. 2021, "Denoising diffusion implicit models", section 4.3; Mokady et al. 2022, "Null-text inversion",
    section 3.1), so the way down misses the way up by the solver's order. At the data, where there is no eps, it is believed at the
    upper level of the picture without noise.

    The exact inverse of the step down S is the x' with S(x') = x, which is iterated: x' <- x' + P (x - S(x')), up to `refine` times
    or until every row has missed x by less than `tolerance` of its size, the best x' of each row being kept (Pan et al. 2023,
    "Effective real image editing with accelerated iterative diffusion inversion", section 3; Garibi et al. 2024, "ReNoise"). P is
    alpha'/alpha at low noise, where this iterates eps, and sigma'/sigma at high noise (s s' > 1), where it iterates x0: what
    contracts for data of variance 1. Solvers with a memory (`multistep`) have no one step to undo: they rise by
    their first step, unrefined, and the way back misses by what their memory adds.
    Raises SpecError for a sampler that draws noise.
    """
    if sampler.stochastic:
        raise SpecError(
            f"sampler '{sampler.kind}' draws noise, and what is drawn cannot be undone: use ddim, euler or heun, or set its eta to 0"
        )
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    n = len(levels) - 1
    refine = 0 if sampler.multistep else refine
    memory = sampler.start(n)
    for i, (now, to) in enumerate(zip(levels[:0:-1], levels[-2::-1], strict=True)):
        alpha, sigma, s = now.floats
        alpha_to, sigma_to, s_to = to.floats

        def down(guess: Tensor, now: Level = now, to: Level = to) -> Tensor:
            return sampler.step(denoise, guess, to, now, memory, None)[0]

        step, looks = (sigma_to / sigma, 0) if sigma and (s * s_to > 1 or not alpha_to) else (alpha_to / alpha, 0)
        if not sigma:
            guess = x * step
            if not alpha_to:
                raise SpecError(
                    "inversion: one step from the data to nothing but noise leaves nothing to invert: use more steps"
                )
            if not refine:  # S to the data is x0 for every one-step solver, so this is the step that believes eps up there
                guess, looks = guess + step * (x - down(guess)), 1
        elif not alpha_to:
            guess, looks = euler(x, denoise(x, now).x0, now, to), 1  # solvers divide by alpha on the way up
        else:
            guess, looks = sampler.step(denoise, x, now, to, memory, None)[0], 1
        missed = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
        if refine:
            guess, missed, tries = _refined(down, x, guess, step, refine, tolerance)
            looks += tries
        x = guess
        yield Rise(i, n, x, to, now, missed, looks)


def _refined(
    down: Callable[[Tensor], Tensor], x: Tensor, guess: Tensor, step: float, most: int, tolerance: float
) -> tuple[Tensor, Tensor, int]:
    """The best of up to `most` corrections of `guess`, by row, how far each misses, and how many tries that took.

    A row whose correction made it worse goes back and takes half as much from there on.
    """
    shape = (-1, *(1,) * (x.ndim - 1))
    size = _norm(x).clamp(min=torch.finfo(x.dtype).tiny)
    part, least = torch.full_like(size, step), torch.full_like(size, torch.inf)
    best, off = guess, torch.zeros_like(x)
    for tries in range(1, most + 2):
        found = x - down(guess)
        missed = _norm(found) / size
        better = missed < least
        best, off = (torch.where(better.view(shape), new, old) for new, old in ((guess, best), (found, off)))
        part, least = torch.where(better, part, part / 2), torch.where(better, missed, least)
        if tries > most or bool((least < tolerance).all()):
            break
        guess = best + part.view(shape) * off
    return best, least, tries


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


__all__ = ["Rise", "rise"]
