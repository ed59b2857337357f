"""Bad input: one clear line on stderr, exit code 2, and nothing written. One row a way to get it wrong."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from safelight.cli.main import explain
from safelight.cli.train import keep
from safelight.model import MIGRATIONS, Model, peek, save
from tests.cli.conftest import tiny
from tests.train import victim


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
    "unknown field": (
        own("--set", "sampler.etta=1"),
        ["request.sampler: unknown field 'etta'; did you mean 'eta'? (fields: eta, free_noise, stride)"],
    ),
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
    "unknown film": (own("--film", "x.avi"), ["'.avi' is no film format here"]),
    "unknown field in a config": (unknown_in_config, ["request.sampler: unknown field 'etta'; did you mean 'eta'?"]),
    "config is a list": (list_as_config, ["l.yaml holds no fields"]),
    "config is broken": (broken_config, ["b.yaml is not YAML"]),
    "missing config": (own("--config", "none.yaml"), ["none.yaml: No such file or directory"]),
    "output below a file": (file_as_folder, ["taken"]),
}


@pytest.mark.parametrize("what", SAMPLE)
def test_sample_refuses(
    what: str, cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize(
    "what", ["pickle renamed", "torch.save renamed", "empty file", "cut short", "header cut short", "missing file"]
)
def test_inspect_refuses(
    what: str, cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, says = SAMPLE[what]
    ran = cli("inspect", *make(tmp_path, model))
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    for words in says:
        assert words in ran.err
    assert not (tmp_path / "canary").exists()


def png(folder: Path, name: str, side: int = 28, channels: int = 1) -> Path:
    """A picture file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((side, side), 64).convert("L" if channels == 1 else "RGB").save(path)
    return path


def three(folder: Path) -> str:
    for k in range(3):
        png(folder, f"three/{k}.png")
    return "three"


def hollow(folder: Path) -> str:
    (folder / "hollow").mkdir()
    return "hollow"


def words(folder: Path) -> str:
    (folder / "words").mkdir()
    (folder / "words" / "a.txt").write_text("a caption")
    return "words"


def all_truncated(folder: Path) -> str:
    for k in range(3):
        path = png(folder, f"cut/{k}.png")
        path.write_bytes(path.read_bytes()[:200])
    return "cut"


def circles(folder: Path) -> str:
    """Two classes that no recipe knows."""
    for k in range(4):
        png(folder, f"shapes/{('circle', 'square')[k % 2]}/{k}.png")
    return "shapes"


def a_run(folder: Path) -> str:
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text("{}")
    return three(folder)


_TINY = ["fashion-mnist-tutorial", "--set", "plan.steps=1"]
_CLASSES = ["fashion-mnist", "--set", "plan.batch=1", "--set", "model.network.widths=[64]"]

