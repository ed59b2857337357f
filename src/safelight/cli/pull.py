"""Download a published model: its safetensors, configurations and vocabularies, and nothing that could run.

    safelight pull OWNER/NAME
    safelight pull OWNER/NAME --variant fp16 --revision 1.0
    safelight pull OWNER/NAME --file model.safetensors --out models

It lies in the hub's own cache, pinned to a commit; `--model OWNER/NAME` then names it, without asking the hub again. A download that broke
off goes on where it stopped. Only this verb downloads models.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Which repository, which of its files, and where to."""
    parser.add_argument("repo", metavar="OWNER/NAME", help="a repository of the Hugging Face hub")
    parser.add_argument("--revision", metavar="REV", help="a branch, tag or commit (the newest)")
    parser.add_argument("--variant", default="", metavar="NAME", help="of the weights, as in model.fp16.safetensors: fp16")
    parser.add_argument("--file", metavar="NAME", help="one file of it alone, for single files")
    parser.add_argument("--out", metavar="FOLDER", help="lay it here instead of the hub's cache")


def run(args: argparse.Namespace) -> int:
    """Download, and say where it lies."""
    from safelight.data.pull import pull

    found = pull(
        args.repo,
        args.revision,
        variant=args.variant,
        file=args.file,
        out=Path(args.out) if args.out else None,
        say=lambda line: print(f"pull     {line}"),
    )
    if not found.asked:
        print("offline  the hub cannot be reached: the copy in its cache is taken")
    print(f"model    {found.path}")
    return 0
