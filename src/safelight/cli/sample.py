"""Make pictures with a trained model of classes, or of nothing at all; for models of words there is also `safelight generate`.

MODEL is a file, a run's folder (its latest checkpoint) or the name of a model that ships (fashion-mnist).

    safelight sample fashion-mnist -p "ankle boot" --count 8 --film boots.gif
    safelight sample fashion-mnist -p dress -p bag --steps 20 --sampler dpm++2m --guidance 3
    safelight sample fashion-mnist --sampler ddim --set sampler.eta=1 --save-config mine.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from safelight.cli import making

if TYPE_CHECKING:
    from safelight.model import Model


def add(parser: argparse.ArgumentParser) -> None:
    """What is asked for, how it is made, and where it goes."""
    parser.add_argument("model", metavar="MODEL", help="a model file, a run's folder, or a name that ships")
    parser.add_argument(
        "-p", "--prompt", action="append", metavar="TEXT", help="repeatable, a row each; without it every class"
    )
    making.options(parser, model=False)


def run(args: argparse.Namespace) -> int:
    """Sample, showing progress, and print where everything is."""
    from safelight.assets import Assets

    verb = Path(args.model).stem
    making.Where(args, verb, (args.count or 1) * len(args.prompt or [""]))  # before the work, not after it
    model = making.opened(args)
    given = {"prompt": args.prompt} if args.prompt else {}
    assets = Assets(device=model.device)
    request = making.resolve(args, model, given, assets, plain={"count": 8, "prompt": classes(model)})
    making.make(args, model, request, assets, verb=verb)
    return 0


def classes(model: Model) -> list[str]:
    """Every class of a model of labels; no prompt for any other model."""
    names = getattr(model.text.spec, "names", ()) if model.text is not None else ()
    return list(names) or [""]
