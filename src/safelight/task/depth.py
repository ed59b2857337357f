"""A picture with the depth of another: for networks that are told a map of it."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from safelight.assets import Assets
from safelight.cond import Cond
from safelight.data.transform import Crop, Fit
from safelight.model import Model
from safelight.sample import Sampler
from safelight.spec import SpecError
from safelight.task import canvas
from safelight.task.base import Aside, Brief, Request, Start, Task
from safelight.task.text import Text
from safelight.task.within import changed


class Depth(Task, kind="depth"):
    """Another task whose network is told how far away things are: one channel beside the latents, as Stable Diffusion 2 depth takes it.

    The map goes from -1, the farthest place of the picture, to 1, the nearest, at the size of the latents, whatever the picture's own
    contrast; a flat picture tells 0.

    depth: the seal of a grey picture, as estimators of depth make them: white is near. invert: black is near. fit: how it takes the size
    asked for. of: the task; `image` begins with a picture, whose depth it most often is.
    """

    depth: str
    invert: bool = False
    fit: Fit = Crop()
    of: Task = Text()

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.depth, *(name for name in self.of.inputs if name != self.depth))

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        return self.of.size(request, model, assets)

    def sampler(self, usual: Sampler) -> Sampler:
        return self.of.sampler(usual)

    def stages(self, brief: Brief) -> Generator[Start | Aside, Tensor, None]:
        others = brief.request.mix.others
        for name in brief.request.mix.names:
            model = brief.assets.model(others[name]) if name in others else brief.model
            takes = getattr(model.spec.network, "image", 0)
            if takes != 1:
                whose = f"the network of branch '{name}'" if name in others else "the network"
                raise SpecError(f"depth: {whose} takes {takes or 'no'} channels of a map, not the one of a depth")

        def told(start: Start) -> Generator[Start, Tensor, Tensor]:
            rows = self.map(brief, (start.x.shape[-2], start.x.shape[-1])).expand(len(brief.prompts), -1, -1, -1)
            conds: dict[str, Cond | None] = {name: (cond or Cond())._replace(image=rows) for name, cond in start.conds.items()}
            return (yield start._replace(conds=conds))

        yield from changed(self.of.stages(brief), told)

    def map(self, brief: Brief, cells: tuple[int, int]) -> Tensor:
        """(1, 1, *cells) in [-1, 1]. Raises SpecError for a picture that is neither grey nor of colour."""
        grey = canvas.grey(brief.assets, self.depth, "depth")
        pixels = canvas.fitted(grey, brief.request.size, self.fit)[None].to(brief.model.device).float()
        x = canvas.resampled(canvas.padded(pixels, brief.model.codec.stride), cells, "bicubic")
        low, high = x.aminmax()
        x = 2 * (x - low) / (high - low) - 1 if float(high - low) > 0.5 else torch.zeros_like(x)  # in bytes: less is rounding
        return -x if self.invert else x

    def decode(self, brief: Brief, z: Tensor) -> Tensor:
        return self.of.decode(brief, z)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        return self.of.finish(brief, pictures)
