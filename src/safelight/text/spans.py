"""A prompt's tokens and where each of them stands in it, for chips under a prompt and for pictures of what a network attends to."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from safelight.prompt.parse import marks
from safelight.text.base import TextEncoder
from safelight.text.clip import CLIPText
from safelight.text.label import Label
from safelight.text.sdxl import SDXLText
from safelight.text.tokens import clean, words

Role = Literal["begin", "word", "end", "pad", "time", "vector"]


class Token(NamedTuple):
    """A place that a text tower has, or a network looks at.

    text: the piece as it is read; part of a character shows as U+FFFD. start, end: of the prompt's characters, [start, end), None
    for what is not written there. window: which of the tower's windows, from 0. role: `time` and `vector` are no words, but what a
    `cross-attention` DiT reads beside them.
    """

    text: str
    id: int
    start: int | None = None
    end: int | None = None
    weight: float = 1.0
    window: int = 0
    role: Role = "word"


def room(encoder: TextEncoder) -> int | None:
    """How many tokens of a prompt a window has room for; None for encoders whose windows are none of CLIP's."""
    return encoder.spec.length - 2 if isinstance(encoder, CLIPText | SDXLText) else None


def tokens(encoder: TextEncoder, prompt: str, emphasis: str = "a1111", filled: bool = False) -> list[Token]:
    """The tokens of a prompt in the order in which the encoder lays them out, cut into windows as `CLIPText.read` cuts them.

    filled: with `begin`, `end` and what fills each window, so that token i is place i of Cond.tokens. A class label is one token, the
    whole prompt, its id the class's number. Raises SpecError for an unknown emphasis or label.
    """
    if isinstance(encoder, Label):
        number = int(encoder.tokenize([prompt])[0, 0])
        return [Token(prompt, number, 0, len(prompt))] if prompt or filled else []
    if isinstance(encoder, SDXLText):
        encoder = encoder.encoders[0]
    if not isinstance(encoder, CLIPText):
        return []
    tokenizer, length = encoder.tokenizer, encoder.spec.length
    pad = tokenizer.end if encoder.spec.pad is None else encoder.spec.pad
    places = _spans(encoder, prompt, emphasis)
    found: list[Token] = []
    for number, window in enumerate(encoder.windows([prompt], emphasis)[0].windows):
        mine = [
            Token(text, id, *next(places), weight, number)
            for text, id, weight in zip(tokenizer.pieces(window.ids), window.ids, window.weights, strict=True)
        ]
        if filled:
            begin = Token(tokenizer.tokens[tokenizer.begin], tokenizer.begin, window=number, role="begin")
            end = Token(tokenizer.tokens[tokenizer.end], tokenizer.end, window=number, role="end")
            rest = Token(tokenizer.tokens[pad], pad, window=number, role="pad")
            mine = [begin, *mine, end, *[rest] * (length - 2 - len(mine))]
        found += mine
    return found


def _spans(encoder: CLIPText, prompt: str, emphasis: str) -> Iterator[tuple[int, int]]:
    """(start, end) in the prompt of every token, in order: the tokenizer's own steps, each with the places it keeps."""
    for said, places in _segments(prompt, emphasis):
        start = 0
        for part, ids in encoder.tokenizer.named(said):
            stop = start + len(part)
            if ids:
                yield from [(places[start], places[stop - 1] + 1)] * len(ids)
            elif part:
                yield from _words(encoder, part, places[start:stop])
            start = stop


def _words(encoder: CLIPText, said: str, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, end) in the prompt of every token of a stretch of it without names."""
    text, origin = _cleaned(said, places)
    at = 0
    for word in words(text):
        at = text.index(word, at)
        owner = [i for i, c in enumerate(word) for _ in c.encode("utf-8")]  # of each byte
        first = 0
        for id in encoder.tokenizer.encode(word):
            last = first + encoder.tokenizer.length(id) - 1
            yield origin[at + owner[first]][0], origin[at + owner[last]][1]
            first = last + 1
        at += len(word)


def _segments(prompt: str, emphasis: str) -> Iterator[tuple[str, list[int]]]:
    """The segments of `prompt.parse.parse`, each with the places of its characters."""
    found = marks(prompt, emphasis)
    start = 0
    for stop, following in [*found.breaks, (len(prompt), len(prompt))]:
        text, origin, weight = list[str](), list[int](), None
        for i in range(start, stop):
            here = found.weights[i]
            if here is None:
                continue
            if text and here != weight:
                yield "".join(text), origin
                text, origin = [], []
            weight = here
            if text and i in found.borders and not prompt[i].isspace() and not text[-1].isspace():
                text.append(" ")
                origin.append(i)
            text.append(prompt[i])
            origin.append(i)
        yield "".join(text), origin
        start = following


def _cleaned(text: str, origin: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """`tokens.clean`, and for every character that it leaves the places [start, end) in the prompt that it comes from."""
    kept, places = list[str](), list[tuple[int, int]]()
    for first, last in _composed(text):
        for c in clean(text[first : last + 1]) or " ":
            if c != " " or (kept and kept[-1] != " "):
                kept.append(c)
                places.append((origin[first], origin[last] + 1))
    out, wanted = "".join(kept).rstrip(" "), clean(text)
    if out != wanted:  # composed over more characters than is followed here: the segment's own extent is still true
        return wanted, [(origin[0], origin[-1] + 1)] * len(wanted)
    return out, places[: len(out)]


def _composed(text: str) -> Iterator[tuple[int, int]]:
    """(first, last) of the runs of characters that Unicode's form C composes by themselves."""
    first = 0
    for i in range(1, len(text) + 1):
        if i < len(text) and not (text[i].isascii() and text[i - 1].isascii()):
            apart = "".join(unicodedata.normalize("NFC", t) for t in (text[first:i], text[i]))
            if unicodedata.combining(text[i]) or unicodedata.normalize("NFC", text[first : i + 1]) != apart:
                continue
        if first < len(text):
            yield first, i - 1
        first = i


__all__ = ["Role", "Token", "room", "tokens"]
