"""A denoiser that sees a picture in tiles: the memory of a tile for a picture of any size.

Bar-Tal et al. 2023, "MultiDiffusion: fusing diffusion paths for controlled image generation", eq. 5: at every step each tile is denoised by
itself and what they believe is averaged where they overlap, here by weights that fall linearly towards a tile's edge. So all tiles
agree on one picture before the next step, and no seam can build up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.codec.tiled import Tile, blend
from safelight.cond import Cond
from safelight.denoise import Branches, Denoiser, Estimate, branches
from safelight.process import Level
from safelight.spec import SpecError


class Tiles(NamedTuple):
    """Squares of `side` latent cells, neighbours sharing `overlap` of them."""

    side: int
    overlap: int

    def branches(
        self,
        denoiser: Denoiser,
        conds: Mapping[str, Cond | None],
        levels: Sequence[Level] = (),
        others: Mapping[str, Denoiser] | None = None,
    ) -> Branches:
        """`denoise.branches`, evaluated tile by tile. A map that is told, Cond.image, is cut as x is."""
        maps = any(cond is not None and cond.image is not None for cond in conds.values())
        bound: dict[tuple[int, int], Branches] = {}

        def of(a: Tile, b: Tile, shape: tuple[int, ...]) -> Branches:
            """The branches of a tile: one for all, unless a map is told."""
            place = (a.start, b.start) if maps else (0, 0)
            if place not in bound:
                mine = {name: _part(cond, a, b, shape) for name, cond in conds.items()} if maps else conds
                bound[place] = branches(denoiser, mine, levels, others)
            return bound[place]

        def evaluate(x: Tensor, level: Level, names: tuple[str, ...]) -> Mapping[str, Estimate]:
            if x.ndim != 4:
                raise SpecError(f"tiles are of pictures, not of tensors of {x.ndim} dimensions")
            learned: dict[str, bool] = {}

            def part(a: Tile, b: Tile) -> Tensor:
                found = of(a, b, tuple(x.shape[-2:]))(x[..., a.start : a.stop, b.start : b.stop], level, names)
                learned.update((name, found[name].fraction is not None) for name in names)
                return torch.stack([v for name in names for v in (found[name].x0, found[name].fraction) if v is not None])

            whole = iter(blend(part, tuple(x.shape[-2:]), self.side, self.overlap))
            return {name: Estimate(next(whole), next(whole) if learned[name] else None) for name in names}

        return evaluate


def _part(cond: Cond | None, a: Tile, b: Tile, shape: tuple[int, ...]) -> Cond | None:
    if cond is None or cond.image is None:
        return cond
    if tuple(cond.image.shape[-2:]) != shape:
        raise SpecError(f"tiles: a map of {tuple(cond.image.shape[-2:])} cells is not that of latents of {shape}")
    return cond._replace(image=cond.image[..., a.start : a.stop, b.start : b.stop])
