"""CLIP's image towers: transformers' `CLIPVisionModelWithProjection`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safelight.interop.config import fixed, refused, whole
from safelight.interop.keys import Key, key, layer
from safelight.interop.maps.clip import BLOCK
from safelight.nn.vision import VisionSpec

WHERE = "the config of an image tower"
CLASS = "CLIPVisionModelWithProjection"


def spec(config: Mapping[str, Any]) -> VisionSpec:
    """The tower of a config.json. Raises SpecError, in one line, for what has no counterpart here."""
    fixed(config, WHERE, architectures=([CLASS], None), hidden_act=("quick_gelu", "gelu"), layer_norm_eps=(1e-5,))
    width, inner = whole(config, WHERE, "hidden_size", 768), whole(config, WHERE, "intermediate_size", 3072)
    size, patch = whole(config, WHERE, "image_size", 224), whole(config, WHERE, "patch_size", 32)
    heads = whole(config, WHERE, "num_attention_heads", 12)
    if size % patch:
        raise refused(WHERE, "patch_size", patch, f"it divides the image_size, {size}")
    if width % heads:
        raise refused(WHERE, "num_attention_heads", heads, f"they divide the hidden_size, {width}")
    return VisionSpec(
        channels=whole(config, WHERE, "num_channels", 3),
        size=size,
        patch=patch,
        width=width,
        layers=whole(config, WHERE, "num_hidden_layers", 12, low=2),
        heads=heads,
        inner=None if inner == 4 * width else inner,
        quick=config.get("hidden_act", "quick_gelu") == "quick_gelu",
        space=whole(config, WHERE, "projection_dim", 512),
    )


def config(spec: VisionSpec) -> dict[str, Any]:
    """The config.json of a tower."""
    return {
        "architectures": [CLASS],
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu" if spec.quick else "gelu",
        "hidden_size": spec.width,
        "image_size": spec.size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": spec.inner or 4 * spec.width,
        "layer_norm_eps": 1e-5,
        "model_type": "clip_vision_model",
        "num_attention_heads": spec.heads,
        "num_channels": spec.channels,
        "num_hidden_layers": spec.layers,
        "patch_size": spec.patch,
        "projection_dim": spec.space,
    }


def keys(spec: VisionSpec) -> list[Key]:
    """The tower's tensors, transformers' names."""
    there = "vision_model."
    found = [
        key("tower.first", f"{there}embeddings.class_embedding"),
        key("tower.patches.weight", f"{there}embeddings.patch_embedding.weight"),
        key("tower.position", f"{there}embeddings.position_embedding.weight"),
        *layer("tower.before", f"{there}pre_layrnorm"),
        *layer("tower.norm", f"{there}post_layernorm"),
        *layer("projection", "visual_projection", bias=False),
    ]
    for i in range(spec.layers):
        for ours, theirs in BLOCK.items():
            found += layer(f"tower.blocks.{i}.{ours}", f"{there}encoder.layers.{i}.{theirs}")
    return found


def ignored(name: str) -> bool:
    """Whether a tensor of older files is computed here: the numbers of the positions."""
    return name.endswith("position_ids")
