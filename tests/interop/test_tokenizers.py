"""Tokenizers' folders, as transformers writes them: the same ids, the same states, the same bytes back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from safelight.interop import tokenizers
from safelight.spec import SpecError
from safelight.text.clip import CLIPTextSpec
from safelight.text.tokens import load
from safelight.text.vocabulary import Carried, pack, published, unpack
from tests import peers
from tests.interop.test_text_maps import PROMPTS

TINY = CLIPTextSpec(vocabulary="clip", width=16, layers=1, heads=2, length=77, masks=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The published tokenizer, in the form in which Stable Diffusion 1 has it."""
    found = tmp_path_factory.mktemp("tokenizer")
    for name, data in (published() | tokenizers.settings_files(TINY)).items():
        (found / name).write_bytes(data)
    return found


def test_prompts_have_the_peers_ids(folder):
    peer = peers.transformers().CLIPTokenizer.from_pretrained(folder)
    assert peer.model_max_length == 77 and len(peer) == 49_408
    spec, tensors = tokenizers.clip(TINY, folder)
    text = spec.build()
    assert spec.vocabulary == "clip" and spec.pad is None and not tensors
    for prompt in PROMPTS:
        theirs = torch.tensor(peer(prompt, padding="max_length", max_length=77).input_ids)
        ours = text.tokenize([prompt])[0].view(-1, 77)
        words = [i for window in ours.tolist() for i in window if i < 49_406]
        assert words == [i for i in theirs.tolist() if i < 49_406], prompt
        if len(ours) == 1:
            assert torch.equal(ours[0], theirs)


def test_what_fills_a_window_is_read_and_written(tmp_path):
    spec = TINY.model_copy(update={"pad": 0})
    for name, data in (published() | tokenizers.settings_files(spec)).items():
        (tmp_path / name).write_bytes(data)
    peer = peers.transformers().CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizers.clip(TINY, tmp_path)[0] == spec
    theirs = peer("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert torch.equal(spec.build().tokenize(["a cat"]), theirs)


@pytest.mark.parametrize("form", [{"separators": (",", ":")}, {"indent": 2, "sort_keys": True}, {"indent": 2}, {}])
def test_the_published_files_come_back_byte_for_byte(tmp_path, form):
    vocab = json.dumps(load("clip").ids, ensure_ascii=False, **form) + ("\n" if "indent" in form else "")
    (tmp_path / "vocab.json").write_text(vocab, "utf-8")
    (tmp_path / "merges.txt").write_bytes(published()["merges.txt"])
    spec, tensors = tokenizers.clip(TINY, tmp_path)
    assert spec.vocabulary == "clip" and not tensors
    came = {name: (tmp_path / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in came.items()}
    assert tokenizers.files(spec.build(), hashes) == came


def test_a_vocabulary_of_its_own_travels_with_the_model(tmp_path):
    transformers = peers.transformers()
    small = load("clip-vocabulary")
    order = sorted(small.ids, key=lambda symbol: hashlib.md5(symbol.encode()).digest())  # ids in an order that is nobody's
    peer = transformers.CLIPTokenizer(
        vocab={symbol: i for i, symbol in enumerate(order)}, merges=list(small.merges), model_max_length=77
    )
    peer.add_tokens(["<cat-toy>"])
    peer.save_pretrained(tmp_path)  # tokenizer.json and tokenizer_config.json
    spec = TINY.model_copy(update={"vocabulary": Carried(size=len(peer), begin=0, end=1)})
    spec, tensors = tokenizers.clip(spec, tmp_path)
    text = spec.build()
    assert isinstance(spec.vocabulary, Carried) and spec.vocabulary.packed == len(tensors["vocabulary"])
    assert "vocabulary" in text.state_dict()
    with pytest.raises(SpecError, match="came without its vocabulary"):
        text.tokenize(["a cat"])
    text.load_state_dict(text.state_dict() | tensors)
    for prompt in ("", "three red apples", "a <cat-toy> on a table", "naïve café \U0001f34e"):
        theirs = peer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        assert torch.equal(text.tokenize([prompt]), theirs), prompt
    assert tokenizers.files(text) == {"tokenizer.json": (tmp_path / "tokenizer.json").read_bytes()}


def test_what_is_no_vocabulary_is_refused_in_one_line(tmp_path):
    assert unpack(pack({"a": b"1", "b": b""})) == {"a": b"1", "b": b""}
    for data, message in (
        (b"{}", "none of CLIP's: 'model'"),
        (b"[" * 100_000, "none of CLIP's"),
        (b'{"model": {"type": "Unigram"}}', "its words are not cut as CLIP's are"),
        (
            b'{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a": 0}, "merges": []}}',
            "lacks '<|startoftext|>'",
        ),
    ):
        (tmp_path / "tokenizer.json").write_bytes(data)
        with pytest.raises(SpecError, match=message.replace("|", r"\|")) as error:
            tokenizers.clip(TINY, tmp_path)
        assert "\n" not in str(error.value)
    for bad in (b"\x01", b'{"a": 5}\nxx', b"[]\n"):
        with pytest.raises(SpecError, match="vocabulary is damaged"):
            unpack(torch.frombuffer(bytearray(bad), dtype=torch.uint8))
