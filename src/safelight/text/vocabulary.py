"""Where an encoder's words come from: a list that ships, a file, or files that lie among the model's own tensors.

A published model has its vocabulary in a folder of files (`vocab.json` and `merges.txt`, `tokenizer.json`, `spiece.model`). They travel
as they are, byte for byte, in a tensor of the encoder: one line of JSON, {name: length}, and the files behind one another.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.spec import Spec, SpecError
from safelight.text.tokens import FULL, LARGEST, PUBLISHED, Tokenizer, load, pairs

# The files that say which words there are; what else lies in a tokenizer's folder says how they are used.
FILES = ("vocab.json", "merges.txt", "tokenizer.json", "spiece.model", "added_tokens.json")
_BYTES = 512  # ids that stand for bytes, within a word and at its end
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


class Carried(Spec):
    """A vocabulary that lies among the model's own tensors.

    size: rows of the table of words, at least as many as there are ids. begin, end: the ids that open and close a text. packed: bytes of
    the tensor that holds it; 0 for a model that came without, which reads ids but no text.
    """

    size: int = Field(ge=2)
    begin: int = Field(ge=0)
    end: int = Field(ge=0)
    packed: int = Field(0, ge=0, le=LARGEST)

    @model_validator(mode="after")
    def _inside(self) -> Carried:
        if max(self.begin, self.end) >= self.size:
            raise ValueError(f"begin {self.begin} and end {self.end} lie beyond a vocabulary of {self.size}")
        return self

    def empty(self) -> Tensor:
        """The tensor that will hold it."""
        return torch.zeros(self.packed, dtype=torch.uint8)


class Layout(NamedTuple):
    """What a network needs to know of a vocabulary: how many rows its table of words has, and which ids open and close a text."""

    size: int
    begin: int
    end: int


def layout(vocabulary: str | Carried) -> Layout:
    """The layout of a vocabulary, without reading the published one. Raises SpecError for a name or file that is none."""
    if isinstance(vocabulary, Carried):
        return Layout(vocabulary.size, vocabulary.begin, vocabulary.end)
    if vocabulary == FULL:
        size = PUBLISHED + _BYTES + 2
        return Layout(size, size - 2, size - 1)
    found = load(vocabulary)
    return Layout(found.size, found.begin, found.end)


def tokenizer(vocabulary: str | Carried, packed: Tensor | None = None) -> Tokenizer:
    """A tokenizer of CLIP's kind, nobody else's. packed: the tensor that holds a carried one. Raises SpecError where there is none."""
    if not isinstance(vocabulary, Carried):
        found = copy.copy(load(vocabulary))
        found.extra = {}
        return found
    return clip_tokenizer(unpack(packed))


def pack(files: Mapping[str, bytes]) -> Tensor:
    """(n,) uint8: files as a tensor."""
    head = json.dumps({name: len(data) for name, data in files.items()}).encode() + b"\n"
    return torch.frombuffer(bytearray(head + b"".join(files.values())), dtype=torch.uint8)


def unpack(packed: Tensor | None) -> dict[str, bytes]:
    """The inverse of `pack`. Raises SpecError for a tensor that holds no files."""
    if packed is None or not packed.numel() or not bool(packed[0]):
        raise SpecError(
            "prompt: this model came without its vocabulary, so no text can be read; give it its tokenizer's folder"
        )
    head, _, rest = packed.cpu().numpy().tobytes().partition(b"\n")
    try:
        lengths = {str(name): int(n) for name, n in json.loads(head).items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise SpecError("the model's vocabulary is damaged: it does not say which files it has") from None
    if sum(lengths.values()) != len(rest) or min(lengths.values(), default=0) < 0:
        raise SpecError(f"the model's vocabulary is damaged: it has {len(rest)} bytes of {sum(lengths.values())}")
    found, at = {}, 0
    for name, n in lengths.items():
        found[name] = rest[at : at + n]
        at += n
    return found


def folder_files(folder: Path) -> dict[str, bytes]:
    """The files of a tokenizer's folder that say which words there are. Raises SpecError for one beyond all measure."""
    found = {}
    for name in FILES:
        path = folder / name
        if path.is_file():
            if path.stat().st_size > LARGEST:
                raise SpecError(f"{path}: a vocabulary of {path.stat().st_size:,} bytes, {LARGEST:,} are read")
            found[name] = path.read_bytes()
    return found


