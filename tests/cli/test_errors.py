"""Bad input: one clear line on stderr, exit code 2, and nothing written. One row a way to get it wrong."""

from __future__ import annotations

import json
import pickle
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from safelight.model import MIGRATIONS, Model, peek, save
from tests.cli.conftest import tiny


def listing(folder: Path) -> dict[str, int]:
    """Every file below a folder with its size."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def pickled(folder: Path, model: Path) -> list[str]:
    (folder / "p.safetensors").write_bytes(pickle.dumps(Canary(folder / "canary")))
    return ["p.safetensors"]


def zipped_pickle(folder: Path, model: Path) -> list[str]:
    torch.save({"x": torch.zeros(3)}, folder / "z.safetensors")
    return ["z.safetensors"]


def cut_short(folder: Path, model: Path) -> list[str]:
    (folder / "c.safetensors").write_bytes(model.read_bytes()[:-100])
    return ["c.safetensors"]


def header_cut_short(folder: Path, model: Path) -> list[str]:
    (folder / "h.safetensors").write_bytes(model.read_bytes()[:300])
    return ["h.safetensors"]


def empty(folder: Path, model: Path) -> list[str]:
    (folder / "e.safetensors").write_bytes(b"")
    return ["e.safetensors"]


def foreign(folder: Path, model: Path) -> list[str]:
    save_file({"w": torch.zeros(3)}, folder / "f.safetensors")
    return ["f.safetensors"]


def edited(folder: Path, model: Path, edit: Callable[[dict[str, Any]], None], name: str) -> list[str]:
    """The model with its own description changed."""
    data = model.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"]["safelight"])
    edit(about)
    header["__metadata__"]["safelight"] = json.dumps(about)
    text = json.dumps(header).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return [name]


def another_network(folder: Path, model: Path) -> list[str]:
    return edited(folder, model, lambda about: about["spec"]["network"].update(widths=[16, 32]), "n.safetensors")


def another_depth(folder: Path, model: Path) -> list[str]:
    return edited(folder, model, lambda about: about["spec"]["network"].update(tail=True), "d.safetensors")


def unknown_kind(folder: Path, model: Path) -> list[str]:
    return edited(folder, model, lambda about: about["spec"]["process"].update(kind="cosin"), "k.safetensors")


def newer_format(folder: Path, model: Path) -> list[str]:
    return edited(folder, model, lambda about: about.update(format=99), "v.safetensors")


def unknown_in_config(folder: Path, model: Path) -> list[str]:
    (folder / "c.yaml").write_text("sampler:\n  kind: ddim\n  etta: 1\n")
    return [str(model), "--config", "c.yaml"]


def list_as_config(folder: Path, model: Path) -> list[str]:
    (folder / "l.yaml").write_text("- ddim\n")
    return [str(model), "--config", "l.yaml"]


def broken_config(folder: Path, model: Path) -> list[str]:
    (folder / "b.yaml").write_text("sampler: {kind: ddim\n")
    return [str(model), "--config", "b.yaml"]


def file_as_folder(folder: Path, model: Path) -> list[str]:
    (folder / "taken").write_text("")
    return [str(model), "--out", "taken/deeper"]


def own(*rest: str) -> Callable[[Path, Path], list[str]]:
    """The good model with these arguments."""
    return lambda folder, model: [str(model), *rest]


# what is wrong -> (arguments of `safelight sample`, what the line must say)
SAMPLE: dict[str, tuple[Callable[[Path, Path], list[str]], list[str]]] = {
    "missing file": (lambda folder, model: ["no/such.safetensors"], ["no file no/such.safetensors"]),
    "unknown name": (lambda folder, model: ["fashion-mnistt"], ["no model 'fashion-mnistt'", "embedded are"]),
    "folder without a model": (lambda folder, model: ["."], ["holds no model.safetensors"]),
    "pickle renamed": (pickled, ["p.safetensors is not a safetensors file", "pickle", "never loaded"]),
    "torch.save renamed": (zipped_pickle, ["z.safetensors is not a safetensors file", "pickle", "never loaded"]),
    "empty file": (empty, ["e.safetensors is not a safetensors file"]),
    "cut short": (cut_short, ["c.safetensors is cut short", "copy it again"]),
    "header cut short": (header_cut_short, ["h.safetensors is not a safetensors file"]),
    "foreign safetensors": (foreign, ["f.safetensors is a safetensors file, but not a Safelight model"]),
    "another network": (another_network, ["n.safetensors is of another network", "is expected"]),
    "another depth": (another_depth, ["d.safetensors is of another network: it lacks 'denoiser.network.stages"]),
    "unknown kind in a file": (unknown_kind, ["model.process: no process 'cosin'; did you mean 'cosine'?"]),
    "newer format": (newer_format, ["format 99", "update safelight"]),
    "unknown weights": (own("--weights", "emma"), ["no weights 'emma'; did you mean 'ema'? (it has: raw, ema)"]),
    "unknown class": (own("-p", "ancle boot"), ["no class 'ancle boot'; did you mean 'ankle boot'?"]),
    "unknown sampler": (own("--sampler", "ddmi"), ["request.sampler: no sampler 'ddmi'; did you mean 'dd", "kinds: "]),
    "unknown field": (own("--set", "sampler.etta=1"), ["request.sampler: unknown field 'etta'; did you mean 'eta'? (fields: eta)"]),
    "unknown field at the top": (own("--set", "stepps=3"), ["request: unknown field 'stepps'; did you mean 'steps'?"]),
    "unknown branch": (own("--set", "samler.eta=1"), ["no 'samler'; did you mean 'sampler'?"]),
    "field of a number": (own("--set", "steps.x=1"), ["'steps' is 4, it has no fields"]),
    "past a list": (own("--set", "bends.3.bound=1"), ["'bends' is a list of 0"]),
    "no value": (own("--set", "steps"), ["write path=value"]),
    "out of range": (own("--set", "mix.rescale=2"), ["request.mix.rescale: ", "less than or equal to 1 (given: 2)"]),
    "wrong type": (own("--set", "steps=many"), ["request.steps: ", "integer", "'many'"]),
    "no steps": (own("--steps", "0"), ["request.steps: ", "(given: 0)"]),
    "no pictures": (own("--count", "0"), ["request.count: ", "(given: 0)"]),
    "size of another shape": (own("--size", "twelve"), ["--size twelve: write HEIGHTxWIDTH"]),
    "unknown device": (own("--device", "cuda:7"), ["device: no 'cuda:7' here", "devices: auto, "]),
    "unknown film": (own("--film", "x.mp4"), ["'.mp4' is no film format here"]),
    "unknown field in a config": (unknown_in_config, ["request.sampler: unknown field 'etta'; did you mean 'eta'?"]),
    "config is a list": (list_as_config, ["l.yaml holds no fields"]),
    "config is broken": (broken_config, ["b.yaml is not YAML"]),
    "missing config": (own("--config", "none.yaml"), ["none.yaml: No such file or directory"]),
    "output below a file": (file_as_folder, ["taken"]),
}


@pytest.mark.parametrize("what", SAMPLE)
def test_sample_refuses(what: str, cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, says = SAMPLE[what]
    argv = make(tmp_path, model)
    before = listing(tmp_path)
    ran = cli("sample", *argv, *(() if "--count" in argv else ("--count", "1")))
    assert ran.code == 2, ran
    assert ran.err.startswith("safelight: sample: ")
    assert ran.err.count("\n") == 1
    for words in says:
        assert words in ran.err
    assert listing(tmp_path) == before
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("what", ["pickle renamed", "torch.save renamed", "empty file", "cut short", "header cut short", "missing file"])
def test_inspect_refuses(what: str, cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, says = SAMPLE[what]
    ran = cli("inspect", *make(tmp_path, model))
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    for words in says:
        assert words in ran.err
    assert not (tmp_path / "canary").exists()


def test_full_disk(model: Path, tmp_path: Path) -> None:
    """The kernel refuses to write beyond a few bytes: one line, exit code 2, no partial file, and what was there stays."""
    limits = {"--out new": 200, "--trace t.safetensors": 2048, "--save-config c.yaml": 64, "--film f.gif": 2048}
    there = ("t.safetensors", "c.yaml", "f.gif")
    for name in there:
        (tmp_path / name).write_text("before")
    code = (
        "import io, contextlib, json, resource, sys\n"
        "from safelight.cli.main import main\n"
        "said = {}\n"
        f"for argv, limit in {limits!r}.items():\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):\n"
        f"        code = main(['sample', {str(model)!r}, '--count', '1', '-p', 'bag', *argv.split()])\n"
        "    said[argv] = [code, err.getvalue()]\n"
        "print(json.dumps(said))\n"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for argv, (exit_code, err) in json.loads(done.stdout).items():
        assert exit_code == 2, (argv, err)
        assert err.startswith("safelight: sample: "), argv
        assert err.count("\n") == 1, argv
        assert "File too large" in err, argv
    assert not [p for p in tmp_path.rglob("*") if "partial" in p.name]
    for name in there:
        assert (tmp_path / name).read_text() == "before"


def test_a_full_disk_leaves_the_model_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    built: Model = tiny().build()
    save(path, built, lineage={"images": 1})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(Exception, match="File too large"):
            save(path, built, lineage={"images": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert peek(path).lineage == {"images": 1}


def test_every_format_before_this_one_has_its_migration(model: Path) -> None:
    assert sorted(MIGRATIONS) == list(range(1, peek(model).format))
