"""U-Nets of others: random weights written by their own save_pretrained, our network beside theirs, and back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.interop.keys import check, to_ours, to_theirs
from safelight.interop.maps import unet
from safelight.nn.attention import FullAttention, FullAttentionSpec, NoAttention
from safelight.nn.blocks import ResnetSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.norm import GroupNormSpec
from safelight.nn.unet import UNet, UNetSpec
from safelight.spec import SpecError, build, describe
from tests.peers import difference, diffusers, saved, stirred

TEXT = 12
SD: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": [16, 32, 48],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": TEXT,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
}
LINEAR = SD | {"attention_head_dim": [2, 4, 6], "use_linear_projection": True}
XL = LINEAR | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 3],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
}
CONDITION: dict[str, dict[str, Any]] = {
    "sd1": SD,
    "sd1-inpaint": SD | {"in_channels": 9},
    "sd2": LINEAR,
    "sd2-depth": LINEAR | {"in_channels": 5},
    "sd2-unclip": LINEAR | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 14},
    "sdxl": XL,
    "refiner": XL | {"projection_class_embeddings_input_dim": 1280 + 5 * 8, "transformer_layers_per_block": 2},
    "wide": SD | {
        "flip_sin_to_cos": False, "freq_shift": 1, "layers_per_block": 1, "time_embedding_dim": 24, "conv_in_kernel": 5,
        "conv_out_kernel": 1, "norm_eps": 1e-3, "resnet_time_scale_shift": "scale_shift", "out_channels": 8,
    },
}  # fmt: skip


X4 = LINEAR | {"only_cross_attention": [True, True, False], "in_channels": 7, "num_class_embeds": 20, "attention_head_dim": 4}
IF: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "act_fn": "gelu",
    "resnet_time_scale_shift": "scale_shift",
    "cross_attention_norm": "group_norm",
    "cross_attention_dim": 32,
    "encoder_hid_dim": 24,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
}
IF2 = IF | {
    "in_channels": 6,
    "layers_per_block": [1, 2, 3],
    "class_embed_type": "timestep",
    "time_embedding_dim": 40,
    "time_embedding_act_fn": "gelu",
    "resnet_skip_time_act": True,
    "resnet_out_scale_factor": 1 / 0.7071,
    "mid_block_scale_factor": 1 / 0.7071,
    "only_cross_attention": True,
}
CONDITION |= {
    "x4": X4,
    "if-1": IF,
    "if-2": IF2,
    "if-narrow": IF | {"encoder_hid_dim": None, "encoder_hid_dim_type": None, "cross_attention_norm": None, "act_fn": "silu"},
    "if-mixed": IF2 | {"only_cross_attention": [False, True, False], "mid_block_only_cross_attention": True, "act_fn": "silu"},
}
DDPM: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "norm_num_groups": 8,
    "norm_eps": 1e-6,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "downsample_padding": 0,
}
ADM: dict[str, Any] = {
    "block_out_channels": [16, 32, 48],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "out_channels": 6,
    "layers_per_block": 3,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "attn_norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
    "num_class_embeds": 10,
}
PLAIN: dict[str, dict[str, Any]] = {
    "ddpm": DDPM,
    "ddpm-alone": DDPM | {"add_attention": False, "down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3},
    "adm": ADM,
    "adm-unconditional": ADM | {"num_class_embeds": None, "out_channels": 3, "downsample_type": "resnet"},
    "timestep": DDPM | {"class_embed_type": "timestep", "downsample_padding": 1, "attention_head_dim": 16},
    "gelu": ADM | {"act_fn": "gelu", "resnet_time_scale_shift": "default"},
}
EVERY = {
    **{name: ("UNet2DConditionModel", config) for name, config in CONDITION.items()},
    **{name: ("UNet2DModel", config) for name, config in PLAIN.items()},
}


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loaded(spec: UNetSpec, keys: list[Any], tensors: dict[str, Tensor]) -> UNet:
    """Our network with their tensors, every one of which is used."""
    check(keys, tensors, "the network")
    net = spec.build().eval()
    net.load_state_dict(to_ours(keys, tensors.__getitem__, {k: v.shape for k, v in net.state_dict().items()}))
    return net


def asked(spec: UNetSpec, batch: int, seed: int) -> tuple[Tensor, Tensor, Cond]:
    """Random x, noise and condition of a network."""
    numbers = 1000 * draw(batch, spec.numbers, seed=seed + 4).abs()
    numbers = (numbers % spec.classes).floor() if spec.classes else numbers
    cond = Cond(
        tokens=draw(batch, 7, spec.context, seed=seed + 1) if spec.context else None,
        image=draw(batch, spec.image, 16, 8, seed=seed + 2) if spec.image else None,
        vector=torch.cat((draw(batch, spec.cond - spec.numbers, seed=seed + 3), numbers), dim=1) if spec.cond else None,
    )
    return draw(batch, spec.channels, 16, 8, seed=seed), 999 * draw(batch, seed=seed + 5).abs().frac(), cond


def asked_of(peer: nn.Module, spec: UNetSpec, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
    """The same asked of diffusers' class."""
    told: dict[str, Any] = {} if cond.tokens is None else {"encoder_hidden_states": cond.tokens}
    if cond.vector is not None:
        plain, numbers = cond.vector.split((spec.cond - spec.numbers, spec.numbers), dim=1)
        if 0 < spec.numbers < spec.cond:
            told["added_cond_kwargs"] = {"text_embeds": plain, "time_ids": numbers}
        else:
            told["class_labels"] = plain if not spec.numbers else numbers[:, 0].long() if spec.classes else numbers[:, 0]
    return peer(x if cond.image is None else torch.cat((x, cond.image), dim=1), noise, **told).sample


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_a_saved_network_is_the_same_here_and_goes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    cls, arguments = EVERY[name]
    peer = stirred(getattr(diffusers(), cls)(**arguments))
    config, tensors = saved(peer, tmp_path)
    spec = unet.spec(config)
    assert build(describe(spec)).spec == spec
    keys = unet.keys(spec)
    net = loaded(spec, keys, tensors)
    for i in range(5):  # ten inputs, two a batch
        x, noise, cond = asked(spec, 2, 10 * i)
        want = asked_of(peer, spec, x, noise, cond)
        got = net(x, noise, cond)
        assert difference(got.F, want[:, : spec.channels]) <= 1e-4
        if got.fraction is not None:
            assert difference(2 * got.fraction - 1, want[:, spec.channels :]) <= 1e-4
    back = to_theirs(keys, net.state_dict())
    assert set(back) == set(tensors) and all(torch.equal(back[k], v) and back[k].shape == v.shape for k, v in tensors.items())


