"""PixArt-alpha (Chen et al. 2023): diffusers' `PixArtTransformer2DModel`, and the names of the authors' files.

The authors' files also hold a learned caption of no words (`y_embedder.y_embedding`) and, the small ones, the fixed positions. Neither is
part of the network here: the empty prompt is read by T5, as diffusers' pipeline does, and positions are computed. See `UNUSED`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from safelight.interop.config import fixed, real, refused, whole
from safelight.interop.keys import Key, key, layer
from safelight.interop.maps.dit import original_keys, same, skeleton, variance
from safelight.nn.dit import DiTSpec

WHERE = "the config of a PixArt transformer"
CLASS = "PixArtTransformer2DModel"
# Tensors of the authors' files that no part here uses.
UNUSED = ("y_embedder.y_embedding", "pos_embed")


def spec(config: Mapping[str, Any]) -> DiTSpec:
    """The network of a `PixArtTransformer2DModel`'s config (or of an older `Transformer2DModel` with norm_type "ada_norm_single").

    Raises SpecError, in one line, for what has no counterpart here.
    """
    fixed(
        config, WHERE,
        norm_type=("ada_norm_single",), attention_bias=(True,), activation_fn=("gelu-approximate",),
        norm_elementwise_affine=(False,), attention_type=("default",), only_cross_attention=(False,),
        double_self_attention=(False,), num_vector_embeds=(None, False),
    )  # fmt: skip
    heads, head = whole(config, WHERE, "num_attention_heads", 16), whole(config, WHERE, "attention_head_dim", 72)
    channels, patch = whole(config, WHERE, "in_channels", 4), whole(config, WHERE, "patch_size", 2)
    side, width = whole(config, WHERE, "sample_size", 128), heads * head
    if config.get("caption_channels") is None:
        raise refused(WHERE, "caption_channels", None, "a caption is mapped to the width of a token")
    if config.get("cross_attention_dim", 1152) != width:
        raise refused(WHERE, "cross_attention_dim", config.get("cross_attention_dim", 1152), f"it is the width, {width}")
    told = config.get("use_additional_conditions")
    told = side == 128 if told is None else told
    scale = config.get("interpolation_scale")
    scale = max(side // 64, 1) if scale is None else real(config, WHERE, "interpolation_scale", 1)
    eps = real(config, WHERE, "norm_eps", 1e-6)
    return DiTSpec(
        channels=channels,
        cond=3 if told else 0,
        sizes=bool(told),
        context=whole(config, WHERE, "caption_channels"),
        learned_variance=variance(config, WHERE, channels, 8),
        patch=patch,
        width=width,
        depth=whole(config, WHERE, "num_layers", 28),
        heads=heads,
        spacing=1 / scale,
        span=side // patch,
        block="adaln-single",
        eps=(eps, eps),
    )


def config(spec: DiTSpec, side: int | None = None) -> dict[str, Any]:
    """A `PixArtTransformer2DModel`'s config for a network of ours. side: of the latents it was trained on, where its `span` is 0.

    Raises SpecError for a network that diffusers' class cannot be.
    """
    wanted = DiTSpec(
        channels=spec.channels, cond=3 if spec.sizes else 0, cond_linear=spec.cond_linear, sizes=spec.sizes,
        context=max(spec.context, 1), learned_variance=spec.learned_variance, patch=spec.patch, width=spec.width, depth=spec.depth,
        heads=spec.heads, spacing=spec.spacing, span=spec.span or max(1, (side or 0) // spec.patch), block="adaln-single",
        eps=(spec.eps[0], spec.eps[0]),
    )  # fmt: skip
    same(spec if spec.span or not side else spec.model_copy(update={"span": wanted.span}), wanted, CLASS)
    scale = 1 / spec.spacing
    return {
        "_class_name": CLASS,
        "num_attention_heads": spec.heads,
        "attention_head_dim": spec.width // spec.heads,
        "in_channels": spec.channels,
        "out_channels": spec.channels * (2 if spec.learned_variance else 1),
        "num_layers": spec.depth,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "cross_attention_dim": spec.width,
        "attention_bias": True,
        "sample_size": wanted.span * spec.patch,
        "patch_size": spec.patch,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "upcast_attention": False,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": spec.eps[0],
        "interpolation_scale": int(scale) if scale == int(scale) else scale,
        "use_additional_conditions": spec.sizes,
        "caption_channels": spec.context,
        "attention_type": "default",
    }


def keys(spec: DiTSpec) -> list[Key]:
    """The network's tensors, diffusers' names."""
    p, c = spec.patch, spec.channels
    single = "adaln_single.emb"
    found = [
        *layer("patch", "pos_embed.proj", shape=(-1, c, p, p)),
        *layer("time.0", f"{single}.timestep_embedder.linear_1"),
        *layer("time.2", f"{single}.timestep_embedder.linear_2"),
        *layer("tell_all", "adaln_single.linear"),
        *layer("caption.0", "caption_projection.linear_1"),
        *layer("caption.2", "caption_projection.linear_2"),
        key("table_last", "scale_shift_table"),
        *layer("last", "proj_out"),
    ]
    if spec.sizes:
        for ours, theirs in (("side", "resolution_embedder"), ("ratio", "aspect_ratio_embedder")):
            found += layer(f"cond.{ours}.0", f"{single}.{theirs}.linear_1")
            found += layer(f"cond.{ours}.2", f"{single}.{theirs}.linear_2")
    for i in range(spec.depth):
        found += _block(f"blocks.{i}", f"transformer_blocks.{i}")
    return found


def _block(ours: str, theirs: str) -> Iterator[Key]:
    yield key(f"{ours}.table", f"{theirs}.scale_shift_table")
    yield from layer(f"{ours}.qkv", [f"{theirs}.attn1.to_{x}" for x in "qkv"])
    yield from layer(f"{ours}.out", f"{theirs}.attn1.to_out.0")
    yield from layer(f"{ours}.cross.q", f"{theirs}.attn2.to_q")
    yield from layer(f"{ours}.cross.kv", [f"{theirs}.attn2.to_{x}" for x in "kv"])
    yield from layer(f"{ours}.cross.out", f"{theirs}.attn2.to_out.0")
    yield from layer(f"{ours}.up", f"{theirs}.ff.net.0.proj")
    yield from layer(f"{ours}.down", f"{theirs}.ff.net.2")


def ldm_keys(spec: DiTSpec) -> list[Key]:
    """The network's tensors by the names of the authors' files (PixArt-XL-2-512x512), without those of `UNUSED`."""
    found = [*original_keys(spec), *layer("tell_all", "t_block.1"), key("table_last", "final_layer.scale_shift_table")]
    for i, name in enumerate(("fc1", "fc2")):
        found += layer(f"caption.{2 * i}", f"y_embedder.y_proj.{name}")
    if spec.sizes:
        for ours, theirs in (("side", "csize_embedder"), ("ratio", "ar_embedder")):
            found += [k for i in (0, 2) for k in layer(f"cond.{ours}.{i}", f"{theirs}.mlp.{i}")]
    for i in range(spec.depth):
        found.append(key(f"blocks.{i}.table", f"blocks.{i}.scale_shift_table"))
        for ours, theirs in (("q", "q_linear"), ("kv", "kv_linear"), ("out", "proj")):
            found += layer(f"blocks.{i}.cross.{ours}", f"blocks.{i}.cross_attn.{theirs}")
    return found


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> DiTSpec | None:
    """The network of the authors' names and shapes; None where they are not PixArt's.

    Files with embeddings of the size are of the network for 1024 pixels; else the table of positions tells the size, and a file
    without one is taken to be for 512.
    """
    if not {"x_embedder.proj.weight", "t_block.1.weight", "y_embedder.y_proj.fc1.weight"} <= set(shapes):
        return None
    sized = "csize_embedder.mlp.0.weight" in shapes
    table = shapes.get("pos_embed")
    span = round(table[-2] ** 0.5) if table is not None else 64 if sized else 32
    return DiTSpec(
        cond=3 if sized else 0,
        sizes=sized,
        context=shapes["y_embedder.y_proj.fc1.weight"][1],
        spacing=min(1.0, 32 / span),
        span=span,
        block="adaln-single",
        **skeleton(shapes, "a PixArt transformer"),
    )
