"""A folder of pictures, in every way in which people lay one out.

The caption of a picture is the first of these that exists: its row in a `metadata.jsonl` or `metadata.csv` of its folder or
of one above (`file_name` relative to that file), a text file beside it with its name (`.txt`, `.caption`), the name of its
kohya folder (`<repeats>_<name>`), the name of its class folder (a folder below the root whose pictures have no captions of
their own). A picture with none of them has the caption "", which is the null caption.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safelight.data.decode import SUFFIXES, decode, is_picture
from safelight.data.decode import probe as probe_header
from safelight.data.source import CorruptError, DataError, Dataset, Example, Skipped, Source, caption_of, missing, unique
from safelight.spec import nearest

METADATA = ("metadata.jsonl", "metadata.csv")
SIDECARS = (".txt", ".caption")
# Names of folders that are parts of a data set, not classes of pictures.
SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")
# Pictures all the same: a telephone's, a camera's, a painter's. What nobody tells their owner is lost without a word.
_UNREAD = (".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".tga", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw")
_KOHYA = re.compile(r"^(\d+)_(.+)$")
# Files that every computer leaves behind; nobody misses them.
_LITTER = ("thumbs.db", "desktop.ini", "__macosx")


class FolderSource(Source, kind="folder"):
    """A folder of pictures: flat, class folders, metadata, texts beside the pictures, or kohya folders.

    path:    the folder; folders inside are read too, names that begin with a dot are not.
    split:   a folder inside it that is read instead ("train"); needed when it holds several splits and nothing else.
    text:    the caption column of the metadata; None takes no captions from it.
    classes: whether a folder's name is a caption; None means: where there are several folders and its pictures have no other
             captions.
    """

    path: str
    split: str | None = None
    text: str | None = "text"
    classes: bool | None = None

    def open(self) -> Dataset:
        root = Path(self.path).expanduser()
        if not root.exists():
            raise missing(root)
        if not root.is_dir():
            raise DataError(f"not a folder: {root}")
        if self.split is not None:
            if not (root / self.split).is_dir():
                raise missing(root / self.split)
            root = root / self.split
        return Folder(root, self.text, self.classes)


class Folder(Dataset):
    """A folder, listed: names and captions are known, pictures are decoded when read."""

    def __init__(self, root: Path, text: str | None, classes: bool | None) -> None:
        self.root = root
        pictures, tables, notes, skipped = _list(root)
        if not pictures:
            raise DataError(f"{root}: no pictures in it ({_why_none(skipped, notes)})")
        _refuse_splits(root, pictures)
        captions, helpers, more = _tables(root, tables, text, {p.as_posix() for p in pictures})
        pictures = [p for p in pictures if p.as_posix() not in helpers]
        skipped += more
        sidecars = {p.as_posix(): p for p in notes}
        self.files = pictures
        self.ids = unique([p.with_suffix("").as_posix() for p in pictures], [p.as_posix() for p in pictures])
        written: list[str | None] = []
        for picture in pictures:
            caption = captions.get(picture.as_posix())
            for suffix in SIDECARS:
                note = sidecars.pop(picture.with_suffix(suffix).as_posix(), None)
                if caption is None and note is not None:
                    caption = _read_text(root / note)
            written.append(caption)
        captioned = {p.parent for p, caption in zip(pictures, written, strict=True) if caption is not None}
        folders = {p.parent for p in pictures}
        if classes is None and len(folders) == 1:
            captioned |= folders  # one folder tells nothing apart: it is where the pictures lie, not what they show
        by_name = {folder: _folder_caption(folder, classes, folder in captioned) for folder in folders}
        self.captions = [by_name[p.parent] if c is None else c for p, c in zip(pictures, written, strict=True)]
        kohya = [_KOHYA.match(p.parent.name) for p in pictures]
        repeats = [int(m[1]) if m else 1 for m in kohya]
        keep = [i for i, n in enumerate(repeats) if n > 0]
        if len(keep) < len(pictures):  # "0_name" is how kohya's users switch a folder off
            skipped += [
                Skipped(str(pictures[i]), "its folder says 0 repeats", lost=False) for i, n in enumerate(repeats) if n == 0
            ]
            self.files = [self.files[i] for i in keep]
            self.ids, self.captions = [self.ids[i] for i in keep], [self.captions[i] for i in keep]
            repeats = [repeats[i] for i in keep]
        self.repeats = repeats if any(n != 1 for n in repeats) else None
        stray = [
            Skipped(name, "a caption without a picture of its name") for name in sidecars if Path(name).suffix == ".caption"
        ]
        stray += [
            Skipped(name, "a text without a picture of its name", lost=False) for name in sidecars if name.endswith(".txt")
        ]
        self.skipped = sorted(skipped + stray)

    def read(self, i: int) -> Example:
        return Example(self.ids[i], decode(self._bytes(i)), self.captions[i])

    def probe(self, i: int) -> None:
        try:
            with (self.root / self.files[i]).open("rb") as file:
                probe_header(file)
        except OSError as error:
            raise CorruptError(f"cannot be read: {error.strerror or error}") from None

    def name(self, i: int) -> str:
        return str(self.files[i])

    def _bytes(self, i: int) -> bytes:
        try:
            return (self.root / self.files[i]).read_bytes()
        except OSError as error:
            raise CorruptError(f"cannot be read: {error.strerror or error}") from None


def _list(root: Path) -> tuple[list[Path], list[Path], list[Path], list[Skipped]]:
    """Pictures, metadata tables, texts (paths below root, sorted), and what else there is with why it is not used."""
    pictures: list[Path] = []
    tables: list[Path] = []
    notes: list[Path] = []
    skipped: list[Skipped] = []
    walked: set[str] = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in walked:  # a link back up, or a second way to the same folder
            inside.clear()
            skipped.append(Skipped(os.path.relpath(folder, root), "a link to a folder that is read already", lost=False))
            continue
        walked.add(real)
        inside[:] = sorted(d for d in inside if not d.startswith(".") and d.lower() not in _LITTER)
        for name in sorted(files):
            if name.startswith(".") or name.lower() in _LITTER:
                continue
            path = (Path(folder) / name).relative_to(root)
            suffix = path.suffix.lower()
            if is_picture(name):
                pictures.append(path)
            elif name in METADATA:
                tables.append(path)
            elif suffix in SIDECARS:
                notes.append(path)
            else:
                skipped.append(_unused(path))
    return sorted(pictures), tables, notes, skipped


def _unused(path: Path) -> Skipped:
    """Why a file is not used, with the name it was probably meant to have."""
    name, suffix = path.name.lower(), path.suffix.lower()
    meant = _close(name, METADATA, 0.8) or (
        "metadata.jsonl" if suffix in (".json", ".ndjson") and path.stem == "metadata" else ""
    )
    if meant and suffix not in (".md", ".pdf"):
        return Skipped(str(path), f"not read as captions; did you mean {meant}?", meant=meant)
    if suffix in _UNREAD:
        return Skipped(str(path), f"a picture, but {suffix} is not read here: convert it to .png or .jpg")
    meant = _close(suffix, SUFFIXES, 0.75) if suffix else ""
    if meant:
        return Skipped(str(path), f"no picture suffix is {suffix}; did you mean {meant}?", meant=path.stem + meant)
    return Skipped(str(path), f"not a picture ({suffix or 'no suffix'})", lost=False)


def _close(name: str, names: Sequence[str], cutoff: float) -> str:
    """The one of `names` that is a slip away: a letter wrong, missing, doubled or swapped."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=cutoff)), "")


