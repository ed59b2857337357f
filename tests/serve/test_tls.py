"""Beyond this machine: a certificate that clients verify, a token that they need, and no start without either."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from safelight.cli.main import main
from safelight.serve.guard import cookie
from safelight.serve.settings import Tokens
from tests.serve.live import Running, models, serving

TOKEN = "a-token-for-tests-that-nobody-guesses"


def signed_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """(authority, certificate, key), PEM files: a certificate for localhost and this machine's addresses, signed by an authority."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Authority of a test")])
    now = datetime.datetime.now(datetime.UTC)

    def named(subject: x509.Name, public: Any) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(authority).public_key(public)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))

    root = (
        named(authority, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                False, False, False, False, False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
            ),
            critical=True,
        )
        .sign(authority_key, hashes.SHA256())
    )
    places = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(a)) for a in {"127.0.0.1", outside()})]
    leaf = (
        named(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]), key.public_key())
        .add_extension(x509.SubjectAlternativeName(places), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(root.public_bytes(pem))
    files[1].write_bytes(leaf.public_bytes(pem))
    files[2].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    files[2].chmod(0o600)
    return files


def outside() -> str:
    """An address of this machine that others see; the loopback's where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            line.connect(("192.0.2.1", 9))  # no packet is sent
            return str(line.getsockname()[0])
        except OSError:
            return "127.0.0.1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return signed_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def open_to_all(certificate: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on every address of this machine, with a certificate and a token."""
    folder = tmp_path_factory.mktemp("data")
    models(folder)
    tls = {"certificate": certificate[1], "key": certificate[2]}
    with serving(folder, Tokens(folder, (TOKEN,)), host="0.0.0.0", tls=tls, names=(outside(),)) as running:
        yield running


def place(running: Running, host: str) -> str:
    return running.address.replace("127.0.0.1", host)


def client(running: Running, authority: Path, host: str, **headers: str) -> httpx.Client:
    return httpx.Client(
        base_url=place(running, host), verify=ssl.create_default_context(cafile=authority), headers=headers, timeout=60
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "outside"])
def test_a_client_that_verifies_makes_a_picture(host: str, open_to_all: Running, certificate: tuple[Path, Path, Path]) -> None:
    host = outside() if host == "outside" else host
    assert open_to_all.address.startswith("https://")
    with client(open_to_all, certificate[0], host, authorization=f"Bearer {TOKEN}") as mine:
        body = {"model": "tiny", "request": {"prompt": "bag", "steps": 2, "seed": 1}}
        answer = mine.post("/v1/runs?picture=0", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        made = mine.post(
            "/v1/images/generations", json={"prompt": "bag", "model": "tiny", "response_format": "url", "steps": 2}
        )
        assert made.json()["data"][0]["url"].startswith(f"https://{host}:")


def test_without_a_token_nothing_is_told(open_to_all: Running, certificate: tuple[Path, Path, Path]) -> None:
    with client(open_to_all, certificate[0], outside()) as mine:
        for where in ("/v1/runs", "/v1/settings", "/sdapi/v1/options", "/metrics", "/openapi.json"):
            assert mine.get(where).status_code == 401, where
        assert mine.post("/v1/runs", json={}).status_code == 401
        assert mine.get("/healthz").status_code == 200


def test_a_session_leaves_by_tls_alone(open_to_all: Running, certificate: tuple[Path, Path, Path]) -> None:
    with client(open_to_all, certificate[0], outside()) as mine:
        told = mine.post("/v1/session", headers={"authorization": f"Bearer {TOKEN}"}).headers["set-cookie"]
        assert "Secure" in told and "HttpOnly" in told
        assert cookie(open_to_all.settings) in mine.cookies
        assert mine.get("/v1/runs").status_code == 200
        assert mine.delete("/v1/session").status_code == 204
        assert mine.get("/v1/runs").status_code == 401


def test_who_is_not_who_it_says_is_not_talked_to(open_to_all: Running, tmp_path: Path) -> None:
    """A client that trusts another authority, or none, goes no further; nor does one that speaks plain HTTP or old TLS."""
    other = signed_certificate(tmp_path)[0]
    with client(open_to_all, other, "127.0.0.1") as mine, pytest.raises(httpx.ConnectError, match="verify failed"):
        mine.get("/healthz")
    plain = http.client.HTTPConnection(open_to_all.address.removeprefix("https://"), timeout=10)
    plain.connect()
    plain.putrequest("GET", "/healthz")
    plain.endheaders()
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.getresponse()
    host, port = open_to_all.address.removeprefix("https://").split(":")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), timeout=10) as line, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(line)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "give a certificate"),
        (["--host", "0.0.0.0", "--new-token"], "give a certificate"),
        (["--host", "0.0.0.0", "--plain-http"], "needs a token"),
        (["--host", "0.0.0.0", "--tls-cert", "CERT"], "given together"),
        (["--host", "0.0.0.0", "--tls-cert", "CERT", "--tls-key", "KEY"], "needs a token"),
        (["--host", "0.0.0.0", "--tls-cert", "CERT", "--tls-key", "absent.pem", "--new-token"], "no file absent.pem"),
        (["--host", "0.0.0.0", "--tls-cert", "CERT", "--tls-key", "CERT", "--new-token"], "no certificate with its open key"),
        (["--tls-cert", "CERT", "--tls-key", "OTHER"], "no certificate with its open key"),
    ],
)
def test_it_does_not_start_open(
    options: list[str],
    says: str,
    certificate: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SAFELIGHT_TOKEN", raising=False)
    monkeypatch.setattr("safelight.serve.app.Live.run", lambda _: pytest.fail("it started"))
    files = {"CERT": str(certificate[1]), "KEY": str(certificate[2]), "OTHER": str(signed_certificate(tmp_path)[2])}
    data = str(tmp_path / "data")
    assert main(["serve", "--data", data, "--port", "0", "--device", "cpu", *(files.get(w, w) for w in options)]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert len(told.err.splitlines()) == 1
    assert told.out == ""  # no token is made for a server that does not start
    assert not (tmp_path / "data" / "tokens.json").exists()


@pytest.mark.slow
def test_the_studio_is_opened_with_an_invitation(certificate: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """`safelight studio --new-token --no-open`: a token once, an address, and an invitation that opens it once."""
    words = [
        "--host",
        "0.0.0.0",
        "--new-token",
        "--tls-cert",
        str(certificate[1]),
        "--tls-key",
        str(certificate[2]),
        "--no-open",
    ]
    server = Started("studio", tmp_path, *words)
    try:
        told = dict(server.line().split(None, 1) for _ in range(3))
        address, invitation = told["studio"].strip(), told["invited"].split()[0].partition("#code=")[2]
        assert address.startswith("https://127.0.0.1:")
        with httpx.Client(base_url=address, verify=ssl.create_default_context(cafile=certificate[0])) as mine:
            assert mine.get("/v1/runs", headers={"authorization": f"Bearer {told['token'].strip()}"}).status_code == 200
            assert mine.post("/v1/session", headers={"authorization": f"Bearer {invitation}"}).status_code == 204
            assert mine.get("/v1/runs").status_code == 200
        with httpx.Client(base_url=address, verify=ssl.create_default_context(cafile=certificate[0])) as other:
            assert other.post("/v1/session", headers={"authorization": f"Bearer {invitation}"}).status_code == 401
    finally:
        server.end()


class Started:
    """`safelight VERB --data ... --port 0` as a person starts it."""

    def __init__(self, verb: str, folder: Path, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
        environment.pop("SAFELIGHT_TOKEN", None)
        command = [
            sys.executable,
            "-m",
            "safelight",
            verb,
            "--data",
            str(folder / "data"),
            "--port",
            "0",
            "--device",
            "cpu",
            *words,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        found = self.process.stdout.readline()
        assert found, self.process.communicate(timeout=30)
        return found

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_openssl_agrees(open_to_all: Running, certificate: tuple[Path, Path, Path]) -> None:
    """Another implementation verifies the chain and the name."""
    port = open_to_all.address.rsplit(":", 1)[1]
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(certificate[0]), "-verify_return_error"]
    done = subprocess.run(
        [*command, "-verify_hostname", "localhost", "-brief"], input="", capture_output=True, text=True, timeout=60
    )
    assert "Verification: OK" in done.stdout + done.stderr
