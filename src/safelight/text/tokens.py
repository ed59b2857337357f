"""CLIP's tokenizer: byte-level byte-pair encoding, in our own code, over any list of merges.

Radford et al. 2021, "Learning transferable visual models from natural language supervision", section 2.4; the merging itself is
Sennrich et al. 2016, "Neural machine translation of rare words with subword units", algorithm 1. Ids are laid out as CLIP's
are: 256 bytes, the same 256 bytes at a word's end, one id a merge in order of rank, `begin`, `end`; a model that numbers its
symbols otherwise says how. Every text has an encoding, because every byte has.

`begin` and `end` cannot be written in a prompt: the text "<|endoftext|>" is read as its characters. (CLIP's own tokenizer would
end the prompt there; a prompt is data here.)
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from safelight.spec import SpecError, nearest

END_OF_WORD = "</w>"
FULL = "clip"  # the name of the published vocabulary, whole
SHIPPED = ("clip", "clip-vocabulary")
PUBLISHED = 48_894  # merges in CLIP's vocabulary of 49,408; the published list goes on beyond them
CONTRACTIONS = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")
REMEMBERED = 50_000  # words whose encoding is kept
LARGEST = 50_000_000  # bytes of a vocabulary; the largest published ones have 20 MB
_MEMORY = 200_000_000  # of the decompressor
# What `words` does, for the commonest texts; ten times as fast.
_ASCII_WORDS = re.compile(r"'(?:re|ve|ll|s|t|m|d)|[a-z]+|[0-9]|[^\sa-z0-9]+", re.ASCII)


def alphabet() -> list[str]:
    """A printable character for each byte, indexed by the byte: itself where it prints, else U+0100 and on.

    The convention of GPT-2's byte-level vocabulary (Radford et al. 2019, section 2.2), which CLIP shares.
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(0x100, 0x200))
    return [chr(b) if b in plain else chr(next(rest)) for b in range(256)]


def clean(text: str) -> str:
    """The text as the tokenizer sees it: Unicode form C, each run of white space one space, none at the ends, lower case."""
    text = " ".join(_spaces(unicodedata.normalize("NFC", text)).split(" "))
    # one character at a time, as CLIP's published fast tokenizer does: no context rule turns a final sigma into its other form
    return "".join(c.lower() for c in text).strip(" ")


def words(text: str) -> list[str]:
    """A cleaned text in the pieces within which merging happens.

    A contraction's ending ('s 't 're 've 'm 'll 'd), a run of letters, one digit or other number, or a run of anything else
    that is not white space; tried in this order at each place.
    """
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    out: list[str] = []
    i, n = 0, len(text)
    while i < n:
        ending = next((c for c in CONTRACTIONS if text.startswith(c, i)), None)
        if ending:
            j = i + len(ending)
        else:
            sort = _sort(text[i])
            j = i + 1
            if sort == " ":
                i = j
                continue
            if sort != "N":
                while j < n and _sort(text[j]) == sort:
                    j += 1
        out.append(text[i:j])
        i = j
    return out


