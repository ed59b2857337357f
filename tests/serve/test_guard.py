"""The attack table: everything that a hostile page, client or file tries is refused, in one line and without a trace."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import json
import os
import pickle
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from safelight.serve.app import app
from safelight.serve.guard import Allowance, cookie, whole
from safelight.serve.settings import Settings, Tokens
from safelight.spec import SpecError
from tests.serve.live import Running, models, serving

TOKEN = "a-token-for-tests-that-nobody-guesses"
CANARY = "canary-of-the-pickle"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that needs a token, with small limits, no worker, and files around it that nobody may see."""
    folder = tmp_path_factory.mktemp("closed") / "data"
    folder.mkdir()
    (folder.parent / "secret.txt").write_text("SECRET")
    models(folder)
    limits = {"body": 2 << 20, "decompressed": 1 << 20, "failures": 1000, "pixels": 4096, "steps": 50, "count": 8, "queue": 50}
    tokens = Tokens(folder, (TOKEN,))
    with serving(folder, tokens, devices=(), limits=limits) as running:
        running.client.headers["authorization"] = f"Bearer {TOKEN}"
        TOKENS[running.address] = tokens
        yield running


def raw(server: Running, text: bytes, patience: float = 5) -> bytes:
    """What the server answers to bytes that no client library would send."""
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=patience) as line:
        line.sendall(text)
        found = b""
        while chunk := line.recv(65536):
            found += chunk
            if b"\r\n\r\n" in found and len(found.split(b"\r\n\r\n", 1)[1]) >= _length(found):
                break
    return found


def _length(answer: bytes) -> int:
    head = answer.split(b"\r\n\r\n", 1)[0].lower()
    return next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)


def path(server: Running, where: str) -> int:
    """The status of a GET of a path exactly as it stands."""
    host = server.address.removeprefix("http://")
    head = f"GET {where} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    answer = raw(server, head.encode("latin-1"))
    assert b"SECRET" not in answer
    assert b"root:" not in answer
    return int(answer.split(b" ", 2)[1])


def asked(server: Running, request: dict[str, Any] | None = None, **headers: str) -> int:
    body = {"model": "tiny", "request": {"prompt": "bag", **(request or {})}}
    return server.client.post("/v1/runs", json=body, headers=headers).status_code


def upload(server: Running, data: bytes, where: str = "/v1/pictures") -> int:
    return server.client.post(where, content=data, headers={"content-type": "image/png"}).status_code


@functools.cache
def bomb(side: int = 6_000) -> bytes:
    """A PNG of some 40 kilobytes that unpacks to `side` x `side` pixels."""

    line = zlib.compressobj(9)
    pixels = b"".join(line.compress(b"\0" * (side + 1)) for _ in range(side)) + line.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Evil:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {CANARY}",)


def evil(kind: str) -> bytes:
    if kind == "torch":
        out = io.BytesIO()
        torch.save({"state": Evil()}, out)
        return out.getvalue()
    return pickle.dumps(Evil())


def guess(server: Running) -> int:
    with httpx.Client(base_url=server.address) as other:
        return max(
            other.get("/v1/runs", headers={"authorization": f"Bearer {g}"}).status_code for g in ("x", TOKEN[:-1], TOKEN + " x")
        )


def shown_as_link(server: Running, name: str) -> int:
    """A finished run's file, replaced by a link to what lies outside."""
    from safelight.serve.runs import Ask

    runs = app_of(server)
    run = runs.add(Ask(model="tiny"))
    folder = runs.folder.run(run.id)
    folder.mkdir(parents=True)
    (folder / name).symlink_to(server.settings.folder.parent / "secret.txt")
    runs.pictured(run.id, [(name, "sha256:" + "0" * 32, 8, 8)], state="done")
    where = "pictures/0.png" if name.endswith("png") else "trace.safetensors"
    answer = server.client.get(f"/v1/runs/{run.id}/{where}")
    assert "SECRET" not in answer.text
    return answer.status_code


def app_of(server: Running) -> Any:
    from safelight.serve.folder import Folder
    from safelight.serve.runs import Runs

    return Runs(Folder(server.settings.folder))


