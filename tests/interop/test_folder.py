"""diffusers folders: what its own save_pretrained wrote is opened, paints the same picture, and is given back byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safelight.generate import Finished, Started, generate
from safelight.interop.checkpoint import Tensors
from safelight.interop.diffusers import save_folder
from safelight.model import Model, load, peek, save
from safelight.spec import SpecError
from safelight.task import Request
from tests import peers
from tests.interop import folders


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save(folders.sd1(), tmp_path_factory.mktemp("sd1") / "tiny")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save(folders.sdxl(), tmp_path_factory.mktemp("sdxl") / "tiny")


def copied(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def painted(model: Model, **fields: Any) -> tuple[Tensor, Tensor]:
    """The noise that a run begins with, and its picture in 0..1."""
    start = picture = torch.empty(0)
    for event in generate(model, Request(prompt="a cat and a red dog", steps=4, seed=5, **fields)):
        if isinstance(event, Started):
            start = event.x
        elif isinstance(event, Finished):
            picture = event.pictures
    return start, picture.clamp(-1, 1) / 2 + 0.5


def theirs(folder: Path, start: Tensor, **how: Any) -> Tensor:
    diffusers = peers.diffusers()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **how)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        made = pipeline(
            "a cat and a red dog", num_inference_steps=4, latents=start.clone(), output_type="pt", height=32, width=32
        )
    return made.images


@pytest.mark.parametrize("which", ["sd1", "sdxl"])
def test_the_picture_is_theirs(which: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(which)
    start, picture = painted(load(folder))
    wanted = theirs(folder, start)
    assert (picture - wanted).abs().max() < 1 / 255
    assert wanted.std() > 0.01


def plain(folder: Path) -> None:
    """As it is."""


def sharded(folder: Path) -> None:
    """The network in shards, with an index."""
    tensors = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    names, half = sorted(tensors), len(tensors) // 2
    parts = {"a": names[:half], "b": names[half:]}
    files = {key: f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors" for i, key in enumerate(parts)}
    for key, mine in parts.items():
        save_file({n: tensors[n] for n in mine}, folder / "unet" / files[key], metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {n: files[key] for key, mine in parts.items() for n in mine}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()


def half(folder: Path) -> None:
    """Everything in float16, as a variant."""
    for path in list(folder.rglob("*.safetensors")):
        save_file(
            {k: v.half() for k, v in load_file(path).items()}, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"}
        )
        path.unlink()


def old(folder: Path) -> None:
    """Names and tensors of before 2023: another prefix, another attention, the numbers of the positions."""
    words = folder / "text_encoder/model.safetensors"
    tensors = {f"text_model.{k}": v for k, v in load_file(words).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, words, metadata={"format": "pt"})
    codec, renamed = folder / "vae/diffusion_pytorch_model.safetensors", {}
    for name, value in load_file(codec).items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = value
    save_file(renamed, codec, metadata={"format": "pt"})


def beside(folder: Path) -> None:
    """A component that no part here is made of."""
    (folder / "safety_checker").mkdir()
    save_file({"a.weight": torch.ones(3)}, folder / "safety_checker/model.safetensors", metadata={"format": "pt"})
    (folder / "safety_checker/config.json").write_text('{\n  "model_type": "clip"\n}\n')
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))


@pytest.mark.parametrize("change", [plain, sharded, half, old, beside], ids=lambda c: c.__name__)
def test_a_round_trip_gives_back_every_byte(sd1: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    source = copied(sd1, tmp_path / "source")
    change(source)
    save(tmp_path / "ours.safetensors", load(source, dtype=None))
    save_folder(tmp_path / "back", load(tmp_path / "ours.safetensors", dtype=None))
    before, after = contents(source), contents(tmp_path / "back")
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name] and name != index] == []
    assert index not in before or json.loads(before[index]) == json.loads(after[index])


OTHERS: dict[str, Callable[[], Any]] = {
    "sdxl": folders.sdxl,
    "dit": folders.dit,
    "dit, each block its own embedding": lambda: folders.dit(alike=False),
    "pixart": folders.pixart,
    "pixels": folders.pixels,
    "pixels of three classes": folders.classes,
    "inpaint": folders.inpaint,
    "upscaler": folders.upscaler,
    "deepfloyd": lambda: folders.deepfloyd(1),
    "deepfloyd, its second stage": lambda: folders.deepfloyd(2),
}


@pytest.mark.parametrize("which", OTHERS)
def test_a_round_trip_of_other_pipelines(which: str, tmp_path: Path) -> None:
    source = folders.save(OTHERS[which](), tmp_path / "source")
    if "dit" in which:  # the published folders name their classes, diffusers' own writer does not
        path = source / "model_index.json"
        names = {"0": "cat, house cat", "1": "dog", "2": "dog"}
        path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": names}, indent=2) + "\n")
    model = load(source, dtype=None)
    save(tmp_path / "ours.safetensors", model)
    again = load(tmp_path / "ours.safetensors", dtype=None)
    save_folder(tmp_path / "back", again)
    assert contents(source) == contents(tmp_path / "back")
    again.lineage, again.kept = {}, {}
    save_folder(tmp_path / "born", again)
    born = load(tmp_path / "born", dtype=None)
    assert (
        born.spec.network == model.spec.network
        and born.spec.text == model.spec.text
        and born.spec.process == model.spec.process
    )
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), born.state_dict().values(), strict=True))
    theirs = peers.diffusers().DiffusionPipeline.from_pretrained(tmp_path / "born")
    assert type(theirs).__name__ == json.loads((source / "model_index.json").read_text())["_class_name"]
    assert (born.spec.augment is None) == (model.spec.augment is None)
    if getattr(model.spec.network, "image", 0):
        return  # they need pictures: tests/task has them
    prompt = {"pixels": "", "pixels of three classes": "2"}.get(which, "dog (1)" if "dit" in which else "a cat")
    pictures = [m(prompt, steps=2, seed=3) for m in (model, born)]
    assert pictures[0].tobytes() == pictures[1].tobytes()


@pytest.mark.parametrize("which", ["sd1", "sdxl"])
def test_a_model_born_here_is_loaded_there(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = load(request.getfixturevalue(which))
    model.lineage, model.kept = {}, {}  # nothing remembers where it came from
    save_folder(tmp_path / "born", model)
    start, picture = painted(model)
    assert (picture - theirs(tmp_path / "born", start)).abs().max() < 1 / 255
    again = load(tmp_path / "born")
    assert again.spec == model.spec
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_looking_reads_no_weight(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Tensors, name: str) -> Tensor:
        raise AssertionError(f"'{name}' was read")

    monkeypatch.setattr(Tensors, "__getitem__", read)
    header = peek(sd1)
    assert (header.layout, header.weights, header.spec["size"]) == ("diffusers", ("raw",), [32, 32])
    assert header.lineage["origin"]["index"]["_class_name"] == "StableDiffusionPipeline"
    assert header.tensors["raw/unet.conv_in.weight"].shape == (32, 4, 3, 3)


def test_loading_moves_nobodys_random_numbers_and_is_mapped(sd1: Path) -> None:
    before = torch.random.get_rng_state()
    model = load(sd1, dtype=None)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(p.is_meta for p in (*model.parameters(), *model.buffers()))
    path = sd1 / "unet/diffusion_pytorch_model.safetensors"
    stamp = path.read_bytes()
    with torch.no_grad():
        model.get_parameter("denoiser.network.stem.weight").add_(1)  # a mapping is private
    assert path.read_bytes() == stamp


def changed(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def other_class(folder: Path) -> None:
    changed(folder / "model_index.json", _class_name="KandinskyPipeline")


def other_network(folder: Path) -> None:
    changed(folder / "unet/config.json", _class_name="SanaTransformer2DModel")


def other_encoder(folder: Path) -> None:
    changed(folder / "model_index.json", text_encoder=["transformers", "Qwen2Model"])


def no_folder(folder: Path) -> None:
    for path in (folder / "vae").iterdir():
        path.unlink()
    (folder / "vae").rmdir()


def left_over(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "conv_mystery.weight": torch.zeros(3)}, path)


def lacking(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != "conv_in.weight"}, path)


def misshapen(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "conv_in.weight": torch.zeros(32, 4, 5, 5)}, path)


def activation(folder: Path) -> None:
    changed(folder / "unet/config.json", act_fn="mish")


def size(folder: Path) -> None:
    changed(folder / "unet/config.json", sample_size=[1, 2, 3])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (other_class, "the class 'KandinskyPipeline' has no counterpart here"),
        (other_network, "the class 'SanaTransformer2DModel' has no counterpart here"),
        (other_encoder, "the class 'Qwen2Model' has no counterpart here"),
        (no_folder, "vae is missing, which model_index.json names"),
        (left_over, "unet has 'conv_mystery.weight', which no part of the model uses"),
        (lacking, "unet lacks 'conv_in.weight'"),
        (misshapen, r"'conv_in.weight' is \(32, 4, 5, 5\), where something of \(32, 4, 3, 3\) is expected"),
        (activation, "act_fn \"?'?mish"),
        (size, r"sample_size \[1, 2, 3\] is no size"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_refusals(sd1: Path, tmp_path: Path, change: Callable[[Path], None], line: str) -> None:
    folder = copied(sd1, tmp_path / "copy")
    change(folder)
    with pytest.raises(SpecError, match=line) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
