"""The server: all routers, the studio's page, and what runs as long as it does (workers, the look for news)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi import Request as Call
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from safelight import __version__
from safelight.data.source import CorruptError
from safelight.serve.api import a1111, events, models, openai, runs, schema, several, studio, words
from safelight.serve.api.answers import sent
from safelight.serve.api.base import Conflict, Failure, Full, Missing, Server, TooLarge, confined
from safelight.serve.guard import Guard, error, session
from safelight.serve.lines import lines
from safelight.serve.safety import Refused
from safelight.serve.settings import Settings, Tokens
from safelight.spec import SpecError

log = logging.getLogger("safelight.serve")

STUDIO = Path(__file__).parents[1] / "studio"
_MIME = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".safetensors": "application/octet-stream",
    ".webp": "image/webp",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
_TEXT = (".js", ".css", ".html", ".svg", ".json", ".txt")
# What the page calls itself by; it finds out what to show.
_PAGES = r"(create|edit|mix|morph|compare|explain|gallery|jobs|models|settings|run|tour)(/[0-9A-Za-z_-]{1,40}){0,2}"
_FILE = re.compile(r"([a-z0-9][a-z0-9_-]*/){0,3}[a-z0-9][a-z0-9_.-]*")
_DESCRIBED = (400, 401, 403, 404, 409, 413, 421, 422, 429)


def app(settings: Settings, tokens: Tokens | None = None) -> FastAPI:
    """The server of some settings, as one ASGI application.

    tokens: default those that the data folder keeps. Raises SpecError where the settings would leave it open (`Settings.check`).
    """
    settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    tokens = tokens if tokens is not None else Tokens(settings.folder)
    settings.check(tokens)
    server = Server(settings, tokens)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(server.supervisor.start)
        looking = asyncio.create_task(server.ticker.run())
        try:
            yield
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
            await asyncio.to_thread(server.supervisor.stop)
            server.folder.close()

    made = FastAPI(
        title="Safelight",
        version=__version__,
        summary="Diffusion models you can watch: every run is a recording.",
        lifespan=life,
        openapi_url=None,  # its own route would hold up every stream while the schema is made
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": Failure} for status in _DESCRIBED},
        generate_unique_id_function=lambda route: f"{route.tags[0] if route.tags else 'page'}_{route.name}",
    )
    made.state.server = server
    for part in (several, runs, words, models, events, studio, openai, a1111):
        made.include_router(part.router)
    _pages(made)
    _errors(made)
    made.add_middleware(Guard, settings=settings, tokens=tokens, answered=server.answered)
    made.openapi = lambda: _openapi(made)  # type: ignore[method-assign]
    return made


def _pages(made: FastAPI) -> None:
    """The schema; the studio: /, the addresses of its screens, and its files."""

    @made.get("/openapi.json", include_in_schema=False)
    def described() -> JSONResponse:
        return JSONResponse(made.openapi())

    @made.get("/studio/{path:path}", include_in_schema=False)
    def file(call: Call, path: str) -> Response:
        if not _FILE.fullmatch(path) or Path(path).suffix not in _MIME:
            raise Missing("there is no such file")
        return _own(call, path)

    @made.get("/{path:path}", include_in_schema=False)
    def page(call: Call, path: str) -> Response:
        if path == "favicon.ico":
            return Response(status_code=204)
        if path and not re.fullmatch(_PAGES, path.rstrip("/")):
            raise Missing("there is nothing at this address")
        server: Server = made.state.server
        key = session(call.headers.get("cookie", ""), server.settings) if server.tokens else None
        closed = bool(server.tokens) and (key is None or not server.tokens.signed_in(key))
        name = "login.html" if closed else "index.html"
        return _own(call, name, "Cookie")


def _own(call: Call, name: str, vary: str = "") -> Response:
    """A file of the studio, packed for whoever can unpack it. Raises Missing where there is none. vary: what else the answer hangs on."""
    beside = STUDIO / f"{name}.gz"
    kept = beside.is_file() and not (STUDIO / name).is_file()
    found = confined(STUDIO, beside if kept else STUDIO / name)
    suffix = Path(name).suffix
    packed, plain = _both(found, found.stat().st_mtime_ns, kept)
    small = suffix in _TEXT and _accepts(call.headers.get("accept-encoding", ""))
    answer = sent(call, packed if small else plain, _MIME[suffix])
    answer.headers["vary"] = f"{vary}, Accept-Encoding".removeprefix(", ")
    if small:
        answer.headers["content-encoding"] = "gzip"
    return answer


@functools.lru_cache(maxsize=256)
def _both(file: Path, _changed: int, kept: bool) -> tuple[bytes, bytes]:
    """(a file packed by gzip, the same unpacked); kept: it lies there packed."""
    data = file.read_bytes()
    return (data, gzip.decompress(data)) if kept else (gzip.compress(data, 9, mtime=0), data)


def _accepts(header: str) -> bool:
    """Whether an Accept-Encoding names gzip, and not with a weight of nothing."""
    for one in header.lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"q=0(\.0*)?", weight.replace(" ", ""))
    return False


def _errors(made: FastAPI) -> None:
    """Every error as the same JSON, in one line."""

    def answer(status: int, message: str, code: str, param: str | None = None) -> JSONResponse:
        said = " ".join(message.split())[:1000].encode("utf-8", "replace").decode()
        return JSONResponse(error(said, status, code, param), status)

    @made.exception_handler(SpecError)
    @made.exception_handler(CorruptError)
    def ours(_: Call, problem: Exception) -> Response:
        sorts: tuple[tuple[type[Exception], int, str], ...] = (
            (Missing, 404, "not_found"),
            (Conflict, 409, "conflict"),
            (Refused, 403, "content_policy_violation"),
            (TooLarge, 413, "too_large"),
            (Full, 429, "queue_full"),
        )
        status, code = next(((s, c) for sort, s, c in sorts if isinstance(problem, sort)), (422, "invalid_value"))
        message = made.state.server.folder.nameless(str(problem))
        field = re.match(r"([A-Za-z_][\w.\[\]]*): ", message)
        return answer(status, message, code, field[1] if field and status == 422 else None)

    @made.exception_handler(RequestValidationError)
    def invalid(_: Call, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        text = str(first["msg"]).removeprefix("Value error, ")
        return answer(422, f"{where}: {text}", str(first["type"]), where)

    @made.exception_handler(HTTPException)
    def http(_: Call, problem: HTTPException) -> Response:
        made_of = answer(problem.status_code, str(problem.detail), "http_error")
        made_of.headers.update(problem.headers or {})
        return made_of

    @made.exception_handler(UnicodeEncodeError)
    def half(_: Call, problem: UnicodeEncodeError) -> Response:
        return answer(422, "the request holds half of a character (a lone surrogate)", "bad_text")

    @made.exception_handler(RecursionError)
    def deep(_: Call, problem: RecursionError) -> Response:
        return answer(422, "the request is nested too deeply", "too_deep")

    @made.exception_handler(ModuleNotFoundError)
    def absent(_: Call, problem: ModuleNotFoundError) -> Response:
        extra = {"av": "video", "nudenet": "safety", "c2pa": "safety"}.get((problem.name or "").split(".")[0])
        if extra is None:
            raise problem
        return answer(
            422,
            f"this needs the package '{problem.name}', which is optional: pip install 'safelight[{extra}]'",
            "missing_extra",
        )


def _openapi(made: FastAPI) -> dict[str, Any]:
    """The schema, with every kind of the registry in it."""
    if made.openapi_schema is None:
        found = get_openapi(title=made.title, version=made.version, summary=made.summary, routes=made.routes)
        found = schema.linked(found, schema.reference)
        found["components"]["schemas"] = {**schema.components(), **found["components"]["schemas"]}
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        if made.state.server.tokens:
            found["security"] = [{"token": []}]
        made.openapi_schema = found
    return made.openapi_schema


def serve(settings: Settings, tokens: Tokens | None = None, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted. ready: called with the address once it can be asked."""
    Live(app(settings, tokens), settings, ready).run()


