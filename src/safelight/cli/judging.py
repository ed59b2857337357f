"""What the longer verbs of `safelight evaluate` do: run, show progress, write files, print a table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.data.composed import Vocabulary

JUDGE = "sprites-judge"
VOCABULARIES = ("reduced", "full")


def vocabulary(name: str) -> Vocabulary:
    """`reduced` is 48 concepts in four styles, `full` all 709 in five."""
    from safelight.data.composed import FULL, REDUCED

    return {"reduced": REDUCED, "full": FULL}[name]


def train_judge(args: argparse.Namespace) -> int:
    """Train a scene classifier, examine it on scenes it never saw, and write it."""
    import torch

    import safelight
    from safelight import device as devices
    from safelight.data.scenes.compose import Composer
    from safelight.evaluate.classifier import save
    from safelight.evaluate.fit import rounded
    from safelight.evaluate.scene_classifier import Judge, Teach, confusions, exam, teach
    from safelight.spec import describe

    if args.threads < 1:
        raise SpecError("--threads: at least 1")
    if Path(args.out).suffix != ".safetensors":  # before the work, not after it
        raise SpecError(f"--out {args.out}: a classifier is written as .safetensors")
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        device = devices.pick(args.device)
        composer = Composer(vocabulary(args.vocabulary).pack(), device)
        how = Teach(steps=args.steps, seed=args.seed)
        for lesson in teach(composer, how):
            left = lesson.seconds / lesson.step * (how.steps - lesson.step)
            print(
                f"step {lesson.step} of {how.steps}: loss {lesson.loss:.3f}, right {100 * lesson.accuracy:.1f} % of worn training "
                f"crops, {lesson.seconds:.0f} s, {left:.0f} s left",
                flush=True,
            )
        eye = rounded(lesson.eye.cpu())
        judge = Judge(eye, Composer(composer.pack))
        grades = exam(judge, args.exam)
        scenes = judge.composer.draw(2_000_003, 0, args.exam)
        weak = confusions(judge, judge.look(judge.composer.render(scenes), scenes), scenes)
        lineage = {
            "name": JUDGE, "vocabulary": args.vocabulary, "teach": describe(how), "threads": args.threads,
            "seconds": round(lesson.seconds, 1), "exam": {k: {"right": g.right, "n": g.n} for k, g in grades.items()},
            "torch": torch.__version__, "safelight": safelight.__version__,
        }  # fmt: skip
        save(args.out, eye.cpu(), lineage)
    finally:
        torch.set_num_threads(before)
    for name, grade in grades.items():
        print(f"  {name:<16} {100 * grade.rate:6.2f} %  of {grade.n:,}")
    for name, wrong, n, other in weak:
        print(f"  {name} taken for {other}: {wrong} of {n} wrong")
    print(f"hash {eye.fingerprint}, {Path(args.out).stat().st_size / 1e6:.2f} MB\n{args.out}")
    return 0


class Watch:
    """How far a measurement is: a bar where a person watches, else a line to stderr now and then."""

    def __init__(self, what: str, every: float = 30.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.progress.add_task(what, total=None)
        self.what, self.every, self.plain = what, every, not console.is_terminal
        self.began = self.said = time.perf_counter()

    def __enter__(self) -> Watch:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def see(self, done: int, total: int, kept: int = 0) -> None:
        """`done` of `total`, of which `kept` cost nothing, since they are from an earlier run."""
        self.progress.update(self.task, completed=done, total=total)
        now = time.perf_counter()
        if self.plain and (now - self.said > self.every or done == total):
            self.said = now
            each = (now - self.began) / max(1, done - kept)
            print(
                f"{self.what}: {done:,} of {total:,}, about {(total - done) * each / 60:.1f} minutes left",
                file=sys.stderr,
                flush=True,
            )


def adherence(args: argparse.Namespace) -> int:
    """Ask a model for scenes, grade what comes, and write report.json, card.md, curve.png, samples.png and copies.png."""
    from safelight import device as devices
    from safelight.data.scenes.compose import Composer
    from safelight.evaluate import adherence as measure
    from safelight.evaluate.classifier import load as load_eye
    from safelight.evaluate.scene_classifier import Judge, shipped
    from safelight.files import atomic_bytes
    from safelight.model import load, peek

    if bool(args.model) == bool(args.control):
        raise SpecError("adherence: give a MODEL, or --control perfect or shuffled, and not both")
    fields = {"prompts": args.prompts, "seen": args.seen, "curve": args.curve, "steps": args.steps, "batch": args.batch}
    plan = measure.Plan(**fields, scales=_scales(args.scales), seed=args.seed)
    device = devices.pick(args.device)
    composer = Composer(vocabulary(args.vocabulary).pack(), device)
    checker = measure.Checker(Judge(load_eye(args.judge or shipped()), composer))
    out = Path(args.out)
    if args.control:
        paint: measure.Painter = measure.OfComposer(composer, shuffled=args.control == "shuffled")
        plan = plan.model_copy(update={"scales": plan.scales[:1]})  # nothing guides a control
    else:
        model = load(args.model, args.weights, device=device)
        names = peek(args.model).weights
        paint = measure.OfModel(model, plan, args.weights or next((n for n in names if n != "raw"), "raw"))
    with Watch("pictures") as watch:
        for event in measure.adherence(paint, checker, plan, None if args.control else out / "pictures"):
            if isinstance(event, measure.Painted):
                watch.see(*event)
    assert isinstance(event, measure.Report)
    text = measure.table(event.numbers)
    atomic_bytes(out / "report.json", (json.dumps(event.numbers, indent=2) + "\n").encode())
    atomic_bytes(out / "card.md", (text + "\n").encode())
    written = ["report.json", "card.md", *_drawn(out, event, checker)]
    print(text, end="\n\n")
    for name in written:
        print(f"{name:<12} {out / name}")
    return 0


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        scales = ()
    if not scales or not all(0 <= scale < 1e6 for scale in scales):
        raise SpecError(f"--scales {text}: write guidance scales with commas between them, as in 1,2,3")
    return scales


def _drawn(out: Path, report: Any, checker: Any) -> list[str]:
    """The pictures of a report; their names."""
    from safelight.draw.grid import save
    from safelight.evaluate import show

    names = []
    if report.numbers["curve"]:
        show.curve(out / "curve.png", report.numbers)
        names.append("curve.png")
    save(out / "samples.png", show.samples(report.held))
    names.append("samples.png")
    for name, found in report.designs.items():
        part = report.held if name == "held" else report.seen
        save(out / f"copies-{name}.png", show.copies(part, found, checker.composer))
        names.append(f"copies-{name}.png")
    return names


def codec(args: argparse.Namespace) -> int:
    """Measure codecs beside each other on concepts none was trained on, and write codec.json, codec.md and codec.png."""
    from safelight import device as devices
    from safelight.codec import Codec
    from safelight.draw.grid import save
    from safelight.evaluate import rebuilt
    from safelight.files import atomic_bytes
    from safelight.model import load

    if args.count < 1:
        raise SpecError(f"--count {args.count}: at least one picture")
    device = devices.pick(args.device)
    codecs: dict[str, Codec] = {}
    for source in args.models:
        model = load(source, args.weights, device=device)
        if model.spec.channels != 3:
            raise SpecError(f"{source}: its pictures have {model.spec.channels} channels; scenes have 3")
        name = model.spec.codec.kind
        codecs[name if name not in codecs else f"{name} {len(codecs) + 1}"] = model.codec
    found = rebuilt.rebuilt(codecs, count=args.count, seed=args.seed)
    found.numbers["models"] = dict(zip(codecs, args.models, strict=True))
    out, text = Path(args.out), rebuilt.table(found.numbers)
    atomic_bytes(out / "codec.json", (json.dumps(found.numbers, indent=2) + "\n").encode())
    atomic_bytes(out / "codec.md", (text + "\n").encode())
    save(
        out / "codec.png",
        rebuilt.picture(found, ", ".join(f"{n} {c['psnr']:.2f} dB" for n, c in found.numbers["codecs"].items())),
    )
    print(text, end="\n\n")
    for name in ("codec.json", "codec.md", "codec.png"):
        print(f"{name:<12} {out / name}")
    return 0


def retrieval(args: argparse.Namespace) -> int:
    """Measure a joint model on held-out prompts, and with --model generated pictures beside composed ones; retrieval.json, .md."""
    import torch

    from safelight import device as devices
    from safelight.data.scenes.compose import Composer
    from safelight.evaluate import retrieval as measure
    from safelight.evaluate.adherence import Asked, OfModel, Plan
    from safelight.files import atomic_bytes
    from safelight.model import load, locate
    from safelight.text.joint import load as load_joint

    for name in ("prompts", "sets"):
        if getattr(args, name) < 1:
            raise SpecError(f"--{name} {getattr(args, name)}: at least 1")
    device = devices.pick(args.device)
    joint = load_joint(locate(args.joint), device=device)
    composer = Composer(vocabulary(args.vocabulary).pack(), device)
    sets = [measure.distinct(composer, args.prompts, args.seed + k) for k in range(args.sets)]
    made = None
    if args.model:
        plan = Plan(scales=(args.scale,), steps=args.steps, seed=args.seed)
        paint, parts = OfModel(load(args.model, args.weights, device=device), plan), []
        asked = Asked("held", *sets[0])
        with Watch("pictures") as watch:
            for first in range(0, args.prompts, args.batch):
                parts.append(paint(asked.rows(slice(first, first + args.batch)), first, args.scale))
                watch.see(min(args.prompts, first + args.batch), args.prompts)
        made = torch.cat(parts)
    numbers = {
        **measure.retrieval(joint, sets, composer, made, seed=args.seed + 11),
        "joint": str(args.joint),
        "model": args.model,
    }
    out, text = Path(args.out), measure.table(numbers)
    atomic_bytes(out / "retrieval.json", (json.dumps(numbers, indent=2) + "\n").encode())
    atomic_bytes(out / "retrieval.md", (text + "\n").encode())
    print(text, end="\n\n")
    for name in ("retrieval.json", "retrieval.md"):
        print(f"{name:<14} {out / name}")
    return 0


def likelihood(args: argparse.Namespace) -> int:
    """Bits a value of pictures under a model, by the bound and by the ODE; writes result.json and, of a bound, terms.png."""
    from safelight import data as store
    from safelight import device as devices
    from safelight.data.fashion import FashionMNISTSource
    from safelight.draw.terms import terms
    from safelight.evaluate import likelihood as measure
    from safelight.files import atomic_bytes
    from safelight.model import load

    fields = ("count", "ode", "steps", "grid", "variance", "dequantise", "trace", "probes", "prompts", "seed", "batch")
    given = {name: getattr(args, name) for name in fields}
    given |= {"terms": args.terms or None, "clip": not args.no_clip, "rtol": args.tolerance, "atol": args.tolerance}
    plan = measure.Plan.model_validate(given)
    model = load(args.model, args.weights, device=devices.pick(args.device))
    source = store.detect(args.test) if args.test else FashionMNISTSource(split="test")
    pictures = store.load(source, channels=model.spec.channels, size=model.spec.size)
    out = Path(args.out)
    with Watch("pictures") as watch:
        for event in measure.likelihood(model, pictures, plan, out / "kept"):
            if isinstance(event, measure.Measured):
                watch.see(*event)
    assert isinstance(event, measure.Report)
    atomic_bytes(out / "result.json", (json.dumps(event.numbers, indent=2) + "\n").encode())
    written = ["result.json"]
    if "bound" in event.numbers:
        name = model.name if model.name != "model" else Path(args.model).name
        terms(out / "terms.png", {"": event.numbers}, title=f"The bound of {name}, term by term")
        written.append("terms.png")
    print(measure.table(event.numbers), end="\n\n")
    for name in written:
        print(f"{name:<12} {out / name}")
    return 0
