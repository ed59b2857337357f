"""Data sets of the Hugging Face hub, through the `datasets` library of the `data` extra. Pictures are decoded by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safelight.data.decode import decode
from safelight.data.extra import need
from safelight.data.parquet import named
from safelight.data.source import CorruptError, DataError, Dataset, Example, Source, caption_of, unique
from safelight.spec import nearest


class HubSource(Source, kind="hub"):
    """A data set of the hub (or a local folder that `datasets` can load).

    name:     the repository, "owner/name".
    config:   its configuration, where it has several.
    split:    which split.
    revision: a branch, tag or commit; None takes the newest, so name one where a run must be repeatable.
    image:    the column of pictures.
    text:     the caption column; None takes no captions from it.
    label:    the column of classes, used when there is no caption column.
    """

    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    image: str = "image"
    text: str | None = "text"
    label: str = "label"

    def open(self) -> Dataset:
        library = need("datasets", "data sets of the hub")
        which = f"{self.name}{f' ({self.config})' if self.config else ''} at revision {self.revision or 'main'}"
        try:
            table = library.load_dataset(self.name, self.config, split=self.split, revision=self.revision)
        except Exception as error:  # the library, its HTTP client and its cache raise dozens of classes
            if offline(error):
                raise DataError(
                    f"hub: {which} is not in the local cache and the hub cannot be reached; "
                    "give the path of a local copy to a folder, parquet or webdataset source instead"
                ) from None
            raise DataError(f"hub: {which}, split '{self.split}': {' '.join(str(error).split())[:200]}") from None
        return Hub(table, self)


class Hub(Dataset):
    """A table of the `datasets` library with its pictures left encoded."""

    def __init__(self, table: Any, spec: HubSource) -> None:
        columns = list(table.column_names)
        if spec.image not in columns:
            known = ", ".join(columns)
            hint = nearest(spec.image, columns)
            raise DataError(f"hub: {spec.name} has no picture column '{spec.image}' (columns: {known}){hint} Set `image` to it")
        if len(table) == 0:
            raise DataError(f"hub: {spec.name}, split '{spec.split}': no pictures in it")
        self._column = spec.image
        self.captions = _captions(table, spec)
        self._table = table.cast_column(spec.image, need("datasets", "data sets of the hub").Image(decode=False))
        paths = [None if v is None else v.get("path") for v in self._table.select_columns([spec.image])[spec.image]]
        width = max(5, len(str(len(table) - 1)))
        names = [Path(p).as_posix() if p else f"{i:0{width}d}" for i, p in enumerate(paths)]
        self.ids = unique([Path(n).with_suffix("").as_posix() if p else n for n, p in zip(names, paths, strict=True)], names)

    def read(self, i: int) -> Example:
        value = self._table[i][self._column]
        data = value.get("bytes")
        if data is None and value.get("path"):
            try:
                data = Path(value["path"]).read_bytes()
            except OSError as error:
                raise CorruptError(f"cannot be read: {error.strerror or error}") from None
        if data is None:
            raise CorruptError("neither bytes nor a path in its row")
        return Example(self.ids[i], decode(data), self.captions[i])


def _captions(table: Any, spec: HubSource) -> list[str]:
    columns = list(table.column_names)
    if spec.text is not None and spec.text in columns:
        return [caption_of({spec.text: value}, spec.text, spec.name) for value in table[spec.text]]
    if spec.label in columns:
        names = list(getattr(table.features[spec.label], "names", None) or [])
        return [named(value, names) for value in table[spec.label]]
    if spec.text is not None:
        caption_of(dict.fromkeys(columns), spec.text, f"hub: {spec.name}")
    return [""] * len(table)


def offline(error: BaseException) -> bool:
    """Whether an error of the library means that there is no way to the hub."""
    chain: BaseException | None = error
    while chain is not None:
        kinds = {cls.__name__ for cls in type(chain).__mro__}
        if kinds & {
            "ConnectionError",
            "LocalEntryNotFoundError",
            "OfflineModeIsEnabled",
            "ConnectError",
            "ConnectTimeout",
            "ReadTimeout",
        }:
            return True
        chain = chain.__cause__ or chain.__context__
    return "offline" in str(error).lower() or "couldn't reach" in str(error).lower()
