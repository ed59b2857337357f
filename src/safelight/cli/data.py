"""Look at a data set before training on it (`data check DIR`), or get the one the recipes use (`data fetch NAME`)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from safelight.data.checks import CheckReport

# Skipped files and duplicates that are listed one by one; --json and --all list them all.
LISTED = 10


def add(parser: argparse.ArgumentParser) -> None:
    """Declare `check` and `fetch`."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="check|fetch")
    check = verbs.add_parser("check", help="count what is used and skipped, with a reason each; exit 1 when something is lost")
    check.add_argument("path", metavar="DIR", help="a folder, a .parquet, a .tar, a pattern of tars, or IDX files")
    check.add_argument("--json", action="store_true", help="print the whole report as JSON")
    check.add_argument("--max-loss", type=_fraction, default=0.0, metavar="F", help="lost files that are fine, 0..1 (0)")
    check.add_argument("--kind", help="the format, where it is not clear: folder, webdataset, parquet, idx")
    check.add_argument("--split", help="which split, where there are several")
    check.add_argument("--text", help="the caption column (text)")
    check.add_argument("--workers", type=int, help="threads that decode (up to 4)")
    check.add_argument("--all", action="store_true", help=f"list every file, not the first {LISTED}")
    fetch = verbs.add_parser("fetch", help="find or install a data set and verify it")
    fetch.add_argument("name", choices=["fashion-mnist", "kjv"])


def run(args: argparse.Namespace) -> int:
    """Exit codes: 0 fine, 1 something was lost. Data that cannot be opened raise DataError."""
    return _fetch(args.name) if args.action == "fetch" else _check(args)


def _fetch(name: str) -> int:
    from safelight.data import fashion, text

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    if name == "kjv":
        found = text.fetch(say)
        print(f"the King James Bible is {found.path}: {found.verses:,} verses, {found.characters:,} characters, verified")
        return 0
    counts = fashion.fetch(say)
    print(f"Fashion-MNIST is in {counts.folder}: {counts.train:,} + {counts.test:,} pictures, verified")
    return 0


def _check(args: argparse.Namespace) -> int:
    from safelight.data import Source, check, detect
    from safelight.spec import describe, parse

    given = {name: getattr(args, name) for name in ("split", "text") if getattr(args, name) is not None}
    known = describe(detect(args.path)) if args.kind is None else {"kind": args.kind, "path": args.path}
    source = cast(Source, parse(known | given, "source"))
    report = check(source, workers=args.workers, watch=None if args.json else _watch)
    if args.json:
        print(json.dumps(report.as_dict(), indent=1, ensure_ascii=False))
    else:
        _show(report, args.max_loss, None if args.all else LISTED)
    return 0 if report.ok(args.max_loss) else 1


def _watch(pictures: Iterable[Any], total: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(pictures, "reading", total, console=console, transient=True) if console.is_terminal else pictures


def _show(report: CheckReport, max_loss: float, most: int | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    repeats = f" ({report.visits:,} visits an epoch)" if report.visits != report.used else ""
    console.print(f"[bold]{escape(report.path)}[/bold]  {report.kind}")
    console.print(f"  used        {report.used:,}{repeats}")
    others = len(report.skipped) - len(report.lost)
    console.print(
        f"  lost        {len(report.lost):,} ({report.loss:.2%})" + (f", and {others:,} other file(s)" if others else "")
    )
    console.print(f"  captions    {report.captions:,} different, {report.uncaptioned:,} pictures without")
    copies = sum(len(group) - 1 for group in report.duplicates)
    console.print(f"  duplicates  {copies:,}")
    if report.sizes:
        table = Table("size", "channels", "pictures", box=None, padding=(0, 2), header_style="dim")
        for (width, height, channels), n in list(report.sizes.items())[:most]:
            table.add_row(f"{width}x{height}", str(channels), f"{n:,}")
        console.print(table)
        _rest(console, len(report.sizes), most)
    for title, rows in (
        ("lost", [f"{s.path}: {s.reason}" for s in report.lost]),
        ("equal pictures", [" = ".join(group) for group in report.duplicates]),
        ("not data", [f"{s.path}: {s.reason}" for s in report.skipped if not s.lost]),
    ):
        if rows:
            console.print(f"[dim]{title}[/dim]")
            for row in rows[:most]:
                console.print(f"  {escape(row)}")
            _rest(console, len(rows), most)
    if report.ok(max_loss):
        console.print("[green]ok[/green]")
    elif report.near_misses:
        console.print(f"[red]not ok[/red]: {len(report.near_misses)} nearly right file name(s)")
    else:
        console.print(f"[red]not ok[/red]: {report.loss:.2%} is lost, --max-loss allows {max_loss:.2%}")


def _rest(console: Any, count: int, most: int | None) -> None:
    if most is not None and count > most:
        console.print(f"  [dim]and {count - most:,} more (--all)[/dim]")


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a part is between 0 and 1, not {text}")
    return value
