"""Text as pictures of one row: folding, splits, the packed Bible's format, and its absence explained; nothing is installed by a test."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch

from safelight.data import DataError, load, text
from safelight.data.text import TextSource
from safelight.spec import build

VERSES = "Ge1:1 In the beginning God created the heaven and the earth.\nGe1:2 And the earth was without form, and void;\n"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAFELIGHT_DATA", raising=False)
    monkeypatch.setattr(text, "PACKAGED", tmp_path / "not-installed")
    monkeypatch.setattr(text.debian, "_install", lambda *_: pytest.fail("a test must not install"))
    return tmp_path


def packed(content: bytes, size: int = 4096) -> bytes:
    """The package's format, written by compress(1)'s rules: one clear code's worth of windows, each a stream of its own."""
    windows = [lzw(content[i : i + size]) for i in range(0, len(content), size)]
    head = 0x5C + 4 * (len(windows) + 1) + 3
    places = [head + sum(map(len, windows[:k])) for k in range(len(windows) + 1)]
    start = b"EC02Compressed Data File".ljust(0x54, b"\0")
    return start + struct.pack(f">II{len(places)}I", size, len(windows), *places) + b"\x1f\x9d\x90" + b"".join(windows)


def lzw(data: bytes) -> bytes:
    """compress(1)'s codes, 9 bits and up, groups of eight filled with zeros where the width changes."""
    table = {bytes([i]): i for i in range(256)}
    free, bits, group, out, word = 257, 9, [], bytearray(), b""

    def flush(width: int) -> None:
        value = sum(code << (k * width) for k, code in enumerate(group))
        out.extend(value.to_bytes(-(-len(group) * width // 8), "little"))
        group.clear()

    for byte in data:
        longer = word + bytes([byte])
        if longer in table:
            word = longer
            continue
        group.append(table[word])
        if len(group) == 8:
            flush(bits)
        if free < 1 << 16:
            table[longer], free = free, free + 1
            if free > 1 << bits and bits < 16:
                if group:
                    group.extend([0] * (8 - len(group)))
                    flush(bits)
                bits += 1
        word = bytes([byte])
    group.append(table[word])
    flush(bits)
    return bytes(out)


def test_windows_are_pictures_of_one_row(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("In the BEGINNING,\n\n God -- (created) 7 heavens: " * 40)
    data = TextSource(path=str(file), length=10).open()
    flat = "".join(text.folded(file.read_text()))
    assert flat.startswith("in the beginning god created heavens in the") and set(flat) <= set(text.LETTERS)
    first = round(0.95 * len(flat))
    assert len(data) == first // 10 and data.array().shape == (first // 10, 1, 10, 1)
    assert data.array().tobytes().decode() == flat[: first // 10 * 10]
    rest = TextSource(path=str(file), length=10, split="test").open()
    assert rest.array().tobytes().decode() == flat[first:][: len(rest) * 10]
    assert not set(data.ids) & set(rest.ids) and data.ids[3] == "train-000003"
    pictures = load(TextSource(path=str(file), length=10), channels=1, size=(1, 10))
    assert (
        pictures.shape == (1, 1, 10) and bytes(pictures.batch(torch.tensor([2]))[0].flatten().tolist()).decode() == flat[20:30]
    )
    plain = TextSource(path=str(file), length=5, fold="none").open()
    assert plain.array()[0].tobytes() == b"In th"


def test_what_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("short")
    with pytest.raises(
        DataError, match="5 characters are fewer than a window's 128|4 characters are fewer than a window's 128"
    ):
        TextSource(path=str(file)).open()
    with pytest.raises(DataError, match=r"no such file or folder: .*b\.txt; did you mean 'a\.txt'"):
        TextSource(path=str(tmp_path / "b.txt")).open()
    file.write_text("εν αρχη " * 40)
    with pytest.raises(DataError, match="'ε' is no character of Latin-1"):
        TextSource(path=str(file), length=5, fold="none").open()
    file.write_bytes(b"\xff\xfe\x00" * 100)
    with pytest.raises(DataError, match="not a text in UTF-8"):
        TextSource(path=str(file), length=5).open()


@pytest.mark.parametrize(
    "content", [VERSES.encode() * 300, bytes(range(256)) * 60, b"a" * 9000], ids=["verses", "bytes", "runs"]
)
def test_compressed_windows_come_back(content):
    """Through every width of code: 9 bits at the start, 12 and more in a window of 60,000 bytes."""
    path = Path("x")
    assert text.unpacked(packed(content, 60_000), path) == content
    assert text.unpacked(packed(content, 1000), path) == content


@pytest.mark.skipif(shutil.which("gzip") is None, reason="the peer is gzip, which reads compress(1)'s files")
def test_codes_are_those_of_compress():
    content = VERSES.encode() * 2000
    done = subprocess.run(["gzip", "-dc"], input=b"\x1f\x9d\x90" + lzw(content), capture_output=True, check=True)
    assert done.stdout == content == text.lzw(lzw(content))
    assert gzip.compress(content)[:2] != b"\x1f\x9d"


def test_places_are_tried_in_order_and_verified(nowhere, monkeypatch):
    assert text.find() is None
    content = ("Holy Bible.\n" + "".join(f"Ge{k}:1 Verse {k}, of clay.\n" for k in range(31_102))).encode()
    (nowhere / "not-installed").write_bytes(packed(content, 65_536))
    assert text.find() == nowhere / "not-installed" and text.fetch() == (nowhere / "not-installed", len(content), 31_102)
    first = TextSource(length=20).open().array()[0].tobytes()
    assert first == b"verse of clay verse "  # neither title nor references
    (nowhere / "data").mkdir()
    (nowhere / "data" / "kjv.txt").write_text("A verse a line.\n" * 31_102)
    assert text.find() == Path("data/kjv.txt") and text.fetch().verses == 31_102
    monkeypatch.setenv("SAFELIGHT_DATA", str(nowhere))
    (nowhere / "kjv.txt").write_text("Too few.\n" * 10)
    with pytest.raises(DataError, match="has 31,102 verses, this has 10"):
        text.fetch()


@pytest.mark.parametrize(("cut", "what"), [(-40, "truncated"), (0x60, "damaged")])
def test_a_damaged_file_is_refused(nowhere, cut, what):
    whole = packed(VERSES.encode() * 300, 4096)
    (nowhere / "not-installed").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=what):
        TextSource().open()


def test_absence_says_what_to_do(nowhere, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for attempt in (text.fetch, lambda: build("text", "source").open()):
        with pytest.raises(DataError, match="apt-get install bible-kjv-text") as caught:
            attempt()
        assert "\n" not in str(caught.value) and "data/kjv.txt" in str(caught.value)
