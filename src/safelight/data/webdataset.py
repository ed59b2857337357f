"""WebDataset: tar shards whose members with the same stem are one sample (`0001.jpg`, `0001.txt`, `0001.cls`, `0001.json`).

Shards are plain tars, so a member can be read at any time by its offset: opening a shard reads its headers and captions once,
and from then on samples are addressed like the files of a folder. That is why resuming inside a shard reads nothing twice.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safelight.data.decode import decode, is_picture
from safelight.data.parquet import named
from safelight.data.source import CorruptError, DataError, Dataset, Example, Skipped, Source, caption_of, missing, unique

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


class WebDatasetSource(Source, kind="webdataset"):
    """Tar shards.

    path:  a .tar, a folder whose .tar files are read in the order of their names, or a pattern: `{a,b}-{000..012}.tar`.
    text:  the caption's key in a .json member; None takes no captions from .json.
    names: what the numbers in .cls members mean; without it a caption is what the .cls says.
    The caption is that of .txt, else of .json, else of .cls, else "".
    """

    path: str
    text: str | None = "text"
    names: tuple[str, ...] = ()

    def open(self) -> Dataset:
        return WebDataset(_shards(self.path), self.text, self.names)


class Member(NamedTuple):
    """Where a file lies: which shard, from which byte, how many."""

    shard: Path
    offset: int
    size: int


class WebDataset(Dataset):
    """Opened shards: captions and places are known, pictures are read by offset."""

    def __init__(self, shards: list[Path], text: str | None, names: tuple[str, ...]) -> None:
        skipped: list[Skipped] = []
        stems: list[str] = []
        full: list[str] = []
        captions: list[str] = []
        self._members: list[Member] = []
        for shard in shards:
            for key, parts in _samples(shard, skipped):
                # `.mask.png` and the like belong to a picture; the picture itself has a plain suffix.
                pictures = [suffix for suffix in parts if is_picture("x." + suffix) and "." not in suffix]
                if not pictures:
                    skipped.append(Skipped(f"{shard.name}:{key}", f"no picture in it (.{', .'.join(parts)})"))
                    continue
                if len(pictures) > 1:
                    more = ", .".join(pictures[1:])
                    skipped.append(Skipped(f"{shard.name}:{key}", f"several pictures: .{pictures[0]} is used, .{more} is not"))
                stems.append(key)
                full.append(f"{shard.stem}:{key}")
                captions.append(_caption(parts, text, names, f"{shard.name}:{key}"))
                self._members.append(parts[pictures[0]])
        if not stems:
            why = f"{skipped[0].path}: {skipped[0].reason}" if skipped else "they are empty"
            raise DataError(f"no pictures in {len(shards)} tar shard{'s' if len(shards) > 1 else ''} ({why})")
        self.ids, self.captions, self.skipped = unique(stems, full), captions, skipped

    def read(self, i: int) -> Example:
        return Example(self.ids[i], decode(_read(self._members[i])), self.captions[i])


def expand(pattern: str) -> list[str]:
    """Brace expansion: `a-{00..02}.tar` -> a-00, a-01, a-02 (leading zeros are kept), `{x,y}.tar` -> x, y; braces multiply."""
    parts = _BRACES.split(pattern)
    choices: list[list[str]] = []
    for i, part in enumerate(parts):
        if i % 2 == 0:
            choices.append([part])
            continue
        span = _RANGE.match(part)
        if span:
            first, last = int(span[1]), int(span[2])
            step = 1 if first <= last else -1
            choices.append([str(n).zfill(len(span[1])) for n in range(first, last + step, step)])
        else:
            choices.append(part.split(","))
    return ["".join(choice) for choice in itertools.product(*choices)]


def _shards(path: str) -> list[Path]:
    if "{" in path:
        files = [Path(p).expanduser() for p in expand(path)]
        gone = [f for f in files if not f.is_file()]
        if gone:
            raise DataError(f"{len(gone)} of {len(files)} shards of {path} are not there, the first is {gone[0]}")
        return files
    root = Path(path).expanduser()
    if not root.exists():
        raise missing(root)
    files = [root] if root.is_file() else sorted(root.rglob("*.tar"))
    if not files:
        raise DataError(f"{root}: no .tar shards in it")
    return files


def _samples(shard: Path, skipped: list[Skipped]) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, {suffix: place}) of a shard, in order. The key is the path up to the first dot of the file's name."""
    samples: dict[str, dict[str, Member]] = {}
    there = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                folder, name = os.path.split(info.name.removeprefix("./"))
                if not info.isfile() or name.startswith("."):
                    continue
                stem, _, suffix = name.partition(".")
                if info.offset_data + info.size > there:
                    skipped.append(Skipped(f"{shard.name}:{info.name}", "the shard ends before it does"))
                    continue
                key = f"{folder}/{stem}" if folder else stem
                samples.setdefault(key, {})[suffix.lower()] = Member(shard, info.offset_data, info.size)
    except tarfile.TarError as error:
        with shard.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        what = "gzipped, so its members cannot be addressed: gunzip it" if packed else f"not a whole tar: {error}"
        skipped.append(Skipped(shard.name, what))
    yield from samples.items()


def _caption(parts: dict[str, Member], text: str | None, names: tuple[str, ...], where: str) -> str:
    if "txt" in parts:
        return " ".join(_read(parts["txt"]).decode("utf-8", errors="replace").split())
    if "json" in parts and text is not None:
        try:
            row = json.loads(_read(parts["json"]))
        except ValueError:
            row = None
        if isinstance(row, dict):
            if text in row or "cls" not in parts:
                return caption_of(row, text, f"{where}.json")
        elif "cls" not in parts:
            return ""
    if "cls" in parts:
        value = _read(parts["cls"]).decode("utf-8", errors="replace").strip()
        return named(int(value), list(names)) if value.lstrip("-").isdigit() else value
    return ""


def _read(member: Member) -> bytes:
    # Opened anew each time: a few microseconds, and any number of threads may read at once.
    try:
        with member.shard.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror or error}") from None
    if len(data) < member.size:
        raise CorruptError(f"truncated: {len(data):,} of {member.size:,} bytes are there")
    return data
