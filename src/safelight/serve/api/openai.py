"""The images API of OpenAI: generations, edits (transparent is painted), variations, with partial images while they are made.

    client = openai.OpenAI(base_url="http://127.0.0.1:7860/v1", api_key="any, or the server's token")
    client.images.generate(prompt="a red apple", model="default", n=2, size="64x64", extra_body={"seed": 3, "steps": 12})

Beyond that API: `seed`, `steps`, `negative_prompt`, `guidance`, and for edits `strength`.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, File, Form, UploadFile
from fastapi import Request as Call
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safelight import picture as pictures
from safelight.guide.cfg import scaled
from safelight.serve.api.answers import transparency
from safelight.serve.api.base import Conflict, Here, Server
from safelight.serve.api.events import HEADERS
from safelight.serve.api.models import known
from safelight.serve.api.runs import picture_bytes
from safelight.serve.api.studio import kept, kept_mask
from safelight.serve.runs import OVER, Ask, Run
from safelight.spec import SpecError, describe, parse
from safelight.task import Request

router = APIRouter(prefix="/v1/images", tags=["openai"])

Output = Literal["png", "webp", "jpeg"]
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


class Common(BaseModel):
    """What all three have. Fields of that API that have no meaning here (quality, style, user, ...) are taken and change nothing."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: str | None = Field(None, max_length=100)
    n: Annotated[int | None, Field(ge=1, le=10)] = 1
    size: str | None = Field(None, max_length=20, description="WIDTHxHEIGHT, or auto")
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Output | None = None
    stream: bool | None = None
    partial_images: Annotated[int | None, Field(ge=0, le=3)] = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**64)] = None
    steps: Annotated[int | None, Field(ge=1)] = None
    negative_prompt: str = Field("", max_length=32_000)
    guidance: Annotated[float | None, Field(ge=0, le=1000)] = None


class Generation(Common):
    """A picture of words."""

    prompt: str = Field(max_length=32_000)


class Edit(Generation):
    """A picture, or its transparent part, painted anew. strength: how much of it is thrown away, 0..1."""

    strength: Annotated[float | None, Field(ge=0, le=1)] = None


