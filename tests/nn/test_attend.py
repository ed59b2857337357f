"""Attention in bfloat16 on a CPU takes its products one by one: the same numbers and gradients as the fused kernel's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from safelight.nn.attention import attend
from safelight.text.clip import CLIPTextSpec


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_softmax_attention(masked: bool) -> None:
    """Against float64, in output and all three gradients, to bfloat16's own precision."""
    torch.manual_seed(0)
    exact = [torch.randn(3, 2, n, 16, dtype=torch.float64) for n in (10, 7, 7)]
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [True] + [False] * 6])[:, None, None] if masked else None
    weight = torch.randn(3, 2, 10, 16, dtype=torch.float64)
    found = {}
    for name, dtype in (("exact", torch.float64), ("short", torch.bfloat16)):
        q, k, v = (x.to(dtype).detach().clone().requires_grad_() for x in exact)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask) if name == "exact" else attend(q, k, v, mask)
        (y.double() * weight).sum().backward()
        found[name] = [y.detach().double(), *(x.grad.double() for x in (q, k, v))]
    for true, near in zip(found["exact"], found["short"], strict=True):
        assert float((near - true).abs().max()) <= 0.03 * float(true.abs().max())


def test_training_leaves_out_only_what_no_caption_reaches() -> None:
    """In training the tower runs on the places that some caption of the batch reaches; states there and gradients are the same."""
    torch.manual_seed(0)
    text = CLIPTextSpec(width=16, layers=2, heads=2, causal=False).build()
    tokens = text.tokenize(["a cat", "two owls on a pink background, flat style", ""])
    long, short = text.eval()(tokens), text.train()(tokens)
    kept = short.tokens.shape[1]
    assert kept == int(long.mask.sum(1).max()) < long.tokens.shape[1]
    assert torch.equal(long.mask[:, :kept], short.mask)
    inside = short.mask[..., None]
    assert float(((long.tokens[:, :kept] - short.tokens) * inside).abs().max()) <= 1e-5
    assert float((long.vector - short.vector).abs().max()) <= 1e-5
