"""ControlNet, T2I-adapter and IP-adapter as published: read, answering as diffusers' do, and written back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.interop import keys as core
from safelight.interop.maps import controlnet, ip, t2i, unet
from safelight.nn.controlnet import ControlNet, ControlNetSpec
from safelight.nn.ip import FromEmbedding, FromPatches, FromQueries, IPSpec, PictureTokens
from safelight.nn.t2i import T2ISpec
from safelight.nn.unet import UNetSpec
from safelight.spec import SpecError, build, describe
from tests.peers import difference, diffusers, stirred


def saved(peer: nn.Module, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and tensors, as the peer's own `save_pretrained` writes them."""
    peer.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "diffusion_pytorch_model.safetensors")


def loaded(part: nn.Module, keys: list[core.Key], tensors: Mapping[str, Tensor]) -> None:
    """Strictly: every tensor of the part from the tensors that the keys name, all of which are used."""
    core.check(keys, tensors, "the file")
    shapes = {name: value.shape for name, value in part.state_dict().items()}
    part.load_state_dict(core.to_ours(keys, tensors.__getitem__, shapes))


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """The same names with the same bytes."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- T2I-adapter -------------------------------------------------------------------------------------------------------------

ADAPTERS = [
    dict(adapter_type="full_adapter", channels=[8, 16, 24, 24], num_res_blocks=2, downscale_factor=4),
    dict(adapter_type="full_adapter_xl", channels=[8, 16, 24, 24], num_res_blocks=2, downscale_factor=8),
    dict(adapter_type="light_adapter", channels=[8, 16, 24], num_res_blocks=3, downscale_factor=4, in_channels=1),
]


@pytest.mark.parametrize("fields", ADAPTERS, ids=lambda f: f["adapter_type"])
def test_t2i_adapter_answers_as_diffusers_and_is_written_back(fields: dict[str, Any], tmp_path: Path) -> None:
    peer = stirred(diffusers().T2IAdapter(**fields))
    config, tensors = saved(peer, tmp_path)
    spec = t2i.spec(config)
    net = build(describe(spec))
    loaded(net, t2i.keys(spec), tensors)
    assert spec.stride == peer.total_downscale_factor
    draws = torch.Generator().manual_seed(1)
    for i in range(10):
        picture = torch.rand(1 + i % 2, spec.channels, spec.stride * (1 + i % 3), spec.stride * 2, generator=draws)
        with torch.no_grad():
            ours, theirs = net(picture), peer(picture)
        assert len(ours) == len(theirs) == len(spec.widths)
        assert max(difference(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-5
    assert equal(core.to_theirs(t2i.keys(spec), net.state_dict()), tensors)
    written = t2i.config(spec)
    assert written == {name: config[name] for name in written}
    assert set(config) - set(written) == {"_diffusers_version"}


@pytest.mark.parametrize("spec", [T2ISpec(), T2ISpec.light(), T2ISpec.sdxl()], ids=["full", "light", "sdxl"])
def test_the_authors_names_of_the_published_adapters(spec: T2ISpec) -> None:
    """The names of the authors' files are told apart by their shapes, and the sizes are those of diffusers' classes."""
    with torch.device("meta"):
        net, peer = spec.build(), diffusers().T2IAdapter(**{k: v for k, v in t2i.config(spec).items() if k != "_class_name"})
    state = core.to_theirs(t2i.ldm_keys(spec), net.state_dict())
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    count = sum(p.numel() for p in peer.parameters())
    assert sum(p.numel() for p in net.parameters()) == sum(v.numel() for v in state.values()) == count
    assert t2i.recognise(shapes) == spec
    assert t2i.recognise({"adapter." + name: shape for name, shape in shapes.items()}) is None
    if not spec.narrow:
        assert shapes["body.2.in_conv.weight"] == (640, 320, 1, 1) and "body.7.block2.bias" in shapes
        assert ("body.6.in_conv.weight" in shapes) is False
    else:
        assert shapes["body.3.body.3.block2.weight"] == (320, 320, 3, 3) and shapes["body.0.in_conv.weight"] == (80, 192, 1, 1)


def test_what_no_t2i_adapter_is_is_refused() -> None:
    with pytest.raises(SpecError, match='adapter_type "tiny_adapter" has no counterpart here'):
        t2i.spec({"adapter_type": "tiny_adapter"})
    with pytest.raises(SpecError, match="channels must be a list of whole numbers"):
        t2i.spec({"channels": 320})
    with pytest.raises(SpecError, match=r"no counterpart of halves \[1\]"):
        t2i.config(T2ISpec(halves=(1,)))


# --- ControlNet --------------------------------------------------------------------------------------------------------------

NET = dict(
    block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=16, attention_head_dim=8, norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
)  # fmt: skip
HINT = dict(conditioning_embedding_out_channels=(8, 12, 16, 24))
SDXL = NET | dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), transformer_layers_per_block=(1, 2), use_linear_projection=True,
    attention_head_dim=(4, 8), addition_embed_type="text_time", addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=10 + 6 * 8,
)  # fmt: skip


def control(net: ControlNet, x: Tensor, t: Tensor, cond: Cond, picture: Tensor) -> list[Tensor]:
    """What a ControlNet adds."""
    told = net.trunk.tell(t.float(), cond.vector)
    return net.draw(x, told, net.trunk.read(cond.tokens, None), net.see(picture))


@pytest.mark.parametrize(("fields", "bgr"), [(NET, False), (SDXL, True)], ids=["sd", "sdxl"])
def test_controlnet_answers_as_diffusers_and_is_written_back(fields: dict[str, Any], bgr: bool, tmp_path: Path) -> None:
    order = {"controlnet_conditioning_channel_order": "bgr"} if bgr else {}
    peer = stirred(diffusers().ControlNetModel(**fields, **HINT, **order))
    config, tensors = saved(peer, tmp_path)
    spec = controlnet.spec(config, pooled=10 if fields is SDXL else None)
    net = build(describe(spec)).eval()
    loaded(net, controlnet.keys(spec), tensors)
    draws = torch.Generator().manual_seed(1)
    for _ in range(10):
        x, tokens = torch.randn(2, 4, 8, 8, generator=draws), torch.randn(2, 5, 16, generator=draws)
        picture, t = torch.rand(2, 3, 64, 64, generator=draws), torch.randint(1000, (2,), generator=draws)
        pooled, numbers = torch.randn(2, 10, generator=draws), torch.rand(2, 6, generator=draws) * 1000
        with torch.no_grad():
            down, middle = peer(
                x, t, tokens, picture, added_cond_kwargs={"text_embeds": pooled, "time_ids": numbers}, return_dict=False
            )
            ours = control(net, x, t, Cond(tokens, vector=torch.cat((pooled, numbers), dim=1)), picture)
        assert len(ours) == len(down) + 1
        assert max(difference(a, b) for a, b in zip(ours, (*down, middle), strict=True)) < 1e-5
    assert equal(core.to_theirs(controlnet.keys(spec), net.state_dict()), tensors)
    written = controlnet.config(spec)
    assert set(config) - set(written) == {"_diffusers_version"}
    again = diffusers().ControlNetModel.from_config(written)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in tensors.items()}
    assert controlnet.spec(written, pooled=10 if fields is SDXL else None) == spec


@pytest.mark.parametrize(
    ("trunk", "count"), [(UNetSpec.sd1(), 361_279_120), (UNetSpec.sdxl(), 1_251_014_160)], ids=["sd1", "sdxl"]
)
def test_the_original_names_of_the_published_controlnets(trunk: UNetSpec, count: int) -> None:
    spec = ControlNetSpec(trunk=trunk)
    with torch.device("meta"):
        net = spec.build()
        peer = diffusers().ControlNetModel(**{k: v for k, v in controlnet.config(spec).items() if k != "_class_name"})
    state = core.to_theirs(controlnet.ldm_keys(spec), net.state_dict())
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert {name: tuple(v.shape) for name, v in core.to_theirs(controlnet.keys(spec), net.state_dict()).items()} == {
        name: tuple(v.shape) for name, v in peer.state_dict().items()
    }
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in peer.parameters()) == count
    assert controlnet.recognise(shapes) == spec
    assert shapes["input_hint_block.14.weight"] == (320, 256, 3, 3) and shapes["zero_convs.0.0.weight"] == (320, 320, 1, 1)
    assert shapes["middle_block_out.0.bias"] == (1280,) and "input_blocks.0.0.weight" in shapes
    assert controlnet.recognise({k: v for k, v in shapes.items() if "hint" not in k}) is None


def test_a_fresh_controlnet_adds_nothing() -> None:
    spec = ControlNetSpec(trunk=UNetSpec.latent((32, 64), (1, 0), 16, heads=8, groups=8), hint=(8, 12))
    torch.manual_seed(0)
    net = spec.build()
    x, picture = torch.randn(2, 4, 8, 8), torch.rand(1, 3, 16, 16)
    assert spec.stride == 2 and not net.see(picture).any()
    assert not any(e.any() for e in control(net, x, torch.tensor([3]), Cond(torch.randn(2, 5, 16)), picture))


def test_what_no_controlnet_is_is_refused() -> None:
    with pytest.raises(SpecError, match="global_pool_conditions true has no counterpart here"):
        controlnet.spec({"global_pool_conditions": True})


# --- IP-adapter --------------------------------------------------------------------------------------------------------------

TINY = dict(
    block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8, norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip
# What each cross-attention of TINY's is wide: the one on the way down, the two on the way up, the middle's.
WIDTHS = (32, 32, 32, 64)
SEEN: list[PictureTokens] = [
    FromEmbedding(seen=10, tokens=4),
    FromPatches(seen=10),
    FromQueries(seen=10, tokens=3, width=24, depth=4, heads=2),
]


@pytest.mark.parametrize("picture", SEEN, ids=lambda p: p.kind)
def test_ip_adapter_in_a_unet_answers_as_diffusers(picture: PictureTokens) -> None:
    """The published names, put into diffusers' U-Net by its own reader; our U-Net reads the same words and picture."""
    spec = IPSpec(context=16, picture=picture, widths=WIDTHS)
    adapter = stirred(spec.build())
    keys = ip.keys(spec)
    state = core.to_theirs(keys, adapter.state_dict())
    assert ip.recognise({name: tuple(value.shape) for name, value in state.items()}) == spec
    other = build(describe(spec))
    loaded(other, keys, state)
    assert equal(other.state_dict(), adapter.state_dict())

    peer = stirred(diffusers().UNet2DConditionModel(**TINY), seed=1)
    net = unet.spec(dict(peer.config)).build().eval()
    loaded(net, unet.keys(net.spec), peer.state_dict())
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    peer._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    for processor in peer.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]

    draws = torch.Generator().manual_seed(1)
    for _ in range(10):
        x, tokens = torch.randn(2, 4, 8, 8, generator=draws), torch.randn(2, 5, 16, generator=draws)
        t = torch.randint(1000, (2,), generator=draws)
        seen = torch.randn(*((2, 6, 10) if picture.deep else (2, 10)), generator=draws)
        with torch.no_grad():
            theirs = peer(x, t, tokens, added_cond_kwargs={"image_embeds": [seen[:, None]]}).sample
            words = adapter.beside(net, net.read(tokens, None), adapter.tokens(seen), 0.7)
            told = net.tell(t.float(), None)
            ours, plain = net.draw(x, told, words).F, net.draw(x, told, net.read(tokens, None)).F
        assert difference(ours, theirs) < 1e-5
        assert difference(plain, theirs) > 1e-2


