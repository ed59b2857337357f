"""The door: what stands before every request, as one piece of ASGI.

In this order: the path says nothing strange, the client does not ask too often, the Host is one of ours (DNS rebinding), no other
site's page asks (CSRF: Sec-Fetch-Site, else Origin against Host), whoever must have a token or a session has one, the body is not
too large.
What leaves has a content-security policy, and an error of ours is one sentence with a number that stands in the log, never a trace.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import logging
import re
import secrets
import time
from collections import OrderedDict
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import anyio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safelight.serve.settings import Settings, Tokens

log = logging.getLogger("safelight.serve")

CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:;"
    " connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
# Where a browser is given a session for a token or an invitation.
SESSION = "/v1/session"
# Paths that are data or deeds; the rest is the page itself, which must open before a token can be typed into it.
_DATA = re.compile(r"/(v1|sdapi|metrics|openapi\.json)(/|$)")
_HARMLESS = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_HARMLESS, "POST", "PUT", "PATCH", "DELETE")
_STRANGE = re.compile(r"[\x00-\x1f\x7f\\]|(^|/)\.\.?(/|$)")
# So many addresses are remembered, and so many seconds a body may take.
_ADDRESSES, _PATIENCE = 10_000, 60.0
# Addresses of the page take no body worth the name.
_PAGE_BODY = 4096


class Problem(Exception):
    """A request that ends here, with what the client is told."""

    def __init__(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


def error(message: str, status: int, code: str | None = None, param: str | None = None) -> dict[str, dict[str, str | None]]:
    """The body of every error."""
    kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Bucket(NamedTuple):
    """What is left of an allowance, and when that was so."""

    left: float
    at: float


class Allowance:
    """So many at once and so many a second in the long run, for each of many addresses (Turner 1986, the leaky bucket)."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._known: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: str, amount: float = 1.0) -> float:
        """0, or how many seconds to wait until there is something left. amount 0 only looks."""
        now = time.monotonic()
        before = self._known.pop(address, _Bucket(self.burst, now))
        left = min(self.burst, before.left + (now - before.at) * self.rate)
        allowed = left >= max(amount, 1.0)
        self._known[address] = _Bucket(left - amount if allowed else left, now)
        while len(self._known) > _ADDRESSES:
            self._known.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / self.rate


