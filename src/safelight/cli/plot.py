"""Draw schedules, grids or a run's losses to a file (.png, .svg, .pdf).

safelight plot schedule linear cosine edm --out schedules.png
safelight plot grid --process cosine --grid karras --grid trailing --steps 20
safelight plot loss runs/fashion --out loss.svg
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safelight.grid import Grid
    from safelight.process import Process


def add(parser: argparse.ArgumentParser) -> None:
    """One kind of chart a sub-command."""
    charts = parser.add_subparsers(dest="chart", required=True, metavar="CHART", parser_class=type(parser))
    schedule = charts.add_parser("schedule", help="alpha, sigma, log-SNR (and beta) over t of several processes")
    schedule.add_argument(
        "process", nargs="*", metavar="PROCESS", help="kinds, or JSON with fields (default: linear cosine flow edm)"
    )
    schedule.add_argument("--out", default="out/schedules.png", help="(default: %(default)s)")
    grid = charts.add_parser("grid", help="where the steps of several grids fall on a process")
    grid.add_argument("--process", default="cosine", help="(default: %(default)s)")
    grid.add_argument(
        "--grid", action="append", metavar="KIND", help="a kind, or JSON with fields; repeat for more (default: all)"
    )
    grid.add_argument("--steps", type=int, default=20, help="(default: %(default)s)")
    grid.add_argument("--out", default="out/grids.png", help="(default: %(default)s)")
    loss = charts.add_parser("loss", help="the losses, rate and speed of a training run")
    loss.add_argument("run", nargs="+", metavar="RUN", help="a run's folder or its metrics.jsonl; several are compared")
    loss.add_argument("--out", default=None, help="(default: loss.png in the first run's folder)")


def run(args: argparse.Namespace) -> int:
    """Write the chart and print where it is."""
    from safelight.draw import chart

    if args.chart == "schedule":
        print(chart.schedules(args.out, processes(args.process or ["linear", "cosine", "flow", "edm"])))
    elif args.chart == "grid":
        process = next(iter(processes([args.process]).values()))
        print(chart.grids(args.out, process, _grids(args.grid), args.steps))
    else:
        from safelight.draw.losses import beside, losses, read

        runs = {str(path): read(path) for path in args.run}
        print(losses(args.out or beside(args.run[0]), runs))
    return 0


def processes(given: list[str]) -> dict[str, Process]:
    """Processes by the name that a legend shows: the kind, and what of its fields was said."""
    import json

    from safelight.process import Process
    from safelight.spec import parse

    found: dict[str, Process] = {}
    for text in given:
        fields = spec_of(text)
        process = parse(fields, "process")
        assert isinstance(process, Process)
        said = ", ".join(f"{k} = {v if not isinstance(v, bool) else json.dumps(v)}" for k, v in fields.items() if k != "kind")
        found[f"{process.kind}, {said}" if said else process.kind] = process
    return found


def _grids(given: list[str] | None) -> dict[str, Grid]:
    from safelight.grid import Grid
    from safelight.spec import kinds, parse

    found: dict[str, Grid] = {}
    for text in given or list(kinds("grid")):
        fields = spec_of(text)
        grid = parse(fields, "grid")
        assert isinstance(grid, Grid)
        said = ", ".join(f"{k} = {v}" for k, v in fields.items() if k != "kind")
        found[f"{grid.kind}, {said}" if said else grid.kind] = grid
    return found


def spec_of(text: str) -> dict[str, object]:
    """`cosine`, or `{"kind": "linear", "T": 200}`, as fields. Raises SpecError for JSON that is none."""
    import json

    from safelight.spec import SpecError

    if not text.lstrip().startswith("{"):
        return {"kind": text}
    try:
        return dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise SpecError(f"'{text}' is not JSON ({error.msg} at character {error.pos + 1})") from None


def numbers(text: str, option: str) -> list[float]:
    """`0,0.5,1` as numbers. Raises SpecError, naming the option, for anything else."""
    from safelight.spec import SpecError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"{option}: '{text}' is no list of numbers; write them as 0,0.5,1") from None