class Image(BaseModel):
    """A picture, as base64 or by its address here; revised_prompt is what was read: the prompt itself."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class Usage(BaseModel):
    """Nothing is billed here, so nothing is counted."""

    input_tokens: int = 0
    input_tokens_details: dict[str, int] = {"image_tokens": 0, "text_tokens": 0}
    output_tokens: int = 0
    total_tokens: int = 0


class Images(BaseModel):
    """The pictures. run, seed: of our own API, to look at how they came out of noise and to make them again."""

    created: int
    data: list[Image]
    output_format: Output
    size: str
    usage: Usage = Usage()
    run: str
    seed: int


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "the pictures; with stream, as they come",
    }
}


@router.post("/generations", response_model=Images, responses=_STREAM)
async def generations(here: Here, call: Call, asked: Generation) -> Any:
    """Make pictures of a prompt."""
    return await _answer(here, call, asked, asked.prompt, {"kind": "text"}, "image_generation")


@router.post("/edits", response_model=Images, responses=_STREAM)
async def edits(
    here: Here,
    call: Call,
    prompt: Annotated[str, Form(max_length=32_000)],
    image: Annotated[
        list[UploadFile] | None, File(description="the picture; transparent parts are painted where no mask is given")
    ] = None,
    image_list: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
    mask: Annotated[UploadFile | None, File(description="transparent = painted, opaque = kept")] = None,
) -> Any:
    """Paint the transparent part of a picture anew, or with nothing transparent all of it."""
    asked = _form(Edit, await call.form())
    files = [*(image or []), *(image_list or [])]
    if len(files) != 1:
        raise SpecError(f"image: one picture is edited at a time, {len(files)} were sent")
    data = await files[0].read()
    marks = await mask.read() if mask is not None else None
    task = await anyio.to_thread.run_sync(_edit, here, data, marks, asked.strength)
    return await _answer(here, call, asked, prompt, task, "image_edit")


@router.post("/variations", response_model=Images, responses=_STREAM)
async def variations(here: Here, call: Call, image: UploadFile) -> Any:
    """Make pictures like one: of ours, the same request with other noise mixed in; of any other, painted over."""
    asked = _form(Common, await call.form())
    data = await image.read()
    task, prompt = await anyio.to_thread.run_sync(_vary, here, data, known(here, asked.model))
    return await _answer(here, call, asked, prompt, task, "image_edit")


def _form(sort: type[Any], form: Any) -> Any:
    """The fields of a form, those that are files left out."""
    plain = {k: v for k, v in form.multi_items() if isinstance(v, str) and k in sort.model_fields}
    try:
        return sort.model_validate(plain)
    except ValidationError as error:
        from safelight.spec import one_line

        raise SpecError(one_line(error)) from None


def _edit(here: Server, data: bytes, mask: bytes | None, strength: float | None) -> dict[str, Any]:
    """The task of an edit."""
    given = kept(here, data)
    seal, size = given.seal, (given.height, given.width)
    rest = {} if strength is None else {"strength": strength}
    if mask is None and transparency(here, data) is None:
        return {"kind": "image", "picture": seal, **rest}
    marks = kept_mask(here, mask if mask is not None else data, alpha=True)
    if (marks.height, marks.width) != size:
        raise SpecError(f"mask: it is {marks.width}x{marks.height}, the image {size[1]}x{size[0]}; they must be of one size")
    return {"kind": "inpaint", "picture": seal, "mask": marks.seal, **rest}


def _vary(here: Server, data: bytes, model: str) -> tuple[dict[str, Any], str]:
    """(task, prompt) of a variation."""
    given = kept(here, data)
    if given.note is not None:
        note = pictures.Note.model_validate(given.note)
        from safelight.reproduce import prompt_of

        asked = parse(note.request, "request")
        assert isinstance(asked, Request)
        same = note.model.fingerprint == here.model(model).fingerprint
        if same and asked.task.kind == "text":
            number = asked.index + note.index
            own = {
                k: v
                for k, v in note.request.items()
                if k in ("seed", "steps", "sampler", "grid", "mix", "bends", "temperature", "churn", "size", "negative")
            }
            return {
                "kind": "vary",
                "seed": secrets.randbelow(2**32),
                "strength": 0.3,
                "number": number,
                "of": describe(asked.varied, family=False),
                "_own": own,
            }, prompt_of(note)
        return {"kind": "image", "picture": given.seal, "strength": 0.5}, prompt_of(note)
    return {"kind": "image", "picture": given.seal, "strength": 0.5}, ""


def _asked(here: Server, asked: Common, prompt: str, task: dict[str, Any]) -> Ask:
    """The run that is asked for. Without a seed it is a random one, which the answer tells."""
    model = known(here, asked.model)
    if asked.background == "transparent":
        raise SpecError("background: pictures are opaque here")
    own = task.pop("_own", {})
    request: dict[str, Any] = {"seed": secrets.randbelow(2**32), **own, "task": task, "prompt": [prompt], "count": asked.n or 1}
    if asked.negative_prompt:
        request["negative"] = asked.negative_prompt
    if task["kind"] == "vary" and asked.seed is not None:
        task["seed"] = asked.seed
    elif asked.seed is not None:
        request["seed"] = asked.seed
    if asked.steps is not None:
        request["steps"] = asked.steps
    if asked.guidance is not None:
        request["mix"] = guided(here, model, asked.guidance)
    if asked.size not in (None, "auto"):
        match = _SIZE.fullmatch(asked.size or "")
        if match is None:
            raise SpecError(f"size: write WIDTHxHEIGHT in pixels or auto, not '{asked.size}'")
        request["size"] = [int(match[2]), int(match[1])]
    parsed = parse(request, "request")
    assert isinstance(parsed, Request)
    return Ask(model=model, request=parsed, record="preview")


def guided(here: Server, model: str, scale: float) -> dict[str, Any]:
    """The model's own guidance at another strength."""
    return scaled(describe(here.spec(model).defaults.mix, family=False), scale)


