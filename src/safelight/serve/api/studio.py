"""The queue, the settings, storage, uploads, our own source, and what watches over a server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Path, Response
from fastapi import Request as Call
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from safelight import __version__, picture
from safelight.picture import FORMATS, Note
from safelight.serve import guard
from safelight.serve.api import export
from safelight.serve.api.answers import content, inside, received, sent
from safelight.serve.api.base import Here, Missing, Plain, Server, TooLarge
from safelight.serve.jobs import Worker
from safelight.serve.runs import LONGEST_PARAMETERS, Prune, Run, Storage
from safelight.serve.settings import SESSION, Limits, Public
from safelight.spec import SpecError, parse

router = APIRouter(tags=["studio"])

Seal = Annotated[str, Path(pattern="^sha256:[0-9a-f]{32}$")]
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            **{mime: {"schema": {"type": "string", "format": "binary"}} for mime in ("image/png", "image/webp", "image/jpeg")},
        },
    }
}


class Queue(BaseModel):
    """What runs and what waits, in order; paused: nothing new begins; workers: the processes that make pictures."""

    paused: bool
    jobs: list[Run]
    workers: list[Worker]


class Order(Plain):
    """Waiting runs in the order in which they shall be made."""

    ids: list[Annotated[str, Field(max_length=40)]] = Field(max_length=20_000)


class Uploaded(BaseModel):
    """A picture that is now at hand by its seal; note: what it says of itself, parameters: the text of another tool in it, request: that
    text as fields of a request to the default model, reports: what of it cannot be followed, a line each."""

    seal: str
    width: int
    height: int
    note: dict[str, Any] | None = None
    parameters: str | None = None
    request: dict[str, Any] | None = None
    reports: list[str] = []


class Settings(BaseModel):
    """The settings that a client may change, and beside them what it should know of the others. exports: formats of /export/."""

    settings: Public
    limits: Limits
    version: str
    token: bool
    credentials: bool
    local: bool
    exports: list[str]


class Freed(BaseModel):
    """How many bytes were freed."""

    freed: int


class Source(BaseModel):
    """A function of ours as it stands in the package."""

    name: str
    title: str
    source: str


class Sources(BaseModel):
    """The functions that can be read, by name, and what each is."""

    sources: dict[str, str]


class Health(BaseModel):
    """Whether the server answers; workers: processes that make pictures."""

    status: str
    version: str
    workers: int


# ---- the queue ---------------------------------------------------------------------------------------------------------------


@router.get("/v1/jobs")
def jobs(here: Here) -> Queue:
    """What runs and what waits."""
    return Queue(paused=here.jobs.paused, jobs=list(here.jobs.list()), workers=list(here.jobs.workers()))


@router.post("/v1/jobs/pause")
def pause(here: Here) -> Queue:
    """Let nothing new begin; what runs goes on."""
    here.jobs.pause_all()
    return jobs(here)


@router.post("/v1/jobs/resume")
def resume(here: Here) -> Queue:
    """Let the queue go on."""
    here.jobs.resume_all()
    return jobs(here)


@router.put("/v1/jobs/order")
def reorder(here: Here, order: Order) -> Queue:
    """Put waiting runs into another order."""
    here.jobs.reorder(order.ids)
    return jobs(here)


# ---- pictures ----------------------------------------------------------------------------------------------------------------


@router.post("/v1/pictures", openapi_extra=_UPLOAD)
async def upload(here: Here, call: Call) -> Uploaded:
    """Bring a picture: its bytes as the body, or a file of a form. Requests name it by its seal."""
    return await _kept(here, call, mask=False)


@router.post("/v1/masks", openapi_extra=_UPLOAD)
async def upload_mask(here: Here, call: Call) -> Uploaded:
    """Bring a mask: white is painted anew, black is kept, transparent is kept too."""
    return await _kept(here, call, mask=True)


async def _kept(here: Server, call: Call, *, mask: bool) -> Uploaded:
    import anyio

    if call.headers.get("content-type", "").startswith("multipart/form-data"):
        form = await call.form(max_files=1, max_fields=10)
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise SpecError("a form brings its picture as a file")
        data = await files[0].read()
    else:
        data = await call.body()
    return await anyio.to_thread.run_sync(lambda: kept_mask(here, data) if mask else kept(here, data))


def kept(here: Server, data: bytes) -> Uploaded:
    """A picture that was sent, kept with its note. Raises TooLarge for a bomb, SpecError for what is no picture or has a damaged note."""
    received(here, data)
    with Lying(here, data) as file:
        pixels, note = picture.read(file)
        if note is not None:
            parse(note.request, "request")
        foreign = picture.parameters(file) if note is None else None
    seal = here.folder.keep(pixels, note)
    told = note.model_dump(mode="json") if isinstance(note, Note) else None
    request, reports = read_as_request(here, foreign) if foreign else (None, [])
    return Uploaded(
        seal=seal,
        width=pixels.shape[2],
        height=pixels.shape[1],
        note=told,
        parameters=foreign,
        request=request,
        reports=reports,
    )


def read_as_request(here: Server, text: str) -> tuple[dict[str, Any] | None, list[str]]:
    """(request, reports) of another tool's text, by the default model. Raises TooLarge for one that is longer than is read."""
    from safelight.interop import infotext

    if len(text) > LONGEST_PARAMETERS:
        raise TooLarge(f"picture: its parameters are {len(text):,} characters, {LONGEST_PARAMETERS:,} are read")
    names = {*here.folder.adapters(), *here.folder.adapters("embeddings")}
    try:
        return infotext.to_request(infotext.parse(text), here.model("default"), at_hand=names)
    except Missing:
        return None, []


