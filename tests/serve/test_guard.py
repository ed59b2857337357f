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
from typing import Any

import httpx
import pytest
import torch

from safelight.serve.app import app
from safelight.serve.guard import Allowance
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
    with serving(folder, Tokens(folder, (TOKEN,)), devices=(), limits=limits) as running:
        running.client.headers["authorization"] = f"Bearer {TOKEN}"
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

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    line = zlib.compressobj(9)
    packed = b"".join(line.compress(b"\0" * (side + 1)) for _ in range(side)) + line.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


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
    "metrics without a token": (lambda s: httpx.get(f"{s.address}/metrics").status_code, {401}),
    # pickles
    **{
        f"a {kind} pickle as {where}": (lambda s, k=kind, w=where: upload(s, evil(k), w), {422})  # type: ignore[misc]
        for kind in ("plain", "torch")
        for where in ("/v1/pictures", "/v1/masks")
    },
    "a pickle to import": (lambda s: imported(s, evil("plain"), "evil.png"), {422}),
    "a pickle as a model": (lambda s: pickled_model(s), {404, 422}),
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


def pickled_model(server: Running) -> int:
    """A pickle that lies among the models under the name of one."""
    (server.settings.folder / "models" / "evil.safetensors").write_bytes(evil("torch"))
    try:
        return asked_model(server, "evil")
    finally:
        (server.settings.folder / "models" / "evil.safetensors").unlink()


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_refused(attack: str, closed: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {run["id"] for run in closed.client.get("/v1/runs?limit=1000").json()["runs"]}
    do, right = ATTACKS[attack]
    assert do(closed) in right
    assert not (tmp_path / CANARY).exists()
    assert closed.client.get("/healthz").status_code == 200
    after = {run["id"] for run in closed.client.get("/v1/runs?limit=1000").json()["runs"]}
    assert len(after - before) == ("a link" in attack)  # nothing was queued; the link's own run is the test's


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
        ({"cookie": f"safelight_token={TOKEN}"}, None),
        ({"authorization": f"Bearer {TOKEN}", "origin": "ORIGIN"}, None),
        ({"authorization": f"Bearer {TOKEN}", "sec-fetch-site": "same-origin"}, None),
    ],
    ids=["bearer", "basic", "cookie", "own origin", "own page"],
)
def test_whoever_may_come_in_does(headers: dict[str, str], auth: tuple[str, str] | None, closed: Running) -> None:
    told = {k: closed.address if v == "ORIGIN" else v for k, v in headers.items()}
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


def test_an_allowance_fills_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
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
