"""What is done with several runs at once: one call for what is chosen in a gallery or lies on a sheet."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter, Response
from fastapi import Request as Call
from pydantic import BaseModel, Field

from safelight.data.decode import decode
from safelight.noise import Noise
from safelight.serve.api import commands, export
from safelight.serve.api.answers import MIME, content
from safelight.serve.api.base import Here, Missing, Plain
from safelight.serve.api.runs import picture_bytes
from safelight.serve.runs import Ask, Picture
from safelight.spec import SpecError, parse
from safelight.task import Brief, Request
from safelight.task.interpolate import Interpolate

router = APIRouter(tags=["several"])

Ids = Annotated[list[Annotated[str, Field(pattern="^[0-9a-z]{12}$")]], Field(min_length=1, max_length=1000)]


class Chosen(Plain):
    """Runs, by their ids."""

    ids: Ids


class Changed(Chosen):
    """What is changed of each run; what is absent stays."""

    star: bool | None = None
    board: str | None = Field(None, max_length=100)


class Done(BaseModel):
    """ids: the runs of which it was done; missing: those that there are not (any more)."""

    ids: list[str]
    missing: list[str]


class Path(Plain):
    """An `interpolate` task, and the model whose noise and words it moves through."""

    model: str = Field("default", max_length=100)
    request: dict[str, Any] = {}


class Leg(BaseModel):
    """How far slerp turns between two ends, in degrees: the noise, null where only inversion can tell; the words, by the mean token."""

    noise: float | None
    words: float | None


class Legs(BaseModel):
    """The legs of a path, in order."""

    legs: list[Leg]


class Axis(Plain):
    """What varies over a sheet, and the values in order, as `POST /v1/grids` takes them."""

    path: str = Field(min_length=1, max_length=200)
    values: list[Any] = Field(min_length=1, max_length=512)


class Sheet(Chosen):
    """The cells of a sheet in order, the last axis changing fastest, and the prompt that `prompt~OLD` replaces words of."""

    axes: list[Axis] = Field([], max_length=3)
    prompt: str = Field("", max_length=20_000)


class Shot(Plain):
    """A finished picture of a run."""

    run: str = Field(pattern="^[0-9a-z]{12}$")
    picture: int = Field(0, ge=0, le=100_000)


class Film(Plain):
    """Pictures of one size, a frame each. seconds: of them all; hold: how much longer both ends stay; back: then the same way back."""

    frames: list[Shot] = Field(min_length=2, max_length=1000)
    seconds: float = Field(3.0, gt=0, le=120)
    hold: float = Field(0.0, ge=0, le=10)
    back: bool = False


class Line(BaseModel):
    """cli: makes the sheet's pictures again, byte for byte. needs: commands that fetch the pictures it reads."""

    cli: str
    needs: list[str]


@router.post("/v1/runs/delete")
def delete(here: Here, chosen: Chosen) -> Done:
    """Take runs away; for 10 seconds they can be restored."""
    return _each(chosen.ids, here.runs.delete)


@router.post("/v1/runs/restore")
def restore(here: Here, chosen: Chosen) -> Done:
    """Bring deleted runs back."""
    return _each(chosen.ids, here.runs.restore)


@router.post("/v1/runs/change")
def change(here: Here, asked: Changed) -> Done:
    """Star runs, or put them on a board ("" takes them off)."""
    return _each(asked.ids, lambda id: here.runs.change(id, star=asked.star, board=asked.board))


def _each(ids: Sequence[str], act: Any) -> Done:
    found = Done(ids=[], missing=[])
    for id in dict.fromkeys(ids):
        try:
            act(id)
        except Missing:
            found.missing.append(id)
        else:
            found.ids.append(id)
    return found


