"""Make the pictures on the way from one to another, and a film of them.

    safelight morph "a cat" "a dog" --gif morph.gif
    safelight morph -p "a red apple" -p "a blue umbrella" -p "a red apple" --frames 48 --back
    safelight morph "a cat on a yellow background" --seeds 1,2,3 --ease smooth
    safelight morph apples.png umbrella.png --frames 16
    safelight morph "a cat" "a dog" --at 0,0.3,0.42,0.5,0.58,0.7,1

The ends, two or more, are words, or pictures: one of ours by its own words and noise where this model made it from words, any other
by inversion. With one seed for all the noise stands still and the words move; with --seeds the noise moves, too.
"""

from __future__ import annotations

import argparse
import math
import os
import re
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

# So many frames are made where nobody says, and so many a strip shows.
_FRAMES = 24
_IN_A_STRIP = 12


def add(parser: argparse.ArgumentParser) -> None:
    """The ends, the path between them, and what every verb that makes pictures takes."""
    parser.add_argument("ends", nargs="*", metavar="END", help="words, or a picture's file; two or more")
    parser.add_argument("-p", "--prompt", action="append", default=[], metavar="TEXT", help="words, after the ENDs; repeatable")
    path = parser.add_argument_group("the path")
    path.add_argument("--frames", type=int, metavar="N", help="pictures, both ends among them (24)")
    path.add_argument(
        "--at",
        metavar="X,X",
        help="where the frames lie instead of evenly: 0 is the first end, 0.5 halfway to the second, 1.5 beyond",
    )
    path.add_argument("--seeds", metavar="N,N", help="a seed for each end; with one prompt as many ends as seeds")
    path.add_argument("--ease", choices=("linear", "smooth"), help="smooth slows down at the ends (linear)")
    path.add_argument("--words", choices=("slerp", "straight"), help="how words turn into each other (slerp)")
    path.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a model, or one more that a picture was made with; without it the first picture's own, if it ships, or {making.MODEL}",
    )
    film = parser.add_argument_group("the film")
    film.add_argument("--seconds", type=float, default=3.0, metavar="X", help="from the first to the last frame (3)")
    film.add_argument("--back", action="store_true", help="and back again, so that it loops")
    making.options(parser, model=False, variation=False, film="the film of the finished pictures")