class Live(uvicorn.Server):
    """uvicorn's server, which tells its address when it stands."""

    def __init__(self, served: FastAPI, settings: Settings, ready: Callable[[str], None] | None = None) -> None:
        tls = settings.tls

        config = uvicorn.Config(
            served,
            # Whatever else is installed: what is refused must not hang on it.
            loop="asyncio",
            http=lines(settings.limits.lines, settings.proxies),
            ws="none",
            proxy_headers=bool(settings.proxies),
            forwarded_allow_ips=list(settings.proxies),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=3,
            limit_concurrency=1024,
            h11_max_incomplete_event_size=64 << 10,
            ssl_certfile=str(tls.certificate) if tls else None,
            ssl_keyfile=str(tls.key) if tls else None,
        )
        super().__init__(config)
        self.served, self.settings, self.ready = served, settings, ready

    @property
    def address(self) -> str:
        """Where it is, as a browser on this machine writes it."""
        port = self.servers[0].sockets[0].getsockname()[1]
        host = self.settings.host if self.settings.host not in ("0.0.0.0", "::", "") else "127.0.0.1"
        return f"{'https' if self.settings.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn starts, then `ready`."""
        await super().startup(sockets)
        if self.started and self.ready is not None:
            self.ready(self.address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn stops, once the open streams are told to end: of themselves they never would."""
        self.served.state.server.ticker.stop()
        await super().shutdown(sockets)


__all__ = ["STUDIO", "Live", "app", "serve"]