def kept_mask(here: Server, data: bytes, *, alpha: bool = False, invert: bool = False) -> Uploaded:
    """A mask that was sent, kept as white on black. alpha: transparent is painted, as OpenAI has it; invert: black is."""
    received(here, data)
    with Lying(here, data) as file:
        pixels = picture.read_mask(file, alpha=alpha)
    if invert:
        pixels = 255 - pixels
    seal = here.folder.keep(pixels)
    return Uploaded(seal=seal, width=pixels.shape[2], height=pixels.shape[1])


class Lying:
    """`with Lying(here, data) as file`: bytes as a file, for readers of files; gone afterwards."""

    def __init__(self, here: Server, data: bytes) -> None:
        self.here, self.data = here, data

    def __enter__(self) -> Any:
        import tempfile
        from pathlib import Path as File

        self.folder = tempfile.TemporaryDirectory(dir=self.here.folder.path)
        file = File(self.folder.name) / "picture"
        file.write_bytes(self.data)
        return file

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()


@router.get("/v1/pictures/{seal}.png", responses=content("image/png"), response_class=Response)
def picture_of(here: Here, call: Call, seal: Seal) -> Response:
    """A picture that was brought, or that a run made, by its seal."""
    from safelight.serve.safety import check_picture

    file = here.folder.picture(seal)
    data = inside(here, file)
    if FORMATS.get(file.suffix.lower()) != "PNG":
        data = picture.encode(*picture.read(file), "PNG")
    check_picture(here.public.safety, data)
    return sent(call, data, "image/png")


# ---- who is here ---------------------------------------------------------------------------------------------------------------


@router.post("/v1/session", status_code=204)
def sign_in(here: Here, call: Call, response: Response) -> None:
    """Sign this browser in: for the token in Authorization (Bearer) it is given a cookie that stands for it for thirty days."""
    if not here.tokens:
        return
    _, _, secret = call.headers.get("authorization", "").partition(" ")
    key = here.tokens.sign_in(secret.strip())
    secure = call.url.scheme == "https"
    response.set_cookie(
        guard.cookie(here.settings), key, max_age=SESSION, path="/", secure=secure, httponly=True, samesite="strict"
    )


@router.delete("/v1/session", status_code=204)
def sign_out(here: Here, call: Call, response: Response) -> None:
    """End this browser's session."""
    key = guard.session(call.headers.get("cookie", ""), here.settings)
    if key is not None:
        here.tokens.sign_out(key)
    response.delete_cookie(guard.cookie(here.settings), path="/", httponly=True, samesite="strict")


# ---- settings and room -------------------------------------------------------------------------------------------------------


