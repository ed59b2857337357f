"""U-Nets: diffusers' `UNet2DConditionModel` and `UNet2DModel`, and the single files of latent diffusion and of guided diffusion.

All are one row of stages here (`UNetSpec.stages`), so that a map is a walk along it that says what each stage is called there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from safelight.interop.config import fixed, refused, whole
from safelight.interop.keys import HeadsFirst, Key, key, layer
from safelight.nn.attention import Attention, FullAttentionSpec, JoinedSpec, NoAttention, TransformerSpec
from safelight.nn.blocks import BlockDown, BlockUp, ConvDown, NearestUp, ResnetSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.norm import GroupNormSpec, Norm
from safelight.nn.unet import StagePlan, UNetSpec
from safelight.spec import SpecError, one_line

# Every entry of a config.json of UNet2DConditionModel, with its meaning when it is left out.
_CONDITION: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "only_cross_attention": False,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "use_linear_projection": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "num_class_embeds": None,
    "upcast_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}


# The same of UNet2DModel.
_PLAIN: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
_CLASSES = {"UNet2DConditionModel": _CONDITION, "UNet2DModel": _PLAIN}


class _Level(NamedTuple):
    """What a level's type says: its attention, and whether a block changes the resolution (None: the config says it elsewhere)."""

    attention: type[Attention]
    within: bool | None


_LEVELS: dict[str, dict[str, _Level]] = {
    "UNet2DConditionModel": {
        "{}Block2D": _Level(NoAttention, False),
        "CrossAttn{}Block2D": _Level(TransformerSpec, False),
        "Resnet{}sampleBlock2D": _Level(NoAttention, True),
        "SimpleCrossAttn{}Block2D": _Level(JoinedSpec, True),
    },
    "UNet2DModel": {
        "{}Block2D": _Level(NoAttention, False),
        "Resnet{}sampleBlock2D": _Level(NoAttention, True),
        "Attn{}Block2D": _Level(FullAttentionSpec, None),
    },
}
_MIDDLES: dict[str, type[Attention]] = {
    "UNetMidBlock2DCrossAttn": TransformerSpec,
    "UNetMidBlock2DSimpleCrossAttn": JoinedSpec,
    "UNetMidBlock2D": FullAttentionSpec,
}
_NUMBERS: int = UNetSpec.model_fields["numbers_width"].default
_WHERE = "unet"


# --- the architecture --------------------------------------------------------------------------------------------------------


def spec(config: Mapping[str, Any], *, pooled: int | None = None, learned: bool | None = None) -> UNetSpec:
    """The network of a config.json of `UNet2DConditionModel` (where it names no class) or `UNet2DModel`.

    pooled: width of the pooled text in SDXL's added condition, which its config does not say; none: six numbers stand behind it, or
    five where it is as wide as the refiner's. learned: whether half of the outputs are the learned variance, which stands in
    the scheduler; none: where there are twice as many outputs as inputs, or six. Raises SpecError naming the first entry whose
    meaning has no counterpart here.
    """
    name = config.get("_class_name", "UNet2DConditionModel")
    if name not in _CLASSES:
        raise SpecError(f"{_WHERE}: no network is known of class '{name}'")
    try:
        return _read(name, {**_CLASSES[name], **config}, pooled, learned)
    except SpecError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise SpecError(f"{_WHERE}: its config cannot be read: {one_line(error)}") from None


