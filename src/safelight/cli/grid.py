"""Make one sheet of pictures over one, two or three fields of a request: which sampler, which guidance, which seed is better?

    safelight grid "a red apple" --x mix.scale=1,2,4,8 --y steps=5,10,20
    safelight grid "a cat" --x sampler=euler,heun,dpm++2m --y seed=0..3 --z "mix.rescale=0,0.7" --yes
    safelight grid "a {cat|dog|bear} on a {red|blue} background" --y steps=5,20

An axis is FIELD=VALUES: any field of a request by its path (see: safelight list), values divided by commas, or whole numbers as
FIRST..LAST. `prompt~OLD=NEW,...` puts words in the place of OLD in the prompt. Braces in the prompt are an axis too. Every cell is
the same run that `generate` would make: same seed, same noise. How many pictures that is, and how long it will take by one measured
step, is said first; beyond a minute it asks for --yes. --gif is one film of all cells; --show-steps and --trace leave a file a cell.
The fields of an edit vary over a request kept by --save-config: --config edit.yaml --input photo.png --x task.strength=0.2,0.5,0.8.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safelight.cli import making
from safelight.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.assets import Assets
    from safelight.draw.film import Frame
    from safelight.model import Model
    from safelight.picture import Note
    from safelight.task import Resolved

# Longer work than this, in seconds, is asked about first; a sheet of more cells than this is a mistake.
_PATIENCE = 60.0
_CELLS = 4096
# So many cells a film shows: all their steps are kept until it is drawn.
_IN_A_FILM = 64


class Axis(NamedTuple):
    """What varies: the path of a field (or `prompt~OLD`), and its values as they are written."""

    path: str
    values: tuple[str, ...]

    def label(self, value: str) -> str:
        """How a row or a column is headed."""
        return value if self.path == "prompt" or "~" in self.path else f"{self.path} {value}"


def add(parser: argparse.ArgumentParser) -> None:
    """The prompt, the axes, and what every verb that makes pictures takes."""
    parser.add_argument("prompt", metavar="PROMPT", help="what shall be seen; {a|b} is an axis")
    for name, what in (("x", "columns"), ("y", "rows"), ("z", "sheets, one below the other")):
        parser.add_argument(f"--{name}", metavar="FIELD=V,V", help=what)
    parser.add_argument(
        "--input", action="append", default=[], metavar="FILE", help="a picture that the request of --config needs"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask, however long it takes")
    making.options(parser)


def run(args: argparse.Namespace) -> int:
    """Say what it costs, make every cell, and put them on one sheet."""
    from safelight.assets import Assets

    out = making.Where(args, "grid", 2)
    if args.count not in (None, 1):
        raise SpecError("--count: a cell is one picture; let the seed be an axis, as in --y seed=0..3")
    if args.save_config:
        raise SpecError("--save-config: a grid is many requests; each cell's picture carries its own")
    prompt, choices = braces(args.prompt)
    spoken = [Axis(f"prompt~\x00{k}\x00", words) for k, words in enumerate(choices)]
    # What varies in the prompt takes the places that no flag names, columns first.
    placed = [
        axis(text, name) if (text := getattr(args, name)) is not None else spoken.pop(0) if spoken else None for name in "xyz"
    ]
    axes = [one for one in placed if one is not None] + spoken
    if not 1 <= len(axes) <= 3:
        raise SpecError(f"{len(axes)} axes: a grid has one, two or three of --x, --y, --z and {{a|b}}")
    cells = math.prod(len(one.values) for one in axes)
    if cells > _CELLS:
        raise SpecError(f"{cells:,} cells: a sheet holds {_CELLS:,} at most; give fewer values")
    out.spare([out.folder / "grid.png"])
    if out.film and cells > _IN_A_FILM:
        raise SpecError(f"--gif: a film shows {_IN_A_FILM} cells at most, and these are {cells}; give fewer values")

    model = making.opened(args)
    assets = Assets(device=model.device)
    brought = making.Brought(args.input, assets)
    plans = [request(args, model, prompt, axes, values, assets) for values in itertools.product(*(a.values for a in axes))]
    making.hint(args, model, *plans)
    runs = [_runs(plan, model) for plan in plans]
    steps, first = sum(runs), next((k for k, n in enumerate(runs) if n), None)
    each = _once(model, plans[runs.index(max(runs))], assets)
    print(f"{cells} pictures, {steps:,} steps: about {_spoken(steps * each)}, by {1000 * each:.0f} ms a step measured now")
    if steps * each > _PATIENCE and not args.yes:
        raise SpecError(f"that is more than {_PATIENCE:.0f} s: give --yes to go on, or fewer values")
    pictures, films = _cells(args, model, plans, out, assets, [*brought.of(*plans), *making.shown(args)])
    sheet = _lay(pictures, axes, out.folder / "grid.png", prompt if not choices else "")
    print(f"grid     {sheet}")
    if args.show_steps:
        print("steps    " + (f"{out.at(first).table} and on" if first is not None else "none: no step was taken"))
    if out.film:
        print(f"film     {_film(films, axes, out.film)}")
    if out.trace:
        print("trace    " + (f"{out.at(first).trace} and on" if first is not None else "none: no step was taken"))
    return 0


def axis(text: str, name: str) -> Axis:
    """`steps=5,10,20`, `seed=0..3`, `sampler=ddim,euler`, `prompt~cat=dog,bear`. Raises SpecError for what is none of these."""
    path, equals, given = text.partition("=")
    path = path.strip()
    if not equals or not path or not given.strip():
        raise SpecError(f"--{name} {text}: write FIELD=VALUE,VALUE as in steps=5,10,20, or seed=0..3")
    span = re.fullmatch(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*", given)
    if span:
        low, high = int(span[1]), int(span[2])
        if high < low or high - low >= _CELLS:
            raise SpecError(f"--{name} {text}: FIRST..LAST counts upward, over {_CELLS:,} values at most")
        return Axis(path, tuple(map(str, range(low, high + 1))))
    # Commas inside quotes, brackets and braces belong to a value: sampler={kind: ddim, eta: 1}.
    parts, depth, quote, start = [], 0, "", 0
    for i, c in enumerate(given):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        elif c in "[{(":
            depth += 1
        elif c in "]})":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(given[start:i])
            start = i + 1
    values = tuple(part.strip() for part in [*parts, given[start:]])
    if any(not value for value in values):
        raise SpecError(f"--{name} {text}: a value between two commas is empty")
    if len(set(values)) != len(values):
        raise SpecError(f"--{name} {text}: a value is there twice")
    return Axis(path, values)


def braces(prompt: str) -> tuple[str, list[tuple[str, ...]]]:
    """A prompt with a mark for each `{a|b}`, and the choices there. An empty choice is allowed: `{big |}`."""
    choices: list[tuple[str, ...]] = []

    def mark(match: re.Match[str]) -> str:
        choices.append(tuple(part.strip() if part.strip() else "" for part in match[1].split("|")))
        return f"\x00{len(choices) - 1}\x00"

    return re.sub(r"\{([^{}]*\|[^{}]*)\}", mark, prompt), choices


def request(
    args: argparse.Namespace, model: Model, prompt: str, axes: Sequence[Axis], values: Sequence[str], assets: Assets
) -> Resolved:
    """The request of one cell. Raises SpecError, naming the axis, where a value does not fit its field."""
    settings: list[str] = []
    for one, value in zip(axes, values, strict=True):
        if one.path.startswith("prompt~"):
            old = one.path.removeprefix("prompt~")
            if old not in prompt:
                raise SpecError(f"prompt~{old}: the prompt '{prompt}' does not hold '{old}'")
            prompt = " ".join(prompt.replace(old, value).split())
        elif one.path == "prompt":
            prompt = value.strip("'\"")
        elif one.path == "size" and not value.startswith("["):
            settings.append(f"size={making.size(value)}")
        else:
            settings.append(f"{one.path}={value}")
    cell = argparse.Namespace(**vars(args) | {"set": [*args.set, *settings]})
    asked = making.resolve(cell, model, {"prompt": [prompt], "count": 1}, assets)
    if len(asked.pictures) != 1:
        raise SpecError("a cell is one picture: neither count nor several prompts can be an axis")
    return asked


def _runs(plan: Resolved, model: Model) -> int:
    """How many steps a cell takes."""
    from safelight.task.image import Edit

    return plan.task.runs(plan, model) if isinstance(plan.task, Edit) else plan.steps


def _once(model: Model, plan: Resolved, assets: Assets) -> float:
    """Seconds of a step of `plan`, by two of them, the first left out where there are more; 0 where there is none."""
    from safelight.generate import Stepped, generate

    spent = []
    for event in generate(model, plan, assets=assets):
        if isinstance(event, Stepped):
            spent.append(event.milliseconds / 1000)
            if len(spent) == 3:
                break
    spent = spent[1:] or spent
    return sum(spent) / max(len(spent), 1)


def _cells(
    args: argparse.Namespace,
    model: Model,
    plans: Sequence[Resolved],
    out: making.Where,
    assets: Assets,
    parents: Sequence[tuple[Tensor, Note | None]],
) -> tuple[list[Tensor], list[list[Frame]]]:
    """Every cell's picture, written beside the sheet with its note, under one bar; and, for a film, the frames of each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from safelight.assets import seal
    from safelight.draw.film import Frame, frames
    from safelight.generate import Finished, Prepared, Started, Stepped, generate

    console = Console(stderr=True)
    made: list[Tensor] = []
    films: list[list[Frame]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("denoising", total=sum(_runs(plan, model) for plan in plans))
        for k, plan in enumerate(plans):
            cell = out.at(k)
            watch = making.Watch(model, [0] if out.film or args.show_steps else [], plan.index)
            records = making.Records() if cell.trace else None
            for event in generate(model, plan, assets=assets):
                if records and not isinstance(event, Prepared):
                    records.see(event)
                if isinstance(event, Started):
                    watch.part(event.numbers)
                elif isinstance(event, Stepped):
                    watch.see(event)
                    progress.advance(task)
                elif isinstance(event, Finished):
                    finished = event.pictures.cpu()
                    used = [parent for parent in parents if seal(parent[0]) in plan.inputs]
                    made += making.write(cell, finished, plan, model, used, metadata=not args.no_metadata)[0]
            if args.show_steps and watch.shots:
                watch.table(cell.table, plan.pictures)
            if records and cell.trace:
                records.save(cell.trace)
            if out.film:
                films.append(list(frames(watch.steps())) or [Frame(finished, finished)])
    return made, films


def _film(films: Sequence[Sequence[Frame]], axes: Sequence[Axis], path: Path) -> Path:
    """One film of all cells, as they stand on the sheet; those of fewer steps stay longer at each."""
    from safelight.draw.film import Frame, film

    order = _order(axes)
    captions = [
        ", ".join(a.label(v) for a, v in zip(axes, v, strict=True)) for v in itertools.product(*(a.values for a in axes))
    ]
    last = max(max(map(len, films)) - 1, 1)
    shots = []
    for k in range(last + 1):
        now = [films[i][round(k * (len(films[i]) - 1) / last)] for i in order]
        x, x0 = (_even([getattr(frame, name)[0] for frame in now], 1.0) for name in ("x", "x0"))
        shots.append(Frame(x, x0, f"{100 * k / last:.0f} % of the steps", "", k / last))
    return film(path, shots, captions=[captions[i] for i in order], columns=len(axes[0].values))


def _lay(pictures: Sequence[Tensor], axes: Sequence[Axis], path: Path, title: str) -> Path:
    """One sheet: the first axis across, the second down, the third further down."""
    from safelight.draw.grid import save, sheet

    across, down = axes[0], axes[1:]
    heads = [across.label(value) for value in across.values]
    rows = [", ".join(a.label(v) for a, v in zip(down, values, strict=True)) for values in _below([a.values for a in down])]
    cells = [pictures[i] for i in _order(axes)]
    return save(path, sheet(_even(cells, 255), columns=len(heads), rows=rows if down else (), heads=heads, title=title))


def _order(axes: Sequence[Axis]) -> list[int]:
    """The numbers of the cells as the sheet has them: they are made with the last axis changing fastest, the sheet wants the first to."""
    import torch

    shape = [len(a.values) for a in axes]
    order: list[int] = torch.arange(math.prod(shape)).view(shape).permute(*reversed(range(len(shape)))).flatten().tolist()
    return order


def _even(cells: Sequence[Tensor], white: float) -> Tensor:
    """Pictures (C, H, W) of any sizes as one batch, white added below and to the right."""
    import torch

    tall, wide = max(p.shape[1] for p in cells), max(p.shape[2] for p in cells)
    return torch.stack([torch.nn.functional.pad(p, (0, wide - p.shape[2], 0, tall - p.shape[1]), value=white) for p in cells])


def _below(values: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """All combinations, the first axis changing fastest."""
    return [tuple(reversed(combination)) for combination in itertools.product(*reversed(values))]


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
