"""Make a picture of words, and on request see how it came out of noise.

    safelight generate "three red apples on a blue background" --gif --show-steps
    safelight generate "a cat on a yellow background" --count 8 --seed 3 --guidance 4 --out cats
    safelight generate "a dog" --negative "red background" --steps 12 --out dog.png --trace dog.safetensors
    safelight generate --from picture.png --seed 5
    safelight generate "three red apples" --hires --size 64x64
    safelight generate "a cat" --model base.safetensors --refiner refiner.safetensors

Without --model it is the model that ships. --from takes the request of a picture, ours or another tool's, and lists what cannot be
followed; flags go over it. --hires composes the picture at the model's own size and draws it out at --size in a second pass. What a
prompt could be helped by is said, and done by `safelight prompt check --fix`.
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
    twice = parser.add_argument_group("in two passes")
    twice.add_argument(
        "--hires",
        nargs="?",
        const="",
        metavar="HxW",
        help="first at the model's own size, or at this, then enlarged to --size (twice it)",
    )
    twice.add_argument("--hires-strength", type=float, metavar="X", help="how much the second pass draws anew (0.5)")
    twice.add_argument(
        "--hires-steps", type=int, metavar="N", help="steps of the second pass, exactly (those of --steps below its strength)"
    )
    twice.add_argument(
        "--hires-latent", metavar="FILTER", help="enlarge latents, not pixels: nearest, bilinear, bicubic, lanczos"
    )
    making.partners(parser)
    making.options(parser)


def run(args: argparse.Namespace) -> int:
    """Generate, showing progress, and print where everything is."""
    from safelight import reproduce
    from safelight.assets import Assets, seal

    if not args.prompt and not args.source and not args.config:
        raise SpecError('say what shall be seen, as in: safelight generate "a red apple on a blue background"')
    making.Where(args, "generate", (args.count or 1) * max(len(args.prompt), 1))  # before the work, not after it
    model = making.opened(args)
    given: dict[str, Any] = {}
    assets = Assets(device=model.device)
    brought = making.Brought(args.input, assets)
    if args.source:
        first = seal(brought.parents[0][0]) if brought.parents else None
        given, reports = reproduce.request_of(args.source, model, first, making.at_hand(args))
        for line in reports:
            print(line)
    if args.prompt:
        given |= {"prompt": args.prompt}
    if (second := passes(args)) or args.depth or args.refiner or args.near_black or args.switch is not None:
        inner = second or given.get("task") or making.kept(args).get("task") or {"kind": "text"}
        given |= {"task": making.partnered(args, inner, assets)}
    request = making.resolve(args, model, given, assets)
    sources = [*args.input, *(file for file in (args.source, args.depth) if file)]
    parents = [*brought.of(request), *making.depths(args)]
    making.make(args, model, request, assets, parents=parents, sources=sources, verb="generate")
    return 0


def passes(args: argparse.Namespace) -> dict[str, Any]:
    """The task that the flags of two passes describe; {} without one. Raises SpecError for those that say how, where none says that."""
    flags = {"strength": args.hires_strength, "count": args.hires_steps, "latent": args.hires_latent}
    second = {name: value for name, value in flags.items() if value is not None}
    if args.hires is None:
        if second:
            raise SpecError("--hires-strength, --hires-steps and --hires-latent are of a second pass: give --hires")
        return {}
    if "count" in second:
        second["steps"] = "exact"
    found: dict[str, Any] = {"kind": "hires", "second": {"strength": 0.5, **second}}
    return found | ({"first": making.size(args.hires)} if args.hires else {})
