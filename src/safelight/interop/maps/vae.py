"""Autoencoders of latent diffusion: diffusers' `AutoencoderKL` and `VQModel`, and the `first_stage_model` of a single file.

Three layouts of names: diffusers', diffusers' of before 2023 (which files on hubs still have; only the attention is called
otherwise), and that of the original code. Their scale is no tensor: it stands in the config or in the family of the file, and
`constants` makes our buffers of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.codec.kl import KLSpec
from safelight.codec.latent import LatentSpec
from safelight.codec.vq import VQSpec
from safelight.interop.keys import Key, beneath, key, layer
from safelight.spec import SpecError

# Published scaling factors by family, for single files, which do not say theirs (1/standard deviation over the training set).
SCALING = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025, "upscaler": 0.08333, "vq": 1.0}

_KL: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
_VQ: dict[str, Any] = {
    **{k: _KL[k] for k in list(_KL)[:7]},
    "latent_channels": 3,
    "sample_size": 32,
    "num_vq_embeddings": 256,
    "norm_num_groups": 32,
    "vq_embed_dim": None,
    "scaling_factor": 0.18215,
    "norm_type": "group",
    "mid_block_add_attention": True,
    "lookup_from_codebook": False,
    "force_upcast": False,
}
_CLASSES = {"AutoencoderKL": _KL, "VQModel": _VQ}
_LEVELS = {
    "down": {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True},
    "up": {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True},
}


def spec(config: Mapping[str, Any]) -> LatentSpec:
    """The codec of a config.json of `AutoencoderKL` (where it names no class) or `VQModel`.

    Raises SpecError naming the first entry whose meaning has no counterpart here.
    """
    c = _filled(config)
    depth = len(c["block_out_channels"])
    for name, wanted in (
        ("act_fn", ("silu", "swish")),
        ("norm_type", ("group",)),
        ("mid_block_add_attention", (True,)),
        ("out_channels", (c["in_channels"],)),
        ("use_post_quant_conv", (c.get("use_quant_conv"),)),
        ("vq_embed_dim", (None, c["latent_channels"])),
    ):
        if name in c and c[name] not in wanted:
            raise SpecError(
                f"autoencoder: {name} {c[name]!r} has no counterpart here (it reads {' or '.join(map(repr, wanted))})"
            )
    attend = {way: _attend(f"{way}_block_types", c[f"{way}_block_types"], depth, _LEVELS[way]) for way in _LEVELS}
    if attend["down"] != attend["up"][::-1]:
        raise SpecError(
            "autoencoder: down_block_types and up_block_types attend on other levels, which has no counterpart here"
        )
    shape: dict[str, Any] = {
        "pictures": c["in_channels"],
        "latents": c["latent_channels"],
        "widths": tuple(c["block_out_channels"]),
        "blocks": c["layers_per_block"],
        "patch": 1,
        "fold": False,
        "groups": c["norm_num_groups"],
        "attention": True,
        "attend": tuple(i for i, attends in enumerate(attend["down"]) if attends),
    }
    if _class(config) == "VQModel":
        return VQSpec(**shape, mix=True, codes=c["num_vq_embeddings"], snap=False)
    return KLSpec(**shape, mix=c["use_quant_conv"])


def constants(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our buffers that are no tensors there: shift m and scale d / s of a latent (h - m) s / d, and a codebook's counts.

    config: its scaling_factor s, shift_factor or latents_mean m, latents_std d, each 0 or 1 where it has none. state: our
    tensors that `to_ours` made of theirs. A codebook begins as if each code had been assigned one vector.
    """
    c = _filled(config)
    n = c["latent_channels"]
    mean = c.get("latents_mean") or [c.get("shift_factor") or 0.0] * n
    std = c.get("latents_std") or [1.0] * n
    for name, values in (("latents_mean", mean), ("latents_std", std)):
        if len(values) != n:
            raise SpecError(f"autoencoder: {name} has {len(values)} numbers for {n} latent channels")
    found = {
        "shift": torch.tensor(mean, dtype=torch.float32),
        "scale": (torch.tensor(std, dtype=torch.float64) / c["scaling_factor"]).float(),
        "seen": torch.zeros(()),
    }
    if "codebook" in state:
        found |= {"count": torch.ones(len(state["codebook"])), "total": state["codebook"].float().clone()}
    return found


