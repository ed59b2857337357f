"""T5 against transformers': the tower, its distances, the cutting of words, and what a prompt becomes alone and in a batch."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import load_file

from safelight.cond import Framing
from safelight.interop import tokenizers
from safelight.interop.maps import t5
from safelight.nn.t5 import T5Tower, buckets
from safelight.spec import SpecError
from safelight.text.pieces import sentencepiece
from safelight.text.t5 import T5TextSpec
from safelight.text.vocabulary import Carried
from tests import peers
from tests.interop.test_text_maps import PROMPTS, close, restored

WORDS = ["a", "cat", "photo", "of", "thing", "the", "naïve", "caf", "é", ",", "th", "ing", "ot", "oto"]


def pieces() -> list[tuple[str, float]]:
    """A vocabulary of the shape of T5's: three special ones, then pieces by likelihood, then single characters."""
    found = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    found += [("▁" + word, -3.0 - 0.1 * i) for i, word in enumerate(WORDS)]
    found += [(word, -4.0 - 0.1 * i) for i, word in enumerate(WORDS) if len(word) > 1]
    known = {text for text, _ in found}
    return found + [
        (c, -9.0 - 0.01 * i) for i, c in enumerate("abcdefghijklmnopqrstuvwxyz0123456789,.é東京<>/") if c not in known
    ]


