"""Text encoders against transformers': weights written by their `save_pretrained`, read by our maps, the same ids, the same states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from safelight.interop.keys import Key, check, places, to_ours, to_theirs
from safelight.interop.maps import clip
from safelight.spec import SpecError
from safelight.text.clip import CLIPText, CLIPTextSpec
from tests import peers

TINY = dict(
    hidden_size=32, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4, projection_dim=24, vocab_size=49_408
)
IDS = dict(bos_token_id=49_406, eos_token_id=49_407, pad_token_id=1)
PROMPTS = ["", "a cat", "a photo of a \U0001f98a in 東京, naïve café", ", ".join(f"thing {i}" for i in range(100))]


def restored(module: nn.Module, keys: Sequence[Key], theirs: Mapping[str, Tensor]) -> None:
    """Fill ours from theirs; every tensor on both sides is used once, and the way back is the same bits."""
    check(keys, theirs, "the file")
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    state = to_ours(keys, theirs.__getitem__, shapes)
    module.load_state_dict(state)
    back = to_theirs(keys, module.state_dict())
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in theirs.items())


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert peers.difference(ours, theirs) <= 1e-5


def peer(name: str, folder: Path, **fields: Any) -> nn.Module:
    """A tower of theirs with weights far from their initialisation, saved."""
    transformers = peers.transformers()
    model = getattr(transformers, name)(transformers.CLIPTextConfig(**{**TINY, **IDS, **fields})).eval()
    peers.stirred(model)
    model.save_pretrained(folder)
    return model


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("old", [True, False])
def test_a_text_model_of_transformers(tmp_path, act, old):
    theirs = peer("CLIPTextModel", tmp_path, hidden_act=act, eos_token_id=2 if act == "gelu" else 49_407)
    config, tensors = read(tmp_path)
    if old:  # the names of every published file
        tensors = {clip.PREFIX + name: value for name, value in tensors.items()}
    spec = clip.spec(config)
    text = spec.build().eval()
    restored(text, clip.keys(spec, clip.prefix(tensors)), tensors)
    for _ in range(10):
        ids = torch.randint(0, 49_406, (2, 77))
        ids[:, 0], ids[0, 30:], ids[1, 76:] = 49_406, 49_407, 49_407
        with torch.no_grad():
            expected, cond = theirs(ids, output_hidden_states=True), text(ids)
        close(cond.tokens, expected.last_hidden_state)
        close(cond.vector, expected.pooler_output)
        assert cond.mask is None
    # Prompts, each of their windows alone: the longest has several.
    with torch.no_grad():
        cond = text.read(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        windows = text.tokenize([prompt]).view(-1, 77)
        with torch.no_grad():
            expected = theirs(windows)
        close(cond.tokens[row, : windows.numel()].view_as(expected.last_hidden_state), expected.last_hidden_state)
        close(cond.vector[row], expected.pooler_output.mean(0))
    assert len(windows) > 3 and cond.mask[1].sum() == 77
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
    skipped = CLIPText(spec.model_copy(update={"skip": 1})).eval()
    skipped.load_state_dict(text.state_dict())
    with torch.no_grad():
        close(skipped(ids).tokens, theirs.final_layer_norm(expected.hidden_states[-2]))


def test_a_text_model_with_projection_as_sdxl_reads_it(tmp_path):
    theirs = peer("CLIPTextModelWithProjection", tmp_path, hidden_act="gelu")
    config, tensors = read(tmp_path)
    spec = clip.spec(config)
    assert spec.projection == 24
    text = CLIPText(spec.model_copy(update={"raw": True, "skip": 1})).eval()
    restored(text, clip.keys(text.spec, clip.prefix(tensors)), tensors)
    for _ in range(10):
        ids = torch.randint(0, 49_406, (2, 77))
        ids[:, 0], ids[0, 30], ids[0, 31:], ids[1, 76:] = 49_406, 49_407, 0, 49_407
        with torch.no_grad():
            expected, cond = theirs(ids, output_hidden_states=True), text(ids)
        close(cond.tokens, expected.hidden_states[-2])
        close(cond.vector, expected.text_embeds)


def openclip(spec: CLIPTextSpec) -> dict[str, Tensor]:
    """The names and shapes of OpenCLIP's text half, as Stable Diffusion 2's single file has them."""
    w, m = spec.width, spec.inner or 4 * spec.width
    shapes = {"token_embedding.weight": (49_408, w), "positional_embedding": (spec.length, w)}
    for i in range(spec.layers):
        inside = {
            "attn.in_proj_weight": (3 * w, w),
            "attn.in_proj_bias": (3 * w,),
            "attn.out_proj.weight": (w, w),
            "attn.out_proj.bias": (w,),
            "ln_1.weight": (w,),
            "ln_1.bias": (w,),
            "ln_2.weight": (w,),
            "ln_2.bias": (w,),
            "mlp.c_fc.weight": (m, w),
            "mlp.c_fc.bias": (m,),
            "mlp.c_proj.weight": (w, m),
            "mlp.c_proj.bias": (w,),
        }
        shapes |= {f"transformer.resblocks.{i}.{name}": shape for name, shape in inside.items()}
    shapes |= {"ln_final.weight": (w,), "ln_final.bias": (w,), "text_projection": (w, spec.projection)}
    return {"model." + name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}


def test_openclips_names_give_what_transformers_gives_of_diffusers_own_conversion(tmp_path):
    theirs = peer(
        "CLIPTextModelWithProjection", tmp_path, hidden_act="gelu", hidden_size=64, intermediate_size=256, num_attention_heads=1
    )
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    spec = CLIPTextSpec(vocabulary="clip", width=64, layers=3, heads=1, length=77, projection=40, pad=0, skip=1, masks=False)
    tensors = openclip(spec)
    found = clip.recognise({name: tuple(value.shape) for name, value in tensors.items()})
    assert found == spec
    text = found.build().eval()
    restored(text, clip.ldm_keys(found), tensors)
    tensors["model.text_projection"] = tensors["model.text_projection"][:, :24]  # the width that the peer here was made with
    converted = convert_open_clip_checkpoint(theirs, {**tensors, "model.text_projection": torch.randn(64, 24)}, "model.")
    theirs.load_state_dict(converted | {"text_projection.weight": tensors["model.text_projection"].T.contiguous()})
    ids = text.tokenize(PROMPTS[:3])
    with torch.no_grad():
        expected, cond = theirs(ids, output_hidden_states=True), text(ids)
        raw, vector = text.tower(ids, 1, raw=True)
        close(cond.tokens, theirs.text_model.final_layer_norm(expected.hidden_states[-2]))
        close(raw, expected.hidden_states[-2])
        close(text.projection(vector)[:, :24], expected.text_embeds)


def test_the_single_file_of_stable_diffusion_1():
    spec = CLIPTextSpec(vocabulary="clip", width=64, layers=2, heads=1, length=77, quick=True, masks=False)
    keys = clip.ldm_keys(spec)
    text = spec.build()
    tensors = to_theirs(keys, text.state_dict())
    assert "transformer.text_model.encoder.layers.1.self_attn.q_proj.weight" in tensors
    assert clip.recognise({name: tuple(value.shape) for name, value in tensors.items()}) == spec
    restored(spec.build(), keys, tensors)
    assert clip.ignored("transformer.text_model.embeddings.position_ids") and not any(map(clip.ignored, tensors))


@pytest.mark.parametrize(
    "spec, count",
    [
        (CLIPTextSpec.openai_l(), 123_060_480),
        (CLIPTextSpec.openclip_g(), 694_659_840),
        (CLIPTextSpec.openclip_h(), 352_984_064),
    ],
)
def test_the_published_sizes(spec, count):
    with torch.device("meta"):
        text = spec.build()
    assert sum(p.numel() for p in text.parameters()) == count


def test_a_config_goes_both_ways():
    for spec in (CLIPTextSpec.openai_l(), CLIPTextSpec.openclip_g()):
        assert clip.spec(clip.config(spec)) == spec.model_copy(update={"skip": 0, "raw": False, "pad": None})
    two = clip.config(CLIPTextSpec.openclip_h())
    assert two["num_hidden_layers"] == 23  # as stabilityai published it
    for change, message in (
        ({"hidden_act": "relu"}, "config: hidden_act is 'relu', known are quick_gelu, gelu"),
        ({"layer_norm_eps": 1e-6}, "config: layer_norm_eps is 1e-06, only 1e-05 can be built"),
        ({"eos_token_id": [1, 3]}, "bos_token_id is 49406 and eos_token_id \\[1, 3\\], one id each"),
    ):
        with pytest.raises(SpecError, match=message):
            clip.spec({**two, **change})
    with pytest.raises(SpecError, match="sees the whole text has no counterpart"):
        clip.config(CLIPTextSpec(causal=False))


def test_where_an_adapter_finds_its_layers():
    found = places(clip.keys(CLIPTextSpec.openai_l()))
    place = found["text_model.encoder.layers.11.self_attn.q_proj"]
    assert (place.ours, place.part, place.parts) == ("tower.blocks.11.attention.q", 0, 1)
