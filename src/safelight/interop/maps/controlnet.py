"""ControlNets: diffusers' `ControlNetModel`, and the original single files (`control_model.*`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from safelight.interop.config import fixed, whole, wholes
from safelight.interop.keys import Key, beneath, layer
from safelight.interop.maps import unet
from safelight.nn.controlnet import ControlNetSpec
from safelight.nn.unet import UNetSpec

WHERE = "the config of a ControlNet"
CLASS = "ControlNetModel"
# Of a U-Net's config, what a ControlNet's has too.
_SHARED = (
    "in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "mid_block_type", "only_cross_attention",
    "block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps",
    "cross_attention_dim", "transformer_layers_per_block", "encoder_hid_dim", "encoder_hid_dim_type", "attention_head_dim",
    "num_attention_heads", "use_linear_projection", "class_embed_type", "addition_embed_type", "addition_time_embed_dim",
    "num_class_embeds", "upcast_attention", "resnet_time_scale_shift", "projection_class_embeddings_input_dim",
    "addition_embed_type_num_heads",
)  # fmt: skip
# What the first convolutions of the hint's network are called by number in the single files.
_HINTS = "input_hint_block"


def spec(config: Mapping[str, Any], *, pooled: int | None = None) -> ControlNetSpec:
    """The ControlNet of a `ControlNetModel`'s config. pooled: as in `unet.spec`.

    Raises SpecError, in one line, for what has no counterpart here.
    """
    fixed(config, WHERE, global_pool_conditions=(False,), controlnet_conditioning_channel_order=("rgb", "bgr"))
    shared = {name: config[name] for name in _SHARED if name in config}
    downs = shared.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
    whole_net = {
        "_class_name": "UNet2DConditionModel",
        **shared,
        "down_block_types": downs,
        "up_block_types": [str(name).replace("Down", "Up") for name in reversed(downs)],
        "out_channels": shared.get("in_channels", 4),
    }
    return ControlNetSpec(
        trunk=unet.spec(whole_net, pooled=pooled, learned=False),
        channels=whole(config, WHERE, "conditioning_channels", 3),
        hint=wholes(config, WHERE, "conditioning_embedding_out_channels", (16, 32, 96, 256)),
        reversed=config.get("controlnet_conditioning_channel_order") == "bgr",
    )


def config(spec: ControlNetSpec) -> dict[str, Any]:
    """A `ControlNetModel`'s config for a ControlNet of ours. Raises SpecError for one that diffusers' class cannot be."""
    written = unet.config(spec.trunk)
    return {
        "_class_name": CLASS,
        **{name: written[name] for name in _SHARED},
        "conditioning_channels": spec.channels,
        "controlnet_conditioning_channel_order": "bgr" if spec.reversed else "rgb",
        "conditioning_embedding_out_channels": list(spec.hint),
        "global_pool_conditions": False,
    }


def keys(spec: ControlNetSpec) -> list[Key]:
    """The ControlNet's tensors, diffusers' names."""
    found = list(beneath(unet.encoder_keys(spec.trunk), "trunk."))
    layers = 2 * len(spec.hint)
    for i in range(layers):
        inside = "conv_in" if i == 0 else "conv_out" if i == layers - 1 else f"blocks.{i - 1}"
        found += layer(f"hint.{2 * i}", f"controlnet_cond_embedding.{inside}")
    for i in range(_kept(spec.trunk)):
        found += layer(f"taps.{i}", f"controlnet_down_blocks.{i}")
    return [*found, *layer("tap_middle", "controlnet_mid_block")]


def ldm_keys(spec: ControlNetSpec) -> list[Key]:
    """The ControlNet's tensors by the names of the original single files, without "control_model."."""
    found = list(beneath(unet.ldm_encoder_keys(spec.trunk), "trunk."))
    for i in range(2 * len(spec.hint)):
        found += layer(f"hint.{2 * i}", f"{_HINTS}.{2 * i}")
    for i in range(_kept(spec.trunk)):
        found += layer(f"taps.{i}", f"zero_convs.{i}.0")
    return [*found, *layer("tap_middle", "middle_block_out.0")]


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> ControlNetSpec | None:
    """The ControlNet of the original names and shapes (without "control_model."); None where they are not a ControlNet's."""
    if f"{_HINTS}.0.weight" not in shapes or "middle_block_out.0.weight" not in shapes:
        return None
    count = len({name.split(".")[1] for name in shapes if name.startswith(f"{_HINTS}.")})
    hint = tuple(shapes[f"{_HINTS}.{2 * i}.weight"][0] for i in range(0, count - 1, 2))
    return ControlNetSpec(trunk=unet.recognise(dict(_with_way_up(shapes))), channels=shapes[f"{_HINTS}.0.weight"][1], hint=hint)


def _with_way_up(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The shapes with what tells a whole U-Net's architecture of its way up: its last layers, and its doublings."""
    yield from shapes.items()
    stem = shapes.get("input_blocks.0.0.weight", (0, 0, 0, 0))
    yield "out.2.weight", (stem[1], *stem[:1], 3, 3)
    halvings = sum(name.startswith("input_blocks.") and name.endswith(".0.op.weight") for name in shapes)
    for n in range(halvings):
        yield f"output_blocks.{n}.1.conv.weight", (0,)


def _kept(trunk: UNetSpec) -> int:
    """How many skips a U-Net has."""
    return 1 + sum(plan.keep for plan in trunk.stages() if plan.way <= 0)
