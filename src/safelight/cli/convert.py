"""Bring a model into another layout with everything it has, or a pickle into a safetensors file.

    safelight convert model.ckpt --out model.safetensors            a pickle's tensors, under their names
    safelight convert FOLDER --out FOLDER-safe                      a diffusers folder whose weights are pickles
    safelight convert model.safetensors --to diffusers --out FOLDER
    safelight convert FOLDER --to safelight --out model.safetensors

Numbers keep their type, every set of weights is kept, and so is what no part uses: converted back, it is bit for bit what it was. A
pickle is opened here and nowhere else, by torch's restricted reader, which makes tensors of it and runs nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.model import Model

LAYOUTS = ("safelight", "diffusers", "ldm")
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def add(parser: argparse.ArgumentParser) -> None:
    """What, as what, and where to."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a model file, a single file, a diffusers folder, or a pickle (.ckpt, .pt)"
    )
    parser.add_argument("--out", required=True, metavar="PATH", help="the file or folder to write")
    parser.add_argument(
        "--to", choices=LAYOUTS, help="the layout; a pickle becomes a safetensors file of the same names without it"
    )


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from safelight.interop.checkpoint import kind
    from safelight.model import locate

    source, out = Path(args.source), Path(args.out)
    if out.exists():
        raise SpecError(f"--out {out}: there is something already; name another path, or remove it first")
    if source.is_file() and kind(source) != "safetensors":
        if args.to:
            raise SpecError(f"{source} is no safetensors file: convert it without --to first, then the file that comes out")
        unpickle(source, out)
        return 0
    if source.is_dir() and not args.to:
        folder(source, out)
        return 0
    if not args.to:
        raise SpecError(f"--to says which layout {source} shall get: {', '.join(LAYOUTS)}")
    relay(locate(source), out, args.to)
    return 0


def unpickle(source: Path, out: Path) -> None:
    """A pickle's tensors as a safetensors file."""
    from safelight.files import atomic
    from safelight.interop import inversion
    from safelight.interop.checkpoint import write
    from safelight.interop.pickles import read, tensors

    if out.suffix != ".safetensors":
        raise SpecError(f"--out {out}: the file is called NAME.safetensors")
    held = read(source)
    if inversion.is_pickled(held):
        inversion.save(out, inversion.of_pickle(held, source.stem))
        print(f"word     {out}: a learned word, as diffusers keeps one")
        return
    found = tensors(source, held)
    with atomic(out) as temporary:
        write(temporary, found.tensors, {"format": "pt"})
    print(f"file     {out}: {out.stat().st_size / 1e6:.1f} MB, {len(found.tensors):,} tensors")
    if found.dropped:
        some = ", ".join(found.dropped[:6]) + (", ..." if len(found.dropped) > 6 else "")
        print(f"left     what is no tensor: {some}")


def folder(source: Path, out: Path) -> None:
    """A diffusers folder with its pickled weights as safetensors files, everything else as it is."""
    import shutil

    from safelight.interop.diffusers import whole_folder

    pickled = [path for path in source.rglob("*") if path.suffix in _PICKLED and path.is_file()]
    if not pickled:
        raise SpecError(f"{source} holds no pickles; --to says which layout it shall get: {', '.join(LAYOUTS)}")
    with whole_folder(out) as temporary:
        for path in sorted(source.rglob("*")):
            there = temporary / path.relative_to(source)
            if path.is_dir():
                there.mkdir(parents=True, exist_ok=True)
            elif path in pickled:
                name = path.name.replace("pytorch_model", "model") if path.name.startswith("pytorch_model") else path.name
                unpickle(path, there.with_name(name).with_suffix(".safetensors"))
            elif path.suffix in (".json", ".txt", ".model", ".safetensors", ".md"):
                shutil.copyfile(path, there)
    print(f"folder   {out}: {len(pickled)} pickles became safetensors files")


def relay(source: Path, out: Path, to: str) -> None:
    """A model in another layout, with all its sets of weights."""
    from safelight.model import load, peek

    sets = peek(source).weights
    if to == "diffusers" and len(sets) > 1:
        model = load(source, dtype=None)
        written(model, out, to, {})
        print(f"model    {out}: as {to}, which holds one set of weights: {model.weights} (there were {', '.join(sets)})")
        return
    model = load(source, sets[0], dtype=None)
    averages = {name: load(source, name, dtype=None).state_dict() for name in sets[1:]}
    if sets[0] != "raw":
        averages = {sets[0]: model.state_dict(), **averages}
    written(model, out, to, averages, raw=sets[0] == "raw")
    print(f"model    {out}: as {to}, with its weights {', '.join(sets)}")


def written(model: Model, out: Path, to: str, averages: dict[str, dict], raw: bool = True) -> None:
    """Write a model in a layout. averages: further sets. raw: whether the model's own weights are a set of that name."""
    from safelight.interop import diffusers, ldm
    from safelight.model import save

    if to == "safelight":
        save(out, model, averages=averages, raw=raw)
    elif to == "ldm":
        ldm.save_file(out, model, averages)
    else:
        try:
            diffusers.save_folder(out, model)
        except diffusers.NoClassError as error:
            from safelight.interop.bundle import write as bundle

            bundle(model, out)
            print(f"note     {error}: it brings its own, so load it there with trust_remote_code=True")
