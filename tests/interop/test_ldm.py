"""Single files: recognised by names and shapes, equal to the folder they stand for, and given back byte for byte."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safelight.cli.main import main
from safelight.codec.kl import KLSpec
from safelight.generate import load
from safelight.interop import diffusers, ldm, schedulers
from safelight.interop.checkpoint import Tensors
from safelight.interop.foreign import Share, theirs
from safelight.interop.maps import unet
from safelight.model import Model, ModelSpec, peek, save
from safelight.nn.attention import FullAttentionSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.unet import UNetSpec
from safelight.predict import Eps, V
from safelight.process.tables import ScaledLinear
from safelight.spec import SpecError
from safelight.text.clip import CLIPTextSpec
from safelight.text.label import LabelSpec
from safelight.text.sdxl import SDXLTextSpec
from tests import peers

PUBLISHED = ScaledLinear(beta_start=0.00085, beta_end=0.012)
WORDS: dict[str, Any] = dict(vocabulary="clip", layers=2, length=77, masks=False)
OPENAI = CLIPTextSpec(width=64, heads=1, quick=True, **WORDS)
OPENCLIP = CLIPTextSpec(width=64, heads=1, pad=0, skip=1, projection=64, **WORDS)


def tiny(text: Any, network: UNetSpec, scale: float, **more: Any) -> Model:
    """A model of a published shape, random in every weight."""
    spec = ModelSpec(
        network=network, process=PUBLISHED, parameterization=more.get("predicts", Eps()), text=text, channels=3, size=(512, 512),
        codec=KLSpec(latents=4, widths=(32, 64), blocks=1, patch=1, fold=False, groups=32, attention=True, mix=True),
    )  # fmt: skip
    model = peers.stirred(spec.build())
    assert isinstance(model, Model)
    for name, value in (("shift", 0.0), ("scale", 1 / scale), ("seen", 0.0)):
        model.codec.get_buffer(name).fill_(value)
    return model


def made(which: str) -> Model:
    return copy.deepcopy(_made(which))


@cache
def _made(which: str) -> Model:
    heads: dict[str, Any] = dict(heads=8, linear=False) if which in ("sd1", "inpaint") else dict(head_width=64, linear=True)
    numbers: dict[str, Any] = dict(cond=64 + 6, numbers=6) if which == "sdxl" else {}
    network = UNetSpec.latent((64, 128), (1, 2 if which == "sdxl" else 1), 128 if which == "sdxl" else 64, **heads, **numbers)
    if which == "inpaint":
        network = network.model_copy(update={"image": 5})
    if which == "sdxl":
        return tiny(SDXLTextSpec.of(OPENAI, OPENCLIP), network, 0.13025)
    predicts = {"predicts": V()} if which == "sd2-v" else {}
    return tiny(OPENAI if which in ("sd1", "inpaint") else OPENCLIP, network, 0.18215, **predicts)


def same(a: Model, b: Model) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("which", ["sd1", "inpaint", "sd2", "sd2-v", "sdxl"])
def test_it_is_recognised_and_comes_back(which: str, tmp_path: Path) -> None:
    model = made(which)
    ldm.save_file(tmp_path / "there.safetensors", model)
    found = load(tmp_path / "there.safetensors", dtype=None)
    for part in ("network", "codec", "text", "process", "parameterization"):
        assert getattr(found.spec, part) == getattr(model.spec, part), part
    assert same(model, found)
    family = {"inpaint": "sd1"}.get(which, which)
    assert found.lineage["origin"]["family"] == family
    assert found.spec.size == {"sd1": (512, 512), "sd2": (512, 512), "sd2-v": (768, 768), "sdxl": (1024, 1024)}[family]
    save(tmp_path / "ours.safetensors", found)
    ldm.save_file(tmp_path / "back.safetensors", load(tmp_path / "ours.safetensors", dtype=None))
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "there.safetensors").read_bytes()


def furnished(path: Path) -> None:
    """A file as the original training leaves it: averages, buffers of the schedule, positions of words, a step count, half precision."""
    ldm.save_file(path, made("sd1"))
    tensors = {k: v.half() for k, v in load_file(path).items()}
    named = {k: v for k, v in tensors.items() if k.startswith("model.")}
    tensors |= {f"model_ema.{k.removeprefix('model.').replace('.', '')}": v + 1 for k, v in named.items()}
    tensors |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
    tensors |= {
        name: torch.rand(1000) for name in ("betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "posterior_variance")
    }
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, path, metadata={"format": "pt", "modelspec.title": "a model"})


def test_what_no_part_uses_is_kept_and_both_sets_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "there.safetensors"
    furnished(path)
    assert peek(path).weights == ("raw", "ema")
    raw, ema = load(path, "raw", dtype=None), load(path, "ema", dtype=None)
    assert load(path).weights == "ema"
    for name, value in raw.denoiser.network.state_dict().items():
        assert torch.equal(value + 1, ema.denoiser.network.state_dict()[name])
    assert torch.equal(raw.codec.state_dict()["encoder.stem.weight"], ema.codec.state_dict()["encoder.stem.weight"])
    there = lambda name: str(tmp_path / name)  # noqa: E731
    assert main(["convert", there("there.safetensors"), "--to", "safelight", "--out", there("ours.safetensors")]) == 0
    assert peek(tmp_path / "ours.safetensors").weights == ("raw", "ema")
    assert main(["convert", there("ours.safetensors"), "--to", "ldm", "--out", there("back.safetensors")]) == 0
    assert path.read_bytes() == (tmp_path / "back.safetensors").read_bytes()


def test_a_folder_of_it_is_read_by_diffusers_and_comes_back(tmp_path: Path) -> None:
    model = made("sd1")
    ldm.save_file(tmp_path / "there.safetensors", model)
    diffusers.save_folder(tmp_path / "folder", load(tmp_path / "there.safetensors"))
    pipeline = peers.diffusers().StableDiffusionPipeline.from_pretrained(tmp_path / "folder")
    assert torch.equal(pipeline.unet.conv_in.weight, model.get_parameter("denoiser.network.stem.weight"))
    again = load(tmp_path / "folder")
    assert same(model, again)
    ldm.save_file(tmp_path / "back.safetensors", again)
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "there.safetensors").read_bytes()


def test_the_prediction_is_told_by_notes_markers_or_the_one_weight(tmp_path: Path) -> None:
    ldm.save_file(tmp_path / "a.safetensors", made("sd2"))
    tensors = load_file(tmp_path / "a.safetensors")

    def read(notes: dict[str, str] | None = None, **more: torch.Tensor) -> ModelSpec:
        save_file({**tensors, **more}, tmp_path / "b.safetensors", metadata=notes)
        return load(tmp_path / "b.safetensors").spec

    assert isinstance(read().parameterization, Eps)
    assert isinstance(read({"modelspec.prediction_type": "v"}).parameterization, V)
    marked = read(v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    assert (
        isinstance(marked.parameterization, V) and isinstance(marked.process, ScaledLinear) and marked.process.zero_terminal_snr
    )
    there = Tensors([tmp_path / "a.safetensors"])
    for spread, kind in ((0.02, "epsilon"), (0.13, "v_prediction")):
        bias = torch.linspace(-1, 1, 101) * spread / 0.583
        telling = {**{k: there[k] for k in there}, ldm.UNET + ldm._TELLS: bias}
        save_file(telling, tmp_path / "c.safetensors")
        assert ldm._prediction(Tensors([tmp_path / "c.safetensors"]), "sd2")[0] == kind


@pytest.mark.parametrize("classes", [0, 3])
def test_a_network_of_pixels_is_that_of_guided_diffusion(classes: int, tmp_path: Path) -> None:
    full = UNetSpec.adm(64, classes)
    smaller = {
        "widths": (64, 64, 128, 128),
        "attention": (full.attention[0], *(_look(width) for width in (64, 128, 128))),
        "middle": _look(128),
        "time": 256,
        "embedding": SinusoidSpec(width=64, closed=False, cos_first=True),
    }
    network = full.model_copy(update=smaller)
    model = peers.stirred(
        ModelSpec(
            network=network, process=schedulers.read(ldm._guided(64)).process, parameterization=Eps(), channels=3, size=(64, 64),
            text=LabelSpec(names=("0", "1", "2"), raw=True) if classes else None,
        ).build()
    )  # fmt: skip
    assert isinstance(model, Model)
    read = unet.recognise(
        {k: tuple(v.shape) for k, v in theirs([Share(ldm.NETWORK, unet.ldm_keys(network))], model.state_dict()).items()}
    )
    model.spec = model.spec.model_copy(update={"network": read})
    ldm.save_file(tmp_path / "there.safetensors", model)
    found = load(tmp_path / "there.safetensors", dtype=None)
    assert same(model, found) and found.lineage["origin"]["family"] == "adm" and found.spec.network == read
    picture = found("1" if classes else "", steps=2, seed=1)
    assert picture.size == (64, 64)
    save(tmp_path / "ours.safetensors", found)
    ldm.save_file(tmp_path / "back.safetensors", load(tmp_path / "ours.safetensors", dtype=None))
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "there.safetensors").read_bytes()


def _look(width: int) -> FullAttentionSpec:
    return FullAttentionSpec(heads=width // 64, head_width=64, bias=True)


def test_a_scale_of_its_own_is_written_and_read(tmp_path: Path) -> None:
    model = made("sd1")
    model.codec.get_buffer("scale").fill_(1 / 0.25)
    ldm.save_file(tmp_path / "a.safetensors", model)
    assert load(tmp_path / "a.safetensors").codec.get_buffer("scale").tolist() == [4.0] * 4


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ({"lora_unet_down_blocks_0.lora_down.weight"}, "it is an adapter"),
        ({"emb_params"}, "it is a word that was learned"),
        ({"control_model.input_hint_block.0.weight"}, "it is a ControlNet"),
        ({"first_stage_model.encoder.conv_in.weight"}, "it is a codec alone"),
        ({"down_blocks.0.resnets.0.conv1.weight"}, "it is a network alone"),
        ({"x"}, "its header has no 'safelight' entry"),
    ],
)
def test_what_is_no_model_is_named(names: set[str], line: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(SpecError, match=line):
        peek(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"drop": "first_stage_model."}, "holds a network without its codec"),
        ({"drop": "cond_stage_model."}, "holds a network without its text encoder"),
        ({"add": "somebody.weight"}, "has 'somebody.weight', which no part of the model uses"),
        ({"add": "model.diffusion_model.somebody.weight"}, "has 'somebody.weight', which no part"),
        ({"drop": "model.diffusion_model.out.2.bias"}, r"lacks '(model.diffusion_model.)?out.2.bias'"),
    ],
)
def test_refusals(change: dict[str, str], line: str, tmp_path: Path) -> None:
    ldm.save_file(tmp_path / "a.safetensors", made("sd1"))
    tensors = {k: v for k, v in load_file(tmp_path / "a.safetensors").items() if not k.startswith(change.get("drop", "\0"))}
    if "add" in change:
        tensors[change["add"]] = torch.zeros(1)
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(SpecError, match=line) as caught:
        load(tmp_path / "b.safetensors")
    assert "\n" not in str(caught.value)


def test_what_the_layout_cannot_say_is_not_written(tmp_path: Path) -> None:
    model = made("sd1")
    for part, value, line in (
        ("process", ScaledLinear(), "cannot say its process"),
        ("parameterization", "x0", "predicts 'eps' or 'v', not 'x0'"),
        ("text", None, "not a model without text"),
        ("network", UNetSpec(**{**dict(model.spec.network), "zero": True}), "cannot say network.zero"),
    ):
        from safelight.spec import build

        model.spec = made("sd1").spec.model_copy(update={part: build(value, part) if isinstance(value, str) else value})
        with pytest.raises(SpecError, match=line):
            ldm.save_file(tmp_path / "a.safetensors", model)
    assert not list(tmp_path.iterdir())
