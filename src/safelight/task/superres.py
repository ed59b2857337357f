"""Super-resolution by a network that is made for it: it is shown the small picture at every step."""

from __future__ import annotations

from collections.abc import Generator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from safelight.assets import Assets, as_pixels
from safelight.cond import Cond
from safelight.model import Model
from safelight.spec import SpecError
from safelight.task import canvas
from safelight.task.base import Brief, Request, Start, Task, conditions
from safelight.task.image import own_size
from safelight.task.text import Text


class SuperRes(Task, kind="superres"):
    """From pure noise, told the picture as a map beside x: at the size of the latents, where it is resampled to that (bilinear, corner on
    corner), and a little noised, by how much the network is told (Ho et al. 2022, "Cascaded diffusion models", section 4.2; see `Augment`).

    The x4 upscaler of Stable Diffusion, whose latents are as many as the small picture's pixels, stages II and III of DeepFloyd IF, and
    latent diffusion's own, which is told no noise.

    picture: its seal. scale: times its own size, where the request asks for none; networks know one, most often 4. level: of the noise, an
    entry of the model's table; None takes the model's own.
    """

    picture: str
    scale: float = Field(4.0, ge=1, le=16)
    level: int | None = Field(None, ge=0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.picture,)

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        height, width = own_size(assets, self.picture)
        return request.size or (round(height * self.scale), round(width * self.scale))

    def stages(self, brief: Brief) -> Generator[Start, Tensor, None]:
        model = brief.model
        takes = getattr(model.spec.network, "image", 0)
        if takes != model.spec.channels:
            raise SpecError(
                f"superres: the network takes {takes or 'no'} channels of a map, not the {model.spec.channels} of a picture:"
                " `upscale` is for such"
            )
        stride, size = model.codec.stride, brief.request.size
        whole = -(-size[0] // stride) * stride, -(-size[1] // stride) * stride
        small = as_pixels(canvas.taken(brief.assets, self.picture, model), model.device)[None]
        cells = whole[0] // stride, whole[1] // stride
        if tuple(small.shape[-2:]) != cells:
            small = F.interpolate(small, cells, mode="bilinear", align_corners=True)
        told = self._told(brief, small.expand(len(brief.prompts), -1, -1, -1))
        sized = brief._replace(request=brief.request.model_copy(update={"size": whole}))
        for start in Text().stages(sized):
            yield start._replace(conds=told)

    def _told(self, brief: Brief, image: Tensor) -> dict[str, Cond | None]:
        augment, conds = brief.model.spec.augment, conditions(brief)
        number: Tensor | None = None
        if augment is not None:
            level = augment.level if self.level is None else self.level
            image = augment.noised(image, brief.noise.normal("augment", augment.at(level), None, image), level)
            number = torch.full((len(image), 1), float(level), device=image.device)
        elif self.level is not None:
            raise SpecError("superres: this model is told no noise of the small picture: leave level out")
        alone = getattr(brief.model.spec.network, "cond", 0) == 1
        return {name: _with(cond or Cond(), image, number, alone) for name, cond in conds.items()}

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        height, width = brief.request.size
        return super().finish(brief, pictures)[..., :height, :width]


def _with(cond: Cond, image: Tensor, number: Tensor | None, alone: bool) -> Cond:
    """The condition with the map and, behind its vector or in its place, the number."""
    if number is None:
        return cond._replace(image=image)
    vector = number if cond.vector is None or alone else torch.cat([cond.vector, number.to(cond.vector)], 1)
    return cond._replace(image=image, vector=vector)
