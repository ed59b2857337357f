"""Serve pictures over HTTP: our own API with every run's recording, OpenAI's images API, A1111's endpoints, and the studio's page.

    safelight serve
    safelight serve --port 7860 --model runs/mine --data ~/pictures
    safelight serve --host 0.0.0.0 --new-token --tls-cert cert.pem --tls-key key.pem

It listens to this machine alone unless --host says otherwise; then it needs a token and a certificate. A token is shown once, when it
is made, and kept as a hash; $SAFELIGHT_TOKEN brings one for this process alone. Everything is kept in --data, which survives anything.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from safelight.serve.settings import Settings, Tokens


def add(parser: argparse.ArgumentParser) -> None:
    """Where it listens, what it serves, and who may ask."""
    data_option(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (%(default)s: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="the port, 0 for a free one (%(default)s)")
    parser.add_argument(
        "--model", action="append", default=[], metavar="FILE", help="also serve this model file or run's folder"
    )
    parser.add_argument(
        "--device", action="append", default=[], metavar="NAME", help="a worker on this device (auto); several: one each"
    )
    parser.add_argument("--budget", type=float, default=0, metavar="GB", help="memory for models on each device (half of it)")
    parser.add_argument(
        "--max-loaded", type=int, default=0, metavar="N", help="models kept in memory on each device (any number)"
    )
    parser.add_argument(
        "--memory",
        choices=("full", "low"),
        default="full",
        help="low: text encoder and codec leave while others work (%(default)s)",
    )
    safe = parser.add_argument_group("who may ask")
    safe.add_argument("--new-token", action="store_true", help="make a token, show it once, and need one from now on")
    safe.add_argument("--tls-cert", metavar="FILE", help="the certificate with its chain, PEM")
    safe.add_argument("--tls-key", metavar="FILE", help="its key, PEM")
    safe.add_argument(
        "--plain-http", action="store_true", help="listen beyond this machine without TLS, as behind a proxy that has it"
    )
    safe.add_argument("--name", action="append", default=[], metavar="HOST", help="a further host name that it is called by")
    safe.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="any setting: limits.pixels=262144")
    marks = parser.add_argument_group("content credentials (C2PA)")
    marks.add_argument("--c2pa-cert", metavar="FILE", help="sign pictures with this certificate where a client asks for it")
    marks.add_argument("--c2pa-key", metavar="FILE", help="its key")


def data_option(parser: argparse.ArgumentParser) -> None:
    """`--data`, of every verb that works on kept runs."""
    parser.add_argument("--data", metavar="FOLDER", help="where runs are kept ($SAFELIGHT_HOME, else ~/.local/share/safelight)")


def data_folder(args: argparse.Namespace) -> Path:
    """The folder that --data names, or the usual one."""
    if args.data:
        return Path(args.data).expanduser()
    if home := os.environ.get("SAFELIGHT_HOME"):
        return Path(home).expanduser()
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(shared).expanduser() / "safelight"


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    return start(
        args, lambda address, _: print(f"safelight serves at {address}, runs are kept in {data_folder(args)}", flush=True)
    )


def start(args: argparse.Namespace, ready: Callable[[str, Tokens], None]) -> int:
    """Serve as the options say. ready: called with the address once it can be asked, and the tokens that open it."""
    from safelight import device as devices
    from safelight.serve.app import serve
    from safelight.serve.folder import Folder

    settings = settings_of(args)
    settings.certified()
    for name in settings.devices:
        devices.pick(name)  # a device that is not here is said before anything is started
    folder = Folder(settings.folder)
    for model in args.model:
        print(f"model    {folder.shelve(model)}")
    folder.close()
    tokens = tokens_of(args, settings)
    serve(settings, tokens, ready=lambda address: ready(address, tokens))
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the options describe. Raises SpecError where they do not go together."""
    from safelight.cli.overrides import assign
    from safelight.serve.settings import Settings
    from safelight.spec import SpecError, one_line

    fields: dict[str, object] = {
        "folder": data_folder(args),
        "host": args.host,
        "port": args.port,
        "names": args.name,
        "plain": args.plain_http,
        "devices": args.device or ["auto"],
        "budget": round(args.budget * 1e9),
        "max_loaded": args.max_loaded,
        "memory": args.memory,
        "limits": {},
    }
    for field, first, second in (("tls", "tls_cert", "tls_key"), ("provenance", "c2pa_cert", "c2pa_key")):
        certificate, key = getattr(args, first), getattr(args, second)
        if (certificate is None) != (key is None):
            raise SpecError(f"--{first.replace('_', '-')} and --{second.replace('_', '-')} are given together")
        if certificate is not None:
            fields[field] = {"certificate": certificate, "key": key}
    try:
        return Settings.model_validate(assign(fields, args.set))
    except ValueError as error:
        raise SpecError(one_line(error)) from None


def tokens_of(args: argparse.Namespace, settings: Settings) -> Tokens:
    """The tokens that open the server; a new one is shown here, and nowhere again."""
    from safelight.serve.settings import Tokens

    given = os.environ.get("SAFELIGHT_TOKEN")
    tokens = Tokens(settings.folder, (given,) if given else ())
    if args.new_token:
        print(f"token    {tokens.new()}", flush=True)
        print("         it is not shown again; clients send it as: Authorization: Bearer TOKEN", file=sys.stderr)
    return tokens
