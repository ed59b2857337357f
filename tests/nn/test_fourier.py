"""Fourier features of the picture: what they are, where they go in, and that the last bit of a byte is seen by them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from safelight.cond import Cond
from safelight.nn.embed import waves
from safelight.nn.unet import UNetSpec
from safelight.spec import SpecError, build, describe


def test_waves_are_their_formula() -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    out = waves(x, (7, 8)).numpy()
    a, b = 2**7 * math.pi * x.numpy(), 2**8 * math.pi * x.numpy()
    wanted = np.concatenate([x.numpy(), np.sin(a), np.cos(a), np.sin(b), np.cos(b)], axis=1)
    np.testing.assert_allclose(out, wanted, atol=1e-10)
    assert waves(x, ()) is x
    assert waves(x.half(), (7,)).dtype == torch.float16


def test_neighbouring_grey_levels_are_half_a_turn_apart() -> None:
    grey = (torch.arange(256, dtype=torch.float64) * 2 / 255 - 1)[:, None, None, None]
    seen = waves(grey, (7,)).flatten(1)[:, 1:]
    assert float((seen[1:] * seen[:-1]).sum(1).max()) < -0.99


@pytest.mark.parametrize("patch", [1, 2])
def test_the_unet_sees_them_beside_picture_and_image(patch: int) -> None:
    """A network with features is the one without on the picture, the waves and the image concatenated."""
    fields: dict[str, Any] = {
        "widths": (8,),
        "depth": 1,
        "skips": 1,
        "attention": (),
        "middle": "no-attention",
        "norm": {"kind": "group-norm", "groups": 4},
    }
    fields |= {"patch": patch, "time": 16, "embedding": {"kind": "sinusoid", "width": 8}, "zero": False}
    net = UNetSpec(channels=1, image=2, fourier=(0, 3), **fields).build().double()
    wide = UNetSpec(channels=5, image=2, **fields).build().double()
    assert net.state_dict()["stem.weight"].shape[1] == 7 * patch**2 == wide.state_dict()["stem.weight"].shape[1]
    kept = {k: v for k, v in net.state_dict().items() if not k.startswith("head.")}
    wide.load_state_dict(wide.state_dict() | kept)
    for name in ("head.weight", "head.bias"):
        wide.state_dict()[name][: patch**2] = net.state_dict()[name]
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    cond, noise = Cond(image=torch.randn(2, 2, 6, 6, dtype=torch.float64)), torch.tensor([3.0, 500.0], dtype=torch.float64)
    mine, theirs = net(x, noise, cond).F, wide(waves(x, (0, 3)), noise, cond).F[:, :1]
    torch.testing.assert_close(mine, theirs)
    assert float(mine.detach().std()) > 0.01


def test_round_trip_and_refusal() -> None:
    spec = UNetSpec(fourier=(7, 8))
    assert build(describe(spec)).spec == spec
    for wrong in ((7, 7), (40,)):
        with pytest.raises(SpecError, match="fourier"):
            build({"kind": "unet", "fourier": wrong}, "network")
