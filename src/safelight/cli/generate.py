"""Make a picture of words, and on request see how it came out of noise.

    safelight generate "three red apples on a blue background" --gif --show-steps
    safelight generate "a cat on a yellow background" --count 8 --seed 3 --guidance 4 --out cats
    safelight generate "a dog" --negative "red background" --steps 12 --out dog.png --trace dog.safetensors
    safelight generate --from picture.png --seed 5

Without --model it is the model that ships. --from takes the request of a picture, ours or another tool's, and lists what cannot be
followed; flags go over it. What a prompt could be helped by is said, and done by `safelight prompt check --fix`.
"""

from __future__ import annotations

import argparse
from typing import Any

from safelight.cli import making
from safelight.spec import SpecError


def add(parser: argparse.ArgumentParser) -> None:
    """The prompts, and what every verb that makes pictures takes."""
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="what shall be seen; several make a row each")
    parser.add_argument(
        "--from", dest="source", metavar="FILE", help="a picture, or a .txt with its parameters: ask for the same"
    )
    parser.add_argument(
        "--input", action="append", default=[], metavar="FILE", help="a picture that the request of --from needs"
    )
    making.options(parser)


def run(args: argparse.Namespace) -> int:
    """Generate, showing progress, and print where everything is."""
    from safelight import device as devices
    from safelight import reproduce
    from safelight.assets import Assets, seal
    from safelight.model import load

    if not args.prompt and not args.source and not args.config:
        raise SpecError('say what shall be seen, as in: safelight generate "a red apple on a blue background"')
    making.Where(args, "generate", (args.count or 1) * max(len(args.prompt), 1))  # before the work, not after it
    model = load(args.model, args.weights, device=devices.pick(args.device))
    given: dict[str, Any] = {}
    assets = Assets(device=model.device)
    brought = making.Brought(args.input, assets)
    if args.source:
        first = seal(brought.parents[0][0]) if brought.parents else None
        given, reports = reproduce.request_of(args.source, model, first)
        for line in reports:
            print(line)
    if args.prompt:
        given |= {"prompt": args.prompt}
    request = making.resolve(args, model, given, assets)
    sources = [*args.input, *([args.source] if args.source else [])]
    making.make(args, model, request, assets, parents=brought.of(request), sources=sources, verb="generate")
    return 0