def _tables(
    root: Path, tables: Sequence[Path], text: str | None, there: set[str]
) -> tuple[dict[str, str], set[str], list[Skipped]]:
    """From all metadata files: captions by picture's path, pictures that only other columns name (a `mask`, a
    `conditioning_image`: they belong to a picture and are none to train on), and what is not used."""
    captions: dict[str, str] = {}
    named: set[str] = set()
    helpers: dict[str, str] = {}
    skipped: list[Skipped] = []
    for table in tables:
        rows = False
        for line, row in _rows(root / table):
            where = f"{table}:{line}"
            if isinstance(row, str):
                skipped.append(Skipped(where, row))
                continue
            name = row.get("file_name")
            if rows and not (isinstance(name, str) and name):
                skipped.append(Skipped(where, "a row without 'file_name'"))
                continue
            if not isinstance(name, str) or not name:  # the first row: the column has another name
                hint = nearest("file_name", row)
                raise DataError(f"{root / table}:{line}: a row needs 'file_name' (columns: {', '.join(map(str, row))}){hint}")
            rows = True
            picture = _beside(table, name)
            named.add(picture)
            for column, value in row.items():
                if column not in ("file_name", text) and isinstance(value, str) and is_picture(value):
                    helpers.setdefault(_beside(table, value), f"belongs to another picture: column '{column}' of {table}")
            if picture not in there:
                skipped.append(Skipped(where, f"names {name}, which is not there"))
                continue
            if text is not None:
                caption = caption_of(row, text, f"{root / table}:{line}")
                if text in row:
                    captions[picture] = caption
    helpers = {path: why for path, why in helpers.items() if path in there and path not in named}
    skipped += [Skipped(path, why, lost=False) for path, why in helpers.items()]
    return captions, set(helpers), skipped


def _beside(table: Path, name: str) -> str:
    """The path below the root of a file that a table names relative to itself."""
    return os.path.normpath((table.parent / name).as_posix()).replace(os.sep, "/")


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, row or the reason why it is none) of a metadata file."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    yield reader.line_num, {k: v for k, v in row.items() if k is not None}
                return
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    yield number, f"not JSON: {error.msg} at column {error.colno}"
                    continue
                yield number, value if isinstance(value, dict) else "not a JSON object"
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a UTF-8 table: {' '.join(str(error).split())}") from None


def _read_text(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8-sig", errors="replace").split())


def _folder_caption(folder: Path, classes: bool | None, captioned: bool) -> str:
    """What a folder's name says about its pictures."""
    name = folder.name
    if name == "" or classes is False:
        return ""
    kohya = _KOHYA.match(name)
    if kohya:
        return kohya[2]
    if classes is None and (captioned or name.lower() in SPLITS):
        return ""
    return name


def _refuse_splits(root: Path, pictures: Sequence[Path]) -> None:
    """Training on train and test at once is a silent mistake: refuse a folder of several splits."""
    tops = sorted({p.parts[0] for p in pictures if len(p.parts) > 1})
    if len(tops) > 1 and all(t.lower() in SPLITS for t in tops) and all(len(p.parts) > 1 for p in pictures):
        raise DataError(f"{root} holds several splits ({', '.join(tops)}): say which with split='{tops[-1]}'")


def _why_none(skipped: Sequence[Skipped], notes: Sequence[Path]) -> str:
    if skipped:
        first = skipped[0]
        return f"{len(skipped)} other file{'s' if len(skipped) > 1 else ''}, such as {first.path}: {first.reason}"
    return f"only texts, such as {notes[0]}" if notes else "it is empty"