def spiece(words: list[tuple[str, float]]) -> bytes:
    """The file that SentencePiece would write of it: a protocol buffer."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2]) + count(len(data)) + data

    def count(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + count(n >> 7)

    out = b""
    for i, (text, score) in enumerate(words):
        sort = {0: 3, 1: 3, 2: 2}.get(i, 1)  # control, unknown, normal
        out += field(1, field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + bytes([3 << 3, sort]))
    out += field(2, bytes([3 << 3, 1]) + count(40 << 3) + count(2))  # the trainer's: unigram; the id of the unknown piece
    return out


@pytest.mark.parametrize("gated", [True, False])
def test_the_encoder_equals_the_peers(tmp_path, gated):
    transformers = peers.transformers()
    fields = dict(d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=3, vocab_size=200)
    theirs = transformers.T5EncoderModel(transformers.T5Config(**fields, feed_forward_proj="gated-gelu" if gated else "relu"))
    peers.stirred(theirs).save_pretrained(tmp_path)
    spec = t5.spec(json.loads((tmp_path / "config.json").read_text()), length=20, masks=False)
    assert spec.gated == gated and t5.spec(t5.config(spec), length=20, masks=False) == spec
    text = spec.build().eval()
    tensors = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if not t5.ignored(k)}
    restored(text, t5.keys(spec), tensors)
    for n in range(10):
        ids = torch.randint(2, 200, (2, 300 if n == 0 else 20))
        ids[0, 5:], ids[:, -1] = 0, 1
        ids[0, 5] = 1
        ids[0, 6:] = 0
        said = torch.ones_like(ids)
        said[0, 6:] = 0
        with torch.no_grad():
            close(text(ids).tokens, theirs(ids, attention_mask=said).last_hidden_state)
    assert text(ids).mask is None and text(ids).vector is None


def test_the_distances_equal_the_peers():
    attention = peers.transformers().models.t5.modeling_t5.T5Attention
    place = torch.arange(400)
    away = place[None, :] - place[:, None]
    assert torch.equal(buckets(400, 32, 128, torch.device("cpu")), attention._relative_position_bucket(away))
    assert torch.equal(buckets(400, 16, 40, torch.device("cpu")), attention._relative_position_bucket(away, True, 16, 40))


@pytest.mark.parametrize("kept", ["tokenizer.json", "spiece.model"])
def test_ids_equal_the_peers_and_the_file_comes_back(tmp_path, kept):
    transformers = peers.transformers()
    peer = transformers.T5Tokenizer(vocab=[*pieces(), *((f"<extra_id_{i}>", 0.0) for i in reversed(range(100)))])
    if kept == "spiece.model":  # which transformers reads with sentencepiece, that is not here
        (tmp_path / kept).write_bytes(spiece(pieces()))
    else:
        peer.save_pretrained(tmp_path)
    small = T5TextSpec(
        vocabulary=Carried(size=256, begin=0, end=1), width=16, layers=1, heads=2, head_width=8, inner=16, length=24
    )
    spec, tensors = tokenizers.t5(small, tmp_path)
    text = spec.build().eval()
    with pytest.raises(SpecError, match="came without its vocabulary"):
        text.tokenize(["a cat"])
    text.load_state_dict(text.state_dict() | tensors)
    for prompt in (*PROMPTS, "  Photo of\ta\n cat 😀 ", "a </s>cat <extra_id_3>"):
        said = prompt.lower().strip()
        length = max(24, len(peer(said).input_ids))
        assert text.tokenize([prompt])[0].tolist() == peer(said, padding="max_length", max_length=length).input_ids
    with torch.no_grad():
        assert text.read(["a </s>cat"]).mask.sum() == len(text.ids("a </s>cat")) + 1  # the text goes on behind it
    assert tokenizers.files(text) == {kept: (tmp_path / kept).read_bytes()}


def test_a_prompt_is_the_same_alone_and_in_a_batch(tmp_path):
    (tmp_path / "spiece.model").write_bytes(spiece(pieces()))
    small = T5TextSpec(
        vocabulary=Carried(size=256, begin=0, end=1), width=16, layers=2, heads=2, head_width=8, inner=16, length=6
    )
    spec, tensors = tokenizers.t5(small.model_copy(update={"framed": True}), tmp_path)
    torch.manual_seed(0)
    text = spec.build().eval()
    text.load_state_dict(text.state_dict() | tensors)
    long = "a photo of the thing, " * 8
    with torch.no_grad():
        both = text.read(["a cat", long], framing=Framing(target=(512, 768)))
        alone = text.read(["a cat"])
        whole = text(text.tokenize(["a cat", long]))
    assert torch.equal(both.tokens[0, :6], alone.tokens[0]) and both.mask[0].sum() == alone.mask[0].sum() == 3
    torch.testing.assert_close(whole.tokens[0, :3], alone.tokens[0, :3])
    assert both.vector.tolist() == [[512.0, 768.0, 512 / 768]] * 2 or torch.allclose(
        both.vector[0], torch.tensor([512.0, 768.0, 2 / 3])
    )
    assert alone.vector.tolist() == [[1024.0, 1024.0, 1.0]] and spec.gives == (16, 3)


def test_published_sizes():
    for name, count in (
        ("small", 35_332_800),
        ("base", 109_628_544),
        ("large", 341_231_104),
        ("xl", 1_223_527_424),
        ("xxl", 4_762_310_656),
    ):
        with torch.device("meta"):
            text = getattr(T5TextSpec, name)().build()
        assert sum(p.numel() for p in text.parameters()) == count, name


def test_what_is_no_encoder_is_refused(tmp_path):
    usual = t5.config(T5TextSpec())
    for change, message in (
        ({"feed_forward_proj": "gated-silu"}, 'feed_forward_proj "gated-silu" has no counterpart here'),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon 1e-05"),
        ({"d_model": "x"}, "d_model must be a whole number"),
    ):
        with pytest.raises(SpecError, match=message):
            t5.spec(usual | change)
    good = spiece(pieces())
    for bad in (b"", good[:-200], b"\xff" * 30, good.replace(bytes([3 << 3, 1, 0xC0]), bytes([3 << 3, 2, 0xC0]))):
        with pytest.raises(ValueError, match=r"spiece\.model"):
            sentencepiece(bad)
        (tmp_path / "spiece.model").write_bytes(bad)
        with pytest.raises(SpecError, match="none of T5's"):
            tokenizers.t5(T5TextSpec(), tmp_path)
    assert sentencepiece(good).pieces[:4] == pieces()[:4] and sentencepiece(good).unknown == 2
    with pytest.raises(SpecError, match="lone surrogate"):
        T5TextSpec(width=8, layers=1, heads=1, inner=8, vocabulary=Carried(size=8, begin=0, end=1)).build().ids("\udc80")
    assert T5Tower(8, 8, 1, 1, 8, 8)(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 8)
