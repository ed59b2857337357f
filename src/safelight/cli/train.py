"""Train a model: a recipe by name, or a config file.

  safelight train fashion-mnist
  safelight train fashion-mnist --set plan.batch=64 --set plan.steps=2000 --out runs/small
  safelight train fashion-mnist --save-config mine.yaml --dry-run
  safelight train mine.yaml --data ~/pictures --device cpu
  safelight train --resume --out runs/small

Recipes: d3pm-text, fashion-mnist, fashion-mnist-dit, fashion-mnist-edm, fashion-mnist-noisy-classifier,
fashion-mnist-tutorial, improved-ddpm, masked-fashion, ncsn, sprites-clip, sprites-dit, sprites-unet, sprites-vae,
sprites-vae-sharp, sprites-vq, vdm, ve-sde, vp-sde.
Ctrl-C finishes the step, writes a checkpoint and says how to go on.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import Progress

    from safelight.model import Model
    from safelight.train import Report, Run, Train

# Pictures of a sample grid: so many for each class, or in all for a model without classes.
_EACH, _PLAIN = 4, 16
_CLASSES = 10
# What is done with a model that is not of pictures.
_VERBS = {"joint": "evaluate retrieval", "tokens": "tokens sample"}


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "recipe", nargs="?", metavar="RECIPE|FILE", help="a recipe's name or a YAML file; with --resume, the run's own"
    )
    parser.add_argument("--out", metavar="DIR", help="the run's folder (runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly where it stopped")
    parser.add_argument("--data", metavar="PATH", help="other pictures: a folder, a .parquet, a .tar, IDX files")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ... (auto)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="change a field, as in plan.optimizer.lr=2e-4"
    )
    parser.add_argument("--save-config", metavar="FILE", help="write the whole run's description as YAML")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be done; write no run")
    parser.add_argument("--tensorboard", action="store_true", help="also log to DIR/tensorboard (extra: track)")


def run(args: argparse.Namespace) -> int:
    """Exit codes: 0 trained to the end, 130 interrupted with a checkpoint. What cannot be done raises SpecError."""
    from safelight.train import fit

    recipe, out = resolve(args)
    if args.tensorboard:
        _tracking()
    if args.dry_run:
        _forecast(recipe, None if args.resume else out, args.device)
    else:
        going = fit(recipe, out, resume=args.resume, device=args.device)
    if args.save_config:
        keep(args.save_config, recipe)
        print(f"config   {args.save_config}")
    return 0 if args.dry_run else _train(going, _Board(out / "tensorboard") if args.tensorboard else None)


def resolve(args: argparse.Namespace) -> tuple[Train, Path]:
    """The run that the recipe, --data and --set describe, and its folder. Raises SpecError for what does not fit together."""
    from safelight.cli.overrides import assign, read
    from safelight.recipes import names, recipe
    from safelight.spec import SpecError, describe, parse
    from safelight.train import Train, recipe_of

    if args.recipe is None:
        if not (args.resume and args.out):
            raise SpecError(f"name a recipe ({', '.join(names())}) or a YAML file; or --resume --out DIR to go on with a run")
        found = recipe_of(Path(args.out))
    elif Path(args.recipe).suffix in (".yaml", ".yml", ".json"):
        found = parse({"kind": "train", **read(args.recipe)}, "train")  # type: ignore[assignment]
    else:
        found = recipe(args.recipe)
    config = describe(found, family=False)
    if args.data:
        config |= _elsewhere(args.data, config)
    result = parse(assign(config, _lengths(args.set)), "train")
    assert isinstance(result, Train)
    return result, Path(args.out or Path("runs") / result.name)


def _lengths(settings: list[str]) -> list[str]:
    """The settings, after ones that clear the plan's other lengths where one is set: `--set plan.steps=100` is enough."""
    lengths = [f"plan.{name}" for name in ("steps", "epochs", "images")]
    given = {setting.partition("=")[0].strip() for setting in settings}
    return [f"{name}=null" for name in lengths if given & set(lengths)] + settings


