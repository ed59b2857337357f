"""Open the studio: a page on this machine in which pictures are made, watched coming out of noise, edited, mixed and explained.

    safelight studio
    safelight studio --no-open --port 0

It is `safelight serve` with a browser opened at it, and takes the same options. Nothing is fetched from elsewhere. Where a token is
needed, that browser is signed in by an invitation in its address, which is good once; others type the token in.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from safelight.cli import serve

if TYPE_CHECKING:
    from safelight.serve.settings import Tokens


def add(parser: argparse.ArgumentParser) -> None:
    """`--no-open`, and the options of `serve`."""
    parser.add_argument("--no-open", action="store_true", help="print the address, and leave the browser alone")
    serve.add(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted, with a browser at it."""

    def ready(address: str, tokens: Tokens) -> None:
        invited = f"{address}/#code={tokens.invite()}" if tokens else address
        print(f"studio   {address}", flush=True)
        if args.no_open and tokens:
            print(f"invited  {invited} (once, within ten minutes)", flush=True)
        if not args.no_open:
            import threading
            import webbrowser

            threading.Thread(target=webbrowser.open, args=(invited,), daemon=True).start()

    return serve.start(args, ready)