def test_the_published_layouts_of_ip_adapters_for_stable_diffusion() -> None:
    """SD 1: sixteen cross-attentions, numbered 1, 3, ... 31, the middle's last; the light file has 44.6 MB in half precision."""
    with torch.device("meta"):
        net = IPSpec().build()
    shapes = {name: tuple(value.shape) for name, value in core.to_theirs(ip.keys(net.spec), net.state_dict()).items()}
    assert shapes["image_proj.proj.weight"] == (3072, 1024) and shapes["ip_adapter.31.to_v_ip.weight"] == (1280, 768)
    assert shapes["ip_adapter.13.to_k_ip.weight"] == (1280, 768) and shapes["ip_adapter.1.to_k_ip.weight"] == (320, 768)
    assert {int(name.split(".")[1]) for name in shapes if name.startswith("ip_adapter.")} == set(range(1, 32, 2))
    assert 2 * sum(p.numel() for p in net.parameters()) == 44_639_232


def test_an_ip_adapter_of_another_network_or_of_faces_is_refused() -> None:
    net = UNetSpec.latent((32, 64), (1, 0), 16, heads=8, groups=8).build()
    adapter = IPSpec(context=16, widths=WIDTHS).build()
    with pytest.raises(SpecError, match="this IP-adapter is of a network with 4 cross-attentions"):
        adapter.beside(net, net.read(torch.randn(1, 5, 16), None), torch.randn(1, 4, 16), 1.0)
    face = {"image_proj.norm.weight": (16,), "image_proj.proj.0.weight": (32, 16), "ip_adapter.1.to_k_ip.weight": (32, 16)}
    with pytest.raises(SpecError, match="FaceID"):
        ip.recognise(face)