SEAL = "sha256:" + "0" * 32
RUN = "0" * 12
ATTACKS: dict[str, tuple[Callable[[Running], int], set[int]]] = {
    # another site's page
    "csrf by origin": (lambda s: asked(s, origin="https://evil.example"), {403}),
    "csrf by null origin": (lambda s: asked(s, origin="null"), {403}),
    "csrf by fetch metadata": (lambda s: asked(s, **{"sec-fetch-site": "cross-site"}), {403}),
    "csrf from another port": (lambda s: asked(s, origin="http://127.0.0.1:1"), {403}),
    "csrf of the same site": (lambda s: asked(s, **{"sec-fetch-site": "same-site"}), {403}),
    "csrf by a form": (
        lambda s: s.client.post("/v1/jobs/pause", data={"a": "b"}, headers={"origin": "https://evil.example"}).status_code,
        {403},
    ),
    "csrf by text/plain": (
        lambda s: (
            s.client.post(
                "/v1/runs", content='{"model":"tiny"}', headers={"content-type": "text/plain", "origin": "null"}
            ).status_code
        ),
        {403},
    ),
    "reading from another site": (
        lambda s: s.client.get("/v1/runs", headers={"sec-fetch-site": "cross-site"}).status_code,
        {403},
    ),
    "preflight": (
        lambda s: (
            s.client.options(
                "/v1/runs", headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
            ).status_code
        ),
        {403},
    ),
    # a name that was pointed here
    "rebinding": (lambda s: s.client.get("/v1/runs", headers={"host": "evil.example"}).status_code, {421}),
    "rebinding with our port": (lambda s: s.client.get("/v1/runs", headers={"host": "evil.example:7860"}).status_code, {421}),
    "rebinding by a likeness": (
        lambda s: s.client.get("/v1/runs", headers={"host": "localhost.evil.example"}).status_code,
        {421},
    ),
    "rebinding of the page": (lambda s: s.client.get("/", headers={"host": "evil.example"}).status_code, {421}),
    "no host": (lambda s: int(raw(s, b"GET /v1/runs HTTP/1.0\r\n\r\n").split(b" ", 2)[1]), {400, 421}),
    "host with a user": (lambda s: hosted(s, f"me@{at(s)}"), {421}),
    "host with a password": (lambda s: hosted(s, f"{at(s)}:80@evil.example"), {421}),
    "host behind a comma": (lambda s: hosted(s, f"{at(s)}, evil.example"), {421}),
    "host with a port beyond ports": (lambda s: hosted(s, "127.0.0.1:99999999"), {421}),
    "host as an address": (lambda s: hosted(s, "http://127.0.0.1"), {421}),
    "host of full width": (lambda s: hosted(s, "\uff11\uff12\uff17.0.0.1".encode().decode("latin-1")), {400, 421}),
    "host as a number": (lambda s: hosted(s, "2130706433"), {421}),
    "host twice": (
        lambda s: sent(s, f"GET /v1/runs HTTP/1.1\r\nHost: {at(s)}\r\nHost: evil.example\r\n\r\n"),
        {400},
    ),
    "host empty": (lambda s: hosted(s, ""), {400, 421}),
    "forwarded host": (
        lambda s: s.client.get("/v1/runs", headers={"host": "evil.example", "x-forwarded-host": at(s)}).status_code,
        {421},
    ),
    "another server's address": (
        lambda s: sent(s, f"GET http://evil.example/v1/runs HTTP/1.1\r\nHost: {at(s)}\r\nConnection: close\r\n\r\n"),
        {400, 404, 421},
    ),
    "a tunnel": (lambda s: sent(s, f"CONNECT evil.example:443 HTTP/1.1\r\nHost: {at(s)}\r\n\r\n"), {400, 404, 405, 421}),
    # another kind of request than it seems
    "websocket of another site": (lambda s: socketed(s, "Origin: https://evil.example\r\n"), {403}),
    "websocket without a token": (lambda s: socketed(s, ""), {401}),
    "websocket": (lambda s: socketed(s, f"Authorization: Bearer {TOKEN}\r\n", "/v1/socket"), {404}),
    "method override by header": (
        lambda s: s.client.post(f"/v1/runs/{RUN}", headers={"x-http-method-override": "DELETE"}).status_code,
        {405},
    ),
    "method override by query": (lambda s: s.client.get("/v1/jobs/pause?_method=POST").status_code, {404, 405}),
    "method override by form": (lambda s: s.client.post(f"/v1/runs/{RUN}", data={"_method": "DELETE"}).status_code, {405}),
    "a trace of the request": (lambda s: s.client.request("TRACE", "/v1/runs").status_code, {405}),
    "a body after a body": (
        lambda s: sent(
            s,
            f"POST /v1/jobs/order HTTP/1.1\r\nHost: {at(s)}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            f"0\r\n\r\nGET /v1/runs HTTP/1.1\r\nHost: {at(s)}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
        ),
        {400, 401},
    ),
    **{
        f"a length of {name}": (lambda s, v=value: sent(s, f"POST /v1/runs HTTP/1.1\r\nHost: {at(s)}\r\n{v}\r\n\r\n"), {400})  # type: ignore[misc]
        for name, value in {
            "less than nothing": "Content-Length: -5",
            "a plus": "Content-Length: +5",
            "a list": "Content-Length: 5, 6",
            "two minds": "Content-Length: 5\r\nContent-Length: 6",
            "many digits": "Content-Length: " + "9" * 4000,
        }.items()
    },
    "a coding nobody knows": (
        lambda s: sent(s, f"POST /v1/runs HTTP/1.1\r\nHost: {at(s)}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        {400, 501},
    ),
    "a chunk without end": (
        lambda s: sent(
            s,
            f"POST /v1/runs HTTP/1.1\r\nHost: {at(s)}\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
            + "F" * 21
            + "\r\n",
        ),
        {400, 413},
    ),
    "a header of 1 MB": (lambda s: sent(s, f"GET / HTTP/1.1\r\nHost: {at(s)}\r\nA: {'a' * (1 << 20)}\r\n\r\n"), {400, 431}),
    "headers without end": (lambda s: sent(s, f"GET / HTTP/1.1\r\nHost: {at(s)}\r\n" + "A: b\r\n" * 50_000), {400, 431}),
    "an address of 1 MB": (lambda s: sent(s, f"GET /{'a' * (1 << 20)} HTTP/1.1\r\nHost: {at(s)}\r\n\r\n"), {400, 414}),
    "a header in a header": (
        lambda s: s.client.get("/v1/runs/%0d%0aSet-Cookie:%20a=b").status_code,
        {400},
    ),
    # ten ways out of the folder, and some more
    "traversal plain": (lambda s: path(s, "/studio/../../secret.txt"), {400, 404}),
    "traversal encoded": (lambda s: path(s, "/studio/%2e%2e/%2e%2e/secret.txt"), {400}),
    "traversal encoded slash": (lambda s: path(s, "/studio/..%2f..%2fsecret.txt"), {400}),
    "traversal encoded twice": (lambda s: path(s, "/studio/%252e%252e%252fsecret.txt"), {400}),
    "traversal backslash": (lambda s: path(s, "/studio/..%5c..%5csecret.txt"), {400}),
    "traversal absolute": (lambda s: path(s, "/studio//etc/passwd"), {400, 404}),
    "traversal encoded absolute": (lambda s: path(s, "/studio/%2fetc%2fpasswd"), {400, 404}),
    "traversal NUL": (lambda s: path(s, "/studio/index.html%00.png"), {400}),
    "traversal overlong": (lambda s: path(s, "/studio/%c0%ae%c0%ae/secret.txt"), {400, 404}),
    "traversal in an id": (lambda s: path(s, "/v1/runs/..%2f..%2fsecret/pictures/0.png"), {400, 404, 422}),
    "traversal in a seal": (lambda s: path(s, "/v1/pictures/sha256:..%2f..%2fsecret.txt.png"), {400, 404, 422}),
    "traversal in a model's name": (lambda s: asked_model(s, "../../secret"), {404, 422}),
    "an absolute model": (lambda s: asked_model(s, "/etc/passwd"), {404, 422}),
    **{
        f"a model named {name}": (lambda s, v=value: asked_model(s, v), {404, 422})  # type: ignore[misc]
        for name, value in {
            "with a NUL": "tiny\0",
            "by a file": "tiny.safetensors",
            "by a folder": "models/tiny",
            "by a way round": "tiny/../tiny",
            "above": "..",
            "in full width": "\uff54\uff49\uff4e\uff59",
            "with nothing in it": "tiny\u200b",
            "backwards": "\u202eynit",
            "as a flag": "--help",
            "as a pattern": "t*",
            "at length": "a" * 100_000,
        }.items()
    },
    "a model to load by a path": (lambda s: path(s, "/v1/models/..%2f..%2fsecret.txt"), {400, 404, 422}),
    "a checkpoint by a path": (
        lambda s: (
            s.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "../../secret.safetensors [abc]"}).status_code
        ),
        {404, 422},
    ),
    "a concept by a path": (
        lambda s: s.client.put("/v1/concepts/..%2fx", json={"expression": '"a"'}).status_code,
        {400, 404, 405, 422},
    ),
    "a picture's folder that is a link": (lambda s: folder_as_link(s), {404}),
    "a seal that is a link": (lambda s: seal_as_link(s), {404}),
    "a link instead of a picture": (lambda s: shown_as_link(s, "0.png"), {404}),
    "a link instead of a recording": (lambda s: shown_as_link(s, "trace.safetensors"), {404}),
    "a file as the weak model": (lambda s: asked(s, {"mix": {"kind": "autoguidance", "weak": "/etc/passwd"}}), {422}),
    "a file as the classifier": (lambda s: asked(s, {"bends": [{"kind": "classifier", "classifier": "../secret.txt"}]}), {422}),
    "a file as the joint model": (
        lambda s: asked(s, {"task": {"kind": "mix", "expression": '"a"', "joint": "/etc/passwd"}, "prompt": ""}),
        {422},
    ),
    "a file as the picture": (lambda s: asked(s, {"task": {"kind": "image", "picture": "/etc/passwd"}}), {404, 422}),
    "a file in an expression": (
        lambda s: asked(s, {"task": {"kind": "mix", "expression": "/etc/passwd", "joint": "sprites-clip"}, "prompt": ""}),
        {404, 422},
    ),
    # an address to fetch
    "an address as the picture": (
        lambda s: asked(s, {"task": {"kind": "image", "picture": "http://127.0.0.1:1/x.png"}}),
        {404, 422},
    ),
    "an address to img2img": (
        lambda s: s.client.post("/sdapi/v1/img2img", json={"init_images": ["http://169.254.169.254/latest"]}).status_code,
        {422},
    ),
    "an address to png-info": (
        lambda s: s.client.post("/sdapi/v1/png-info", json={"image": "file:///etc/passwd"}).status_code,
        {422},
    ),
    # too much
    "a bomb": (lambda s: upload(s, bomb()), {413}),
    "a bomb as a mask": (lambda s: upload(s, bomb(), "/v1/masks"), {413}),
    "a bomb to img2img": (
        lambda s: s.client.post("/sdapi/v1/img2img", json={"init_images": [base64.b64encode(bomb()).decode()]}).status_code,
        {413},
    ),
    "a bomb to edits": (
        lambda s: (
            s.client.post(
                "/v1/images/edits", data={"prompt": "bag", "model": "tiny"}, files={"image": ("a.png", bomb(), "image/png")}
            ).status_code
        ),
        {413},
    ),
    "a large body": (lambda s: upload(s, b"x" * (3 << 20)), {413}),
    "a large body without a length": (
        lambda s: s.client.post("/v1/pictures", content=iter([b"x" * (1 << 20)] * 4)).status_code,
        {413},
    ),
    "a length that lies": (lambda s: lying(s), {413}),
    "a packed body": (
        lambda s: (
            s.client.post(
                "/v1/runs",
                content=gzip.compress(b" " * (8 << 20)),
                headers={"content-encoding": "gzip", "content-type": "application/json"},
            ).status_code
        ),
        {415},
    ),
    **{
        f"{name} of a picture": (lambda s, make=made: upload(s, make()), right)  # type: ignore[misc]
        for name, (made, right) in {
            "a packed text of 256 MB": (lambda: noted(b"zTXt", b"safelight\0\0" + packed(256 << 20)), {413, 422}),
            "a packed international text of 256 MB": (
                lambda: noted(b"iTXt", b"safelight\0\1\0\0\0" + packed(256 << 20)),
                {413, 422},
            ),
            "a colour profile of 256 MB": (lambda: noted(b"iCCP", b"a\0\0" + packed(256 << 20)), {200, 413, 422}),
            "a thousand texts of 1 MB": (lambda: noted(b"zTXt", b"parameters\0\0" + packed(1 << 20), 1000), {413, 422}),
            "a note that unpacks to 256 MB": (
                lambda: noted(b"tEXt", b"safelight\0" + base64.b64encode(packed(256 << 20))),
                {422},
            ),
            "a note nested without end": (
                lambda: noted(b"tEXt", b"safelight\0" + b'{"format":1,"request":' + b"[" * 200_000),
                {422},
            ),
            "parameters of 1 MB": (lambda: noted(b"tEXt", b"parameters\0" + b"a" * 1_000_000), {413}),
            "a note that is no note": (
                lambda: noted(b"tEXt", b'safelight\0{"format":1,"request":{"task":"/etc/passwd"}}'),
                {422},
            ),
            "a line of 70 million pixels": (lambda: headed(70_000_000, 1), {413}),
            "a header of 2^31 pixels": (lambda: headed(2**31 - 1, 2**31 - 1), {413, 422}),
            "nothing": (lambda: headed(0, 0), {422}),
            "half": (lambda: noted(b"tEXt", b"a\0b")[:60], {422}),
            "a drawing": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', {422}),
            "a program": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) run\n", {422}),
            "a page": (lambda: b"<!doctype html><script>alert(1)</script>", {422}),
        }.items()
    },
    "a title of 1 MB": (lambda s: s.client.patch(f"/v1/runs/{RUN}", json={"title": "a" * (1 << 20)}).status_code, {422}),
    "a search of 50 kB": (lambda s: s.client.get(f"/v1/runs?q={'%25a' * 12_000}").status_code, {400, 414, 422}),
    "a prompt of 1 MB": (lambda s: asked(s, {"prompt": "a " * 500_000}), {413, 422}),
    "a thousand prompts": (lambda s: asked(s, {"prompt": ["bag"] * 1000}), {422}),
    "a prompt of 1 MB to tokenize": (
        lambda s: s.client.post("/v1/tokenize", json={"prompt": "a" * 1_000_000}).status_code,
        {422},
    ),
    "a prompt of 1 MB to lint": (lambda s: s.client.post("/v1/lint", json={"prompt": "no " * 330_000}).status_code, {422}),
    "a prompt of 1 MB to OpenAI": (
        lambda s: s.client.post("/v1/images/generations", json={"prompt": "a" * 1_000_000, "model": "tiny"}).status_code,
        {422},
    ),
    "too many pixels": (lambda s: asked(s, {"size": [1024, 1024]}), {422}),
    "too many steps": (lambda s: asked(s, {"steps": 10_000_000}), {422}),
    "too many steps within": (lambda s: asked(s, {"sampler": {"kind": "repaint", "inner": "ddim", "times": 10**7}}), {422}),
    "too many pictures": (lambda s: asked(s, {"count": 10**6}), {422}),
    "too many cells": (
        lambda s: (
            s.client.post(
                "/v1/grids",
                json={"model": "tiny", "axes": [{"path": p, "values": list(range(500))} for p in ("seed", "index", "steps")]},
            ).status_code
        ),
        {422},
    ),
    "a number beyond numbers": (
        lambda s: (
            s.client.post(
                "/v1/runs",
                content=b'{"request":{"seed":' + b"9" * 100_000 + b"}}",
                headers={"content-type": "application/json"},
            ).status_code
        ),
        {400, 422},
    ),
    "infinity": (
        lambda s: (
            s.client.post(
                "/v1/runs",
                content=b'{"request":{"mix":{"kind":"cfg","scale":Infinity}}}',
                headers={"content-type": "application/json"},
            ).status_code
        ),
        {400, 422},
    ),
    "nested without end": (
        lambda s: (
            s.client.post(
                "/v1/runs", content=b'{"request":' * 100_000, headers={"content-type": "application/json"}
            ).status_code
        ),
        {400, 422},
    ),
    "tasks without end": (lambda s: asked(s, {"task": nested(400)}), {400, 422}),
    # malformed replay ids
    **{
        f"replay id {name}": (lambda s, v=value: s.client.get("/v1/events", headers={"last-event-id": v}).status_code, {422})  # type: ignore[misc]
        for name, value in {
            "negative": "-1",
            "text": "abc",
            "float": "1.5",
            "huge": "9" * 40,
            "beyond 64 bits": str(2**63),
            "sql": "1;drop table runs",
            "long": "1" * 5000,
            "hexadecimal": "0x10",
            "empty": "",
        }.items()
    },
    # tokens
    "token guessing": (guess, {401}),
    "no token": (lambda s: httpx.get(f"{s.address}/v1/runs").status_code, {401}),
    "a token in the address": (lambda s: httpx.get(f"{s.address}/v1/runs?token={TOKEN}").status_code, {401}),
    "a wrong cookie": (lambda s: httpx.get(f"{s.address}/v1/runs", cookies={"safelight_token": "x"}).status_code, {401}),
    "a wrong password": (lambda s: httpx.get(f"{s.address}/sdapi/v1/options", auth=("user", "password")).status_code, {401}),
    "the token as a cookie": (lambda s: cookied(s, TOKEN), {401}),
    "a session that was made up": (lambda s: cookied(s, "x" * 43), {401}),
    "a session of half a character": (lambda s: cookied(s, "\xff" * 40), {401}),
    "a session as a token": (lambda s: bearing(s, signed_in(s)), {401}),
    "a session that has ended": (lambda s: ended(s), {401}),
    "signing in by another site": (
        lambda s: s.client.post("/v1/session", headers={"origin": "https://evil.example"}).status_code,
        {403},
    ),
    "signing in without a token": (lambda s: httpx.post(f"{s.address}/v1/session").status_code, {401}),
    "an invitation that was used": (lambda s: twice_invited(s), {401}),
    "an invitation as a token": (lambda s: bearing(s, tokens_of(s).invite()), {401}),
    "metrics without a token": (lambda s: httpx.get(f"{s.address}/metrics").status_code, {401}),
    # pickles
    **{
        f"a {kind} pickle as {where}": (lambda s, k=kind, w=where: upload(s, evil(k), w), {422})  # type: ignore[misc]
        for kind in ("plain", "torch")
        for where in ("/v1/pictures", "/v1/masks")
    },
    "a pickle to import": (lambda s: imported(s, evil("plain"), "evil.png"), {422}),
    "a pickle as a model": (lambda s: odd_model(s, evil("torch")), {404, 422}),
    # files that lie about themselves
    "a model with a header of 2^60 bytes": (lambda s: odd_model(s, struct.pack("<Q", 1 << 60) + b"{}"), {404, 422}),
    "a model with a header of 128 MB": (lambda s: odd_model(s, struct.pack("<Q", 128 << 20), 129 << 20), {404, 422}),
    "a model of spaces": (lambda s: odd_model(s, struct.pack("<Q", 8 << 20) + b" " * (8 << 20)), {404, 422}),
    "a model nested without end": (
        lambda s: odd_model(s, struct.pack("<Q", 1 << 20) + b"[" * (1 << 20)),
        {404, 422},
    ),
    "a model of nothing": (lambda s: odd_model(s, b""), {404, 422}),
}


