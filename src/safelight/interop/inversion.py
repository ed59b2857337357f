"""Files of learned words (textual inversion), in and out.

    diffusers     {"<word>": (n, D)}, also (D,); several words, each under its name
    A1111         {"emb_params": (n, D)}, the word being the file's name
    two encoders  {"clip_l": (n, 768), "clip_g": (n, 1280)}, the word being the file's name; also "text_encoders_0", "text_encoders_1"

A1111's older files are pickles, {"string_to_token": {"*": 265}, "string_to_param": {"*": (n, D)}}: `safelight convert` makes one of
the above of them, see `of_pickle`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from safelight.adapt.inversion import NAMES, Inversion
from safelight.files import atomic
from safelight.interop.checkpoint import Tensors, write
from safelight.spec import SpecError

Layout = Literal["diffusers", "a1111"]
_A1111 = "emb_params"
_ENCODERS = {**{name: name for name in NAMES}, **{f"text_encoders_{i}": str(i) for i in range(3)}}
# Beyond this it is no word: the longest windows have 77 tokens, and the widest published words 4096 numbers.
_MOST, _WIDEST = 1024, 8192


def load(source: str | os.PathLike[str], word: str | None = None) -> list[Inversion]:
    """The words of a file. word: another name for the only one of it.

    Raises SpecError, in one line, for a file that is missing or of another kind, and for one that holds no words.
    """
    path = Path(source)
    return read(Tensors([path]), word or path.stem, where=str(path), renamed=word)


def digest(path: str | os.PathLike[str]) -> str:
    """The first 12 hex digits of a file's SHA-256: A1111's "TI hashes"."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read(tensors: Mapping[str, Tensor], name: str, *, where: str = "the file", renamed: str | None = None) -> list[Inversion]:
    """The words among tensors by name. name: of the word where the layout has none. renamed: what the only one shall be called."""
    vectors = {key: _rows(value, f"{where}: '{key}'") for key, value in tensors.items()}
    if not vectors:
        raise SpecError(f"{where} holds no learned word: it has no tensors")
    if vectors.keys() == {_A1111}:
        return [Inversion(name, {"0": vectors[_A1111]})]
    if vectors.keys() <= _ENCODERS.keys():
        if len({len(v) for v in vectors.values()}) > 1:
            raise SpecError(
                f"{where}: its encoders have {' and '.join(str(len(v)) for v in vectors.values())} vectors for one word"
            )
        return [Inversion(name, {_ENCODERS[key]: value for key, value in vectors.items()})]
    if renamed is not None and len(vectors) > 1:
        raise SpecError(f"{where} holds {len(vectors)} words ({', '.join(vectors)}), which cannot all be called '{renamed}'")
    return [Inversion(renamed or key, {"0": value}) for key, value in vectors.items()]


def save(path: str | os.PathLike[str], inversion: Inversion, layout: Layout = "diffusers") -> None:
    """Write a word. In A1111's layout, and where there are several encoders, its name is the file's, which must be it.

    Raises SpecError for a file of another name.
    """
    target, found = Path(path), inversion.vectors
    if len(found) == 1 and layout == "diffusers":
        tensors = {inversion.word: next(iter(found.values()))}
    else:
        if target.stem != inversion.word:
            raise SpecError(f"{target}: the file's name is the word in this layout; call it {inversion.word}{target.suffix}")
        numbered = [name for name in found if name not in NAMES]
        tensors = {_A1111: next(iter(found.values()))} if len(found) == 1 else dict(found)
        if numbered and len(found) > 1:
            tensors = {f"text_encoders_{name}": value for name, value in found.items()}
    with atomic(target) as temporary:
        write(temporary, tensors, {"format": "pt"})


def is_pickled(found: Any) -> bool:
    """Whether what a pickle held is a word of A1111's."""
    return isinstance(found, Mapping) and isinstance(found.get("string_to_param"), Mapping)


def of_pickle(found: Mapping[str, Any], name: str) -> Inversion:
    """The word in what an older file of A1111's held, opened by `weights_only`. name: of the file, where it says none of its own.

    Raises SpecError where there is none.
    """
    params = found.get("string_to_param")
    if not isinstance(params, Mapping) or len(params) != 1 or not isinstance(value := next(iter(params.values())), Tensor):
        raise SpecError(f"'{name}' is no learned word of A1111's: string_to_param holds no single tensor")
    said = found.get("name")
    return Inversion(said if isinstance(said, str) and said else name, {"0": _rows(value.detach(), f"'{name}'")})


def _rows(value: Tensor, what: str) -> Tensor:
    """(n, D) of what may be (D,)."""
    rows = value[None] if value.ndim == 1 else value
    if rows.ndim != 2 or not rows.is_floating_point() or not 0 < len(rows) <= _MOST or not 0 < rows.shape[1] <= _WIDEST:
        raise SpecError(
            f"{what} is {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}, no vectors of a learned word"
        )
    return rows
