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
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from safelight.files import atomic_bytes
from safelight.serve.runs import Prune
from safelight.serve.safety import NoPolicy, Policy, Provenance
from safelight.spec import Spec, SpecError

# A token that a person chose is guessed at; this many characters are the least that is taken.
SHORTEST_TOKEN = 24
# Seconds that a browser stays signed in, and that an invitation waits to be used; so many browsers at once.
SESSION, INVITATION, _SESSIONS = 30 * 86400, 600.0, 1000


class Limits(Spec):
    """How much one client may ask for. What is larger is refused with 413 (bodies and pictures) or 422 (requests).

    pixels: of one picture made. work: pixels x steps x pictures of one run. steps, count: of one run. prompt: characters of all texts
    of a request. body: bytes of a request's body. decompressed: pixels of a picture that is sent. queue: jobs that wait. cells: runs
    of one grid or morph. rate, burst: requests a second of one address in the long run, and at once. failures: wrong tokens of one
    address in a minute. lines: connections that one address holds at once. An IPv6 address counts with all of its /64.
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
    lines: int = Field(256, ge=1)


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
    max_loaded: how many of them, 0 for any number. memory: "low" lets text encoder and codec leave memory while others work.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = Field(7860, ge=0, le=65535)
    names: tuple[str, ...] = ()
    tls: TLS | None = None
    plain: bool = False
    proxies: tuple[str, ...] = ()
    limits: Limits = Limits()
    provenance: Provenance | None = None
    devices: tuple[str, ...] = ("auto",)
    budget: int = Field(0, ge=0)
    max_loaded: int = Field(0, ge=0)
    memory: Literal["full", "low"] = "full"

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
        """Raise SpecError for an address beyond this machine that nobody needs a token for, and for a certificate that is of no use."""
        if not self.local and not tokens:
            raise SpecError(f"host {self.host} is seen beyond this machine, so it needs a token: make one with --new-token")
        self.certified()

    def certified(self) -> None:
        """Raise SpecError for a certificate that is missing, damaged, or of another key."""
        if self.tls is None:
            return
        for file in (self.tls.certificate, self.tls.key):
            if not file.is_file():
                raise SpecError(f"no file {file}")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls.certificate, self.tls.key, password="")
        except (OSError, ValueError) as error:
            raise SpecError(
                f"{self.tls.certificate} and {self.tls.key} are no certificate with its open key, as PEM: {' '.join(str(error).split())}"
            ) from None


class _Hash(NamedTuple):
    """What is kept of a secret."""

    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, secret: str) -> _Hash:
        salt = secrets.token_bytes(16)
        return cls(salt, _digest(salt, secret))

    def fits(self, secret: str) -> bool:
        return hmac.compare_digest(_digest(self.salt, secret), self.digest)

    @property
    def row(self) -> dict[str, str]:
        return {"salt": self.salt.hex(), "hash": self.digest.hex()}

    @classmethod
    def read(cls, row: dict[str, str]) -> _Hash:
        return cls(bytes.fromhex(row["salt"]), bytes.fromhex(row["hash"]))


class _Session(NamedTuple):
    """A browser that is signed in: its key, the token that it came in by, and until when (unix seconds)."""

    key: _Hash
    by: _Hash
    until: float


class Tokens:
    """The tokens that open a server: kept as salted hashes in a file of its data folder, compared in constant time.

    further: tokens of this process alone, as from an environment variable. A browser is given a session for a token, so that it never
    keeps one; a session ends with its token. An invitation stands for a token once, for ten minutes, in this process.
    """

    def __init__(self, folder: Path, further: tuple[str, ...] = ()) -> None:
        self.file, self._signed_in = folder / "tokens.json", folder / "sessions.json"
        self._lock = threading.Lock()
        self._hashes = [_Hash.read(row) for row in _rows(self.file)]
        self._own = [self._hashed(token) for token in further]
        self._invitations: list[tuple[_Hash, float]] = []
        self._sessions: list[_Session] = []
        for row in _rows(self._signed_in):
            by = _Hash.read(row["by"])
            mine = next((own for own, token in zip(self._own, further, strict=True) if by.fits(token)), None)
            if mine is not None or by in self._hashes:
                self._sessions.append(_Session(_Hash.read(row["key"]), by if mine is None else mine, float(row["until"])))

    def __bool__(self) -> bool:
        return bool(self._hashes or self._own)

    def new(self) -> str:
        """A new token, which is kept as its hash alone: 256 random bits, so that one round of SHA-256 is enough."""
        token = secrets.token_urlsafe(32)
        self._hashes.append(self._hashed(token))
        _keep(self.file, [one.row for one in self._hashes])
        return token

    def opens(self, token: str) -> bool:
        """Whether a token is one of them; every one is compared, whatever the first says."""
        return self._which(token) is not None

    # ---- browsers ------------------------------------------------------------------------------------------------------------

    def invite(self) -> str:
        """What `sign_in` takes once instead of a token. Raises SpecError where there is no token."""
        if not self:
            raise SpecError("a server without tokens invites nobody: everyone may come in")
        secret = secrets.token_urlsafe(32)
        with self._lock:
            self._invitations.append((_Hash.of(secret), time.monotonic() + INVITATION))
        return secret

    def invited(self, secret: str) -> bool:
        """Whether an invitation is good and was not used."""
        found, now = False, time.monotonic()
        for one, until in tuple(self._invitations):
            found |= one.fits(secret) and now < until
        return found

    def sign_in(self, secret: str) -> str:
        """The key of a new session, for a token or an invitation, which is used up. Raises SpecError for anything else."""
        with self._lock:
            by = self._which(secret)
            if by is None and self.invited(secret):
                self._invitations = [one for one in self._invitations if not one[0].fits(secret)]
                by = (*self._hashes, *self._own)[0]
            if by is None:
                raise SpecError("this is no token of this server")
            key = secrets.token_urlsafe(32)
            self._sessions.append(_Session(_Hash.of(key), by, time.time() + SESSION))
            self._write()
        return key

    def signed_in(self, key: str) -> bool:
        """Whether a session's key is good."""
        found, now = False, time.time()
        for one in tuple(self._sessions):
            found |= one.key.fits(key) and now < one.until
        return found

    def sign_out(self, key: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions = [one for one in self._sessions if not one.key.fits(key)]
            self._write()

    def _which(self, token: str) -> _Hash | None:
        found = None
        for one in (*self._hashes, *self._own):
            found = one if one.fits(token) else found
        return found

    def _write(self) -> None:
        now = time.time()
        self._sessions = [one for one in self._sessions if now < one.until][-_SESSIONS:]
        _keep(self._signed_in, [{"key": one.key.row, "by": one.by.row, "until": one.until} for one in self._sessions])

    def _hashed(self, token: str) -> _Hash:
        if len(token) < SHORTEST_TOKEN:
            raise SpecError(f"a token has {SHORTEST_TOKEN} characters at least; make one with --new-token")
        return _Hash.of(token)


def _rows(file: Path) -> list[Any]:
    """What a file of hashes holds. Raises SpecError for a damaged one: it must never pass for one without tokens."""
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text())
        for row in found:
            _Hash.read(row.get("by", row))
        if isinstance(found, list):
            return found
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise SpecError(f"{file} is damaged: delete it, and make a new token with --new-token")


def _keep(file: Path, rows: list[Any]) -> None:
    atomic_bytes(file, json.dumps(rows).encode())
    os.chmod(file, 0o600)


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
