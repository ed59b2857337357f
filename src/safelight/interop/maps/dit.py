"""DiT (Peebles and Xie 2023): diffusers' `DiTTransformer2DModel`, and the names of the authors' files.

A class is a prompt here: the table of classes is the text encoder's (`label`), so that this map has two parts, `keys` of the network and
`text_keys` of the table. The fixed positions that the authors' files hold are computed here, see `constants`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.interop.config import fixed, real, refused, whole
from safelight.interop.keys import Key, beneath, key, layer
from safelight.nn.dit import DiTSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.places import positions
from safelight.spec import SpecError
from safelight.text.label import LabelSpec

WHERE = "the config of a DiT"
CLASS = "DiTTransformer2DModel"
# Where each of a block's layers is: ours, diffusers', the authors'.
_LAYERS = (
    ("qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v"), "attn.qkv"),
    ("out", "attn1.to_out.0", "attn.proj"),
    ("up", "ff.net.0.proj", "mlp.fc1"),
    ("down", "ff.net.2", "mlp.fc2"),
)


class Abreast(NamedTuple):
    """Their `parts` tables stand one below the other, (parts rows, width); ours side by side, (rows, parts width)."""

    parts: int

    def ours(self, theirs: Tensor) -> Tensor:
        return theirs.unflatten(0, (self.parts, -1)).transpose(0, 1).flatten(1)

    def theirs(self, ours: Tensor) -> Tensor:
        return ours.unflatten(1, (self.parts, -1)).transpose(0, 1).flatten(0, 1)


def spec(config: Mapping[str, Any]) -> DiTSpec:
    """The network of a `DiTTransformer2DModel`'s config (or of an older `Transformer2DModel` whose norm_type is "ada_norm_zero").

    Its blocks share one embedding of noise level and class, see `settled`. Raises SpecError, in one line, for what has no counterpart.
    """
    fixed(
        config, WHERE,
        norm_type=("ada_norm_zero",), attention_bias=(True,), activation_fn=("gelu-approximate",), norm_elementwise_affine=(False,),
        only_cross_attention=(False,), double_self_attention=(False,), cross_attention_dim=(None,), num_vector_embeds=(None,),
        caption_channels=(None,), attention_type=("default",),
    )  # fmt: skip
    heads, head = whole(config, WHERE, "num_attention_heads", 16), whole(config, WHERE, "attention_head_dim", 72)
    channels, patch = whole(config, WHERE, "in_channels", 4), whole(config, WHERE, "patch_size", 2)
    return DiTSpec(
        channels=channels,
        cond=heads * head,
        cond_linear=False,
        learned_variance=variance(config, WHERE, channels, channels),
        patch=patch,
        width=heads * head,
        depth=whole(config, WHERE, "num_layers", 28),
        heads=heads,
        span=whole(config, WHERE, "sample_size", 32) // patch,
        embedding=SinusoidSpec(width=256, closed=True, cos_first=True),
        eps=(1e-6, real(config, WHERE, "norm_eps", 1e-5)),
    )


def variance(config: Mapping[str, Any], where: str, channels: int, default: int | None) -> bool:
    """Whether out_channels says that the network learns its variance. Raises SpecError for any but once or twice in_channels."""
    out = config.get("out_channels", default)
    out = channels if out is None else out
    if out not in (channels, 2 * channels):
        raise refused(where, "out_channels", out, f"it is {channels} or, with a learned variance, {2 * channels}")
    return bool(out == 2 * channels)


def config(spec: DiTSpec, side: int | None = None, classes: int = 1000) -> dict[str, Any]:
    """A `DiTTransformer2DModel`'s config for a network of ours. side: of the latents it was trained on, where its `span` is 0.

    Raises SpecError for a network that diffusers' class cannot be.
    """
    width, span = spec.width, spec.span or (side or 0) // spec.patch
    wanted = DiTSpec(
        channels=spec.channels, cond=width * (spec.depth if spec.each else 1), cond_linear=False, each=spec.each, span=spec.span,
        learned_variance=spec.learned_variance, patch=spec.patch, width=width, depth=spec.depth, heads=spec.heads,
        eps=(1e-6, spec.eps[1]), embedding=SinusoidSpec(width=256, closed=True, cos_first=True),
    )  # fmt: skip
    same(spec, wanted, CLASS)
    if not span:
        raise SpecError(f"{CLASS} must know its pictures' size: say the side of the latents, or set network.span")
    return {
        "_class_name": CLASS,
        "num_attention_heads": spec.heads,
        "attention_head_dim": width // spec.heads,
        "in_channels": spec.channels,
        "out_channels": spec.channels * (2 if spec.learned_variance else 1),
        "num_layers": spec.depth,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "attention_bias": True,
        "sample_size": span * spec.patch,
        "patch_size": spec.patch,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": classes,
        "upcast_attention": False,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": spec.eps[1],
    }


def same(spec: DiTSpec, wanted: DiTSpec, who: str) -> None:
    """Raise SpecError for the first field in which a network is not what a peer's class can be."""
    for name in DiTSpec.model_fields:
        mine, theirs = getattr(spec, name), getattr(wanted, name)
        if mine != theirs:
            raise SpecError(f"{who} has no counterpart of network.{name} {_said(mine)}, only of {_said(theirs)}")