def _read(name: str, c: dict[str, Any], pooled: int | None, learned: bool | None) -> UNetSpec:
    widths = tuple(_each(c, "block_out_channels", len(c["block_out_channels"])))
    reads = name == "UNet2DConditionModel"
    gelu = _gelu(c, "act_fn")
    fixed(
        c,
        _WHERE,
        center_input_sample=(False,),
        time_embedding_type=("positional",),
        resnet_time_scale_shift=("default", "scale_shift"),
        downsample_padding=(1, 0),
        num_attention_heads=(None,),
        dual_cross_attention=(False,),
        reverse_transformer_layers_per_block=(None,),
        encoder_hid_dim_type=(None, "text_proj"),
        timestep_post_act=(None,),
        time_cond_proj_dim=(None,),
        attention_type=("default",),
        class_embeddings_concat=(False,),
        freq_shift=(0, 1),
    )
    groups, eps, dropout = whole(c, _WHERE, "norm_num_groups"), float(c["norm_eps"]), float(c["dropout"])
    levels, within = _levels(name, c)
    middle = _middle_of(c)
    looks = _looks_of(name, c, widths, levels, middle)
    told_gelu = _told(c, within, middle, gelu) if reads else gelu
    divide = _divide(c) if reads else 1.0
    context, context_map, pool_heads = _words(c) if reads else (0, 0, 0)
    cond, numbers, numbers_width, classes = _vector(c, widths[0], pooled)
    if gelu and reads and cond and not classes and c["class_embed_type"] != "timestep":
        raise refused(_WHERE, "act_fn", c["act_fn"], "a network with gelu has no projected vector")
    if gelu and not reads and cond and not classes:
        raise refused(_WHERE, "act_fn", c["act_fn"], "a network with gelu has a table of classes, or none")
    into, out = whole(c, _WHERE, "in_channels"), whole(c, _WHERE, "out_channels")
    if learned is None:
        learned = out == 2 * into or (out == 6 and into in (3, 6))
    channels = out // 2 if learned else out
    if into < channels or (learned and out % 2):
        raise refused(
            _WHERE, "in_channels", into, f"what comes in begins with the picture, of which come out {channels} channels"
        )
    depths = tuple(
        whole({"layers_per_block": d}, _WHERE, "layers_per_block") for d in _each(c, "layers_per_block", len(widths))
    )
    return UNetSpec(
        channels=channels,
        image=into - channels,
        cond=cond,
        numbers=numbers,
        numbers_width=numbers_width,
        classes=classes,
        context=context,
        context_map=context_map,
        pool_heads=pool_heads,
        learned_variance=learned,
        widths=widths,
        stem_kernel=c.get("conv_in_kernel", 3),
        head_kernel=c.get("conv_out_kernel", 3),
        head_gelu=gelu and reads,
        depth=depths if isinstance(c["layers_per_block"], list | tuple) else depths[0],
        block=ResnetSpec(
            scale_shift=c["resnet_time_scale_shift"] == "scale_shift",
            dropout=dropout,
            zero=False,
            gelu=told_gelu,
            inner_gelu=gelu,
            divide=divide,
        ),
        norm=GroupNormSpec(groups=groups, eps=eps),
        attention=tuple(looks[:-1]),
        middle=looks[-1],
        down=BlockDown() if within else ConvDown(after=c["downsample_padding"] == 0),
        up=BlockUp() if within else NearestUp(),
        embedding=SinusoidSpec(width=widths[0], closed=c["freq_shift"] == 1, cos_first=c["flip_sin_to_cos"]),
        time=c["time_embedding_dim"] or 4 * widths[0],
        time_gelu=gelu and reads,
        skips=max(depths) + 1,
        pad=within or c["downsample_padding"] == 0,
        zero=False,
    )


def _gelu(c: Mapping[str, Any], name: str) -> bool:
    fixed(c, _WHERE, **{name: ("silu", "swish", "gelu")})
    return bool(c[name] == "gelu")


def _levels(name: str, c: Mapping[str, Any]) -> tuple[list[type[Attention]], bool]:
    """The attention of each level, the full resolution first, and whether blocks change the resolution."""
    found: list[list[_Level]] = []
    for way, word, other in (("down_block_types", "Down", "downsample_type"), ("up_block_types", "Up", "upsample_type")):
        known = {kind.format(word): level for kind, level in _LEVELS[name].items()}
        fixed(c, _WHERE, **{other: ("conv", "resnet")})
        for kind in _each(c, way, len(c["block_out_channels"])):
            if kind not in known:
                raise refused(_WHERE, way, kind, f"there are {', '.join(known)}")
        found.append(
            [
                level if level.within is not None else level._replace(within=c[other] == "resnet")
                for level in (known[kind] for kind in c[way])
            ]
        )
    down, up = found[0], found[1][::-1]
    if [level.attention for level in down] != [level.attention for level in up]:
        raise refused(_WHERE, "up_block_types", c["up_block_types"], "levels attend alike on both ways")
    # The deepest level is not halved, the full one not doubled: what they say of it says nothing.
    within = {level.within for level in (*down[:-1], *up[1:])}
    if len(within) > 1:
        raise refused(_WHERE, "down_block_types", c["down_block_types"], "all levels change the resolution in one way")
    return [level.attention for level in down], within == {True}


def _middle_of(c: Mapping[str, Any]) -> type[Attention]:
    plain = "add_attention" in c
    kind = c["mid_block_type"]
    known = [name for name, look in _MIDDLES.items() if (look is FullAttentionSpec) == plain]
    if kind not in known:
        raise refused(_WHERE, "mid_block_type", kind, f"there are {', '.join(known)}")
    return NoAttention if plain and not c["add_attention"] else _MIDDLES[kind]