@pytest.mark.parametrize("size", [(15, 9), (17, 6), (5, 8)])
@torch.no_grad()
def test_sizes_that_do_not_halve_evenly_are_as_theirs(size: tuple[int, int]) -> None:
    """Pictures of 8 pixels more or less: halves are rounded up there, and doubles are made as large as what joins them."""
    peer = stirred(diffusers().UNet2DConditionModel(**SD))
    spec = unet.spec(SD)
    net = loaded(spec, unet.keys(spec), peer.state_dict())
    x, noise, tokens = draw(2, 4, *size), torch.tensor([3.0, 700.0]), draw(2, 7, TEXT)
    assert difference(net(x, noise, Cond(tokens=tokens)).F, peer(x, noise, tokens).sample) <= 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_a_network_says_the_config_it_was_made_from(name: str) -> None:
    cls, arguments = EVERY[name]
    spec = unet.spec({"_class_name": cls, **arguments})
    said = unet.config(spec, size=16)
    assert unet.spec(said, learned=spec.learned_variance) == spec
    with torch.device("meta"):
        full = dict(getattr(diffusers(), cls).from_config(said).config)
    assert {k: v for k, v in said.items() if k != "_class_name"} == {k: v for k, v in full.items() if not k.startswith("_")}


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (UNetSpec.sd1(), 859_520_964),
        (UNetSpec.sd1(image=5), 859_535_364),
        (UNetSpec.sd2(), 865_910_724),
        (UNetSpec.sdxl(), 2_567_463_684),
        (UNetSpec.ddpm_cifar10(), 35_746_307),
        (UNetSpec.ddpm_celebahq(), 113_673_219),
        (UNetSpec.adm(64), 295_904_454),
        (UNetSpec.adm(128), 421_529_606),
        (UNetSpec.adm(256), 553_838_086),
        (UNetSpec.adm(256, classes=0), 552_814_086),
        (UNetSpec.adm(512), 558_997_638),
    ],
)
def test_counts_of_the_published(spec: UNetSpec, count: int) -> None:
    with torch.device("meta"):
        net = spec.build()
    assert sum(p.numel() for p in net.parameters()) == count


