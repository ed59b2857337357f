"""A picture made larger: resampled, then noised a little and denoised at its new size, in tiles where it is too large for one piece."""

from __future__ import annotations

from collections.abc import Generator

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.assets import Assets, as_pixels
from safelight.codec import tiled
from safelight.data.transform import Crop, Fit
from safelight.engine import place
from safelight.model import Model
from safelight.spec import Spec, SpecError
from safelight.task import canvas
from safelight.task.base import Brief, Request, Resolved, Start, Task, launch
from safelight.task.image import own_size
from safelight.task.strength import Mode, levels, noised
from safelight.task.tiles import Tiles


class Pass(Spec):
    """A second pass: a picture is enlarged, noised to a strength and denoised at its new size.

    strength: the time of the process at which it begins; about 0.2 keeps what is seen, 0.5 draws it anew. steps: as in `image`. count:
    steps of this pass, None the request's. latent: the filter by which the latents are enlarged; None enlarges the pixels. fit: how
    pixels take the new size, by a filter of its own (lanczos). tile: None works on the whole picture; a number on tiles of so many pixels a
    side that share `overlap` pixels (None: a quarter of the tile) and are blended there at every step. The codec too works in tiles, as
    large at least as one whose reach is bounded needs to give the picture of one piece.
    """

    strength: float = Field(0.35, gt=0, le=1)
    steps: Mode = "scaled"
    count: int | None = Field(None, ge=1)
    latent: canvas.Filter | None = None
    fit: Fit = Crop()
    tile: int | None = Field(None, ge=8)
    overlap: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _of_tiles(self) -> Pass:
        if self.overlap is not None and (self.tile is None or 2 * self.overlap > self.tile):
            raise ValueError("overlap is what tiles share: give a tile at least twice as large")
        return self

    def tiles(self, model: Model) -> Tiles | None:
        """In latent cells. Raises SpecError for tiles below one cell."""
        if self.tile is None:
            return None
        stride = model.codec.stride
        side, overlap = self.tile // stride, self.tile // 4 if self.overlap is None else self.overlap
        if not side:
            raise SpecError(f"upscale: tiles of {self.tile} pixels are less than the codec's stride {stride}")
        return Tiles(side, min(-(-overlap // stride), side // 2))

    def latents(self, model: Model, pictures: list[Tensor], size: tuple[int, int]) -> Tensor:
        """uint8 pictures (C, h, w) -> their latents at `size`, (B, c, ceil(H / stride), ceil(W / stride))."""
        small, tiles = size, self.tiles(model)
        if self.latent is not None:
            h, w = pictures[0].shape[-2:]
            times = max(size[0] / h, size[1] / w)
            small = max(1, round(size[0] / times)), max(1, round(size[1] / times))
        found = []
        for one in pictures:
            x = canvas.padded(as_pixels(canvas.fitted(one, small, self.fit), model.device)[None], model.codec.stride)
            found.append(model.codec.encode(x) if tiles is None else tiled.encode(model.codec, x, *_exact(model, tiles, 0)))
        return self.grown(model, torch.cat(found), small, size)

    def grown(self, model: Model, z: Tensor, small: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Latents of pictures of the size `small` as those of `size`, by the filter `latent` if there is one."""
        stride = model.codec.stride
        cells = -(-size[0] // stride), -(-size[1] // stride)
        scale = size[0] / small[0], size[1] / small[1]
        return z if self.latent is None else canvas.enlarged(z, scale, cells, self.latent)

    def start(self, brief: Brief, z: Tensor) -> Start:
        """The stage: latents at the new size, noised to the strength."""
        places = levels(brief.request, brief.model, self.strength, self.steps, self.count)
        tiles = self.tiles(brief.model)
        if tiles is not None and brief.request.controls:
            raise SpecError("upscale: controls steer a picture as a whole: leave tile out")
        return launch(brief, noised(brief, z, places[0], self.strength == 1), places)._replace(tiles=tiles)

    def decode(self, model: Model, z: Tensor) -> Tensor:
        """Latents -> pixels (B, C, H, W), in tiles if it has them."""
        tiles = self.tiles(model)
        return (place.decode(model, z) if tiles is None else tiled.decode(model.codec, z, *_exact(model, tiles, 1))).float()


class Upscale(Task, kind="upscale"):
    """A picture is enlarged and its details drawn anew: what other tools call SD upscale.

    picture: its seal. scale: times its own size, where the request asks for none. second: how it is enlarged and denoised.
    """

    picture: str
    scale: float = Field(2.0, ge=1, le=16)
    second: Pass = Pass()

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.picture,)

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        height, width = own_size(assets, self.picture)
        return request.size or (round(height * self.scale), round(width * self.scale))

    def stages(self, brief: Brief) -> Generator[Start, Tensor, None]:
        picture = canvas.taken(brief.assets, self.picture, brief.model)
        yield self.second.start(brief, self.second.latents(brief.model, [picture], brief.request.size))

    def decode(self, brief: Brief, z: Tensor) -> Tensor:
        return self.second.decode(brief.model, z)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        height, width = brief.request.size
        return super().finish(brief, pictures)[..., :height, :width]

    def runs(self, request: Resolved, model: Model) -> int:
        """How many steps are run."""
        return len(levels(request, model, self.second.strength, self.second.steps, self.second.count)) - 1


def _exact(model: Model, tiles: Tiles, which: int) -> tuple[int, int | None]:
    """Tile and overlap for a codec that encodes (0) or decodes (1): those of one piece where there are such, else the ones given."""
    field = tiled.receptive_field(model.codec)
    return tiles if field is None else (max(tiles.side, 2 * field[which]), None)
