"""Controls at work: whole controlled runs beside diffusers' pipelines, the part of the run in which each acts, and what stays untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from safelight.adapt.control import Control, Controlled, Steering, look, told
from safelight.assets import Assets
from safelight.cond import Cond
from safelight.generate import Finished, generate
from safelight.interop import control as files
from safelight.model import Model, load
from safelight.nn.controlnet import ControlNetSpec
from safelight.nn.ip import FromEmbedding, FromQueries, IPSpec
from safelight.nn.t2i import T2ISpec
from safelight.nn.unet import UNetSpec
from safelight.noise import Noise
from safelight.process import Level
from safelight.spec import SpecError, parse
from safelight.task import Request
from tests import peers
from tests.interop import folders

PROMPTS = ("cat dog", "red")
HALVES = dict(conditioning_embedding_out_channels=(8, 12))


def picture(seed: int = 3, side: int = 32) -> Tensor:
    """Random pixels, uint8 (3, side, side)."""
    return torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def controlnet(seed: int = 5) -> Any:
    """A ControlNet of `folders.unet`'s architecture, none of whose weights is zero."""
    like = {k: v for k, v in folders.unet().config.items() if k in ("block_out_channels", "layers_per_block", "attention_head_dim",
            "norm_num_groups", "cross_attention_dim", "down_block_types")}  # fmt: skip
    return peers.stirred(peers.diffusers().ControlNetModel(**like, **HALVES), seed)


def adapter(seed: int = 6) -> Any:
    return peers.stirred(peers.diffusers().T2IAdapter(channels=[32, 64], num_res_blocks=1, downscale_factor=2), seed)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Model]:
    """A folder with a tiny Stable Diffusion and two controls, the pipeline of diffusers, and our model of it."""
    folder = tmp_path_factory.mktemp("world")
    pipeline = folders.sd1()
    folders.save(pipeline, folder / "sd")
    controlnet().save_pretrained(folder / "edges")
    controlnet(15).save_pretrained(folder / "depth")
    adapter().save_pretrained(folder / "sketch")
    return folder, pipeline, load(folder / "sd")


def made(model: Model, assets: Assets, **fields: Any) -> Tensor:
    """The pictures of a run, (B, 3, H, W) in [0, 1]."""
    request = Request(prompt=PROMPTS, seed=7, steps=8, mix={"kind": "cfg", "scale": 3.0}, emphasis="none", **fields)
    pictures = torch.cat([e.pictures for e in generate(model, request, assets=assets) if isinstance(e, Finished)])
    return (pictures / 2 + 0.5).clamp(0, 1)


def theirs(pipeline: Any, **fields: Any) -> Tensor:
    """The same run in diffusers, from the same noise."""
    pipeline.set_progress_bar_config(disable=True)
    x = Noise(7, (0, 1)).normal("start", None, None, torch.empty(2, 4, 16, 16))
    return pipeline(
        prompt=list(PROMPTS),
        latents=x,
        num_inference_steps=8,
        guidance_scale=3.0,
        height=32,
        width=32,
        output_type="pt",
        **fields,
    ).images


def composed(kind: str, pipeline: Any, **more: Any) -> Any:
    """A pipeline of another class with the same parts."""
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: getattr(pipeline, name) for name in names}
    plain = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return getattr(peers.diffusers(), kind)(**parts, **plain, **more)


@pytest.mark.parametrize(("weight", "start", "end"), [(1.0, 0.0, 1.0), (0.6, 0.25, 0.75), (1.3, 0.3, 1.0)])
def test_a_run_with_a_controlnet_is_that_of_diffusers(world: Any, weight: float, start: float, end: float) -> None:
    folder, pipeline, model = world
    assets = Assets([pixels := picture()])
    (seal,) = assets._pictures
    control = Control(name=assets.bring_control(folder / "edges"), picture=seal, weight=weight, start=start, end=end)
    ours = made(model, assets, controls=(control,))
    peer = composed("StableDiffusionControlNetPipeline", pipeline, controlnet=controlnet())
    wanted = theirs(
        peer, image=torch.stack([pixels, pixels]).float() / 255, controlnet_conditioning_scale=weight,
        control_guidance_start=start, control_guidance_end=end,
    )  # fmt: skip
    assert (ours - wanted).abs().max() < 0.1 / 255
    assert (made(model, assets) - wanted).abs().max() > 10 / 255