def _looks_of(
    name: str, c: Mapping[str, Any], widths: Sequence[int], levels: Sequence[type[Attention]], middle: type[Attention]
) -> list[Attention]:
    """The attentions of the levels and, last, of the middle."""
    n = len(widths)
    heads = _each(c, "attention_head_dim", n)
    groups = c["norm_num_groups"]
    if name == "UNet2DModel":
        wanted = groups if c["resnet_time_scale_shift"] == "default" else None
        if middle is FullAttentionSpec and (c["attn_norm_num_groups"] or wanted) != groups:
            raise refused(
                _WHERE, "attn_norm_num_groups", c["attn_norm_num_groups"], "the middle's attention has the groups of all norms"
            )

        def full(i: int) -> Attention:
            each = heads[i] or widths[i]
            return FullAttentionSpec(heads=widths[i] // each, head_width=each, bias=True)

        return [full(min(i, n - 1)) if look is FullAttentionSpec else NoAttention() for i, look in enumerate((*levels, middle))]
    depths, crossing = _each(c, "transformer_layers_per_block", n), _each(c, "only_cross_attention", n)
    crosses = c["mid_block_only_cross_attention"]
    if crosses is None:
        crosses = c["only_cross_attention"] is True
    fixed(c, _WHERE, cross_attention_norm=(None, "group_norm") if JoinedSpec in (*levels, middle) else (None,))
    words: Norm | None = GroupNormSpec(groups=32) if c["cross_attention_norm"] else None

    def look(kind: type[Attention], i: int, itself: bool) -> Attention:
        if kind is TransformerSpec:
            if not isinstance(depths[i], int):
                raise refused(
                    _WHERE, "transformer_layers_per_block", c["transformer_layers_per_block"], "each level has one number"
                )
            return TransformerSpec(
                heads=heads[i],
                head_width=widths[i] // heads[i],
                depth=depths[i],
                norm=GroupNormSpec(groups=groups, eps=1e-6),
                linear=c["use_linear_projection"],
                itself=itself,
            )
        if kind is JoinedSpec:
            return JoinedSpec(heads=widths[i] // heads[i], head_width=heads[i], itself=itself, words=words)
        return NoAttention()

    # The transformer in the middle always looks at the picture itself.
    last = look(middle, n - 1, middle is TransformerSpec or not crosses)
    return [*(look(kind, i, not crossing[i]) for i, kind in enumerate(levels)), last]


def _told(c: Mapping[str, Any], within: bool, middle: type[Attention], gelu: bool) -> bool:
    """Whether GELU stands in front of the maps that tell blocks the time. Once: before all of them, or in each block."""
    skipped, before = c["resnet_skip_time_act"], c["time_embedding_act_fn"]
    if not skipped and before is None:
        return gelu
    if not skipped or before is None or not within or middle is not JoinedSpec:
        raise refused(
            _WHERE, "resnet_skip_time_act", skipped, "the time has one activation: time_embedding_act_fn, or that of the blocks"
        )
    return _gelu(c, "time_embedding_act_fn")


def _divide(c: Mapping[str, Any]) -> float:
    """What every block's sum is divided by. Levels of the other kinds do not hear of it there."""
    each, mid = float(c["resnet_out_scale_factor"]), float(c["mid_block_scale_factor"])
    ignored = any(kind in ("DownBlock2D", "CrossAttnDownBlock2D") for kind in c["down_block_types"])
    if each != mid or (each != 1 and ignored):
        raise refused(
            _WHERE,
            "resnet_out_scale_factor",
            each,
            "all blocks are scaled alike, the middle's too",
        )
    return each


def _words(c: Mapping[str, Any]) -> tuple[int, int, int]:
    """context, context_map and pool_heads of a config."""
    widths = set(_each(c, "cross_attention_dim", len(c["block_out_channels"])))
    if len(widths) > 1:
        raise refused(_WHERE, "cross_attention_dim", c["cross_attention_dim"], "all levels read words of one width")
    wide, before = widths.pop(), c["encoder_hid_dim"]
    if c["encoder_hid_dim_type"] and not before:
        raise refused(_WHERE, "encoder_hid_dim_type", c["encoder_hid_dim_type"], "it goes with encoder_hid_dim")
    pool = c["addition_embed_type_num_heads"] if c["addition_embed_type"] == "text" else 0
    return (before, wide, pool) if before else (wide, 0, pool)


def _vector(c: Mapping[str, Any], width: int, pooled: int | None) -> tuple[int, int, int, int]:
    """cond, numbers, numbers_width and classes of a config."""
    fixed(c, _WHERE, class_embed_type=(None, "timestep", *(["projection"] if "addition_embed_type" in c else [])))
    fixed(c, _WHERE, addition_embed_type=(None, "text", "text_time"))
    kind, added = c["class_embed_type"], c.get("addition_embed_type")
    classes = c["num_class_embeds"] if kind is None else None
    if added == "text_time" and (kind or classes):
        raise refused(_WHERE, "addition_embed_type", added, "it stands without a class")
    if classes:
        return 1, 1, _NUMBERS, classes
    if kind == "timestep":
        return 1, 1, width, 0
    if kind == "projection":
        return whole(c, _WHERE, "projection_class_embeddings_input_dim"), 0, _NUMBERS, 0
    if added != "text_time":
        return 0, 0, _NUMBERS, 0
    wide, each = whole(c, _WHERE, "projection_class_embeddings_input_dim"), whole(c, _WHERE, "addition_time_embed_dim")
    n = (5 if wide == 1280 + 5 * each else 6) if pooled is None else (wide - pooled) // each
    pooled = wide - n * each if pooled is None else pooled
    if pooled < 1 or n < 1 or pooled + n * each != wide:
        raise refused(
            _WHERE,
            "projection_class_embeddings_input_dim",
            wide,
            f"a pooled text of {pooled} has {each} waves for each number behind it",
        )
    return pooled + n, n, each, 0


def _each(c: Mapping[str, Any], name: str, levels: int) -> list[Any]:
    """An entry that is one value for all levels, or a list of one for each."""
    value = c[name]
    if not isinstance(value, list | tuple):
        return [value] * levels
    if len(value) != levels:
        raise SpecError(f"{_WHERE}: {name} has {len(value)} entries for {levels} levels")
    return list(value)


def config(spec: UNetSpec, size: int | tuple[int, int] | None = None) -> dict[str, Any]:
    """The config.json of a network of a published kind. size: of its pictures (or latents), which the network itself does not know.

    Raises SpecError where diffusers has no class for it, naming the first field that its config cannot say.
    """
    _published(spec)
    assert (
        isinstance(spec.norm, GroupNormSpec) and isinstance(spec.block, ResnetSpec) and isinstance(spec.embedding, SinusoidSpec)
    )
    looks = [*_looks(spec), spec.middle]
    name = "UNet2DConditionModel" if spec.context else "UNet2DModel"
    within = isinstance(spec.down, BlockDown)

    def types(word: str, levels: Sequence[Attention]) -> list[str]:
        known = _LEVELS[name].items()
        fits = [[kind for kind, v in known if v.attention is type(look) and v.within in (within, None)] for look in levels]
        if not all(fits):
            raise SpecError(
                f"{_WHERE}: attention '{levels[fits.index([])].kind}' with '{spec.down.kind}' has no class in diffusers"
            )
        return [kinds[0].format(word) for kinds in fits]

    found: dict[str, Any] = {
        "_class_name": name,
        **_CLASSES[name],
        "sample_size": list(size) if isinstance(size, tuple) else size,
        "in_channels": spec.channels + spec.image,
        "out_channels": spec.channels * (2 if spec.learned_variance else 1),
        "flip_sin_to_cos": spec.embedding.cos_first,
        "freq_shift": int(spec.embedding.closed),
        "down_block_types": types("Down", looks[:-1]),
        "up_block_types": types("Up", looks[-2::-1]),
        "block_out_channels": list(spec.widths),
        "layers_per_block": list(spec.depth) if isinstance(spec.depth, tuple) else spec.depth,
        "downsample_padding": 0 if isinstance(spec.down, ConvDown) and spec.down.after else 1,
        "dropout": spec.block.dropout,
        "act_fn": "gelu" if spec.block.inner_gelu else "silu",
        "norm_num_groups": spec.norm.groups,
        "norm_eps": spec.norm.eps,
        "resnet_time_scale_shift": "scale_shift" if spec.block.scale_shift else "default",
        "time_embedding_dim": None if spec.time == 4 * spec.widths[0] else spec.time,
        "class_embed_type": "timestep" if 0 < spec.cond == spec.numbers and not spec.classes else None,
        "num_class_embeds": spec.classes or None,
    }
    found |= _reading(spec, looks) if spec.context else _plain(spec, looks)
    again = _read(name, found, spec.cond - spec.numbers, spec.learned_variance)
    for field, value in _alike(spec):
        if value != getattr(again, field):
            raise SpecError(
                f"{_WHERE}: with this {field} a network has no class in diffusers (it would be {_said(getattr(again, field))})"
            )
    return found


def _alike(spec: UNetSpec) -> Iterator[tuple[str, Any]]:
    """The fields of a network, without those of training, in the form in which configs are read."""

    def counted(look: Attention, width: int) -> Attention:
        return look if isinstance(look, NoAttention) else look.model_copy(update={"heads": _count(look, width)})

    plain = {
        "stem": None,
        "zero": False,
        "block": spec.block.model_copy(update={"zero": False}),
        "attention": tuple(counted(look, width) for look, width in zip(_looks(spec), spec.widths, strict=True)),
        "middle": counted(spec.middle, spec.widths[-1]),
    }
    unused = {"pad"} if spec.numbers and not spec.classes else {"pad", "numbers_width"}
    for field in UNetSpec.model_fields:
        if field not in unused:
            yield field, plain.get(field, getattr(spec, field))


def _said(value: Any) -> str:
    """A field's value in a message."""
    return (
        f"'{value.kind}'"
        if isinstance(value, Attention | ResnetSpec)
        else "of others"
        if isinstance(value, tuple)
        else str(value)
    )


def _plain(spec: UNetSpec, looks: Sequence[Attention]) -> dict[str, Any]:
    """What only UNet2DModel says."""
    full = [look for look in looks if isinstance(look, FullAttentionSpec)]
    each = {look.head_width for look in full}
    kind = "resnet" if isinstance(spec.down, BlockDown) else "conv"
    assert isinstance(spec.norm, GroupNormSpec)
    return {
        "downsample_type": kind,
        "upsample_type": kind,
        "attention_head_dim": each.pop() if len(each) == 1 and any(look.heads != 1 for look in full) else None,
        "attn_norm_num_groups": spec.norm.groups,
        "add_attention": not isinstance(spec.middle, NoAttention),
    }


def _reading(spec: UNetSpec, looks: Sequence[Attention]) -> dict[str, Any]:
    """What only UNet2DConditionModel says."""
    assert isinstance(spec.block, ResnetSpec)
    middle, widths = spec.middle, (*spec.widths, spec.widths[-1])
    if not isinstance(middle, TransformerSpec | JoinedSpec):
        raise SpecError(f"{_WHERE}: a middle of '{middle.kind}' in a network that reads has no class in diffusers")
    counts = [None if isinstance(look, NoAttention) else _count(look, width) for look, width in zip(looks, widths, strict=True)]
    if isinstance(middle, JoinedSpec):  # there the entry is a head's width
        heads = [getattr(look, "head_width", middle.head_width) for look in looks]
    elif len({*counts} - {None}) == 1:
        heads = [counts[-1]] * len(looks)
    else:  # what it says of levels without attention says nothing
        heads = [n or max(width // middle.head_width, 1) for n, width in zip(counts, widths, strict=True)]
    depths = [getattr(look, "depth", 1) for look in looks]
    alone = [not getattr(look, "itself", True) for look in looks]
    projected, added = spec.cond > 0 == spec.numbers, 0 < spec.numbers < spec.cond
    told = spec.block.gelu != spec.block.inner_gelu
    found = {
        "mid_block_type": next(kind for kind, look in _MIDDLES.items() if isinstance(middle, look)),
        "only_cross_attention": _few(alone[:-1]),
        "mid_block_only_cross_attention": alone[-1] if isinstance(middle, JoinedSpec) else None,
        "mid_block_scale_factor": spec.block.divide,
        "resnet_out_scale_factor": spec.block.divide,
        "resnet_skip_time_act": told,
        "time_embedding_act_fn": ("gelu" if spec.block.gelu else "silu") if told else None,
        "cross_attention_dim": spec.read,
        "cross_attention_norm": "group_norm" if isinstance(middle, JoinedSpec) and middle.words else None,
        "encoder_hid_dim": spec.context if spec.context_map else None,
        "encoder_hid_dim_type": "text_proj" if spec.context_map else None,
        "transformer_layers_per_block": _few([*depths[:-2], depths[-1]]),
        "attention_head_dim": _few([*heads[:-2], heads[-1]]),
        "use_linear_projection": getattr(middle, "linear", False),
        "addition_embed_type": "text" if spec.pool_heads else "text_time" if added else None,
        "addition_embed_type_num_heads": spec.pool_heads or _CONDITION["addition_embed_type_num_heads"],
        "addition_time_embed_dim": spec.numbers_width if added else None,
        "conv_in_kernel": spec.stem_kernel,
        "conv_out_kernel": spec.head_kernel,
    }
    if projected or added:
        found["projection_class_embeddings_input_dim"] = spec.cond + spec.numbers * (spec.numbers_width - 1)
    return found | ({"class_embed_type": "projection"} if projected else {})


def _few(values: list[Any]) -> Any:
    """One value where all levels agree, as published configs say it."""
    return values[0] if len(set(values)) == 1 else values


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> UNetSpec:
    """The architecture of a single file's network from the names and shapes of its tensors ("input_blocks.0.0.weight" and so on).

    What no shape tells is as published: groups of 32; 8 heads where a transformer's maps are convolutions, heads of 64 where they
    are linear; in attention without a text heads of 64 where blocks change the resolution (4 heads in ADM's network for 128x128), of
    32 in latent diffusion; behind the pooled text of transformers of several blocks (SDXL) six numbers, five in the refiner. Raises
    SpecError where the tensors are of another network.
    """
    try:
        return _recognised(shapes)
    except (LookupError, ValueError, ArithmeticError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"this is no U-Net of latent or guided diffusion: {one_line(error)}") from None


def _recognised(shapes: Mapping[str, tuple[int, ...]]) -> UNetSpec:
    def rows(name: str) -> int:
        if name not in shapes:
            raise SpecError(f"this is no U-Net of latent or guided diffusion: it lacks '{name}'")
        return shapes[name][0]

    out, (time, waves) = rows("out.2.weight"), shapes["time_embed.0.weight"]
    into = shapes["input_blocks.0.0.weight"][1]
    entries, ups = _entries(shapes, "input_blocks"), 0
    within = False
    for n in _entries(shapes, "output_blocks"):
        convs = [i for i in (1, 2) if f"output_blocks.{n}.{i}.conv.weight" in shapes]
        blocks = [i for i in (1, 2) if f"output_blocks.{n}.{i}.in_layers.0.weight" in shapes]
        ups += bool(convs or blocks)
        within |= bool(blocks)
    depth, rest = divmod(len(entries) - 1 - ups, ups + 1)
    if rest or depth < 1:
        raise SpecError(
            f"this is no U-Net of latent or guided diffusion: {len(entries)} input blocks for {ups + 1} resolutions"
        )
    first = [1 + i * (depth + 1) for i in range(ups + 1)]
    widths = tuple(rows(f"input_blocks.{n}.0.in_layers.2.weight") for n in first)
    looks = [_look(shapes, f"input_blocks.{n}.1.", w, widths, within) for n, w in zip(first, widths, strict=True)]
    middle = _look(shapes, "middle_block.1.", widths[-1], widths, within)
    reading = [name for name in shapes if name.endswith("attn2.to_k.weight")]
    context = shapes[reading[0]][1] if reading else 0
    classes = shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else 0
    wide = shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else 0
    deep = any(isinstance(look, TransformerSpec) and look.depth > 1 for look in (*looks, middle))  # XL, as opposed to unCLIP
    numbers = 0 if not deep else 5 if wide == 1280 + 5 * _NUMBERS else 6 * (wide > 6 * _NUMBERS)
    learned = out == 2 * into
    return UNetSpec(
        channels=out // 2 if learned else out,
        image=into - (out // 2 if learned else out),
        cond=1 if classes else wide - (_NUMBERS - 1) * numbers,
        numbers=1 if classes else numbers,
        classes=classes,
        context=context,
        learned_variance=learned,
        widths=widths,
        depth=depth,
        block=ResnetSpec(scale_shift=rows("input_blocks.1.0.emb_layers.1.weight") == 2 * widths[0], zero=False),
        attention=tuple(looks),
        middle=middle,
        down=BlockDown() if within else ConvDown(),
        up=BlockUp() if within else NearestUp(),
        embedding=SinusoidSpec(width=waves, closed=False, cos_first=True),
        time=time,
        skips=depth + 1,
        pad=within,
        zero=False,
    )


def _entries(shapes: Mapping[str, tuple[int, ...]], row: str) -> list[int]:
    return sorted({int(found[1]) for name in shapes if (found := re.match(rf"{row}\.(\d+)\.", name))})


def _look(shapes: Mapping[str, tuple[int, ...]], where: str, width: int, widths: tuple[int, ...], within: bool) -> Attention:
    """The attention whose names begin with `where`, in a single file."""
    if where + "qkv.weight" in shapes:
        each = 32 if not within else width // 4 if [w // widths[0] for w in widths] == [1, 1, 2, 3, 4] else 64
        return FullAttentionSpec(heads=width // each, head_width=each, bias=True)
    inner = shapes.get(where + "proj_in.weight")
    if inner is None:
        return NoAttention()
    depth = len({k[len(where) :].split(".")[1] for k in shapes if k.startswith(where + "transformer_blocks.")})
    linear = len(inner) == 2
    # In the upscaler the maps are linear and there are 8 heads all the same.
    itself = shapes[f"{where}transformer_blocks.0.attn1.to_k.weight"][1] == inner[0]
    heads = max(inner[0] // 64, 1) if linear and "label_emb.weight" not in shapes else 8
    return TransformerSpec(
        heads=heads,
        head_width=inner[0] // heads,
        depth=depth,
        norm=GroupNormSpec(groups=32, eps=1e-6),
        linear=linear,
        itself=itself,
    )


def _looks(spec: UNetSpec) -> list[Attention]:
    """The attention of each level, the full resolution first."""
    return [*[NoAttention()] * (len(spec.widths) - len(spec.attention)), *spec.attention]


def _count(look: Attention, width: int) -> int:
    """The heads of an attention on `width` channels."""
    assert isinstance(look, TransformerSpec | FullAttentionSpec | JoinedSpec)
    return look.heads or width // look.head_width


def _published(spec: UNetSpec) -> None:
    """Raise SpecError naming the first field with which a network has no published counterpart."""
    wanted: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("fourier", ((),)),
        ("dims", (2,)),
        ("patch", (1,)),
        ("stem", (None, spec.widths[0])),
        ("skips", (max(spec.depths) + 1,)),
        ("attend_each", (True,)),
        ("widen_in_resampling", (False,)),
        ("narrow_early", (False,)),
        ("tail", (False,)),
        ("head_norm", (True,)),
    )
    for name, values in wanted:
        value = getattr(spec, name)
        if value not in values:
            raise SpecError(f"{_WHERE}: {name} {value} has no published counterpart (it would be {values[-1]})")
    parts: tuple[tuple[str, Any, tuple[type, ...]], ...] = (
        ("block", spec.block, (ResnetSpec,)),
        ("norm", spec.norm, (GroupNormSpec,)),
        ("embedding", spec.embedding, (SinusoidSpec,)),
        ("down", spec.down, (ConvDown, BlockDown)),
        ("up", spec.up, (NearestUp, BlockUp)),
        *(
            ("attention", look, (TransformerSpec, FullAttentionSpec, JoinedSpec, NoAttention))
            for look in (*spec.attention, spec.middle)
        ),
    )
    for name, part, kinds in parts:
        if not isinstance(part, kinds):
            known = " or ".join(f"'{kind.kind}'" for kind in kinds)  # type: ignore[attr-defined]
            raise SpecError(f"{_WHERE}: {name} '{part.kind}' has no published counterpart (it would be {known})")
    if isinstance(spec.down, ConvDown) and spec.down.kernel != 3:
        raise SpecError(f"{_WHERE}: down with kernel {spec.down.kernel} has no published counterpart (it would be 3)")
    for look in (*spec.attention, spec.middle):
        for name in ("memory", "qk_norm", "places"):
            if getattr(look, name, False):
                raise SpecError(f"{_WHERE}: attention with {name} {getattr(look, name)} has no published counterpart")


# --- the names ---------------------------------------------------------------------------------------------------------------


def keys(spec: UNetSpec, names: Collection[str] = ()) -> list[Key]:
    """Our tensors and those of diffusers' class. Raises SpecError for a network that has no counterpart there.

    names: those in the file; some of before 2023 call the maps of an attention otherwise.
    """
    old = any(name.endswith(".proj_attn.weight") for name in names)
    return list(_keys(spec, _DIFFUSERS_OLD if old else _DIFFUSERS))


def ldm_keys(spec: UNetSpec, heads_first: bool | None = None) -> list[Key]:
    """Our tensors and those of a single file of latent or guided diffusion, without "model.diffusion_model.".

    heads_first: whether the rows of an attention's qkv go head by head, as in the first form of their code, else part by part; no
    shape tells. None is as published: head by head, but in ADM's network for 64x64. Raises SpecError as `keys`.
    """
    if heads_first is None:
        heads_first = not (isinstance(spec.down, BlockDown) and max(spec.depths) == 3)
    return list(_keys(spec, _LDM._replace(heads_first=heads_first)))


def encoder_keys(spec: UNetSpec) -> list[Key]:
    """As `keys`, of the way down and the middle alone (`Trunk` over their stages): what a ControlNet has of a U-Net."""
    return list(_keys(spec, _DIFFUSERS, whole=False))


def ldm_encoder_keys(spec: UNetSpec) -> list[Key]:
    """As `ldm_keys`, of the way down and the middle alone."""
    return list(_keys(spec, _LDM, whole=False))


class _Layout(NamedTuple):
    """What the layers are called in one layout."""

    stem: str
    head: tuple[str, str]
    time: tuple[str, str]
    cond: tuple[str, str]
    added: tuple[str, str]
    table: str
    resnet: tuple[tuple[str, str], ...]
    tell: str
    short: str
    full: tuple[str, ...]
    original: bool
    heads_first: bool = False


_RESNET = ("norm1", "conv1", "norm2", "conv2")
_DIFFUSERS = _Layout(
    stem="conv_in",
    head=("conv_norm_out", "conv_out"),
    time=("time_embedding.linear_1", "time_embedding.linear_2"),
    cond=("class_embedding.linear_1", "class_embedding.linear_2"),
    added=("add_embedding.linear_1", "add_embedding.linear_2"),
    table="class_embedding",
    resnet=tuple((name, name) for name in _RESNET),
    tell="time_emb_proj",
    short="conv_shortcut",
    full=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    original=False,
)
_DIFFUSERS_OLD = _DIFFUSERS._replace(full=("group_norm", "query", "key", "value", "proj_attn"))
_LDM = _Layout(
    stem="input_blocks.0.0",
    head=("out.0", "out.2"),
    time=("time_embed.0", "time_embed.2"),
    cond=("label_emb.0.0", "label_emb.0.2"),
    added=("label_emb.0.0", "label_emb.0.2"),
    table="label_emb",
    resnet=tuple(zip(_RESNET, ("in_layers.0", "in_layers.2", "out_layers.0", "out_layers.3"), strict=True)),
    tell="emb_layers.1",
    short="skip_connection",
    full=("norm", "qkv", "proj_out"),
    original=True,
    heads_first=True,
)


class _Place(NamedTuple):
    """What a stage's block, attention and change of resolution are called there."""

    block: str
    attention: str = ""
    resample: str = ""


def _keys(spec: UNetSpec, names: _Layout, whole: bool = True) -> Iterator[Key]:
    _published(spec)
    yield from layer("stem", names.stem, shape=_pointwise(spec.stem_kernel, spec.channels + spec.image))
    for i in (0, 1):
        yield from layer(f"time.{2 * i}", names.time[i])
        if spec.cond and not spec.classes:
            yield from layer(f"cond.{2 * i}", (names.added if 0 < spec.numbers < spec.cond else names.cond)[i])
    if spec.classes:
        yield from layer("cond", names.table, bias=False)
    yield from _words_keys(spec, names)
    plans = [plan for plan in spec.stages() if whole or plan.way <= 0]
    places = (_original if names.original else _diffusers)(spec, plans)
    for i, (plan, place) in enumerate(zip(plans, places, strict=True)):
        ours = f"stages.{i}."
        if plan.block:
            yield from _block(ours, place.resample if plan.resample else place.block, plan, names)
        else:
            inside, there = (
                ".conv" if plan.resample > 0 else "",
                ".conv" if plan.resample > 0 or not names.original else ".op",
            )
            inside = ".conv" if isinstance(spec.down, ConvDown) and spec.down.after else inside
            yield from layer(f"{ours}resample{inside}", place.resample.removesuffix(".") + there)
        if not isinstance(plan.attention, NoAttention):
            yield from _attention(f"{ours}attention.", place.attention, plan, spec, names)
    if whole:
        yield from layer("norm", names.head[0])
        yield from layer("head", names.head[1], shape=_pointwise(spec.head_kernel, spec.widths[0]))


def _words_keys(spec: UNetSpec, names: _Layout) -> Iterator[Key]:
    """The maps of the words before any attention reads them, which only diffusers' layout knows here."""
    if (spec.context_map or spec.pool_heads) and names.original:
        raise SpecError(f"{_WHERE}: a network that maps or pools its words is known in diffusers' layout only")
    if spec.context_map:
        yield from layer("project", "encoder_hid_proj")
    if spec.pool_heads:
        yield from layer("pool.norm1", "add_embedding.norm1")
        yield key("pool.place", "add_embedding.pool.positional_embedding")
        yield from layer("pool.q", "add_embedding.pool.q_proj")
        yield from layer("pool.kv", ["add_embedding.pool.k_proj", "add_embedding.pool.v_proj"])
        yield from layer("pool.out", "add_embedding.proj")
        yield from layer("pool.norm2", "add_embedding.norm2")


def _pointwise(kernel: int, inp: int) -> tuple[int, ...] | None:
    """The shape of a convolution's weight there, where it is a matrix here."""
    return (-1, inp, 1, 1) if kernel == 1 else None


def _diffusers(spec: UNetSpec, plans: Sequence[StagePlan]) -> Iterator[_Place]:
    seen: dict[tuple[int, int], int] = {}
    for plan in plans:
        j = seen[plan.way, plan.level] = seen.get((plan.way, plan.level), -1) + 1
        row = "down" if plan.way < 0 else "up"
        n = plan.level if plan.way < 0 else len(spec.widths) - 1 - plan.level
        block = f"{row}_blocks.{n}." if plan.way else "mid_block."
        yield _Place(f"{block}resnets.{j}.", f"{block}attentions.{j}.", f"{block}{row}samplers.0.")


def _original(spec: UNetSpec, plans: Sequence[StagePlan]) -> Iterator[_Place]:
    attends = not isinstance(spec.middle, NoAttention)
    down, middle, up = 0, 0, -1
    for plan in plans:
        if plan.way < 0:
            down += 1
            yield _Place(f"input_blocks.{down}.0.", f"input_blocks.{down}.1.", f"input_blocks.{down}.0.")
        elif plan.way == 0:
            yield _Place(f"middle_block.{middle}.", "middle_block.1.")
            middle += 1 + attends
        elif plan.resample:  # it shares the entry of the block before it
            yield _Place("", "", f"output_blocks.{up}.{1 + attends}.")
        else:
            up += 1
            attends = not isinstance(plan.attention, NoAttention)
            yield _Place(f"output_blocks.{up}.0.", f"output_blocks.{up}.1.")


def _block(ours: str, theirs: str, plan: StagePlan, names: _Layout) -> Iterator[Key]:
    for mine, yours in names.resnet:
        yield from layer(f"{ours}block.{mine}", theirs + yours)
    if plan.timed:
        yield from layer(f"{ours}tell", theirs + names.tell)
    if plan.inp + plan.join != plan.out:
        yield from layer(f"{ours}block.short", theirs + names.short, shape=(-1, plan.inp + plan.join, 1, 1))


def _attention(ours: str, theirs: str, plan: StagePlan, spec: UNetSpec, names: _Layout) -> Iterator[Key]:
    look = plan.attention
    heads = _count(look, plan.out)
    if isinstance(look, TransformerSpec):
        yield from layer(f"{ours}norm", f"{theirs}norm")
        yield from layer(f"{ours}proj_in", f"{theirs}proj_in", shape=None if look.linear else (-1, plan.out, 1, 1))
        for i in range(look.depth):
            yield from _transformer(f"{ours}blocks.{i}.", f"{theirs}transformer_blocks.{i}.", look.itself, spec.context)
        yield from layer(
            f"{ours}proj_out", f"{theirs}proj_out", shape=None if look.linear else (-1, heads * look.head_width, 1, 1)
        )
    elif isinstance(look, JoinedSpec):
        if names.original:
            raise SpecError(f"{_WHERE}: attention '{look.kind}' is known in diffusers' layout only")
        yield from layer(f"{ours}norm", f"{theirs}group_norm")
        if look.words is not None:
            yield from layer(f"{ours}norm_words", f"{theirs}norm_cross")
        yield from layer(f"{ours}qkv", [f"{theirs}to_{name}" for name in ("qkv" if look.itself else "q")])
        yield from layer(f"{ours}kv", [f"{theirs}add_{name}_proj" for name in "kv"])
        yield from layer(f"{ours}out", f"{theirs}to_out.0")
    elif isinstance(look, FullAttentionSpec):
        norm, *qkv, last = (theirs + name for name in names.full)
        shape = {"qkv": (-1, plan.out, 1), "out": (-1, heads * look.head_width, 1)} if names.original else {}
        yield from layer(f"{ours}norm", norm)
        turn = HeadsFirst(heads) if names.heads_first and heads > 1 else None
        yield from layer(f"{ours}qkv", qkv, bias=look.bias, shape=shape.get("qkv"), turn=turn)
        yield from layer(f"{ours}out", last, shape=shape.get("out"))


def _transformer(ours: str, theirs: str, itself: bool, context: int) -> Iterator[Key]:
    if itself:
        yield from layer(f"{ours}qkv", [f"{theirs}attn1.to_{name}" for name in "qkv"], bias=False)
        yield from layer(f"{ours}out", f"{theirs}attn1.to_out.0")
    readers = [("cross", "attn2")] if itself else [("first", "attn1"), ("cross", "attn2")]
    for mine, yours in readers if context else []:
        yield from layer(f"{ours}{mine}.q", f"{theirs}{yours}.to_q", bias=False)
        yield from layer(f"{ours}{mine}.kv", [f"{theirs}{yours}.to_{name}" for name in "kv"], bias=False)
        yield from layer(f"{ours}{mine}.out", f"{theirs}{yours}.to_out.0")
    for norm in ("norm1", "norm2", "norm3") if context else ("norm1", "norm3"):
        yield from layer(ours + norm, theirs + norm)
    yield from layer(f"{ours}feed.up", f"{theirs}ff.net.0.proj")
    yield from layer(f"{ours}feed.down", f"{theirs}ff.net.2")