def asked_model(server: Running, name: str) -> int:
    return server.client.post("/v1/runs", json={"model": name, "request": {"prompt": "bag"}}).status_code


def nested(depth: int) -> dict[str, Any]:
    task: dict[str, Any] = {"kind": "text"}
    for k in range(depth):
        task = {"kind": "vary", "seed": k + 1, "of": task}
    return task


def lying(server: Running) -> int:
    host = server.address.removeprefix("http://")
    head = f"POST /v1/pictures HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {1 << 40}\r\n\r\n"
    return int(raw(server, head.encode() + b"x" * 1000).split(b" ", 2)[1])


def imported(server: Running, data: bytes, name: str) -> int:
    """422 where nothing was made of the file."""
    answer = server.client.post("/v1/runs/import", files={"files": (name, data, "image/png")})
    found = answer.json()
    return 422 if answer.status_code == 200 and not found["runs"] and len(found["refused"]) == 1 else answer.status_code


def odd_model(server: Running, data: bytes, length: int = 0) -> int:
    """Something that lies among the models under the name of one; the others are found all the same."""
    file = server.settings.folder / "models" / "evil.safetensors"
    with file.open("wb") as opened:
        opened.write(data)
        opened.truncate(max(length, len(data)))
    try:
        cards = server.client.get("/v1/models").json()["models"]
        assert {"tiny", "words"} <= {card["name"] for card in cards}
        return asked_model(server, "evil")
    finally:
        file.unlink()


