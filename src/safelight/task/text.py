"""Text to picture."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from safelight.task.base import Brief, Start, Task, launch


class Text(Task, kind="text"):
    """From pure noise: x = sqrt(alpha^2 + sigma^2) n at the grid's first level."""

    def stages(self, brief: Brief) -> Generator[Start, Tensor, None]:
        levels, like = brief.levels, brief.like
        x = brief.noise.normal("start", None, None, like) * float(torch.hypot(levels[0].alpha, levels[0].sigma))
        yield launch(brief, x, levels)
