"""Two models for one picture: one composes it, the other finishes it on the same latents."""

from __future__ import annotations

from collections.abc import Generator

from pydantic import Field
from torch import Tensor

from safelight.assets import Assets
from safelight.model import Model
from safelight.sample import Sampler
from safelight.spec import SpecError
from safelight.task.base import Aside, Brief, Request, Start, Task, companion, conditions
from safelight.task.text import Text
from safelight.task.within import changed


class Refine(Task, kind="refine"):
    """Another task, of whose steps those below a noise level are another model's.

    Podell et al. 2023, "SDXL", section 2.5; Balaji et al. 2022, "eDiff-I: text-to-image diffusion models with an ensemble of expert
    denoisers", section 3.

    The model runs the levels above t = switch and the refiner the rest, on the same grid; the solver begins anew there.

    refiner: a model file or name. Its latents must be the model's. switch: a time of the process; 0.2 is what others call a switch, or
    a denoising end, at 0.8. of: the task.
    """

    refiner: str
    switch: float = Field(0.2, gt=0, lt=1)
    of: Task = Text()

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.of.inputs

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        return self.of.size(request, model, assets)

    def sampler(self, usual: Sampler) -> Sampler:
        return self.of.sampler(usual)

    def stages(self, brief: Brief) -> Generator[Start | Aside, Tensor, None]:
        refiner = companion(brief.model, brief.assets.model(self.refiner), "refine: the refiner")
        told = conditions(brief._replace(model=refiner))

        def split(start: Start) -> Generator[Start, Tensor, Tensor]:
            above = sum(float(level.t) > self.switch for level in start.levels)
            if not 0 < above < len(start.levels) - 1:
                first, last = (float(start.levels[i].t) for i in (0, -2))
                raise SpecError(
                    f"refine: at switch {self.switch:g} one of the models has no step, among levels from t = {first:.3g} to {last:.3g}:"
                    " ask for more steps or another switch"
                )
            x = yield start._replace(levels=start.levels[: above + 1])
            return (yield start._replace(denoiser=refiner.denoiser, conds=told, x=x, levels=start.levels[above:]))

        yield from changed(self.of.stages(brief), split)

    def decode(self, brief: Brief, z: Tensor) -> Tensor:
        return self.of.decode(brief, z)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        return self.of.finish(brief, pictures)
