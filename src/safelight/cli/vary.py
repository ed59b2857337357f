"""Make variations of a picture: the same, a little otherwise. On one sheet they stand around it.

    safelight vary apples.png
    safelight vary apples.png --strength 0.3 --count 24 --variation-seed 7
    safelight vary -p "a red apple on a blue background" --seed 3 --index 5
    safelight vary photo.jpg -p "a red apple" --strength 0.15

A picture of ours says how it was made: its own noise is moved towards that of another seed, by --strength, 0 the picture and 1 the
other seed's. So is that of a prompt's picture --index of --seed. Any other picture is inverted first: taken up to the noise that
the model would have made it from (--by noise: noised instead, as `edit` does it).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.cli import making
from safelight.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.assets import Assets
    from safelight.model import Model
    from safelight.picture import Note
    from safelight.task import Resolved


def add(parser: argparse.ArgumentParser) -> None:
    """The picture or the prompt, how far to go, and what every verb that makes pictures takes."""
    parser.add_argument("input", nargs="?", metavar="PICTURE", help="the picture to vary; without it that of a prompt")
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="what is seen; of a picture of ours, other words than its own")
    what = parser.add_argument_group("the variations")
    what.add_argument("--strength", type=float, default=0.2, metavar="X", help="0 the picture itself, 1 another one (0.2)")
    what.add_argument(
        "--variation-seed", "--subseed", type=int, metavar="N", help="variation k is always the same (--seed + 1)"
    )
    what.add_argument(
        "--by", choices=("inversion", "noise"), default="inversion", help="how a picture that is not ours is taken"
    )
    what.add_argument(
        "--input", dest="sources", action="append", default=[], metavar="FILE", help="a picture that PICTURE was made from"
    )
    what.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a model, or one more that PICTURE was made with; without it the picture's own, if it ships, or {making.MODEL}",
    )
    making.options(parser, model=False)


def run(args: argparse.Namespace) -> int:
    """Vary, showing progress, and print where everything is."""
    from safelight import device as devices
    from safelight import picture
    from safelight.assets import Assets
    from safelight.model import load

    if args.input is None and args.prompt is None and not args.config:
        raise SpecError('say what to vary: a picture, or --prompt, as in: safelight vary -p "a red apple" --index 5')
    if not 0 <= args.strength <= 1:
        raise SpecError(f"--strength {args.strength:g}: between 0, the picture, and 1, another one")
    count = args.count = 8 if args.count is None else args.count
    where = making.Where(args, "vary", count)  # before the work, not after it
    pixels: Tensor | None = None
    note: Note | None = None
    if args.input is not None:
        pixels, note = picture.read(args.input)
    device = devices.pick(args.device)
    if note is not None:
        from safelight import reproduce

        if args.weights:
            raise SpecError("--weights: a picture of ours says which weights made it; leave them out")
        model = reproduce.weights_of(note, args.model, device=device)
        if note.model.fingerprint != model.fingerprint:
            print(f"hint     {reproduce.another(note, model)}", file=sys.stderr)
    else:
        model = load((args.model or [making.MODEL])[0], args.weights, device=device)
    assets = Assets(device=model.device)
    given = of_note(args, note, assets) if note is not None else None
    if given is None:
        given = of_words(args) if pixels is None else of_pixels(args, pixels, assets)
    request = making.resolve(args, model, given, assets)
    made = making.make(args, model, request, assets, parents=[] if pixels is None else [(pixels, note)], verb="vary")
    if where.one is None:
        print(f"around   {around(where.folder / 'around.png', pixels, made.pictures, request, model, assets)}")
    return 0


def of_note(args: argparse.Namespace, note: Note, assets: Assets) -> dict[str, Any] | None:
    """The request of a picture of ours, varied. None where its task draws no noise of its own, and the picture has to do."""
    from safelight import reproduce
    from safelight.spec import describe
    from safelight.task.interpolate import Interpolate
    from safelight.task.invert import Invert

    asked = reproduce.request_for(note, args.model)
    if isinstance(asked.task, Interpolate):
        return None
    for source in reproduce.sources(note, args.sources, Path(args.input).absolute().parent):
        assets.add(source)
    given = {k: v for k, v in describe(asked, family=False).items() if k != "kind"}
    seed = given["seed"] if args.seed is None else args.seed
    other = seed + 1 if args.variation_seed is None else args.variation_seed
    if isinstance(asked.task, Invert) and not asked.task.vary:
        given |= {"task": {**given["task"], "vary": args.strength}, "seed": other}
        args.seed = None  # which would go over it
    else:
        vary = {"kind": "vary", "seed": other, "strength": args.strength, "number": asked.index + note.index}
        given["task"] = {**vary, "of": given["task"]}
    prompt = args.prompt if args.prompt is not None else reproduce.prompt_of(note)
    return {**given, "prompt": [prompt], "index": 0, "micro_batch": None}


def of_words(args: argparse.Namespace) -> dict[str, Any]:
    """Picture --index of --seed of a prompt, varied."""
    seed, number = args.seed or 0, args.index or 0
    other = seed + 1 if args.variation_seed is None else args.variation_seed
    args.index = None
    task = {"kind": "vary", "seed": other, "strength": args.strength, "number": number}
    return {"task": task, **({} if args.prompt is None else {"prompt": [args.prompt]})}


def of_pixels(args: argparse.Namespace, pixels: Tensor, assets: Assets) -> dict[str, Any]:
    """Any picture, varied: inverted and its noise moved, or noised to the strength."""
    seal = assets.add(pixels)
    if args.by == "noise":
        task = {"kind": "image", "picture": seal, "strength": args.strength}
    else:
        task = {"kind": "invert", "picture": seal, "source": args.prompt or "", "vary": args.strength}
        args.count = args.count if args.strength else 1  # the inversion alone, of which there is one
    if args.variation_seed is not None:
        args.seed = args.variation_seed
    # Unguided down as it is inverted: guidance would lead away from the picture itself.
    guided = {} if args.guidance is not None or args.by == "noise" else {"mix": "none"}
    return {"task": task, "prompt": [args.prompt or ""], **guided}


def around(path: Path, pixels: Tensor | None, made: list[Tensor], request: Resolved, model: Model, assets: Assets) -> Path:
    """One sheet: the variations, and in the middle the picture itself, which is made if it was not given."""
    import torch

    from safelight.draw.grid import save, sheet
    from safelight.draw.pixels import to_bytes

    if pixels is None:
        pixels = torch.from_numpy(to_bytes(original(request, model, assets)).transpose(0, 3, 1, 2).copy())[0]
    elif pixels.shape != made[0].shape:
        from safelight.task import canvas

        size = (made[0].shape[1], made[0].shape[2])
        fitted = canvas.picture(assets, assets.add(pixels), model, size).cpu()
        pixels = torch.from_numpy(to_bytes(fitted).transpose(0, 3, 1, 2).copy())[0]
    middle = len(made) // 2
    cells = [*made[:middle], pixels, *made[middle:]]
    captions = [*(str(request.index + k) for k in range(middle)), "the picture"]
    captions += [str(request.index + k) for k in range(middle, len(made))]
    return save(path, sheet(torch.stack(cells), captions=captions, title=request.prompt[0]))


def original(request: Resolved, model: Model, assets: Assets) -> Any:
    """(1, C, H, W) the picture that a request varies."""
    from safelight.generate import Finished, generate

    task = request.task.model_copy(update={"strength": 0.0})
    asked = request.model_copy(update={"task": task, "count": 1})
    return next(e.pictures for e in generate(model, asked, assets=assets) if isinstance(e, Finished))