PUBLISHED: dict[str, UNetSpec] = {
    "sd1": UNetSpec.sd1(),
    "sd1-inpaint": UNetSpec.sd1(image=5),
    "sd2": UNetSpec.sd2(),
    "sd2-depth": UNetSpec.sd2(image=1),
    "sdxl": UNetSpec.sdxl(),
    "sdxl-refiner": UNetSpec.sdxl_refiner(),
    "sd-upscaler": UNetSpec.sd_upscaler(),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_single_file_is_recognised_and_has_the_names_that_diffusers_reads(name: str) -> None:
    """At true size, without memory: the names and shapes of the original layout, turned by diffusers' own converter into its own."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    spec = PUBLISHED[name]
    with torch.device("meta"):
        state = spec.build().state_dict()
    original = to_theirs(unet.ldm_keys(spec), state)
    shapes = {name: tuple(v.shape) for name, v in original.items()}
    assert unet.recognise(shapes) == spec
    said = unet.config(spec)
    assert unet.spec(said) == spec
    turned = convert_ldm_unet_checkpoint({f"model.diffusion_model.{k}": v for k, v in original.items()}, said)
    wanted = to_theirs(unet.keys(spec), state)
    assert {k: v.shape for k, v in turned.items()} == {k: v.shape for k, v in wanted.items()}


@torch.no_grad()
def test_the_two_layouts_hold_the_same_values() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    for name in ("sd1", "sdxl", "sd2-unclip"):
        spec = unet.spec(CONDITION[name])
        net = stirred(spec.build())
        assert isinstance(net, UNet)
        original, wanted = to_theirs(unet.ldm_keys(spec), net.state_dict()), to_theirs(unet.keys(spec), net.state_dict())
        turned = convert_ldm_unet_checkpoint({f"model.diffusion_model.{k}": v for k, v in original.items()}, unet.config(spec))
        assert turned.keys() == wanted.keys() and all(torch.equal(v, wanted[k]) for k, v in turned.items())
        loaded(spec, unet.ldm_keys(spec), original)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("act_fn", "mish"), ("dual_cross_attention", True), ("reverse_transformer_layers_per_block", [1, 1, 1]),
        ("mid_block_type", None), ("class_embed_type", "simple_projection"), ("attention_type", "gated"), ("layers_per_block", 0),
        ("time_embedding_type", "fourier"), ("center_input_sample", True), ("cross_attention_dim", [8, 8, 9]), ("_class_name", "UNet3D"),
        ("down_block_types", ["KDownBlock2D", "DownBlock2D", "DownBlock2D"]), ("block_out_channels", [16, 32]), ("in_channels", 3),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_named_in_one_line(entry: str, value: Any) -> None:
    with pytest.raises(SpecError) as error:
        unet.spec(SD | {entry: value})
    text = str(error.value)
    assert "\n" not in text and (entry in text or entry in ("_class_name", "block_out_channels"))


# --- guided diffusion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_a_file_of_guided_diffusion_is_recognised(size: int) -> None:
    spec = UNetSpec.adm(size)
    with torch.device("meta"):
        original = to_theirs(unet.ldm_keys(spec), spec.build().state_dict())
    found = unet.recognise({name: tuple(v.shape) for name, v in original.items()})
    block = spec.block.model_copy(update={"zero": False, "dropout": 0.0})  # of which no tensor tells
    assert found == spec.model_copy(update={"zero": False, "block": block})


def test_a_network_of_latent_diffusion_without_a_text_is_recognised() -> None:
    """Heads of 32, and doublings by convolution: the faces of Rombach et al. 2022."""
    look = [NoAttention(), *(FullAttentionSpec(heads=w // 32, head_width=32, bias=True) for w in (64, 96))]
    spec = UNetSpec(
        channels=3, widths=(32, 64, 96), depth=2, skips=3, attention=tuple(look), middle=look[-1], time=128, pad=False, zero=False,
        block=ResnetSpec(scale_shift=False, zero=False), embedding=SinusoidSpec(width=32, closed=False, cos_first=True),
    )  # fmt: skip
    there = to_theirs(unet.ldm_keys(spec), spec.build().state_dict())
    assert unet.recognise({name: tuple(v.shape) for name, v in there.items()}) == spec
    said = unet.config(spec, size=64)
    assert unet.spec(said) == spec and said["attention_head_dim"] == 32


def test_names_of_guided_diffusion() -> None:
    """As its files have them: a halving is an entry of its own, a doubling shares the entry of the block before it."""
    with torch.device("meta"):
        state = {
            size: to_theirs(unet.ldm_keys(UNetSpec.adm(size)), UNetSpec.adm(size).build().state_dict()) for size in (64, 256)
        }
    named = {
        64: {
            "label_emb.weight": (1000, 768), "input_blocks.4.0.in_layers.2.weight": (192, 192, 3, 3),
            "input_blocks.5.1.qkv.weight": (1152, 384, 1),
            "input_blocks.12.0.emb_layers.1.weight": (1152, 768), "middle_block.1.proj_out.weight": (768, 768, 1),
            "output_blocks.3.2.out_layers.3.weight": (768, 768, 3, 3), "output_blocks.11.2.in_layers.0.weight": (384,),
            "output_blocks.15.0.skip_connection.weight": (192, 384, 1, 1), "out.2.weight": (6, 192, 3, 3),
        },
        256: {
            "input_blocks.3.0.in_layers.0.weight": (256,), "input_blocks.10.1.qkv.bias": (1536,),
            "output_blocks.8.2.in_layers.0.weight": (512,),
            "output_blocks.11.1.out_layers.0.weight": (512,), "output_blocks.17.0.out_layers.3.bias": (256,),
        },
    }  # fmt: skip
    for size, wanted in named.items():
        assert {name: tuple(state[size][name].shape) for name in wanted} == wanted
        assert not any(
            name.startswith(("input_blocks.4.1.", "output_blocks.15.2.", "output_blocks.17.1.")) for name in state[size]
        )


@pytest.mark.parametrize("heads_first", [True, False])
@torch.no_grad()
def test_the_two_orders_of_a_fused_qkv(heads_first: bool) -> None:
    """Attention by the formula on the file's own rows: head by head, or part by part."""
    spec = unet.spec({"_class_name": "UNet2DModel", **ADM})
    net = stirred(spec.build())
    i, stage = next((i, s) for i, s in enumerate(net.stages) if isinstance(s.attention, FullAttention))
    there = to_theirs(unet.ldm_keys(spec, heads_first), net.state_dict())
    where = "input_blocks.5.1."
    x, n = draw(2, 32, 4, 3), 4
    h = nn.functional.group_norm(x, 8, there[where + "norm.weight"], there[where + "norm.bias"]).flatten(2)
    qkv = nn.functional.conv1d(h, there[where + "qkv.weight"], there[where + "qkv.bias"])
    parts = qkv.unflatten(1, (n, 3, -1)).transpose(1, 2) if heads_first else qkv.unflatten(1, (3, n, -1))
    q, k, v = parts.unbind(1)  # (B, heads, width, N) each
    weight = (q.mT @ k / q.shape[2] ** 0.5).softmax(-1)
    y = (v @ weight.mT).flatten(1, 2)
    want = x + nn.functional.conv1d(y, there[where + "proj_out.weight"], there[where + "proj_out.bias"]).unflatten(2, (4, 3))
    assert difference(stage.attention(x), want) <= 1e-5
    assert i == 4 and stage.plan.level == 1
    again = to_ours(unet.ldm_keys(spec, heads_first), there.__getitem__, {k: v.shape for k, v in net.state_dict().items()})
    assert all(torch.equal(again[name], v) for name, v in net.state_dict().items())


@torch.no_grad()
def test_names_of_an_attention_before_2023(tmp_path: Path) -> None:
    """query, key, value and proj_attn: diffusers reads them as what they are called today, and so do we."""
    peer = stirred(diffusers().UNet2DModel(**DDPM))
    config, tensors = saved(peer, tmp_path)
    named = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, v in tensors.items():
        for new, before in named.items():
            name = name.replace(new, before)
        old[name] = v
    spec = unet.spec(config)
    keys = unet.keys(spec, old)
    net, other = loaded(spec, keys, old), loaded(spec, unet.keys(spec), tensors)
    assert all(torch.equal(v, other.state_dict()[name]) for name, v in net.state_dict().items())
    assert to_theirs(keys, net.state_dict()).keys() == old.keys()


def test_the_first_stage_of_deepfloyd() -> None:
    spec = UNetSpec.deepfloyd()
    with torch.device("meta"):
        net = spec.build()
    assert sum(p.numel() for p in net.parameters()) == 4_304_695_110  # "4.3B" on its card
    said = unet.config(spec, size=64)
    assert unet.spec(said) == spec
    with torch.device("meta"):
        peer = diffusers().UNet2DConditionModel.from_config(said)
    theirs = to_theirs(unet.keys(spec), net.state_dict())
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in peer.state_dict().items()}


