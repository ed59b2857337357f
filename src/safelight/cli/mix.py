"""Add, subtract and weight texts and pictures, see what the sum is near to, and make its picture.

    safelight mix '"a cat on a blue background" - "a cat" + "a dog"'
    safelight mix '"a red apple on a white background"[red] - "red" + "blue"'
    safelight mix 'photo.png - "a cat" + "a dog"' --joint sprites-clip --strength 0.8
    safelight mix 'photo.png' --joint sprites-clip --captions "a cat" "a dog" "a rocket" --report

Texts stand in quotes, pictures are named by their files, numbers multiply, [word] or [#2] chooses a word of the text before it.
Without --joint the sum is taken in the words of the model that paints it. With --joint NAME it is taken in that model's space, where
pictures are vectors as texts are, and the nearest caption is painted. What is printed: the length of every embedding, its cosine with
the sum, and the words and captions nearest to the sum.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.cli import making
from safelight.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.picture import Note
    from safelight.task.mix import Report


def add(parser: argparse.ArgumentParser) -> None:
    """The expression, the space, what is looked for near the result, and what every verb that makes pictures takes."""
    parser.add_argument("expression", metavar="EXPRESSION", help='as in \'"a cat" + 0.5 * "a dog"\'')
    where = parser.add_argument_group("the space")
    where.add_argument(
        "--joint", metavar="NAME", help="a joint model of texts and pictures: a file, a run's folder, or sprites-clip"
    )
    where.add_argument("--free-lengths", action="store_true", help="leave sums as long as they come out (without --joint)")
    where.add_argument("--captions", nargs="+", metavar="TEXT", help="say the sum by one of these (with --joint)")
    where.add_argument(
        "--strength", type=float, metavar="X", help="begin from the first picture that is added: 0 returns it, 1 forgets it (1)"
    )
    near = parser.add_argument_group("what it is near to")
    near.add_argument(
        "--among", nargs="+", default=[], metavar="PICTURE", help="say which of these pictures are nearest (with --joint)"
    )
    near.add_argument("--neighbours", type=int, default=5, metavar="K", help="how many captions and pictures are named (5)")
    near.add_argument("--report", action="store_true", help="print the table, make no picture")
    making.options(parser)


def run(args: argparse.Namespace) -> int:
    """Say what the expression comes to, then make the picture."""
    from safelight import picture
    from safelight.assets import Assets
    from safelight.task.mix import Mix
    from safelight.text.arithmetic import parse, renamed, write

    if args.neighbours < 1:
        raise SpecError(f"--neighbours {args.neighbours}: at least 1")
    if args.among and not args.joint:
        raise SpecError("--among: pictures are compared in a joint model's space: add --joint sprites-clip")
    asked = parse(args.expression)  # before the work, not after it
    if not args.report:
        making.Where(args, "mix", args.count or 1)
    model = making.opened(args)
    assets = Assets(device=model.device)
    operands: dict[str, tuple[Tensor, Note | None]] = {}
    names: dict[str, str] = {}

    def named(file: str, pixels: Tensor) -> str:
        seal = assets.add(pixels)
        names.setdefault(seal, file)
        return seal

    def operand(file: str) -> str:
        if file.startswith("sha256:"):
            raise SpecError(f"{file}: here a picture is named by its file")
        operands.setdefault(file, picture.read(file))
        return named(file, operands[file][0])

    task: dict[str, Any] = {"kind": "mix", "expression": write(renamed(asked, operand))}
    among = [named(file, picture.read(file)[0]) for file in args.among]
    flags = {"joint": args.joint, "captions": args.captions, "strength": args.strength}
    task |= {name: value for name, value in flags.items() if value is not None}
    if args.free_lengths:
        task["lengths"] = False
    request = making.resolve(args, model, {"task": task, "prompt": [""]}, assets)
    if not isinstance(request.task, Mix):
        raise SpecError(f"mix: --set asks for the task '{request.task.kind}', which has no expression")
    said = request.task.report(model, assets, k=args.neighbours, among=among, emphasis=request.emphasis)
    print(table(said, names))
    if args.report:
        return 0
    if request.task.joint is not None:
        # What was found is what is painted, and what a reproduction need not search again.
        found = request.task.model_copy(update={"captions": (said.caption,)})
        request = request.model_copy(update={"task": found})
    making.make(args, model, request, assets, parents=list(operands.values()), sources=list(operands), verb="mix")
    return 0


def table(said: Report, names: dict[str, str]) -> str:
    """A report as lines for people; pictures by their files' names."""

    def named(text: str) -> str:
        for seal, file in names.items():
            text = text.replace(seal, Path(file).name)
        return text

    whole = ("=", said.expression, f"{said.length:.3f}", _number(said.state), "")
    rows = [
        *((f"{r.weight:+g}", r.operand, f"{r.length:.3f}", _number(r.state), f"{r.cosine:+.3f}") for r in said.rows),
        whole,
    ]
    head = ("weight", "operand", "length", "of a token", "cosine")
    cells = [tuple(map(named, row)) for row in (head, *rows)]
    if all(row[3] == "" for row in cells[1:]):
        cells = [(*row[:3], row[4]) for row in cells]
    lines = [
        f"space    {said.space}" + (f", texts and pictures {said.gap:.3f} apart" if said.gap is not None else ""),
        *_columns(cells),
    ]
    for title, near in (
        ("nearest words", said.words),
        ("nearest captions", said.captions),
        ("nearest pictures", said.pictures),
    ):
        if near:
            lines += [title, *(f"  {each.cosine:+.3f}  {named(each.what)}" for each in near)]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _columns(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with their columns under each other: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if k == 1 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
