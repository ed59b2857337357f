"""Fit a sampler to a model at a number of steps, so that few steps end where many would; measured on pictures it has not seen.

    safelight tune-sampler fashion-mnist --steps 8
    safelight tune-sampler sprites-small --steps 6,8,10 --guidance 3 --reference 64 --out out/sprites
    safelight sample fashion-mnist --sampler out/tuned/fashion-mnist/tuned-8.yaml

It takes trajectories of the model under the guidance it will be used with, follows them to their ends in many steps, and fits where the
few steps fall and how they weigh the estimates. A stopped run goes on from what it had. The file it writes holds the sampler, its
grid, the number of steps, the guidance and the model's fingerprint: every verb takes it by --sampler or --config.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.evaluate.tune import Case, Fitting, Form
    from safelight.grid import Grid
    from safelight.model import Model
    from safelight.sample import Sampler
    from safelight.sample.tuned import Tuned
    from safelight.task import Resolved

# Trajectories by which the best of several fits is chosen; they are among those that were fitted to.
_JUDGED = 256
# Pictures on which the reference is held against one of half as many steps.
_CHECKED = 16
# Trajectories that are followed at a time, and kept when the run is stopped.
_CHUNK = 64
# Seconds after which a fit that is under way is written down.
_EVERY = 20.0


def add(parser: argparse.ArgumentParser) -> None:
    """The model, the steps, how much is looked at, and where it goes."""
    parser.add_argument("model", metavar="MODEL", help="a model file, a run's folder, or a name that ships")
    parser.add_argument("--steps", required=True, metavar="N[,N]", help="numbers of steps, a sampler each")
    parser.add_argument("-p", "--prompt", action="append", metavar="TEXT", help="repeatable; the trajectories take turns")
    parser.add_argument("--prompts", metavar="FILE", help="a prompt a line (default: every class; captions of scenes)")
    parser.add_argument("--guidance", type=float, metavar="X", help="classifier-free guidance; 1 is none (the model's default)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="any field of the request")
    parser.add_argument("--trajectories", type=int, default=1024, metavar="N", help="fitted to (%(default)s)")
    parser.add_argument("--unseen", type=int, default=256, metavar="N", help="measured on, of another seed (%(default)s)")
    parser.add_argument(
        "--reference", type=int, default=200, metavar="N", help="steps to the ends of trajectories (%(default)s)"
    )
    parser.add_argument("--fits", type=int, default=3, metavar="N", help="of other draws each; the best is kept (%(default)s)")
    parser.add_argument("--iterations", type=int, default=200, metavar="N", help="of a fit (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="trajectories of an iteration (%(default)s)")
    parser.add_argument("--micro-batch", type=int, metavar="N", help="of these in memory at a time, where it is short")
    parser.add_argument(
        "--weights-only", action="store_true", help="leave the steps where they fall, and fit the weights alone"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the trajectories; those unseen have the next (%(default)s)")
    parser.add_argument("--weights", metavar="NAME", help="raw, or the name of an average (ema)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ...")
    parser.add_argument("--out", metavar="DIR", help="of tuned-N.yaml and result.json (out/tuned/MODEL)")


def run(args: argparse.Namespace) -> int:
    """Follow, fit, measure, write."""
    import torch

    from safelight import device as devices
    from safelight.cli.judging import Watch
    from safelight.cli.making import resolve
    from safelight.evaluate import tune
    from safelight.files import atomic_bytes
    from safelight.model import load
    from safelight.spec import describe

    counts = _counts(args)
    model = load(args.model, args.weights, device=devices.pick(args.device))
    model.requires_grad_(False)  # then no activation is kept for the weights' sake
    out = Path(args.out or f"out/tuned/{model.name}")
    texts = prompts(args, model)
    asked = argparse.Namespace(**{**vars(args), "steps": None})  # several numbers of steps are no field of a request
    request = resolve(asked, model, {"prompt": texts[:1]})
    every = [texts[k % len(texts)] for k in range(args.trajectories + args.unseen)]
    seen = tune.of_model(model, request, every[: args.trajectories], range(args.trajectories))
    later = request.model_copy(update={"seed": request.seed + 1})
    unseen = tune.of_model(model, later, every[args.trajectories :], range(args.unseen))
    work = out / f"work-{_key(model, request, every, args)}"

    ends = []
    for name, case in (("unseen", unseen), ("seen", seen)):
        parts: list[Tensor] = []
        kept = len(list((work / name).glob("*.safetensors"))) * _CHUNK
        with Watch(f"{name} trajectories, {args.reference} steps each") as watch:
            for part in tune.reference(case, args.reference, chunk=_CHUNK, folder=work / name):
                parts.append(part)
                watch.see(done := sum(map(len, parts)), len(case.x), min(kept, done - 1))
        ends.append(torch.cat(parts))
    apart = _halved(unseen, ends[0], args.reference)
    print(
        f"{args.trajectories:,} trajectories of {args.reference} steps, which differ by {apart:.1e} from those of half as many"
    )

    result: dict[str, Any] = {
        "model": model.fingerprint, "name": model.name, "mix": describe(request.mix, family=False), "seed": request.seed,
        "trajectories": args.trajectories, "unseen": args.unseen, "reference": args.reference, "reference_error": apart,
        "fits": args.fits, "iterations": args.iterations, "batch": args.batch, "steps": {},
    }  # fmt: skip
    for n in counts:
        shape = tune.form(seen, ends[1], n)
        found = [_fit(args, seen, ends[1], shape, k, work) for k in range(args.fits)]
        judged = seen.rows(slice(0, _JUDGED))
        samplers = [(each.sampler(seen.process, model.fingerprint), each.grid(seen.process)(seen.process, n)) for each in found]
        on_seen = [_numbers(judged, ends[1][:_JUDGED], *each) for each in samplers]
        best = min(range(args.fits), key=lambda k: on_seen[k]["mean"])
        rows = {
            f"{request.sampler.kind}, {request.grid.kind} (the model's)": (request.sampler, request.grid),
            "abm, rect 1.3 (where fitting begins)": (tune.SAMPLER, tune.GRID),
        }
        usual = {
            name: _numbers(unseen, ends[0], sampler, grid(seen.process, n // sampler.calls or 1))
            for name, (sampler, grid) in rows.items()
            if not sampler.stochastic
        }
        fits = [_numbers(unseen, ends[0], *each) for each in samplers]
        path = out / f"tuned-{n}.yaml"
        _write(path, samplers[best][0], found[best].grid(seen.process), request, model.name)
        result["steps"][n] = {"usual": usual, "fits": fits, "seen": on_seen, "kept": best, "file": path.name}
        print(_table(n, usual, fits, best, args.unseen))
        print(f"sampler  {path}")
    atomic_bytes(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    print(f"numbers  {out / 'result.json'}")
    return 0


def _counts(args: argparse.Namespace) -> list[int]:
    """The numbers of --steps, checked with the other numbers before the work and not after it."""
    try:
        counts = [int(n) for n in args.steps.split(",")]
    except ValueError:
        raise SpecError(f"--steps {args.steps}: write numbers, as in 8 or 5,8,10") from None
    if min(counts) < 2:
        raise SpecError(f"--steps {args.steps}: a single step has nothing to fit; at least 2 are needed")
    for name in ("trajectories", "unseen", "fits", "iterations", "batch"):
        if getattr(args, name) < 1:
            raise SpecError(f"--{name} {getattr(args, name)}: at least 1")
    if args.reference <= 2 * max(counts):
        raise SpecError(f"--reference {args.reference}: it must be well above --steps, {2 * max(counts)} at least")
    return list(dict.fromkeys(counts))


def prompts(args: argparse.Namespace, model: Model) -> list[str]:
    """What the trajectories are told, in turns: what is given, else every class, captions of scenes, or nothing."""
    from safelight.text.label import LabelSpec

    if args.prompt and args.prompts:
        raise SpecError("--prompt and --prompts both say what to ask for; leave one of them out")
    if args.prompts:
        lines = [line.strip() for line in Path(args.prompts).read_text(encoding="utf-8").splitlines()]
        if not (given := [line for line in lines if line]):
            raise SpecError(f"--prompts {args.prompts} holds no prompt")
        return given
    if args.prompt or model.text is None:
        return list(args.prompt or [""])
    if isinstance(model.text.spec, LabelSpec):
        return list(model.text.spec.names)
    from safelight.data.scenes.prompts import seen_prompts

    return [prompt.text for prompt in seen_prompts(args.trajectories + args.unseen, args.seed)]


def _key(model: Model, request: Resolved, every: Sequence[str], args: argparse.Namespace) -> str:
    """What the trajectories depend on, as a name: another request never goes on with them."""
    from safelight.spec import describe

    asked = {
        k: v for k, v in describe(request).items() if k not in ("steps", "sampler", "grid", "prompt", "count", "micro_batch")
    }
    told = [model.fingerprint, model.weights, asked, list(every), args.trajectories, args.unseen, args.reference]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def _fit(args: argparse.Namespace, case: Case, truth: Tensor, shape: Form, k: int, work: Path) -> Fitting:
    """Fit k, gone on with where a file of it is found."""
    import torch
    from safetensors.torch import load_file, save_file

    from safelight.cli.judging import Watch
    from safelight.evaluate.tune import Fitting, fit
    from safelight.files import atomic

    n, places = len(shape.times), not args.weights_only
    how = "weights" if args.weights_only else "all"
    path = work / f"fit-{n}-{k}-{args.iterations}-{args.batch}-{how}.safetensors"
    found = Fitting(-1, args.iterations, math.nan, torch.zeros(3, shape.size, dtype=torch.float64), shape, places)
    if path.exists():
        kept = load_file(path)
        found = found._replace(i=int(kept["i"]), state=kept["state"])
    first = found.i + 1
    run = fit(
        case, truth, n, iterations=args.iterations, batch=args.batch, micro=args.micro_batch, seed=k, places=places,
        shape=shape, state=found.state, first=first,
    )  # fmt: skip
    saved = time.perf_counter()
    with Watch(f"{n} steps, fit {k + 1} of {args.fits}") as watch:
        for found in run:
            watch.see(found.i + 1, found.n, first)
            if found.i + 1 == found.n or time.perf_counter() - saved > _EVERY:
                with atomic(path) as temporary:
                    save_file({"state": found.state, "i": torch.tensor(found.i)}, temporary)
                saved = time.perf_counter()
    return found


def _halved(case: Case, ends: Tensor, steps: int) -> float:
    """The geometric mean distance of the reference to one of half as many steps, on the first trajectories."""
    from safelight.evaluate.tune import GRID, SAMPLER, errors, solve

    some = case.rows(slice(0, _CHECKED))
    return float(errors(solve(some, SAMPLER, GRID(case.process, steps // 2)), ends[: len(some.x)]).log().mean().exp())


def _numbers(case: Case, ends: Tensor, sampler: Sampler, times: Tensor) -> dict[str, float]:
    """The errors of a sampler: their median, geometric mean, and root mean square."""
    import torch

    from safelight.evaluate.tune import errors, solve

    parts = [solve(case.rows(slice(k, k + _CHUNK)), sampler, times) for k in range(0, len(case.x), _CHUNK)]
    found = errors(torch.cat(parts), ends)
    return {
        "median": float(found.median()),
        "mean": float(found.log().mean().exp()),
        "rms": float(found.square().mean().sqrt()),
    }


def _write(path: Path, sampler: Tuned, grid: Grid, request: Resolved, name: str) -> None:
    """The file that --sampler and --config take."""
    from safelight.cli.overrides import write
    from safelight.spec import describe

    n = len(sampler.s)
    parts = {key: describe(part, family=False) for key, part in (("sampler", sampler), ("grid", grid), ("mix", request.mix))}
    write(path, {"steps": n, **parts}, f"{n} steps fitted to {name} by safelight tune-sampler; for --sampler or --config")


def _table(n: int, usual: dict[str, dict[str, float]], fits: list[dict[str, float]], best: int, unseen: int) -> str:
    """The errors on unseen pictures as text."""
    names = ("median", "mean", "rms")
    lines = [f"\n{f'{n} steps, error of {unseen} unseen pictures':42}{'median':>10}{'geometric mean':>16}{'rms':>10}"]
    rows = [*usual.items(), ("tuned", fits[best])]
    for name, row in rows:
        lines.append(f"{name:42}{row['median']:>10.2e}{row['mean']:>16.2e}{row['rms']:>10.2e}")
    if len(fits) > 1:
        for said, pick in (("  least of the fits", min), ("  greatest of the fits", max)):
            cells = [pick(row[name] for row in fits) for name in names]
            lines.append(f"{said:42}{cells[0]:>10.2e}{cells[1]:>16.2e}{cells[2]:>10.2e}")
    return "\n".join(lines)
