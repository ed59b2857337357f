"""The one stream of a tab: what happens, as it happens, and again from where a broken line left off."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from safelight.serve.api.base import Here, Server
from safelight.serve.events import Event
from safelight.spec import SpecError

router = APIRouter(tags=["events"])

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
# The largest id that the index can hold.
_LARGEST = 2**63 - 1


@router.get(
    "/v1/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "server-sent events"}},
)
async def events(
    here: Here,
    last_event_id: Annotated[str | None, Header(max_length=100, description="go on after this event")] = None,
    since: Annotated[str | None, Query(max_length=100, description="the same, for whoever cannot set headers")] = None,
) -> StreamingResponse:
    """Events `run`, `step`, `queue`, `gone` from now on, or after the one that is named. A `reset` says that some are lost for good:
    what is known of runs must be read anew."""
    given = last_event_id if last_event_id is not None else since
    newest = await anyio.to_thread.run_sync(here.events.last)
    oldest = await anyio.to_thread.run_sync(here.events.oldest)
    last = newest if given is None else number(given)
    # An id that was never given is of another folder: what came before is not this client's.
    lost = given is not None and (last > newest or last < oldest - 1)
    return StreamingResponse(_stream(here, newest if lost else last, lost), media_type="text/event-stream", headers=HEADERS)


def number(given: str) -> int:
    """The id in Last-Event-ID. Raises SpecError for anything but digits that an id can have."""
    if not re.fullmatch(r"[0-9]{1,19}", given) or int(given) > _LARGEST:
        raise SpecError("Last-Event-ID: it is the id of an event of this stream, digits alone")
    return int(given)


async def _stream(here: Server, last: int, lost: bool) -> AsyncIterator[bytes]:
    yield b": safelight\nretry: 1000\n\n"
    if lost:
        yield f"id: {last}\nevent: reset\ndata: {{}}\n\n".encode()
    async for several in here.happenings(last):
        yield b"".join(_told(here, event) for event in several) if several else b": ping\n\n"


def _told(here: Server, event: Event) -> bytes:
    data = event.data
    if event.kind == "step" and here.public.safety.looks:  # nobody has looked at these pictures yet
        data = json.dumps({**json.loads(data), "frames": {}}, separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()


__all__ = ["HEADERS", "number", "router"]
