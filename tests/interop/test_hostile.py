"""Files that mean harm or are broken: nothing in them runs, nothing unfolds, and each gives one clear line."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from safelight.cli.main import main
from safelight.interop import pickles
from safelight.interop.checkpoint import DTYPES, Tensors, raw_header, write
from safelight.model import load, peek, save
from safelight.spec import SpecError
from tests import small
from tests.interop import folders


class Bomb:
    """Touches a file beside it when it is unpickled."""

    def __init__(self, beside: Path) -> None:
        self.beside = beside

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.beside / 'exploded'}",)


SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl", ".json", ".png", "")


def bomb(path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps({"state_dict": {"a": Bomb(path.parent)}}, protocol=protocol))


def torch_bomb(path: Path) -> None:
    torch.save({"state_dict": {"a": Bomb(path.parent)}}, path)


def disguised(path: Path) -> None:
    """A pickle behind what looks like the length of a header."""
    body = pickle.dumps(Bomb(path.parent), protocol=0)
    path.write_bytes(struct.pack("<Q", len(body)) + body)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", [lambda p: bomb(p, 0), lambda p: bomb(p, 2), lambda p: bomb(p, 5), torch_bomb, disguised])
def test_a_pickle_under_any_name_is_refused_and_does_not_run(
    tmp_path: Path, suffix: str, make: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"model{suffix}"
    make(path)
    for read in (load, peek):
        with pytest.raises(SpecError) as caught:
            read(path)
        assert "is not a safetensors file" in str(caught.value) and "\n" not in str(caught.value)
    assert main(["convert", str(path), "--out", str(tmp_path / "out.safetensors")]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("safelight: convert: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_convert_takes_the_tensors_of_a_pickle_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"a.weight": torch.randn(3, 4), "b": torch.arange(5, dtype=torch.int64), "half": torch.randn(6).half()}
    for name, how in (("new.ckpt", {}), ("old.ckpt", {"_use_new_zipfile_serialization": False})):
        torch.save({"state_dict": state, "global_step": 7, "epoch": 1}, tmp_path / name, **how)
        out = tmp_path / f"{name}.safetensors"
        assert main(["convert", str(tmp_path / name), "--out", str(out)]) == 0
        found = load_file(out)
        assert found.keys() == state.keys() and all(
            torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in state.items()
        )
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 4)}}, tmp_path / "word.pt")
    assert pickles.read(tmp_path / "word.pt")["string_to_token"] == {"*": 265}


def zip_bomb(path: Path) -> None:
    """A gigabyte of zeros in a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(1 << 20))


