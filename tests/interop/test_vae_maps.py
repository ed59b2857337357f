"""Autoencoders of others: random weights written by their own save_pretrained, our codec beside theirs, and back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.codec import tiled
from safelight.codec.kl import KLSpec
from safelight.codec.vq import VQSpec
from safelight.interop.keys import check, to_ours, to_theirs
from safelight.interop.maps import vae
from safelight.spec import SpecError
from tests.peers import difference, diffusers, saved, stirred

KL: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 2,
    "norm_num_groups": 4,
}
ATTENDING = {
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("AutoencoderKL", KL),
    "kl-shifted": (
        "AutoencoderKL",
        KL
        | {
            "latent_channels": 6,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "shift_factor": 0.1159,
            "scaling_factor": 0.3611,
        },
    ),
    "kl-attending": ("AutoencoderKL", KL | ATTENDING | {"in_channels": 1, "out_channels": 1}),
    "kl-channels": (
        "AutoencoderKL",
        KL | {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [2.0, 0.5, 1.0, 3.0], "scaling_factor": 0.5},
    ),
    "vq": ("VQModel", KL | {"num_vq_embeddings": 40}),
    "vq-attending": (
        "VQModel",
        KL | ATTENDING | {"num_vq_embeddings": 40, "latent_channels": 4, "vq_embed_dim": 4, "scaling_factor": 1.0},
    ),
}


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    assert ours.shape == theirs.shape and difference(ours, theirs) <= tolerance


def loaded(config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    spec = vae.spec(config)
    codec = spec.build().eval()
    keys = vae.keys(spec, tensors)
    check(keys, tensors, "the autoencoder")
    state = to_ours(keys, tensors.__getitem__, {k: v.shape for k, v in codec.state_dict().items()})
    codec.load_state_dict(state | vae.constants(config, state))
    return codec


def unit(config: dict[str, Any], h: Tensor) -> Tensor:
    """A latent as diffusers' pipelines scale it before the denoiser."""
    n = h.shape[1]
    mean = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0] * n).view(-1, 1, 1)
    std = torch.tensor(config.get("latents_std") or [1.0] * n).view(-1, 1, 1)
    return (h - mean) * config["scaling_factor"] / std


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_a_saved_autoencoder_is_the_same_here_and_goes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    cls, arguments = KINDS[name]
    theirs: Any = stirred(getattr(diffusers(), cls)(**arguments))
    if cls == "VQModel":
        theirs.quantize.embedding.weight.normal_()
    config, tensors = saved(theirs, tmp_path)
    codec = loaded(config, tensors)
    assert codec.stride == 4
    pictures, latents = config["in_channels"], config["latent_channels"]
    for seed in range(10):
        torch.manual_seed(seed)
        x, noise = torch.rand(1, pictures, 16, 24) * 2 - 1, torch.randn(1, latents, 4, 6)
        if cls == "VQModel":
            h = theirs.encode(x).latents
            close(codec.encode(x, noise), unit(config, h))
        else:
            posterior = theirs.encode(x).latent_dist
            h = posterior.mode()
            close(codec.encode(x), unit(config, h))
            close(codec.encode(x, noise), unit(config, posterior.mean + posterior.std * noise))
        close(codec.decode(unit(config, h)), theirs.decode(h).sample)

    back = to_theirs(vae.keys(codec.spec), codec.state_dict())
    assert back.keys() == tensors.keys() and all(torch.equal(back[k], v) for k, v in tensors.items())
    written = vae.config(codec.spec, codec.state_dict())
    assert vae.spec(written) == codec.spec
    for entry, value in vae.constants(written, codec.state_dict()).items():
        if entry in ("shift", "scale"):
            torch.testing.assert_close(value, getattr(codec, entry), rtol=1e-6, atol=0)
    again = getattr(diffusers(), cls).from_config(written)
    again.load_state_dict(back)
    x = torch.rand(1, pictures, 8, 8)
    close(again.eval()(x).sample, theirs(x).sample, 1e-6)


@pytest.mark.parametrize("name", ["kl", "kl-shifted", "kl-attending", "vq", "vq-attending"])
def test_the_original_names_and_the_old_ones_of_attention_lead_to_the_same_tensors(name: str) -> None:
    cls, arguments = KINDS[name]
    spec = vae.spec({"_class_name": cls} | arguments)
    wide = spec.model_copy(update={"widths": (32, 64, 64), "groups": 32})
    state = wide.build().state_dict()
    original = to_theirs(vae.ldm_keys(wide), state)
    assert vae.recognise({k: tuple(v.shape) for k, v in original.items()}) == wide
    old = {
        k.replace("to_out.0", "proj_attn").replace("to_q", "query").replace("to_k", "key").replace("to_v", "value"): v
        for k, v in to_theirs(vae.keys(wide), state).items()
    }
    for keys, tensors in ((vae.ldm_keys(wide), original), (vae.keys(wide, old), old)):
        check(keys, tensors, "the file")
        back = to_ours(keys, tensors.__getitem__, {k: v.shape for k, v in state.items()})
        assert all(torch.equal(state[k], v) for k, v in back.items())
        assert set(state) - set(back) == {"shift", "scale", "seen"} | ({"count", "total"} if cls == "VQModel" else set())


