"""The pictures under examination: generated just now, or read from a folder; always as bytes, so both give the same numbers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import safelight
from safelight.data.folder import FolderSource
from safelight.draw.pixels import to_bytes
from safelight.evaluate.real import read
from safelight.generate import Event, Finished, Started, generate
from safelight.model import Model
from safelight.spec import SpecError, describe
from safelight.task import Request


class Made(NamedTuple):
    """pictures (N, C, H, W) uint8; prompts: what each was asked to be ("" for nothing); about: how they were made, as JSON."""

    pictures: Tensor
    prompts: tuple[str, ...]
    about: dict[str, Any]


def make(model: Model, request: Request, weights: str = "") -> Made:
    """Generate the pictures of a request and keep what an evaluation must tell of it."""
    return collect(generate(model, request), model, weights)


def collect(events: Iterable[Event], model: Model, weights: str = "") -> Made:
    """The same from a run's events, for callers who watch it. weights: the name of the set that `model` was loaded with."""
    parts: list[Tensor] = []
    prompts: list[str] = []
    asked: dict[str, Any] = {}
    for event in events:
        if isinstance(event, Started):
            asked = describe(event.request, family=False)
        elif isinstance(event, Finished):
            parts.append(torch.from_numpy(to_bytes(event.pictures, "generated").transpose(0, 3, 1, 2).copy()))
            prompts += event.prompts
    if not parts:
        raise SpecError("the run ended before a picture was finished")
    kinds = {name: asked[name]["kind"] for name in ("sampler", "grid", "mix")}
    about = {
        "source": "generated", "model": model.fingerprint, "weights": weights, "seed": asked["seed"], "steps": asked["steps"],
        "guidance": asked["mix"].get("scale", 1.0), **kinds, "request": asked,
        "process": describe(model.spec.process, family=False),
        "device": model.device.type, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "safelight": safelight.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    return Made(torch.cat(parts), tuple(prompts), about)


def folder(path: str | os.PathLike[str], channels: int, size: tuple[int, int]) -> Made:
    """Pictures from a folder, each class in a folder of its name, or captioned as a training folder is; or none of both.

    How they were made is not known here, and the report says so. Raises SpecError for pictures of another shape.
    """
    data = FolderSource(path=str(path)).open()
    found = read(data, channels, size)
    about = {"source": "folder", "folder": Path(path).name, "files": sorted({Path(i).suffix for i in data.ids} - {""})}
    return Made(found.pictures, tuple(found.names[i] for i in found.labels.tolist()), about)