@router.get("/v1/settings")
def settings(here: Here) -> Settings:
    """The settings."""
    own = here.settings
    return Settings(
        settings=here.public,
        limits=own.limits,
        version=__version__,
        token=bool(here.tokens),
        credentials=own.provenance is not None,
        local=own.local,
        exports=export.formats(),
    )


@router.put("/v1/settings")
def change(here: Here, public: Public) -> Settings:
    """Change the settings; they are kept. A policy whose package is absent is refused."""
    here.change(public)
    return settings(here)


@router.get("/v1/storage")
def storage(here: Here) -> Storage:
    """What lies on the disk."""
    return here.runs.storage()


@router.post("/v1/prune")
def prune(here: Here, policy: Prune) -> Freed:
    """Make room now, as a policy says."""
    return Freed(freed=here.runs.prune(policy))


# ---- our own source ----------------------------------------------------------------------------------------------------------


@router.get("/v1/source")
def sources(here: Here) -> Sources:
    """Which of our functions can be read here."""
    from safelight.serve.explain import sources as listed

    return Sources(sources=dict(listed()))


@router.get("/v1/source/{name:path}")
def source(here: Here, name: Annotated[str, Path(pattern=r"^[A-Za-z0-9_.+/-]{1,100}$")]) -> Source:
    """A function of ours, as it stands in the package that is running."""
    from safelight.serve.explain import source as text
    from safelight.serve.explain import sources as listed

    titles = dict(listed())
    if name not in titles:
        raise Missing(f"no source '{name}' (there: {', '.join(titles)})")
    return Source(name=name, title=str(titles[name]), source=text(name))


# ---- watching over it --------------------------------------------------------------------------------------------------------


@router.get("/healthz", tags=["health"])
def health(here: Here) -> Health:
    """Whether it answers, and has someone to do the work."""
    return Health(status="ok", version=__version__, workers=len(here.jobs.workers()))


@router.get(
    "/metrics",
    tags=["health"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text"}},
)
def metrics(here: Here) -> Response:
    """Counters and gauges in Prometheus' text format (version 0.0.4)."""
    db = here.folder.db
    states = {row[0]: row[1] for row in db.execute("SELECT state, count(*) FROM runs WHERE deleted IS NULL GROUP BY state")}
    lines = [
        *_metric(
            "safelight_info", "gauge", "the version that runs", {f'version="{__version__}",torch="{torch.__version__}"': 1}
        )
    ]
    known = ("queued", "running", "paused", "stopped", "done", "failed")
    lines += _metric("safelight_runs", "gauge", "runs by state", {f'state="{s}"': states.get(s, 0) for s in known})
    lines += _metric("safelight_queue_paused", "gauge", "1 while nothing new begins", {"": int(here.jobs.paused)})
    lines += _metric("safelight_workers", "gauge", "worker processes that are alive", {"": len(here.jobs.workers())})
    steps = db.execute("SELECT coalesce(sum(steps_done), 0) FROM runs").fetchone()[0]
    lines += _metric("safelight_steps", "gauge", "steps of all runs that are kept", {"": steps})
    loaded = {f'model="{m.name}",device="{m.device}"': m.bytes for m in here.jobs.models()}
    lines += _metric("safelight_model_bytes", "gauge", "bytes of the models in memory", loaded)
    speeds = {
        f'model="{r["model"]}",pixels="{r["pixels"]}"': r["ms"] / 1000
        for r in db.execute("SELECT DISTINCT model, pixels, ms FROM speeds GROUP BY model, pixels")
    }
    lines += _metric("safelight_step_seconds", "gauge", "measured seconds a step", speeds)
    lines += _metric("safelight_disk_free_bytes", "gauge", "free bytes where the data folder lies", {"": here.folder.free()})
    answered = {f'method="{method}",status="{status}"': n for (method, status), n in sorted(here.answered.items())}
    lines += _metric("safelight_requests_total", "counter", "requests answered", answered)
    lines += _metric("safelight_uptime_seconds", "gauge", "seconds since the start", {"": round(time.time() - here.began, 3)})
    return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def _metric(name: str, sort: str, about: str, values: Mapping[str, float]) -> list[str]:
    rows = [f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in values.items()]
    return [f"# HELP {name} {about}", f"# TYPE {name} {sort}", *rows]


__all__ = ["Lying", "Uploaded", "kept", "kept_mask", "router"]