def at(server: Running) -> str:
    return server.address.removeprefix("http://")


def sent(server: Running, text: str) -> int:
    """The status of what these bytes are answered with; none of them holds a token but where it says so."""
    answer = raw(server, text.encode("latin-1"))
    assert answer.count(b"HTTP/1.1 ") <= 1, "two answers to one request"
    return int(answer.split(b" ", 2)[1])


def hosted(server: Running, name: str) -> int:
    return sent(server, f"GET /v1/runs HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n")


def socketed(server: Running, more: str, where: str = "/v1/events") -> int:
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    return sent(
        server, f"GET {where} HTTP/1.1\r\nHost: {at(server)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}{more}\r\n"
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def headed(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(b"IDAT", b"")


def noted(kind: bytes, body: bytes, times: int = 1) -> bytes:
    """A PNG of 2 x 2 with chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(bytes(6))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + chunk(kind, body) * times + rest


@functools.cache
def packed(size: int) -> bytes:
    line = zlib.compressobj(9)
    return b"".join(line.compress(b" " * (1 << 20)) for _ in range(size >> 20)) + line.flush()


def folder_as_link(server: Running) -> int:
    """A run's folder, replaced by a link to one outside that holds a picture."""
    from safelight.serve.runs import Ask

    runs = app_of(server)
    run = runs.add(Ask(model="tiny"))
    outside = server.settings.folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "0.png").write_bytes(noted(b"tEXt", b"a\0SECRET"))
    runs.folder.run(run.id).parent.mkdir(parents=True, exist_ok=True)
    runs.folder.run(run.id).symlink_to(outside)
    runs.pictured(run.id, [("0.png", "sha256:" + "0" * 32, 8, 8)], state="done")
    answer = server.client.get(f"/v1/runs/{run.id}/pictures/0.png")
    assert b"SECRET" not in answer.content
    return answer.status_code


def seal_as_link(server: Running) -> int:
    """A picture that was brought, replaced by a link to what lies outside."""
    found = server.client.post("/v1/pictures", content=noted(b"tEXt", b"a\0b"), headers={"content-type": "image/png"}).json()
    file = app_of(server).folder.picture(found["seal"])
    file.unlink()
    file.symlink_to(server.settings.folder.parent / "secret.txt")
    try:
        answer = server.client.get(f"/v1/pictures/{found['seal']}.png")
        assert b"SECRET" not in answer.content
        return answer.status_code
    finally:
        file.unlink()


# ---- sessions ----------------------------------------------------------------------------------------------------------------


def tokens_of(server: Running) -> Tokens:
    """The tokens of a server, which runs in this process."""
    return TOKENS[server.address]


TOKENS: dict[str, Tokens] = {}


def signed_in(server: Running, secret: str = TOKEN) -> str:
    """The key of a new session."""
    answer = httpx.post(f"{server.address}/v1/session", headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 204, answer.text
    told = answer.headers["set-cookie"]
    assert "HttpOnly" in told and "SameSite=strict" in told and "Path=/" in told
    assert TOKEN not in told
    return answer.cookies[cookie(server.settings)]


def cookied(server: Running, key: str) -> int:
    told = f"{cookie(server.settings)}={key}".encode("latin-1")
    return httpx.get(f"{server.address}/v1/runs", headers={b"cookie": told}).status_code


def bearing(server: Running, secret: str) -> int:
    return httpx.get(f"{server.address}/v1/runs", headers={"authorization": f"Bearer {secret}"}).status_code


def ended(server: Running) -> int:
    key = signed_in(server)
    assert cookied(server, key) == 200
    cookies = {cookie(server.settings): key}
    assert httpx.delete(f"{server.address}/v1/session", cookies=cookies).status_code == 204
    return cookied(server, key)


def twice_invited(server: Running) -> int:
    invitation = tokens_of(server).invite()
    assert cookied(server, signed_in(server, invitation)) == 200
    return httpx.post(f"{server.address}/v1/session", headers={"authorization": f"Bearer {invitation}"}).status_code


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_refused(attack: str, closed: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {run["id"] for run in closed.client.get("/v1/runs?limit=1000").json()["runs"]}
    do, right = ATTACKS[attack]
    assert do(closed) in right
    assert not (tmp_path / CANARY).exists()
    assert closed.client.get("/healthz").status_code == 200
    after = {run["id"] for run in closed.client.get("/v1/runs?limit=1000").json()["runs"]}
    assert len(after - before) == (
        attack.startswith("a link") or "folder that is a link" in attack
    )  # nothing was queued but the test's own


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda c: c.get("/nothing"), 404),
        (lambda c: c.post("/v1/runs", json={"requst": {}}), 422),
        (lambda c: c.post("/v1/runs", content=b"{", headers={"content-type": "application/json"}), 422),
        (lambda c: c.get(f"/v1/runs/{RUN}"), 404),
        (lambda c: c.get(f"/v1/pictures/{SEAL}.png"), 404),
        (lambda c: c.get("/v1/runs?limit=0"), 422),
        (lambda c: c.request("BREW", "/v1/runs"), 405),
        (lambda c: c.get("/v1/runs", headers={"authorization": "Bearer x"}), 401),
    ],
)
def test_errors_are_one_line_of_json_without_a_trace(
    call: Callable[[httpx.Client], httpx.Response], status: int, closed: Running
) -> None:
    answer = call(closed.client)
    assert answer.status_code == status
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert "\n" not in found["message"]
    assert "Traceback" not in answer.text
    assert str(closed.settings.folder) not in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers


