"""Large pictures through a codec in tiles: the same result in bounded memory.

A tile is encoded or decoded with its surroundings; near an artificial edge its result is wrong, because the convolutions see
zeros there instead of the picture. How near is known: the codec's `reach` r, in latent cells. Tiles share `overlap` cells, and
where they do, they are blended by weights that rise linearly with the distance from the artificial edge and are 0 within r of
it when the overlap is wide enough, >= 2 r + 1 (the receptive field). Then nothing wrong is used, and the result is that of the
whole picture but for rounding. With less, or with a codec that has no bounded reach (group normalisation, attention), all of
the overlap is blended: no seams, but another picture than in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.codec.base import Codec
from safelight.spec import SpecError


class Tile(NamedTuple):
    """Latent cells start..stop of a side of n, and the weight (stop - start) x scale of each result position along it."""

    start: int
    stop: int
    weight: Tensor


def encode(codec: Codec, x: Tensor, tile: int, overlap: int | None = None, noise: Tensor | None = None) -> Tensor:
    """`codec.encode(x, noise)` by tiles of tile x tile latent cells that share `overlap` cells with their neighbours.

    overlap: None takes the receptive field 2 r + 1 of a codec whose reach is bounded, else a quarter of the tile.
    Raises SpecError when the overlap is not below the tile, or the stride does not divide the picture.
    """
    s = codec.stride
    if x.shape[-2] % s or x.shape[-1] % s:
        raise SpecError(f"a picture of {x.shape[-1]}x{x.shape[-2]} does not divide by the codec's stride {s}")
    h, w = x.shape[-2] // s, x.shape[-1] // s
    reach, overlap = _overlap(codec, 0, tile, overlap)

    def part(a: Tile, b: Tile) -> Tensor:
        own = None if noise is None else noise[..., a.start : a.stop, b.start : b.stop]
        return codec.encode(x[..., a.start * s : a.stop * s, b.start * s : b.stop * s], own)

    return blend(part, (h, w), tile, overlap, reach)


def decode(codec: Codec, z: Tensor, tile: int, overlap: int | None = None) -> Tensor:
    """`codec.decode(z)` by tiles of tile x tile latent cells; see `encode`."""
    reach, overlap = _overlap(codec, 1, tile, overlap)
    return blend(
        lambda a, b: codec.decode(z[..., a.start : a.stop, b.start : b.stop]),
        tuple(z.shape[-2:]),
        tile,
        overlap,
        reach,
        codec.stride,
    )


def receptive_field(codec: Codec) -> tuple[int, int] | None:
    """The overlap in latent cells from which (encoding, decoding) in tiles is exact; None when no overlap is enough."""
    reach = getattr(codec, "reach", (0, 0))  # a codec that does not say is one that treats every place alone: pixels
    return None if reach is None else (2 * reach[0] + 1, 2 * reach[1] + 1)


def tiles(n: int, tile: int, overlap: int, reach: int, scale: int) -> list[Tile]:
    """Tiles over a side of n cells, each of `tile` cells (the last is moved back to end at n), with their weights.

    reach: cells from an artificial edge that carry no weight, if the overlap leaves some between. scale: positions a cell.
    """
    starts = [*range(0, max(n - tile, 0), tile - overlap), max(n - tile, 0)]
    stops = [min(s + tile, n) for s in starts]
    dark = reach if overlap >= 2 * reach + 1 else 0
    out = []
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        place = (
            torch.arange((stop - start) * scale, dtype=torch.float32) + 0.5
        ) / scale  # in cells, the centre of each position
        ramp = overlap - 2 * dark
        weight = torch.ones_like(place)
        if i:
            weight = torch.minimum(weight, ((place - dark) / ramp if ramp else place.new_ones(())).clamp(0, 1))
        if i + 1 < len(starts):
            weight = torch.minimum(weight, ((stop - start - place - dark) / ramp if ramp else place.new_ones(())).clamp(0, 1))
        out.append(Tile(start, stop, weight))
    return out


def blend(
    part: Callable[[Tile, Tile], Tensor], side: tuple[int, ...], tile: int, overlap: int, reach: int = 0, scale: int = 1
) -> Tensor:
    """(..., h scale, w scale) what `part` makes of each pair of tiles (rows, columns) of a side (h, w), blended where they overlap.

    part: (..., height scale, width scale) of a tile's cells. reach, scale: as in `tiles`.
    """
    h, w = side
    total: Tensor | None = None
    weight: Tensor | None = None
    for a, b in _pairs(tiles(h, tile, overlap, reach, scale), tiles(w, tile, overlap, reach, scale)):
        result = part(a, b)
        share = (a.weight[:, None] * b.weight[None]).to(result.device)  # (height, width) of the tile's result
        if total is None or weight is None:
            total = result.new_zeros((*result.shape[:-2], h * scale, w * scale), dtype=torch.float32)
            weight = total.new_zeros(total.shape[-2:])
        rows, columns = slice(a.start * scale, a.stop * scale), slice(b.start * scale, b.stop * scale)
        total[..., rows, columns] += result * share
        weight[rows, columns] += share
    assert total is not None and weight is not None  # there is always a tile
    return (total / weight).to(result.dtype)


def _overlap(codec: Codec, which: int, tile: int, overlap: int | None) -> tuple[int, int]:
    field = receptive_field(codec)
    if overlap is None:
        overlap = tile // 4 if field is None else field[which]
    if not 0 <= overlap < tile:
        raise SpecError(
            f"tiles of {tile} latent cells cannot share {overlap}: make them larger"
            + (f" than {overlap}" if overlap >= tile else "")
        )
    return (0 if field is None else field[which] // 2), overlap


def _pairs(rows: list[Tile], columns: list[Tile]) -> Iterator[tuple[Tile, Tile]]:
    return ((a, b) for a in rows for b in columns)
