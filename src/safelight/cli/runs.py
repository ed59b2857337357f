"""The runs that a server or the studio keeps: list them, show one, go on from a step of one with something changed, take some away.

    safelight runs ls "red apple" --state done
    safelight runs show 0m1x2y3z4a5b
    safelight runs fork 0m1x2y3z4a5b 12 --prompt "a green apple" --set mix.scale=5 --out green.png
    safelight runs rm 0m1x2y3z4a5b

They work on the data folder itself, whether a server runs on it or not. A fork is queued; with --out it is waited for, and made here
where no server does it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.cli.serve import data_folder, data_option

if TYPE_CHECKING:
    from safelight.serve.jobs import Jobs
    from safelight.serve.runs import Run


def add(parser: argparse.ArgumentParser) -> None:
    """Four things to do: ls, show, fork, rm."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="{ls,show,fork,rm}")
    listed = verbs.add_parser("ls", help="list runs, the newest first")
    listed.add_argument("words", nargs="*", metavar="WORD", help="of prompt, title, model or board")
    for name in ("state", "kind", "model", "board"):
        listed.add_argument(f"--{name}", metavar="NAME", help=f"only of this {name}")
    listed.add_argument("--star", action="store_true", help="only starred ones")
    listed.add_argument("--limit", type=int, default=20, metavar="N", help="how many (%(default)s)")
    shown = verbs.add_parser("show", help="what is known of a run, and where its files are")
    shown.add_argument("id", metavar="RUN")
    fork = verbs.add_parser("fork", help="go on from a step of a run, something changed")
    fork.add_argument("id", metavar="RUN")
    fork.add_argument("step", type=int, metavar="STEP")
    fork.add_argument("--prompt", action="append", metavar="TEXT", help="other words from there on")
    fork.add_argument("--guidance", type=float, metavar="X", help="another strength of the guidance")
    fork.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="any field: sampler=heun")
    fork.add_argument("--request", metavar="JSON", help="the changed fields as JSON, as the API takes them")
    fork.add_argument(
        "--noise", type=float, default=0.0, metavar="X", help="how far its noise is turned to fresh noise, 0..1 (0)"
    )
    fork.add_argument("--picture", type=int, default=0, metavar="K", help="which picture --out writes (0)")
    fork.add_argument("--out", metavar="FILE", help="wait, and write the picture there")
    gone = verbs.add_parser("rm", help="take runs away, with their recordings and pictures")
    gone.add_argument("ids", nargs="+", metavar="RUN")
    for verb in (listed, shown, fork, gone):
        data_option(verb)
    for verb in (listed, shown):
        verb.add_argument("--json", action="store_true", help="as the API gives them")


def run(args: argparse.Namespace) -> int:
    """Do the one asked for."""
    from safelight.serve.folder import Folder
    from safelight.serve.jobs import Jobs
    from safelight.spec import SpecError

    folder = data_folder(args)
    if not (folder / "safelight.db").is_file():
        raise SpecError(f"{folder} keeps no runs: name the server's folder with --data")
    jobs = Jobs(Folder(folder))
    try:
        if args.what == "ls":
            return _list(args, jobs)
        if args.what == "show":
            return _show(args, jobs)
        if args.what == "fork":
            return _fork(args, jobs)
        for id in args.ids:
            jobs.runs.get(id)  # before any of them goes
        for id in args.ids:
            jobs.runs.delete(id)
        jobs.runs.purge(-1.0, only=args.ids)
        print(f"{len(args.ids)} run{'s' * (len(args.ids) != 1)} gone")
        return 0
    finally:
        jobs.folder.close()


