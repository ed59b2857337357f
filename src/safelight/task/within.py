"""Tasks around other tasks: the inner one's stages, each changed on its way out."""

from __future__ import annotations

from collections.abc import Callable, Generator

from torch import Tensor

from safelight.task.base import Aside, Start


def changed(
    run: Generator[Start | Aside, Tensor, None], change: Callable[[Start], Generator[Start, Tensor, Tensor]]
) -> Generator[Start | Aside, Tensor, None]:
    """The stages of a task, each replaced by those of `change`, whose result the task is sent as its own stage's."""
    item = next(run, None)
    while item is not None:
        x = yield from change(item) if isinstance(item, Start) else _aside(item)
        try:
            item = run.send(x)
        except StopIteration:
            return


def _aside(item: Aside) -> Generator[Aside, Tensor, Tensor]:
    return (yield item)
