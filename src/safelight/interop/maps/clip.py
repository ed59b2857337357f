"""CLIP's text towers: transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`, and the single files of Stable Diffusion.

Two original layouts: that of SD 1 and of SDXL's first encoder, which is transformers' own with its prefix, and OpenCLIP's (SD 2, SDXL's
second), with q, k and v in one matrix and a projection that multiplies from the right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from safelight.interop.keys import Key, Transposed, beneath, key, layer
from safelight.spec import SpecError
from safelight.text.clip import CLIPTextSpec
from safelight.text.vocabulary import Carried, layout

PREFIX = (
    "text_model."  # of every name but the projection's, in published files and in those of transformers before its version 5
)

# A block's layers: ours, transformers'.
BLOCK = {
    "norm1": "layer_norm1",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
_OPEN = {"norm1": "ln_1", "attention.out": "attn.out_proj", "norm2": "ln_2", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
# What a config says of every tower here; another value is another network.
_FIXED: dict[str, Any] = {"layer_norm_eps": 1e-5, "use_attention_mask": False}
_LAST = 49_407  # `end` of the published vocabulary


def spec(config: Mapping[str, Any]) -> CLIPTextSpec:
    """The tower of a config.json. It has a projection if "architectures" or "_class_name" says `CLIPTextModelWithProjection`.

    A vocabulary other than the published one is left to be carried, see `Carried`; what fills a window is said by the tokenizer's own
    files. Raises SpecError, in one line, for a value that is another network.
    """
    get = {**_USUAL, **config}.__getitem__
    for name, value in _FIXED.items():
        if config.get(name, value) not in (value, None):
            raise SpecError(f"config: {name} is {config[name]!r}, only {value!r} can be built")
    if get("hidden_act") not in _ACTIVATIONS:
        raise SpecError(f"config: hidden_act is {get('hidden_act')!r}, known are {', '.join(_ACTIVATIONS)}")
    size, begin, end = get("vocab_size"), get("bos_token_id"), get("eos_token_id")
    if end == 2:  # as published configs say by mistake; what is meant is the last id of the vocabulary
        end = min(size - 1, _LAST)
        begin = end - 1
    if not isinstance(end, int) or not isinstance(begin, int):
        raise SpecError(f"config: bos_token_id is {begin!r} and eos_token_id {end!r}, one id each is expected")
    full = (size, begin, end) == layout("clip")
    width, inner = get("hidden_size"), get("intermediate_size")
    return CLIPTextSpec(
        vocabulary="clip" if full else Carried(size=size, begin=begin, end=end),
        width=width,
        layers=get("num_hidden_layers"),
        heads=get("num_attention_heads"),
        length=get("max_position_embeddings"),
        quick=_ACTIVATIONS[get("hidden_act")],
        projection=get("projection_dim") if _projects(config) else None,
        inner=None if inner == 4 * width else inner,
        masks=False,
    )


def config(spec: CLIPTextSpec) -> dict[str, Any]:
    """The config.json of a tower. One that is read before its last blocks is written without them, as SD 2's is; SDXL's are written whole.

    Raises SpecError for a tower that is none of transformers'.
    """
    if not spec.causal or spec.masks:
        which = "sees the whole text" if not spec.causal else "masks what fills a window"
        raise SpecError(f"text '{spec.kind}': a tower that {which} has no counterpart in transformers")
    if spec.raw and spec.skip != 1:
        raise SpecError(
            f"text '{spec.kind}': states without a norm from before {spec.skip} blocks are none of SDXL's, which are from before 1"
        )
    words = layout(spec.vocabulary)
    name = "CLIPTextModelWithProjection" if spec.projection else "CLIPTextModel"
    return _USUAL | {
        "_class_name": name,
        "architectures": [name],
        "vocab_size": words.size,
        "hidden_size": spec.width,
        "intermediate_size": spec.inner or 4 * spec.width,
        "projection_dim": spec.projection or spec.width,
        "num_hidden_layers": _layers(spec),
        "num_attention_heads": spec.heads,
        "max_position_embeddings": spec.length,
        "hidden_act": "quick_gelu" if spec.quick else "gelu",
        "pad_token_id": words.end if spec.pad is None else spec.pad,
        "bos_token_id": words.begin,
        "eos_token_id": words.end,
    }


_USUAL: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": _LAST - 1,
    "dropout": 0.0,
    "eos_token_id": _LAST,
    "hidden_act": "quick_gelu",
    "hidden_size": 512,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 8,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 512,
    "vocab_size": _LAST + 1,
}


def keys(spec: CLIPTextSpec, prefix: str = PREFIX) -> list[Key]:
    """Ours, of a `CLIPText`, and transformers'. prefix: "" for the names that its version 5 gives a tower without projection."""
    return [
        *beneath(_tower(_layers(spec)), "tower.", prefix),
        *(layer("projection", "text_projection", bias=False) if spec.projection else ()),
    ]


