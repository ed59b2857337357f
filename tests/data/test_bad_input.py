"""Data that cannot be used: one clear line each, as SpecError, which the command line prints before it exits with 2."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from safelight.data import load
from safelight.spec import SpecError, build
from tests.data.formats import idx_bytes, pictures, png, put


def idx(root: Path, images: bytes, labels: bytes | None = None) -> dict[str, str]:
    (root / "train-images-idx3-ubyte").write_bytes(images)
    if labels is not None:
        (root / "train-labels-idx1-ubyte").write_bytes(labels)
    return {"kind": "idx", "path": str(root)}


GOOD = idx_bytes(np.zeros((3, 4, 4)))


def missing_folder(root):
    (root / "pets").mkdir()
    return {"kind": "folder", "path": str(root / "pest")}


def all_truncated(root):
    (root / "a.png").write_bytes(png(pictures(1, size=(40, 40))[0].image)[:500])
    return {"kind": "folder", "path": str(root)}


def only_texts(root):
    (root / "a.txt").write_text("a caption")
    return {"kind": "folder", "path": str(root)}


def other_column(root):
    put(root, pictures(1))
    (root / "metadata.csv").write_text("file_name,caption\ncat/0000.png,hello\n")
    return {"kind": "folder", "path": str(root)}


def no_file_name(root):
    put(root, pictures(1))
    (root / "metadata.jsonl").write_text('{"filename": "cat/0000.png", "text": "x"}\n')
    return {"kind": "folder", "path": str(root)}


def cut_gzip(root):
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(GOOD)[:-9])
    return {"kind": "idx", "path": str(root)}


def not_parquet(root):
    pytest.importorskip("pyarrow")
    (root / "a.parquet").write_bytes(b"PAR1 no more")
    return {"kind": "parquet", "path": str(root)}


def pattern_without_files(root):
    return {"kind": "webdataset", "path": str(root / "x-{0..3}.tar")}


TABLE = {
    "missing folder": (missing_folder, r"no such file or folder: .*pest; did you mean 'pets'\?"),
    "empty folder": (lambda r: {"kind": "folder", "path": str(r)}, r"no pictures in it \(it is empty\)"),
    "no pictures": (only_texts, r"no pictures in it \(only texts, such as a.txt\)"),
    "truncated PNG": (all_truncated, r"none of the 1 pictures can be read \(a.png: .*truncated"),
    "unknown field": (lambda r: {"kind": "folder", "paht": str(r)}, "unknown field 'paht'; did you mean 'path'"),
    "unknown kind": (lambda r: {"kind": "foldr", "path": str(r)}, "no source 'foldr'; did you mean 'folder'"),
    "other caption column": (
        other_column,
        r"no caption column 'text' \(columns: file_name, caption\); did you mean 'caption'\?",
    ),
    "no file_name": (no_file_name, "a row needs 'file_name' .columns: filename, text.; did you mean 'filename'"),
    "wrong magic": (lambda r: idx(r, b"\x89PNG" + GOOD), "not an IDX file: it begins with 89 50 4e 47"),
    "wrong type": (lambda r: idx(r, idx_bytes(np.zeros((3, 4, 4)), 13)), "type 08. is wanted, this is type 0d"),
    "wrong shape": (lambda r: idx(r, idx_bytes(np.zeros(9))), r"pictures are \(N, H, W\) or \(N, H, W, C\), this is \(9,\)"),
    "truncated IDX": (lambda r: idx(r, GOOD[:-1]), r"truncated: shape \(3, 4, 4\) needs 48 bytes of data, it has 47"),
    "truncated gzip": (cut_gzip, "train-images-idx3-ubyte.gz: cannot be read: "),
    "count mismatch": (lambda r: idx(r, GOOD, idx_bytes(np.zeros(4))), "4 labels for 3 pictures"),
    "no such split": (
        lambda r: idx(r, GOOD) | {"split": "test"},
        "no pictures of split 'test'.*it holds train-images-idx3-ubyte",
    ),
    "label without a name": (lambda r: idx(r, GOOD, idx_bytes(np.full(3, 7))) | {"names": ["a"]}, "label 7 has no name"),
    "not parquet": (not_parquet, "no pictures in 1 parquet file .a.parquet: not a parquet file"),
    "missing shards": (pattern_without_files, "4 of 4 shards of .* are not there"),
}


@pytest.mark.parametrize("case", TABLE)
def test_one_clear_line(case, tmp_path):
    make, why = TABLE[case]
    spec = make(tmp_path)
    with pytest.raises(SpecError, match=why) as caught:
        load(build(spec, "source"), channels=1, size=4)
    assert "\n" not in str(caught.value)
