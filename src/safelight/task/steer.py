"""The controls of a request, at hand and at work: each has looked at its picture, and the denoiser is steered by all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safelight.adapt.control import Control, Controlled, ControlNetwork, Steering, look, told
from safelight.assets import Assets
from safelight.cond import Cond
from safelight.data.decode import as_channels
from safelight.data.transform import Crop
from safelight.denoise import Denoiser
from safelight.model import Model
from safelight.nn.controlnet import ControlNet
from safelight.nn.t2i import T2IAdapter
from safelight.nn.vision import normalised
from safelight.process import Level
from safelight.task import canvas


class Sight(NamedTuple):
    """What of a picture a ControlNet and a T2I-adapter see: fitted to `size`, its part `box` (none: all), at `work` pixels."""

    size: tuple[int, int]
    work: tuple[int, int]
    box: canvas.Box | None = None

    def of(self, picture: Tensor) -> Tensor:
        """picture: (1, C, H, W) of `size`, in [0, 1]. Returns (1, C, *work)."""
        part = picture if self.box is None else self.box.of(picture)
        return part if part.shape[2:] == self.work else canvas.resized(part, self.work).clamp(0, 1)


@torch.no_grad()
def steered(
    model: Model,
    controls: Sequence[Control],
    assets: Assets,
    sight: Sight,
    levels: Sequence[Level],
    conds: Mapping[str, Cond | None],
) -> tuple[Denoiser, dict[str, Cond | None]]:
    """The model's denoiser under controls, and the conditions as it reads them; both as they were without controls.

    levels: of the run.
    Raises SpecError for a control that is not at hand, or of another model.
    """
    if not controls:
        return model.denoiser, dict(conds)
    like = next(model.denoiser.network.parameters())
    steerings = []
    for control in controls:
        net = assets.control(control.name, control.hash).to(like)
        seen = _seen(control, net, model, assets, sight)
        low, high = control.span(levels)
        steerings.append(Steering(net, seen, control.weight, low, high))
    return Controlled(model.denoiser, steerings), told(conds, steerings)


def _seen(control: Control, net: ControlNetwork, model: Model, assets: Assets, sight: Sight) -> tuple[Tensor, ...]:
    pixels = assets.picture(control.picture).permute(1, 2, 0).numpy()  # (H, W, C)
    if isinstance(net, ControlNet | T2IAdapter):
        image = Crop()(as_channels(pixels, net.spec.channels), sight.size)
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].to(model.device).float() / 255  # (1, C, H, W)
        return look(net, sight.of(picture), model.denoiser.network, model.codec.stride)
    tower = assets.tower(control.name)
    x = normalised(torch.from_numpy(_square(as_channels(pixels, 3), tower.spec.size)).permute(2, 0, 1)[None].float() / 255)
    x = x.to(next(tower.parameters()))  # (1, 3, size, size)
    if not net.spec.picture.deep:
        e = tower(x).embedding  # (1, seen)
        return net.tokens(e), net.tokens(torch.zeros_like(e))
    return net.tokens(tower(x).states), net.tokens(tower(torch.zeros_like(x)).states)


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, C) -> (side, side, C), CLIP's way: scaled bicubically until the shorter side fits, the middle of the longer one."""
    h, w = pixels.shape[:2]
    to = (side, side * w // h) if h < w else (side * h // w, side)
    image = np.asarray(Image.fromarray(pixels).resize(to[::-1], Image.Resampling.BICUBIC))
    top, left = (to[0] - side) // 2, (to[1] - side) // 2
    return image[top : top + side, left : left + side].copy()
