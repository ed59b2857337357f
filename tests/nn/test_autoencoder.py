"""The autoencoder's networks: their reach, their neutral beginnings, and the published shape's parameter count."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from safelight.nn.autoencoder import Decoder, Encoder, Fold, PatchCritic, PixelNorm, Residual, Unfold

SHAPES = [
    ((16, 32), 1, 2, True),
    ((16, 32), 1, 2, False),
    ((8, 16, 32), 1, 2, True),
    ((8, 8, 8), 2, 1, False),
    ((16,), 2, 4, True),
]


def rough(module: torch.nn.Module) -> torch.nn.Module:
    """With weights that let every path through: fresh ones begin some at zero."""
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return module.double()


def touched(f, x: torch.Tensor, cells: slice, scale: int) -> int:
    """How many cells of `scale` positions away the output changes when the input does at `cells`, along the rows."""
    with torch.no_grad():
        y = x.clone()
        y[:, :, cells] += 1
        change = (f(y) - f(x)).abs().amax((0, 1, 3))
    hit = change.gt(0).nonzero().flatten() // scale
    centre = change.shape[0] // scale // 2
    return max(centre - int(hit.min()), int(hit.max()) - centre)


@pytest.mark.parametrize(("widths", "blocks", "patch", "fold"), SHAPES)
def test_reach_bounds_what_a_place_can_change(widths, blocks, patch, fold):
    args = (widths, blocks, patch, 0, fold, False)
    encoder, decoder = rough(Encoder(3, 4, *args)), rough(Decoder(3, 4, *args))
    stride, n = patch * 2 ** (len(widths) - 1), 41
    c = n // 2
    x = torch.randn(1, 3, n * stride, 2 * stride, dtype=torch.float64)
    z = torch.randn(1, 4, n, 2, dtype=torch.float64)
    into, out = touched(encoder, x, slice(c * stride, (c + 1) * stride), 1), touched(decoder, z, slice(c, c + 1), stride)
    assert into == encoder.reach  # sharp: a whole cell of pixels was changed
    assert decoder.reach - 2 <= out <= decoder.reach


def test_no_reach_is_claimed_where_everything_meets():
    assert Encoder(3, 4, (8, 16), 1, 2, 4, True, False).reach is None
    assert Decoder(3, 4, (8, 16), 1, 2, 0, True, True).reach is None


def test_fold_and_unfold_begin_as_averages_and_copies():
    # Without the learned part: the mean of each 2x2 square, and nearest-neighbour doubling.
    down, up = Fold(4, 4), Unfold(4, 4)
    for layer in (down.conv, up.conv):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(down(x), F.avg_pool2d(x, 2))
    torch.testing.assert_close(up(x), F.interpolate(x, scale_factor=2.0))
    # Widening keeps the data: the folded channels of 2x2 pixels are all there.
    wide = Fold(4, 16)
    torch.nn.init.zeros_(wide.conv.weight)
    torch.nn.init.zeros_(wide.conv.bias)
    torch.testing.assert_close(F.pixel_shuffle(wide(x), 2), x)


def test_pixel_norm_is_its_formula_and_local():
    norm = PixelNorm(5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 5, 3, 3)
    expected = norm.weight.view(1, 5, 1, 1) * x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm(7 * x)[..., 1, 1], norm(x)[..., 1, 1], rtol=1e-4, atol=1e-5)


def test_a_block_begins_as_the_identity():
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(Residual(8, 8, 0)(x), x)


def test_the_critic_sees_patches_only():
    critic = rough(PatchCritic(3, (4, 8)))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    y = x.clone()
    y[..., :4, :4] += 1
    with torch.no_grad():
        change = (critic(y) - critic(x)).abs().amax((0, 1))
    assert change[0, 0] > 0 and change[6:, :].max() == 0  # three convolutions from stride 4 reach less than six patches
