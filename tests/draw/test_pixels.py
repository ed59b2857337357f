"""The one way from [-1, 1] to [0, 255]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from safelight.draw.pixels import to_bytes, to_image
from safelight.spec import SpecError


def test_every_byte_survives_the_round_trip() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        x = bytes_.to(dtype) / 127.5 - 1
        assert np.array_equal(to_bytes(x)[0, :, :, 0], bytes_[0, 0].numpy())
    assert np.array_equal(to_bytes(bytes_)[0, :, :, 0], bytes_[0, 0].numpy())
    assert np.array_equal(to_bytes(bytes_.to(torch.int64))[0, :, :, 0], bytes_[0, 0].numpy())


def test_beyond_the_range_is_clipped_and_nothing_is_stretched() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 5.0]).view(1, 1, 1, 5)
    assert to_bytes(x).flatten().tolist() == [0, 0, 128, 255, 255]
    dark = torch.full((1, 1, 2, 2), -0.9)  # a min-max normalisation would make noise or white of it
    assert to_bytes(dark).max() == to_bytes(dark).min() == 13


def test_bfloat16_and_gradients_are_taken() -> None:
    x = torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    assert to_bytes(x).shape == (1, 2, 2, 3)


def test_pil_images_and_a_mix_of_grey_and_colour() -> None:
    grey = Image.new("L", (3, 2), 7)
    assert to_bytes(grey).shape == (1, 2, 3, 1)
    both = to_bytes([grey, Image.new("RGB", (3, 2), (1, 2, 3))])
    assert both.shape == (2, 2, 3, 3)
    assert both[0].max() == both[0].min() == 7
    assert both[1, 0, 0].tolist() == [1, 2, 3]
    assert to_image(both[1]).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (torch.tensor([[[[0.0]]], [[[float("nan")]]]]), "picture 1 has NaN"),
        (torch.full((1, 1, 2, 2), float("inf")), "infinite"),
        (torch.full((1, 1, 2, 2), 200.0), "uint8"),
        (torch.full((1, 1, 2, 2), 300), "bytes"),
        (torch.full((1, 1, 2, 2), -1), "bytes"),
        (torch.zeros(2, 2), "(N, C, H, W)"),
        (torch.zeros(1, 4, 2, 2), "(N, C, H, W)"),
        (torch.zeros(0, 1, 2, 2), "no picture"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.bool), "bool"),
        ([], "no picture"),
        ([torch.zeros(1, 2, 2), torch.zeros(1, 3, 2)], "different shapes"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(bad: object, word: str) -> None:
    with pytest.raises(SpecError) as error:
        to_bytes(bad)
    assert word in str(error.value)
    assert "\n" not in str(error.value)
