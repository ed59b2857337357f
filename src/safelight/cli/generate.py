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
import sys
from pathlib import Path
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
    parser.add_argument("--no-hints", action="store_true", help="do not say what the prompt could be helped by")
    making.options(parser)


def run(args: argparse.Namespace) -> int:
    """Generate, showing progress, and print where everything is."""
    from safelight import device as devices
    from safelight import picture, reproduce
    from safelight.assets import Assets, seal
    from safelight.model import load

    if not args.prompt and not args.source and not args.config:
        raise SpecError('say what shall be seen, as in: safelight generate "a red apple on a blue background"')
    making.Where(args, "generate", 2 if (args.count or 1) * len(args.prompt) > 1 else 1)  # before the work, not after it
    model = load(args.model, args.weights, device=devices.pick(args.device))
    given: dict[str, Any] = {}
    assets = Assets(device=model.device)
    parents = [picture.read(path) for path in args.input]
    brought = [{assets.add(pixels) for pixels in reproduce.looks(Path(path))} for path in args.input]
    if args.source:
        given, reports = reproduce.request_of(args.source, model, seal(parents[0][0]) if parents else None)
        for line in reports:
            print(line)
    if args.prompt:
        given |= {"prompt": args.prompt}
    request = making.resolve(args, model, given, assets)
    if not args.no_hints:
        making.hint(request, model)
    wanted = set(request.task.inputs)
    for path, seals in zip(args.input, brought, strict=True):
        if not wanted & seals:
            print(f"hint     --input {path}: nothing that is asked for is made from it", file=sys.stderr)
    used = [parent for parent in parents if seal(parent[0]) in wanted]
    making.make(args, model, request, assets, parents=used, verb="generate")
    return 0
