"""T5's encoder: transformers' `T5EncoderModel`. A decoder is no part of ours, and a file that has one is not used up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safelight.interop.config import fixed, whole
from safelight.interop.keys import Key, key, layer
from safelight.spec import SpecError
from safelight.text.t5 import T5TextSpec
from safelight.text.vocabulary import Carried

_USUAL: dict[str, Any] = {
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dense_act_fn": "relu",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "relu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": False,
    "layer_norm_epsilon": 1e-6,
    "model_type": "t5",
    "num_heads": 8,
    "num_layers": 6,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 32_128,
}
_GATED = {"gated-gelu": True, "relu": False}


def spec(config: Mapping[str, Any], **use: Any) -> T5TextSpec:
    """The encoder of a config.json. use: how a system reads it, which its own file does not say: length, masks, lower, framed, size.

    Its vocabulary is left to be carried, see `Carried`. Raises SpecError, in one line, for a value that is another network.
    """
    where = "config of T5"
    said = {**_USUAL, **config}
    fixed(said, where, layer_norm_epsilon=(1e-6,), is_decoder=(False,), feed_forward_proj=tuple(_GATED), eos_token_id=(1,))
    size, pad = whole(said, where, "vocab_size"), whole(said, where, "pad_token_id", low=0)
    return T5TextSpec(
        vocabulary=Carried(size=size, begin=pad, end=1),
        width=whole(said, where, "d_model"),
        layers=whole(said, where, "num_layers"),
        heads=whole(said, where, "num_heads"),
        head_width=whole(said, where, "d_kv"),
        inner=whole(said, where, "d_ff"),
        gated=_GATED[said["feed_forward_proj"]],
        buckets=whole(said, where, "relative_attention_num_buckets"),
        far=whole(said, where, "relative_attention_max_distance"),
        pad=pad,
        **use,
    )


def config(spec: T5TextSpec) -> dict[str, Any]:
    """The config.json of an encoder. Raises SpecError for one that is none of transformers'."""
    if spec.vocabulary.end != 1:
        raise SpecError(
            f"text 't5': texts that are closed by id {spec.vocabulary.end} have no counterpart in transformers, where 1 closes them"
        )
    return _USUAL | {
        "_class_name": "T5EncoderModel",
        "d_ff": spec.inner,
        "d_kv": spec.head_width,
        "d_model": spec.width,
        "dense_act_fn": "gelu_new" if spec.gated else "relu",
        "feed_forward_proj": "gated-gelu" if spec.gated else "relu",
        "is_gated_act": spec.gated,
        "num_decoder_layers": spec.layers,
        "num_heads": spec.heads,
        "num_layers": spec.layers,
        "pad_token_id": spec.pad,
        "relative_attention_max_distance": spec.far,
        "relative_attention_num_buckets": spec.buckets,
        "vocab_size": spec.vocabulary.size,
    }


def keys(spec: T5TextSpec) -> list[Key]:
    """Ours, of a `T5Text`, and transformers'."""
    found = [
        key("tower.token.weight", "shared.weight"),
        key("tower.distance.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        *layer("tower.norm", "encoder.final_layer_norm", bias=False),
    ]
    names = {
        "norm1": "layer.0.layer_norm",
        **{part: f"layer.0.SelfAttention.{part}" for part in "qkv"},
        "out": "layer.0.SelfAttention.o",
        "norm2": "layer.1.layer_norm",
        "wo": "layer.1.DenseReluDense.wo",
    }
    if spec.gated:
        names |= {"gate": "layer.1.DenseReluDense.wi_0", "wi": "layer.1.DenseReluDense.wi_1"}
    else:
        names["wi"] = "layer.1.DenseReluDense.wi"
    for i in range(spec.layers):
        for mine, theirs in names.items():
            found += layer(f"tower.blocks.{i}.{mine}", f"encoder.block.{i}.{theirs}", bias=False)
    return found


def ignored(name: str) -> bool:
    """Whether a tensor of a file says nothing that the encoder would need: a second name of the table of words."""
    return name == "encoder.embed_tokens.weight"
