"""Change a picture: all of it, a masked part of it, or what lies beyond its edges.

    safelight edit photo.png "a red apple on a white background" --strength 0.6
    safelight edit photo.png "a blue umbrella" --mask mask.png --feather 4
    safelight edit photo.png "a small star" --mask mask.png --only-masked 16 --resample 5
    safelight edit photo.png --outpaint 16,0,16,0 --show-steps
    safelight edit photo.png "a lake" --outpaint 16,0,16,0 --mask mask.png
    safelight edit photo.png "a green apple" --source "a red apple"

White in the mask is painted, black is kept to the byte; --invert turns that round, --alpha reads transparency instead of brightness.
The picture keeps its size unless --size says another.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any

from safelight.cli import making
from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.model import Model
    from safelight.task import Resolved

# Beyond this many times the size it was trained on a model is hardly ever any good.
_STRANGE = 2


def add(parser: argparse.ArgumentParser) -> None:
    """The picture, the prompts, what is painted, and what every verb that makes pictures takes."""
    parser.add_argument("input", metavar="PICTURE", help="the picture to edit")
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="what shall be seen; several make a row each")
    what = parser.add_argument_group("the edit")
    what.add_argument("--strength", type=float, metavar="X", help="0 returns the picture, 1 keeps nothing (0.6; with a mask 1)")
    what.add_argument("--exact-steps", action="store_true", help="run all --steps below the strength, not those that lie there")
    what.add_argument("--fit", metavar="KIND", help="how another --size is taken: crop (default), pad, stretch")
    what.add_argument("--source", metavar="TEXT", help="what it shows now: swap these words for the prompt, by inversion")
    where = parser.add_argument_group("painting a part of it")
    where.add_argument("--mask", metavar="FILE", help="a picture of the same size: white is painted, black is kept")
    where.add_argument("--invert", action="store_true", help="black is painted")
    where.add_argument("--alpha", action="store_true", help="the mask is in its transparency: transparent is painted")
    where.add_argument("--outpaint", metavar="L,T,R,B", help="enlarge the picture by so many pixels left, top, right, bottom")
    where.add_argument("--overlap", type=int, metavar="N", help="outpainting also repaints N pixels of the edges that grow (0)")
    where.add_argument("--feather", type=int, metavar="N", help="fade in over N pixels, inside the mask (0)")
    where.add_argument("--fill", metavar="KIND", help="what the area begins as: original, blur, mean, noise")
    where.add_argument(
        "--only-masked", type=int, metavar="N", help="work on the mask and N pixels around it, at the model's size"
    )
    where.add_argument("--resample", type=int, metavar="N", help="take each step N times, so that the parts fit (RePaint)")
    making.partners(parser)
    making.options(parser)


def run(args: argparse.Namespace) -> int:
    """Edit, showing progress, and print where everything is."""
    from safelight import picture
    from safelight.assets import Assets
    from safelight.sample.repaint import Repaint
    from safelight.spec import parse

    kept = making.kept(args)
    before = kept.get("task", {})
    fields = asked(args, before.get("kind"))  # before the work, not after it
    if before.get("mask") and fields["kind"] == before["kind"] and not args.mask:
        raise SpecError("--config paints a mask, which it does not hold: give its file with --mask")
    pixels, note = picture.read(args.input)
    making.Where(args, "edit", (args.count or 1) * max(len(args.prompt), 1))
    model = making.opened(args)
    assets = Assets(device=model.device)
    fields["picture"] = assets.add(pixels)
    if args.mask:
        fields["mask"] = assets.add(picture.read_mask(args.mask, alpha=args.alpha))
    if before.get("kind") == fields["kind"]:
        fields = {**before, **fields}
    given: dict[str, Any] = {"task": making.partnered(args, fields, assets)}
    if fields["kind"] == "outpaint":
        given["size"] = None  # that of the config is of another picture
    if args.prompt or not args.config:
        given["prompt"] = args.prompt or [""]
    if args.resample is not None:
        inner = parse(args.sampler or kept.get("sampler") or model.spec.defaults.sampler, "sampler")
        inner = inner.inner if isinstance(inner, Repaint) else inner  # a config of such an edit
        args.sampler = {"kind": "repaint", "inner": inner, "times": args.resample}
    request = making.resolve(args, model, given, assets)
    advise(request, model, assets)
    own = pixels.shape[1], pixels.shape[2]
    if args.config and not args.size and request.size != own and fields["kind"] != "outpaint":
        here, there = (f"{height}x{width}" for height, width in (own, request.size))
        print(f"hint     the picture is {here}, --config makes it {there}: --size {here} keeps it", file=sys.stderr)
    sources = [args.input, *(file for file in (args.mask, args.depth) if file)]
    parents = [(pixels, note), *making.depths(args)]
    making.make(args, model, request, assets, parents=parents, sources=sources, verb="edit")
    return 0


def asked(args: argparse.Namespace, usual: str | None = None) -> dict[str, Any]:
    """The task's fields that the flags name. usual: the kind of task where no flag says one, if it is an edit's.

    Raises SpecError for flags that do not go together.
    """
    grows = args.outpaint or (args.mask and usual == "outpaint")
    kind = "outpaint" if grows else "inpaint" if args.mask else "invert" if args.source is not None else usual
    kind = kind if kind in ("inpaint", "outpaint", "invert") else "image"
    if args.source is not None and kind != "invert":
        raise SpecError("--source swaps the words of a whole picture: leave --mask and --outpaint out")
    flags = {
        "strength": (args.strength, None),
        "steps": ("exact" if args.exact_steps else None, None),
        "fit": (args.fit, ("image", "inpaint", "invert")),
        "source": (args.source, None),
        "invert": (args.invert or None, ("inpaint", *(["outpaint"] if args.mask else []))),
        "overlap": (args.overlap, ("outpaint",)),
        "feather": (args.feather, ("inpaint", "outpaint")),
        "fill": (args.fill, ("inpaint", "outpaint")),
        "margin": (args.only_masked, ("inpaint", "outpaint")),
    }
    for name, (value, at) in flags.items():
        if value is not None and at is not None and kind not in at:
            flag = "only-masked" if name == "margin" else name
            needs = (
                "--mask or --outpaint" if "outpaint" in at and len(at) > 1 else "--outpaint" if "outpaint" in at else "--mask"
            )
            raise SpecError(
                f"--{flag} needs {needs}" if kind in ("image", "invert") else f"--{flag} has no meaning for {kind}ing"
            )
    if args.alpha and not args.mask:
        raise SpecError("--alpha says how --mask is read: give one")
    fields: dict[str, Any] = {"kind": kind, **{name: value for name, (value, _) in flags.items() if value is not None}}
    if args.outpaint:
        fields["margins"] = margins(args.outpaint)
    return fields


def margins(text: str) -> list[int]:
    """`16,0,16,0`, or one number for all sides, as [left, top, right, bottom]."""
    match = re.fullmatch(r"(\d+)(?:,(\d+),(\d+),(\d+))?", text.replace(" ", ""))
    if match is None:
        raise SpecError(f"--outpaint {text}: write LEFT,TOP,RIGHT,BOTTOM in pixels, as in 16,0,16,0, or one number for all")
    return [int(part if part is not None else match[1]) for part in match.groups()]


def advise(request: Resolved, model: Model, assets: Any) -> None:
    """Say, on stderr, what would make the edit idle or strange: a mask with nothing in it, a size that the model does not know."""
    from safelight.task.inpaint import Painting

    task = request.task
    if isinstance(task, Painting):
        share = task.share(request, model, assets)
        print(f"{100 * share:.3g} % of the pixels are painted" + ("" if share else "; is the mask inverted?"), file=sys.stderr)
        if task.margin is not None:
            return
    (height, width), (h, w) = request.size, model.spec.size
    if max(height / h, width / w) > _STRANGE:
        fix = f"--size {h}x{w}" + (", or --only-masked" if isinstance(task, Painting) else "")
        print(f"hint     the picture is {height}x{width}, the model was trained at {h}x{w}: try {fix}", file=sys.stderr)
