"""Files of tensors, read by what is in them and not by what they are called, and nothing in them trusted.

A safetensors file is 8 bytes of length, a JSON header of that length, and the tensors' bytes one behind the other. Everything that its
header claims is held against the file before a tensor is made of it, so that a file that lies is refused in one line; the tensors are
then views of the mapped file. A pickle is recognised under any name and never opened here (see interop/pickles.py).

This module loads without torch.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safelight.files import atomic
from safelight.spec import SpecError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Nothing sane has a header beyond this: the largest published one, of 4,000 tensors, has half a megabyte.
LONGEST_HEADER = 32_000_000
# Configurations have kilobytes, the index of a thousand shards a few megabytes.
LONGEST_JSON = 16_000_000
_LONGEST_NAME = 1_000
# By name as in a header: bytes a value, and torch's name. In the order in which files lay them out, from the last to the first.
DTYPES: dict[str, tuple[int, str]] = {
    "BOOL": (1, "bool"),
    "U8": (1, "uint8"),
    "I8": (1, "int8"),
    "F8_E5M2": (1, "float8_e5m2"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E8M0": (1, "float8_e8m0fnu"),
    "F8_E4M3FNUZ": (1, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (1, "float8_e5m2fnuz"),
    "I16": (2, "int16"),
    "U16": (2, "uint16"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "I32": (4, "int32"),
    "U32": (4, "uint32"),
    "F32": (4, "float32"),
    "C64": (8, "complex64"),
    "F64": (8, "float64"),
    "I64": (8, "int64"),
    "U64": (8, "uint64"),
}
_ORDER = {name: i for i, name in enumerate(DTYPES)}
# What a file begins with, and what it then is. A pickle of protocol 0 or 1 has no mark; it is no safetensors file either.
_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "pickle"),
    (b"PK\x05\x06", "pickle"),
    (b"\x80", "pickle"),
    (b"\x89PNG\r\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"RIFF", "webp"),
    (b"GGUF", "gguf"),
    (b"\x89HDF", "hdf5"),
    (b"\x1f\x8b", "gzip"),
    (b"version https://git-lfs", "pointer"),
    (b"<!DOCTYPE", "html"),
    (b"<html", "html"),
)
_REFUSALS = {
    "pickle": " (it looks like a pickle, which is never loaded: it could run code)",
    "png": " but a picture",
    "jpeg": " but a picture",
    "webp": " but a picture",
    "gguf": " but a GGUF file, which is not read here",
    "hdf5": " but an HDF5 file, which is not read here",
    "gzip": " but compressed by gzip",
    "pointer": " but a Git LFS pointer: the weights themselves were not downloaded",
    "html": " but a web page: what was downloaded is not the file",
    "empty": ": it is empty",
}


class Entry(NamedTuple):
    """A tensor as a header describes it. start, stop: its bytes, from the header's end on."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0

    @property
    def size(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


def kind(path: Path) -> str:
    """What a file is, by its content: "safetensors", "pickle" (a zip of torch's too), "json", "empty", another mark's name, or "unknown".

    Raises SpecError for what is no file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError:
        raise SpecError(f"no file {path}") from None
    except IsADirectoryError:
        raise SpecError(f"{path} is a folder, not a model file") from None
    if not head:
        return "empty"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return "safetensors"
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    return marked or ("json" if head.lstrip()[:1] in (b"{", b"[") else "unknown")


def raw_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, every claim of it checked against the file.

    Raises SpecError, in one line, for a file that is missing, of another kind, cut short, or one whose header does not describe it:
    a name that comes twice, an unknown type, a shape that is not its number of bytes, tensors that overlap or leave holes.
    """
    sort = kind(path)
    other = SpecError(f"{path} is not a safetensors file{_REFUSALS.get(sort, '')}")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if sort != "safetensors" or not 2 <= length <= size - 8:
            raise other
        text = file.read(length)
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except _Twice as error:
        raise SpecError(f"{path} is damaged: its header has {error} twice") from None
    except (ValueError, RecursionError):
        raise other from None
    notes = found.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise SpecError(f"{path} is damaged: the notes in its header are no texts")
    _checked(path, found, size - 8 - length)
    return found


class _Twice(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(repr(next(name for name in found if names.count(name) > 1)))
    return found


def _checked(path: Path, found: Mapping[str, Any], size: int) -> None:
    """Hold the entries of a header against `size`, the bytes behind it."""
    spans = []
    for name, entry in found.items():
        if name == "__metadata__":
            continue
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise SpecError(f"{path} is damaged: a tensor's name of {len(name)} characters in its header is no name")
        try:
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            sound = all(type(v) is int and v >= 0 for v in (start, stop, *shape)) and isinstance(shape, list)
        except (TypeError, KeyError, ValueError):
            sound, dtype, shape, start, stop = False, "", [], 0, 0
        if not sound:
            raise SpecError(f"{path} is damaged: its header describes '{name}' without saying where it lies")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise SpecError(f"{path}: '{name}' is of type {dtype!r:.40}, which is not known here (known: {', '.join(DTYPES)})")
        if stop - start != math.prod(shape) * DTYPES[dtype][0]:
            shown = "x".join(map(str, shape[:8])) or "one value"
            raise SpecError(f"{path} is damaged: '{name}' is {shown:.60} of {dtype}, but lies in {stop - start} bytes")
        spans.append((start, stop, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            what = "lies over the tensor before it" if start < end else f"leaves a hole of {start - end} bytes before it"
            raise SpecError(f"{path} is damaged: '{name}' {what}")
        end = stop
    if end > size:
        raise SpecError(f"{path} is cut short: its header promises {end} bytes of tensors, it has {size}; copy it again")
    if end < size:
        raise SpecError(f"{path} is damaged: {size - end} bytes behind its last tensor belong to none")


def entries(header: Mapping[str, Any]) -> dict[str, Entry]:
    """The tensors of a header that `raw_header` has read."""
    return {
        name: Entry(e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for name, e in header.items() if name != "__metadata__"
    }


def read_json(path: Path, *, longest: int = LONGEST_JSON) -> dict[str, Any]:
    """The object in a JSON file. Raises SpecError for a file that is missing, longer than `longest` bytes, or holds something else."""
    try:
        with path.open("rb") as file:
            text = file.read(longest + 1)
        found = json.loads(text.decode("utf-8-sig")) if len(text) <= longest else None
    except FileNotFoundError:
        raise SpecError(f"no file {path}") from None
    except IsADirectoryError:
        raise SpecError(f"{path} is a folder, where a JSON file is expected") from None
    except (ValueError, RecursionError):
        raise SpecError(f"{path} is damaged: it holds no JSON") from None
    if len(text) > longest:
        raise SpecError(f"{path} has more than {longest:,} bytes, which is no configuration")
    if not isinstance(found, dict):
        raise SpecError(f"{path} is damaged: it holds no JSON object")
    return found


class Tensors(Mapping[str, "Tensor"]):
    """The tensors of one safetensors file or of several shards, by name: views of the mapped files, read when they are used.

    entries: what the headers say of each. notes: the first file's own notes. files: the names in each file.
    A mapping is private: a tensor that is written to gets pages of its own, and the file never changes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Reads the headers only. Raises SpecError as `raw_header` does, and for a name in two of the files."""
        self.paths = tuple(paths)
        self.entries: dict[str, Entry] = {}
        self.files: dict[Path, tuple[str, ...]] = {}
        self.notes: dict[str, str] = {}
        self._home: dict[str, Path] = {}
        self._maps: dict[Path, tuple[mmap.mmap, int]] = {}
        for path in self.paths:
            header = raw_header(path)
            found = entries(header)
            twice = next((name for name in found if name in self._home), None)
            if twice is not None:
                raise SpecError(f"'{twice}' is both in {self._home[twice]} and in {path}")
            self.notes = self.notes or header.get("__metadata__", {})
            self.entries |= found
            self.files[path] = tuple(found)
            self._home |= dict.fromkeys(found, path)

    def __getitem__(self, name: str) -> Tensor:
        import torch

        entry, path = self.entries[name], self._home[name]
        if path not in self._maps:
            self._maps[path] = _mapped(path)
        data, offset = self._maps[path]
        width, dtype = DTYPES[entry.dtype][0], torch_dtype(entry.dtype)
        if not entry.size:
            return torch.empty(entry.shape, dtype=dtype)
        begin = offset + entry.start
        if offset + entry.stop > len(data):
            raise SpecError(f"{path} has changed since its header was read: load it again")
        if begin % width:  # no writer does this; values are copied to where they may stand
            raw = bytearray(data[begin : offset + entry.stop])
            return torch.frombuffer(raw, dtype=dtype).reshape(entry.shape)
        return torch.frombuffer(data, dtype=dtype, count=entry.size, offset=begin).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, from the headers."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def one(self, name: str) -> Tensor:
        """The tensor of a name. Raises SpecError, with the nearest name there is, when there is none."""
        if name not in self.entries:
            raise SpecError(f"{self.paths[0]} has no tensor '{name}'{nearest(name, self.entries)}")
        return self[name]


def _mapped(path: Path) -> tuple[mmap.mmap, int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), 8 + length


def torch_dtype(name: str) -> torch.dtype:
    """torch's type of a header's. Raises SpecError for one that this torch does not have."""
    import torch

    found = getattr(torch, DTYPES[name][1], None)
    if found is None:
        raise SpecError(f"this torch has no numbers of type {name}")
    return found


def header_dtype(dtype: torch.dtype) -> str:
    """A header's name of torch's type. Raises SpecError for one that files do not hold."""
    wanted = str(dtype).removeprefix("torch.")
    found = next((name for name, (_, theirs) in DTYPES.items() if theirs == wanted), None)
    if found is None:
        raise SpecError(f"a safetensors file cannot hold numbers of type {wanted}")
    return found


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file at `path`, tensor after tensor, without a second copy of them in memory.

    The bytes are those of the format's own library: wider types first, names in order among equals, the header padded to 8 bytes.
    A tensor that is no plain block of memory is made one on the way. Raises SpecError for a type that files do not hold.
    """
    order = sorted(tensors, key=lambda name: (-_ORDER[header_dtype(tensors[name].dtype)], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in order:
        value = tensors[name]
        size = value.numel() * value.element_size()
        header[name] = {
            "dtype": header_dtype(value.dtype),
            "shape": list(value.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_bytes(tensors[name]))


def _bytes(value: Tensor) -> memoryview:
    """The values as they lie in a file: little-endian, row by row."""
    import torch

    flat = value.detach().cpu().contiguous().view(-1)
    if sys.byteorder == "big" and flat.element_size() > 1:
        raise SpecError("safetensors files are written on little-endian machines only")
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a configuration as diffusers and transformers do: two spaces, keys as they stand, a line's end."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")


_WEIGHTS = ("diffusion_pytorch_model", "model")
_PICKLES = ("diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.ckpt")


def variants(folder: Path) -> tuple[str, ...]:
    """The variants ("fp16", ...) of which a component's folder has weights, "" for those without a name, in that order."""
    found = set()
    for path in folder.glob("*.safetensors*"):
        match = re.fullmatch(
            rf"(?:{'|'.join(_WEIGHTS)})(?:\.(?!safetensors)([\w-]+?))?(?:-\d{{5}}-of-\d{{5}})?(?:\.(?!safetensors)([\w-]+?))?"
            r"\.safetensors(?:\.index(?:\.([\w-]+))?\.json)?",
            path.name,
        )
        if match:
            found.add(next(filter(None, match.groups()), ""))
    return tuple(sorted(found))


def component(folder: Path, variant: str = "") -> Tensors:
    """The weights in a component's folder: one file, or the shards that its index names. variant: as in `model.fp16.safetensors`.

    Raises SpecError, in one line, where there are none (pickles are named, not opened), and where an index lies: a shard that is
    missing or outside of the folder, a tensor that is not in its shard.
    """
    if not folder.is_dir():
        raise SpecError(f"no folder {folder}, which the model's index names")
    middle = f".{variant}" if variant else ""
    for stem in _WEIGHTS:
        if (folder / f"{stem}{middle}.safetensors").is_file():
            return Tensors([folder / f"{stem}{middle}.safetensors"])
        index = folder / f"{stem}.safetensors.index{middle}.json"
        if index.is_file():
            return _sharded(index)
    pickle = next((name for name in _PICKLES if (folder / name).is_file()), None)
    if pickle:
        raise SpecError(
            f"{folder / pickle} is a pickle, which is never loaded: it could run code; safelight convert makes a safetensors file of it"
        )
    there = variants(folder)
    have = f"; it has the variants {', '.join(map(repr, there))}" if there else ""
    raise SpecError(f"{folder} holds no weights{f' of the variant {variant!r}' if variant else ''}{have}")


def _sharded(index: Path) -> Tensors:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(v, str) for v in where.values()):
        raise SpecError(f"{index} is damaged: it has no map of tensors to files")
    folder = index.parent
    names = sorted(set(where.values()))
    for name in names:
        if not plain(name):
            raise SpecError(f"{index} names the file {name!r:.80}, which is not a file of its own folder")
        if not (folder / name).is_file():
            raise SpecError(f"{folder / name} is missing, one of {len(names)} files that {index.name} names: download it again")
    found = Tensors([folder / name for name in names])
    for name, file in where.items():
        if name not in found.files[folder / file]:
            raise SpecError(f"{index} says that '{name:.200}' is in {file}, which does not have it")
    return found


def plain(name: str) -> bool:
    """Whether a name from a file is that of a file beside it, and leads nowhere else."""
    return bool(re.fullmatch(r"[\w][\w.+-]*", name)) and os.path.basename(name) == name and ".." not in name


def finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or an infinity, or None."""
    for name, value in tensors:
        if not value.is_floating_point() or value.is_meta:
            continue
        wide = value.float() if value.element_size() == 1 else value
        # A sum over all of it is one pass, and finite where everything is; only an overflow makes a second look necessary.
        if not bool(wide.sum().isfinite()) and not bool(wide.isfinite().all()):
            return name
    return None
