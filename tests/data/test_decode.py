"""Pixels: orientation, transparency, depth and palettes against values worked out by hand; bad bytes against their reasons."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from safelight.data.decode import as_channels, decode, grey, probe
from safelight.data.source import CorruptError
from tests.data.formats import pictures, png


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


# EXIF 2.3, tag 0x0112: what stands at row 0, column 0 of the stored picture, as numpy operations that undo it.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation):
    stored = pictures(1, size=(5, 7))[0].image
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode(encode(Image.fromarray(stored), exif=exif))
    assert np.array_equal(got, UPRIGHT[orientation](stored))


def test_transparency_goes_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (10, 20, 30, 0)
    rgba[0, 2] = (0, 100, 200, 128)
    got = decode(encode(Image.fromarray(rgba)))
    assert got[0, 0].tolist() == [10, 20, 30]
    assert got[0, 1].tolist() == [255, 255, 255]
    want = [v * 128 / 255 + 255 * 127 / 255 for v in (0, 100, 200)]
    assert np.abs(got[0, 2] - np.array(want)).max() <= 1
    grey_alpha = np.array([[[40, 255], [40, 0]]], np.uint8)
    assert decode(encode(Image.fromarray(grey_alpha, "LA")))[..., 0].tolist() == [[40, 255]]


def test_palettes_are_looked_up():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert decode(encode(image))[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert decode(encode(image, transparency=1))[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    assert decode(encode(image, "GIF"))[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_high_byte(factor, form):
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16)
    got = decode(encode(Image.fromarray(eight * factor), form))
    assert got.shape == (16, 16, 1)
    assert np.array_equal(got[..., 0], eight)


def test_other_modes():
    bits = Image.fromarray(np.array([[True, False]]))
    assert decode(encode(bits))[..., 0].tolist() == [[255, 0]]
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert decode(encode(cmyk, "TIFF"))[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(CorruptError, match="mode F have no known white"):
        decode(encode(Image.new("F", (2, 2), 0.5), "TIFF"))


def test_channels_by_luma():
    image = pictures(1, size=(9, 9))[0].image
    assert np.array_equal(grey(image)[..., 0], np.asarray(Image.fromarray(image).convert("L")))
    assert np.array_equal(as_channels(grey(image), 3), np.repeat(grey(image), 3, axis=2))


def test_bad_bytes_have_reasons():
    whole = png(pictures(1, size=(40, 40))[0].image)
    jpeg = encode(Image.fromarray(pictures(1, size=(64, 64))[0].image), "JPEG")
    for data, why in (
        (b"", "empty file"),
        (b"hello, I am a text", "not a picture"),
        (whole[: len(whole) // 2], "truncated"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (whole[:200] + bytes([whole[200] ^ 0xFF]) + whole[201:], "."),
    ):
        with pytest.raises(CorruptError, match=why):
            decode(data)


def test_only_picture_decoders_run():
    """An EPS named .png would have Pillow start Ghostscript."""
    with pytest.raises(CorruptError, match="not a picture"):
        decode(encode(Image.new("RGB", (4, 4)), "EPS"))


def test_bombs_are_refused_before_they_are_decoded():
    data = encode(Image.new("1", (3000, 2000)))
    with pytest.raises(CorruptError, match="3000x2000 is more than 1,000,000 pixels"):
        decode(data, limit=1_000_000)
    with pytest.raises(CorruptError, match="bomb"):
        probe(io.BytesIO(data), limit=1_000_000)
    assert probe(io.BytesIO(data)) == (3000, 2000)


def test_broken_exif_does_not_lose_the_picture():
    image = pictures(1, size=(8, 8))[0].image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on it
        assert np.array_equal(decode(encode(Image.fromarray(image), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")), image)