def test_the_original_names_are_those_of_the_published_file() -> None:
    """A sample of each kind of name that a Stable Diffusion checkpoint has beneath first_stage_model, and its 248 tensors."""
    spec = KLSpec.published()
    with torch.device("meta"):
        codec = spec.build()
    assert sum(p.numel() for p in codec.parameters()) == 83_653_863
    names = {name for k in vae.ldm_keys(spec) for name in k.theirs}
    assert len(names) == 248 and names >= {
        "encoder.down.2.block.0.nin_shortcut.weight",
        "encoder.down.2.downsample.conv.bias",
        "decoder.up.3.block.2.norm2.weight",
        "decoder.up.0.block.0.nin_shortcut.bias",
        "decoder.up.1.upsample.conv.weight",
        "decoder.mid.attn_1.proj_out.weight",
        "encoder.norm_out.bias",
        "quant_conv.weight",
    }
    assert "decoder.up.0.upsample.conv.weight" not in names
    assert {k.theirs[0] for k in vae.keys(spec)} >= {
        "decoder.up_blocks.3.resnets.0.conv_shortcut.weight",
        "decoder.up_blocks.0.upsamplers.0.conv.bias",
    }


@torch.no_grad()
def test_in_slices_and_in_tiles_as_theirs(tmp_path: Path) -> None:
    """One picture at a time is the same. Tiles with as much overlap as theirs leave as small a difference to the whole as theirs."""
    theirs: Any = stirred(diffusers().AutoencoderKL(**KL, sample_size=32))
    codec = loaded(*saved(theirs, tmp_path))
    z = torch.randn(2, 4, 20, 20)
    whole = codec.decode(z)
    theirs.enable_slicing()
    close(torch.cat([codec.decode(one) for one in z.split(1)]), whole, 1e-5)
    close(whole, theirs.decode(z / 0.18215).sample)
    theirs.enable_tiling()
    parted = theirs.decode(z / 0.18215).sample
    ours = (tiled.decode(codec, z, 8, 2) - whole).square().mean()
    assert ours <= 1.1 * (parted - whole).square().mean()


@pytest.mark.parametrize(
    "entry, said",
    [
        ({"_class_name": "AutoencoderTiny"}, "class 'AutoencoderTiny' has no counterpart here"),
        ({"act_fn": "relu"}, "act_fn 'relu'"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention False"),
        ({"out_channels": 4}, "out_channels 4"),
        ({"use_quant_conv": False}, "use_post_quant_conv True"),
        ({"down_block_types": ["DownBlock2D"] * 3}, "down_block_types 'DownBlock2D'"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types has 1 entries for 3"),
        ({"down_block_types": ATTENDING["down_block_types"]}, "attend on other levels"),
        ({"_class_name": "VQModel", "norm_type": "spatial"}, "norm_type 'spatial'"),
        ({"_class_name": "VQModel", "vq_embed_dim": 8}, "vq_embed_dim 8"),
    ],
)
def test_what_has_no_counterpart_is_named(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        vae.spec(KL | entry)


def test_a_codec_of_ours_that_has_no_class_there_says_why() -> None:
    for spec, said in (
        (KLSpec(), "patch 2"),
        (KLSpec(patch=1), "fold True"),
        (KLSpec(patch=1, fold=False), "attention False"),
        (KLSpec(patch=1, fold=False, attention=True), "groups 0"),
        (VQSpec(patch=1, fold=False, attention=True, mix=True, groups=16), "snap True"),
    ):
        with pytest.raises(SpecError, match=said):
            vae.config(spec)
    with pytest.raises(SpecError, match="lacks 'encoder.conv_in.weight'"):
        vae.recognise({})
    shapes = {
        k: tuple(v.shape)
        for k, v in to_theirs(
            vae.ldm_keys(KLSpec.published(widths=(32,))), KLSpec.published(widths=(32,)).build().state_dict()
        ).items()
    }
    with pytest.raises(SpecError, match="encoder of 9 channels"):
        vae.recognise(shapes | {"encoder.conv_out.weight": (9, 32, 3, 3)})
