"""Text as data: windows of characters, each a picture of one row whose bytes are its characters.

So reading, order, resuming and held-out losses are those of pictures. The text that the recipes use is the King James Bible (1611, in
the public domain), as Debian's package holds it; it is looked for in $SAFELIGHT_DATA and ./data, as `bible.data` or plain
`kjv.txt`, and where the package puts it. `fetch` installs the package where the system can, and otherwise says what to do.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from safelight.data import debian
from safelight.data.idx import Stack
from safelight.data.source import DataError, Dataset, Source, missing

PACKAGE = "bible-kjv-text"
PACKAGED = Path("/usr/lib/bible.data")
FILES = ("bible.data", "kjv.txt")
# What text with fold `letters` is made of; text8's alphabet (Mahoney 2011).
LETTERS = " abcdefghijklmnopqrstuvwxyz"
# The share at the end of the text that is the test split.
TEST = 0.05

_VERSE = re.compile(r"^\w+:\d+ (.*)$", re.MULTILINE)
_MAGIC = b"EC02Compressed Data File"
_WINDOWS = 0x54  # where the packed file says how large its windows are and how many
_CLEAR = 256
_MOST_BITS = 16


class TextSource(Source, kind="text"):
    """A text, cut into windows that do not overlap.

    path: a file of UTF-8 text; None looks for the King James Bible where it is usually put.
    length: characters of a window. split: the first 95% of the text, or the rest of it.
    fold: `letters` makes everything lower-case and every run of other characters one blank, so that 27 characters are left, as in
    text8; `none` keeps the characters. Either way one is a byte: characters beyond Latin-1 are refused.
    """

    path: str | None = None
    split: Literal["train", "test"] = "train"
    length: int = Field(128, ge=1)
    fold: Literal["letters", "none"] = "letters"

    def open(self) -> Dataset:
        text = folded(read(self.path)) if self.fold == "letters" else read(self.path)
        first = round(len(text) * (1 - TEST))
        part = text[:first] if self.split == "train" else text[first:]
        count = len(part) // self.length
        if not count:
            raise DataError(f"text: {len(part):,} characters are fewer than a window's {self.length}; set length lower")
        try:
            characters = np.frombuffer(part[: count * self.length].encode("latin-1"), np.uint8)
        except UnicodeEncodeError as error:
            raise DataError(f"text: '{part[error.start]}' is no character of Latin-1, and a token is a byte here") from None
        ids = [f"{self.split}-{i:06d}" for i in range(count)]
        return Stack(characters.reshape(count, 1, self.length, 1), [""] * count, ids)


def read(path: str | None) -> str:
    """The text of a file, or of the King James Bible without its references ("Ge1:1"). Raises DataError when it is not there."""
    if path is None:
        found = find()
        if found is None:
            raise DataError(
                f"the King James Bible is not on this machine (looked for {', '.join(map(str, places()))}): {remedy()}"
            )
        text = _opened(found)
        return "\n".join(_VERSE.findall(text)) or text
    file = Path(path).expanduser()
    if not file.is_file():
        raise missing(file)
    return _opened(file)


def folded(text: str) -> str:
    """Lower-case letters a-z and single blanks, nothing else."""
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()


def places() -> Iterator[Path]:
    """Where the King James Bible is looked for, in this order."""
    home = os.environ.get("SAFELIGHT_DATA")
    for folder in ([Path(home).expanduser()] if home else []) + [Path("data")]:
        for name in FILES:
            yield folder / name
    yield PACKAGED


def find() -> Path | None:
    """The first place where it is, or None."""
    return next((path for path in places() if path.is_file()), None)


class Counts(NamedTuple):
    """What a verified text holds."""

    path: Path
    characters: int
    verses: int


def verify(path: Path) -> Counts:
    """Read all of it. Raises DataError for a text of another size: it has 31,102 verses."""
    text = _opened(path)
    verses = len(_VERSE.findall(text)) or text.count("\n")
    if not 31_000 < verses < 31_200:
        raise DataError(f"{path}: the King James Bible has 31,102 verses, this has {verses:,}")
    return Counts(path, len(text), verses)


def fetch(say: Callable[[str], None] = print) -> Counts:
    """Find the King James Bible, or install Debian's package of it when this system can, and verify it.

    say: is told, in one line each, what is done. Raises DataError that says exactly what to do when it cannot be had.
    """
    return verify(debian.fetched(find, PACKAGE, f"{PACKAGED} is not there", "2 MB", "the King James Bible", remedy(), say))


def remedy() -> str:
    """What a person does to get it."""
    return (
        f"on Debian or Ubuntu run `sudo apt-get install {PACKAGE}`; elsewhere put a plain text of it, a verse a line, into data/kjv.txt; "
        "or train on another text with --set data.path=FILE held_out_data.path=FILE"
    )


def _opened(path: Path) -> str:
    try:
        return _decoded(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


@lru_cache(maxsize=2)
def _decoded(path: Path, stamp: int) -> str:
    """The text of a file as it was at `stamp`: both splits of a run are read from one unpacking."""
    try:
        data = path.read_bytes()
        return unpacked(data, path).decode("latin-1") if data.startswith(_MAGIC) else data.decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text in UTF-8") from None


def unpacked(data: bytes, path: Path) -> bytes:
    """What a "Compressed Data File" (Chapin 1989) holds: windows of compress(1)'s codes, each begun anew.

    The header: at byte 84 the size of a window and their number n, then n + 1 places in the file, big-endian 32-bit integers.
    Raises DataError for a damaged one.
    """
    try:
        size, count = struct.unpack_from(">II", data, _WINDOWS)
        places = struct.unpack_from(f">{count + 1}I", data, _WINDOWS + 8)
        parts = [lzw(data[a:b]) for a, b in zip(places, places[1:], strict=False)]
    except (struct.error, IndexError):
        raise DataError(f"{path}: damaged") from None
    if places[-1] != len(data) or any(len(part) != size for part in parts[:-1]):
        raise DataError(f"{path}: truncated")
    return b"".join(parts)


def lzw(data: bytes) -> bytes:
    """The bytes behind codes of compress(1) in block mode (Welch 1984): 9 to 16 bits, least significant first, in groups of eight.

    Raises IndexError for codes that no encoder writes.
    """
    table = [bytes([i]) for i in range(256)] + [b""]
    found: list[bytes] = []
    bits, place, group = 9, 0, 0  # place: of the next code, in bits; group: where its width began
    before = b""
    while place + bits <= 8 * len(data):
        first = place >> 3
        code = (int.from_bytes(data[first : first + 4], "little") >> (place & 7)) & ((1 << bits) - 1)
        place += bits
        width = bits
        if code == _CLEAR:
            del table[_CLEAR + 1 :]
            width, before = 9, b""
        else:
            if before:
                whole = table[code] if code < len(table) else before + before[:1]
                if len(table) < 1 << _MOST_BITS:
                    table.append(before + whole[:1])
                if len(table) >= 1 << bits:
                    width = min(bits + 1, _MOST_BITS)
            else:
                whole = table[code]
            found.append(whole)
            before = whole
        if width != bits or code == _CLEAR:
            # The encoder fills the group of eight codes up before it changes their width.
            place = group + -(-(place - group) // (8 * bits)) * 8 * bits
            group, bits = place, width
    return b"".join(found)