async def _answer(here: Server, call: Call, asked: Common, prompt: str, task: dict[str, Any], event: str) -> Any:
    ask = await anyio.to_thread.run_sync(_asked, here, asked, prompt, task)
    since = await anyio.to_thread.run_sync(here.events.last)
    run = await anyio.to_thread.run_sync(here.ask, ask)
    output: Output = asked.output_format or "png"
    if asked.stream:
        stream = _stream(here, call, run, since, asked.partial_images or 0, output, event)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)
    done = await here.made(run.id, call)
    return await anyio.to_thread.run_sync(
        _images, here, done, prompt, output, asked.response_format, str(call.base_url).rstrip("/")
    )


def _images(here: Server, run: Run, prompt: str, output: Output, form: str | None, base: str) -> Images:
    suffix = output.replace("jpeg", "jpg")
    data = []
    for k in range(len(run.pictures)):
        file = picture_bytes(here, run.id, k, suffix)
        if form == "url":
            data.append(Image(url=f"{base}/v1/runs/{run.id}/pictures/{k}.{suffix}", revised_prompt=prompt))
        else:
            data.append(Image(b64_json=base64.b64encode(file).decode(), revised_prompt=prompt))
    size = f"{run.pictures[0].width}x{run.pictures[0].height}"
    return Images(created=int(run.created), data=data, output_format=output, size=size, run=run.id, seed=run.seed)


async def _stream(
    here: Server, call: Call, run: Run, since: int, partial: int, output: Output, event: str
) -> AsyncIterator[bytes]:
    """Partial images of the first picture at even steps, then every picture."""
    sent, size = 0, "auto"
    over = False

    def told(kind: str, data: str, **more: Any) -> bytes:
        common = {"b64_json": data, "background": "opaque", "created_at": int(time.time()), "output_format": output}
        body = {"type": f"{event}.{kind}", **common, "quality": "auto", "size": size, **more}
        return f"event: {event}.{kind}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n".encode()

    try:
        async for several in here.happenings(since):
            if not several:
                yield b": ping\n\n"
            for one in several:
                if one.run != run.id:
                    continue
                step = json.loads(one.data)
                if (
                    one.kind == "step"
                    and sent < partial
                    and not step.get("aside")
                    and step["part"] == 0
                    and not here.public.safety.looks
                ):
                    # Partial i of p is shown once (i + 1) / (p + 1) of the steps are done.
                    if step["k"] + 1 >= math.ceil((sent + 1) * step["n"] / (partial + 1)) and step["frames"].get("x0"):
                        data, size = await anyio.to_thread.run_sync(_packed, step["frames"]["x0"][0], output)
                        yield told("partial_image", data, partial_image_index=sent)
                        sent += 1
                elif one.kind in ("run", "gone") and (one.kind == "gone" or step["state"] in OVER):
                    over = True
            if over:
                break
        done = await here.made(run.id)
        size = f"{done.pictures[0].width}x{done.pictures[0].height}"
        for k in range(len(done.pictures)):
            file = await anyio.to_thread.run_sync(picture_bytes, here, run.id, k, output.replace("jpeg", "jpg"))
            yield told("completed", base64.b64encode(file).decode(), usage=Usage().model_dump())
    except (SpecError, Conflict) as error:
        from safelight.serve.guard import error as body

        yield f"event: error\ndata: {json.dumps(body(str(error), 409, 'run_failed'))}\n\n".encode()
    finally:
        if not over and not here.ticker.stopping:  # the client has gone, and nobody else asked for it
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(here.jobs.cancel, run.id)


def _packed(frame: str, output: Output) -> tuple[str, str]:
    """(a frame's base64 in the format that was asked for, its size as text)."""
    from PIL import Image as Pillow

    out = io.BytesIO()
    with Pillow.open(io.BytesIO(base64.b64decode(frame))) as image:
        image.convert("RGB").save(out, output.upper())
        return base64.b64encode(out.getvalue()).decode(), f"{image.width}x{image.height}"


__all__ = ["guided", "router"]