class Tokenizer:
    """Text <-> ids over `merges`, pairs of symbols in order of rank. Raises SpecError when a merge's parts are unknown.

    begin, end: the ids that open and close a prompt. size: the number of ids. `tokens[id]` is an id's symbol; given, it lists them all
    in the order of the ids, `begin` and `end` among them, and a symbol that is missing there is read as `end`. extra: names that stand
    for ids of their own, of any number, where they are written as a word of their own: what was learned for them (textual inversion).
    """

    extra: dict[str, tuple[int, ...]]

    def __init__(
        self,
        merges: Iterable[tuple[str, str]],
        tokens: Sequence[str] | None = None,
        begin: str = "<|startoftext|>",
        end: str = "<|endoftext|>",
    ) -> None:
        letters = alphabet()
        plain = sorted(letters, key=lambda c: (ord(c) >= 0x100, ord(c)))  # CLIP's order: bytes that print come first
        self.merges = [(a, b) for a, b in merges]
        usual = [*plain, *(c + END_OF_WORD for c in plain), *(a + b for a, b in self.merges), begin, end]
        self.tokens = usual if tokens is None else list(tokens)
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if self.ids[t] != i)
            raise SpecError(f"vocabulary: the symbol {twice!r} comes about twice: remove one of its merges")
        known = set(usual)
        for a, b in self.merges:
            if a not in known or b not in known:
                raise SpecError(f"vocabulary: the merge {a!r} + {b!r} needs a symbol that no byte and no merge gives")
        for special in (begin, end):
            if special not in self.ids:
                raise SpecError(f"vocabulary: it lacks {special!r}, which every text needs")
        self.size = len(self.tokens)
        self.begin, self.end = self.ids[begin], self.ids[end]
        self.usual = tokens is None or self.tokens == usual
        self._rank = {pair: i for i, pair in enumerate(self.merges)}
        self._letter = letters
        self._byte = {c: b for b, c in enumerate(letters)}
        self._seen: dict[str, tuple[int, ...]] = {}
        self.extra = {}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without `begin` and `end`. Of any length; nothing is dropped.

        Raises SpecError for half of a character (a lone surrogate, as undecodable bytes of a command line arrive), which has no bytes.
        """
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise SpecError("prompt: it holds half of a character (a lone surrogate), which is no text: write it in UTF-8")
        return [
            i for part, ids in self.named(text) for i in (ids or (j for word in words(clean(part)) for j in self._word(word)))
        ]

    def named(self, text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The text in pieces: names of `extra` with their ids, the longest where several fit, and what lies between them with none."""
        if not self.extra:
            yield text, ()
            return
        edges = [(r"(?<!\w)" if n[:1].isalnum() else "", n, r"(?!\w)" if n[-1:].isalnum() else "") for n in self.extra]
        names = "|".join(f"{a}{re.escape(n)}{b}" for a, n, b in sorted(edges, key=lambda e: len(e[1]), reverse=True))
        at = 0
        for found in re.finditer(names, text):
            yield text[at : found.start()], ()
            yield found[0], self.extra[found[0]]
            at = found.end()
        yield text[at:], ()

    def symbol(self, id: int) -> str:
        """The symbol of an id; for the first of a name's the name, as a word, and for its others the end of one."""
        if id < self.size and not self.extra:
            return self.tokens[id]
        name = next((name for name, ids in self.extra.items() if id == ids[0]), None)
        if name is not None:
            return "".join(self._letter[b] for b in name.encode("utf-8")) + END_OF_WORD
        return self.tokens[id] if id < self.size else END_OF_WORD

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: cleaned as `clean` does, words parted by one space. `begin` and `end` give nothing.

        Bytes that are not whole characters (a cut through an emoji) show as U+FFFD.
        """
        return "".join(self._piece(i, " ") for i in self._whole(ids)).strip(" ")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each id's own text, for showing a prompt in its tokens; part of a character shows as U+FFFD."""
        return [self.tokens[i] if i in (self.begin, self.end) else self._piece((i,), "") for i in ids]

    def spans(self, ids: Sequence[int], room: int) -> list[slice]:
        """Cuts `ids` into runs of at most `room`, one run a window; together they are all of `ids`.

        A cut falls behind a comma or full stop in the last 4/15 of the room if there is one (A1111's 20 tokens of 75), else behind
        a whole word, else (one word longer than the room) where the room ends.
        """
        if room < 1:
            raise SpecError(f"a text window has room for {room} tokens: give it a length of at least 3")
        cuts, start = [], 0
        while len(ids) - start > room:
            stop = start + room
            soft = (
                e for e in range(stop, max(start, stop - room * 4 // 15), -1) if self.symbol(ids[e - 1]) in (",</w>", ".</w>")
            )
            word = (e for e in range(stop, start, -1) if self.symbol(ids[e - 1]).endswith(END_OF_WORD))
            stop = next(soft, None) or next(word, None) or stop
            cuts.append(slice(start, stop))
            start = stop
        return [*cuts, slice(start, len(ids))]

    def __call__(self, texts: Sequence[str], length: int, pad: int | None = None) -> Tensor:
        """(B, k length) int64 ids on the CPU: k windows of `begin`, at most length - 2 ids, `end`, and `pad` (default: `end`).

        k is what the longest text needs; a shorter one's further windows are `pad` throughout (no `begin`), which an encoder
        can tell from an empty prompt. The empty prompt is `begin`, `end`, pads.
        """
        pad = self.end if pad is None else pad
        rows = [[ids[s] for s in self.spans(ids, length - 2)] for ids in map(self.encode, texts)]
        k = max(map(len, rows), default=1)
        out = []
        for runs in rows:
            windows = [[self.begin, *run, self.end] for run in runs]
            flat = [i for window in windows for i in (*window, *[pad] * (length - len(window)))]
            out.append(flat + [pad] * (k * length - len(flat)))
        return torch.tensor(out, dtype=torch.int64).view(len(rows), k * length)

    def _word(self, word: str) -> tuple[int, ...]:
        found = self._seen.get(word)
        if found is None:
            if len(self._seen) >= REMEMBERED:
                self._seen.clear()
            found = self._seen[word] = tuple(self.ids.get(s, self.end) for s in deque(self.merging(word), 1)[0])
        return found

    def merging(self, word: str) -> Iterator[list[str]]:
        """The symbols of a word (one of `words`) as bytes, and after each merge: the best pair known, wherever it stands."""
        symbols = [self._letter[b] for b in word.encode("utf-8")]
        symbols[-1] += END_OF_WORD
        yield symbols
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:], strict=False))
            best = min(pairs, key=lambda p: self._rank.get(p, len(self._rank)))
            if best not in self._rank:
                break
            out: list[str] = []
            for s in symbols:  # every occurrence, from the left
                if out and (out[-1], s) == best:
                    out[-1] += s
                else:
                    out.append(s)
            symbols = out
            yield symbols

    def length(self, id: int) -> int:
        """How many bytes of text an id stands for; 0 for `begin` and `end`."""
        return 0 if id in (self.begin, self.end) else len(self.symbol(id).removesuffix(END_OF_WORD))

    def _whole(self, ids: Iterable[int]) -> list[list[int]]:
        """Runs of ids up to a word's end: within them bytes belong together."""
        runs: list[list[int]] = [[]]
        for i in ids:
            if i not in (self.begin, self.end):
                runs[-1].append(i)
                if self.symbol(i).endswith(END_OF_WORD):
                    runs.append([])
        return runs

    def _piece(self, ids: Sequence[int], space: str) -> str:
        symbols = "".join(self.symbol(i) for i in ids)
        end = symbols.endswith(END_OF_WORD)
        raw = bytes(self._byte.get(c, 0x3F) for c in symbols.removesuffix(END_OF_WORD))
        return raw.decode("utf-8", errors="replace") + (space if end else "")


