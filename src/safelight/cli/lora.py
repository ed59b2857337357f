"""Look at an adapter (LoRA), write it in another flavour, or write a model that has it for good.

    safelight lora style.safetensors --model sd15.safetensors
    safelight lora style.safetensors --model sd15.safetensors --to diffusers --out style-diffusers.safetensors
    safelight lora style.safetensors:0.8 other.safetensors:0.3 --model sd15.safetensors --merge sd15-styled.safetensors

FILE is of any flavour; which one is seen from its names, every one of which is looked up in the model's layers. A tensor that fits none
is an error, unless --allow-partial leaves it out. Flavours: kohya, diffusers, peft (a folder), legacy, original, safelight.

Exit codes: 0 all of it fits; 1 done, and something was left out; 2 not done.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from safelight.cli import making
from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.adapt.lora import Lora, LoraUse
    from safelight.interop.lora import Report

_FLAVOURS = ("kohya", "diffusers", "peft", "legacy", "original", "safelight")


def add(parser: argparse.ArgumentParser) -> None:
    """The adapters, the model, and what to write."""
    parser.add_argument("file", nargs="+", metavar="FILE[:W[:T]]", help="an adapter, with a weight for --merge")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="the model that it is for: its layers are what names are looked up in"
    )
    parser.add_argument("--to", choices=_FLAVOURS, help="write it in this flavour")
    parser.add_argument("--out", metavar="PATH", help="where to, with --to: a file, or a folder for peft")
    parser.add_argument("--merge", metavar="FILE", help="write the model with the adapters in its weights")
    parser.add_argument("--allow-partial", action="store_true", help="take what fits the model, and list what does not")


def run(args: argparse.Namespace) -> int:
    """Read, tell, write."""
    from safelight.adapt.lora import wear
    from safelight.assets import Assets
    from safelight.interop import lora as files
    from safelight.model import load, save

    if bool(args.to) != bool(args.out):
        raise SpecError("--to says the flavour and --out where to: give both")
    if args.to and len(args.file) > 1:
        raise SpecError("--to writes one adapter: give one FILE")
    for path in (args.out, args.merge):
        if path and Path(path).exists():
            raise SpecError(f"{path} is there already: name another, or delete it first")
    model = load(args.model, dtype=None)
    found: list[tuple[Lora, LoraUse]] = []
    left, assets = 0, Assets()
    for given in args.file:
        file, use, _ = making.adapter(given, assets)
        lora, report = files.load(file, model, partial=args.allow_partial)
        print(told(file, lora, report))
        left += len(report.problems)
        found.append((lora, use))
    if args.to:
        files.save(args.out, found[0][0], model, args.to)
        print(f"written  {args.out}")
    if args.merge:
        wear(model, [(lora, use.parts) for lora, use in found]).merge()
        adapters = [*model.lineage.get("adapters", ()), *(use.model_dump(exclude_defaults=True) for _, use in found)]
        save(args.merge, model, lineage={**model.lineage, "parent": model.fingerprint, "adapters": adapters})
        print(f"merged   {args.merge}")
    return 1 if left else 0


def told(file: str, lora: Lora, report: Report) -> str:
    """What an adapter is, for a person."""
    ranks = sorted({change.rank for change in lora.changes})
    scales = sorted({round(change.scale, 6) for change in lora.changes})
    places = [change.module.partition(".")[0] for change in lora.changes]
    where = ", ".join(f"{places.count(name)} in the {name}" for name in dict.fromkeys(places))
    kinds = [
        what
        for what, there in (("Tucker", "mid"), ("DoRA", "magnitude"))
        if any(getattr(c, there) is not None for c in lora.changes)
    ]
    lines = [
        f"{file}: {report}",
        f"changes  {len(lora.changes)} ({where}){', ' + ' and '.join(kinds) if kinds else ''}",
        f"rank     {', '.join(map(str, ranks))}",
        f"scale    {', '.join(f'{s:g}' for s in scales)} (alpha / rank)",
    ]
    return "\n".join([*lines, *(f"left out {name}" for name in report.problems)])
