"""SDXL's language beside diffusers' own `encode_prompt` and `_get_add_time_ids`, with the same tiny towers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from safelight.cond import Framing
from safelight.interop import tokenizers
from safelight.interop.keys import to_ours
from safelight.interop.maps import clip
from safelight.spec import SpecError, build, describe
from safelight.text.arithmetic import Term, Text
from safelight.text.blend import blend
from safelight.text.clip import CLIPTextSpec
from safelight.text.sdxl import SDXLTextSpec
from safelight.text.spans import room, tokens
from safelight.text.vocabulary import published
from tests import peers
from tests.interop.test_text_maps import IDS, PROMPTS, TINY, close

FRAMED = Framing(original=(600, 800), crop=(10, 20), target=(512, 512), score=7.0, low=2.0)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """(their two towers, their two tokenizers)."""
    transformers = peers.transformers()
    found, cutters = [], []
    for i, (name, act, pad) in enumerate((("CLIPTextModel", "quick_gelu", None), ("CLIPTextModelWithProjection", "gelu", 0))):
        config = transformers.CLIPTextConfig(**{**TINY, **IDS}, hidden_act=act)
        found.append(peers.stirred(getattr(transformers, name)(config), seed=i))
        folder = tmp_path_factory.mktemp("tokenizer")
        spec = CLIPTextSpec(vocabulary="clip", length=77, pad=pad)
        for file, data in (published() | tokenizers.settings_files(spec)).items():
            (folder / file).write_bytes(data)
        cutters.append(transformers.CLIPTokenizer.from_pretrained(folder))
    return found, cutters


def ours(towers, **fields):
    found, which = towers[0], fields.pop("which", (0, 1))
    specs = [clip.spec(found[i].config.to_dict() | {"architectures": [type(found[i]).__name__]}) for i in which]
    specs[-1] = specs[-1].model_copy(update={"pad": 0})
    text = SDXLTextSpec.of(*specs, **fields).build().eval()
    for place, i in enumerate(which):
        state = found[i].state_dict()
        module = text.encoders[place]
        keys = clip.keys(module.spec, clip.prefix(state))
        module.load_state_dict(to_ours(keys, state.__getitem__, {k: v.shape for k, v in module.state_dict().items()}))
    return text


def theirs(towers, which=(0, 1), zeros=True):
    """A pipeline with nothing in it but what reads prompts."""
    peer = peers.diffusers()
    pair = [towers[0][i] if i in which else None for i in (0, 1)]
    cutters = [towers[1][i] if i in which else None for i in (0, 1)]
    both = len(which) == 2
    pipe = object.__new__(peer.StableDiffusionXLPipeline if both else peer.StableDiffusionXLImg2ImgPipeline)
    config = {"force_zeros_for_empty_prompt": zeros, "requires_aesthetics_score": not both}
    inputs = SimpleNamespace(linear_1=SimpleNamespace(in_features=24 + (6 if both else 5)))  # by which it counts the numbers
    unet = SimpleNamespace(dtype=torch.float32, config=SimpleNamespace(addition_time_embed_dim=1), add_embedding=inputs)
    pipe.__dict__["_internal_dict"] = peer.configuration_utils.FrozenDict(config)
    pipe.__dict__ |= dict(text_encoder=pair[0], text_encoder_2=pair[1], tokenizer=cutters[0], tokenizer_2=cutters[1], unet=unet)
    return pipe


@pytest.mark.parametrize("which", [(0, 1), (1,)])
def test_prompts_become_what_diffusers_makes_of_them(towers, which):
    text, pipe = (
        ours(towers, which=which, zeros=len(which) == 2, scored=len(which) == 1),
        theirs(towers, which, len(which) == 2),
    )
    for prompt in PROMPTS[1:3]:
        with torch.no_grad():
            states, away, pooled, pooled_away = pipe.encode_prompt(
                prompt, device=torch.device("cpu"), do_classifier_free_guidance=True
            )
            cond, null = text.read([prompt], framing=FRAMED), text.read([""], framing=FRAMED.away)
        close(cond.tokens, states)
        close(cond.vector[:, :24], pooled)
        if len(which) == 2:
            assert not away.any() and not pooled_away.any()
            assert torch.equal(null.tokens, away) and torch.equal(null.vector[:, :24], pooled_away)
            told = pipe._get_add_time_ids((600, 800), (10, 20), (512, 512), torch.float32, 24)
            assert torch.equal(cond.vector[:, 24:], told) and torch.equal(null.vector[:, 24:], told)
        else:
            close(null.tokens, away)
            told = pipe._get_add_time_ids(
                (600, 800), (10, 20), (512, 512), 7.0, 2.0, (600, 800), (10, 20), (512, 512), torch.float32, 24
            )
            assert torch.equal(cond.vector[:, 24:], told[0]) and torch.equal(null.vector[:, 24:], told[1])
    assert text.spec.gives == (cond.tokens.shape[-1], cond.vector.shape[-1])


def test_a_prompt_is_the_same_alone_in_a_batch_and_by_its_ids(towers):
    text = ours(towers)
    with torch.no_grad():
        alone = [text.read([prompt]) for prompt in PROMPTS]
        both, whole = text.read(PROMPTS), text(text.tokenize(PROMPTS))
    for i, cond in enumerate(alone):
        n = cond.tokens.shape[1]
        assert torch.equal(both.tokens[i, :n], cond.tokens[0]) and torch.equal(both.vector[i], cond.vector[0])
        assert both.mask[i, :n].all() and not both.mask[i, n:].any()
        torch.testing.assert_close(whole.tokens[i, :n], cond.tokens[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(whole.vector[i], cond.vector[0], rtol=1e-4, atol=1e-4)
    assert not alone[0].tokens.any() and alone[0].vector[0, 24:].tolist() == [1024, 1024, 0, 0, 1024, 1024]


def test_emphasis_weighs_each_towers_own_states(towers):
    text = ours(towers)
    with torch.no_grad():
        whole = text.read(["a (red:1.4) cat"], "comfy").tokens
        each = [one.read(["a (red:1.4) cat"], "comfy").tokens for one in text.encoders]
    assert torch.equal(whole, torch.cat(each, -1))
    assert (whole - text.read(["a red cat"]).tokens).abs().max() > 1e-3


def test_sums_leave_the_numbers_alone(towers):
    text = ours(towers)
    terms = [Term(1.0, Text("a king")), Term(-1.0, Text("a man")), Term(1.0, Text("a woman"))]
    with torch.no_grad():
        found = blend(text, terms, framing=FRAMED)
        word = blend(text, [Term(1.0, Text("a red apple", "red")), Term(0.5, Text("a blue ball", "blue"))])
    assert found.cond.vector[0, 24:].tolist() == [600, 800, 10, 20, 512, 512] and found.vector.shape == (24,)
    assert (
        word.cond.tokens.shape == (1, 77, 64)
        and text.states(["a cat"]).shape == (1, 64)
        and text.vectors(["a cat"]).shape == (1, 24)
    )
    assert [t.text for t in tokens(text, "a red cat")] == ["a", "red", "cat"] and room(text) == 75


def test_it_is_described_and_checked():
    assert SDXLTextSpec.base().gives == (2048, 1286) and SDXLTextSpec.refiner().gives == (1280, 1285)
    small = CLIPTextSpec(width=8, layers=2, heads=1, length=8)
    spec = SDXLTextSpec.of(small, small.model_copy(update={"projection": 4}))
    assert build(describe(spec)).spec == spec and all(one.raw and one.skip == 1 for one in spec.encoders)
    with pytest.raises(SpecError, match="length must be the same in all"):
        build({"kind": "sdxl", "encoders": [describe(small), describe(small.model_copy(update={"length": 9}))]}, "text")
    with pytest.raises(ValueError, match="3 tokens are not those of 2 encoders"):
        spec.build()(torch.zeros(1, 3, dtype=torch.int64))
