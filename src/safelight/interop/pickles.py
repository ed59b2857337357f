"""Pickles, opened only where somebody asks for it by name (`safelight convert`), and only for the tensors in them.

A pickle is a program. torch's restricted reader runs the part of it that makes tensors and refuses the rest; before it starts, a zip
archive is held against its own list of contents, so that a small file cannot unfold into a large one.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.interop.checkpoint import kind
from safelight.spec import SpecError

_MOST = 200_000  # members of an archive, and tensors of a file
# What training code wraps a state dict in.
_WRAPS = ("state_dict", "model", "module")


class Found(NamedTuple):
    """tensors: by name. dropped: the names of what is no tensor (a step count, settings), which a safetensors file does not hold."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]


def read(path: Path) -> Any:
    """What a pickle of torch holds: tensors, numbers and texts in lists and dicts.

    Raises SpecError, in one line, for one that holds anything else, for a damaged file, and for one that unfolds into more than it has.
    """
    sort = kind(path)
    if sort in ("safetensors", "empty", "png", "jpeg", "webp", "html", "pointer"):
        raise SpecError(f"{path} is no pickle: it is {sort if sort != 'pointer' else 'a Git LFS pointer, without the weights'}")
    archive = zipfile.is_zipfile(path)
    if archive:
        _stored(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except MemoryError:
        raise SpecError(f"{path} asks for more memory than there is") from None
    except Exception as error:  # torch, the unpickler and what a broken file does to them raise many classes
        text = " ".join(str(error).split())
        named = re.search(r"GLOBAL (\S+)", text)
        if named:
            raise SpecError(f"{path} holds more than tensors ({named[1]}), which could run code: it is not opened") from None
        raise SpecError(f"{path} is damaged, or no file of torch: {text[:160]}") from None
    for name, value in _tensors(found, ""):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise SpecError(f"{path} is damaged: '{name[:100]}' claims {value.numel():,} values, more than the file has")
    return found


def tensors(path: Path, found: Any) -> Found:
    """The tensors of a pickled state dict that was read, out of what training code wraps it in. Raises SpecError where there are none."""
    while isinstance(found, Mapping):
        inside = next((found[name] for name in _WRAPS if isinstance(found.get(name), Mapping)), None)
        if inside is None:
            break
        found = inside
    flat = dict(_tensors(found, "")) if isinstance(found, Mapping) else {}
    if not flat:
        raise SpecError(f"{path} holds no tensors by name")
    return Found(flat, tuple(str(name) for name in found if not any(n == name or n.startswith(f"{name}.") for n in flat)))


def _stored(path: Path) -> None:
    """Raise SpecError for an archive that is compressed (torch's are not) or lists more than it is large."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise SpecError(f"{path} is damaged: its archive cannot be read") from None
    size = path.stat().st_size
    if len(members) > _MOST or any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise SpecError(f"{path} is a compressed archive, which torch does not write: it is not opened")
    if sum(m.file_size for m in members) > size:
        raise SpecError(f"{path} is damaged: its {size:,} bytes list {sum(m.file_size for m in members):,} of contents")
    if not any(m.filename.endswith("data.pkl") for m in members):
        raise SpecError(f"{path} is an archive, but not one of torch's: it holds no data.pkl")


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts and lists, by the path to it."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _tensors(inside, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for i, inside in enumerate(value):
            yield from _tensors(inside, f"{name}.{i}" if name else str(i))
