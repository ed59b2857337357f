"""Make pictures with a trained model, and on request a film, a table of steps and a recording of how they came to be.

MODEL is a file, a run's folder (its latest checkpoint) or the name of a model that ships (fashion-mnist).

    safelight sample fashion-mnist -p "ankle boot" --count 8 --film boots.gif
    safelight sample fashion-mnist -p dress -p bag --steps 20 --sampler dpm++2m --guidance 3
    safelight sample fashion-mnist --sampler ddim --set sampler.eta=1 --save-config mine.yaml
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safelight.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.generate import Stepped
    from safelight.model import Model
    from safelight.process import Level
    from safelight.task import Resolved

# So many pictures fit a film that one wants to look at, and so many moments a table of steps.
_IN_A_FILM = 12
_MOMENTS = 8


def add(parser: argparse.ArgumentParser) -> None:
    """What is asked for, how it is made, and where it goes."""
    parser.add_argument("model", metavar="MODEL", help="a model file, a run's folder, or a name that ships")
    asked = parser.add_argument_group("what")
    asked.add_argument("-p", "--prompt", action="append", metavar="TEXT", help="repeatable, a row each; without it every class")
    asked.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from, instead of nothing")
    asked.add_argument("--count", type=int, metavar="N", help="pictures for each prompt (8)")
    asked.add_argument("--seed", type=int, metavar="N", help="picture k of a seed is always the same picture (0)")
    asked.add_argument("--size", metavar="HxW", help="in pixels, if not the size the model was trained on")
    how = parser.add_argument_group("how (what is not given is the model's default)")
    how.add_argument("--steps", "--num-inference-steps", type=int, metavar="N", help="steps of the sampler")
    how.add_argument("--sampler", metavar="KIND", help="see: safelight list sampler")
    how.add_argument("--grid", metavar="KIND", help="where the steps lie; see: safelight list grid")
    how.add_argument("--guidance", "--guidance-scale", type=float, metavar="X", help="classifier-free guidance; 1 is none")
    how.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="any field: sampler.eta=1, mix.rescale=0.7"
    )
    how.add_argument("--config", metavar="FILE", help="a request kept by --save-config; flags and --set go over it")
    how.add_argument("--weights", metavar="NAME", help="raw, or the name of an average (ema)")
    how.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ...; see: safelight doctor")
    how.add_argument("--micro-batch", type=int, metavar="N", help="pictures made at a time, where memory is short")
    out = parser.add_argument_group("where to")
    out.add_argument("--out", metavar="DIR", help="folder of the pictures (out/MODEL)")
    out.add_argument("--film", "--gif", metavar="FILE", help="the denoising as a film: .gif, .webp or .apng")
    out.add_argument("--show-steps", action="store_true", help="also DIR/steps.png: x_t and the guess of x_0 along the way")
    out.add_argument("--trace", metavar="FILE", help="the whole recording as one .safetensors, to scrub, fork and compare")
    out.add_argument("--save-config", metavar="FILE", help="the request with all defaults filled in, as YAML")


def run(args: argparse.Namespace) -> int:
    """Sample, showing progress, and print where everything is."""
    from safelight import device as devices
    from safelight.draw.film import SUFFIXES
    from safelight.generate import Finished, Started, Stepped, generate
    from safelight.model import load
    from safelight.trace import Recorder

    if args.film and Path(args.film).suffix.lower() not in SUFFIXES:  # before the work, not after it
        raise SpecError(f"--film {args.film}: '{Path(args.film).suffix}' is no film format here ({', '.join(SUFFIXES)})")
    device = devices.pick(args.device)
    model = load(args.model, args.weights, device=device)
    request = resolve(args, model)
    if args.save_config:
        keep(args.save_config, request)
    out = Path(args.out or Path("out") / Path(args.model).stem)
    out.mkdir(parents=True, exist_ok=True)

    prompts = request.pictures
    watched = chosen(prompts, request) if args.film or args.show_steps else []
    watch = Watch(model, watched, request.index)
    recorder = Recorder(branches=True) if args.trace else None
    pictures: list[Any] = []
    began = time.perf_counter()
    with bar(request) as advance:
        for event in generate(model, request):
            if recorder:
                recorder.see(event)
            if isinstance(event, Started):
                watch.part(event.numbers)
            elif isinstance(event, Stepped):
                watch.see(event)
                advance()
            elif isinstance(event, Finished):
                pictures.append(event.pictures.cpu())
    seconds = time.perf_counter() - began

    made = write(out, pictures, request)
    how = f"{request.steps} steps of {request.sampler.kind}, {request.mix.kind}"
    print(
        f"{len(prompts)} pictures of {request.size[0]}x{request.size[1]} in {seconds:.1f} s ({how}) on {devices.title(device)}"
    )
    print(f"picture  {made}")
    if args.show_steps:
        print(f"steps    {watch.table(out / 'steps.png', prompts)}")
    if args.film:
        print(f"film     {watch.film(Path(args.film), prompts)}")
    if recorder:
        recorder.save(args.trace)
        print(f"trace    {args.trace}")
    if args.save_config:
        print(f"config   {args.save_config}")
    return 0


def resolve(args: argparse.Namespace, model: Model) -> Resolved:
    """The request that the config file, the flags and --set describe, with the model's defaults filled in."""
    from safelight.cli.overrides import assign, read
    from safelight.spec import describe, parse
    from safelight.task import Request

    given: dict[str, Any] = read(args.config) if args.config else {"count": 8, "prompt": classes(model)}
    flags = {
        "prompt": args.prompt,
        "negative": args.negative_prompt,
        "count": args.count,
        "seed": args.seed,
        "steps": args.steps,
        "sampler": args.sampler,
        "grid": args.grid,
        "size": size(args.size),
        "micro_batch": args.micro_batch,
    }
    given |= {name: value for name, value in flags.items() if value is not None}
    asked = parse(given, "request")
    assert isinstance(asked, Request)
    full = describe(asked.resolve(model), family=False)
    if args.guidance is not None:
        # The model's own guidance keeps its interval and rescale; only its strength is asked for.
        mix = full["mix"] if full["mix"]["kind"] == "cfg" else {"kind": "cfg"}
        full["mix"] = {**mix, "scale": args.guidance}
    asked = parse(assign(full, args.set), "request")
    assert isinstance(asked, Request)
    return asked.resolve(model)


