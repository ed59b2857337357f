"""`check` counts what is used, names what is not, and tells near misses, copies and broken files."""

from __future__ import annotations

import json
import shutil

import pytest

from safelight.data import check
from safelight.data.folder import METADATA
from tests.data.formats import CAPTIONED, pictures, put, with_jsonl


def test_everything_is_counted(tmp_path):
    examples = pictures(12, size=(8, 8))
    with_jsonl(tmp_path, examples)
    shutil.copy(tmp_path / "cat" / "0000.png", tmp_path / "cat" / "copy.png")
    whole = (tmp_path / "dog" / "0001.png").read_bytes()
    (tmp_path / "dog" / "0001.png").write_bytes(whole[:150])
    (tmp_path / "emu" / "zero.jpg").write_bytes(b"")
    (tmp_path / "emu" / "readme.md").write_text("hello")
    (tmp_path / "emu" / "more.jpgg").write_text("?")
    (tmp_path / ".DS_Store").write_text("?")
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "gone.png", "text": "x"}\nnot json\n{"text": "of nothing"}\n')
    (tmp_path / "emu" / "phone.heic").write_text("?")
    report = check(str(tmp_path))
    assert (report.kind, report.used, report.visits) == ("folder", 12, 12)
    assert report.uncaptioned == 1 and report.captions == 11
    assert report.duplicates == (("cat/0000.png", "cat/copy.png"),)
    assert report.sizes == {(8, 8, 3): 12}
    reasons = {s.path: (s.reason, s.lost) for s in report.skipped}
    assert reasons["dog/0001.png"][0].startswith("image file is truncated") and reasons["dog/0001.png"][1]
    assert reasons["emu/zero.jpg"] == ("empty file", True)
    assert reasons["emu/readme.md"] == ("not a picture (.md)", False)
    assert reasons["emu/more.jpgg"] == ("no picture suffix is .jpgg; did you mean .jpg?", True)
    assert reasons["metadata.jsonl:13"] == ("names gone.png, which is not there", True)
    assert reasons["metadata.jsonl:14"][0].startswith("not JSON")
    assert reasons["metadata.jsonl:15"] == ("a row without 'file_name'", True)
    assert reasons["emu/phone.heic"] == ("a picture, but .heic is not read here: convert it to .png or .jpg", True)
    assert len(report.skipped) == 8 and len(report.lost) == 7
    assert report.loss == pytest.approx(7 / 19)
    assert [s.meant for s in report.near_misses] == ["more.jpg"]
    assert not report.ok(1.0), "a near miss is never fine"
    json.dumps(report.as_dict())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("metadata.json1", "metadata.jsonl"),
        ("metadata.json", "metadata.jsonl"),
        ("metdata.jsonl", "metadata.jsonl"),
        ("meta_data.csv", "metadata.csv"),
        ("Metadata.CSV", "metadata.csv"),
    ],
)
def test_near_misses_of_metadata(tmp_path, name, meant):
    assert meant in METADATA
    put(tmp_path, pictures(2))
    (tmp_path / name).write_text("{}")
    report = check(str(tmp_path))
    assert [(s.path, s.meant) for s in report.near_misses] == [(name, meant)]
    assert f"did you mean {meant}?" in report.near_misses[0].reason
    assert not report.ok(0.9)


@pytest.mark.parametrize("form", CAPTIONED)
def test_a_whole_data_set_is_ok_in_every_format(tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    CAPTIONED[form][0](tmp_path, pictures())
    for workers in (0, 2):
        report = check(str(tmp_path), workers=workers)
        assert (report.used, report.lost, report.uncaptioned, report.captions) == (12, [], 0, 12)
        assert report.ok() and not report.duplicates
