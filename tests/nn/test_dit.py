"""DiT against diffusers' with the same weights, the paper's sizes, and its start at zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.nn.dit import DiT, DiTSpec, positions
from safelight.nn.embed import SinusoidSpec
from safelight.spec import SpecError, build, describe


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def awake(spec: DiTSpec) -> DiT:
    """A DiT none of whose weights is zero."""
    torch.manual_seed(0)
    net = spec.build()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


SMALL = DiTSpec(cond=6, width=32, depth=2, heads=4, embedding=SinusoidSpec(width=16))


@pytest.mark.parametrize(("size", "millions"), [("S", 32.96), ("B", 130.5), ("L", 458.1), ("XL", 675.1)])
def test_published_sizes(size: str, millions: float) -> None:
    """The authors' counts hold a table of 1001 labels, the fixed positions of 16 x 16 patches, and a learned variance."""
    with torch.device("meta"):
        net = DiTSpec.preset(size, cond=64).model_copy(update={"learned_variance": True}).build()
    w = net.spec.width
    count = sum(p.numel() for p in net.parameters()) - (64 + 1) * w + 1001 * w + 256 * w
    assert round(count / 1e6, 2 if size == "S" else 1) == millions
    if size == "S":
        assert count == 32_963_360


def test_diffusers_with_its_weights() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    peer = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10, norm_eps=1e-6, dropout=0.0,
    ).eval()  # fmt: skip
    for p in peer.parameters():
        nn.init.normal_(p, std=0.1)
    first = peer.transformer_blocks[0].norm1.emb
    for block in peer.transformer_blocks[1:]:
        block.norm1.emb = first  # diffusers keeps one embedder a block, the paper has one

    spec = DiTSpec(
        channels=4, cond=32, width=32, depth=2, heads=4, learned_variance=True,
        embedding=SinusoidSpec(width=256, closed=True, cos_first=True),
    )  # fmt: skip
    net = spec.build()
    time, blocks = first.timestep_embedder, peer.transformer_blocks
    pairs = [(net.patch, peer.pos_embed.proj), (net.time[0], time.linear_1), (net.time[2], time.linear_2)]
    pairs += [(net.tell_last, peer.proj_out_1), (net.last, peer.proj_out_2)]
    for mine, yours in zip(net.blocks, blocks, strict=True):
        pairs += [(mine.tell, yours.norm1.linear), (mine.out, yours.attn1.to_out[0])]
        pairs += [(mine.up, yours.ff.net[0].proj), (mine.down, yours.ff.net[2])]
    with torch.no_grad():
        for mine, yours in pairs:
            mine.weight.copy_(yours.weight.reshape(mine.weight.shape))
            mine.bias.copy_(yours.bias)
        for mine, yours in zip(net.blocks, blocks, strict=True):
            parts = (yours.attn1.to_q, yours.attn1.to_k, yours.attn1.to_v)
            mine.qkv.weight.copy_(torch.cat([p.weight for p in parts]))
            mine.qkv.bias.copy_(torch.cat([p.bias for p in parts]))
        net.cond.weight.copy_(torch.eye(32))
        net.cond.bias.zero_()
        x, t, labels = draw(2, 4, 8, 8), torch.tensor([3.0, 990.0]), torch.tensor([1, 7])
        reference = peer(x, t.long(), class_labels=labels).sample
        out = net(x, t, Cond(vector=first.class_embedder.embedding_table(labels)))
    ours = torch.cat((out.F, 2 * out.fraction - 1), dim=1)
    assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_starts_at_zero_with_blocks_that_do_nothing() -> None:
    torch.manual_seed(0)
    net = SMALL.build()
    cond = Cond(vector=draw(2, 6))
    assert not net(draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), cond).F.any()
    y = draw(2, 16, 32)
    assert torch.equal(net.blocks[0](y, net.tell(torch.tensor([1.0, 2.0]), cond.vector)[0]), y)  # every gate is zero


def test_positions_are_the_formula() -> None:
    table = positions(3, 5, 16, torch.zeros((), dtype=torch.float32)).reshape(3, 5, 16)
    for row in range(3):
        for col in range(5):
            want = []
            for p in (col, row):
                w = [10000 ** (-i / 4) for i in range(4)]
                want += [math.sin(p * f) for f in w] + [math.cos(p * f) for f in w]
            torch.testing.assert_close(table[row, col], torch.tensor(want), rtol=0, atol=1e-6)


def test_any_size_is_the_padded_picture_cropped() -> None:
    net = awake(SMALL)
    x, t, cond = draw(2, 1, 7, 5), torch.tensor([1.0, 2.0]), Cond(vector=draw(2, 6))
    rows, cols = torch.arange(8).clamp(max=6), torch.arange(6).clamp(max=4)
    whole = net(x[:, :, rows][..., cols], t, cond).F
    torch.testing.assert_close(net(x, t, cond).F, whole[:, :, :7, :5], rtol=0, atol=1e-6)


def test_hears_class_noise_and_map() -> None:
    net = awake(SMALL.model_copy(update={"image": 2}))
    x, t = draw(1, 1, 8, 8).expand(2, -1, -1, -1), torch.tensor([1.0, 1.0])
    cond = Cond(vector=draw(1, 6).expand(2, -1), image=draw(1, 2, 8, 8).expand(2, -1, -1, -1))
    base = net(x, t, cond).F
    second = torch.tensor([0.0, 1.0])
    changed = {"vector": cond.vector + second[:, None], "image": cond.image + second[:, None, None, None]}
    for field, value in changed.items():
        y = net(x, t, cond._replace(**{field: value})).F
        torch.testing.assert_close(y[0], base[0], rtol=0, atol=1e-5)
        assert (y[1] - base[1]).abs().max() > 1e-3
    y = net(x, torch.tensor([1.0, 3.0]), cond).F
    assert torch.allclose(y[0], base[0], atol=1e-5) and (y[1] - base[1]).abs().max() > 1e-3
    with pytest.raises(SpecError, match="cond.vector is missing"):
        net(x, t, Cond(image=cond.image))


def test_checkpointing_gives_equal_gradients() -> None:
    net = awake(SMALL.model_copy(update={"qk_norm": True}))
    grads = []
    for net.checkpointing in (False, True):
        net.zero_grad()
        net(draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), Cond(vector=draw(2, 6))).F.square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    assert all(g.any() for g in grads[0])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_bfloat16_autocast_stays_close() -> None:
    net = awake(SMALL)
    args = (draw(2, 1, 8, 8), torch.tensor([1.0, 900.0]), Cond(vector=draw(2, 6)))
    reference = net(*args).F
    with torch.autocast("cpu", torch.bfloat16):
        y = net(*args).F
    assert (y.float() - reference).norm() / reference.norm() < 0.03


def test_described_and_built_again() -> None:
    net = awake(SMALL)
    again = build(describe(net))
    again.load_state_dict(net.state_dict())
    args = (draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), Cond(vector=draw(2, 6)))
    assert torch.equal(again(*args).F, net(*args).F)
    with pytest.raises(SpecError, match="heads: 5 do not divide the width 32"):
        build({"kind": "dit", "width": 32, "heads": 5}, "network")