def config(spec: LatentSpec, state: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """The config.json of a codec of the published shape. state: its tensors, whose `shift` and `scale` it then says.

    Raises SpecError where diffusers has no class for it.
    """
    if not isinstance(spec, KLSpec | VQSpec):
        raise SpecError(f"autoencoder: a codec '{spec.kind}' has no class in diffusers")
    vq = isinstance(spec, VQSpec)
    for name, wanted in (("patch", 1), ("fold", False), ("attention", True), *([("mix", True), ("snap", False)] if vq else [])):
        if getattr(spec, name) != wanted:
            raise SpecError(f"autoencoder: codec '{spec.kind}' with {name} {getattr(spec, name)} has no class in diffusers")
    if not spec.groups:
        raise SpecError(f"autoencoder: codec '{spec.kind}' normalised pixel by pixel (groups 0) has no class in diffusers")
    names = {way: {attends: name for name, attends in blocks.items()} for way, blocks in _LEVELS.items()}
    levels = [i in spec.attend for i in range(len(spec.widths))]
    found: dict[str, Any] = {
        "_class_name": "VQModel" if vq else "AutoencoderKL",
        **(_VQ if vq else _KL),
        "in_channels": spec.pictures,
        "out_channels": spec.pictures,
        "down_block_types": [names["down"][attends] for attends in levels],
        "up_block_types": [names["up"][attends] for attends in reversed(levels)],
        "block_out_channels": list(spec.widths),
        "layers_per_block": spec.blocks,
        "latent_channels": spec.latents,
        "norm_num_groups": spec.groups,
        "sample_size": 64 * 2 ** (len(spec.widths) - 1),
    }
    if isinstance(spec, VQSpec):
        found |= {"num_vq_embeddings": spec.codes, "vq_embed_dim": spec.latents}
    else:
        found |= {"use_quant_conv": spec.mix, "use_post_quant_conv": spec.mix}
    return found if state is None else found | _scaling(state, vq)


def keys(spec: LatentSpec, names: Collection[str] = ()) -> list[Key]:
    """Ours <-> diffusers'. names: of a file's tensors, by which the older names of its attention are known; none, the newer."""
    old = any(f".{_OLD.attention[1]}." in name for name in names)
    return list(_keys(spec, _OLD if old else _DIFFUSERS))


def ldm_keys(spec: LatentSpec) -> list[Key]:
    """Ours <-> the original code's, beneath "first_stage_model."."""
    return list(_keys(spec, _LDM))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> LatentSpec:
    """The codec of tensors named as in the original code. Norms have 32 groups, as all that are published.

    Raises SpecError naming the tensor that is missing or speaks of another network.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise SpecError(f"autoencoder: it lacks '{name}', so its architecture cannot be told")
        return tuple(shapes[name])

    depth = _count(shapes, "encoder.down.{}.block.0.conv1.weight")
    widths = tuple(shape(f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(depth))
    pictures, latents = shape("encoder.conv_in.weight")[1], shape("decoder.conv_in.weight")[1]
    if not depth or any(w % 32 for w in widths):
        raise SpecError(f"autoencoder: widths {widths} are not those of a published one (multiples of 32)")
    found: dict[str, Any] = {
        "pictures": pictures,
        "latents": latents,
        "widths": widths,
        "blocks": _count(shapes, "encoder.down.0.block.{}.conv1.weight"),
        "patch": 1,
        "fold": False,
        "groups": 32,
        "attention": "encoder.mid.attn_1.q.weight" in shapes,
        "attend": tuple(i for i in range(depth) if f"encoder.down.{i}.attn.0.q.weight" in shapes),
        "mix": "quant_conv.weight" in shapes,
    }
    book, out = shapes.get("quantize.embedding.weight"), shape("encoder.conv_out.weight")[0]
    if out != (latents if book else 2 * latents) or (book and book[1] != latents):
        raise SpecError(f"autoencoder: an encoder of {out} channels before a decoder of {latents} has no counterpart here")
    return VQSpec(**found, codes=book[0], snap=False) if book else KLSpec(**found)


class _Names(NamedTuple):
    """A layout. n: a level counted as its side computes them, level: from the largest picture, j: a block of it."""

    block: str
    attend: str
    resample: str
    middle: tuple[str, str, str]
    ends: tuple[str, str, str]
    skip: str
    attention: tuple[str, str, str, str, str]
    linear: bool


_DIFFUSERS = _Names(
    block="{way}_blocks.{n}.resnets.{j}",
    attend="{way}_blocks.{n}.attentions.{j}",
    resample="{way}_blocks.{n}.{way}samplers.0.conv",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    ends=("conv_in", "conv_norm_out", "conv_out"),
    skip="conv_shortcut",
    attention=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    linear=True,
)
_OLD = _DIFFUSERS._replace(attention=("group_norm", "query", "key", "value", "proj_attn"))
_LDM = _Names(
    block="{way}.{level}.block.{j}",
    attend="{way}.{level}.attn.{j}",
    resample="{way}.{level}.{way}sample.conv",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    ends=("conv_in", "norm_out", "conv_out"),
    skip="nin_shortcut",
    attention=("norm", "q", "k", "v", "proj_out"),
    linear=False,
)


def _keys(spec: LatentSpec, names: _Names) -> Iterator[Key]:
    depth, widths = len(spec.widths), spec.widths
    for side, way in (("encoder", "down"), ("decoder", "up")):
        yield from beneath(_side(spec, names, way, depth, widths), f"{side}.", f"{side}.")
    if spec.mix:
        yield from layer("before", "quant_conv")
        yield from layer("after", "post_quant_conv")
    if isinstance(spec, VQSpec):
        yield key("codebook", "quantize.embedding.weight")


def _side(spec: LatentSpec, names: _Names, way: str, depth: int, widths: tuple[int, ...]) -> Iterator[Key]:
    for ours, theirs in zip(("stem", "norm", "out"), names.ends, strict=True):
        yield from layer(ours, theirs)
    order = range(depth) if way == "down" else range(depth)[::-1]
    c, blocks = (widths[0], spec.blocks) if way == "down" else (widths[-1], spec.blocks + 1)
    for n, level in enumerate(order):
        attends = level in spec.attend
        for j in range(blocks):
            ours = f"levels.{n}.{2 * j if attends else j}"
            yield from _residual(ours, names.block.format(way=way, n=n, level=level, j=j), names, widths[level] != c)
            c = widths[level]
            if attends:
                yield from _attention(f"levels.{n}.{2 * j + 1}", names.attend.format(way=way, n=n, level=level, j=j), names, c)
        if n + 1 < depth:
            ours = f"levels.{n}.{2 * blocks if attends else blocks}.conv"
            yield from layer(ours, names.resample.format(way=way, n=n, level=level))
    if spec.attention:
        first, attention, last = names.middle
        yield from _residual("middle.0", first, names, False)
        yield from _attention("middle.1", attention, names, widths[-1])
        yield from _residual("middle.2", last, names, False)


def _residual(ours: str, theirs: str, names: _Names, skip: bool) -> Iterator[Key]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield from layer(f"{ours}.{name}", f"{theirs}.{name}")
    if skip:
        yield from layer(f"{ours}.skip", f"{theirs}.{names.skip}")


def _attention(ours: str, theirs: str, names: _Names, channels: int) -> Iterator[Key]:
    for name, other in zip(("norm", "q", "k", "v", "out"), names.attention, strict=True):
        shape = (-1, channels) if names.linear and name != "norm" else None
        yield from layer(f"{ours}.{name}", f"{theirs}.{other}", shape=shape)


def _class(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name", "AutoencoderKL"))


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its class's defaults. Raises SpecError for another class."""
    name = _class(config)
    if name not in _CLASSES:
        raise SpecError(f"autoencoder: class '{name}' has no counterpart here (it reads {' and '.join(_CLASSES)})")
    return {**_CLASSES[name], **config}


def _attend(name: str, types: Collection[str], depth: int, known: Mapping[str, bool]) -> list[bool]:
    if len(types) != depth:
        raise SpecError(f"autoencoder: {name} has {len(types)} entries for {depth} block_out_channels")
    for kind in types:
        if kind not in known:
            raise SpecError(f"autoencoder: {name} '{kind}' has no counterpart here (it reads {' and '.join(known)})")
    return [known[kind] for kind in types]


def _scaling(state: Mapping[str, Tensor], vq: bool) -> dict[str, Any]:
    """shift and scale as a config says them: one number where all channels have one, else a list."""
    shift, scale = state["shift"].double(), state["scale"].double()
    if bool((scale == scale[0]).all()) and bool((shift == shift[0]).all()):
        found: dict[str, Any] = {"scaling_factor": float(f"{1 / float(scale[0]):.7g}")}
        if float(shift[0]):
            found["shift_factor"] = float(f"{float(shift[0]):.7g}")
    else:
        found = {"scaling_factor": 1.0, "latents_mean": shift.tolist(), "latents_std": scale.tolist()}
    if vq and len(found) > 1:
        raise SpecError("autoencoder: VQModel has one scale for all channels and no shift; this codec has its own for each")
    return found


def _count(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    n = 0
    while name.format(n) in shapes:
        n += 1
    return n
