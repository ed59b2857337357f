"""Settings of a server: where it listens, what it lets in, and how much of it.

What a client may change (`Public`) is kept in the data folder; addresses, tokens and limits are the operator's and come from the
command line or a file alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import secrets
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from safelight.files import atomic_bytes
from safelight.serve.runs import Prune
from safelight.serve.safety import NoPolicy, Policy, Provenance
from safelight.spec import Spec, SpecError

# A token that a person chose is guessed at; this many characters are the least that is taken.
SHORTEST_TOKEN = 24


class Limits(Spec):
    """How much one client may ask for. What is larger is refused with 413 (bodies and pictures) or 422 (requests).

    pixels: of one picture made. work: pixels x steps x pictures of one run. steps, count: of one run. prompt: characters of all texts
    of a request. body: bytes of a request's body. decompressed: pixels of a picture that is sent. queue: jobs that wait. cells: runs
    of one grid or morph. rate, burst: requests a second of one address in the long run, and at once. failures: wrong tokens of one
    address in a minute.
    """

    pixels: int = Field(1 << 20, ge=1)
    work: int = Field(1 << 34, ge=1)
    steps: int = Field(1000, ge=1)
    count: int = Field(64, ge=1)
    prompt: int = Field(20_000, ge=1)
    body: int = Field(48 << 20, ge=1024)
    decompressed: int = Field(1 << 26, ge=1)
    queue: int = Field(10_000, ge=1)
    cells: int = Field(512, ge=1)
    rate: float = Field(100.0, gt=0)
    burst: int = Field(2000, ge=1)
    failures: int = Field(10, ge=1)


class TLS(Spec):
    """Files of the certificate (with its chain) and of its key, PEM."""

    certificate: Path
    key: Path


class Public(Spec):
    """The settings that a client sees and may change. prune: what may go when room is wanted; None keeps everything."""

    safety: Policy = NoPolicy()
    prune: Prune | None = Prune()


class Settings(Spec):
    """A server.

    folder: its data folder. host, port: where it listens; 0 takes a free port. names: further host names by which it is called. tls:
    None speaks plain HTTP. plain: listen beyond this machine without TLS all the same. provenance: signs pictures on request. devices:
    one worker each; none for a server that only queues. budget: bytes of models that a worker keeps, 0 as the memory allows.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = Field(7860, ge=0, le=65535)
    names: tuple[str, ...] = ()
    tls: TLS | None = None
    plain: bool = False
    limits: Limits = Limits()
    provenance: Provenance | None = None
    devices: tuple[str, ...] = ("auto",)
    budget: int = Field(0, ge=0)

    @property
    def local(self) -> bool:
        """Whether it listens to this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if not self.local and self.tls is None and not self.plain:
            raise ValueError(
                f"host {self.host} is seen beyond this machine: give a certificate (--tls-cert, --tls-key), or say --plain-http"
            )
        return self

    def check(self, tokens: Tokens) -> None:
        """Raise SpecError for an address beyond this machine that nobody needs a token for, and for missing certificates."""
        if not self.local and not tokens:
            raise SpecError(f"host {self.host} is seen beyond this machine, so it needs a token: make one with --new-token")
        for file in (self.tls.certificate, self.tls.key) if self.tls else ():
            if not file.is_file():
                raise SpecError(f"no file {file}")


class Tokens:
    """The tokens that open a server: kept as salted hashes in a file of its data folder, compared in constant time.

    further: tokens of this process alone, as from an environment variable.
    """

    def __init__(self, folder: Path, further: tuple[str, ...] = ()) -> None:
        self.file = folder / "tokens.json"
        self._hashes: list[tuple[bytes, bytes]] = []
        if self.file.is_file():
            self._hashes = [(bytes.fromhex(t["salt"]), bytes.fromhex(t["hash"])) for t in json.loads(self.file.read_text())]
        self._own = [self._hashed(token) for token in further]

    def __bool__(self) -> bool:
        return bool(self._hashes or self._own)

    def new(self) -> str:
        """A new token, which is kept as its hash alone: 256 random bits, so that one round of SHA-256 is enough."""
        token = secrets.token_urlsafe(32)
        self._hashes.append(self._hashed(token))
        rows = [{"salt": salt.hex(), "hash": digest.hex()} for salt, digest in self._hashes]
        atomic_bytes(self.file, json.dumps(rows).encode())
        os.chmod(self.file, 0o600)
        return token

    def opens(self, token: str) -> bool:
        """Whether a token is one of them; every one is compared, whatever the first says."""
        found = False
        for salt, digest in (*self._hashes, *self._own):
            found |= hmac.compare_digest(_digest(salt, token), digest)
        return found

    def _hashed(self, token: str) -> tuple[bytes, bytes]:
        if len(token) < SHORTEST_TOKEN:
            raise SpecError(f"a token has {SHORTEST_TOKEN} characters at least; make one with --new-token")
        salt = secrets.token_bytes(16)
        return salt, _digest(salt, token)


def _digest(salt: bytes, token: str) -> bytes:
    return hashlib.sha256(salt + token.encode("utf-8", "replace")).digest()


def read_public(folder: Path) -> Public:
    """The public settings that a data folder keeps, or the defaults. Raises SpecError for a damaged file."""
    file = folder / "settings.json"
    if not file.is_file():
        return Public()
    try:
        return Public.model_validate_json(file.read_bytes())
    except ValueError as error:
        raise SpecError(f"{file} is damaged: {' '.join(str(error).split())[:200]}") from None


def write_public(folder: Path, public: Public) -> None:
    """Keep the public settings in a data folder."""
    atomic_bytes(folder / "settings.json", public.model_dump_json(indent=1).encode())


__all__ = ["TLS", "Limits", "Public", "Settings", "Tokens", "read_public", "write_public"]
