"""IDX: the format of MNIST and its relatives, gzipped or not (LeCun, Cortes and Burges, "The MNIST database", 1998).

A file is: two zero bytes, a type (0x08 = unsigned byte), the number of dimensions d, d sizes as big-endian 32-bit integers, the
data in C order. Pictures are (N, H, W) or (N, H, W, C), labels (N,).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from safelight.data.source import DataError, Dataset, Example, Pixels, Source, missing

# The ten classes of Fashion-MNIST in the order of its labels (Xiao, Rasul and Vollgraf 2017, table 2, shortened).
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

# CRC-32 of the labels of its two splits: how it is known when its folder has another name.
_FASHION_LABELS = (785835114, 606848831)


class IDXSource(Source, kind="idx"):
    """A pair of IDX files.

    path:  the folder that holds them, or the file of pictures itself.
    split: "train" (files named `*train-images*`) or "test" (`*t10k-images*`, `*test-images*`).
    names: captions of labels 0, 1, ...; None means Fashion-MNIST's when it is Fashion-MNIST (its labels, or "fashion" in the
           path), else the digits of the label. () means no captions.
    """

    path: str
    split: Literal["train", "test"] = "train"
    names: tuple[str, ...] | None = None

    def open(self) -> Dataset:
        pictures, labels = find(self.path, self.split)
        images = read_idx(pictures)
        if images.ndim not in (3, 4):
            raise DataError(f"{pictures}: pictures are (N, H, W) or (N, H, W, C), this is {images.shape}")
        images = images[..., None] if images.ndim == 3 else images
        if images.shape[3] not in (1, 3):
            raise DataError(f"{pictures}: pictures have 1 or 3 channels, these have {images.shape[3]}")
        if 0 in images.shape:
            raise DataError(f"{pictures}: no pictures in it (its shape is {images.shape})")
        names = self.names
        if labels is None:
            return Stack(images, [""] * len(images))
        marks = read_idx(labels)
        if marks.ndim != 1:
            raise DataError(f"{labels}: labels are (N,), this is {marks.shape}")
        if len(marks) != len(images):
            raise DataError(
                f"{labels}: {len(marks):,} labels for {len(images):,} pictures in {pictures.name}: one of the two is wrong"
            )
        if names is None:
            names = FASHION if is_fashion(pictures, marks) else tuple(str(i) for i in range(int(marks.max()) + 1))
        if not names:
            return Stack(images, [""] * len(images))
        if int(marks.max()) >= len(names):
            raise DataError(f"{labels}: label {int(marks.max())} has no name ({len(names)} names are given)")
        return Stack(images, [names[m] for m in marks])


class Stack(Dataset):
    """Pictures that lie in memory as one uint8 array (N, H, W, C). Ids are the row numbers, five digits or more."""

    def __init__(self, images: Pixels, captions: Sequence[str], ids: Sequence[str] | None = None) -> None:
        self._images = images
        self.captions = list(captions)
        width = max(5, len(str(len(images) - 1)))
        self.ids = [f"{i:0{width}d}" for i in range(len(images))] if ids is None else list(ids)

    def read(self, i: int) -> Example:
        return Example(self.ids[i], self._images[i], self.captions[i])

    def array(self) -> Pixels:
        return self._images


def read_idx(path: Path) -> Pixels:
    """The array in an IDX file of unsigned bytes. Raises DataError naming what is wrong with it."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or not 1 <= data[3] <= 4:
        raise DataError(f"{path}: not an IDX file: it begins with {data[:4].hex(' ') or 'nothing'}, not 00 00 08 and 01..04")
    if data[2] != 0x08:
        raise DataError(f"{path}: IDX of unsigned bytes (type 08) is wanted, this is type {data[2]:02x}")
    dims = data[3]
    if len(data) < 4 + 4 * dims:
        raise DataError(f"{path}: truncated in its header")
    shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
    want, have = int(np.prod(shape, dtype=np.float64)), len(data) - 4 - 4 * dims
    if want != have:
        fault = "truncated" if have < want else "too long"
        raise DataError(f"{path}: {fault}: shape {shape} needs {want:,} bytes of data, it has {have:,}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def is_fashion(path: Path, labels: Pixels) -> bool:
    """Whether these are Fashion-MNIST's labels: by their CRC-32, or because a folder of the path is called so."""
    return zlib.crc32(np.ascontiguousarray(labels).data) in _FASHION_LABELS or "fashion" in str(path.absolute()).lower()


def find(path: str | Path, split: str) -> tuple[Path, Path | None]:
    """The files of pictures and of labels (None when there are none) of a split. Raises DataError when not found."""
    root = Path(path).expanduser()
    if root.is_file():
        twin = root.with_name(root.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1"))
        return root, _either(twin) if "images" in root.name else None
    if not root.is_dir():
        raise missing(root)
    files = sorted(f for f in root.iterdir() if f.is_file() and is_idx_name(f.name))
    names = {"train": ("train",), "test": ("t10k", "test")}[split]
    pictures = [f for f in files if "images" in f.name and any(n in f.name for n in names)]
    if not pictures:
        there = ", ".join(f.name for f in files) or "no IDX files"
        raise DataError(f"{root}: no pictures of split '{split}' ({names[0]}-images-idx3-ubyte, .gz or not); it holds {there}")
    twin = pictures[0].with_name(pictures[0].name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1"))
    return pictures[0], _either(twin)


def is_idx_name(name: str) -> bool:
    """Whether a file's name is one of an IDX file: `...-ubyte` or `.idx`, gzipped or not."""
    stem = name.removesuffix(".gz")
    return stem.endswith(("-ubyte", ".idx", "idx1", "idx3", "idx4"))


def _either(twin: Path) -> Path | None:
    other = twin.with_name(twin.name.removesuffix(".gz") if twin.name.endswith(".gz") else twin.name + ".gz")
    return twin if twin.is_file() else other if other.is_file() else None
