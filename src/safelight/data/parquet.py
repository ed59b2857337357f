"""Parquet as the Hugging Face hub stores pictures: a column of structs {bytes, path}, and a text or a label beside it.

Needs pyarrow, which comes with the `data` extra. Captions and names are read when the file is opened, pictures by row group
when they are asked for; the last row groups are kept, so a pass in file order reads the file once. Shuffled reading of files
that do not fit in memory reads row groups over and over: keep the pictures in memory, or repack them as a folder or as tars.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import Any

from safelight.data.decode import decode
from safelight.data.extra import need
from safelight.data.source import CorruptError, DataError, Dataset, Example, Skipped, Source, caption_of, missing, unique
from safelight.spec import nearest

# Encoded bytes of row groups that are kept.
KEPT_BYTES = 256 << 20


class ParquetSource(Source, kind="parquet"):
    """Parquet files with pictures in them.

    path:  a file, or a folder whose .parquet files are read in the order of their names.
    split: read only files whose name begins with it ("train-00000-of-00002.parquet"); needed when there are several.
    image: the column of pictures: structs {bytes, path} or plain bytes.
    text:  the caption column; None takes no captions from it.
    label: the column of class numbers, used when captions are missing; names come from the file's Hugging Face metadata.
    """

    path: str
    split: str | None = None
    image: str = "image"
    text: str | None = "text"
    label: str = "label"

    def open(self) -> Dataset:
        return Parquet(_files(Path(self.path).expanduser(), self.split), self.image, self.text, self.label)


class Parquet(Dataset):
    """Opened parquet files. `read` is safe from several threads (one reads a row group at a time)."""

    def __init__(self, files: list[Path], image: str, text: str | None, label: str) -> None:
        pq = need("pyarrow.parquet", "parquet files")
        self._image = image
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, list[Any]] = OrderedDict()
        self._sizes: dict[int, int] = {}
        self._starts: list[int] = []
        self._where: list[tuple[Any, int]] = []
        captions: list[str] = []
        paths: list[str | None] = []
        skipped: list[Skipped] = []
        n = 0
        for path in files:
            try:
                file = pq.ParquetFile(path)
            except Exception as error:  # pyarrow raises its own classes for bad files
                skipped.append(Skipped(path.name, f"not a parquet file: {' '.join(str(error).split())[:100]}"))
                continue
            columns = file.schema_arrow.names
            if image not in columns:
                known = ", ".join(columns)
                raise DataError(
                    f"{path}: no picture column '{image}' (columns: {known}){nearest(image, columns)} Set `image` to it"
                )
            captions += _captions(file, path, text, label)
            paths += _paths(file, image)
            for group in range(file.num_row_groups):
                self._starts.append(n)
                self._where.append((file, group))
                n += file.metadata.row_group(group).num_rows
        if n == 0:
            why = f"{skipped[0].path}: {skipped[0].reason}" if skipped else "they have no rows"
            raise DataError(f"no pictures in {len(files)} parquet file{'s' if len(files) > 1 else ''} ({why})")
        width = max(5, len(str(n - 1)))
        names = [f"{i:0{width}d}" if p is None else Path(p).as_posix() for i, p in enumerate(paths)]
        self.ids = unique(
            [p if q is None else Path(p).with_suffix("").as_posix() for p, q in zip(names, paths, strict=True)], names
        )
        self.captions, self.skipped = captions, skipped

    def read(self, i: int) -> Example:
        return Example(self.ids[i], decode(self._bytes(i)), self.captions[i])

    def _bytes(self, i: int) -> bytes:
        group = bisect_right(self._starts, i) - 1
        with self._lock:
            rows = self._groups.get(group)
            if rows is None:
                rows = self._groups[group] = self._load(group)
                while sum(self._sizes[g] for g in self._groups) > KEPT_BYTES and len(self._groups) > 1:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            value = rows[i - self._starts[group]]
        if value is None:
            raise CorruptError("no bytes in its row (only a path?)")
        return bytes(value)

    def _load(self, group: int) -> list[Any]:
        file, number = self._where[group]
        try:
            column = file.read_row_group(number, columns=[self._image]).column(self._image).to_pylist()
        except Exception as error:
            raise CorruptError(f"its row group cannot be read: {' '.join(str(error).split())[:100]}") from None
        rows = [v.get("bytes") if isinstance(v, dict) else v for v in column]
        self._sizes[group] = sum(len(r) for r in rows if r is not None)
        return rows


def _files(path: Path, split: str | None) -> list[Path]:
    if not path.exists():
        raise missing(path)
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if split is not None:
        files = [f for f in files if f.name.split("-")[0].removesuffix(".parquet") == split or f.parent.name == split]
    if not files:
        raise DataError(f"{path}: no parquet files{f' of split {split!r}' if split else ''}")
    splits = sorted({f.name.split("-")[0] for f in files if "-of-" in f.name})
    if split is None and len(splits) > 1:
        raise DataError(f"{path} holds several splits ({', '.join(splits)}): say which with split='{splits[-1]}'")
    return files


def _captions(file: Any, path: Path, text: str | None, label: str) -> list[str]:
    columns = file.schema_arrow.names
    rows = file.metadata.num_rows
    if text is not None and text in columns:
        return [caption_of({text: v}, text, str(path)) for v in file.read(columns=[text]).column(text).to_pylist()]
    if label in columns:
        names = class_names(file.schema_arrow.metadata, label)
        values = file.read(columns=[label]).column(label).to_pylist()
        return [named(v, names) for v in values]
    if text is not None:
        caption_of(dict.fromkeys(columns), text, str(path))
    return [""] * rows


def named(value: object, names: list[str]) -> str:
    """A class number by its name where it has one; a missing or negative one is no caption."""
    if value is None:
        return ""
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else "" if value < 0 else str(value)
    return str(value)


def class_names(metadata: dict[bytes, bytes] | None, label: str) -> list[str]:
    """The names of a ClassLabel column, as Hugging Face writes them into a parquet file's schema."""
    try:
        info = json.loads((metadata or {})[b"huggingface"])
        return [str(n) for n in info["info"]["features"][label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _paths(file: Any, image: str) -> list[str | None]:
    kind = file.schema_arrow.field(image).type
    fields = [kind.field(i).name for i in range(getattr(kind, "num_fields", 0))]
    if "path" not in fields:
        return [None] * file.metadata.num_rows
    column = file.read(columns=[f"{image}.path"]).column(image).to_pylist()
    return [None if v is None else v.get("path") for v in column]
