"""A large picture of words in two passes: composed at the size the model knows, then enlarged and drawn out."""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from pydantic import field_validator
from torch import Tensor

from safelight.assets import Assets
from safelight.draw.pixels import to_bytes
from safelight.engine import place
from safelight.model import Model
from safelight.task import canvas
from safelight.task.base import Aside, Brief, Request, Start, Task
from safelight.task.text import Text
from safelight.task.upscale import Pass

# Times the first pass's size, where no other is asked for.
_TIMES = 2


class Hires(Task, kind="hires"):
    """Text to picture at `first`, then a second pass at the size that is asked for: what other tools call hires. fix.

    Where the pixels are enlarged it is, byte for byte, the text task and the task `upscale` of its picture one after the other.

    first: (height, width) of the first pass; None takes as many pixels as the model's own size has, in the proportions asked for.
    second: how the picture is enlarged and denoised. Without a size the picture is twice the first pass's.
    """

    first: tuple[int, int] | None = None
    second: Pass = Pass(strength=0.5)

    @field_validator("first")
    @classmethod
    def _somewhere(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError("(height, width) in pixels, both at least 1")
        return value

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        height, width = self.first or model.spec.size
        return request.size or (_TIMES * height, _TIMES * width)

    def began(self, size: tuple[int, int], model: Model) -> tuple[int, int]:
        """(height, width) of the first pass for a picture of `size`: multiples of the codec's stride."""
        if self.first is not None:
            return self.first
        stride, (h, w) = model.codec.stride, model.spec.size
        scale = min(1.0, math.sqrt(h * w / (size[0] * size[1])))
        height, width = (max(1, round(side * scale / stride)) * stride for side in size)
        return height, width

    def stages(self, brief: Brief) -> Generator[Start | Aside, Tensor, None]:
        request, model = brief.request, brief.model
        size, first, stride = request.size, self.began(request.size, model), model.codec.stride
        small = brief._replace(request=request.model_copy(update={"size": first}))
        (start,) = Text().stages(small)
        x = yield start
        if self.second.latent is not None:
            times = max(size[0] / first[0], size[1] / first[1])
            rows, columns = (min(max(1, round(a / times / stride)), b // stride) for a, b in zip(size, first, strict=True))
            z = self.second.grown(model, canvas.middle(x, (rows, columns)), (rows * stride, columns * stride), size)
        else:
            pictures = to_bytes(place.decode(model, x).float(), "the first pass")  # (B, H, W, C)
            z = self.second.latents(model, [torch.from_numpy(one).permute(2, 0, 1) for one in pictures], size)
        yield self.second.start(brief, z)

    def decode(self, brief: Brief, z: Tensor) -> Tensor:
        return self.second.decode(brief.model, z)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        height, width = brief.request.size
        return super().finish(brief, pictures)[..., :height, :width]
