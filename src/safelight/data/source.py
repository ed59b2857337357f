"""Source: where pictures come from, described; Dataset: the same, opened.

A Source is a frozen record (`{"kind": "folder", "path": "pets"}`), `open()` makes it a Dataset: so many distinct
pictures, each with an id and a caption, any of which can be read at any time. All kinds give the same pixels and captions
for the same content, so a folder may be packed into tars or parquet without changing what a model learns.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safelight.spec import Spec, SpecError, nearest

Pixels = NDArray[np.uint8]

# Names under which other tools keep a caption, in the order in which they are proposed (never silently taken).
CAPTION_NAMES = ("text", "caption", "captions", "prompt", "description", "label")


class DataError(SpecError):
    """Data that cannot be used: one line that says what, where and how to mend it."""


class CorruptError(DataError):
    """One picture that cannot be read. Its text is the reason, without the picture's name."""


class Example(NamedTuple):
    """One picture as stored: `image` is uint8 (H, W, C), C = 1 (grey) or 3 (RGB); `caption` is "" when there is none."""

    id: str
    image: Pixels
    caption: str


class Skipped(NamedTuple):
    """A file that is not used, and why.

    lost:  it was meant as data (a picture, a caption), so leaving it out loses something.
    meant: the name it was probably meant to have, when its name is a near miss.
    """

    path: str
    reason: str
    lost: bool = True
    meant: str = ""


class Dataset(ABC):
    """Distinct pictures, opened: `len(d)`, `d.ids`, `d.captions`, `d.read(i)`.

    ids:      unique names, stable under re-opening; a relative path without its suffix where the format has paths.
    captions: one a picture, "" where there is none.
    repeats:  how often an epoch visits each picture; None means once each (kohya folders say otherwise).
    skipped:  files found and left out while opening, with the reason.
    `read` may be called from several threads at once.
    """

    ids: Sequence[str]
    captions: Sequence[str]
    repeats: Sequence[int] | None = None
    skipped: Sequence[Skipped] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def read(self, i: int) -> Example:
        """Picture i, decoded. Raises CorruptError with the reason when it cannot be."""

    def probe(self, i: int) -> None:
        """A cheap look at picture i (its header). Raises CorruptError when it is visibly broken; passing proves little."""
        return

    def name(self, i: int) -> str:
        """What to call picture i in a report: its file's name where it has one, else its id."""
        return self.ids[i]

    def array(self) -> Pixels | None:
        """All pictures as one uint8 array (N, H, W, C), where the format stores them so; else None."""
        return None


class Source(Spec, family="source"):
    """Where pictures come from. One kind a format; `detect` finds the kind for a path."""

    def open(self) -> Dataset:
        """The pictures behind this description. Raises DataError in one line when there are none."""
        raise NotImplementedError(f"{type(self).__name__} does not open")


def missing(path: Path) -> DataError:
    """The error for a path that is not there, with the nearest name that is."""
    try:
        hint = nearest(path.name, [p.name for p in path.parent.iterdir()])
    except OSError:
        hint = ""
    return DataError(f"no such file or folder: {path}{hint}")


def digest(image: Pixels) -> bytes:
    """16 bytes that are equal exactly when two pictures are (shape and pixels); the key of duplicates and of splits."""
    h = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    h.update(np.ascontiguousarray(image).data)
    return h.digest()


def unique(stems: Sequence[str], full: Sequence[str]) -> list[str]:
    """Ids: the stem where it is the only one of its name, else the full name (`a.png` and `a.jpg` side by side)."""
    count = Counter(stems)
    ids = [stem if count[stem] == 1 else name for stem, name in zip(stems, full, strict=True)]
    seen: Counter[str] = Counter()
    for i, name in enumerate(ids):
        seen[name] += 1
        if seen[name] > 1:
            ids[i] = f"{name}#{seen[name]}"
    return ids


def caption_of(row: Mapping[str, Any], column: str | None, where: str) -> str:
    """The caption in a row: text, or the first of a list of texts; "" when the column is absent or empty.

    Raises DataError when the column is absent but another known caption column is there, since going on would train
    without captions and say nothing.
    """
    if column is None:
        return ""
    if column not in row:
        missing_column(row, column, where)
        return ""
    value = row[column]
    if isinstance(value, list | tuple):
        value = value[0] if value else ""
    return "" if value is None else str(value).strip()


def missing_column(columns: Iterable[str], column: str, where: str) -> None:
    """Raise DataError when `column` is absent and something among `columns` looks like the captions that were meant."""
    columns = list(columns)
    meant = next((name for name in CAPTION_NAMES if name in columns), None)
    hint = f"; did you mean '{meant}'?" if meant else nearest(column, columns)
    if hint:
        known = ", ".join(columns)
        raise DataError(f"{where}: no caption column '{column}' (columns: {known}){hint} Set `text` to it, or to null for none")
