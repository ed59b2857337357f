"""Make a picture larger: enlarged, then its details drawn anew by a model, in tiles where it is too large for the memory.

    safelight upscale photo.png
    safelight upscale photo.png "a red apple on a white background" --by 1.5 --strength 0.3
    safelight upscale photo.png "a village, aerial view" --by 4 --tile 64
    safelight upscale photo.png --size 48x64 --latent bicubic

A model that is made for it (Stable Diffusion's x4 upscaler, stages II and III of DeepFloyd IF) is shown the small picture at every
step, and the flags of the second pass are not for it; --noise-level is.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from safelight.cli import making
from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.model import Model


def add(parser: argparse.ArgumentParser) -> None:
    """The picture, the prompts, how it is enlarged, and what every verb that makes pictures takes."""
    parser.add_argument("input", metavar="PICTURE", help="the picture to enlarge")
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="what is seen; several make a row each")
    what = parser.add_argument_group("how it is enlarged")
    what.add_argument("--by", type=float, metavar="X", help="times its own size (2; 4 by models made for it)")
    what.add_argument("--strength", type=float, metavar="X", help="how much is drawn anew: 0.2 keeps what is seen (0.35)")
    what.add_argument("--exact-steps", action="store_true", help="run all --steps below the strength, not those that lie there")
    what.add_argument("--latent", metavar="FILTER", help="enlarge latents, not pixels: nearest, bilinear, bicubic, lanczos")
    what.add_argument("--tile", type=int, metavar="N", help="work on tiles of N pixels a side")
    what.add_argument("--overlap", type=int, metavar="N", help="pixels that tiles share (a quarter of --tile)")
    what.add_argument(
        "--noise-level", type=int, metavar="N", help="of models made for it: how much of the small picture not to trust"
    )
    making.options(parser)


def run(args: argparse.Namespace) -> int:
    """Enlarge, showing progress, and print where everything is."""
    from safelight import picture
    from safelight.assets import Assets

    before = making.kept(args).get("task", {})
    pixels, note = picture.read(args.input)
    making.Where(args, "upscale", (args.count or 1) * max(len(args.prompt), 1))  # before the work, not after it
    model = making.opened(args)
    assets = Assets(device=model.device)
    task = asked(args, model) | {"picture": assets.add(pixels)}
    if before.get("kind") == task["kind"]:
        second = {"second": {**before["second"], **task.get("second", {})}} if "second" in before else {}
        task = {**before, **task, **second}
    given: dict[str, Any] = {"task": task}
    if args.prompt or not args.config:
        given["prompt"] = args.prompt or [""]
    if args.by is not None:
        given["size"] = None  # that of the config, if it has one
    request = making.resolve(args, model, given, assets)
    making.make(args, model, request, assets, parents=[(pixels, note)], sources=[args.input], verb="upscale")
    return 0


def asked(args: argparse.Namespace, model: Model) -> dict[str, Any]:
    """The task's fields that the flags name: of `superres` for a model that is shown a picture, else of `upscale`.

    Raises SpecError for flags that the model's task has not.
    """
    if args.by is not None and args.size:
        raise SpecError("--by and --size both say how large it gets: leave one of them out")
    second = {
        "strength": args.strength,
        "steps": "exact" if args.exact_steps else None,
        "latent": args.latent,
        "tile": args.tile,
        "overlap": args.overlap,
    }
    second = {name: value for name, value in second.items() if value is not None}
    fields: dict[str, Any] = {} if args.by is None else {"scale": args.by}
    if getattr(model.spec.network, "image", 0) == model.spec.channels:
        if second:
            flag = {"steps": "exact-steps"}.get(next(iter(second)), next(iter(second)))
            raise SpecError(f"--{flag} is of a second pass; this model is made for enlarging and begins with noise")
        return {"kind": "superres", **fields} | ({} if args.noise_level is None else {"level": args.noise_level})
    if args.noise_level is not None:
        raise SpecError("--noise-level is for models made for enlarging; this one has --strength")
    return {"kind": "upscale", **fields} | ({"second": second} if second else {})