def classes(model: Model) -> list[str]:
    """Every class of a model of labels; no prompt for any other model."""
    names = getattr(model.text.spec, "names", ()) if model.text is not None else ()
    return list(names) or [""]


def size(text: str | None) -> list[int] | None:
    """`32x48` or `32` as [height, width]."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x×,](\d+))?", text)
    if match is None:
        raise SpecError(f"--size {text}: write HEIGHTxWIDTH in pixels, as in 28x28")
    return [int(match[1]), int(match[2] or match[1])]


def keep(path: str, request: Resolved) -> None:
    """Write the request as YAML, for --config."""
    from safelight.cli.overrides import write as write_yaml
    from safelight.spec import describe

    content = {k: v for k, v in describe(request, family=False).items() if k != "kind"}
    write_yaml(path, content, "a request of safelight sample; use it with --config")


def chosen(prompts: list[str], request: Resolved) -> list[int]:
    """The pictures that film and table show: of one prompt the first few, of several the first of each."""
    firsts = list(range(len(prompts))) if len(request.prompt) == 1 else list(range(0, len(prompts), request.count))
    return firsts[:_IN_A_FILM]


class bar:
    """A progress bar with the time left, on stderr and only where a person watches; `with bar(request) as advance`."""

    def __init__(self, request: Resolved) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        parts = -(-len(request.pictures) // (request.micro_batch or len(request.pictures)))
        self.task = self.progress.add_task("denoising", total=parts * request.steps)

    def __enter__(self) -> Any:
        self.progress.start()
        return lambda: self.progress.advance(self.task)

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


class Shot(NamedTuple):
    """The watched pictures at one step, decoded; what `draw.film.frames` reads."""

    i: int
    n: int
    before: Tensor
    now: Level
    x: Tensor
    level: Level
    estimate: Guess


class Guess(NamedTuple):
    """The clean pictures as the model sees them."""

    x0: Tensor


class Watch:
    """Keeps the few pictures that are to be shown, step by step, over all parts of a run."""

    def __init__(self, model: Model, pictures: list[int], first: int) -> None:
        self.model, self.pictures, self.first = model, pictures, first
        self.rows: list[int] = []
        self.shots: dict[int, list[Shot]] = {}

    def part(self, index: tuple[int, ...]) -> None:
        """A micro-batch begins: which of its rows are watched."""
        self.rows = [row for row, k in enumerate(index) if k - self.first in self.pictures]

    def see(self, event: Stepped) -> None:
        """Keep the watched rows of a step."""
        if self.rows:
            s = event.step
            before, x, x0 = (self._decoded(v[self.rows]) for v in (s.before, s.x, s.estimate.x0))
            self.shots.setdefault(s.i, []).append(Shot(s.i, s.n, before, s.now, x, s.level, Guess(x0)))

    def _decoded(self, latents: Tensor) -> Tensor:
        import torch

        with torch.inference_mode():
            return self.model.codec.decode(latents.clone()).float().cpu()

    def steps(self) -> Iterator[Shot]:
        """Every step once, with the rows of all parts together."""
        import torch

        for i in sorted(self.shots):
            parts = self.shots[i]
            before, x, x0 = (torch.cat(v) for v in zip(*((p.before, p.x, p.estimate.x0) for p in parts), strict=True))
            yield parts[0]._replace(before=before, x=x, estimate=Guess(x0))

    def film(self, path: Path, prompts: list[str]) -> Path:
        """Write the film; returns its path."""
        from safelight.draw.film import film, frames

        captions = [prompts[k] for k in self.pictures]
        return film(path, frames(self.steps()), captions=captions if any(captions) else ())

    def table(self, path: Path, prompts: list[str]) -> Path:
        """Write the table of moments: for each picture a row of x_t and below it a row of the guesses."""
        import torch

        from safelight.draw.film import shown
        from safelight.draw.grid import save, sheet

        steps = list(self.steps())
        picks = sorted({round(k * (len(steps) - 1) / max(1, _MOMENTS - 1)) for k in range(_MOMENTS)}) if len(steps) > 1 else [0]
        cells, rows = [], []
        for row, k in enumerate(self.pictures):
            for name, of in (("x_t", _noisy), ("guess of x_0", _guess)):
                rows.append(f"{prompts[k]} {name}".strip())
                cells += [of(steps[i], row, shown) for i in picks]
        heads = [f"step {steps[i].i + 1} of {steps[i].n}" for i in picks]
        return save(path, sheet(torch.stack(cells), rows=rows, heads=heads))


def _noisy(shot: Shot, row: int, shown: Any) -> Tensor:
    noisy: Tensor = shown(shot.before[row], float(shot.now.alpha), float(shot.now.sigma))
    return noisy


def _guess(shot: Shot, row: int, shown: Any) -> Tensor:
    return shot.estimate.x0[row]


def write(out: Path, parts: list[Any], request: Resolved) -> Path:
    """Every picture as a file of its own size, and all of them on one labelled sheet, whose path is returned."""
    import torch

    from safelight.draw.grid import save, sheet
    from safelight.draw.pixels import to_bytes, to_image

    pictures = torch.cat(parts)
    prompts = request.pictures
    for k, (picture, prompt) in enumerate(zip(to_bytes(pictures), prompts, strict=True)):
        slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40]
        save(out / "pictures" / f"{request.index + k:04d}{'-' if slug else ''}{slug}.png", to_image(picture))
    several = len(request.prompt) > 1
    page = sheet(
        pictures,
        columns=request.count if several else None,
        rows=request.prompt if several and any(request.prompt) else (),
        title="" if several else request.prompt[0],
    )
    return save(out / "pictures.png", page)