def test_two_controlnets_add_up_as_in_diffusers(world: Any) -> None:
    folder, pipeline, model = world
    pictures = [picture(), picture(4)]
    assets = Assets(pictures)
    names = [
        assets.bring_control(folder / "edges"),
        assets.bring_control(folder / "depth" / "diffusion_pytorch_model.safetensors"),
    ]
    assert names == ["edges", "depth"]
    asked = zip(names, assets._pictures, (0.5, 0.8), strict=True)
    ours = made(model, assets, controls=tuple(Control(name=n, picture=s, weight=w) for n, s, w in asked))
    peer = composed("StableDiffusionControlNetPipeline", pipeline, controlnet=[controlnet(), controlnet(15)])
    shown = [torch.stack([p, p]).float() / 255 for p in pictures]
    wanted = theirs(peer, image=shown, controlnet_conditioning_scale=[0.5, 0.8])
    assert (ours - wanted).abs().max() < 0.1 / 255


def test_a_run_with_a_t2i_adapter_is_that_of_diffusers(world: Any) -> None:
    folder, pipeline, model = world
    assets = Assets([pixels := picture()])
    (seal,) = assets._pictures
    control = Control(name=assets.bring_control(folder / "sketch"), picture=seal, weight=0.7)
    peer = composed("StableDiffusionAdapterPipeline", pipeline, adapter=adapter())
    wanted = theirs(peer, image=torch.stack([pixels, pixels]).float() / 255, adapter_conditioning_scale=0.7)
    wanted = torch.from_numpy(wanted).movedim(3, 1)
    ours = made(model, assets, controls=(control,))
    assert (ours - wanted).abs().max() < 0.1 / 255
    assert (made(model, assets) - wanted).abs().max() > 1 / 255


