"""Vocabularies of pieces with a likelihood each (SentencePiece's unigram model), read from the files in which they are published.

Kudo 2018, "Subword regularization", section 3.2: a text is cut into the pieces whose likelihoods have the largest product. The cutting is
done by the `tokenizers` library.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from safelight.spec import SpecError

SPACE = "\u2581"  # what SentencePiece writes for a space, in front of every word
SPECIAL = 3  # T5's first pieces: what fills up, what ends a text, what is unknown
SENTINELS = 100  # T5's ids behind the pieces, the last one first


class Pieces(NamedTuple):
    """A SentencePiece model. pieces: (text, log-likelihood) by id. unknown: the id of what has no piece. normaliser: compiled rules."""

    pieces: list[tuple[str, float]]
    unknown: int
    normaliser: bytes


def unigram(files: Mapping[str, bytes]) -> Any:
    """A `tokenizers.Tokenizer` from `tokenizer.json`, else from `spiece.model` with T5's sentinels. Raises SpecError for other files.

    What is written as a special token ("</s>") is read as one, as transformers reads it.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    try:
        if "tokenizer.json" in files:
            if json.loads(files["tokenizer.json"])["model"]["type"] != "Unigram":
                raise ValueError("its words are not cut as T5's are")
            found = Tokenizer.from_buffer(files["tokenizer.json"])
            found.no_padding()
            found.no_truncation()
        elif "spiece.model" in files:
            read = sentencepiece(files["spiece.model"])
            sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(SENTINELS))]
            found = Tokenizer(models.Unigram([*read.pieces, *sentinels], read.unknown, False))
            if read.normaliser:
                found.normalizer = normalizers.Precompiled(read.normaliser)
            found.add_special_tokens([text for text, _ in (*read.pieces[:SPECIAL], *sentinels)])
            found.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)]
            )
        else:
            raise ValueError("there is neither tokenizer.json nor spiece.model")
        return found
    except Exception as error:  # the library raises bare Exceptions
        raise SpecError(f"the tokenizer's files are none of T5's: {' '.join(str(error).split())[:200]}") from None


def sentencepiece(data: bytes) -> Pieces:
    """A SentencePiece model from its file, a protocol buffer. Raises ValueError for what is none, or no unigram model.

    Read are of ModelProto the pieces (1: text 1, score 2, type 3), of the trainer's settings (2) the sort of model (3) and the id of the
    unknown piece (40), of the normaliser's (3) the rules (2).
    """
    pieces: list[tuple[str, float]] = []
    unknown, normaliser = 0, b""
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            inside = dict(_fields(value))
            pieces.append((_text(inside.get(1, b"")), _score(inside.get(2, b"\0\0\0\0"))))
        elif number == 2:
            inside = dict(_fields(value))
            if inside.get(3, 1) != 1:
                raise ValueError("spiece.model is no unigram model")
            unknown = int.from_bytes(found, "little") if isinstance(found := inside.get(40, 0), bytes) else found
        elif number == 3:
            rules = dict(_fields(value)).get(2, b"")
            normaliser = rules if isinstance(rules, bytes) else b""
    if not 0 <= unknown < len(pieces):
        raise ValueError("spiece.model holds no pieces")
    return Pieces(pieces, unknown, normaliser)


def _text(value: int | bytes) -> str:
    if not isinstance(value, bytes):
        raise ValueError("spiece.model: a piece has no text")
    return value.decode("utf-8")


def _score(value: int | bytes) -> float:
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("spiece.model: a piece has no score")
    score: float = struct.unpack("<f", value)[0]
    return score


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a protocol buffer's fields in order: a whole number, or bytes."""
    at = 0

    def number() -> int:
        nonlocal at
        found = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("spiece.model is cut short or no protocol buffer")
            byte = data[at]
            at += 1
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
            shift += 7

    while at < len(data):
        tag = number()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, number()
            continue
        length = {1: 8, 5: 4}.get(kind) if kind != 2 else number()
        if length is None or at + length > len(data):
            raise ValueError("spiece.model is cut short or no protocol buffer")
        yield tag >> 3, data[at : at + length]
        at += length
