"""Make a picture again from what its file says, and compare every byte.

FILE is a picture that Safelight wrote: its note holds the request, the model's fingerprint, the pictures it was made from (by their
seals), the batch, threads and versions. A picture of another tool that carries a `parameters` text is made as nearly as MODEL can,
and what cannot be followed is listed.

    safelight reproduce out/fashion-mnist/pictures/0003-ankle-boot.png
    safelight reproduce edited.png --model my-model.safetensors --input photo.jpg --out again.png

Exit codes: 0 identical, pixels and file; 1 made, and something differs; 2 not made, a model or a picture is missing.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.cli import making
from safelight.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.model import Model
    from safelight.picture import Note
    from safelight.task import Resolved


def add(parser: argparse.ArgumentParser) -> None:
    """The picture, and where to find what it was made with."""
    parser.add_argument("file", metavar="FILE", help="a picture: .png, .webp or .jpg")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="FILE",
        help="the model, or one more that it names; without it one that ships",
    )
    parser.add_argument(
        "--input", action="append", default=[], metavar="FILE", help="a picture it was made from; without it those beside FILE"
    )
    parser.add_argument("--lora", action="append", default=[], metavar="FILE", help="an adapter that the model wore")
    parser.add_argument("--control", action="append", default=[], metavar="FILE", help="a control that the run was steered by")
    parser.add_argument("--embedding", action="append", default=[], metavar="FILE", help="a learned word that it knew")
    parser.add_argument("--out", metavar="FILE", help="keep the picture as it came out")
    parser.add_argument("--device", metavar="NAME", help="another than the recorded one")


def run(args: argparse.Namespace) -> int:
    """Make it again and say how near it came."""
    from safelight import picture

    path = Path(args.file)
    if args.out:
        picture.format_of(Path(args.out))  # before the work, not after it
        if Path(args.out).resolve() in {Path(file).resolve() for file in (path, *args.input)}:
            raise SpecError(f"--out {args.out} is what the picture is compared with or made from: name another file")
    picture.format_of(path)
    note = picture.note(path)
    return known(args, path, note) if note is not None else foreign(args, path)


def known(args: argparse.Namespace, path: Path, note: Note) -> int:
    """A picture with our note: exactly the run that is recorded."""
    from safelight import picture, reproduce
    from safelight.assets import Assets

    with reproduce.as_recorded(note):
        model = reproduce.prepared(reproduce.weights_of(note, args.model, device=place(args.device, note.device)), note)
        assets = Assets(reproduce.sources(note, args.input, path.absolute().parent), device=model.device)
        for file in args.lora:
            assets.bring_lora(file)
        for file in args.embedding:
            assets.bring_word(file)
        for file in args.control:
            assets.bring_control(file)
        request = reproduce.request_for(note, args.model)
        with bar() as progress:
            made, asked = reproduce.again(model, request, assets, note.index, progress)
        lines = reproduce.compare(path, note, model, made, args.model)
        if args.out:
            kept = note if not lines else fresh(model, asked, note, made)
            picture.write(args.out, made, kept)
    print(f"{path}: {said(asked, model, note.index)}")
    if args.out:
        print(f"picture  {args.out}")
    if not lines and note.model.fingerprint != model.fingerprint:
        print(reproduce.another(note, model))
    return verdict(lines)


def foreign(args: argparse.Namespace, path: Path) -> int:
    """A picture with a `parameters` text alone: as nearly as a model of ours can."""
    from safelight import device as devices
    from safelight import picture, reproduce
    from safelight.assets import Assets, seal
    from safelight.interop import infotext
    from safelight.model import load
    from safelight.spec import parse
    from safelight.task import Request

    info = infotext.parse(reproduce.parameters(path))
    model = load(chosen(args.model, info), device=devices.pick(args.device or "auto"))
    if len(args.input) > 1:
        raise SpecError("--input: a parameters text can be made from one picture, not from several")
    parents = [picture.read(name) for name in args.input]
    assets = Assets([pixels for pixels, _ in parents], device=model.device)
    given, reports = infotext.to_request(info, model, seal(parents[0][0]) if parents else None, making.at_hand(args))
    for file in args.lora:
        assets.bring_lora(file)
    for file in args.embedding:
        assets.bring_word(file)
    request = parse(given, "request")
    assert isinstance(request, Request)
    with bar() as progress:
        made, asked = reproduce.again(model, request, assets, 0, progress)
    print(f"{path}: {said(asked, model, 0)}, from its parameters text")
    for line in reports:
        print(f"  {line}")
    if args.out:
        used = [parent for parent in parents if seal(parent[0]) in asked.inputs]
        picture.write(args.out, made, picture.notes(model, asked, [made], parents=used)[0])
        print(f"picture  {args.out}")
    else:
        print("not kept: give --out FILE")
    return verdict(reproduce.apart(picture.read(path)[0], made), "every byte of the pixels")


def chosen(given: list[str], info: Any) -> str:
    """The model of a text: the one given, else the one that ships and is the text's, else the default one."""
    from safelight.model import DEFAULT, embedded, fingerprint

    if given:
        return given[0]
    ships, digits = embedded(), info.settings.get("Model hash", "")
    named = next((name for name, path in ships.items() if digits and fingerprint(path).startswith(digits.lower())), None)
    named = named or next((name for name in (info.settings.get("Model"), DEFAULT) if name in ships), None)
    if named is None:
        raise SpecError(
            f"made with {info.settings.get('Model') or 'a model'}, which does not ship: give one of ours with --model"
        )
    return named


def place(asked: str | None, recorded: str) -> Any:
    """The device asked for, else the recorded one, else the best there is (and what differs will be said)."""
    from safelight import device as devices

    here = {name.split(":")[0] for name in devices.available()}
    return devices.pick(asked or (recorded if recorded in here else "auto"))


def fresh(model: Model, asked: Resolved, note: Note, made: Tensor) -> Note:
    """The note of a picture that came out otherwise: what is so here, and the lineage as recorded."""
    from safelight import picture

    here = picture.notes(model, asked, [made])[0]
    return here.model_copy(update={"index": note.index, "count": note.count, "lineage": note.lineage})


def said(asked: Resolved, model: Model, k: int) -> str:
    """What was made, in half a line."""
    from safelight.task.image import Edit

    count = len(asked.pictures)
    words = f" '{asked.pictures[k]}'" if asked.pictures[k] else ""
    which = f"picture {k + 1} of {count}" if count > 1 else "picture"
    steps = making.steps(asked.task.runs(asked, model) if isinstance(asked.task, Edit) else asked.steps, asked.steps)
    return f"{which}{words}, {asked.task.kind}, {steps} of {asked.sampler.kind}, seed {asked.seed}, model '{model.name}'"


def verdict(lines: list[str], compared: str = "every byte of the pixels and of the file") -> int:
    """Print it; the exit code."""
    if not lines:
        print(f"identical: {compared}")
        return 0
    print("differs:")
    for line in lines:
        print(f"  {line}")
    return 1


@contextlib.contextmanager
def bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar of steps on stderr, only where a person watches."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("denoising")
        yield lambda step, steps: progress.update(task, completed=step, total=steps)
