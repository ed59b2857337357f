"""Every reader gives the same ids, captions and pixels for the same content, and `detect` knows which reader it takes."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from safelight.data import DataError, detect, memory
from safelight.data.idx import FASHION
from safelight.data.source import digest
from safelight.data.webdataset import expand
from safelight.spec import SpecError, build, describe, kinds, parse
from tests.data.formats import CAPTIONED, CLASSES, add, contents, idx_bytes, pictures, png, put, with_tars

FIXTURE = Path(__file__).parents[1] / "fixtures" / "fashion-1000"


@pytest.mark.parametrize("form", CAPTIONED)
def test_all_formats_give_the_same(form, tmp_path):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    examples = pictures()
    write, spec = CAPTIONED[form]
    write(tmp_path, examples)
    source = parse(spec(tmp_path), "source")
    want = {(e.id, e.caption, digest(e.image)) for e in examples}
    assert contents(source.open()) == want
    assert contents(detect(tmp_path).open()) == want
    assert detect(tmp_path).kind == source.kind
    assert parse(json.loads(json.dumps(describe(source)))) == source
    assert source.open().skipped == [] and source.open().repeats is None


def test_memory_gives_the_same():
    examples = pictures()
    data = memory([e.image for e in examples], [e.caption for e in examples], [e.id for e in examples])
    assert contents(data) == {(e.id, e.caption, digest(e.image)) for e in examples}


def test_class_captions_agree(tmp_path):
    """Class folders, .cls members, ClassLabel columns and IDX labels say the same."""
    examples = pictures(channels=1, size=(8, 8))
    names = [e.id.split("/")[0] for e in examples]
    want = {(name, digest(e.image)) for name, e in zip(names, examples, strict=True)}
    put(tmp_path / "folders", examples)
    with_tars(tmp_path / "tars", examples, "cls")
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.stack([e.image[..., 0] for e in examples])))
    labels = idx_bytes(np.array([CLASSES.index(n) for n in names]))
    (tmp_path / "idx" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    specs = [
        {"kind": "folder", "path": str(tmp_path / "folders")},
        {"kind": "webdataset", "path": str(tmp_path / "tars"), "names": CLASSES},
        {"kind": "idx", "path": str(tmp_path / "idx"), "names": CLASSES},
    ]
    for spec in specs:
        assert {(caption, pixels) for _, caption, pixels in contents(build(spec, "source").open())} == want, spec


def test_parquet_class_labels_and_plain_bytes(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    examples = pictures(6)
    labels = [CLASSES.index(e.id.split("/")[0]) for e in examples]
    features = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    table = pa.table({"picture": [png(e.image) for e in examples], "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no picture column 'image' \(columns: picture, label\)"):
        detect(tmp_path).open()
    data = build({"kind": "parquet", "path": str(tmp_path), "image": "picture"}, "source").open()
    assert list(data.captions) == [e.id.split("/")[0] for e in examples]
    assert [digest(data.read(i).image) for i in range(6)] == [digest(e.image) for e in examples]
    assert data.ids[0] == "00000"


def test_fashion_fixture_is_read_with_its_names():
    data = detect(FIXTURE).open()
    assert len(data) == 1000
    assert {c: list(data.captions).count(c) for c in FASHION} == dict.fromkeys(FASHION, 100)
    assert data.array().shape == (1000, 28, 28, 1)
    digits = build({"kind": "idx", "path": str(FIXTURE), "names": [str(i) for i in range(10)]}, "source").open()
    assert digits.captions[:3] == [str(FASHION.index(c)) for c in data.captions[:3]]


def test_idx_without_names_is_digits_and_three_channels_work(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    (tmp_path / "t10k-images-idx4-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.array([3, 1, 4, 1, 5])))
    source = detect(tmp_path)
    assert describe(source)["split"] == "test"
    data = source.open()
    assert list(data.captions) == ["3", "1", "4", "1", "5"]
    assert np.array_equal(data.array(), images)


def test_kohya_folders_repeat_and_name(tmp_path):
    examples = pictures(4)
    for e, folder in zip(examples, ("3_sks dog", "3_sks dog", "1_dog", "0_off"), strict=True):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{e.id[-4:]}.png").write_bytes(png(e.image))
    (tmp_path / "3_sks dog" / "0001.txt").write_text("sks dog on a sofa")
    data = detect(tmp_path).open()
    rows = dict(zip(data.ids, zip(data.captions, data.repeats, strict=True), strict=True))
    assert rows == {
        "1_dog/0002": ("dog", 1),
        "3_sks dog/0000": ("sks dog", 3),
        "3_sks dog/0001": ("sks dog on a sofa", 3),
    }
    assert [s.reason for s in data.skipped] == ["its folder says 0 repeats"]


def test_folder_captions_by_precedence_and_switches(tmp_path):
    examples = pictures(3)
    put(tmp_path, examples)
    assert set(detect(tmp_path).open().captions) == set(CLASSES)
    off = build({"kind": "folder", "path": str(tmp_path), "classes": False}, "source").open()
    assert set(off.captions) == {""}
    (tmp_path / "cat" / "0000.txt").write_text("from the text")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "cat/0000.png", "text": "from the table"}\n')
    data = detect(tmp_path).open()
    assert data.captions[list(data.ids).index("cat/0000")] == "from the table"
    none = build({"kind": "folder", "path": str(tmp_path), "text": None}, "source").open()
    assert none.captions[list(none.ids).index("cat/0000")] == "from the text"


def test_splits_are_never_mixed_in_silence(tmp_path):
    put(tmp_path / "train", pictures(3))
    put(tmp_path / "test", pictures(3))
    with pytest.raises(DataError, match=r"several splits \(test, train\): say which with split='train'"):
        detect(tmp_path).open()
    data = build({"kind": "folder", "path": str(tmp_path), "split": "train"}, "source").open()
    assert len(data) == 3 and set(data.captions) == set(CLASSES)


def test_same_stem_twice_keeps_both(tmp_path):
    a, b = pictures(2, size=(4, 4))
    (tmp_path / "x.png").write_bytes(png(a.image))
    (tmp_path / "x.PNG.bmp").write_bytes(png(b.image))
    (tmp_path / "x.webp").write_bytes(png(b.image))
    assert len(set(detect(tmp_path).open().ids)) == 3


def test_brace_expansion():
    assert expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand("{x,y}-{0..1}.tar") == ["x-0.tar", "x-1.tar", "y-0.tar", "y-1.tar"]
    assert expand("plain.tar") == ["plain.tar"]


def test_truncated_and_odd_shards_are_told(tmp_path):
    examples = pictures(6)
    with_tars(tmp_path, examples)
    whole = (tmp_path / "shard-02.tar").read_bytes()
    with tarfile.open(tmp_path / "shard-02.tar") as tar:
        last = tar.getmembers()[2]
    (tmp_path / "shard-02.tar").write_bytes(whole[: last.offset_data + last.size // 2])
    with tarfile.open(tmp_path / "shard-03.tar", "w") as tar:
        add(tar, "alone.txt", b"no picture")
    (tmp_path / "shard-04.tar").write_bytes(gzip.compress(whole))
    data = detect(tmp_path).open()
    assert len(data) == 5
    reasons = {s.path: s.reason for s in data.skipped}
    assert reasons[f"shard-02.tar:{last.name}"] == "the shard ends before it does"
    assert reasons["shard-03.tar:alone"] == "no picture in it (.txt)"
    assert reasons["shard-04.tar"].startswith("gzipped")


def test_a_missing_extra_names_itself(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    for spec in ({"kind": "hub", "name": "a/b"}, {"kind": "parquet", "path": str(tmp_path)}):
        with pytest.raises(SpecError, match=r"pip install 'safelight\[data\]'"):
            build(spec, "source").open()


def test_hub_reads_the_same_and_is_friendly_offline(tmp_path):
    """In a process of its own: `datasets` costs seconds to import and reads its cache folder from the environment then."""
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("datasets is not installed")
    examples = pictures()
    CAPTIONED["parquet"][0](tmp_path / "data", examples)
    script = f"""