@router.post("/v1/runs/zip", responses=content(MIME["zip"]), response_class=Response)
def packed(here: Here, chosen: Chosen) -> Response:
    """The finished pictures of runs as they were written, notes and all, as RUN-NUMBER.png in a zip."""
    out = io.BytesIO()
    names = set[str]()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as zipped:
        for id in dict.fromkeys(chosen.ids):
            with contextlib.suppress(Missing):
                for number in range(len(here.runs.get(id).pictures)):
                    suffix = here.runs.picture(id, number).suffix
                    name = f"{id}-{number}{suffix}"
                    # Of a fixed date: the same pictures are the same archive.
                    zipped.writestr(
                        zipfile.ZipInfo(name), picture_bytes(here, id, number, suffix.lstrip(".").replace("jpeg", "jpg"))
                    )
                    names.add(name)
    if not names:
        raise Missing("none of these runs has a finished picture")
    return Response(
        out.getvalue(), media_type=MIME["zip"], headers={"content-disposition": 'attachment; filename="safelight.zip"'}
    )


def _of(here: Here, id: str, number: int) -> Picture:
    """A finished picture as its run lists it. Raises Missing where there is none."""
    pictures = here.runs.get(id).pictures
    if not 0 <= number < len(pictures):
        raise Missing(f"run {id} has {len(pictures)} pictures, there is no number {number}")
    return pictures[number]


@router.post(
    "/v1/films/{format}",
    responses=content(*(MIME[name] for name in ("gif", "webp", "apng", "webm", "mp4"))),
    response_class=Response,
)
def film(here: Here, format: Literal["gif", "webp", "apng", "webm", "mp4"], asked: Film) -> Response:
    """Finished pictures as one looping film, in the order given: a morph to take along. webm and mp4 where an encoder is installed."""
    sizes = {(p.width, p.height) for p in (_of(here, shot.run, shot.picture) for shot in asked.frames)}
    if len(sizes) > 1:
        raise SpecError("frames: pictures of several sizes, a film has one")
    if len(asked.frames) * math.prod(next(iter(sizes))) > here.limits.decompressed:
        raise SpecError(f"frames: {here.limits.decompressed:,} pixels in all are read here")
    known = dict[tuple[str, int], np.ndarray]()
    for shot in asked.frames:
        if (shot.run, shot.picture) not in known:
            known[shot.run, shot.picture] = decode(picture_bytes(here, shot.run, shot.picture), here.limits.decompressed)
    frames = np.stack([np.broadcast_to(f, (*f.shape[:2], 3)) for f in (known[s.run, s.picture] for s in asked.frames)])
    with here.exporting():
        data = export.pictures(frames, format, asked.seconds, back=asked.back, hold=asked.hold)
    return Response(data, media_type=MIME[format], headers={"content-disposition": f'attachment; filename="film.{format}"'})


@router.post("/v1/runs/commands")
def line(here: Here, call: Call, sheet: Sheet) -> Line:
    """One line for a shell that makes all cells of a sheet again: `safelight grid` where it knows such axes, else a command a cell."""
    runs, axes = [here.runs.get(id) for id in sheet.ids], [(axis.path, axis.values) for axis in sheet.axes]
    return Line(**commands.together(here, runs, str(call.base_url).rstrip("/"), axes, sheet.prompt))


@router.post("/v1/morphs/angles")
def angles(here: Here, path: Path) -> Legs:
    """How far each leg of a path turns, in the very noise and words that its frames are made of; nothing is rendered."""
    asked = parse({"count": 2, **path.request}, "request")
    assert isinstance(asked, Request)
    if not isinstance(asked.task, Interpolate):
        raise SpecError(f"request.task: legs are of a task 'interpolate', not '{asked.task.kind}'")
    if len(asked.task.ends) > 128:
        raise SpecError(f"request.task.ends: {len(asked.task.ends)} ends, 128 may be measured together")
    asked = here.checked(Ask(model=path.model, request=asked)).request
    model, assets = here.model(path.model), here.assets()
    full, task = asked.resolve(model, assets), asked.task
    assert isinstance(task, Interpolate)
    brief = Brief(model, full, (full.prompt[0],), (full.index,), Noise(full.seed, (full.index,)), assets)
    with here.seeking, torch.inference_mode():
        return Legs(legs=[Leg(**turn._asdict()) for turn in task.turns(brief)])


__all__ = ["router"]
