"""The KL codec: its posterior, its KL against torch's, its scale, and the size of the published shape."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from safelight.codec.kl import KLSpec
from safelight.spec import SpecError, build, describe

SMALL = KLSpec(latents=4, widths=(8, 16))


def lively(spec: KLSpec, seed: int = 0):
    torch.manual_seed(seed)
    codec = spec.build()
    for p in codec.parameters():
        torch.nn.init.normal_(p, std=0.15)
    return codec


def test_the_default_is_the_one_its_docstring_counts():
    codec = KLSpec().build()
    assert sum(p.numel() for p in codec.parameters()) == 1_692_376
    assert codec.stride == 8 and codec.channels(3) == 16
    assert codec.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 8, 8)


def test_encode_gives_the_mode_or_the_sample():
    codec = lively(SMALL)
    codec.shift.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0]))
    codec.scale.copy_(torch.tensor([2.0, 0.5, 1.0, 3.0]))
    x, noise = torch.rand(3, 3, 16, 16) * 2 - 1, torch.randn(3, 4, 4, 4)
    mean, logvar = codec.posterior(x)
    shift, scale = codec.shift.view(-1, 1, 1), codec.scale.view(-1, 1, 1)
    torch.testing.assert_close(codec.encode(x), (mean - shift) / scale)
    torch.testing.assert_close(codec.encode(x, noise), (mean + (logvar / 2).exp() * noise - shift) / scale)
    torch.testing.assert_close(codec.decode(codec.encode(x)), codec.paint(mean), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.spread(x), (logvar / 2).exp().mean((0, 2, 3)) / codec.scale)


def test_the_penalty_is_the_kl_divergence():
    codec = lively(SMALL).eval()
    x = torch.rand(2, 3, 16, 16)
    mean, logvar = codec.posterior(x)
    oracle = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1) / (3 * 16 * 16)
    torch.testing.assert_close(codec(x, torch.zeros_like(mean)).penalty, oracle, rtol=1e-4, atol=1e-6)


def test_training_decodes_a_sample_and_a_wild_spread_is_bounded():
    codec = lively(SMALL).eval()
    x, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 4, 4, 4)
    mean, logvar = codec.posterior(x)
    torch.testing.assert_close(codec(x, noise).x, codec.paint(mean + (logvar / 2).exp() * noise))
    for wild, bound in ((1e3, 20), (-1e3, -30)):
        torch.nn.init.constant_(codec.encoder.out.bias, wild)
        assert (codec.posterior(x)[1] == bound).all()


def test_the_scale_is_measured_on_the_data():
    codec = lively(SMALL)
    pictures = torch.rand(40, 3, 16, 16) * torch.linspace(0.2, 2, 40).view(-1, 1, 1, 1) - 0.5
    codec.calibrate(pictures.split(7))  # uneven batches count by their size
    z = codec.encode(pictures).transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_training_follows_the_scale_without_being_asked():
    codec = lively(SMALL).train()
    x = torch.rand(64, 3, 16, 16) * 2 - 1
    for part in x.split(8):
        codec(part, torch.randn(8, 4, 4, 4))
    codec.eval()
    z = codec.encode(x).transpose(0, 1).flatten(1)
    # All batches were of one size and the weights stood still, so the running moments are the data's.
    torch.testing.assert_close(z.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    before = codec.shift.clone()
    codec(x[:8] + 1, torch.randn(8, 4, 4, 4))
    codec.train().encode(x[:8] + 1)
    assert torch.equal(codec.shift, before)  # neither looking nor encoding moves it


def test_late_in_training_the_scale_forgets_a_fiftieth_a_batch():
    codec = lively(SMALL).train()
    codec.seen.fill_(1000)
    codec.shift.fill_(0.5)
    codec.scale.fill_(2.0)
    x = torch.rand(8, 3, 16, 16)
    mean = codec.posterior(x)[0].detach().transpose(0, 1).flatten(1)
    codec(x, torch.randn(8, 4, 4, 4))
    shift = 0.98 * 0.5 + 0.02 * mean.mean(1)
    torch.testing.assert_close(codec.shift, shift)
    square = 0.98 * (2.0**2 + 0.5**2) + 0.02 * mean.square().mean(1)
    torch.testing.assert_close(codec.scale, (square - shift**2).sqrt())


def test_bad_input_says_what_and_how():
    codec = SMALL.build()
    with pytest.raises(SpecError, match=r"18x16 does not divide by the codec's stride 4: crop it to 16x16"):
        codec.encode(torch.zeros(1, 3, 16, 18))
    with pytest.raises(SpecError, match="3 channels, not 1"):
        codec.channels(1)
    with pytest.raises(SpecError, match="pictures to be measured on"):
        codec.calibrate([])
    for layer in (codec.encoder.out, codec.encoder.line):
        torch.nn.init.zeros_(layer.weight)
    with pytest.raises(SpecError, match="constant: train it first"):
        codec.calibrate([torch.rand(2, 3, 8, 8)])
    assert codec.scale.eq(1).all()  # a failed measurement leaves the scale as it was
    with pytest.raises(SpecError, match="must divide 32"):
        build({"kind": "kl", "widths": [8, 12]}, "codec")
    with pytest.raises(SpecError, match="5 groups do not divide"):
        build({"kind": "kl", "groups": 5}, "codec")


def test_it_comes_back_from_its_description_and_its_weights():
    codec = lively(SMALL)
    codec.calibrate([torch.rand(8, 3, 16, 16)])
    twin = build(describe(codec))
    twin.load_state_dict(codec.state_dict())
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(twin.encode(x), codec.encode(x))


def test_stable_diffusions_autoencoder_has_its_published_size():
    with torch.device("meta"):
        codec = KLSpec.published().build()
    assert sum(p.numel() for p in codec.parameters()) == 83_653_863
    assert codec.stride == 8 and codec.reach is None


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_precision_take_what_comes(kind: str, dtype: torch.dtype):
    """float32 pictures and latents in, float32 out, as the codec in float32 has them but for the rounding of its weights."""
    codec = build({"kind": kind, "latents": 4, "widths": [8, 16]}, "codec")
    if kind == "vq":
        codec.codebook.copy_(torch.randn(codec.codebook.shape))
    codec.eval()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        z = codec.encode(x)
        pixels = codec.decode(z)
        codec.to(dtype)
        coarse, again = codec.encode(x), codec.decode(z)
    assert coarse.dtype == again.dtype == torch.float32
    torch.testing.assert_close(again, pixels, atol=0.05, rtol=0)
    if kind == "kl":
        torch.testing.assert_close(coarse, z, atol=0.05, rtol=0)