def test_a_failure_of_ours_is_a_sentence_with_a_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastapi.testclient import TestClient

    served = app(Settings(folder=tmp_path, devices=()))
    monkeypatch.setattr(served.state.server.runs, "find", lambda *_: 1 / 0)
    answer = TestClient(served, base_url="http://localhost").get("/v1/runs")
    assert answer.status_code == 500
    number = answer.json()["error"]["message"].partition("error ")[2].split()[0]
    assert "ZeroDivisionError" not in answer.text
    assert any(number in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("headers", "auth"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, None),
        ({}, ("anybody", TOKEN)),
        ({"cookie": "SESSION"}, None),
        ({"authorization": f"Bearer {TOKEN}", "origin": "ORIGIN"}, None),
        ({"authorization": f"Bearer {TOKEN}", "sec-fetch-site": "same-origin"}, None),
    ],
    ids=["bearer", "basic", "cookie", "own origin", "own page"],
)
def test_whoever_may_come_in_does(headers: dict[str, str], auth: tuple[str, str] | None, closed: Running) -> None:
    words = {"ORIGIN": closed.address, "SESSION": f"{cookie(closed.settings)}={signed_in(closed)}"}
    told = {k: words.get(v, v) for k, v in headers.items()}
    assert httpx.get(f"{closed.address}/v1/runs", headers=told, auth=auth).status_code == 200
    assert httpx.put(f"{closed.address}/v1/jobs/order", json={"ids": []}, headers=told, auth=auth).status_code == 200


