"""The VQ codec: nearest codes by brute force, the running means by hand, straight-through gradients, revival."""

from __future__ import annotations

import math

import pytest
import torch

from safelight.codec.vq import VQSpec
from safelight.spec import SpecError

SMALL = VQSpec(latents=3, widths=(8, 16), codes=16, decay=0.9, revive=0.1)


def lively(seed: int = 0):
    torch.manual_seed(seed)
    codec = SMALL.build()
    for p in codec.parameters():
        torch.nn.init.normal_(p, std=0.15)
    codec.codebook.copy_(torch.randn(16, 3))
    return codec


def test_tokens_are_the_nearest_codes():
    codec = lively()
    x = torch.rand(2, 3, 16, 16) * 4 - 2
    f = codec.features(x)  # (2, 3, 4, 4)
    distance = (f[:, :, None] - codec.codebook.T[None, :, :, None, None]).square().sum(1)  # (2, 16, 4, 4)
    tokens = codec.tokens(x)
    assert torch.equal(tokens, distance.argmin(1)) and tokens.shape == (2, 4, 4)
    assert torch.equal(codec.encode(x), codec.embed(tokens))
    assert torch.equal(codec.encode(x, torch.randn(2, 3, 4, 4)), codec.encode(x))  # no posterior, no noise


def test_decoding_begins_at_the_nearest_code():
    codec = lively().eval()
    codec.scale.copy_(torch.tensor([0.5, 2.0, 1.0]))
    codec.shift.copy_(torch.tensor([0.1, 0.0, -0.3]))
    tokens = torch.randint(16, (1, 4, 4))
    z = codec.embed(tokens)
    gap = torch.cdist(codec.codebook, codec.codebook).fill_diagonal_(9).min()
    nudge = 0.3 * gap / codec.scale.max() * torch.nn.functional.normalize(torch.randn_like(z), dim=1)
    torch.testing.assert_close(codec.decode(z + nudge), codec.decode(z))
    torch.testing.assert_close(codec.decode(z), codec.paint(codec.codebook[tokens].movedim(-1, 1)))


def test_gradients_go_straight_through():
    codec = lively().eval()
    x = torch.rand(2, 3, 8, 8)
    f = codec.features(x).detach().requires_grad_()
    code = codec._codes(codec.nearest(f))
    codec.paint(code.detach().requires_grad_())
    at_codes = code.detach().requires_grad_()
    (expected,) = torch.autograd.grad(codec.paint(at_codes).square().sum(), at_codes)
    codec.features = lambda _: f
    out = codec(x)
    (found,) = torch.autograd.grad(out.x.square().sum(), f, retain_graph=True)
    torch.testing.assert_close(found, expected)
    (pull,) = torch.autograd.grad(out.penalty.sum(), f)
    torch.testing.assert_close(pull, 2 * (f - code).detach() / f[0].numel())
    torch.testing.assert_close(out.penalty, (f - code).square().flatten(1).mean(1))


def test_codes_are_the_running_means_of_what_is_assigned_to_them():
    codec = lively().train()
    codec.seen.fill_(5)
    codec.count.fill_(4.0)
    codec.total.copy_(codec.codebook * 4)
    f = torch.randn(2, 3, 4, 4)
    token = codec.nearest(f).flatten()
    flat = f.movedim(1, -1).flatten(0, -2)
    count, total = codec.count.clone(), codec.total.clone()
    codec._learn(f)
    for k in range(16):
        mine = flat[token == k]
        n = 0.9 * count[k] + 0.1 * len(mine)
        m = 0.9 * total[k] + 0.1 * mine.sum(0)
        torch.testing.assert_close(codec.codebook[k], m / n, rtol=1e-4, atol=1e-5)


def test_dead_codes_begin_anew_at_vectors_of_the_batch():
    codec = lively().train()
    codec.seen.fill_(5)
    codec.count.fill_(4.0)
    codec.codebook[:8] = 1e3  # nobody's nearest
    codec.total.copy_(codec.codebook * 4)
    x = torch.randn(8, 3, 16, 16)
    flat = codec.features(x).detach().movedim(1, -1).flatten(0, -2)
    steps = math.ceil(math.log(0.1 / 4) / math.log(0.9))
    for _ in range(steps):
        far = bool((codec.codebook[:8] > 900).any())
        assert far
        codec(x)
    codec(x)
    # Every revived code sits where data are, and from there on is used.
    assert torch.cdist(codec.codebook[:8], flat).amin(1).max() < 1.0
    assert codec.tokens(x).unique().numel() > 8


def test_a_newborn_is_a_vector_of_the_batch_and_weighs_a_fair_share():
    codec = SMALL.build().train()
    f = torch.randn(2, 3, 4, 4)
    flat = f.movedim(1, -1).flatten(0, -2)  # (32, 3)
    codec._learn(f)  # the first batch: every code begins here, each at a vector of its own
    at = torch.cdist(codec.codebook, flat).argmin(1)
    torch.testing.assert_close(codec.codebook, flat[at])
    assert len(at.unique()) == 16 and (codec.count == 32 / 16).all()
    # Far fewer vectors than codes: twice the bar, so that a newborn lives long enough to be found.
    picked = []
    for batch in (5, 6):
        codec.seen.fill_(batch)
        codec.count.zero_()
        codec.total.zero_()
        codec.codebook.fill_(1e3)
        codec._learn(f[:1, :, :, :2])  # 8 vectors
        assert (codec.count[1:] == 0.5).all()
        picked.append(torch.cdist(codec.codebook[1:], flat).argmin(1))
    assert not torch.equal(*picked)  # another batch, other vectors
    codec.count.zero_()
    codec._learn(f[:1, :, :1, :1])
    assert int((codec.count == 0.2).sum()) >= 15


def test_the_scale_in_training_is_that_of_the_codes():
    """Which is what a diffusion model gets; the features that they stand for spread further."""
    codec = lively().train()
    x = torch.rand(4, 3, 16, 16) * 4 - 2
    codec(x)
    code = codec.codebook[codec.tokens(x)].movedim(-1, 0).flatten(1)
    torch.testing.assert_close(codec.shift, code.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.scale, code.std(1, correction=0), rtol=1e-4, atol=1e-5)


def test_a_codebook_begins_at_the_first_batch_and_is_used():
    torch.manual_seed(0)
    codec = SMALL.build().train()
    for p in codec.parameters():
        torch.nn.init.normal_(p, std=0.15)
    x = torch.rand(16, 3, 16, 16) * 4 - 2
    for _ in range(50):
        codec(x)
    again = SMALL.build().train()
    again.load_state_dict(
        {
            **codec.state_dict(),
            **{
                k: torch.zeros_like(v)
                for k, v in SMALL.build().state_dict().items()
                if k in ("codebook", "count", "total", "seen", "shift")
            },
            "scale": torch.ones(3),
        }
    )
    for _ in range(50):
        again(x)
    assert torch.equal(again.codebook, codec.codebook)  # revival draws nothing: the same run twice is the same
    assert codec.perplexity > 8  # of 16
    f = codec.features(x)
    error = (f - codec._codes(codec.nearest(f))).square().mean()
    assert error < 0.35 * f.var()


def test_the_latents_are_of_unit_variance():
    codec = lively()
    pictures = torch.rand(32, 3, 16, 16) * 4 - 2
    codec.calibrate(pictures.split(8))
    z = codec.encode(pictures).transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    with pytest.raises(SpecError, match="whole numbers"):
        codec.embed(codec.encode(pictures))