class Guard:
    """Lets through to `app` what may pass. answered: counts answers by method and status."""

    def __init__(
        self, app: ASGIApp, settings: Settings, tokens: Tokens, answered: dict[tuple[str, int], int] | None = None
    ) -> None:
        self.app, self.settings, self.tokens = app, settings, tokens
        self.answered = {} if answered is None else answered
        limits = settings.limits
        self._asked = Allowance(limits.rate, limits.burst)
        self._failed = Allowance(limits.failures / 60, limits.failures)
        own = {settings.host} if settings.host not in ("0.0.0.0", "::", "") else set[str]()
        self._hosts = {name.lower().rstrip(".") for name in ("localhost", "127.0.0.1", "::1", *own, *settings.names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                method = scope["method"] if scope["method"] in _METHODS else "OTHER"
                self.answered[method, message["status"]] = self.answered.get((method, message["status"]), 0) + 1
                kept = [(k, v) for k, v in message["headers"] if k.lower() != b"server"]
                there = {k.lower() for k, _ in kept}
                own = (*HEADERS, (b"cache-control", b"no-store"))
                message = {**message, "headers": [*kept, *((k, v) for k, v in own if k not in there)]}
            await send(message)

        try:
            self._look(scope)
            receive = await self._body(scope, receive)
            await self.app(scope, receive, sending)
        except Problem as problem:
            answer = JSONResponse(error(problem.message, problem.status, problem.code), problem.status, problem.headers)
            await answer(scope, receive, sending)
        except Exception:
            number = secrets.token_hex(4)
            log.exception(
                "error %s at %s %s", number, scope["method"], ascii(scope["path"][:300])
            )  # of one line, whatever it holds
            if begun:  # the client has the beginning of an answer; all that is left is to end it
                raise
            message = f"the server failed at this request (error {number} in its log)"
            await JSONResponse(error(message, 500, "internal_error"), 500)(scope, receive, sending)

    # ---- who asks for what ---------------------------------------------------------------------------------------------------

    def _look(self, scope: Scope) -> None:
        address = whole(scope["client"][0]) if scope.get("client") else "local"
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        path = scope["path"]
        # What is strange once decoded is strange decoded twice, too: some server on the way may have decoded it once.
        if any(_STRANGE.search(text) for text in (path, unquote(path))):
            raise Problem(400, "the path holds '..', a backslash or a control character", "bad_path")
        wait = self._asked.take(address)
        if wait:
            raise Problem(429, "too many requests", "rate_limit_exceeded", {"retry-after": str(int(wait) + 1)})
        self._host(headers)
        self._site(scope["method"], path, headers)
        if self.tokens and _DATA.match(path):
            self._token(address, path, headers)

    def _host(self, headers: dict[str, str]) -> None:
        name = headers.get("host", "")
        if (_hostname(name) or "") not in self._hosts:
            raise Problem(421, f"this server is not called '{name[:100]}': add it with --name", "bad_host")

    def _site(self, method: str, path: str, headers: dict[str, str]) -> None:
        if method in _HARMLESS and not _DATA.match(path):
            return
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        other = site not in (None, "same-origin", "none")
        if origin is not None and (origin == "null" or urlsplit(origin).netloc.lower() != headers.get("host", "").lower()):
            other = True
        if other:
            raise Problem(403, "another site's page asks for this, and may not", "cross_origin")

    def _token(self, address: str, path: str, headers: dict[str, str]) -> None:
        wait = self._failed.take(address, 0)
        if wait:
            raise Problem(429, "too many wrong tokens", "rate_limit_exceeded", {"retry-after": str(int(wait) + 1)})
        given = _given(headers)
        if given is None:
            if (key := session(headers.get("cookie", ""), self.settings)) is not None and self.tokens.signed_in(key):
                return
            raise Problem(401, "this needs a token: Authorization: Bearer TOKEN", "no_token", {"www-authenticate": "Bearer"})
        if not self.tokens.opens(given) and not (path == SESSION and self.tokens.invited(given)):
            self._failed.take(address)
            raise Problem(401, "this token is not valid", "invalid_api_key", {"www-authenticate": "Bearer"})

    # ---- what is sent --------------------------------------------------------------------------------------------------------

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read here up to the limit, so that nothing below ever holds more."""
        headers = {k.lower(): v for k, v in scope["headers"]}
        # Only what a token opens takes bodies: nobody fills the memory with what is thrown away.
        limit = self.settings.limits.body if _DATA.match(scope["path"]) else _PAGE_BODY
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Problem(415, "bodies are read as they stand: send no Content-Encoding", "content_encoding")
        if scope["method"] in ("GET", "HEAD") and not headers.keys() & {b"content-length", b"transfer-encoding"}:
            return receive
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise Problem(400, "Content-Length is no number", "bad_length")
        too_large = Problem(413, f"the body is larger than {limit:,} bytes", "too_large", {"connection": "close"})
        if int(length[:20]) > limit:
            raise too_large
        parts, size = list[bytes](), 0
        with anyio.move_on_after(_PATIENCE) as clock:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    break
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise too_large
                if not message.get("more_body"):
                    break
        if clock.cancelled_caught:
            raise Problem(408, "the body came too slowly", "timeout", {"connection": "close"})
        rest: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return rest.pop() if rest else await receive()

        return replay


def _hostname(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is none."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?", host)
    return (match[1] or match[2]).lower().rstrip(".") if match else None


def _given(headers: dict[str, str]) -> str | None:
    """The token of a request: as Bearer, or as the password of Basic."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return None


def cookie(settings: Settings) -> str:
    """The name of the session's cookie. Cookies know no ports: two servers of one machine must not share it."""
    return f"safelight_{hashlib.sha256(str(settings.folder.absolute()).encode()).hexdigest()[:8]}"


def session(cookies: str, settings: Settings) -> str | None:
    """The key of the session in a Cookie header."""
    for one in cookies.split(";"):
        name, _, value = one.strip().partition("=")
        if name == cookie(settings):
            return value
    return None


def whole(address: str) -> str:
    """An address as it is counted: of IPv6 the /64, which one client has all of."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))


__all__ = ["CSP", "HEADERS", "SESSION", "Allowance", "Guard", "Problem", "cookie", "error", "session", "whole"]