def test_the_page_opens_before_a_token_is_typed_in(closed: Running) -> None:
    for where in ("/", "/create", "/run/0123456789ab", "/studio/index.html", "/healthz"):
        assert httpx.get(closed.address + where).status_code == 200


def test_wrong_tokens_are_slowed_down(tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    served = app(Settings(folder=tmp_path, devices=(), limits={"failures": 5}), Tokens(tmp_path, (TOKEN,)))
    client = TestClient(served, base_url="http://localhost")
    told = [client.get("/v1/runs", headers={"authorization": f"Bearer {k}"}).status_code for k in range(8)]
    assert told == [401] * 5 + [429] * 3
    late = client.get("/v1/runs", headers={"authorization": f"Bearer {TOKEN}"})
    assert late.status_code == 429
    assert int(late.headers["retry-after"]) > 0


def test_many_requests_of_one_address_are_refused(tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    served = app(Settings(folder=tmp_path, devices=(), limits={"rate": 0.1, "burst": 3}))
    client = TestClient(served, base_url="http://localhost")
    assert [client.get("/healthz").status_code for _ in range(5)] == [200] * 3 + [429] * 2


def test_no_client_is_many_by_what_it_says_of_itself(tmp_path: Path) -> None:
    """Guesses are counted by the line that they come on; only a proxy that was named speaks for others."""
    limits = {"failures": 5}
    guesses = [
        {"authorization": f"Bearer {k}", "x-forwarded-for": f"203.0.113.{k}", "x-real-ip": f"203.0.113.{k}"} for k in range(8)
    ]
    folder = tmp_path / "a"
    with serving(folder, Tokens(folder, (TOKEN,)), devices=(), limits=limits) as server:
        told = [server.client.get("/v1/runs", headers=one) for one in guesses]
        assert [one.status_code for one in told] == [401] * 5 + [429] * 3
        assert int(told[-1].headers["retry-after"]) > 0
    folder = tmp_path / "b"
    with serving(folder, Tokens(folder, (TOKEN,)), devices=(), limits=limits, proxies=("127.0.0.1",)) as server:
        assert [server.client.get("/v1/runs", headers=one).status_code for one in guesses] == [401] * 8
        one = {"authorization": "Bearer x", "x-forwarded-for": "203.0.113.99"}
        assert [server.client.get("/v1/runs", headers=one).status_code for _ in range(8)] == [401] * 5 + [429] * 3


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_an_address_counts_with_what_one_client_has(address: str, counted: str) -> None:
    assert whole(address) == counted


def test_a_body_that_comes_slowly_is_not_waited_for(closed: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from safelight.serve import guard

    monkeypatch.setattr(guard, "_PATIENCE", 0.2)
    head = f"POST /v1/pictures HTTP/1.1\r\nHost: {at(closed)}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\nx"
    assert sent(closed, head) == 408


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHost: "], ids=["nothing", "half a header"])
def test_a_line_on_which_nothing_is_said_is_cut(begin: bytes, closed: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from safelight.serve import lines

    monkeypatch.setattr(lines, "PATIENCE", 0.2)
    host, port = at(closed).split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(begin)
        try:
            assert line.recv(100) == b""
        except ConnectionResetError:
            pass


def test_one_address_does_not_hold_every_line(tmp_path: Path) -> None:
    with serving(tmp_path, devices=(), limits={"lines": 5}) as server:
        server.client.close()
        host, port = at(server).split(":")
        held = [socket.create_connection((host, int(port)), timeout=30) for _ in range(20)]
        try:
            answered = 0
            for line in held:
                try:
                    line.sendall(f"GET /healthz HTTP/1.1\r\nHost: {at(server)}\r\n\r\n".encode())
                    answered += b" 200 " in line.recv(1000)
                except ConnectionError:
                    continue
            assert answered == 5
        finally:
            for line in held:
                line.close()


def test_many_streams_leave_room_for_answers(tmp_path: Path) -> None:
    with serving(tmp_path, devices=()) as server:
        host, port = at(server).split(":")
        held = [socket.create_connection((host, int(port)), timeout=30) for _ in range(100)]
        try:
            for line in held:
                line.sendall(f"GET /v1/events HTTP/1.1\r\nHost: {at(server)}\r\n\r\n".encode())
            assert all(b"text/event-stream" in line.recv(4096) for line in held)
            assert server.client.post("/v1/jobs/pause").status_code == 200
            for line in held:  # each is told
                found = b""
                while b"event: queue" not in found:
                    found += line.recv(4096)
        finally:
            for line in held:
                line.close()


def test_a_picture_of_ranges_is_no_work(live: Running) -> None:
    """RFC 9110 lets a client ask for thousands of ranges of one file."""
    run = live.run(steps=2)
    where = f"/v1/runs/{run['id']}/trace.safetensors"
    whole_file = live.client.get(where).content
    for ranges in (",".join(["0-0"] * 6000), ",".join(f"{k}-" for k in range(6000)), "-1", "5-2", "0-" + "9" * 4000, "a-b"):
        answer = live.client.get(where, headers={"range": f"bytes={ranges}"})
        assert answer.status_code in (200, 206, 400, 416), ranges[:20]
        assert len(answer.content) <= 2 * len(whole_file)


def test_every_hash_is_compared_whichever_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes says nothing of which token was nearly right."""
    from safelight.serve import settings

    tokens = Tokens(tmp_path, (TOKEN,))
    first = tokens.new()
    tokens.new()
    compared = list[tuple[bytes, bytes]]()
    real = settings.hmac.compare_digest
    monkeypatch.setattr(settings.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    for secret in (first, TOKEN, "x", first[:-1]):
        compared.clear()
        tokens.opens(secret)
        assert len(compared) == 3
        assert all(len(a) == len(b) == 32 for a, b in compared)


def test_sessions_outlive_a_restart_and_end_with_their_token(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, (TOKEN,))
    kept = tokens.new()
    by_kept, by_own = tokens.sign_in(kept), tokens.sign_in(TOKEN)
    text = (tmp_path / "sessions.json").read_text()
    assert not any(secret in text for secret in (kept, TOKEN, by_kept, by_own))
    assert (tmp_path / "sessions.json").stat().st_mode & 0o777 == 0o600
    again = Tokens(tmp_path, (TOKEN,))
    assert again.signed_in(by_kept) and again.signed_in(by_own)
    assert not again.signed_in(kept) and not again.signed_in("") and not again.signed_in("\ud800")
    without = Tokens(tmp_path)  # the process's own token is gone
    assert without.signed_in(by_kept) and not without.signed_in(by_own)
    (tmp_path / "tokens.json").write_text("[]")
    assert not Tokens(tmp_path, (TOKEN,)).signed_in(by_kept)
    again.sign_out(by_own)
    assert not again.signed_in(by_own) and again.signed_in(by_kept)


def test_sessions_and_invitations_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, now, clock = Tokens(tmp_path, (TOKEN,)), [time.time()], [time.monotonic()]
    # Its own clock alone: the loops of servers in this process would sleep until the other's time comes.
    monkeypatch.setattr("safelight.serve.settings.time", SimpleNamespace(time=lambda: now[0], monotonic=lambda: clock[0]))
    key, invitation = tokens.sign_in(TOKEN), tokens.invite()
    clock[0] += 601
    assert not tokens.invited(invitation)
    with pytest.raises(SpecError, match="no token"):
        tokens.sign_in(invitation)
    assert tokens.signed_in(key)
    now[0] += 31 * 86400
    assert not tokens.signed_in(key)
    with pytest.raises(SpecError, match="invites nobody"):
        Tokens(tmp_path / "other").invite()


@pytest.mark.parametrize("name", ["tokens.json", "sessions.json"])
@pytest.mark.parametrize("text", ["", "{", "{}", "null", '[{"salt": "zz"}]', "[1]"])
def test_damaged_tokens_are_never_no_tokens(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=f"{name} is damaged"):
        Tokens(tmp_path)


def test_what_is_kept_is_private(tmp_path: Path) -> None:
    app(Settings(folder=tmp_path / "data", devices=()))
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_the_log_cannot_be_forged(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.testclient import TestClient

    served = app(Settings(folder=tmp_path, devices=()))
    monkeypatch.setattr(served.state.server.runs, "get", lambda *_: 1 / 0)
    client = TestClient(served, base_url="http://localhost")
    for end in ("%0a", "%0d", "%c2%85", "%e2%80%a8"):
        client.get(f"/v1/runs/{RUN}{end}ERROR forged")
    assert client.get(f"/v1/runs/{RUN}").status_code == 500
    assert all(len(record.getMessage().splitlines()) == 1 for record in caplog.records if record.name.startswith("safelight"))


def test_what_is_private_is_kept_by_nobody_on_the_way(closed: Running) -> None:
    for where in ("/v1/runs", "/v1/settings", "/metrics", "/v1/nothing", "/v1/models"):
        answer = closed.client.get(where, headers={"x-forwarded-host": "evil.example", "x-forwarded-proto": "https"})
        assert answer.headers["cache-control"] in ("no-store", "private, no-cache"), where
        assert "evil.example" not in answer.text
    page_, login = (
        httpx.get(closed.address, headers=h) for h in ({"cookie": f"{cookie(closed.settings)}={signed_in(closed)}"}, {})
    )
    assert "Cookie" in page_.headers["vary"]
    assert page_.headers["etag"] != login.headers["etag"]
    assert "Sign in" in login.text and "Sign in" not in page_.text
    assert TOKEN not in login.text


def test_no_place_of_this_machine_is_told(tmp_path: Path) -> None:
    """Also not of a model that lies elsewhere, and is damaged."""
    import shutil

    data, elsewhere = tmp_path / "data", tmp_path / "somebody" / "private place"
    models(data)
    elsewhere.mkdir(parents=True)
    shutil.move(data / "models" / "words.safetensors", elsewhere / "w.safetensors")
    (data / "models" / "words.safetensors").symlink_to(elsewhere / "w.safetensors")
    with serving(data, devices=()) as server:
        whole_file = (elsewhere / "w.safetensors").read_bytes()
        (elsewhere / "w.safetensors").write_bytes(whole_file[: len(whole_file) // 2])
        answers = [
            server.client.post("/v1/tokenize", json={"prompt": "a", "model": "words"}),
            server.client.get("/v1/models/words"),
            server.client.post("/v1/runs", json={"model": "words", "request": {"prompt": "a"}}),
            server.client.post(
                "/v1/runs", json={"model": "tiny", "request": {"task": {"kind": "image", "picture": "/etc/passwd"}}}
            ),
            server.client.get("/v1/models"),
        ]
        assert [one.status_code for one in answers] == [422, 422, 422, 404, 200]
        for one in answers:
            assert not any(place in one.text for place in (str(tmp_path), "private place", str(Path(__file__).parents[2])))


def test_an_allowance_fills_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("safelight.serve.guard.time", SimpleNamespace(monotonic=lambda: now[0]))
    allowance = Allowance(rate=2, burst=4)
    assert [allowance.take("a") for _ in range(4)] == [0.0] * 4
    assert allowance.take("a") == pytest.approx(0.5)
    assert allowance.take("b") == 0.0
    now[0] += 1
    assert [allowance.take("a") > 0 for _ in range(3)] == [False, False, True]


def test_tokens_are_kept_as_hashes_alone(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    assert not tokens
    first, second = tokens.new(), tokens.new()
    kept = (tmp_path / "tokens.json").read_text()
    assert first not in kept
    assert second not in kept
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    again = Tokens(tmp_path)
    assert again
    assert again.opens(first)
    assert again.opens(second)
    assert not any(again.opens(wrong) for wrong in ("", first[:-1], first + second, "ü", "\ud800"))
    assert len({row["salt"] for row in json.loads(kept)}) == 2
    with pytest.raises(SpecError, match="24 characters at least"):
        Tokens(tmp_path, ("short",))


@pytest.mark.parametrize(
    ("fields", "token", "says"),
    [
        ({"host": "0.0.0.0"}, True, "give a certificate"),
        ({"host": "::"}, True, "give a certificate"),
        ({"host": "192.0.2.7", "plain": True}, False, "needs a token"),
        ({"host": "example.org", "tls": {"certificate": "c.pem", "key": "k.pem"}}, False, "needs a token"),
        ({"host": "0.0.0.0", "tls": {"certificate": "c.pem", "key": "k.pem"}}, True, "no file c.pem"),
        ({"host": "0.0.0.0", "plain": True}, True, ""),
        ({"host": "127.0.0.1"}, False, ""),
        ({"host": "::1"}, False, ""),
        ({"host": "localhost"}, False, ""),
        ({"host": "127.8.8.8"}, False, ""),
    ],
)
def test_beyond_this_machine_it_needs_a_token_and_a_certificate(
    fields: dict[str, Any], token: bool, says: str, tmp_path: Path
) -> None:
    tokens = Tokens(tmp_path, (TOKEN,) if token else ())
    if not says:
        app(Settings.model_validate({"folder": tmp_path, "devices": (), **fields}), tokens)
        return
    with pytest.raises((SpecError, ValueError), match=says):
        app(Settings.model_validate({"folder": tmp_path, "devices": (), **fields}), tokens)
