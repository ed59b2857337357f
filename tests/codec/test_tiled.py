"""Tiles against the whole picture: equal from the receptive field on, seamless below it."""

from __future__ import annotations

import pytest
import torch

from safelight.codec import tiled
from safelight.codec.kl import KLSpec
from safelight.codec.pixels import PixelsSpec
from safelight.codec.vq import VQSpec
from safelight.spec import SpecError


def lively(spec):
    torch.manual_seed(0)
    codec = spec.build().eval()
    for p in codec.parameters():
        torch.nn.init.normal_(p, std=0.12)
    if "codebook" in dict(codec.named_buffers()):
        codec.codebook.normal_()
    return codec


@pytest.mark.parametrize("fold", [True, False])
def test_tiles_equal_the_whole_from_the_receptive_field_on(fold):
    codec = lively(KLSpec(latents=4, widths=(8, 16), fold=fold))
    into, out = tiled.receptive_field(codec)
    assert (into, out) == tuple(2 * r + 1 for r in codec.reach)
    x, noise = torch.rand(1, 3, 4 * 43, 4 * 30) * 2 - 1, torch.randn(1, 4, 43, 30)
    with torch.no_grad():
        for n in (None, noise):
            z = codec.encode(x, n)
            torch.testing.assert_close(tiled.encode(codec, x, into + 3, noise=n), z, rtol=1e-4, atol=1e-4)
        whole = codec.decode(z)
        for overlap in (out, out + 2):
            difference = (tiled.decode(codec, z, out + 5, overlap) - whole).abs().max()
            assert difference < 1e-4 * whole.abs().max()  # the claim is 2/255; float32 rounding is all there is


def test_one_cell_less_is_no_longer_exact():
    codec = lively(KLSpec(latents=4, widths=(8, 16)))
    z = torch.randn(1, 4, 60, 24)
    out = tiled.receptive_field(codec)[1]
    with torch.no_grad():
        whole = codec.decode(z)
        exact = (tiled.decode(codec, z, 30, out) - whole).abs().max()
        short = (tiled.decode(codec, z, 30, out - 1) - whole).abs().max()
    assert short > 100 * exact


def test_the_quantised_codec_in_tiles():
    codec = lively(VQSpec(latents=3, widths=(8, 16), codes=16))
    x = torch.rand(1, 3, 160, 96)
    with torch.no_grad():
        z = codec.encode(x)
        assert torch.allclose(tiled.encode(codec, x, 24), z, atol=1e-5)
        assert torch.allclose(tiled.decode(codec, z, 24), codec.decode(z), atol=1e-4)


def test_without_a_bounded_reach_tiles_are_blended():
    codec = lively(KLSpec(latents=4, widths=(8, 16), groups=4))
    assert tiled.receptive_field(codec) is None
    z = torch.randn(1, 4, 8, 48)
    with torch.no_grad():
        parts = [codec.decode(z[..., s : s + 16]) for s in (0, 12, 24, 32)]
        whole = tiled.decode(codec, z, 16)  # a quarter, four cells, is shared
    s = codec.stride
    torch.testing.assert_close(whole[..., : 12 * s], parts[0][..., : 12 * s])  # one tile alone
    first, second = parts[0][..., 12 * s :], parts[1][..., : 4 * s]
    ramp = (torch.arange(4 * s) + 0.5) / (4 * s)
    torch.testing.assert_close(whole[..., 12 * s : 16 * s], first * (1 - ramp) + second * ramp, rtol=1e-4, atol=1e-5)


def test_weights_sum_to_one_everywhere():
    for n, tile, overlap, reach in ((50, 16, 7, 3), (50, 16, 8, 3), (17, 16, 0, 0), (9, 16, 4, 2), (31, 10, 5, 9)):
        total = torch.zeros(2 * n)
        for t in tiled.tiles(n, tile, overlap, reach, 2):
            assert t.stop - t.start == min(tile, n)
            total[2 * t.start : 2 * t.stop] += t.weight
        assert total.min() > 0


def test_pixels_are_tiled_too_and_nonsense_is_refused():
    codec = PixelsSpec().build()
    x = torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(tiled.decode(codec, tiled.encode(codec, x, 8), 8), x)
    with pytest.raises(SpecError, match="tiles of 8 latent cells cannot share 8"):
        tiled.encode(codec, x, 8, overlap=8)
    deep = KLSpec().build()
    with pytest.raises(SpecError, match="larger than 21"):
        tiled.decode(deep, torch.zeros(1, 16, 40, 40), 16)
