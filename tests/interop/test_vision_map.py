"""Image towers beside transformers': read from what it saves, the same states, written back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from safelight.interop import keys as core
from safelight.interop.maps import vision
from safelight.nn.vision import VisionSpec
from safelight.spec import SpecError
from tests.peers import difference, stirred, transformers

TINY = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=16,
    patch_size=4,
    projection_dim=24,
)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_an_image_tower_of_transformers(act: str, tmp_path: Path) -> None:
    peer = transformers().CLIPVisionModelWithProjection(transformers().CLIPVisionConfig(**TINY, hidden_act=act))
    stirred(peer).save_pretrained(tmp_path)
    config, tensors = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    spec = vision.spec(config)
    net: Any = VisionSpec(**dict(spec)).build().eval()
    core.check(vision.keys(spec), tensors, "the folder")
    net.load_state_dict(core.to_ours(vision.keys(spec), tensors.__getitem__, {k: v.shape for k, v in net.state_dict().items()}))
    draws = torch.Generator().manual_seed(0)
    for _ in range(10):
        x = torch.randn(2, 3, 16, 16, generator=draws)
        with torch.no_grad():
            ours, theirs = net(x), peer(x, output_hidden_states=True)
        assert difference(ours.embedding, theirs.image_embeds) < 1e-5
        assert difference(ours.states, theirs.hidden_states[-2]) < 1e-5
    back = core.to_theirs(vision.keys(spec), net.state_dict())
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    written = vision.config(spec)
    assert written == {name: config[name] for name in written}


@pytest.mark.parametrize(
    ("spec", "count"),
    [(VisionSpec(), 303_966_208), (VisionSpec.h(), 632_076_800), (VisionSpec.big_g(), 1_844_907_264)],
    ids=["L", "H", "bigG"],
)
def test_the_published_towers_have_their_counts(spec: VisionSpec, count: int) -> None:
    with torch.device("meta"):
        net = spec.build()
        theirs = vision.config(spec)
        peer = transformers().CLIPVisionModelWithProjection(
            transformers().CLIPVisionConfig(**{k: v for k, v in theirs.items() if k not in ("architectures", "model_type")})
        )
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in peer.parameters()) == count


def test_another_network_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match='hidden_act "relu" has no counterpart here'):
        vision.spec({"hidden_act": "relu"})
    with pytest.raises(SpecError, match="patch_size 5 has no counterpart here"):
        vision.spec({"patch_size": 5})
