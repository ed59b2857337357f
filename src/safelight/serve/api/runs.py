"""Runs: asked for, listed, forked, looked at step by step, and taken along."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import tempfile
from pathlib import Path as File
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter, Path, Query, Response, UploadFile
from fastapi import Request as Call
from pydantic import BaseModel, Field

from safelight import picture as pictures
from safelight.guide import Mix
from safelight.serve import safety
from safelight.serve.api import commands, export
from safelight.serve.api.answers import MIME, content, inside, png, received, sent
from safelight.serve.api.base import Conflict, Here, Missing, Plain, Server, confined
from safelight.serve.attention import Heard
from safelight.serve.lenses import LENSES
from safelight.serve.runs import Ask, Line, Node, Record, Run
from safelight.spec import SpecError, parse

router = APIRouter(tags=["runs"])

Id = Annotated[str, Path(pattern="^[0-9a-z]{12}$", description="the run's id")]
Step = Annotated[int, Path(ge=0, le=100_000, description="the step, from 0")]
Which = Annotated[int, Query(ge=0, le=100_000, description="which of the run's pictures")]
Lens = Literal["x", "x0", "noise", "guidance", "attention", "difference"]
Format = Literal["png", "webp", "jpg"]
assert set(LENSES) == set(Lens.__args__)  # type: ignore[attr-defined]


class Page(BaseModel):
    """Runs, the newest first; next: the `before` of the next page, null on the last."""

    runs: list[Run]
    next: str | None


class Change(Plain):
    """What is changed of a run; what is absent stays."""

    star: bool | None = None
    board: str | None = Field(None, max_length=100)
    title: str | None = Field(None, max_length=500)
    priority: int | None = Field(None, ge=-100, le=100)


class Fork(Plain):
    """Go on from a step of a run with fields of its request changed. noise: the part of fresh noise, 0..1."""

    step: int = Field(ge=0, le=100_000)
    request: dict[str, Any] = {}
    noise: float = Field(0.0, ge=0, le=1)
    record: Record | None = None
    priority: int = Field(0, ge=-100, le=100)
    title: str = Field("", max_length=500)
    group: str | None = Field(None, max_length=64)


class Tree(BaseModel):
    """A run with all that it descends from and that descend from it, the oldest first."""

    nodes: list[Node]


class Board(BaseModel):
    """A board, and how many runs are on it."""

    name: str
    runs: int


class Boards(BaseModel):
    """The boards that runs are on, by name."""

    boards: list[Board]


class Log(BaseModel):
    """What happened to a run, the oldest first."""

    lines: list[Line]


class Sprite(BaseModel):
    """Where the frames of a sprite lie: frame i is cell (i % columns, i // columns), each width x height pixels."""

    columns: int
    rows: int
    width: int
    height: int
    frames: int


class Recompute(Plain):
    """A step made anew: by another mix, or x0 itself given (flat, as `x0` of the answer) to be decoded."""

    mix: Any = None
    x0: list[float] | None = Field(None, max_length=1 << 22)
    picture: int = Field(0, ge=0, le=100_000)


class Recomputed(BaseModel):
    """x0 of the step, flat, with its shape (C, H, W); picture, linear: it decoded, and by the linear preview, as data URLs."""

    x0: list[float]
    shape: list[int]
    picture: str
    linear: str


class Token(BaseModel):
    """A token that the network attends to."""

    i: int
    text: str
    id: int
    start: int | None = None
    end: int | None = None
    weight: float = 1.0
    window: int = 0
    role: str = "word"


class Attention(BaseModel):
    """What was recorded of attention. identical: whether the replay ended in the run's very bits."""

    tokens: list[Token]
    steps: int
    identical: bool


class Share(BaseModel):
    """How much of the attention at a place token `i` has."""

    i: int
    text: str
    share: float


class Shares(BaseModel):
    """The tokens of a place, the most attended first."""

    tokens: list[Share]


class Commands(BaseModel):
    """What makes this run's first picture again, byte for byte. needs: pictures that `cli` and `python` read from the folder they run in,
    as commands that fetch them."""

    curl: str
    cli: str
    python: str
    needs: list[str] = []


class ImportAnswer(BaseModel):
    """The runs made of the files; known: how many were here already; refused: `name: why` of each that was not taken."""

    runs: list[Run]
    known: int
    refused: list[str]


# ---- asking ------------------------------------------------------------------------------------------------------------------


@router.post(
    "/v1/runs", status_code=202, responses={200: {"content": {"image/png": {}}, "description": "with ?picture: that picture"}}
)
async def make(
    here: Here,
    call: Call,
    ask: Ask,
    picture: Annotated[int | None, Query(ge=0, le=100_000, description="wait, and answer with this picture of the run")] = None,
) -> Run:
    """Queue a run. With ?picture=K the answer comes when it is done, and is its picture K as PNG."""
    run = await _in_thread(here.ask, ask)
    return run if picture is None else await _waited(here, call, run, picture)  # type: ignore[return-value]


@router.get("/v1/runs")
def find(
    here: Here,
    q: Annotated[str, Query(max_length=1000, description="words of prompt, title, model or board")] = "",
    model: Annotated[str, Query(max_length=200)] = "",
    state: Annotated[str, Query(max_length=200, description="one or several, divided by commas")] = "",
    kind: Annotated[str, Query(max_length=200, description="one or several, divided by commas")] = "",
    star: bool | None = None,
    board: Annotated[str | None, Query(max_length=100)] = None,
    group: Annotated[str | None, Query(max_length=64)] = None,
    before: Annotated[str | None, Query(max_length=40, description="an id: only older ones")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    seed: Annotated[int | None, Query(ge=0, lt=1 << 64)] = None,
    since: Annotated[
        float | None, Query(ge=0, le=1e11, description="asked for at this time or later, seconds since 1970")
    ] = None,
    until: Annotated[float | None, Query(ge=0, le=1e11, description="asked for before this time")] = None,
) -> Page:
    """Runs, the newest first."""
    found = here.runs.find(q, model, state, kind, star, board, group, before, limit, seed, since, until)
    return Page(runs=found, next=found[-1].id if len(found) == limit else None)


@router.get("/v1/boards")
def boards(here: Here) -> Boards:
    """The boards that runs are on."""
    return Boards(boards=[Board(name=name, runs=runs) for name, runs in here.runs.boards().items()])


@router.post("/v1/runs/import")
def take_in(here: Here, files: list[UploadFile]) -> ImportAnswer:
    """Take in pictures with what their notes say of them: PNG, WebP and JPEG files, as they are."""
    made, known, refused = list[Run](), 0, list[str]()
    with tempfile.TemporaryDirectory(dir=here.folder.path) as folder:
        for number, file in enumerate(files):
            name = File((file.filename or "picture.png").replace("\\", "/").replace("\0", "")).name[:200]
            suffix = File(name).suffix.lower()
            try:
                if suffix not in pictures.FORMATS:
                    raise SpecError(f"'{suffix}' is no picture format here (png, webp, jpg)")
                target = File(folder) / f"{number}{suffix}"
                data = file.file.read()
                received(here, data)
                target.write_bytes(data)
                run = here.runs.import_file(target, title=File(name).stem)
            except (SpecError, OSError) as error:
                refused.append(f"{name}: {' '.join(str(error).split())}".replace(str(folder), "").strip())
                continue
            known += run is None
            made += [run] if run is not None else []
    return ImportAnswer(runs=made, known=known, refused=refused)


@router.get("/v1/runs/{id}")
def get(here: Here, id: Id) -> Run:
    """A run as it now is."""
    return here.runs.get(id)


@router.patch("/v1/runs/{id}")
def change(here: Here, id: Id, change: Change) -> Run:
    """Star a run, put it on a board, give it a title, or while it waits another priority."""
    if change.priority is not None:
        here.jobs.rank(id, change.priority)
    return here.runs.change(id, star=change.star, board=change.board, title=change.title)


@router.delete("/v1/runs/{id}", status_code=204)
def delete(here: Here, id: Id) -> None:
    """Take a run away; for ten seconds `restore` brings it back."""
    here.runs.delete(id)


@router.post("/v1/runs/{id}/restore")
def restore(here: Here, id: Id) -> Run:
    """Bring a deleted run back."""
    return here.runs.restore(id)


@router.post("/v1/runs/{id}/cancel")
def cancel(here: Here, id: Id) -> Run:
    """Stop a run at its next step, a waiting one at once. What is recorded is kept."""
    return here.jobs.cancel(id)


@router.post("/v1/runs/{id}/pause")
def pause(here: Here, id: Id) -> Run:
    """Let a run wait from its next step until it is resumed."""
    return here.jobs.pause(id)


@router.post("/v1/runs/{id}/resume")
def resume(here: Here, id: Id) -> Run:
    """Go on with a paused or stopped run from its last step; the result is that of a run that was never stopped."""
    return here.jobs.resume(id)


@router.post("/v1/runs/{id}/retry")
def retry(here: Here, id: Id) -> Run:
    """Make a failed or stopped run anew, from its beginning."""
    return here.jobs.retry(id)


@router.post(
    "/v1/runs/{id}/fork",
    status_code=202,
    responses={200: {"content": {"image/png": {}}, "description": "with ?picture: that picture"}},
)
async def fork(
    here: Here, call: Call, id: Id, fork: Fork, picture: Annotated[int | None, Query(ge=0, le=100_000)] = None
) -> Run:
    """Go on from a recorded step with something changed; only the steps from there on are made."""
    run = await _in_thread(forked, here, id, fork)
    return run if picture is None else await _waited(here, call, run, picture)  # type: ignore[return-value]


def forked(here: Server, id: str, fork: Fork, relation: Literal["fork", "cell"] = "fork") -> Run:
    """Queue a fork, once the limits and the policy have nothing against its changes."""
    here.check_values(fork.request)
    here.room(1)
    return here.jobs.fork(
        id,
        fork.step,
        fork.request,
        noise=fork.noise,
        record=fork.record,
        priority=fork.priority,
        title=fork.title,
        group=fork.group,
        relation=relation,
    )


@router.get("/v1/runs/{id}/tree")
def tree(here: Here, id: Id) -> Tree:
    """What a run descends from, and what descends from it."""
    return Tree(nodes=here.runs.tree(id))


@router.get("/v1/runs/{id}/log")
def log(here: Here, id: Id) -> Log:
    """What happened to a run: claimed, its model loaded, its stages, how it ended and why. A traceback stays with the server."""
    return Log(lines=here.runs.log(id))


@router.get("/v1/runs/{id}/commands")
def again(here: Here, call: Call, id: Id, picture: Which = 0) -> Commands:
    """The command lines that make a run's picture again, byte for byte."""
    base = str(call.base_url).rstrip("/")
    return Commands(**commands.of(here, here.runs.get(id), base, picture))


# ---- pictures and recordings -------------------------------------------------------------------------------------------------


@router.get(
    "/v1/runs/{id}/pictures/{number}.{format}",
    responses=content("image/png", "image/webp", "image/jpeg"),
    response_class=Response,
)
def picture_of(
    here: Here,
    call: Call,
    id: Id,
    number: Annotated[int, Path(ge=0, le=100_000)],
    format: Format,
    credentials: Annotated[bool, Query(description="signed with content credentials (C2PA)")] = False,
) -> Response:
    """A finished picture with its note, as the worker wrote it; in another format than it was written, packed anew with the same note."""
    data = picture_bytes(here, id, number, format)
    if credentials:
        if here.settings.provenance is None:
            raise SpecError("credentials: this server has no certificate to sign with (--c2pa-cert, --c2pa-key)")
        data = safety.signed(data, MIME[format], here.settings.provenance, f"{id} {number}")
    return sent(call, data, MIME[format])


def picture_bytes(here: Server, id: str, number: int, format: str = "png") -> bytes:
    """The file of a run's picture. Raises Refused when the safety policy has something against it."""
    file = here.runs.picture(id, number)
    data = inside(here, file)
    if pictures.FORMATS[file.suffix.lower()] != pictures.FORMATS[f".{format}"]:
        data = pictures.encode(*pictures.read(file), pictures.FORMATS[f".{format}"])
    safety.check_picture(here.public.safety, data)
    return data


@router.get("/v1/runs/{id}/trace.safetensors", responses=content("application/octet-stream"), response_class=Response)
def trace(here: Here, id: Id, stage: Annotated[int, Query(ge=0, le=16)] = 0) -> Response:
    """The recording, as `safelight.Trace.open` reads it; of a run of several stages, one of them."""
    from fastapi.responses import FileResponse

    file, run = confined(here.folder.path, here.runs.trace(id, stage)), here.runs.get(id)
    for k in range(max(len(run.pictures), 1)):
        shown(here, run, k)
    return FileResponse(file, media_type="application/octet-stream", filename=f"{id}.safetensors")


@router.get("/v1/runs/{id}/sprites")
def sprites(here: Here, id: Id, picture: Which = 0) -> dict[str, Sprite]:
    """Which lenses this run has, and where the frames lie in the sprite of each."""
    seen = here.lenses(here.recording(id), picture)
    found = Sprite(**seen.geometry()._asdict())
    return dict.fromkeys(seen.available, found)


@router.get("/v1/runs/{id}/sprite/{lens}.webp", responses=content("image/webp"), response_class=Response)
def sprite(
    here: Here, call: Call, id: Id, lens: Lens, picture: Which = 0, token: Annotated[int | None, Query(ge=0, le=100_000)] = None
) -> Response:
    """All steps of a run through one lens, on one sheet."""
    return sent(call, sheet(here, id, lens, picture, token), MIME["webp"])


def sheet(here: Server, id: str, lens: Lens, picture: int = 0, token: int | None = None) -> bytes:
    """A sprite; of a run that is over it is kept beside its recording."""
    found = here.recording(id)
    shown(here, found.run, picture)
    tail = f"-{token}" if token is not None and lens == "attention" else ""
    file = here.folder.run(id) / f"sprite-{lens}-{picture}{tail}-{found.version[0]:x}.webp"
    with contextlib.suppress(Missing):
        return inside(here, file)
    seen = here.lenses(found, picture)
    with here.decoding:
        data, _ = seen.sheet(lens, token)
    if found.run.state in ("done", "stopped") and lens != "attention":
        from safelight.files import atomic_bytes

        atomic_bytes(file, data)
    return data


@router.get("/v1/runs/{id}/steps/{k}/{lens}.png", responses=content("image/png"), response_class=Response)
def frame(
    here: Here,
    call: Call,
    id: Id,
    k: Step,
    lens: Lens,
    picture: Which = 0,
    token: Annotated[int | None, Query(ge=0, le=100_000)] = None,
) -> Response:
    """One step of a run through one lens."""
    found = here.recording(id)
    shown(here, found.run, picture)
    with here.decoding:
        return sent(call, png(here.lenses(found, picture).frame(lens, k, token)), MIME["png"])


@router.get("/v1/runs/{id}/steps/{k}/tensors.bin", responses=content("application/octet-stream"), response_class=Response)
def tensors(here: Here, call: Call, id: Id, k: Step, picture: Which = 0) -> Response:
    """The tensors of a step: a line of JSON that names them and their shapes, then their values as little-endian float32."""
    found = here.recording(id)
    shown(here, found.run, picture)
    header, body = here.lenses(found, picture).tensors(k)
    return sent(call, json.dumps(header, separators=(",", ":")).encode() + b"\n" + body, "application/octet-stream")


@router.get("/v1/runs/{id}/steps/{k}/tensors.npz", responses=content("application/octet-stream"), response_class=Response)
def arrays(here: Here, call: Call, id: Id, k: Step, picture: Which = 0) -> Response:
    """The tensors of a step as NumPy reads them, `/` in their names as `.`."""
    recording = here.recording(id)
    shown(here, recording.run, picture)
    header, body = here.lenses(recording, picture).tensors(k)
    flat, at, found = np.frombuffer(body, "<f4"), 0, dict[str, np.ndarray]()
    for one in header["tensors"]:
        size = math.prod(one["shape"])
        found[one["name"].replace("/", ".")] = flat[at : at + size].reshape(one["shape"])
        at += size
    out = io.BytesIO()
    found |= {name: np.asarray(header[name]) for name in ("t", "alpha", "sigma")}
    np.savez(out, allow_pickle=False, **found)
    return sent(call, out.getvalue(), "application/octet-stream", f"{id}-{k}.npz")


@router.post("/v1/runs/{id}/steps/{k}/recompute")
def recompute(here: Here, id: Id, k: Step, asked: Recompute) -> Recomputed:
    """What this step would have believed under another mix of its recorded branches, or how a given x0 is decoded."""
    found = here.recording(id)
    shown(here, found.run, asked.picture)
    seen = here.lenses(found, asked.picture)
    with here.decoding, torch.inference_mode():
        if asked.x0 is None:
            mix = parse(asked.mix if asked.mix is not None else {}, "mix")
            assert isinstance(mix, Mix)
            x0 = seen.recompute(k, mix, here.assets()).x0
        elif asked.mix is not None:
            raise SpecError("recompute: give a mix or x0, not both")
        else:
            shape = seen.x0(k).shape
            if len(asked.x0) != math.prod(shape):
                raise SpecError(f"x0: {len(asked.x0)} values, the latent has {' x '.join(map(str, shape))}")
            x0 = torch.tensor(asked.x0, dtype=torch.float32).view(*shape)
        decoded, linear = seen.painted(x0)
    return Recomputed(x0=x0.flatten().tolist(), shape=list(x0.shape), picture=url(decoded), linear=url(linear))


@router.get("/v1/runs/{id}/numbers")
def numbers(here: Here, id: Id, picture: Which = 0) -> dict[str, Any]:
    """What the charts draw: per step the schedule, norms, when it was decided, spectra, milliseconds."""
    seen = here.lenses(here.recording(id), picture)
    with here.decoding:
        return seen.numbers()


@router.get("/v1/runs/{id}/explain")
def explained(here: Here, id: Id, picture: Which = 0) -> dict[str, Any]:
    """The numbers of this run at each of the five stops from words to a picture."""
    from safelight.serve.explain import explain

    found = here.recording(id)
    shown(here, found.run, picture)
    seen = here.lenses(found, picture)
    with here.decoding:
        return explain(found.trace, found.model, picture, seen)


# ---- attention ---------------------------------------------------------------------------------------------------------------


@router.post("/v1/runs/{id}/attention", status_code=202)
def attend(here: Here, id: Id) -> Run:
    """Record what the network attended to, by a replay of the run that ends in the same picture."""
    here.room(1)
    return here.jobs.attention(id)


@router.get("/v1/runs/{id}/attention")
def attention(here: Here, id: Id, picture: Which = 0) -> Attention:
    """The tokens whose attention was recorded."""
    return Attention.model_validate(_heard(here, id, picture).json(picture))


@router.get("/v1/runs/{id}/attention/at")
def at(
    here: Here,
    id: Id,
    x: Annotated[float, Query(ge=0, le=1)],
    y: Annotated[float, Query(ge=0, le=1)],
    step: Annotated[int | None, Query(ge=0, le=100_000)] = None,
    picture: Which = 0,
) -> Shares:
    """The tokens ranked by the attention that a place of the picture pays them; x, y: from 0 left and top to 1."""
    heard = _heard(here, id, picture)
    named = heard.tokens(picture)
    return Shares(tokens=[Share(i=i, text=named[i].text, share=share) for i, share in heard.at(y, x, step, picture)])


@router.get("/v1/runs/{id}/attention/{token}.png", responses=content("image/png"), response_class=Response)
def heat(
    here: Here,
    call: Call,
    id: Id,
    token: Annotated[int, Path(ge=0, le=100_000)],
    step: Annotated[str, Query(pattern=r"^(mean|\d{1,6})$", description="a step, or mean over all")] = "mean",
    picture: Which = 0,
) -> Response:
    """How much each place attends to a token, as grey: white where it is most."""
    heard = _heard(here, id, picture)
    if token >= len(heard.tokens(picture)):
        raise Missing(f"run {id} has {len(heard.tokens(picture))} tokens, there is no number {token}")
    height, width = here.recording(id).trace.pictures.shape[-2:]
    grey = heard.picture(token, None if step == "mean" else int(step), picture, (height, width))[..., 0]
    return sent(call, png(grey), MIME["png"])


def _heard(here: Server, id: str, picture: int) -> Heard:
    found = here.recording(id)
    here.row(found, picture)
    heard = here.heard(id)
    if heard is None:
        raise Missing(f"no attention is recorded of run {id}: ask for it with POST /v1/runs/{id}/attention")
    return heard


# ---- export ------------------------------------------------------------------------------------------------------------------


@router.get(
    "/v1/runs/{id}/export/{format}",
    responses=content(*(MIME[name] for name in ("gif", "webp", "apng", "webm", "mp4", "zip", "html"))),
    response_class=Response,
)
def exported(
    here: Here,
    call: Call,
    id: Id,
    format: Literal["gif", "webp", "apng", "webm", "mp4", "html", "zip"],
    picture: Which = 0,
    lens: Lens = "x0",
    seconds: Annotated[float, Query(gt=0, le=60)] = 3.0,
) -> Response:
    """A run to take along: a film of its steps, its frames and files as a zip, or one HTML file with the microscope in it."""
    found = here.recording(id)
    for number in range(len(found.run.pictures)) if format == "html" else (picture,):  # a page holds all of them
        shown(here, found.run, number)
    with here.exporting():
        if format == "html":
            from safelight.serve.page import page

            data = page(found.run.model_dump(mode="json"), found.trace, found.model, heard=here.heard(id)).encode()
        elif format == "zip":
            files = [(f"{k}.png", picture_bytes(here, id, k)) for k in range(len(found.run.pictures))]
            data = export.archive(found, here.lenses(found, picture), files)
        else:
            data = export.film(here.lenses(found, picture), lens, format, seconds)
    return sent(call, data, MIME[format], f"{id}.{format}")


# ---- shared ------------------------------------------------------------------------------------------------------------------


def shown(here: Server, run: Run, picture: int) -> None:
    """Raise Refused where the safety policy looks at pictures and has something against this run's, or cannot see it yet."""
    if not here.public.safety.looks:
        return
    if picture >= len(run.pictures):
        raise Conflict(f"run {run.id}: the safety policy shows steps once the picture is finished and was looked at")
    picture_bytes(here, run.id, picture)


def url(pixels: np.ndarray) -> str:
    """A picture as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


async def _waited(here: Server, call: Call, run: Run, picture: int) -> Response:
    """A run's picture, once it is done."""
    done = await here.made(run.id, call)
    data = await _in_thread(picture_bytes, here, done.id, picture)
    return Response(data, media_type=MIME["png"], headers={"x-run": done.id})


async def _in_thread(work: Any, *arguments: Any) -> Any:
    import anyio

    return await anyio.to_thread.run_sync(work, *arguments)


__all__ = ["Fork", "forked", "picture_bytes", "router", "sheet", "shown"]