def clip_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer of CLIP's kind that files describe: `vocab.json` with `merges.txt`, else `tokenizer.json`. Raises SpecError."""
    try:
        if "vocab.json" in files and "merges.txt" in files:
            ids = json.loads(files["vocab.json"])
            merges = pairs(files["merges.txt"].decode("utf-8"))
            added = json.loads(files.get("added_tokens.json", b"{}"))
        elif "tokenizer.json" in files:
            whole = json.loads(files["tokenizer.json"])
            model = whole["model"]
            if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
                raise ValueError("its words are not cut as CLIP's are")
            ids = model["vocab"]
            merges = [(a, b) for a, b in (m.split(" ") if isinstance(m, str) else m for m in model["merges"])]
            added = {one["content"]: one["id"] for one in whole.get("added_tokens", ())}
        else:
            raise ValueError("there is neither tokenizer.json nor vocab.json with merges.txt")
        ids = {**ids, **added}
        by_id = {int(i): str(symbol) for symbol, i in ids.items()}
        tokens = [by_id.get(i, f"<unused {i}>") for i in range(max(by_id) + 1)]
        found = Tokenizer(merges, tokens, _BEGIN, _END)
        # Words that were added by name, as embeddings are that were learned for one.
        found.extra = {
            str(word): (int(i),) for word, i in added.items() if word not in (_BEGIN, _END) and i >= found.size - len(added)
        }
        return found
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SpecError(f"the tokenizer's files are none of CLIP's: {' '.join(str(error).split())}") from None


def clip_vocabulary(files: Mapping[str, bytes], size: int) -> tuple[str | Carried, Tensor | None]:
    """What an encoder of `size` rows says of its vocabulary, and the tensor that holds it if it does not ship. Raises SpecError.

    The published list ships: a folder that has it in one of the forms in which it is published needs nothing of its own.
    """
    forms = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    alone = size == layout(FULL).size and forms.keys() == {"vocab.json", "merges.txt"}
    if alone and forms["merges.txt"] == _MERGES and forms["vocab.json"] in _FORMS:
        return FULL, None
    words = clip_tokenizer(files)
    packed = pack(files)
    try:
        return Carried(size=size, begin=words.begin, end=words.end, packed=len(packed)), packed
    except ValueError:
        raise SpecError(
            f"the tokenizer has {words.size} ids, the encoder only {size} words: they are not of one model"
        ) from None


def files_of(words: Tokenizer, how: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """`vocab.json` and `merges.txt` of a tokenizer, which `clip_tokenizer` and transformers read. how: json.dumps' form of the first."""
    form = {"indent": 2, "sort_keys": True} if how is None else how
    vocab = json.dumps(words.ids, ensure_ascii=False, **form) + ("\n" if "indent" in form else "")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in words.merges)]
    return {"vocab.json": vocab.encode("utf-8"), "merges.txt": ("\n".join(lines) + "\n").encode("utf-8")}


def published(hashes: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """CLIP's published `vocab.json` and `merges.txt`. hashes: SHA-256 by name, of the form of `vocab.json` that is wanted."""
    return files_of(load(FULL), _FORMS.get((hashes or {}).get("vocab.json", "")))


# The forms in which the published list is found, by the SHA-256 of the file.
_MERGES = "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"
_FORMS: dict[str, dict[str, Any]] = {
    "5047b556ce86ccaf6aa22b3ffccfc52d391ea4accdab9c2f2407da5b742d4363": {"separators": (",", ":")},
    "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349": {"indent": 2, "sort_keys": True},
    "3dc0b7d092bd20ff6e21cc49ec4e01701e87c2661883f827bc281e3a4a64656b": {"indent": 2},
    "3f0c4f7d2086b61b38487075278ea9ed04edb53a03cbb045b86c27190fa8fb69": {},
}
