"""Noise: a published generator, a golden hash, independence of batch, order and step count, and normals that are normal."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from safelight.noise import Noise, philox
from safelight.spec import SpecError, build

LIKE = torch.empty(3, 2, 5, 5)
GOLDEN = "46ee0452d883c8bcd64f40f791a4b3c2d00aa12f5db2b2bad4afc7bbfa4d2cc0"
NORMALS = [-0.57796594, -1.02495568, -2.18940862, 0.41323106]


def test_philox_known_answers() -> None:
    """The test vectors that come with Salmon et al. 2011 (Random123, kat_vectors, philox4x32 10)."""
    one = lambda v: np.array([v], dtype=np.uint64)  # noqa: E731
    assert [f"{w:08x}" for w in philox((0, 0), one(0), one(0), 0, 0)[0]] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    full = 0xFFFFFFFF
    assert [f"{w:08x}" for w in philox((full, full), one(full), one(full), full, full)[0]] == [
        "408f276d",
        "41c83b0e",
        "a20bc7c6",
        "6d5451fd",
    ]
    got = philox((0xA4093822, 0x299F31D0), one(0x243F6A88), one(0x85A308D3), 0x13198A2E, 0x03707344)[0]
    assert [f"{w:08x}" for w in got] == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]


def test_golden_stream() -> None:
    process = build("linear", "process")
    words = Noise(1234).words("step", process.at(0.75), process.at(0.5), 64, 4)
    assert hashlib.sha256(words.astype("<u4").tobytes()).hexdigest() == GOLDEN
    normals = Noise(1234).normal("step", process.at(0.75), process.at(0.5), torch.empty(1, 4, dtype=torch.float64))
    np.testing.assert_allclose(normals[0].numpy(), NORMALS, atol=1e-6)


@pytest.mark.parametrize("chunks", [[1] * 7, [2, 2, 3], [7], [3, 4]])
def test_batch_does_not_matter(chunks: list[int]) -> None:
    whole = Noise(9, 7).normal("start", None, None, torch.empty(7, 3, 4))
    first, parts = 0, []
    for size in chunks:
        parts.append(Noise(9, range(first, first + size)).normal("start", None, None, torch.empty(size, 3, 4)))
        first += size
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(Noise(9, [5, 0]).normal("start", None, None, torch.empty(2, 3, 4)), whole[[5, 0]])


def test_keys_are_distinct() -> None:
    process = build("linear", "process")
    a, b, c = process.at(0.5), process.at(0.4), process.at(0.3)
    draws = [
        Noise(0).normal("step", a, b, LIKE), Noise(0).normal("step", a, c, LIKE), Noise(0).normal("step", b, c, LIKE),
        Noise(1).normal("step", a, b, LIKE), Noise(0).normal("churn", a, b, LIKE), Noise(0).normal("start", None, None, LIKE),
        Noise(-1).normal("step", a, b, LIKE), Noise(2**70).normal("step", a, b, LIKE),
    ]  # fmt: skip
    for i, x in enumerate(draws):
        assert len(x.unique()) > 140
        for y in draws[:i]:
            assert float((x - y).abs().min()) > 0


def test_normals_are_normal() -> None:
    from scipy.stats import kstest

    x = Noise(3).normal("start", None, None, torch.empty(50, 4000, dtype=torch.float64)).numpy()
    assert kstest(x.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(x[:, ::2].ravel(), x[:, 1::2].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(x[0], x[1])[0, 1]) < 0.06
    u = Noise(3).uniform("start", None, None, torch.empty(20, 1000, dtype=torch.float64)).numpy()
    assert kstest(u.ravel(), "uniform").pvalue > 1e-3 and u.min() > 0 and u.max() < 1


def test_bad_input() -> None:
    with pytest.raises(SpecError, match="noise is for 2 images, the batch has 3"):
        Noise(0, 2).normal("start", None, None, LIKE)
    with pytest.raises(SpecError, match="an image's index"):
        Noise(0, [-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_uniforms_never_round_to_an_end(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """0 < u < 1 in every dtype: what takes a logarithm of it must not meet an infinity."""
    ends = np.array([[0, 2**32 - 1]], dtype=np.uint32)
    monkeypatch.setattr(Noise, "words", lambda *_: ends)
    u = Noise(0).uniform("test", None, None, torch.empty(1, 2, dtype=dtype))
    assert 0 < float(u[0, 0]) < 1e-4 and 0.99 < float(u[0, 1]) < 1
