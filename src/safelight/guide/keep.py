"""Keeping what is known: the bend of inpainting. A task makes it, with the latents that it keeps; it is no kind of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level


def keep(known: Tensor, free: Tensor) -> Callable[[Denoise], Denoise]:
    """x0 -> x0 where `free`, `known` elsewhere.

    known: (1 or B, C, *space), the latents that are kept. free: bool (1 or B, 1, *space), where the denoiser decides.
    Every solver moves x by its estimates, so where the start is alpha known + sigma n every x_t is a sample of q(x_t | known): the
    known area noised as Lugmayr et al. 2022 (RePaint, eq. 8a) have it, without a word to the solver, and known itself at the end.
    Beside it the rest is sampled from the denoiser's belief given the *noisy* known area, which is not quite the conditional
    distribution; sampler `repaint` comes closer.
    """

    def bend(denoise: Denoise) -> Denoise:
        def bent(x: Tensor, level: Level) -> Estimate:
            estimate = denoise(x, level)
            return estimate._replace(x0=torch.where(free, estimate.x0, known.to(estimate.x0.dtype)))

        return bent

    return bend
