"""Text to picture."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from safelight.task.base import Brief, Start, Task, launch


class Text(Task, kind="text"):
    """From pure noise: x = sqrt(alpha^2 + sigma^2) n, or as the grid says, at the grid's first level."""

    def stages(self, brief: Brief) -> Generator[Start, Tensor, None]:
        levels, like = brief.levels, brief.like
        x = brief.noise.normal("start", None, None, like) * brief.request.grid.spread(levels[0])
        yield launch(brief, x, levels)