def test_a_network_without_a_counterpart_is_named_in_one_line() -> None:
    for spec in (UNetSpec(), UNetSpec.tutorial(), UNetSpec.ddpm_pytorch(), UNetSpec.sd1().model_copy(update={"fourier": (7,)})):
        for ask in (unet.config, unet.keys, unet.ldm_keys):
            with pytest.raises(SpecError, match="no published counterpart") as error:
                ask(spec)
            assert "\n" not in str(error.value)
    full = {
        "attention": (FullAttentionSpec(head_width=8, bias=True),) * 2,
        "middle": FullAttentionSpec(head_width=8, bias=True),
    }
    plain = {
        "widths": (16, 32),
        "depth": 1,
        "skips": 2,
        "norm": GroupNormSpec(groups=8),
        "time": 64,
        "embedding": SinusoidSpec(width=16),
    }
    base = UNetSpec(**full, **plain)
    unet.config(base)
    for field, value in {
        "embedding": SinusoidSpec(width=32), "time_gelu": True, "head_gelu": True, "stem_kernel": 5, "cond": 3,
        "middle": FullAttentionSpec(head_width=16, bias=True), "block": ResnetSpec(divide=2.0),
        "attention": (FullAttentionSpec(head_width=8),) * 2,
    }.items():  # fmt: skip
        with pytest.raises(SpecError, match="no class in diffusers|no counterpart here") as error:
            unet.config(UNetSpec(**{**full, **plain, field: value}))
        assert "\n" not in str(error.value)
    with pytest.raises(SpecError, match="no U-Net of latent or guided diffusion"):
        unet.recognise({"model.weight": (3, 4)})
    for broken in ({"block_out_channels": 3}, {"attention_head_dim": 0}, {"norm_num_groups": 7}, {"norm_eps": None}):
        with pytest.raises(SpecError) as error:
            unet.spec(SD | broken).build()
        assert "\n" not in str(error.value)