def overlapping_zip(path: Path) -> None:
    """An archive whose list says that a member is a terabyte."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", bytes(100))
        archive.infolist()[1].file_size = 1 << 31


def spread(path: Path) -> None:
    """One number that claims to be a trillion."""
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, path)


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


def cut_zip(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-400])


def nothing_in_it(path: Path) -> None:
    torch.save({"step": 3}, path)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (zip_bomb, "is a compressed archive, which torch does not write"),
        (overlapping_zip, "of contents"),
        (spread, "claims 1,099,511,627,776 values, more than the file has"),
        (other_zip, "but not one of torch's: it holds no data.pkl"),
        (cut_zip, "is damaged"),
        (nothing_in_it, "holds no tensors by name"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_archives_that_unfold(
    tmp_path: Path, make: Callable[[Path], None], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a.ckpt")
    tracemalloc.start()
    assert main(["convert", str(tmp_path / "a.ckpt"), "--out", str(tmp_path / "out.safetensors")]) == 2
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(shape: list[Any], start: Any, stop: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


LIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "too long": (lambda p: raw(p, {}, length=1 << 62), "is not a safetensors file"),
    "longer than the file": (lambda p: raw(p, {"a": entry([1], 0, 4)}, bytes(4), length=500), "is not a safetensors file"),
    "cut short": (lambda p: raw(p, {"a": entry([100], 0, 400)}, bytes(399)), "is cut short: its header promises 400 bytes"),
    "bytes behind": (lambda p: raw(p, {"a": entry([1], 0, 4)}, bytes(9)), "5 bytes behind its last tensor belong to none"),
    "overlapping": (
        lambda p: raw(p, {"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        "'b' lies over the tensor before it",
    ),
    "the same place": (
        lambda p: raw(p, {"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8)),
        "lies over the tensor before it",
    ),
    "a hole": (lambda p: raw(p, {"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "'b' leaves a hole of 4 bytes"),
    "negative": (lambda p: raw(p, {"a": entry([1], -4, 0)}, b""), "without saying where it lies"),
    "negative shape": (lambda p: raw(p, {"a": entry([-1, -1], 0, 4)}, bytes(4)), "without saying where it lies"),
    "vast shape": (lambda p: raw(p, {"a": entry([1 << 62, 1 << 62], 0, 4)}, bytes(4)), "of F32, but lies in 4 bytes"),
    "true as a number": (lambda p: raw(p, {"a": entry([True], 0, 4)}, bytes(4)), "without saying where it lies"),
    "no offsets": (lambda p: raw(p, {"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "without saying where it lies"),
    "not an entry": (lambda p: raw(p, {"a": 3}, bytes(4)), "without saying where it lies"),
    "unknown type": (lambda p: raw(p, {"a": entry([1], 0, 4, "F33")}, bytes(4)), "is of type 'F33', which is not known here"),
    "type of another kind": (lambda p: raw(p, {"a": entry([1], 0, 4, ["F32"])}, bytes(4)), "which is not known here"),
    "twice": (
        lambda p: raw(p, b'{"a":' + json.dumps(entry([1], 0, 4)).encode() + b',"a":{}}', bytes(4)),
        "its header has 'a' twice",
    ),
    "no object": (lambda p: raw(p, b"[1, 2, 3, 4]"), "is not a safetensors file"),
    "a number": (lambda p: raw(p, b"123456789012"), "is not a safetensors file"),
    "deep": (lambda p: raw(p, b'{"a":' * 100_000), "is not a safetensors file"),
    "a long number": (lambda p: raw(p, b'{"a":' + b"9" * 10_000 + b"}"), "is not a safetensors file"),
    "no JSON": (lambda p: raw(p, b"{" + b"\xff" * 100), "is not a safetensors file"),
    "notes that are no texts": (lambda p: raw(p, {"__metadata__": {"a": [1]}}), "the notes in its header are no texts"),
    "notes that are none": (lambda p: raw(p, {"__metadata__": [1]}), "the notes in its header are no texts"),
    "a name with lines in it": (lambda p: raw(p, {"a\n\x1b[31mb": entry([1], 0, 4)}, bytes(4)), "is no name"),
    "a name of a megabyte": (lambda p: raw(p, {"a" * 1_000_000: entry([1], 0, 4)}, bytes(4)), "is no name"),
    "our key, no JSON": (lambda p: raw(p, {"__metadata__": {"safelight": "{"}}), "its header cannot be read"),
    "our key, deep": (lambda p: raw(p, {"__metadata__": {"safelight": "[" * 9999}}), "its header cannot be read"),
    "empty": (lambda p: p.write_bytes(b""), "it is empty"),
    "a web page": (lambda p: p.write_bytes(b"<!DOCTYPE html><html>not found</html>"), "what was downloaded is not the file"),
    "a pointer": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "a Git LFS pointer"),
}


@pytest.mark.parametrize("name", LIES)
def test_headers_that_lie(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, line = LIES[name]
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert line in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert main(["generate", "a cat", "--model", str(path), "--out", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 1 << 16), value=st.integers(0, 255), cut=st.integers(0, 64))
def test_any_damage_is_one_line_or_harmless(tmp_path_factory: pytest.TempPathFactory, place: int, value: int, cut: int) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.safetensors"
    write(path, {"a": torch.ones(3), "b.c": torch.ones(2, 2, dtype=torch.float16)}, {"format": "pt"})
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data[: len(data) - cut])
    line = ""
    try:
        dict(Tensors([path]))
    except SpecError as error:
        line = str(error)
    assert "\n" not in line


def index(folder: Path, file: str) -> None:
    """An index that names `file` for one tensor."""
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    there = unet.rename(unet.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    where = dict.fromkeys(raw_header(there).keys() - {"__metadata__"}, there.name)
    where["conv_in.weight"] = file
    unet.with_name(unet.name + ".index.json").write_text(json.dumps({"weight_map": where}))


def shard_missing(folder: Path) -> None:
    index(folder, "diffusion_pytorch_model-00002-of-00002.safetensors")


def above(folder: Path) -> None:
    index(folder, "../../secret.safetensors")


def absolute(folder: Path) -> None:
    index(folder, "/etc/passwd")


def windows(folder: Path) -> None:
    index(folder, "..\\secret.safetensors")


def elsewhere(folder: Path) -> None:
    index(folder, "diffusion_pytorch_model-00001-of-00002.safetensors")
    path = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    said = json.loads(path.read_text())
    path.write_text(
        json.dumps({"weight_map": {**said["weight_map"], "nowhere": "diffusion_pytorch_model-00001-of-00002.safetensors"}})
    )


def component_above(folder: Path) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "../secret": ["diffusers", "AutoencoderKL"]}))


def long_index(folder: Path) -> None:
    (folder / "model_index.json").write_bytes(b'{"a": "' + b"a" * 17_000_000 + b'"}')


def pickled(folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    bomb(folder / "unet/diffusion_pytorch_model.bin", 2)


def renamed(folder: Path) -> None:
    bomb(folder / "unet/diffusion_pytorch_model.safetensors", 2)


def code(folder: Path) -> None:
    """A pipeline of its own, which diffusers would run when told to."""
    (folder / "pipeline.py").write_text(f"open({str(folder.parent / 'exploded')!r}, 'w')")
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": ["pipeline", "Evil"]}))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save(folders.sd1(), tmp_path_factory.mktemp("hostile") / "tiny")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (shard_missing, "is missing, one of 2 files that"),
        (above, "which is not a file of its own folder"),
        (absolute, "which is not a file of its own folder"),
        (windows, "which is not a file of its own folder"),
        (elsewhere, "says that 'nowhere' is in"),
        (component_above, "which is no folder of its own"),
        (long_index, "which is no configuration"),
        (pickled, "is a pickle, which is never loaded: it could run code; safelight convert"),
        (renamed, "it looks like a pickle, which is never loaded"),
        (code, "has no counterpart here"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_folders(
    sd1: Path, tmp_path: Path, change: Callable[[Path], None], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = Path(shutil.copytree(sd1, tmp_path / "copy"))
    save_file({"conv_in.weight": torch.ones(1)}, tmp_path / "secret.safetensors")
    change(folder)
    assert main(["inspect", str(folder)]) == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1
    assert not (tmp_path / "exploded").exists() and "pipeline" not in sys.modules


WRONG: tuple[Any, ...] = (None, "x", -1, 0, 0.5, True, [], {}, [1], [None, "x"], "1e999", {"a": {}})


@pytest.mark.parametrize("part", ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
                                  "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"])  # fmt: skip
def test_any_value_in_a_configuration_is_understood_or_one_line(sd1: Path, tmp_path: Path, part: str) -> None:
    import shutil

    folder = Path(shutil.copytree(sd1, tmp_path / "copy"))
    path = folder / part
    before = json.loads(path.read_text())
    lines: list[str] = []
    for name in before:
        for value in WRONG:
            path.write_text(json.dumps({**before, name: value}))
            try:
                peek(folder)
            except SpecError as error:
                lines.append(str(error))
    assert not any("\n" in line or len(line) > 1500 for line in lines)
    assert lines or part.startswith("tokenizer")
    path.write_text("{}")
    if part not in ("tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"):  # all of theirs has a default
        with pytest.raises(SpecError):
            peek(folder)
    path.unlink()
    if part not in ("tokenizer/tokenizer_config.json", "model_index.json"):
        with pytest.raises(SpecError, match="has no configuration"):
            peek(folder)


def test_weights_that_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They load, as no weight is read then; the picture that they would make is refused, and the weight is named."""
    model = small.model()
    with torch.no_grad():
        model.get_parameter("denoiser.network.patch.weight").view(-1)[3] = float("nan")
    save(tmp_path / "nan.safetensors", model)
    assert main(["generate", "shoe", "--model", str(tmp_path / "nan.safetensors"), "--out", str(tmp_path / "x.png")]) == 2
    err = capsys.readouterr().err
    assert "'denoiser.network.patch.weight' of nan holds NaN or an infinity" in err and err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_every_type_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The bytes of a file are those of the format's own library, whose readers and writers are the oracle."""
    torch.manual_seed(0)
    kinds = {name: getattr(torch, theirs, None) for name, (_, theirs) in DTYPES.items()}
    made = {
        f"{'z' if i % 2 else 'a'}.{name}": (torch.rand(3, 5) * 100).to(kind)
        for i, (name, kind) in enumerate(kinds.items())
        if kind is not None and name not in ("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
    }
    made |= {"scalar": torch.tensor(3.0), "none": torch.zeros(0, 4), "turned": torch.arange(6.0).view(2, 3).T}
    write(tmp_path / "ours.safetensors", made, {"format": "pt", "b": "ü"})
    save_file({k: v.contiguous() for k, v in made.items()}, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    write(tmp_path / "again.safetensors", made, {"format": "pt"})
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    for found in (load_file(tmp_path / "ours.safetensors"), Tensors([tmp_path / "theirs.safetensors"])):
        for name, value in made.items():
            assert found[name].dtype == value.dtype and found[name].shape == value.shape
            assert (
                found[name].contiguous().view(torch.uint8).equal(value.contiguous().view(torch.uint8))
                if value.ndim
                else found[name] == value
            )


def test_a_file_that_changes_under_the_reader_is_told(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1000)}, tmp_path / "a.safetensors")
    tensors = Tensors([tmp_path / "a.safetensors"])
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(SpecError, match="has changed since its header was read"):
        tensors["a"]