from safelight.data import DataError
from safelight.spec import build
from tests.data.formats import contents, pictures
from safelight.data.source import digest
data = build({{"kind": "hub", "name": {str(tmp_path / "data")!r}}}, "source").open()
assert contents(data) == {{(e.id, e.caption, digest(e.image)) for e in pictures()}}, contents(data)
try:
    build({{"kind": "hub", "name": "nobody/nothing", "revision": "v3"}}, "source").open()
except DataError as error:
    print(error)
"""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src")])
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip()
    assert "\n" not in line
    assert "nobody/nothing at revision v3 is not in the local cache and the hub cannot be reached" in line


def test_every_kind_is_there():
    assert set(kinds("source")) >= {"idx", "folder", "parquet", "webdataset", "hub", "fashion-mnist"}
    assert set(kinds("transform")) >= {"crop", "pad", "stretch"}


def test_pictures_that_belong_to_others_are_no_pictures(tmp_path):
    """A `conditioning_image` or `mask` column names helpers: training on them would be silent nonsense."""
    a, b = pictures(2, size=(4, 4))
    (tmp_path / "mask").mkdir()
    (tmp_path / "a.png").write_bytes(png(a.image))
    (tmp_path / "mask" / "a.png").write_bytes(png(b.image))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x", "mask": "mask/a.png"}\n')
    data = detect(tmp_path).open()
    assert list(data.ids) == ["a"]
    assert [(s.path, s.lost) for s in data.skipped] == [("mask/a.png", False)]
    with tarfile.open(tmp_path / "mask" / "s.tar", "w") as tar:
        for name, image in (("k.mask.png", b.image), ("k.png", a.image)):
            add(tar, name, png(image))
    tars = build({"kind": "webdataset", "path": str(tmp_path / "mask")}, "source").open()
    assert digest(tars.read(0).image) == digest(a.image)


def test_a_single_folder_is_no_class_unless_told(tmp_path):
    put(tmp_path / "images", pictures(1))
    assert list(detect(tmp_path / "images").open().captions) == [""]
    told = build({"kind": "folder", "path": str(tmp_path / "images"), "classes": True}, "source").open()
    assert list(told.captions) == ["cat"]


def test_links_are_followed_once(tmp_path):
    put(tmp_path / "far", pictures(3))
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far", target_is_directory=True)
    (tmp_path / "far" / "dog" / "up").symlink_to(tmp_path / "far", target_is_directory=True)
    data = build({"kind": "folder", "path": str(tmp_path / "near")}, "source").open()
    assert len(data) == 3 and set(data.captions) == set(CLASSES)


def test_two_kinds_in_one_folder_must_be_told_apart(tmp_path):
    put(tmp_path, pictures(3))
    with_tars(tmp_path, pictures(3))
    with pytest.raises(
        DataError, match=r"holds pictures and tar shards: say which is meant by its kind \(folder or webdataset\)"
    ):
        detect(tmp_path)


def test_a_sample_of_a_shard_is_read_alone(tmp_path, monkeypatch):
    """Resuming inside a shard reads nothing before it: sample k costs the bytes of its picture and no more."""
    from safelight.data import webdataset

    examples = pictures(9)
    with_tars(tmp_path, examples)
    data = detect(tmp_path).open()
    read: list[int] = []
    monkeypatch.setattr(webdataset, "_read", lambda m, whole=webdataset._read: read.append(m.size) or whole(m))
    got = data.read(7)
    assert read == [len(png(got.image))]
