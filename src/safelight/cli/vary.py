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

# How far, and how many, where nobody says.
_STRENGTH = 0.2
_COUNT = 8


def add(parser: argparse.ArgumentParser) -> None:
    """The picture or the prompt, how far to go, and what every verb that makes pictures takes."""
    parser.add_argument("input", nargs="?", metavar="PICTURE", help="the picture to vary; without it that of a prompt")
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="what is seen; of a picture of ours, other words than its own")
    what = parser.add_argument_group("the variations")
    what.add_argument("--strength", type=float, metavar="X", help="0 the picture itself, 1 another one (0.2)")
    what.add_argument(
        "--variation-seed", "--subseed", type=int, metavar="N", help="variation k is always the same (--seed + 1)"
    )
    what.add_argument("--by", choices=("inversion", "noise"), help="how a picture that is not ours is taken (inversion)")
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
    making.options(parser, model=False, variation=False)


def run(args: argparse.Namespace) -> int:
    """Vary, showing progress, and print where everything is."""
    from safelight import device as devices
    from safelight import picture
    from safelight.assets import Assets

    if args.input is None and args.prompt is None and not args.config:
        raise SpecError('say what to vary: a picture, or --prompt, as in: safelight vary -p "a red apple" --index 5')
    if args.strength is not None and not 0 <= args.strength <= 1:
        raise SpecError(f"--strength {args.strength:g}: between 0, the picture, and 1, another one")
    kept = making.kept(args)
    if args.count is None:
        varies = kept.get("task", {}).get("kind", "text") != "text"
        args.count = kept.get("count", _COUNT) if varies else _COUNT
    where = making.Where(args, "vary", args.count)  # before the work, not after it
    pixels: Tensor | None = None
    note: Note | None = None
    if args.input is not None:
        pixels, note = picture.read(args.input)
    if note is None and len(args.model) > 1:
        raise SpecError("--model: one is enough; more are for a picture of ours, which names them")
    device = devices.pick(args.device)
    if note is not None:
        from safelight import reproduce

        for flag, given in (("--weights", args.weights), ("--config", args.config)):
            if given:
                raise SpecError(f"{flag}: a picture of ours says how it was made; leave it out")
        model = reproduce.weights_of(note, args.model, device=device)
        if note.model.fingerprint != model.fingerprint:
            print(f"hint     {reproduce.another(note, model)}", file=sys.stderr)
    else:
        model = making.opened(args, (args.model or [making.MODEL])[0])
    assets = Assets(device=model.device)
    asked = of_note(args, note, assets) if note is not None else None
    own = asked is not None or pixels is None
    if asked is None:
        asked = of_words(args, kept) if pixels is None else of_pixels(args, kept, pixels, assets)
    if own and args.by:
        raise SpecError("--by: the noise of this picture is known, so there is no other way to take it; leave it out")
    request = making.resolve(args, model, asked, assets)
    for file in args.sources if not note or not note.inputs else ():
        print(f"hint     --input {file}: nothing that is asked for is made from it", file=sys.stderr)
    args.no_hints |= args.prompt is None  # words that are already painted
    around_it = where.folder / "around.png"
    made = making.make(
        args,
        model,
        request,
        assets,
        parents=[] if pixels is None else [(pixels, note)],
        sources=[*args.sources, *([args.input] if args.input else [])],
        beside=[] if where.one else [around_it],
        verb="vary",
    )
    if where.one is None:
        print(f"around   {around(around_it, pixels, made.pictures, request, model, assets)}")
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
    strength = _STRENGTH if args.strength is None else args.strength
    if isinstance(asked.task, Invert) and not asked.task.vary:
        given |= {"task": {**given["task"], "vary": strength}, "seed": other}
        args.seed = None  # which would go over it
    else:
        vary = {"kind": "vary", "seed": other, "strength": strength, "number": asked.index + note.index}
        given |= {"task": {**vary, "of": describe(asked.varied, family=False)}, "variation": None}
    prompt = args.prompt if args.prompt is not None else reproduce.prompt_of(note)
    return {**given, "prompt": [prompt], "index": 0, "micro_batch": None}


def of_words(args: argparse.Namespace, kept: dict[str, Any]) -> dict[str, Any]:
    """Picture --index of --seed of a prompt, varied; over `kept`, a request that varies or that is of words."""
    before = kept.get("task", {"kind": "text"})
    if before["kind"] not in ("text", "vary"):
        raise SpecError(f"--config: its task is '{before['kind']}', which needs a picture: vary that")
    seed = kept.get("seed", 0) if args.seed is None else args.seed
    task = {"kind": "vary", "seed": seed + 1, "strength": _STRENGTH, "number": kept.get("index", 0)}
    index: dict[str, Any] = {"index": 0}
    if before["kind"] == "vary":
        task, index = {**task, **before}, {}
    flags = {"seed": args.variation_seed, "strength": args.strength, "number": args.index}
    task |= {name: value for name, value in flags.items() if value is not None}
    args.index = None
    return {"task": task, **index, **({} if args.prompt is None else {"prompt": [args.prompt]})}


def of_pixels(args: argparse.Namespace, kept: dict[str, Any], pixels: Tensor, assets: Assets) -> dict[str, Any]:
    """Any picture, varied: inverted and its noise moved, or noised to the strength; over `kept`, a request that does so."""
    if args.seed is not None and args.variation_seed is not None:
        raise SpecError("--seed: a picture that is not ours has none, --variation-seed is that of its variations: give one")
    before = kept.get("task", {})
    by = args.by or ("noise" if before.get("kind") == "image" else "inversion")
    kind, how_far = ("image", "strength") if by == "noise" else ("invert", "vary")
    task: dict[str, Any] = {"kind": kind, how_far: _STRENGTH} | (before if before.get("kind") == kind else {})
    task["picture"] = assets.add(pixels)
    if args.strength is not None:
        task[how_far] = args.strength
    if args.prompt is not None and kind == "invert":
        task["source"] = args.prompt
    if kind == "invert" and not task["vary"]:
        args.count = 1  # the inversion alone, of which there is one
    if args.variation_seed is not None:
        args.seed = args.variation_seed
    # Unguided down as it is inverted: guidance would lead away from the picture itself.
    guided = {} if args.guidance is not None or kind == "image" or "mix" in kept else {"mix": "none"}
    said = {"prompt": [args.prompt or ""]} if args.prompt is not None or "prompt" not in kept else {}
    return {"task": task, **said, **guided}


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
