"""Which kind of source a path is."""

from __future__ import annotations

import os
from pathlib import Path

from safelight.data.decode import is_picture
from safelight.data.folder import FolderSource
from safelight.data.idx import IDXSource, is_idx_name
from safelight.data.parquet import ParquetSource
from safelight.data.source import DataError, Source, missing
from safelight.data.webdataset import WebDatasetSource


def detect(path: str | os.PathLike[str]) -> Source:
    """The source a path stands for, by what lies there.

    A file: `.parquet`, `.tar`, or IDX. A pattern with braces: tar shards. A folder: by what is in it, at any depth; with
    nothing known in it, a folder of pictures. Raises DataError when nothing is there, and when several kinds are.
    """
    text = os.fspath(path)
    if "{" in text and ".tar" in text:
        return WebDatasetSource(path=text)
    root = Path(text).expanduser()
    if not root.exists():
        raise missing(root)
    if root.is_file():
        return _file(root, text)
    names = [name for _, _, files in os.walk(root, followlinks=False) for name in files if not name.startswith(".")]
    top = [name for name in os.listdir(root) if is_idx_name(name)]
    found: dict[str, Source] = {}
    if any(map(is_picture, names)):
        found["pictures"] = FolderSource(path=text)
    if top:
        train = any("train" in name and "images" in name for name in top)
        found["IDX files"] = IDXSource(path=text, split="train" if train else "test")
    if any(name.endswith(".tar") for name in names):
        found["tar shards"] = WebDatasetSource(path=text)
    if any(name.endswith(".parquet") for name in names):
        found["parquet files"] = ParquetSource(path=text)
    if len(found) > 1:
        choices = " or ".join(source.kind for source in found.values())
        raise DataError(f"{root} holds {' and '.join(found)}: say which is meant by its kind ({choices})")
    return next(iter(found.values()), FolderSource(path=text))


def _file(path: Path, text: str) -> Source:
    if path.suffix == ".parquet":
        return ParquetSource(path=text)
    if path.suffix == ".tar":
        return WebDatasetSource(path=text)
    if is_idx_name(path.name):
        return IDXSource(path=text)
    if is_picture(path.name):
        raise DataError(f"{path} is one picture: a source is the folder that holds it")
    raise DataError(f"{path}: not a data set (a folder, .parquet, .tar or IDX files are)")
