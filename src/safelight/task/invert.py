"""Inversion and re-editing: a picture taken up to its noise, and made again from it with other words."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from pydantic import Field
from torch import Tensor

from safelight.between import slerp
from safelight.data.transform import Crop, Fit
from safelight.guide import Mix
from safelight.guide.cfg import NoGuidance
from safelight.process import Level
from safelight.sample import Sampler
from safelight.sample.ancestral import DDIM
from safelight.sample.invert import rise
from safelight.spec import SpecError
from safelight.task import canvas
from safelight.task.base import Aside, Brief, Start, launch
from safelight.task.image import Edit


class Invert(Edit, kind="invert"):
    """x_T of a picture, by its source prompt (`sample.invert.rise`), then the request's prompts from that same x_T.

    strength: how far up, as for the `image` task, whose random noise this replaces by the picture's own: below 1 the noisier
    levels are left out, and the picture's structure stays. source: what the picture shows, "" for no words; the request's prompt
    swaps it. mix: the guidance on the way up; None is the request's, with its bends, so that source = prompt gives the picture back
    as nearly as the solver can be undone (a request that names no sampler gets one that can: `undoable`). By default none, which is
    steadier and leaves the swap to the guidance on the way down. refine: corrections of each step at most, 0 for the plain steps;
    tolerance: where they end (`rise`). fit: as for `image`. vary: how far its noise is moved, by `slerp`, to that of the picture's
    number: variations of a picture that no request of ours made. 0 is the inversion alone, 1 the `image` task.
    """

    strength: float = Field(1.0, ge=0, le=1)
    source: str = ""
    mix: Mix | None = NoGuidance()
    refine: int = Field(10, ge=0)
    tolerance: float = Field(1e-4, gt=0)
    fit: Fit = Crop()
    vary: float = Field(0.0, ge=0, le=1)

    def sampler(self, usual: Sampler) -> Sampler:
        return undoable(usual)

    def stages(self, brief: Brief) -> Generator[Start | Aside, Tensor, None]:
        request, model = brief.request, brief.model
        if request.count > 1 and not self.vary:
            raise SpecError(
                "invert: without vary nothing is drawn by number, every picture of a prompt is the same: set count to 1"
            )
        if not self.strength:
            return
        levels = self.levels(request, model)
        z = model.codec.encode(canvas.padded(self._given(brief), model.codec.stride))
        x = yield from lifted(brief, z, levels, (self.source,), self.mix, self.refine, self.tolerance)
        yield launch(brief, self._loosened(brief, x.repeat(len(brief.prompts), 1, 1, 1), z, levels[0]), levels)

    def _loosened(self, brief: Brief, x: Tensor, z: Tensor, level: Level) -> Tensor:
        """x = alpha z + sigma eps with eps moved towards the pictures' own noise; at strength 1 all of x counts as noise."""
        if not self.vary:
            return x
        n = brief.noise.normal("start", None, None, x)
        alpha, sigma = float(level.alpha), float(level.sigma)
        if self.strength == 1:
            scale = math.hypot(alpha, sigma)
            return slerp(x / scale, n, self.vary) * scale
        return alpha * z + sigma * slerp((x - alpha * z) / sigma, n, self.vary)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        if pictures is None:
            return self._given(brief).repeat(len(brief.prompts), 1, 1, 1)
        height, width = brief.request.size
        return pictures[..., :height, :width]

    def _given(self, brief: Brief) -> Tensor:
        return canvas.picture(brief.assets, self.picture, brief.model, brief.request.size, self.fit)


def undoable(usual: Sampler) -> Sampler:
    """The sampler itself, or `ddim` for one that draws noise or remembers earlier steps."""
    return DDIM() if usual.stochastic or usual.multistep else usual


def lifted(
    brief: Brief,
    z: Tensor,
    levels: Sequence[Level],
    prompts: tuple[str, ...],
    mix: Mix | None,
    refine: int,
    tolerance: float,
) -> Generator[Aside, None, Tensor]:
    """x at the first of `levels` of latents z (B, c, h, w) of these prompts, by the request's solver; an Aside after every step.

    mix: None for the request's own mix and bends. Raises SpecError for a solver that draws noise.
    """
    request = brief.request if mix is None else brief.request.model_copy(update={"mix": mix, "bends": ()})
    start = launch(brief._replace(request=request, prompts=prompts), z, levels)
    x = z
    for step in rise(start.denoise(), z, levels, request.sampler, refine=refine, tolerance=tolerance):
        x = step.x
        yield Aside(step.i, step.n, x, step.level)
    return x
