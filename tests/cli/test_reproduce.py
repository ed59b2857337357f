"""`safelight reproduce`: every task with every sampler comes out byte for byte, and whatever stands in the way is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from safelight import picture, reproduce
from safelight.assets import Assets, seal
from safelight.cli.reproduce import chosen
from safelight.draw.pixels import to_bytes
from safelight.generate import Finished, Request, generate
from safelight.interop import infotext
from safelight.model import Model, fingerprint, load, locate, save
from safelight.picture import Note
from safelight.spec import SpecError, kinds

SIZE = (12, 12)


def photo(seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, *SIZE), generator=g, dtype=torch.uint8)


PHOTO, OTHER = photo(1), photo(2)
MASK = torch.zeros(1, *SIZE, dtype=torch.uint8)
MASK[:, 2:9, 3:8] = 255

# A request of every registered task, in small: three pictures, of which two are made together and one alone.
TASKS: dict[str, dict[str, Any]] = {
    "text": {"prompt": ["bag", "dress", "bag"]},
    "image": {"task": {"kind": "image", "picture": seal(PHOTO), "strength": 0.7}, "prompt": ["bag", "dress", ""]},
    "inpaint": {"task": {"kind": "inpaint", "picture": seal(PHOTO), "mask": seal(MASK)}, "prompt": "bag", "count": 3},
    "outpaint": {"task": {"kind": "outpaint", "picture": seal(PHOTO), "margins": [4, 0, 0, 0]}, "prompt": "bag", "count": 3},
    "vary": {"task": {"kind": "vary", "seed": 9, "strength": 0.3}, "prompt": "bag", "count": 3},
    "interpolate": {"task": {"kind": "interpolate", "ends": [{"prompt": "bag"}, {"prompt": "dress", "seed": 4}]}, "count": 3},
    "invert": {"task": {"kind": "invert", "picture": seal(OTHER), "refine": 1}, "prompt": ["bag", "dress", ""]},
    "hires": {"task": {"kind": "hires", "first": [12, 12]}, "prompt": "bag", "count": 3, "size": [24, 24]},
    "upscale": {"task": {"kind": "upscale", "picture": seal(PHOTO)}, "prompt": ["bag", "dress", ""]},
    "mix": {"task": {"kind": "mix", "expression": '"bag" + 0.5 * "dress" - "ankle boot"'}, "count": 3},
}
BASE: dict[str, Any] = {"seed": 5, "steps": 3, "micro_batch": 2}


def make(model: Model, asked: dict[str, Any], folder: Path, suffix: str = "png", **notes: Any) -> list[Path]:
    """The pictures of a request as files, with their notes."""
    assets = Assets([PHOTO, OTHER, MASK])
    request = Request.model_validate(BASE | asked).resolve(model, assets)
    found = torch.cat([e.pictures for e in generate(model, request, assets=assets) if isinstance(e, Finished)])
    pictures = [torch.from_numpy(p.transpose(2, 0, 1).copy()) for p in to_bytes(found)]
    written = picture.notes(model, request, pictures, **notes)
    return [picture.write(folder / f"{k}.{suffix}", p, n) for k, (p, n) in enumerate(zip(pictures, written, strict=True))]


@pytest.fixture(scope="session")
def loaded(model: Path) -> Model:
    return load(model)


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """The pictures that the tasks are given, as options of the command."""
    folder = tmp_path / "elsewhere"
    for name, pixels in {"photo": PHOTO, "other": OTHER, "mask": MASK}.items():
        picture.write(folder / f"{name}.png", pixels)
    return [word for path in sorted(folder.iterdir()) for word in ("--input", str(path))]


# Made for networks that see another picture, or for two models: tests/task/test_{depth,superres,refine}.py.
_OTHERS = {"depth", "superres", "refine"}
# Not those that the tests of other rooms bring.
OURS = sorted(kind for kind, task in kinds("task").items() if task.__module__.startswith("safelight.") and kind not in _OTHERS)


def test_every_task_is_tried() -> None:
    assert sorted(TASKS) == OURS


@pytest.mark.parametrize("sampler", kinds("sampler"))
@pytest.mark.parametrize("task", OURS)
def test_every_task_with_every_sampler_comes_out_identical(
    task: str, sampler: str, cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path, sources: list[str]
) -> None:
    """A picture of the micro-batch of two, or by turns the one that is alone: exit code 0, the same pixels, the same file."""
    asked = TASKS[task] | {"sampler": sampler}
    if task == "invert" and kinds("sampler")[sampler]().stochastic:  # type: ignore[attr-defined]
        with pytest.raises(SpecError, match="noise"):
            make(loaded, asked, tmp_path)
        return
    k = 1 + (list(TASKS).index(task) + list(kinds("sampler")).index(sampler)) % 2
    file = make(loaded, asked, tmp_path)[k]
    ran = cli("reproduce", file, "--model", model, *sources, "--out", tmp_path / "again.png")
    assert (ran.code, ran.err) == (0, "") and "identical: every byte of the pixels and of the file" in ran.out, ran
    assert f"picture {k + 1} of 3" in ran.out and f"{task}, 3 steps of {sampler}" in ran.out
    assert (tmp_path / "again.png").read_bytes() == file.read_bytes()


def test_what_a_verb_writes_is_made_again_by_name(cli: Callable[..., Any], tmp_path: Path) -> None:
    """The whole way with a model that ships, and nothing to go by when metadata was not wanted."""
    options = ["sample", "fashion-mnist", "-p", "bag", "--count", "2", "--steps", "2", "--seed", "3"]
    assert cli(*options, "--out", tmp_path / "a").code == 0
    ran = cli("reproduce", tmp_path / "a" / "pictures" / "0001-bag.png")
    assert ran.code == 0 and "picture 2 of 2 'bag', text, 2 steps" in ran.out, ran
    assert cli(*options, "--out", tmp_path / "b", "--no-metadata").code == 0
    ran = cli("reproduce", tmp_path / "b" / "pictures" / "0001-bag.png")
    assert ran.code == 2 and "nothing says how it was made" in ran.err


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_other_formats_come_out_identical(
    suffix: str, cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path
) -> None:
    file = make(loaded, TASKS["text"], tmp_path, suffix)[2]
    assert cli("reproduce", file, "--model", model).code == 0


def test_the_other_parts_of_a_run_are_not_made(loaded: Model, tmp_path: Path) -> None:
    note = picture.note(make(loaded, TASKS["text"], tmp_path)[1])
    assert note is not None
    steps: list[tuple[int, int]] = []
    request = reproduce.request_for(note)
    made, _ = reproduce.again(loaded, request, Assets(), note.index, lambda k, n: steps.append((k, n)))
    assert seal(made) == note.seal and steps == [(1, 3), (2, 3), (3, 3)]


def test_the_guidance_and_its_other_model_come_back(
    cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that the request names by a path is named in the note by its stem, and given again by `--model`."""
    folder = tmp_path / "models"
    folder.mkdir()
    weak = shutil.copy(model, folder / "weak.safetensors")
    asked = {"prompt": "bag", "mix": {"kind": "autoguidance", "weak": f"{weak}:raw", "scale": 3}, "bends": ["threshold"]}
    (file,) = make(loaded, asked, tmp_path)
    found = picture.note(file)
    assert found is not None and found.request["mix"]["weak"] == "weak:raw"
    assert cli("reproduce", file, "--model", model, "--model", weak).code == 0
    other = load(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    save(tmp_path / "others" / "weak.safetensors", other)
    ran = cli("reproduce", file, "--model", model, "--model", tmp_path / "others" / "weak.safetensors")
    assert ran.code == 1 and f"the model 'weak:raw': {loaded.fingerprint} there, " in ran.out
    assert cli("reproduce", file, "--model", model).code == 0  # the very same file, by another name
    asked["mix"]["weak"] = f"{tmp_path / 'others' / 'weak.safetensors'}:raw"
    (file,) = make(loaded, asked, tmp_path)
    ran = cli("reproduce", file, "--model", model)
    assert ran.code == 2
    weak = fingerprint(tmp_path / "others" / "weak.safetensors")
    wanted = f"guided by the model 'weak:raw' ({weak}), which does not ship: give its file too, with --model"
    assert ran.err == f"safelight: reproduce: {wanted}\n"


def test_sources_are_found_beside_the_picture(cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path) -> None:
    """By what is in them, whatever they are called; what cannot be read there is passed over."""
    (file,) = make(loaded, TASKS["inpaint"] | {"count": 1}, tmp_path)
    (tmp_path / "a broken one.png").write_bytes(b"no picture")
    missing = cli("reproduce", file, "--model", model)
    assert missing.code == 2
    assert missing.err == (
        f"safelight: reproduce: made from the picture {seal(PHOTO)}, which is none of the pictures beside it: give its file with --input\n"
    )
    picture.write(tmp_path / "renamed.webp", PHOTO)
    picture.write(tmp_path / "some mask.png", MASK)
    assert cli("reproduce", file, "--model", model).code == 0


def test_an_openai_mask_is_found_too(loaded: Model, tmp_path: Path) -> None:
    hole = np.dstack([np.full((*SIZE, 3), 7, np.uint8), 255 - np.asarray(MASK[0])])
    Image.fromarray(hole).save(tmp_path / "hole.png")
    note = Note(request={}, model={"name": ""}, seal="", inputs=(seal(MASK),))  # type: ignore[arg-type]
    assert [seal(p) for p in reproduce.sources(note, [tmp_path / "hole.png"])] == [seal(MASK)]


def test_a_missing_model_is_said_in_one_line(cli: Callable[..., Any], loaded: Model, tmp_path: Path) -> None:
    (file,) = make(loaded, {"prompt": "bag"}, tmp_path)
    ran = cli("reproduce", file)
    assert ran.code == 2 and ran.out == ""
    assert ran.err == (
        f"safelight: reproduce: made with the model 'tiny' ({loaded.fingerprint}), which does not ship: give its file with --model\n"
    )


def test_another_input_than_recorded_is_refused(cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path) -> None:
    (file,) = make(loaded, TASKS["image"] | {"prompt": "bag", "count": 1}, tmp_path)
    picture.write(tmp_path / "elsewhere" / "x.png", OTHER)
    ran = cli("reproduce", file, "--model", model, "--input", tmp_path / "elsewhere" / "x.png")
    assert ran.code == 2 and "which is none of the files given with --input" in ran.err


def test_other_weights_are_said_and_measured(cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path) -> None:
    """Another fingerprint of the same name; the difference is that of the pixels."""
    other = load(model)
    save(tmp_path / "same" / "tiny.safetensors", other)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    save(tmp_path / "other" / "tiny.safetensors", other)
    (file,) = make(loaded, {"prompt": "bag"}, tmp_path)
    ran = cli("reproduce", file, "--model", tmp_path / "same" / "tiny.safetensors")
    assert ran.code == 0 and f"Model: made with tiny ({loaded.fingerprint}), another one than this" in ran.out
    out = tmp_path / "again.png"
    ran = cli("reproduce", file, "--model", tmp_path / "other" / "tiny.safetensors", "--out", out)
    assert ran.code == 1
    changed = load(tmp_path / "other" / "tiny.safetensors")
    assert f"Model: made with tiny ({loaded.fingerprint}), another one than this ({changed.fingerprint})" in ran.out
    apart = reproduce.difference(picture.read(file)[0], picture.read(out)[0])
    assert apart is not None and apart.largest > 0 and str(apart) in ran.out
    kept = picture.read(out)[1]
    assert (
        kept is not None and kept.model.fingerprint == changed.fingerprint and cli("reproduce", out, "--model", model).code == 1
    )
    assert cli("reproduce", out, "--model", tmp_path / "other" / "tiny.safetensors").code == 0


def changed(note: Note, **fields: Any) -> Note:
    return Note.model_validate({**note.model_dump(), **fields})


def test_what_differs_here_is_listed(cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path) -> None:
    """Of a picture that says it was made elsewhere and came out otherwise."""
    (file,) = make(loaded, {"prompt": "bag"}, tmp_path)
    pixels, note = picture.read(file)
    assert note is not None
    other = pixels.clone()
    other[0, 0, :6] ^= 1
    versions = note.versions | {"torch": "1.0"}
    picture.write(file, other, changed(note, seal=seal(other), versions=versions, machine="abacus", threads=1))
    ran = cli("reproduce", file, "--model", model)
    assert ran.code == 1
    assert "4.17 % of the pixels differ, by 1 of 255 at most, 0.0417 on average" in ran.out  # 6 of 144
    assert f"torch: 1.0 there, {torch.__version__} here" in ran.out and "machine: abacus there" in ran.out
    assert "numpy" not in ran.out and "threads:" not in ran.out


def test_a_changed_picture_is_found_out(cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path) -> None:
    """Pixels painted over under an old note; and a file packed anew, whose pixels are the same."""
    (file,) = make(loaded, {"prompt": "bag"}, tmp_path)
    pixels, note = picture.read(file)
    other = pixels.clone()
    other[0, 0, 0] ^= 255
    picture.write(tmp_path / "painted.png", other, note)
    ran = cli("reproduce", tmp_path / "painted.png", "--model", model)
    assert ran.code == 1 and "the picture comes out as its note seals it: the file's pixels were changed since" in ran.out
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("safelight", note.text() if note else "")
    Image.fromarray(np.asarray(pixels[0])).save(tmp_path / "packed.png", pnginfo=chunks)
    ran = cli("reproduce", tmp_path / "packed.png", "--model", model)
    assert ran.code == 1 and "the pixels it was made with are identical; the file is not" in ran.out


def test_threads_and_precision_are_as_recorded_and_put_back(loaded: Model, tmp_path: Path) -> None:
    note = picture.note(make(loaded, {"prompt": "bag"}, tmp_path)[0])
    assert note is not None
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with reproduce.as_recorded(changed(note, threads=3, engine={"matmul": "high"})):
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (3, "high")
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
    half = reproduce.prepared(load_again(tmp_path), changed(note, engine={"dtype": "bfloat16", "channels_last": True}))
    assert picture.facts(half)["engine"] | {"dtype": "bfloat16", "channels_last": True} == picture.facts(half)["engine"]


def load_again(folder: Path) -> Model:
    from tests.cli.conftest import tiny

    built: Model = tiny().build()
    return built


# ---- pictures of other tools, and requests taken from pictures ---------------------------------------------------------------


def foreign(path: Path, text: str, key: str = "parameters") -> Path:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(key, text)
    Image.fromarray(np.asarray(PHOTO[0])).save(path, pnginfo=chunks)
    return path


def test_a_foreign_picture_is_made_as_nearly_as_can_be(
    cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path
) -> None:
    file = foreign(
        tmp_path / "x.png",
        "bag\nSteps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, Seed: 8, Size: 12x12, Model: sd15, Face restoration: GF",
    )
    ran = cli("reproduce", file, "--model", model, "--out", tmp_path / "y.png")
    assert ran.code == 1 and "differs:" in ran.out
    for line in ("Seed: 8 is taken as a number", "Face restoration: GF is not followed", "Model: made with sd15, another one"):
        assert line in ran.out
    asked = {"prompt": "bag", "steps": 3, "sampler": "dpm++2m", "grid": "karras", "seed": 8, "mix": {"kind": "cfg", "scale": 3}}
    (wanted,) = make(loaded, asked | {"micro_batch": None}, tmp_path / "w")
    assert torch.equal(picture.read(tmp_path / "y.png")[0], picture.read(wanted)[0])
    assert cli("reproduce", tmp_path / "y.png", "--model", model).code == 0


def test_a_foreign_edit_is_made_from_the_picture_given(
    cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path
) -> None:
    """A denoising strength and `--input` are an edit of that picture; without it, and with it for nothing, a line says so."""
    text = "bag\nSteps: 4, Sampler: Euler, Seed: 5, Size: 12x12, Denoising strength: 0.5"
    file, source = foreign(tmp_path / "x.png", text), picture.write(tmp_path / "source.png", PHOTO)
    ran = cli("reproduce", file, "--model", model)
    assert "Denoising strength: 0.5 is not followed: the text does not say which picture it was made from" in ran.out
    ran = cli("reproduce", file, "--model", model, "--input", source, "--out", tmp_path / "y.png")
    assert "Denoising strength" not in ran.out and "image, 3 of 4 steps of euler" in ran.out
    note = picture.note(tmp_path / "y.png")
    assert note is not None and note.request["task"]["strength"] == 0.5 and [a.seal for a in note.lineage] == [seal(PHOTO)]
    assert cli("reproduce", tmp_path / "y.png", "--model", model).code == 0  # its source lies beside it
    other = foreign(tmp_path / "z.png", "bag\nSteps: 4, Sampler: Euler, Seed: 5")
    assert "the picture given is not used" in cli("reproduce", other, "--model", model, "--input", source).out


def test_a_picture_of_ours_whose_note_was_lost_is_made_again_from_its_text(
    cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path
) -> None:
    """As happens where pictures are uploaded: the common text is enough for an ordinary request."""
    asked = {"prompt": ["bag", "dress"], "negative": "ankle boot", "micro_batch": 1, "mix": {"kind": "cfg", "scale": 2.5}}
    file = make(loaded, asked, tmp_path)[1]
    pixels, text = picture.read(file)[0], picture.parameters(file)
    assert text is not None
    lost = foreign(tmp_path / "lost.png", text)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", text)
    Image.fromarray(np.asarray(pixels[0])).save(lost, pnginfo=chunks)
    ran = cli("reproduce", lost, "--model", model)
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "identical: every byte of the pixels"), ran


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("workflow", "carries a ComfyUI workflow, which is not read here, and no parameters text"),
        ("Software", "carries no note of safelight and no parameters text: nothing says how it was made"),
    ],
)
def test_pictures_that_say_nothing_are_refused(
    key: str, line: str, cli: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    ran = cli("reproduce", foreign(tmp_path / "x.png", "{}", key), "--model", model)
    assert ran.code == 2 and line in ran.err and ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("none.png", [], "none.png: No such file or directory"),
        ("x.gif", [], "'.gif' is no picture format here (png, webp, jpg)"),
        ("x.png", ["--out", "y.bmp"], "y.bmp: '.bmp' is no picture format here"),
        ("x.png", [], "x.png: its note is damaged: "),
        ("x.png", ["--inptu", "y"], "unknown option --inptu; did you mean '--input'?"),
    ],
)
def test_bad_input_is_one_line(
    name: str, options: list[str], line: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign(tmp_path / "x.png", "{", "safelight")
    ran = cli("reproduce", name, *options)
    assert ran.code == 2 and line in ran.err and ran.err.count("\n") == 1 and ran.out == ""


def test_a_request_is_taken_from_a_picture(loaded: Model, tmp_path: Path) -> None:
    """`request_of`: of our own the picture's own request, which makes that picture alone; of a text what it says; else a refusal."""
    file = make(loaded, TASKS["text"], tmp_path)[1]
    given, reports = reproduce.request_of(file, loaded)
    assert reports == []
    made, asked = reproduce.again(
        loaded, Request.model_validate({k: v for k, v in given.items() if k not in ("kind", "family")}), Assets()
    )
    assert (asked.prompt, asked.count, asked.index) == (("dress",), 1, 1)
    apart = reproduce.difference(made, picture.read(file)[0])
    assert apart is not None and apart.largest <= 1
    frames = make(loaded, TASKS["interpolate"], tmp_path)
    assert reproduce.request_of(frames[2], loaded)[0] == picture.note(frames[2]).request  # type: ignore[union-attr]
    (tmp_path / "x.txt").write_text("dress\nSteps: 3, Sampler: Euler a, Seed: 8", encoding="utf-8")
    given, reports = reproduce.request_of(tmp_path / "x.txt", loaded)
    assert given["prompt"] == ["dress"] and given["seed"] == 8 and reports
    with pytest.raises(SpecError, match="nothing says how it was made"):
        reproduce.request_of(foreign(tmp_path / "n.png", "", "Software"), loaded)


def test_inspect_shows_what_a_picture_says(cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path) -> None:
    (first,) = make(loaded, {"prompt": "bag"}, tmp_path)
    pixels, note = picture.read(first)
    (second,) = make(loaded, {"prompt": "dress"}, tmp_path / "b", parents=[(pixels, note), (PHOTO, None)])
    ran = cli("inspect", second)
    assert ran.code == 0
    assert f"{seal(pixels)}  text 'bag', by tiny" in ran.out and f"{seal(PHOTO)}  no note" in ran.out
    assert '  prompt: ["dress"]' in ran.out and "  sampler: ddim" in ran.out and "fingerprint" in ran.out
    shown = json.loads(cli("inspect", second, "--json").out)
    assert Note.model_validate(shown["note"]) == picture.note(second)
    assert infotext.parse(shown["parameters"]).prompt == "dress"
    assert "Steps: 9" in cli("inspect", foreign(tmp_path / "f.png", "bag\nSteps: 9, Sampler: x, Seed: 1")).out
    assert "it says nothing of how it was made" in cli("inspect", picture.write(tmp_path / "n.png", PHOTO)).out


def test_models_of_one_name_are_told_apart_by_what_is_in_them(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """`a/model` guided by `b/model`: whichever is given first; and the model itself is not taken for the one that it was guided by."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other = load(model).spec.build()
    for name in "ab":
        (tmp_path / name).mkdir()
    mine, weak = tmp_path / "a" / "model.safetensors", tmp_path / "b" / "model.safetensors"
    shutil.copy(model, mine)
    save(weak, other)
    asked = {"prompt": "bag", "mix": {"kind": "autoguidance", "weak": str(weak), "scale": 3}}
    file, *_ = make(load(mine), asked, tmp_path)
    for given in ([mine, weak], [weak, mine]):
        ran = cli("reproduce", file, *(word for path in given for word in ("--model", path)))
        assert ran.code == 0, ran.out + ran.err
    for verb in ("reproduce", "vary"):
        ran = cli(verb, file, "--model", mine)
        assert ran.code == 2 and "guided by the model 'model'" in ran.err and "give its file too" in ran.err


def test_a_model_that_ships_is_not_replaced_by_the_one_it_was_guided_by(tmp_path: Path) -> None:
    """`--model` brings the further model alone, as the refusal asks for it."""
    made = load("fashion-mnist")
    weak = shutil.copy(locate("fashion-mnist"), tmp_path / "weak.safetensors")
    asked = {"prompt": "Bag", "steps": 1, "mix": {"kind": "autoguidance", "weak": f"{weak}:raw", "scale": 3}}
    request = Request.model_validate(asked).resolve(made)
    (note,) = picture.notes(made, request, [torch.zeros(1, 28, 28, dtype=torch.uint8)])
    # Of other weights than either that is recorded, so that only the names are left to go by.
    note = changed(note, peers={"weak:raw": "0" * 16}, model=note.model.model_copy(update={"fingerprint": "1" * 16}))
    assert reproduce.weights_of(note, [weak]).name == "fashion-mnist"


def test_the_picture_itself_is_never_written_over(cli: Callable[..., Any], model: Path, loaded: Model, tmp_path: Path) -> None:
    """Also where it came out otherwise; and of an edit it is said how many of its steps it took."""
    (path, *_) = make(loaded, {"task": {"kind": "image", "picture": seal(PHOTO), "strength": 0.4}, "prompt": "bag"}, tmp_path)
    picture.write(tmp_path / "photo.png", PHOTO)
    before = path.read_bytes()
    ran = cli("reproduce", path, "--model", model, "--out", path)
    assert ran.code == 2 and "is what the picture is compared with or made from: name another file" in ran.err
    assert path.read_bytes() == before
    assert "image, 2 of 3 steps of ddim" in cli("reproduce", path, "--model", model).out


def test_without_a_model_a_foreign_picture_is_for_the_one_that_ships(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """The text's own if it ships, by its hash or its name, else the default one."""
    ships = {"sprites-small": model, "other": model.with_name("words")}
    monkeypatch.setattr("safelight.model.embedded", lambda: ships)
    monkeypatch.setattr("safelight.model.fingerprint", lambda path: "ab" * 8 if path == ships["other"] else "cd" * 8)
    for said, wanted in (({}, "sprites-small"), ({"Model": "other"}, "other"), ({"Model hash": "ABAB"}, "other")):
        assert chosen([], infotext.Infotext("", settings=said)) == wanted
    ships.clear()
    with pytest.raises(SpecError, match="made with sd15, which does not ship: give one of ours with --model"):
        chosen([], infotext.Infotext("", settings={"Model": "sd15"}))
