"""The same twelve pictures written in every format, so that the readers can be held against each other."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from safelight.data import Dataset, Example, Source
from safelight.data.source import digest

CLASSES = ("cat", "dog", "emu")


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(out, "PNG")
    return out.getvalue()


def pictures(n: int = 12, channels: int = 3, size: tuple[int, int] | None = None) -> list[Example]:
    """Distinct noise pictures of many sizes (or one), four a class, with ids `class/number` and captions of their own."""
    rng = np.random.default_rng(7)
    made = []
    for i in range(n):
        h, w = size or (8 + i % 3, 9 + i % 4)
        image = rng.integers(0, 256, (h, w, channels), dtype=np.uint8)
        name = CLASSES[i % 3]
        made.append(Example(f"{name}/{i:04d}", image, f'a {name}, number {i}, "quoted", ümlaut'))
    return made


def contents(data: Dataset) -> set[tuple[str, str, bytes]]:
    """{(id, caption, pixels)}: what a reader gives, whatever its order."""
    assert len(data) == len(data.ids) == len(data.captions)
    read = [data.read(i) for i in range(len(data))]
    assert [e.id for e in read] == list(data.ids)
    assert [e.caption for e in read] == list(data.captions)
    return {(e.id, e.caption, digest(e.image)) for e in read}


def put(root: Path, examples: list[Example]) -> None:
    for e in examples:
        (root / e.id).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{e.id}.png").write_bytes(png(e.image))


def with_jsonl(root: Path, examples: list[Example]) -> None:
    put(root, examples)
    rows = [json.dumps({"file_name": f"{e.id}.png", "text": e.caption, "width": 3}) for e in examples]
    (root / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def with_csv(root: Path, examples: list[Example]) -> None:
    """One table a folder, names relative to it."""
    put(root, examples)
    for folder in {Path(e.id).parent for e in examples}:
        with (root / folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "file_name"])
            writer.writerows([e.caption, Path(e.id).name + ".png"] for e in examples if Path(e.id).parent == folder)


def with_sidecars(root: Path, examples: list[Example]) -> None:
    put(root, examples)
    for i, e in enumerate(examples):
        (root / f"{e.id}{'.txt' if i % 2 else '.caption'}").write_text(e.caption + "\n", encoding="utf-8")


def with_parquet(root: Path, examples: list[Example]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in range(2):
        mine = examples[part::2]
        image = [{"bytes": png(e.image), "path": f"{e.id}.png"} for e in mine]
        table = pa.table({"image": image, "text": [e.caption for e in mine]})
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / f"train-0000{part}-of-00002.parquet", row_group_size=2)


def with_tars(root: Path, examples: list[Example], captions: str = "txt") -> None:
    root.mkdir(parents=True, exist_ok=True)
    for part in range(3):
        with tarfile.open(root / f"shard-{part:02d}.tar", "w") as tar:
            for e in examples[part::3]:
                add(tar, f"{e.id}.png", png(e.image))
                if captions == "txt":
                    add(tar, f"{e.id}.txt", e.caption.encode())
                elif captions == "json":
                    add(tar, f"{e.id}.json", json.dumps({"text": e.caption, "id": 1}).encode())
                else:
                    add(tar, f"{e.id}.cls", str(CLASSES.index(e.id.split("/")[0])).encode())


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


CAPTIONED: dict[str, tuple[Callable[[Path, list[Example]], None], Callable[[Path], Source | dict[str, object]]]] = {
    "jsonl": (with_jsonl, lambda p: {"kind": "folder", "path": str(p)}),
    "csv": (with_csv, lambda p: {"kind": "folder", "path": str(p)}),
    "sidecars": (with_sidecars, lambda p: {"kind": "folder", "path": str(p)}),
    "parquet": (with_parquet, lambda p: {"kind": "parquet", "path": str(p)}),
    "tars": (with_tars, lambda p: {"kind": "webdataset", "path": str(p / "shard-{00..02}.tar")}),
    "tars-json": (lambda p, e: with_tars(p, e, "json"), lambda p: {"kind": "webdataset", "path": str(p)}),
}
