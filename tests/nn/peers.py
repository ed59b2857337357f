"""Weights of published U-Nets copied into ours. Both are walked in the order in which they run, so that no table of names is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
from torch import Tensor, nn

from safelight.nn.unet import UNet


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Stand-ins of torchvision while a peer is imported that names it and, for its network, uses none of it."""
    names = ("torchvision", "torchvision.transforms", "torchvision.utils")
    before = {name: sys.modules.pop(name, None) for name in names}
    for name in names:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    for name in names[1:]:
        setattr(sys.modules[names[0]], name.rpartition(".")[2], sys.modules[name])
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def ddpm_pytorch_unet(dim: int, dim_mults: Sequence[int], channels: int) -> nn.Module:
    """denoising_diffusion_pytorch.Unet. Raises ImportError when it is not installed."""
    with without_torchvision():
        from denoising_diffusion_pytorch.denoising_diffusion_pytorch import Unet
    return Unet(dim, dim_mults=tuple(dim_mults), channels=channels)


def diffusers_unet(widths: Sequence[int], attend: Sequence[bool], channels: int, scale_shift: bool = False) -> nn.Module:
    """diffusers.UNet2DModel with two layers a block. Raises ImportError when it is not installed."""
    from diffusers import UNet2DModel

    names = ["Attn" if a else "" for a in attend]
    return UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        down_block_types=tuple(f"{name}DownBlock2D" for name in names),
        up_block_types=tuple(f"{name}UpBlock2D" for name in reversed(names)),
        attn_norm_num_groups=32,  # with scale-shift its middle attention would have no norm unless told
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
    )


@torch.no_grad()
def copy(pairs: Iterable[tuple[nn.Module | Tensor | None, nn.Module | Tensor | None]]) -> None:
    """Each (ours, theirs): weights and biases, or bare parameters, reshaped (a 1x1 convolution is a matrix here)."""
    for ours, theirs in pairs:
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
            ours.copy_(theirs.reshape(ours.shape))
        elif isinstance(ours, nn.Module) and isinstance(theirs, nn.Module):
            mine, yours = list(ours.parameters()), list(theirs.parameters())
            assert len(mine) == len(yours), (ours, theirs)
            copy(zip(mine, yours, strict=True))
        else:
            raise AssertionError(f"one of a pair is missing: {ours}, {theirs}")


def copied(net: UNet, pairs: list) -> UNet:
    """`net` with the pairs copied, every one of its parameters having been named exactly once."""
    copy(pairs)
    named = [id(p) for ours, _ in pairs for p in ([ours] if isinstance(ours, Tensor) else ours.parameters())]
    assert sorted(named) == sorted(id(p) for p in net.parameters()), "a parameter was left out or copied twice"
    return net


def from_ddpm_pytorch(net: UNet, peer: nn.Module) -> UNet:
    """From denoising_diffusion_pytorch.Unet (attend each block: one attention object a level)."""
    blocks, attentions, resamples = [], [], []
    for block1, block2, attention, resample in peer.downs:
        blocks += [block1, block2]
        attentions += [attention]
        resamples += [resample]
    blocks += [peer.mid_block1, peer.mid_block2]
    attentions += [peer.mid_attn]
    for block1, block2, attention, resample in peer.ups:
        blocks += [block1, block2]
        attentions += [attention]
        resamples += [resample]
    blocks += [peer.final_res_block]

    pairs: list = [(net.stem, peer.init_conv), (net.head, peer.final_conv)]
    pairs += [(net.time[0], peer.time_mlp[1]), (net.time[2], peer.time_mlp[3])]
    ours = [stage for stage in net.stages if stage.block is not None]
    for stage, b in zip(ours, blocks, strict=True):
        pairs += [(stage.tell, b.mlp[1])]
        pairs += [(stage.block.conv1, b.block1.proj), (stage.block.norm1.g, b.block1.norm.g)]
        pairs += [(stage.block.conv2, b.block2.proj), (stage.block.norm2.g, b.block2.norm.g)]
        pairs += [(stage.block.short, b.res_conv)]
    for stage, a in zip([s for s in ours if s.attention is not None], attentions, strict=True):
        pairs += [(stage.attention.norm.g, a.norm.g)]
        if isinstance(a.to_out, nn.Sequential):  # linear attention, whose memory lies as (2, heads, d, M)
            mine = (stage.attention.q, stage.attention.k, stage.attention.v)
            pairs += [(m.weight, w) for m, w in zip(mine, a.to_qkv.weight.chunk(3), strict=True)]
            pairs += [(stage.attention.out, a.to_out[0]), (stage.attention.norm_out.g, a.to_out[1].g)]
            pairs += [(stage.attention.memory, a.mem_kv.transpose(2, 3).contiguous())]
        else:
            pairs += [(stage.attention.qkv.weight, a.to_qkv.weight)]
            pairs += [(stage.attention.out, a.to_out), (stage.attention.memory, a.mem_kv)]
    for stage, r in zip([s for s in net.stages if s.resample is not None], resamples, strict=True):
        pairs += [(stage.resample, r)]
    return copied(net, pairs)


def from_diffusers(net: UNet, peer: nn.Module) -> UNet:
    """From diffusers.UNet2DModel."""
    blocks, attentions, resamples = [], [], []
    for level in (*peer.down_blocks, peer.mid_block, *peer.up_blocks):
        blocks += list(level.resnets)
        attentions += list(getattr(level, "attentions", None) or ())
        for samplers in (getattr(level, "downsamplers", None), getattr(level, "upsamplers", None)):
            resamples += [sampler.conv for sampler in samplers or ()]
    pairs: list = [(net.stem, peer.conv_in), (net.head, peer.conv_out), (net.norm, peer.conv_norm_out)]
    pairs += [(net.time[0], peer.time_embedding.linear_1), (net.time[2], peer.time_embedding.linear_2)]
    ours = [stage for stage in net.stages if stage.block is not None]
    for stage, b in zip(ours, blocks, strict=True):
        pairs += [(stage.tell, b.time_emb_proj)]
        pairs += [(stage.block.norm1, b.norm1), (stage.block.conv1, b.conv1)]
        pairs += [(stage.block.norm2, b.norm2), (stage.block.conv2, b.conv2)]
        if b.conv_shortcut is not None:
            pairs += [(stage.block.short, b.conv_shortcut)]
    for stage, a in zip([s for s in ours if s.attention is not None], attentions, strict=True):
        pairs += [(stage.attention.norm, a.group_norm), (stage.attention.out, a.to_out[0])]
        pairs += [(stage.attention.qkv.weight, torch.cat((a.to_q.weight, a.to_k.weight, a.to_v.weight)))]
        pairs += [(stage.attention.qkv.bias, torch.cat((a.to_q.bias, a.to_k.bias, a.to_v.bias)))]
    for stage, r in zip([s for s in net.stages if s.resample is not None], resamples, strict=True):
        pairs += [(stage.resample, r)]
    return copied(net, pairs)
