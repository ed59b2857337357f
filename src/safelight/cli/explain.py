"""One HTML file that shows how a picture came out of noise: every step, every lens, and the numbers from words to pixels.

    safelight explain "a red apple on a blue background" --html apple.html
    safelight explain picture.png --html picture.html
    safelight explain 0m1x2y3z4a5b --html run.html

What is explained is a run of the studio by its id, a picture of ours (made again from its note), or a prompt. The file needs neither
a server nor a network, and opens from the disk.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.cli.making import MODEL
from safelight.cli.serve import data_folder, data_option

if TYPE_CHECKING:
    from safelight.assets import Assets
    from safelight.model import Model
    from safelight.task import Request
    from safelight.trace import Trace


def add(parser: argparse.ArgumentParser) -> None:
    """What is explained, and where to."""
    parser.add_argument("what", metavar="RUN|PICTURE|PROMPT", help="a run's id, a picture of ours, or words")
    parser.add_argument("--html", default="out/explain.html", metavar="FILE", help="the file to write (%(default)s)")
    parser.add_argument("--model", metavar="NAME", help=f"of a prompt ({MODEL}), or of a picture whose model does not ship")
    parser.add_argument("--input", action="append", default=[], metavar="FILE", help="a picture that the picture was made from")
    parser.add_argument(
        "--lora", action="append", default=[], metavar="FILE", help="an adapter that the model wore for the picture"
    )
    parser.add_argument("--embedding", action="append", default=[], metavar="FILE", help="a learned word that it knew")
    parser.add_argument("--seed", type=int, metavar="N", help="of a prompt (0)")
    parser.add_argument("--steps", type=int, metavar="N", help="of a prompt (the model's own)")
    parser.add_argument("--guidance", type=float, metavar="X", help="of a prompt (the model's own)")
    parser.add_argument(
        "--no-attention", action="store_true", help="leave out what the network attended to, which costs another run"
    )
    data_option(parser)


def run(args: argparse.Namespace) -> int:
    """Record it, or take its recording, and write the page."""
    from safelight.files import atomic_bytes
    from safelight.serve.attention import hear
    from safelight.serve.page import page
    from safelight.spec import SpecError

    about, trace, model, assets = _recorded(args)
    heard = None
    if not args.no_attention:
        try:
            heard = hear(trace, model, assets=assets, first=about.get("fork_step"))
        except SpecError as error:
            print(f"hint     attention is left out: {error}", file=sys.stderr)
    target = Path(args.html)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_bytes(target, page(about, trace, model, heard=heard).encode())
    print(f"page     {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


def _recorded(args: argparse.Namespace) -> tuple[dict[str, Any], Trace, Model, Assets]:
    """(the run as the API has it, or {}; its recording; its model; what it needs)."""
    from safelight import reproduce
    from safelight.assets import Assets
    from safelight.data.decode import is_picture
    from safelight.guide.cfg import scaled
    from safelight.model import load
    from safelight.picture import note
    from safelight.spec import SpecError, describe, parse
    from safelight.task import Request

    folder = data_folder(args)
    if re.fullmatch("[0-9a-z]{12}", args.what) and (folder / "safelight.db").is_file():
        from safelight import device as devices
        from safelight.serve.folder import Folder, Missing
        from safelight.serve.runs import Runs
        from safelight.serve.worker import Models, Shelf
        from safelight.trace import Trace

        runs = Runs(Folder(folder))
        try:
            found = runs.get(args.what)
        except Missing:
            found = None
        if found is not None:
            models = Models(runs.folder, devices.pick("cpu"))
            return found.model_dump(mode="json"), Trace.open(runs.trace(found.id)), models.get(found.model), Shelf(models)
    given = [args.model] if args.model else []
    if Path(args.what).is_file():
        told = note(args.what)
        if told is None:
            raise SpecError(f"{args.what} carries no note of safelight, so nothing says how it came to be")
        model = reproduce.weights_of(told, given)
        assets = Assets(reproduce.sources(told, args.input, Path(args.what).parent))
        for file in args.lora:
            assets.bring_lora(file)
        for file in args.embedding:
            assets.bring_word(file)
        request = parse(reproduce.alone(told), "request")
        assert isinstance(request, Request)
        return {}, _run(model, request, assets), model, assets
    if is_picture(args.what):
        raise SpecError(f"{args.what}: No such file")
    model = load(args.model or MODEL)
    fields: dict[str, Any] = {"prompt": [args.what], "seed": args.seed or 0, "steps": args.steps}
    if args.guidance is not None:
        fields["mix"] = scaled(describe(model.spec.defaults.mix, family=False), args.guidance)
    request = parse(fields, "request")
    assert isinstance(request, Request)
    assets = Assets()
    return {}, _run(model, request, assets), model, assets


def _run(model: Model, request: Request, assets: Assets) -> Trace:
    from safelight.generate import generate
    from safelight.trace import Recorder

    recorder = Recorder(branches=True)
    for event in generate(model, request, assets=assets):
        recorder.see(event)
    return recorder.trace()