def test_the_model_is_as_it_was_and_weight_zero_is_no_control(world: Any) -> None:
    folder, _, model = world
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assets = Assets([picture()])
    (seal,) = assets._pictures
    name = assets.bring_control(folder / "edges")
    plain = made(model, assets)
    assert not torch.equal(made(model, assets, controls=(Control(name=name, picture=seal),)), plain)
    assert torch.equal(made(model, assets, controls=(Control(name=name, picture=seal, weight=0),)), plain)
    assert torch.equal(made(model, assets), plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_bound_is_what_is_called(world: Any) -> None:
    """A bound denoiser's table of levels gives the same numbers as calling it, with and without the control acting."""
    folder, _, model = world
    net = files.read(folder / "edges")
    seen = look(net, picture()[None].float() / 255, model.denoiser.network, model.codec.stride)
    levels = list(model.process.at(torch.tensor([0.9, 0.6, 0.3, 0.0], dtype=torch.float64)).split())
    low, high = Control(name="edges", picture="x", end=0.5).span(levels)
    denoiser = Controlled(model.denoiser, [Steering(net, seen, 0.8, low, high)])
    cond = model.text.read(["cat", "dog"])
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bound = denoiser.bind(cond, levels)
        for level, acts in zip(levels[:-1], (True, False, False), strict=True):
            one, plain = denoiser(x, level, cond).x0, model.denoiser(x, level, cond).x0
            torch.testing.assert_close(bound(x, level).x0, one, rtol=0, atol=1e-4 * float(one.abs().max()))
            assert torch.allclose(one, plain, rtol=0, atol=1e-5 * float(one.abs().max())) != acts


@pytest.mark.parametrize(
    ("start", "end", "acting"), [(0, 1, (0, 1, 2, 3)), (0, 0.5, (0, 1)), (0.5, 1, (2, 3)), (0.3, 0.8, (2,)), (0.9, 1, ())]
)
def test_the_part_of_the_run_in_which_a_control_acts(start: float, end: float, acting: tuple[int, ...]) -> None:
    """Step i of n = 4 does where i / n >= start and (i + 1) / n <= end: diffusers' rule, which may leave no step at all."""
    times = (0.8, 0.6, 0.4, 0.2, 0.0)
    levels = [Level(*(torch.tensor(t, dtype=torch.float64) for t in (time, 1.0, time))) for time in times]
    low, high = Control(name="a", picture="b", start=start, end=end).span(levels)
    assert tuple(i for i in range(4) if low < times[i] <= high) == acting


def test_a_pictures_tokens_stand_in_front_of_the_words() -> None:
    """Those of no picture in the null and negative branches; what counts of the words is as it was."""
    net = IPSpec(context=6, picture=FromEmbedding(seen=5, tokens=2), widths=(8,)).build()
    shown, none = torch.ones(1, 2, 6), torch.zeros(1, 2, 6)
    mask = torch.tensor([[True, True, False]] * 2)
    cond = Cond(torch.randn(2, 3, 6), mask)
    found = told({"cond": cond, "null": cond, "negative0": cond}, [Steering(net, (shown, none))])
    for name, first in (("cond", 1.0), ("null", 0.0), ("negative0", 0.0)):
        assert torch.equal(found[name].tokens[:, 2:], cond.tokens) and bool((found[name].tokens[:, :2] == first).all())
        assert found[name].mask.tolist() == [[True] * 4 + [False]] * 2
    with pytest.raises(SpecError, match="this model reads none"):
        told({"cond": None}, [Steering(net, (shown, none))])


def test_what_cannot_steer_is_refused_in_one_line(world: Any, tmp_path: Path) -> None:
    folder, _, model = world
    assets = Assets([picture()])
    (seal,) = assets._pictures
    assets.bring_control(folder / "edges")
    with pytest.raises(SpecError, match="control 'edge' is not at hand: give its file with --control; did you mean 'edges'"):
        made(model, assets, controls=(Control(name="edge", picture=seal),))
    with pytest.raises(SpecError, match="no control at"):
        assets.bring_control(tmp_path / "missing.safetensors")
    with pytest.raises(SpecError, match="is not at hand: give its file with --input"):
        made(model, assets, controls=(Control(name="edges", picture="sha256:0"),))
    with pytest.raises(SpecError, match="start must be below end"):
        parse({"controls": [{"name": "a", "picture": "b", "start": 0.5, "end": 0.5}]}, "request")
    (tmp_path / "edges").mkdir()
    with pytest.raises(SpecError, match="two controls are called 'edges'"):
        assets.bring_control(tmp_path / "edges")
    with pytest.raises(SpecError, match="holds a UNet2DConditionModel, which is no control"):
        files.read(folder / "sd" / "unet")
    with pytest.raises(SpecError, match="holds no control that is known here"):
        files.read(_file(tmp_path / "other.safetensors", {"a": torch.zeros(1)}))
    small = ControlNetSpec(trunk=UNetSpec.latent((32, 64), (1, 0), 32, heads=4, groups=8), hint=(8, 12, 16)).build()
    shown, network, stride = torch.rand(1, 3, 32, 32), model.denoiser.network, model.codec.stride
    with pytest.raises(
        SpecError, match="'controlnet' is of a U-Net with .* and 4 pixels a place, the model's has .* and 2 pixels"
    ):
        look(small, shown, network, stride)
    other = ControlNetSpec(trunk=UNetSpec.latent((32, 64), (1, 0), 24, heads=4, groups=8), hint=(8, 12)).build()
    with pytest.raises(SpecError, match="tokens of 24, .*the model's has .* tokens of 32"):
        look(other, shown, network, stride)
    wide = T2ISpec(widths=(32, 64), halves=(), unshuffle=4, depth=1).build()
    with pytest.raises(
        SpecError, match="'t2i-adapter' is of a U-Net with width 32 at 4 pixels a place, .*the model's has width 32 at 2"
    ):
        look(wide, shown, network, stride)
    with pytest.raises(SpecError, match="the picture has 1 channels, the control sees 3"):
        look(wide, shown[:, :1], network, stride)
    with pytest.raises(SpecError, match="it takes a U-Net"):
        look(wide, shown, torch.nn.Identity(), stride)
    fits = T2ISpec(widths=(32, 64, 64), halves=(1,), unshuffle=2, depth=1).build()  # one for the middle too
    with pytest.raises(SpecError, match="sides are multiples of 4; set size"):
        look(fits, shown[..., :30], network, stride)


def _file(path: Path, tensors: dict[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    save_file(tensors, path)
    return path


def test_controls_are_written_as_published(world: Any, tmp_path: Path) -> None:
    """A folder of diffusers is given back byte by byte; an IP-adapter's file too, and the original layouts are read."""
    folder, _, _ = world
    for name in ("edges", "sketch"):
        net = files.read(folder / name)
        files.save(net, tmp_path / name)
        weights = "diffusion_pytorch_model.safetensors"
        assert (tmp_path / name / weights).read_bytes() == (folder / name / weights).read_bytes()
        assert files.read(tmp_path / name).spec == net.spec
    face = peers.stirred(IPSpec(context=16, picture=FromEmbedding(seen=10), widths=(32, 64)).build())
    files.save(face, tmp_path / "face.safetensors")
    again = files.read(tmp_path / "face.safetensors")
    assert again.spec == face.spec and all(
        torch.equal(a, b) for a, b in zip(again.parameters(), face.parameters(), strict=True)
    )


def test_original_single_files_are_read(tmp_path: Path) -> None:
    from safelight.interop.keys import to_theirs
    from safelight.interop.maps import controlnet as net_map
    from safelight.interop.maps import t2i as t2i_map

    trunk = UNetSpec.latent((64, 128), (1, 0), 16, heads=8, linear=False)
    net = peers.stirred(ControlNetSpec(trunk=trunk, hint=(8, 12)).build())
    state = {f"control_model.{k}": v for k, v in to_theirs(net_map.ldm_keys(net.spec), net.state_dict()).items()}
    found = files.read(_file(tmp_path / "control_any.safetensors", state))
    assert found.spec == net.spec and all(torch.equal(v, net.state_dict()[k]) for k, v in found.state_dict().items())
    sketch = peers.stirred(T2ISpec(widths=(8, 8, 16, 16)).build())
    found = files.read(_file(tmp_path / "t2i.safetensors", to_theirs(t2i_map.ldm_keys(sketch.spec), sketch.state_dict())))
    assert found.spec == sketch.spec and all(torch.equal(v, sketch.state_dict()[k]) for k, v in found.state_dict().items())


# --- IP-adapter --------------------------------------------------------------------------------------------------------------

# Of `folders.unet`: the cross-attention on the way down, the two on the way up, the middle's.
WIDTHS = (32, 32, 32, 64)


def tower(folder: Path) -> Any:
    """A tiny image tower, saved."""
    peer = peers.transformers()
    config = peer.CLIPVisionConfig(
        hidden_size=20,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        projection_dim=12,
    )
    made = peers.stirred(peer.CLIPVisionModelWithProjection(config), 8)
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize(
    "kind", [FromEmbedding(seen=12), FromQueries(seen=20, tokens=3, width=24, heads=2)], ids=lambda k: k.kind
)
def test_a_run_with_an_ip_adapter_is_that_of_diffusers(world: Any, tmp_path: Path, kind: Any) -> None:
    """From a picture that is no square, through the image tower; the null branch is shown none."""
    _, pipeline, model = world
    encoder = tower(tmp_path / "image_encoder")
    net = peers.stirred(IPSpec(context=32, picture=kind, widths=WIDTHS).build(), 9)
    files.save(net, tmp_path / "look.safetensors")
    pixels = torch.randint(0, 256, (3, 40, 27), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    assets = Assets([pixels])
    (seal,) = assets._pictures
    control = Control(name=assets.bring_control(tmp_path / "look.safetensors"), picture=seal, weight=0.6)
    ours = made(model, assets, controls=(control,))

    fresh = folders.sd1()  # its U-Net is changed by what it loads
    parts = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    peer = peers.diffusers().StableDiffusionPipeline(
        **parts,
        unet=fresh.unet,
        safety_checker=None,
        feature_extractor=processor(),
        image_encoder=encoder,
        requires_safety_checker=False,
    )
    peer.load_ip_adapter(str(tmp_path), subfolder="", weight_name="look.safetensors", image_encoder_folder=None)
    peer.set_ip_adapter_scale(0.6)
    wanted = theirs(peer, ip_adapter_image=Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    assert (ours - wanted).abs().max() < 0.1 / 255
    assert (made(model, assets) - wanted).abs().max() > 1 / 255


def processor() -> Any:
    """What prepares a picture for the tower, without torchvision."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def test_an_ip_adapter_without_its_tower_is_refused(world: Any, tmp_path: Path) -> None:
    _, _, model = world
    net = peers.stirred(IPSpec(context=32, picture=FromEmbedding(seen=13), widths=WIDTHS).build(), 9)
    files.save(net, tmp_path / "look.safetensors")
    tower(tmp_path / "image_encoder")  # of another width
    assets = Assets([picture()])
    (seal,) = assets._pictures
    name = assets.bring_control(tmp_path / "look.safetensors")
    with pytest.raises(
        SpecError, match=r"through CLIP's image tower \(13 wide\): put that beside it, as the folder image_encoder"
    ):
        made(model, assets, controls=(Control(name=name, picture=seal),))


# --- Stable Diffusion XL -----------------------------------------------------------------------------------------------------


def test_a_run_of_sdxl_with_a_controlnet_is_that_of_diffusers(tmp_path: Path) -> None:
    """The ControlNet hears the pooled text and the six numbers of the framing as well."""
    pipeline = folders.sdxl()
    model = load(folders.save(pipeline, tmp_path / "xl"))
    names = ("block_out_channels", "layers_per_block", "attention_head_dim", "norm_num_groups", "cross_attention_dim", "down_block_types",
             "addition_embed_type", "addition_time_embed_dim", "use_linear_projection", "projection_class_embeddings_input_dim",
             "transformer_layers_per_block")  # fmt: skip
    net = peers.diffusers().ControlNetModel(**{k: pipeline.unet.config[k] for k in names}, **HALVES)
    peers.stirred(net, 5).save_pretrained(tmp_path / "edges")
    assets = Assets([pixels := picture()])
    (seal,) = assets._pictures
    ours = made(model, assets, controls=(Control(name=assets.bring_control(tmp_path / "edges"), picture=seal, weight=0.7),))
    parts = {
        n: getattr(pipeline, n)
        for n in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    }
    peer = peers.diffusers().StableDiffusionXLControlNetPipeline(**parts, controlnet=net, add_watermarker=False)
    wanted = theirs(peer, image=torch.stack([pixels, pixels]).float() / 255, controlnet_conditioning_scale=0.7)
    assert (ours - wanted).abs().max() < 0.1 / 255
    assert (made(model, assets) - wanted).abs().max() > 1 / 255


@pytest.mark.parametrize(
    ("control", "network"),
    [
        (T2ISpec(), UNetSpec.sd1()),
        (T2ISpec.light(), UNetSpec.sd2()),
        (T2ISpec.sdxl(), UNetSpec.sdxl()),
        (ControlNetSpec(trunk=UNetSpec.sd1()), UNetSpec.sd1(image=5)),
        (ControlNetSpec(trunk=UNetSpec.sdxl()), UNetSpec.sdxl()),
    ],
    ids=["full", "light", "xl", "sd1-inpainting", "sdxl"],
)
def test_published_controls_fit_the_published_networks(control: Any, network: UNetSpec) -> None:
    """At true size, by shapes alone: what each makes of 1024 pixels; on another network each is refused."""
    with torch.device("meta"):
        net, base, shown = control.build(), network.build(), torch.zeros(1, 3, 1024, 1024)
        other = (UNetSpec.sd2() if network == UNetSpec.sdxl() else UNetSpec.sdxl()).build()
    assert len(look(net, shown, base, 8)) == (4 if isinstance(control, T2ISpec) else 1)
    with pytest.raises(SpecError, match="is of a U-Net with"):
        look(net, shown, other, 8)
