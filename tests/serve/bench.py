"""What the tests of the server share: a data folder with a small model in it, requests to it, and what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safelight import picture
from safelight.assets import Assets
from safelight.draw.pixels import to_bytes
from safelight.generate import Finished, generate
from safelight.model import load, save
from safelight.serve.folder import Folder
from safelight.serve.jobs import Jobs
from safelight.serve.runs import Ask, Run
from safelight.spec import parse
from safelight.task import Brief, Request, Start, Task
from safelight.task.base import launch
from tests import small

# Samplers that remember nothing, draw noise, and remember the last step: going on exactly differs for each.
SAMPLERS = ("ddim", "ddpm", "dpm++2m")


def folder(path: Path, labelled: bool = True) -> Folder:
    """A data folder whose model `tiny` makes 8 x 8 pictures in milliseconds."""
    found = Folder(path)
    save(found.path / "models" / "tiny.safetensors", small.model(labelled))
    return found


def ask(model: str = "tiny", record: str = "branches", priority: int = 0, **fields: Any) -> Ask:
    """A request to the small model."""
    request = parse({"prompt": ["shoe"], **fields}, "request")
    assert isinstance(request, Request)
    return Ask(model=model, request=request, record=record, priority=priority)  # type: ignore[arg-type]


def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def files(jobs: Jobs, run: Run) -> list[bytes]:
    """The bytes of a run's pictures."""
    return [jobs.runs.picture(run.id, k).read_bytes() for k in range(len(jobs.runs.get(run.id).pictures))]


def plain(folder: Folder, *, parents: Any = (), **fields: Any) -> list[bytes]:
    """The files that the command line writes for a request."""
    model = load(folder.model("tiny"))
    assets = Assets([pixels for pixels, _ in parents])
    asked = ask(**fields).request.resolve(model, assets)
    made = torch.cat([e.pictures for e in generate(model, asked, assets=assets) if isinstance(e, Finished)])
    pixels = [torch.from_numpy(one).permute(2, 0, 1) for one in to_bytes(made)]
    notes = picture.notes(model, asked, pixels, parents=parents)
    return [picture.encode(one, note, "PNG") for one, note in zip(pixels, notes, strict=True)]


def events(jobs: Jobs, run: Run, kind: str) -> list[dict[str, Any]]:
    """What was told of a run, of one kind."""
    return [json.loads(e.data) for e in jobs.events.since(0, 10_000) if e.run == run.id and e.kind == kind]


class Twice(Task, kind="twice"):
    """Denoises, goes back half the way, and denoises again: a task of two stages."""

    def stages(self, brief: Brief) -> Generator[Start, Tensor, None]:
        levels = brief.levels
        x = yield launch(brief, brief.noise.normal("start", None, None, brief.like), levels)
        half = levels[len(levels) // 2 :]
        back = float(half[0].alpha) * x + float(half[0].sigma) * brief.noise.normal("again", None, None, x)
        yield launch(brief, back, half)