def unxz(data: bytes) -> bytes:
    """What was packed by lzma, of at most `LARGEST` bytes. Raises ValueError for more, and for what is not whole."""
    try:
        reader = lzma.LZMADecompressor(memlimit=_MEMORY)
        found = reader.decompress(data, LARGEST)
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from None
    if not reader.eof:
        raise ValueError(f"it is cut short, or of more than {LARGEST:,} bytes")
    return found


@cache
def shipped(name: str) -> Tokenizer:
    """The vocabulary that ships: "clip", the published 49,408 ids, or "clip-vocabulary", the 6,655 that describe sprites.

    The file is one xz of a line of JSON, of the ids that each merge joins (two bytes each, all left ones and then all right ones), and of a
    bit a merge, set for those of the smaller vocabulary. Raises SpecError when there is no such name.
    """
    if name not in SHIPPED:
        raise SpecError(
            f"no vocabulary '{name}'{nearest(name, SHIPPED)} (shipped: {', '.join(SHIPPED)}; or the path of a merges file)"
        )
    data = unxz((resources.files("safelight") / "assets" / "clip-vocabulary.xz").read_bytes())
    head, _, rest = data.partition(b"\n")
    n = json.loads(head)["merges"]
    joined = np.frombuffer(rest, "<u2", 2 * n).reshape(2, n).T.tolist()
    symbols = Tokenizer(()).tokens[:-2]
    merges: list[tuple[str, str]] = []
    for a, b in joined:
        merges.append((symbols[a], symbols[b]))
        symbols.append(symbols[a] + symbols[b])
    if name == FULL:
        return Tokenizer(merges)
    kept = np.unpackbits(np.frombuffer(rest, np.uint8, offset=4 * n), count=n).tolist()
    return Tokenizer(pair for pair, keep in zip(merges, kept, strict=True) if keep)


def load(source: str) -> Tokenizer:
    """The tokenizer of a vocabulary: the name of one that ships with the package, or the path of a file of merges.

    Files: lines `a b` in order of rank, plain or gzipped, below an optional first line that starts with `#version` or a quote: the
    usual `merges.txt` and CLIP's published list. Raises SpecError when there is none, or it is not such a file.
    """
    if source in SHIPPED or not Path(source).is_file():
        return shipped(source)
    data, name = Path(source).read_bytes(), Path(source).name
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
        return Tokenizer(pairs(text))
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"'{name}' is not a vocabulary: {' '.join(str(error).split())}") from None


def pairs(text: str) -> list[tuple[str, str]]:
    """The merges of a `merges.txt`. Raises ValueError for what is none."""
    lines = text.splitlines()
    lines = lines[1:] if lines and lines[0].startswith(("#version", '"')) else lines
    found = [line.split(" ") for line in lines if line.strip()][:PUBLISHED]
    if not found or any(len(p) != 2 for p in found):
        raise ValueError("a line is not two symbols and a space between them")
    return [(a, b) for a, b in found]


def prune(full: Tokenizer, corpus: Iterable[str], first: int = 0) -> Tokenizer:
    """The tokenizer with only the merges that encoding `corpus` performs, and the `first` of all merges, in their order.

    Every text of the corpus is cut into the same symbols as before: at each step the full list's best pair is among those
    kept, so it is still the best. Other texts keep an encoding, through smaller pieces. What is left of any merge list is
    closed: the parts of a kept merge are kept.
    """
    kept = {(a, b) for a, b in full.merges[:first]}
    made = {a + b: (a, b) for a, b in full.merges}
    want = [full.tokens[i] for text in corpus for i in set(full.encode(text))]
    want += [side for pair in kept for side in pair]
    while want:
        pair = made.get(want.pop())
        if pair is not None and pair not in kept:
            kept.add(pair)
            want += pair
    return Tokenizer(pair for pair in full.merges if pair in kept)


def _sort(c: str) -> str:
    """L a letter, N a number, a space for white space, P anything else."""
    if _white(c):
        return " "
    sort = unicodedata.category(c)[0]
    return sort if sort in "LN" else "P"


def _white(c: str) -> bool:
    return c.isspace() and not "\x1c" <= c <= "\x1f"  # Python counts four separators of no width as spaces; Unicode does not


def _spaces(text: str) -> str:
    out = "".join(" " if _white(c) else c for c in text)
    while "  " in out:
        out = out.replace("  ", " ")
    return out
