"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747, MIT licence): 60,000 + 10,000 pictures, 28x28, ten classes.

It is looked for in $SAFELIGHT_DATA (that folder, or `fashion-mnist` in it), in ./data/fashion-mnist, and where Debian's package
puts it. `fetch` installs that package where the system can, and otherwise says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from safelight.data import debian, idx
from safelight.data.source import DataError, Dataset, Source

PACKAGE = "dataset-fashion-mnist"
PACKAGED = Path("/usr/share/datasets/fashion-mnist")
FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))


class FashionMNISTSource(Source, kind="fashion-mnist"):
    """Fashion-MNIST, wherever it is on this machine; captions are the names of its classes.

    split: "train" (60,000) or "test" (10,000).
    path:  a folder with its IDX files; None looks where it is usually put.
    """

    split: Literal["train", "test"] = "train"
    path: str | None = None

    def open(self) -> Dataset:
        folder = find() if self.path is None else Path(self.path)
        if folder is None:
            raise DataError(f"Fashion-MNIST is not on this machine (looked in {', '.join(map(str, places()))}): {remedy()}")
        return idx.IDXSource(path=str(folder), split=self.split, names=idx.FASHION).open()


class Counts(NamedTuple):
    """What a verified folder holds."""

    folder: Path
    train: int
    test: int


def places() -> Iterator[Path]:
    """Where Fashion-MNIST is looked for, in this order."""
    home = os.environ.get("SAFELIGHT_DATA")
    if home:
        yield Path(home).expanduser()
        yield Path(home).expanduser() / "fashion-mnist"
    yield Path("data") / "fashion-mnist"
    yield PACKAGED


def find() -> Path | None:
    """The first place that holds the four files (gzipped or not), or None."""
    for folder in places():
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in FILES):
            return folder
    return None


def verify(folder: Path) -> Counts:
    """Read all of it: magic numbers, shapes, and the same number of every class. (Not hashes of the files: packagers compress
    them anew.) Raises DataError naming what is wrong."""
    found = {}
    for split, n in (("train", 60_000), ("test", 10_000)):
        pictures, labels = idx.find(folder, split)
        images = idx.read_idx(pictures)
        if images.shape != (n, 28, 28):
            raise DataError(f"{pictures}: Fashion-MNIST has {(n, 28, 28)}, this is {images.shape}")
        if labels is None:
            raise DataError(f"{folder}: the labels of split '{split}' are missing")
        counts = np.bincount(idx.read_idx(labels).reshape(-1), minlength=10)
        if counts.tolist() != [n // 10] * 10:
            raise DataError(f"{labels}: Fashion-MNIST has {n // 10:,} pictures of each class, this has {counts.tolist()}")
        found[split] = n
    return Counts(folder, found["train"], found["test"])


def fetch(say: Callable[[str], None] = print) -> Counts:
    """Find Fashion-MNIST, or install Debian's package when this system can, and verify it.

    say: is told, in one line each, what is done. Raises DataError that says exactly what to do when it cannot be had.
    """
    return verify(debian.fetched(find, PACKAGE, f"its files are not in {PACKAGED}", "30 MB", "Fashion-MNIST", remedy(), say))


def remedy() -> str:
    """What a person does to get it."""
    return (
        f"on Debian or Ubuntu run `sudo apt-get install {PACKAGE}`; elsewhere put the four files "
        f"{', '.join(f'{name}.gz' for name in FILES)} of the original project (github.com/zalandoresearch/fashion-mnist) into "
        "data/fashion-mnist; or read it from the hub: pip install 'safelight[data]' and the source "
        "{kind: hub, name: zalando-datasets/fashion_mnist}"
    )
