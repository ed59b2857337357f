"""A tokenizer's folder, as transformers writes it, into what a text encoder says of its words, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from safelight.spec import SpecError
from safelight.text.clip import CLIPText, CLIPTextSpec
from safelight.text.pieces import unigram
from safelight.text.t5 import T5Text, T5TextSpec
from safelight.text.vocabulary import (
    Carried,
    clip_tokenizer,
    clip_vocabulary,
    files_of,
    folder_files,
    layout,
    pack,
    published,
    unpack,
)


def clip(spec: CLIPTextSpec, folder: Path | None) -> tuple[CLIPTextSpec, dict[str, Tensor]]:
    """A tower with the words of a tokenizer's folder, and the tensors of its own that hold them ("vocabulary", or none).

    Raises SpecError for a folder whose words are none of CLIP's, or of another model.
    """
    files = folder_files(folder) if folder is not None else {}
    if folder is None or not files:
        return spec, {}
    vocabulary, packed = clip_vocabulary(files, layout(spec.vocabulary).size)
    tensors = {} if packed is None else {"vocabulary": packed}
    said = settings(folder)
    most = said.get("model_max_length")
    if isinstance(most, int | float) and most < spec.length:
        raise SpecError(f"{folder}: windows of {most} tokens, but the encoder reads {spec.length}; they are not of one model")
    return spec.model_copy(update={"vocabulary": vocabulary, "pad": _pad(said, vocabulary, files)}), tensors


def t5(spec: T5TextSpec, folder: Path | None) -> tuple[T5TextSpec, dict[str, Tensor]]:
    """An encoder with the words of a tokenizer's folder, and the tensors of its own that hold them ("vocabulary", or none).

    Raises SpecError for a folder whose words are none of T5's, or of another model.
    """
    found = folder_files(folder) if folder is not None else {}
    if not found:
        return spec, {}
    words = unigram(found)
    if words.get_vocab_size() > spec.vocabulary.size:
        raise SpecError(
            f"{folder}: {words.get_vocab_size()} ids, but the encoder has {spec.vocabulary.size} words: not of one model"
        )
    end = words.token_to_id("</s>")
    if end != spec.vocabulary.end:
        raise SpecError(f"{folder}: '</s>' is id {end}, but the encoder's texts are closed by {spec.vocabulary.end}")
    packed = pack(found)
    vocabulary = spec.vocabulary.model_copy(update={"packed": len(packed)})
    return spec.model_copy(update={"vocabulary": vocabulary}), {"vocabulary": packed}


def files(encoder: CLIPText | T5Text, hashes: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """The files of an encoder's words, as they came. hashes: SHA-256 by name of those that came, where the list is one that ships."""
    vocabulary = encoder.spec.vocabulary
    if isinstance(vocabulary, Carried):
        return unpack(encoder.get_buffer("vocabulary")) if vocabulary.packed else {}
    if vocabulary == "clip":
        return published(hashes)
    assert isinstance(encoder, CLIPText)  # T5's words are always carried
    return files_of(encoder.tokenizer)


def settings(folder: Path) -> dict[str, Any]:
    """What a folder says of how its words are used. Raises SpecError for files that are not JSON objects."""
    config, special = (_json(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    # Older files have the last word in the one that newer ones do without.
    return config if "added_tokens_decoder" in config else {**config, **special}


def settings_files(spec: CLIPTextSpec) -> dict[str, bytes]:
    """`tokenizer_config.json` and `special_tokens_map.json` of a tower that came without them."""
    words = layout(spec.vocabulary)
    if isinstance(spec.vocabulary, Carried):
        raise SpecError("text 'clip': how a carried vocabulary is used is said by the folder that it came from")
    pad = "<|endoftext|>" if spec.pad in (None, words.end) else "!" if spec.pad == 0 else None
    if pad is None:
        raise SpecError(f"text 'clip': windows filled with id {spec.pad} have no counterpart in transformers' files")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": pad, "unk_token": "<|endoftext|>"}
    config = {
        **special,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": spec.length,
        "tokenizer_class": "CLIPTokenizer",
    }
    return {
        name: (json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()
        for name, value in (("special_tokens_map.json", special), ("tokenizer_config.json", config))
    }


def _pad(said: Mapping[str, Any], vocabulary: str | Carried, files: Mapping[str, bytes]) -> int | None:
    """The id that fills a window, None for `end`."""
    token = said.get("pad_token")
    token = token.get("content") if isinstance(token, Mapping) else token
    if token is None or token == "<|endoftext|>":
        return None
    if vocabulary == "clip" and token == "!":
        return 0
    ids = clip_tokenizer(files).ids if files else {}
    if token not in ids:
        raise SpecError(f"the tokenizer's pad_token {json.dumps(token)} is none of its words")
    words = layout(vocabulary)
    return None if ids[token] == words.end else ids[token]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SpecError(f"{path} is no JSON object")
    return found
