"""Painting a part of a picture anew: a masked one, the one beyond its edges, or both. What is kept is kept to the byte."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional as F

from safelight.assets import Assets
from safelight.cond import Cond
from safelight.data.transform import Crop, Fit
from safelight.guide.keep import keep
from safelight.model import Model
from safelight.spec import SpecError
from safelight.task import canvas
from safelight.task.base import Brief, Request, Resolved, Start, conditions, launch
from safelight.task.image import Edit, own_size
from safelight.task.steer import Sight
from safelight.task.strength import noised

Fill = Literal["noise", "original", "mean", "blur"]


class Scene(NamedTuple):
    """What is painted on: picture (1, C, H, W) in [-1, 1], hole bool (1, 1, H, W), True where it is painted anew."""

    picture: Tensor
    hole: Tensor


class Work(NamedTuple):
    """The part of a scene that goes through the model, at the size at which it does.

    box: where it lies in the scene. size: (height, width) there, before it is padded to the codec's stride. picture, hole: padded.
    """

    box: canvas.Box
    size: tuple[int, int]
    picture: Tensor
    hole: Tensor


class Painting(Edit):
    """What inpainting and outpainting share; `scene` is where they differ.

    While it is denoised, the latent cells that the mask does not touch are held at the picture's (guide/keep.py). A network that takes
    one channel more than the latents have as Cond.image is also told the mask and the masked picture, in this order, as the nine-channel
    checkpoints of Stable Diffusion are: cat(mask, encode(picture with mid-grey in the mask)) beside x. In the end all kept pixels are
    put back, byte for byte.

    strength: 1 keeps nothing of what the masked area began as. fill: what that is, for what is begun and for what the codec sees
    beside the kept cells: "original"; "mean", the colour of what is kept; "blur", a smooth continuation of it; or "noise", which is
    "blur" to the codec and pure noise to the sampler. feather: over how many pixels, all of them masked, the new picture fades in.
    margin: None works on the whole picture; a number on the mask's surroundings alone, so many pixels of them, enlarged to the model's
    own size. hold: False does not keep the cells that are not touched while it is denoised, as the published pipelines of nine-channel
    networks do not. match: the colours of what is painted are shifted by up to so many bytes of 255 to meet those kept along the border.
    """

    strength: float = Field(1.0, ge=0, le=1)
    fill: Fill = "original"
    feather: int = Field(0, ge=0, le=512)
    margin: int | None = Field(None, ge=0)
    hold: bool = True
    match: int = Field(8, ge=0, le=255)

    def scene(self, size: tuple[int, int], model: Model, assets: Assets) -> Scene:
        """The picture at (height, width), and what of it is painted anew."""
        raise NotImplementedError(type(self).__name__)

    def share(self, request: Resolved, model: Model, assets: Assets) -> float:
        """The part of the pixels that is painted, 0..1."""
        return float(self.scene(request.size, model, assets).hole.float().mean())

    def stages(self, brief: Brief) -> Generator[Start, Tensor, None]:
        scene = self.scene(brief.request.size, brief.model, brief.assets)
        if not self.strength or not bool(scene.hole.any()):
            return
        model, work = brief.model, self._work(scene, brief.model)
        z = self._begun(work, model)
        free = canvas.cells(work.hole, model.codec.stride)  # (1, 1, h, w)
        levels = self.levels(brief.request, model)
        anew = free if self.strength == 1 or self.fill == "noise" else torch.zeros_like(free)
        if self.strength == 1 and not self.hold:
            anew = torch.ones_like(free)
        x = noised(brief, z, levels[0], anew)
        yield launch(
            brief,
            x,
            levels,
            conds=self._told(brief, work, free),
            bends=[keep(z, free)] if self.hold else [],
            sight=Sight(brief.request.size, work.size, work.box),
        )

    def decode(self, brief: Brief, z: Tensor) -> Tensor:
        if self.hold and float(self.levels(brief.request, brief.model)[-1].sigma):  # a grid that ends before the data
            work = self._work(self.scene(brief.request.size, brief.model, brief.assets), brief.model)
            z = torch.where(canvas.cells(work.hole, brief.model.codec.stride), z, self._begun(work, brief.model).to(z))
        return super().decode(brief, z)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        scene = self.scene(brief.request.size, brief.model, brief.assets)
        out = scene.picture.repeat(len(brief.prompts), 1, 1, 1)
        if pictures is None:
            return out
        work = self._work(scene, brief.model)
        place, hole = work.box.of(out), work.box.of(scene.hole)
        new = canvas.resized(pictures[..., : work.size[0], : work.size[1]], (work.box.height, work.box.width))
        new = canvas.meeting(new, place, hole, self.match / 127.5)
        seen = work.box.of(canvas.ramp(scene.hole, self.feather))
        place.copy_(torch.where(hole, place.lerp(new, seen), place))
        return out

    def _begun(self, work: Work, model: Model) -> Tensor:
        """(1, c, h, w) the latents of the picture, and in the mask of what it begins as."""
        kept = ~work.hole
        if self.fill == "mean":
            begun = canvas.mean(work.picture, kept)
        else:
            begun = work.picture if self.fill == "original" else canvas.spread(work.picture, kept)
        return model.codec.encode(begun)

    def _work(self, scene: Scene, model: Model) -> Work:
        height, width = scene.picture.shape[-2:]
        box, size = canvas.Box(0, 0, height, width), (height, width)
        picture, hole = scene
        if self.margin is not None:
            box = canvas.around(hole, self.margin, model.spec.size)
            scale = max(1.0, min(model.spec.size[0] / box.height, model.spec.size[1] / box.width))
            size = max(1, round(box.height * scale)), max(1, round(box.width * scale))
            picture = canvas.resized(box.of(picture), size)
            hole = F.interpolate(box.of(hole).float(), size, mode="nearest-exact") > 0
        stride = model.codec.stride
        return Work(box, size, canvas.padded(picture, stride), canvas.padded(hole.float(), stride) > 0)

    def _told(self, brief: Brief, work: Work, free: Tensor) -> Mapping[str, Cond | None]:
        """The conditions of the prompts, with the mask and the masked latents for the networks that take them."""
        model, conds = brief.model, conditions(brief)
        others = brief.request.mix.others
        takes = {name: _takes(brief.assets.model(others[name]) if name in others else model) for name in conds}
        if not any(takes.values()):
            return conds
        masked = model.codec.encode(torch.where(work.hole, 0.0, work.picture))  # (1, c, h, w)
        image = torch.cat([free.to(masked.dtype), masked], 1).expand(len(brief.prompts), -1, -1, -1)
        return {name: (cond or Cond())._replace(image=image) if takes[name] else cond for name, cond in conds.items()}


def _takes(model: Model) -> bool:
    """Whether a model is told the mask. Raises SpecError when it wants a map, but another one."""
    image, latents = getattr(model.spec.network, "image", 0), model.latent_shape()[0]
    if image not in (0, latents + 1):
        raise SpecError(
            f"the network takes a map of {image} channels; painting tells it a mask and {latents} masked latents, {latents + 1} in all"
        )
    return bool(image)


class Inpaint(Painting, kind="inpaint"):
    """A masked area is painted anew.

    mask: the seal of a grey picture of the picture's size; white, from half grey on, is painted, black is kept, as in diffusers and the
    A1111 web UI (OpenAI's transparent pixels are white here: `picture.read_mask(path, alpha=True)`). Softness is `feather`'s affair.
    invert: black is painted. fit: how both take the size asked for, where that is not the picture's own; what `pad` adds is painted.
    """

    mask: str
    invert: bool = False
    fit: Fit = Crop()

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.picture, self.mask)

    def scene(self, size: tuple[int, int], model: Model, assets: Assets) -> Scene:
        hole = canvas.mask(assets, self.mask, own_size(assets, self.picture), self.invert, size, self.fit)
        return Scene(canvas.picture(assets, self.picture, model, size, self.fit), hole.to(model.device))


class Outpaint(Painting, kind="outpaint"):
    """The picture grows: what lies beyond its edges is painted, and what a mask chooses of it.

    margins: how many pixels (left, top, right, bottom). overlap: how many pixels of the picture are painted too, along the edges that
    grow; 0 keeps it whole. mask, invert: as in `Inpaint`, of the picture's own size: a part of it that is painted at the same time.
    """

    fill: Literal["noise", "mean", "blur"] = "blur"
    margins: tuple[int, int, int, int]
    overlap: int = Field(0, ge=0)
    mask: str | None = None
    invert: bool = False

    @model_validator(mode="after")
    def _sound(self) -> Outpaint:
        if self.invert and self.mask is None:
            raise ValueError("invert says how the mask is read: give one")
        return self

    @field_validator("margins")
    @classmethod
    def _outwards(cls, value: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        if min(value) < 0 or not any(value):
            raise ValueError("(left, top, right, bottom) in pixels, none below 0 and one above it")
        return value

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.picture,) if self.mask is None else (self.picture, self.mask)

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        height, width = own_size(assets, self.picture)
        left, top, right, bottom = self.margins
        grown = top + height + bottom, left + width + right
        if request.size not in (None, grown):
            raise SpecError(f"size: outpainting makes {grown[0]}x{grown[1]}, the picture and its margins; leave size out")
        return grown

    def scene(self, size: tuple[int, int], model: Model, assets: Assets) -> Scene:
        height, width = own_size(assets, self.picture)
        given = canvas.picture(assets, self.picture, model, (height, width))
        left, top, right, bottom = self.margins
        hole = torch.ones(1, 1, *size, dtype=torch.bool, device=given.device)
        rows = _kept(top, height, bottom, self.overlap)
        hole[..., rows, _kept(left, width, right, self.overlap)] = False
        if self.mask is not None:
            chosen = canvas.mask(assets, self.mask, (height, width), self.invert, (height, width), Crop())
            hole |= F.pad(chosen.to(given.device), (left, right, top, bottom))
        return Scene(F.pad(given, (left, right, top, bottom), mode="replicate"), hole)


def _kept(before: int, n: int, after: int, overlap: int) -> slice:
    """What is kept of n pixels that begin at `before`: all but the overlap at the ends that grow."""
    return slice(before + (overlap if before else 0), max(before + n - (overlap if after else 0), 0))