def _list(args: argparse.Namespace, jobs: Jobs) -> int:
    found = jobs.runs.find(
        " ".join(args.words),
        model=args.model or "",
        state=args.state or "",
        kind=args.kind or "",
        star=True if args.star else None,
        board=args.board,
        limit=args.limit,
    )
    if args.json:
        print(json.dumps([run.model_dump(mode="json") for run in found], ensure_ascii=False, indent=1))
        return 0
    for run in found:
        steps = f"{run.steps_done}/{run.steps}" if run.steps else "-"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created))
        words = " ".join((run.title or run.prompt).split())
        print(f"{run.id}  {when}  {run.state:<7}  {steps:>9}  {run.kind:<9}  {run.model:<16}  {words[:60]}".rstrip())
    if not found:
        print("no such runs", file=sys.stderr)
    return 0


def _show(args: argparse.Namespace, jobs: Jobs) -> int:
    run = jobs.runs.get(args.id)
    if args.json:
        print(json.dumps(run.model_dump(mode="json"), ensure_ascii=False, indent=1))
        return 0
    took = f", {run.ms_per_step:.0f} ms a step" if run.ms_per_step else ""
    descent = f"{run.relation or 'made'} from {run.parent}" + (f" at step {run.fork_step}" if run.fork_step is not None else "")
    rows = [
        ("run", f"{run.id} ({run.kind}), {run.state}" + (f": {run.error}" if run.error else "")),
        ("prompt", run.prompt),
        ("model", f"{run.model} {run.fingerprint}".strip()),
        ("steps", f"{run.steps_done} of {run.steps}{took}"),
        *([("parent", descent)] if run.parent else []),
        ("request", json.dumps(run.request, ensure_ascii=False)),
        *(("picture", str(jobs.runs.picture(run.id, k))) for k in range(len(run.pictures))),
        *([("trace", str(file))] if (file := jobs.folder.run(run.id) / "trace.safetensors").is_file() else []),
    ]
    print("\n".join(f"{name:<8} {value}" for name, value in rows))
    return 0


def _fork(args: argparse.Namespace, jobs: Jobs) -> int:
    from safelight.spec import SpecError

    jobs.runs.get(args.id)
    try:
        changes = json.loads(args.request) if args.request else {}
    except ValueError as error:
        raise SpecError(f"--request is no JSON: {error}") from None
    if not isinstance(changes, dict):
        raise SpecError('--request: it is the changed fields, as in {"mix": {"scale": 5}}')
    made = jobs.fork(args.id, args.step, {**changes, **_changes(args, jobs.runs.get(args.id))}, noise=args.noise)
    print(f"fork     {made.id}")
    if not args.out:
        return 0
    done = waited(jobs, made)
    if done.state != "done":
        raise SpecError(f"run {done.id} {done.state}" + (f": {done.error}" if done.error else ""))
    from safelight.files import atomic_bytes

    atomic_bytes(Path(args.out), jobs.runs.picture(done.id, args.picture).read_bytes())
    print(f"picture  {args.out}")
    return 0


def _changes(args: argparse.Namespace, before: Run) -> dict[str, Any]:
    """The fields that the flags change."""
    from safelight.cli.overrides import assign
    from safelight.guide.cfg import scaled

    after = {k: v for k, v in before.request.items() if k not in ("family", "kind")}
    if args.guidance is not None:
        after["mix"] = scaled(after.get("mix", {}), args.guidance)
    after = assign(after, args.set)
    changed = {name: value for name, value in after.items() if value != before.request.get(name)}
    return {**changed, **({"prompt": args.prompt} if args.prompt else {})}


def waited(jobs: Jobs, run: Run) -> Run:
    """A run once it is over; made by a worker of our own where the folder has none."""
    import contextlib

    from safelight.serve.runs import OVER
    from safelight.serve.worker import Supervisor

    with contextlib.ExitStack() as stack:
        ours = False
        while (run := jobs.runs.get(run.id)).state not in OVER:
            if not ours and not jobs.workers():  # none from the beginning, or its server has ended since
                stack.enter_context(Supervisor(jobs.folder))
                ours = True
            time.sleep(0.05)
    return run