def _elsewhere(path: str, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of `config` that --data changes. The recipe's own kind of data moves; other data replace it, held-out part and all."""
    from safelight.data import detect
    from safelight.spec import describe

    if config["data"]["kind"] == "fashion-mnist" and detect(path).kind == "idx":
        held_out = config["held_out_data"]
        return {
            "data": {**config["data"], "path": path},
            "held_out_data": held_out and {**held_out, "path": path},
        }
    return {"data": describe(detect(path), family=False), "held_out_data": None, "held_out": config["held_out"] or 0.05}


def keep(path: str, recipe: Train) -> None:
    """Write the run's description as YAML, to train from."""
    from safelight.cli.overrides import write
    from safelight.spec import describe

    write(path, describe(recipe, family=False), f"a run of safelight: safelight train {Path(path).name}")


def _train(going: Run, board: Any) -> int:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    for note in going.notes:
        console.print(f"note: {note}", markup=False)
    _describe(going)
    began = time.perf_counter()
    with _asked_to_stop() as stop, _bar(console, going) as (progress, task):
        for report in going:
            _show(progress, task, report)
            for note in report.notes:
                progress.console.print(f"note: {note}", markup=False)
            if report.sample:
                picture = sheet(going)
                if board is not None:
                    board.pictures(report.step, picture)
            if board is not None and report.metrics:
                board.numbers(report.step, report.metrics)
            if stop and report.step < report.steps:
                if not report.save:
                    going.save()
                progress.stop()
                print(f"stopped after step {report.step:,} of {report.steps:,} with a checkpoint; go on with:")
                print(f"  safelight train --resume --out {going.out}")
                return 130
    seconds = time.perf_counter() - began
    if board is not None:
        board.close()
    state = going.state
    held = f", held-out loss {state.history[-1].loss:.4f}" if state.history else ""
    print(f"trained to step {state.step:,}, {state.seen:,} pictures seen, {seconds:.0f} s{held}")
    verb = _VERBS.get(going.recipe.model.kind, "sample")
    print(f"model    {going.out}    (safelight {verb} {going.out})")
    return 0


def _describe(going: Run) -> None:
    from safelight import device as machine
    from safelight.train.run import facts

    known = facts(going)
    data = known["data"]
    print(
        f"recipe   {going.recipe.name}: {known['parameters']:,} parameters, {known['steps']:,} steps of {going.recipe.plan.per_step}"
    )
    print(f"data     {going.data.summary()}")
    print(f"held out {data['held_out']:,} pictures")
    print(f"device   {machine.title(going.device)}, {known['precision']['effective']}")
    process = getattr(going.recipe.model, "process", None)
    if known["terminal_snr"] and process is not None:
        alpha = float(process.alpha(1.0))
        print(f"note     the last level's SNR is {known['terminal_snr']:.3g}, not 0: x_T keeps {alpha:.2f} of the picture")
    print(f"out      {going.out}")


def sheet(going: Run) -> Path:
    """A grid of pictures by the first average, always from the same noise; in samples/. The model itself is not touched."""
    from safelight.draw.grid import save
    from safelight.draw.grid import sheet as lay
    from safelight.generate import Finished, Request, generate

    model = going.state.snapshot(going.model)
    if model.denoiser.network not in going.recipe.objective.parts(model):
        return save(going.out / "samples" / f"step-{going.state.step:08d}.png", _rebuilt(going, model))
    names = list(getattr(model.text.spec, "names", ()) if model.text is not None else ())[:_CLASSES]
    prompts = going.recipe.prompts or tuple(names)
    request = Request(prompt=prompts or ("",), count=_EACH if prompts else _PLAIN, seed=0)
    made = [event.pictures.cpu() for event in generate(model, request) if isinstance(event, Finished)]
    picture = lay(made[0], columns=_EACH, rows=prompts) if prompts else lay(made[0])
    return save(going.out / "samples" / f"step-{going.state.step:08d}.png", picture)


def _rebuilt(going: Run, model: Model) -> Image.Image:
    """Of a codec's run: held-out pictures above, what the codec makes of them below."""
    import torch

    from safelight.data import to_unit
    from safelight.draw.grid import sheet as lay
    from safelight.train.autoencode import fidelity

    source = going.held_out if going.held_out is not None else going.data
    x = to_unit(source.batch(torch.arange(min(_PLAIN, source.n))))
    found = fidelity(model.codec, x)
    title = f"{float(found.psnr.mean()):.2f} dB"
    return lay(torch.cat([x, found.pictures]).cpu(), columns=len(x), rows=("held out", "rebuilt"), title=title)


def _forecast(recipe: Train, out: Path | None, device: str) -> None:
    from safelight import device as machine
    from safelight.train.run import ready, vacant

    if out is not None:
        vacant(out)
    model, _, data, held = ready(recipe, machine.pick("cpu"))
    plan, where = recipe.plan, machine.pick(device)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # Weights, gradients, two moments, and each average; activations come on top.
    copies = 4 + len(plan.averages)
    print(f"recipe   {recipe.name}: {sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"data     {data.summary()}")
    print(f"held out {held.n if held else 0:,} pictures")
    print(f"plan     {plan.length(data.n):,} steps of {plan.per_step}, {plan.effective(where).name} on {machine.title(where)}")
    print(
        f"memory   {copies * weights / 2**20:.0f} MiB for weights, gradients, optimizer and averages; activations come on top"
    )


def _show(progress: Progress, task: Any, report: Report) -> None:
    fields: dict[str, str] = {}
    if "train/loss" in report.metrics:
        fields["loss"] = f"loss {report.metrics['train/loss']:.4f}"
    if "images_per_second" in report.metrics:
        fields["speed"] = f"{report.metrics['images_per_second']:,.0f} images/s"
    if report.judged is not None:
        fields["held"] = f"held-out {report.judged.loss:.4f} (gap {report.judged.gap:+.4f})"
    progress.update(task, completed=report.step, **fields)  # type: ignore[arg-type]
    if not progress.console.is_terminal and report.metrics:
        line = "  ".join([f"step {report.step:,}/{report.steps:,}", *fields.values()])
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(console: Any, going: Run) -> Iterator[tuple[Progress, Any]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[held]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=going.steps, completed=going.state.step, loss="", speed="", held="")
        yield progress, task


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that is filled when the user interrupts; a second interrupt ends at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nfinishing this step and saving; once more to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Board:
    """TensorBoard, by global step."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def numbers(self, step: int, metrics: dict[str, float | str]) -> None:
        for name, value in metrics.items():
            if not isinstance(value, str):
                self.writer.add_scalar(name, value, step)

    def pictures(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self.writer.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


def _tracking() -> None:
    """Raise SpecError, naming the extra, when TensorBoard is absent."""
    import importlib.util

    from safelight.spec import SpecError

    if importlib.util.find_spec("tensorboard") is None:
        raise SpecError("--tensorboard needs the package 'tensorboard', which is optional: pip install 'safelight[track]'")