def _said(value: Any) -> str:
    return repr(value.kind) if hasattr(value, "kind") and not isinstance(value, SinusoidSpec) else repr(value)


def labels(config: Mapping[str, Any], names: Mapping[str, str] | None = None) -> LabelSpec:
    """The classes of a DiT: as many as the config says, called as the pipeline's `id2label` does, else by their numbers.

    Names that stand for several classes get the number behind them, "crane (134)".
    """
    count = whole(config, WHERE, "num_embeds_ada_norm", 1000)
    found = [str((names or {}).get(str(i), i)) or str(i) for i in range(count)]
    often = Counter(found)
    width = spec(config).width
    return LabelSpec(names=tuple(n if often[n] == 1 else f"{n} ({i})" for i, n in enumerate(found)), width=width)


def settled(spec: DiTSpec, text: LabelSpec, get: Callable[[str], Tensor]) -> tuple[DiTSpec, LabelSpec]:
    """The specs that the weights ask for, which no config says: diffusers keeps an embedding of noise level and class in every block.

    Those of the published files are copies of one, kept once here. Where one differs from the first (a network trained there), the
    network gets `each`, and the table of classes a share a block. get: diffusers' tensor of a name.
    """
    ends = [k.theirs[0].removeprefix("transformer_blocks.0.") for k in (*_embedding(0), *_table(0))]
    alike = all(
        torch.equal(get(f"transformer_blocks.{i}.{end}"), get(f"transformer_blocks.0.{end}"))
        for end in ends
        for i in range(1, spec.depth)
    )
    if alike:
        return spec, text
    fields = dict(spec) | {"each": True, "cond": spec.depth * spec.width}
    return DiTSpec(**fields), LabelSpec(names=text.names, width=spec.depth * text.width)


def keys(spec: DiTSpec) -> list[Key]:
    """The network's tensors, diffusers' names. Where the blocks share their embedding, each of diffusers' copies is of our one."""
    p, c = spec.patch, spec.channels
    found = [
        *layer("patch", "pos_embed.proj", shape=(-1, c, p, p)),
        *layer("tell_last", "proj_out_1"),
        *layer("last", "proj_out_2"),
    ]
    for i in range(spec.depth):
        found += beneath(_embedding(i), f"time.maps.{i}." if spec.each else "time.")
        found += layer(f"blocks.{i}.tell", f"transformer_blocks.{i}.norm1.linear")
        for ours, theirs, _ in _LAYERS:
            names = (theirs,) if isinstance(theirs, str) else theirs
            found += layer(f"blocks.{i}.{ours}", [f"transformer_blocks.{i}.{name}" for name in names])
    return found


def text_keys(spec: DiTSpec) -> list[Key]:
    """The table of classes (the text encoder `label`), diffusers' names."""
    if not spec.each:
        return [k for i in range(spec.depth) for k in _table(i)]
    names = [k.theirs[0] for i in range(spec.depth) for k in _table(i)]
    return [key("embedding.weight", names, turn=Abreast(spec.depth))]


def _embedding(block: int) -> Iterator[Key]:
    there = f"transformer_blocks.{block}.norm1.emb.timestep_embedder"
    yield from layer("0", f"{there}.linear_1")
    yield from layer("2", f"{there}.linear_2")