def run(args: argparse.Namespace) -> int:
    """Morph, showing progress, and print where everything is."""
    import torch

    from safelight import device as devices
    from safelight import picture
    from safelight.assets import Assets
    from safelight.data.decode import is_picture
    from safelight.draw.film import SUFFIXES
    from safelight.draw.reel import reel

    if args.frames is not None and args.frames < 2:
        raise SpecError(f"--frames {args.frames}: a path has both its ends, so 2 at least")
    if args.at is not None and (args.frames is not None or args.ease is not None):
        raise SpecError("--at says where each frame lies; leave --frames and --ease out")
    if args.count is not None or args.index is not None:
        raise SpecError("--count and --index are for pictures of one kind; a path counts --frames")
    if args.seeds is not None and args.seed is not None:
        raise SpecError("--seeds gives each end its seed; leave --seed out")
    if not 0 < args.seconds < math.inf:
        raise SpecError(f"--seconds {args.seconds:g}: a film lasts more than 0")
    kept = making.kept(args)
    before = kept["task"] if kept.get("task", {}).get("kind") == "interpolate" else {}
    at = places(args.at) or ((before.get("at") or []) if args.frames is None and args.ease is None else [])
    args.count = args.frames or len(at) or (kept.get("count", _FRAMES) if before else _FRAMES)
    where = making.Where(argparse.Namespace(**{**vars(args), "film": None}), "morph", args.count)  # before the work
    film, args.film = Path(args.film) if args.film else where.folder / "morph.gif", None
    if film.suffix.lower() not in SUFFIXES:
        raise SpecError(f"--gif {film}: '{film.suffix}' is no film format here ({', '.join(SUFFIXES)})")
    named = [*args.ends, *args.prompt]
    read = {end: picture.read(end) for end in dict.fromkeys(args.ends) if os.path.isfile(end)}  # of long words, too
    for end in args.ends:
        if end not in read and is_picture(end):
            raise SpecError(f"{end}: No such file; give such words by --prompt, if they are words")
    seeds = numbers(args.seeds)
    if len(named) == 1 and seeds:
        named = named * len(seeds)
    again: list[dict[str, Any]] = [dict(end) for end in before.get("ends") or ()] if not named else []
    if any(end.get("picture") for end in again):
        raise SpecError("--config: its ends are pictures, which it does not hold: name them again")
    if len(named or again) < 2:
        raise SpecError('a path needs two ends at least, as in: safelight morph "a cat" "a dog"')
    if seeds and len(seeds) != len(named or again):
        raise SpecError(f"--seeds: {len(seeds)} seeds for {len(named or again)} ends")

    notes = [note for _, note in read.values() if note is not None]
    if not notes and len(args.model) > 1:
        raise SpecError("--model: one is enough; more are for pictures of ours, which name them")
    device = devices.pick(args.device)
    if notes:
        from safelight import reproduce

        if args.weights and not args.model:
            raise SpecError("--weights: a picture of ours says which weights made it; leave them out, or give --model too")
    if notes and not (args.model and args.weights):
        model = reproduce.weights_of(notes[0], args.model, device=device)
    else:
        model = making.opened(args, (args.model or [making.MODEL])[0])
    assets = Assets(device=model.device)
    ends, given = [], dict[str, Any]()
    for k, name in enumerate(named):
        end, how = (
            of_picture(name, *read[name], model, assets, args.model, bool(seeds)) if name in read else ({"prompt": name}, {})
        )
        if how and given and how != given:
            print(
                f"hint     {name} was made with other settings than the first: that end comes out a little otherwise",
                file=sys.stderr,
            )
        given = given or how
        ends.append({**end, **({"seed": seeds[k]} if seeds and "picture" not in end else {})})
    ends = ends or [{**end, **({"seed": seeds[k]} if seeds else {})} for k, end in enumerate(again)]
    flags = {"ease": args.ease, "words": args.words}
    task = {
        **before,
        "at": at or None,
        "kind": "interpolate",
        "ends": ends,
        **{k: value for k, value in flags.items() if value},
    }
    task |= {"frames": None, "ease": "linear"} if at else {}
    words = {} if before else {"prompt": [""]}
    settings = {name: value for name, value in given.items() if name not in kept}  # a config file goes over a picture's own
    request = making.resolve(args, model, {**settings, "task": task, **words}, assets)
    shown = where.folder / "strip.png"
    made = making.make(
        args, model, request, assets, parents=list(read.values()), sources=list(read), beside=[film, shown], verb="morph"
    )

    frames = torch.stack(made.pictures)
    titles = [Path(n).stem if n in read else n for n in named] or [end.get("prompt") or "" for end in again]
    print(f"strip    {strip(shown, frames, titles)}")
    print(f"film     {reel(film, frames, seconds=args.seconds, back=args.back)}")
    return 0


def of_picture(
    name: str, pixels: Tensor, note: Note | None, model: Model, assets: Assets, given: list[str], reseeded: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A picture as an end of a path, and the settings that it was made with, if it is one that this model made of words."""
    from safelight import reproduce
    from safelight.spec import describe
    from safelight.task.text import Text

    if note is not None and note.model.fingerprint == model.fingerprint and not reseeded:
        asked = reproduce.request_for(note, given)
        if isinstance(asked.varied, Text):
            full = describe(asked, family=False)
            end = {"prompt": reproduce.prompt_of(note), "negative": asked.negative, "seed": asked.seed}
            how = {k: full[k] for k in ("steps", "sampler", "grid", "mix", "bends", "temperature", "churn", "size", "emphasis")}
            return {**end, "number": asked.index + note.index}, how
    if reseeded:
        raise SpecError(f"--seeds: {name} is a picture, which has its own noise")
    words = "" if note is None else reproduce.prompt_of(note)
    return {"picture": assets.add(pixels), "prompt": words}, {}


def numbers(text: str | None) -> list[int]:
    """`1,2,3` as numbers; none of None."""
    if text is None:
        return []
    if re.fullmatch(r"-?\d+(,-?\d+)*", text.replace(" ", "")) is None:
        raise SpecError(f"--seeds {text}: write whole numbers divided by commas, as in 1,2")
    return [int(part) for part in text.split(",")]


def places(text: str | None) -> list[float]:
    """`0,0.25,1` as numbers; none of None."""
    try:
        return [float(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise SpecError(f"--at {text}: write numbers divided by commas, as in 0,0.25,1") from None


def strip(path: Path, frames: Tensor, ends: list[str]) -> Path:
    """The path in one row: as many frames as fit, the ends among them."""
    import numpy as np

    from safelight.draw.grid import save, sheet

    n = len(frames)
    picks = list(range(n)) if n <= _IN_A_STRIP else [round(i) for i in np.linspace(0, n - 1, _IN_A_STRIP)]
    title = " → ".join(end or "''" for end in ends)
    return save(path, sheet(frames[picks], heads=[str(k) for k in picks], title=title))