# what is wrong -> (makes the data and names their folder, further arguments of `safelight train`, what the line must say)
TRAIN: dict[str, tuple[Callable[[Path], str], list[str], list[str]]] = {
    "missing folder": (lambda folder: "nowhere", _TINY, ["no such file or folder: nowhere"]),
    "empty folder": (hollow, _TINY, ["hollow: no pictures in it"]),
    "texts only": (words, _TINY, ["words: no pictures in it"]),
    "all truncated": (all_truncated, [*_TINY, "--set", "plan.batch=1"], ["none of the 3 pictures can be read"]),
    "batch larger than the data": (three, _TINY, ["plan.batch", "128", "larger than the data"]),
    "another shape": (
        three,
        [*_TINY, "--set", "plan.batch=1", "--set", "model.channels=3"],
        ["model.network.channels is 1", "3"],
    ),
    "classes of other data": (
        circles,
        _CLASSES,
        ["captions of the data: ", "no class '", '--set \'model.text.names=["circle", "square"]\''],
    ),
    "classes of other data held out": (
        three,
        [*_CLASSES, "--set", "held_out_data={kind: folder, path: shapes}"],
        ["captions of the data: ", "no class '"],
    ),
    "guidance without text": (
        three,
        [*_CLASSES, "--set", "model.text=null", "--set", "model.network.cond=0", "--set", "objective.drop=0"],
        ["model.defaults.mix: ", "set model.defaults.mix=none"],
    ),
    "an option that is a field": (three, [*_TINY, "--batch", "1"], ["unknown option --batch; ", "--set PATH=VALUE"]),
    "unknown recipe": (
        three,
        ["fashion-mnist-tutorail"],
        ["no recipe 'fashion-mnist-tutorail'; did you mean 'fashion-mnist-tutorial'?"],
    ),
    "unknown field": (three, [*_TINY, "--set", "plan.bach=1"], ["plan: unknown field 'bach'; did you mean 'batch'?"]),
    "wrong type": (three, [*_TINY, "--set", "plan.optimizer.lr=fast"], ["plan.optimizer.lr: ", "'fast'"]),
    "two lengths": (three, [*_TINY, "--set", "plan.epochs=2"], ["exactly one of steps, epochs, images"]),
    "no recipe": (three, [], ["name a recipe"]),
    "there is a run already": (a_run, [*_TINY, "--set", "plan.batch=1"], ["run holds a run already", "--resume"]),
    "nothing to resume": (three, ["--resume"], ["run holds no run to resume"]),
}


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
@pytest.mark.parametrize("what", TRAIN)
def test_train_refuses(what: str, dry: bool, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run refuses what the run would: that is what it is for."""
    monkeypatch.chdir(tmp_path)
    make, argv, says = TRAIN[what]
    circles(tmp_path)
    data = make(tmp_path)
    before = listing(tmp_path)
    more = ["--dry-run"] if dry else []
    ran = cli("train", *argv, *more, "--data", data, "--out", "run", "--save-config", "c.yaml", "--device", "cpu")
    assert (ran.code, ran.out) == (2, ""), ran
    assert ran.err.startswith("safelight: train: ")
    assert ran.err.count("\n") == 1
    for word in says:
        assert word in ran.err
    assert listing(tmp_path) == before


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A YAML file of a run of 12 steps on 24 pictures."""
    for k in range(24):
        png(tmp_path, f"pictures/{'abc'[k % 3]}/{k}.png", side=8)
    keep(str(tmp_path / "run.yaml"), victim.recipe(tmp_path / "pictures"))
    return str(tmp_path / "run.yaml")


def test_training_on_a_full_disk(config: str, cli: Callable[..., Any], tmp_path: Path) -> None:
    """The system refuses the weights: one line, nothing half-written, and with room again the run begins anew in the same folder."""
    out = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        ran = cli("train", config, "--out", out, "--device", "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = [line for line in ran.err.splitlines() if not line.startswith("step ")]
    assert (ran.code, len(said)) == (2, 1), ran
    assert said[0].startswith("safelight: train: the checkpoint of step 3 could not be written")
    assert list((out / "checkpoints").iterdir()) == []
    assert cli("train", "--resume", "--out", out, "--set", "plan.steps=3", "--device", "cpu").code == 0


def test_the_checkpoint_of_another_network_is_not_taken_up(config: str, cli: Callable[..., Any], tmp_path: Path) -> None:
    few = ["--set", "plan.steps=3", "--device", "cpu"]
    assert cli("train", config, "--out", tmp_path / "a", *few).code == 0
    assert cli("train", config, "--out", tmp_path / "b", "--set", "model.network.widths=[8, 24]", *few).code == 0
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints")
    before = listing(tmp_path)
    ran = cli("train", "--resume", "--out", tmp_path / "b", "--set", "plan.steps=6", "--device", "cpu")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert "is of another network" in ran.err
    assert listing(tmp_path) == before


def test_pictures_that_are_left_out_are_told_before_training(config: str, cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "pictures" / "a" / "0.png").write_bytes(b"")
    (tmp_path / "pictures" / "a" / "phone.heic").write_text("?")
    ran = cli("train", config, "--out", tmp_path / "run", "--dry-run", "--device", "cpu")
    assert ran.code == 0
    assert "2 left out (a/" in ran.out


def test_a_refused_file_is_called_by_its_own_name(config: str, cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    ran = cli("train", config, "--out", tmp_path / "run", "--dry-run", "--save-config", tmp_path / "taken" / "c.yaml")
    assert ran.code == 2 and "partial" not in ran.err and str(tmp_path / "taken") in ran.err
    ran = cli("train", config, "--out", tmp_path / "run", "--dry-run", "--save-config", tmp_path / ("n" * 250 + ".yaml"))
    assert ran.code == 2 and "partial" not in ran.err and "nnn.yaml: File name too long" in ran.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["data", "check", "nowhere"], "no such file or folder: nowhere"),
        (["noise", "nowhere.png"], "nowhere.png: No such file or directory"),
        (["noise", "cut.png"], "cut.png cannot be decoded"),
        (["noise", "text.png"], "text.png is not a picture"),
        (["noise", "whole.png", "--process", "cosin"], "no process 'cosin'; did you mean 'cosine'?"),
        (["noise", "whole.png", "--out", "x.mp4"], "'.mp4' is no picture format"),
        (["plot", "schedule", "cosin"], "no process 'cosin'; did you mean 'cosine'?"),
        (["plot", "loss", "nowhere"], "nowhere"),
        (["evaluate", "quality", "nowhere.safetensors"], "nowhere.safetensors"),
        (["list", "sampler", "ddmi"], "no sampler 'ddmi'; did you mean 'dd"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_other_verbs_refuse(
    argv: list[str], says: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    png(tmp_path, "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    (tmp_path / "text.png").write_text("not a picture")
    before = listing(tmp_path)
    ran = cli(*argv)
    assert ran.code == 2, ran
    assert ran.err.startswith(f"safelight: {argv[0]}: ")
    assert ran.err.count("\n") == 1
    assert says in ran.err
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("package", "argv"),
    [
        ("pyarrow", ["data", "check", "p.parquet"]),
        ("datasets", ["train", "fashion-mnist", "--set", "data={kind: hub, name: someone/something}", "--out", "run"]),
        ("tensorboard", ["train", "fashion-mnist", "--tensorboard", "--out", "run"]),
    ],
)
def test_an_absent_extra_is_named(
    package: str, argv: list[str], cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [package, *(m for m in sys.modules if m.startswith(package + "."))]:
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "p.parquet").write_bytes(b"PAR1" * 10)
    ran = cli(*argv)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    extra = "track" if package == "tensorboard" else "data"
    assert f"pip install 'safelight[{extra}]'" in ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]


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


def test_too_little_memory_is_one_line() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**48)
    for found in (error.value, MemoryError()):
        line = explain(found)
        assert line is not None and "not enough memory" in line and "\n" not in line