def _table(block: int) -> Iterator[Key]:
    yield key("embedding.weight", f"transformer_blocks.{block}.norm1.emb.class_embedder.embedding_table.weight")


# --- the authors' files ----------------------------------------------------------------------------------------------------


def original_keys(spec: DiTSpec) -> Iterator[Key]:
    """What DiT and PixArt-alpha share in their authors' files: patches, time, attention and feed-forward, the last map."""
    p, c = spec.patch, spec.channels
    yield from layer("patch", "x_embedder.proj", shape=(-1, c, p, p))
    yield from layer("time.0", "t_embedder.mlp.0")
    yield from layer("time.2", "t_embedder.mlp.2")
    yield from layer("last", "final_layer.linear")
    for i in range(spec.depth):
        for ours, _, theirs in _LAYERS:
            yield from layer(f"blocks.{i}.{ours}", f"blocks.{i}.{theirs}")


def ldm_keys(spec: DiTSpec) -> list[Key]:
    """The network's tensors by the names of the authors' files (DiT-XL-2-256x256). Raises SpecError where they have none."""
    _authors(spec)
    found = [*original_keys(spec), *layer("tell_last", "final_layer.adaLN_modulation.1")]
    for i in range(spec.depth):
        found += layer(f"blocks.{i}.tell", f"blocks.{i}.adaLN_modulation.1")
    return found


def ldm_text_keys(spec: DiTSpec) -> list[Key]:
    """The table of classes by the name of the authors' files."""
    _authors(spec)
    return [key("embedding.weight", "y_embedder.embedding_table.weight")]


def _authors(spec: DiTSpec) -> None:
    wanted = DiTSpec(
        channels=spec.channels, cond=spec.width, cond_linear=False, learned_variance=spec.learned_variance, patch=spec.patch,
        width=spec.width, depth=spec.depth, heads=spec.heads, span=spec.span,
    )  # fmt: skip
    same(spec, wanted, "the authors' layout of DiT")


def constants(spec: DiTSpec, side: int | None = None) -> dict[str, Tensor]:
    """What the authors' files hold that no part here does, for it is computed: the positions, (1, h w, width).

    side: of the latents, where the spec has no `span`.
    """
    n = spec.span or (side or 0) // spec.patch
    if not n:
        raise SpecError(
            "the authors' layout of DiT holds a table of positions: say the side of the latents, or set network.span"
        )
    return {"pos_embed": positions((n, n), spec.width, torch.zeros((), dtype=torch.float32), spec.spacing)[None]}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> DiTSpec | None:
    """The network of the authors' names and shapes; None where they are not a DiT's.

    Heads leave no trace: they are 64 wide but for the width 1152, which has 16 of 72, as published. Raises SpecError otherwise.
    """
    if not {"x_embedder.proj.weight", "blocks.0.adaLN_modulation.1.weight", "y_embedder.embedding_table.weight"} <= set(shapes):
        return None
    return DiTSpec(
        cond=shapes["x_embedder.proj.weight"][0],
        cond_linear=False,
        span=_side(shapes),
        **skeleton(shapes, "a DiT"),
    )


def skeleton(shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Any]:
    """channels, patch, width, depth, heads and learned_variance of a transformer of the authors' names."""
    width, channels, patch = shapes["x_embedder.proj.weight"][:3]
    heads = 16 if width == 1152 else width // 64
    if width != 1152 and width % 64:
        raise SpecError(f"{what} of width {width} is none of those published: how many heads it has, its file does not say")
    rows = shapes["final_layer.linear.weight"][0]
    if rows not in (patch * patch * channels, 2 * patch * patch * channels):
        raise SpecError(f"'final_layer.linear.weight' has {rows} rows, which patches of {channels}x{patch}x{patch} do not make")
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    learned = rows == 2 * patch * patch * channels
    return dict(channels=channels, patch=patch, width=width, depth=depth, heads=heads, learned_variance=learned)


def _side(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Patches a side of the pictures it was trained on, by its table of positions; 0 where there is none."""
    table = shapes.get("pos_embed", (1, 0, 0))
    return round(table[-2] ** 0.5)


def class_names(text: LabelSpec) -> dict[str, str]:
    """The pipeline's `id2label` of a table of classes."""
    return {str(i): name for i, name in enumerate(text.names)}
