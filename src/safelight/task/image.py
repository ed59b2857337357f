"""Picture to picture."""

from __future__ import annotations

from collections.abc import Generator

from pydantic import Field
from torch import Tensor

from safelight.assets import Assets
from safelight.data.transform import Crop, Fit
from safelight.model import Model
from safelight.process import Level
from safelight.task import canvas
from safelight.task.base import Brief, Request, Resolved, Start, Task, launch
from safelight.task.strength import Mode, levels, noised


class Edit(Task):
    """What all edits of a picture share.

    picture: its seal. strength: the time of the model's process at which the run begins: 0 returns the picture as it is, 1 keeps
    nothing of what is painted. steps: "scaled" runs those of the request's steps that lie below it, "exact" as many as the request
    says, "grid" that part of them, as other tools count (see task/strength.py).
    """

    picture: str
    strength: float = Field(0.6, ge=0, le=1)
    steps: Mode = "scaled"

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.picture,)

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        """(height, width): what is asked for, else the picture's own."""
        return request.size or own_size(assets, self.picture)

    def levels(self, request: Resolved, model: Model) -> list[Level]:
        """The levels that are run, from the strength's own to the clean one; one more than there are steps."""
        return levels(request, model, self.strength, self.steps)

    def runs(self, request: Resolved, model: Model) -> int:
        """How many steps are run, 0 at strength 0: the N of "N of M steps"."""
        return len(self.levels(request, model)) - 1 if self.strength else 0


def own_size(assets: Assets, name: str) -> tuple[int, int]:
    """(height, width) of a picture. Raises SpecError when it is not at hand."""
    height, width = assets.picture(name).shape[1:]
    return height, width


class Image(Edit, kind="image"):
    """A picture noised to a strength and denoised again: x = alpha z + sigma n at t = strength (Meng et al. 2022, "SDEdit", alg. 1).

    At strength 1 it is the text task, picture for picture. Sides that the codec's stride does not divide are padded with their last
    pixels for the run and cropped after it. fit: how the picture takes the size asked for, where that is not its own.
    """

    fit: Fit = Crop()

    def stages(self, brief: Brief) -> Generator[Start, Tensor, None]:
        if not self.strength:
            return
        places = self.levels(brief.request, brief.model)
        z = brief.model.codec.encode(canvas.padded(self._given(brief), brief.model.codec.stride))
        yield launch(brief, noised(brief, z, places[0], self.strength == 1), places)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        if pictures is None:
            return self._given(brief).repeat(len(brief.prompts), 1, 1, 1)
        height, width = brief.request.size
        return pictures[..., :height, :width]

    def _given(self, brief: Brief) -> Tensor:
        return canvas.picture(brief.assets, self.picture, brief.model, brief.request.size, self.fit)