def prefix(names: Iterable[str]) -> str:
    """Which prefix the names of a text tower of transformers have, for `keys`."""
    return PREFIX if any(name.startswith(PREFIX) for name in names) else ""


def ldm_keys(spec: CLIPTextSpec) -> list[Key]:
    """Ours and those of a single file.

    Relative to "cond_stage_model." (SD 1 and 2), "conditioner.embedders.0." and "conditioner.embedders.1." (SDXL), or
    "conditioner.embedders.0." (its refiner). OpenAI's tower is told by its activation.
    """
    if spec.quick:
        return list(beneath(_tower(spec.layers), "tower.", "transformer." + PREFIX))
    return list(beneath(_open(spec), "", "model."))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> CLIPTextSpec:
    """The tower of a single file, from names (relative as in `ldm_keys`) and shapes. Raises SpecError where there is none.

    What the shapes cannot say is as published: heads 64 wide; OpenAI's activation in the one layout, OpenCLIP's, its padding and the last
    block left out in the other.
    """
    if "transformer.text_model.embeddings.token_embedding.weight" in shapes:
        top = "transformer.text_model."
        size, width = shapes[top + "embeddings.token_embedding.weight"]
        length = shapes[top + "embeddings.position_embedding.weight"][0]
        layers, inner = _count(shapes, top + "encoder.layers."), shapes[top + "encoder.layers.0.mlp.fc1.weight"][0]
        return _published(size, width, length, layers, inner, quick=True)
    if "model.token_embedding.weight" in shapes:
        size, width = shapes["model.token_embedding.weight"]
        length = shapes["model.positional_embedding"][0]
        layers, inner = (
            _count(shapes, "model.transformer.resblocks."),
            shapes["model.transformer.resblocks.0.mlp.c_fc.weight"][0],
        )
        found = _published(size, width, length, layers, inner, quick=False)
        projection = shapes.get("model.text_projection")
        return found.model_copy(update={"pad": 0, "skip": 1, "projection": projection and projection[1]})
    raise SpecError("no text encoder of CLIP: neither token_embedding nor text_model.embeddings is there")


def ignored(name: str) -> bool:
    """Whether a tensor of a file (its name relative as in `keys` or `ldm_keys`) says nothing that a tower would need."""
    return name.endswith(("embeddings.position_ids", "model.logit_scale", "model.attn_mask"))


def _published(size: int, width: int, length: int, layers: int, inner: int, quick: bool) -> CLIPTextSpec:
    full = size == layout("clip").size
    return CLIPTextSpec(
        vocabulary="clip" if full else Carried(size=size, begin=size - 2, end=size - 1),
        width=width,
        layers=layers,
        heads=max(1, width // 64),
        length=length,
        quick=quick,
        inner=None if inner == 4 * width else inner,
        masks=False,
    )


def _count(shapes: Mapping[str, tuple[int, ...]], before: str) -> int:
    return 1 + max(int(name.removeprefix(before).split(".", 1)[0]) for name in shapes if name.startswith(before))


def _projects(config: Mapping[str, Any]) -> bool:
    names = [*(config.get("architectures") or ()), config.get("_class_name")]
    return "CLIPTextModelWithProjection" in names


def _layers(spec: CLIPTextSpec) -> int:
    return spec.layers if spec.raw else spec.layers - spec.skip


def _tower(layers: int) -> Iterator[Key]:
    """A text tower and transformers' `CLIPTextModel`, both without prefix."""
    yield key("token.weight", "embeddings.token_embedding.weight")
    yield key("position", "embeddings.position_embedding.weight")
    for i in range(layers):
        for mine, theirs in BLOCK.items():
            yield from layer(f"blocks.{i}.{mine}", f"encoder.layers.{i}.{theirs}")
    yield from layer("norm", "final_layer_norm")


def _open(spec: CLIPTextSpec) -> Iterator[Key]:
    """A `CLIPText` and the text half of OpenCLIP's `CLIP`."""
    yield key("tower.token.weight", "token_embedding.weight")
    yield key("tower.position", "positional_embedding")
    for i in range(spec.layers):
        here, there = f"tower.blocks.{i}.", f"transformer.resblocks.{i}."
        for end in ("weight", "bias"):
            yield key([f"{here}attention.{part}.{end}" for part in "qkv"], f"{there}attn.in_proj_{end}")
        for mine, theirs in _OPEN.items():
            yield from layer(here + mine, there + theirs)
    yield from layer("tower.norm", "ln_final")
    if spec.projection:
        yield key("projection.weight", "text_projection", turn=Transposed())
