"""CLIP's towers against transformers' with the same weights, and the contrastive loss against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.nn.clip import ImageTower, Pair, TextTower

BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
TEXT = {"token": "embeddings.token_embedding", "position": "embeddings.position_embedding.weight", "norm": "final_layer_norm"}
IMAGE = {
    "patches": "embeddings.patch_embedding",
    "first": "embeddings.class_embedding",
    "position": "embeddings.position_embedding.weight",
    "before": "pre_layrnorm",
    "norm": "post_layernorm",
}


def fill(module: torch.nn.Module, theirs: dict[str, Tensor], top: dict[str, str]) -> None:
    """Copy weights by name; every tensor of theirs must be used."""
    theirs = {
        k.removeprefix("text_model.").removeprefix("vision_model."): v for k, v in theirs.items() if "position_ids" not in k
    }
    state = {}
    for name in module.state_dict():
        head, _, leaf = name.rpartition(".")
        if name.startswith("blocks."):
            _, i, rest = head.split(".", 2)
            other = f"encoder.layers.{i}.{BLOCK[rest]}.{leaf}"
        else:
            other = f"{top[head]}.{leaf}" if head else top[name]
        state[name] = theirs.pop(other)
    assert not theirs
    module.load_state_dict(state)


@pytest.mark.parametrize("quick", [True, False])
def test_the_text_tower_equals_the_peers(quick):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=12,
        hidden_act="quick_gelu" if quick else "gelu",
        eos_token_id=59,
        bos_token_id=58,
        initializer_range=0.3,
    )
    peer = transformers.CLIPTextModel(config).eval()
    for p in peer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    tower = TextTower(60, 32, 3, 4, 12, end=59, quick=quick).eval()
    fill(tower, peer.state_dict(), TEXT)
    ids = torch.randint(0, 58, (5, 12))
    ids[:, 0] = 58
    for row, n in zip(ids, (2, 5, 11, 1, 7), strict=True):
        row[n:] = 59
    with torch.no_grad():
        expected = peer(ids)
        states, pooled = tower(ids)
    torch.testing.assert_close(states, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        hidden = peer(ids, output_hidden_states=True).hidden_states
        skipped, _ = tower(ids, skip=1)
    torch.testing.assert_close(skipped, tower.norm(hidden[-2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quick", [True, False])
def test_the_image_tower_equals_the_peers(quick):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        hidden_act="quick_gelu" if quick else "gelu",
    )
    peer = transformers.CLIPVisionModel(config).eval()
    for p in peer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    tower = ImageTower(3, 16, 4, 32, 2, 4, quick=quick).eval()
    fill(tower, peer.state_dict(), IMAGE)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = peer(x, output_hidden_states=True)
        states, pooled = tower(x)
        features = tower.features(x)
    torch.testing.assert_close(states, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(features, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_who_sees_whom():
    torch.manual_seed(0)
    ids = torch.tensor([[8, 1, 2, 3, 9, 9], [8, 1, 2, 5, 9, 9]])  # they differ in the fourth word
    for causal in (True, False):
        states, pooled = TextTower(10, 16, 2, 2, 6, end=9, causal=causal).eval()(ids)
        same = (states[0] - states[1]).abs().amax(-1) < 1e-6
        assert same[:3].all() == causal and not same[3]
        assert torch.equal(pooled, states[:, 4])
    # Without causality, what fills the window behind the end changes nothing before it.
    tower = TextTower(10, 16, 2, 2, 6, end=9, causal=False).eval()
    a, b = tower(torch.tensor([[8, 1, 9, 9, 9, 9], [8, 1, 9, 0, 0, 0]]))[0]
    torch.testing.assert_close(a[:3], b[:3])
    torch.testing.assert_close(tower(torch.tensor([[8, 1, 9]]))[0][0], a[:3])


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="7 tokens do not fit a window of 6"):
        TextTower(10, 16, 1, 2, 6, end=9)(torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match="20x16 where 16x16"):
        ImageTower(3, 16, 4, 16, 1, 2)(torch.zeros(1, 3, 20, 16))
    with pytest.raises(ValueError, match="3 heads do not divide"):
        TextTower(10, 16, 1, 3, 6, end=9)


def pair() -> Pair:
    torch.manual_seed(0)
    return Pair(6, ImageTower(3, 8, 4, 16, 1, 2), 5)


def test_the_contrastive_loss_is_clips():
    model = pair()
    images, texts = (F.normalize(torch.randn(7, 5), dim=-1) for _ in range(2))
    logits = images @ texts.T / 0.07  # the temperature begins there
    labels = torch.arange(7)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(model.contrast(images, texts).mean(), expected)
    with torch.no_grad():
        model.scale.fill_(9.0)  # kept at ln 100
    torch.testing.assert_close(model.compare(images, texts).logits, 100 * images @ texts.T)
    torch.testing.assert_close(model.compare(images, texts).probability.sum(1), torch.ones(7))


def test_equal_captions_share_the_target():
    model = pair()
    images = F.normalize(torch.randn(4, 5), dim=-1)
    texts = F.normalize(torch.randn(3, 5), dim=-1)[[0, 1, 1, 2]]  # two pictures of one caption
    same = torch.eye(4, dtype=torch.bool)
    same[1, 2] = same[2, 1] = True
    loss = model.contrast(images, texts, same)
    logits = images @ texts.T * math.exp(float(model.scale.detach()))
    log_rows, log_columns = logits.log_softmax(1), logits.log_softmax(0)
    one = -(0.5 * (log_rows[1, 1] + log_rows[1, 2]) + 0.5 * (log_columns[1, 1] + log_columns[2, 1])) / 2
    torch.testing.assert_close(loss[1], one)
    torch.testing.assert_close(loss[0], -(log_rows[0, 0] + log_columns[0, 0]) / 2)


def test_the_sphere():
    model = pair()
    torch.testing.assert_close(model.embed_image(torch.randn(3, 3, 8, 8)).norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(model.embed_text(torch.randn(3, 6)).norm(dim=-1), torch.ones(3))
