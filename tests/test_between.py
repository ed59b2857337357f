"""slerp against its geometry, noise between noises against its statistics, and sentences between sentences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from safelight import between
from safelight.between import Between, Rows, slerp
from safelight.cond import Cond
from safelight.noise import Noise
from safelight.spec import SpecError


def test_slerp_goes_round_the_circle() -> None:
    """Unit vectors at an angle w: the point at p lies at the angle p w, on the circle, in the plane of both."""
    a, b = (
        torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([[-0.5, math.sqrt(0.75), 0.0]], dtype=torch.float64),
    )
    for part in (0.25, 0.5, 0.8):
        at = part * math.acos(-0.5)
        wanted = torch.tensor([[math.cos(at), math.sin(at), 0.0]], dtype=torch.float64)
        torch.testing.assert_close(slerp(a, b, part), wanted)
        long = slerp(2 * a, 2 * b, part)
        torch.testing.assert_close(long, 2 * wanted)


def test_slerp_at_the_ends_and_in_one_direction() -> None:
    a, b = Noise(1, 4).normal("a", None, None, torch.empty(4, 3, 5)), Noise(2, 4).normal("a", None, None, torch.empty(4, 3, 5))
    mixed = slerp(a, b, [0.0, 1.0, 0.5, 0.0])
    assert torch.equal(mixed[0], a[0]) and torch.equal(mixed[1], b[1]) and torch.equal(mixed[3], a[3])
    assert torch.equal(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)
    assert torch.equal(slerp(torch.zeros_like(a), torch.zeros_like(a), 0.5), torch.zeros_like(a))


@pytest.mark.parametrize("part", [0.2, 0.5, 0.7])
def test_noise_between_noises_is_noise(part: float) -> None:
    """Mean 0, variance 1, kurtosis 3, and the correlation with either end that the arc promises; a straight mix would be too quiet."""
    like = torch.empty(8, 4, 64, 64)
    a, b = Noise(1, 8), Noise(2, 8)
    x = Between(a, b, [part] * 8).normal("start", None, None, like)
    n = x.numel()
    assert abs(float(x.mean())) < 4 / math.sqrt(n)
    assert abs(float(x.var()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float((x**4).mean()) - 3) < 4 * math.sqrt(96 / n)
    u, v = a.normal("start", None, None, like), b.normal("start", None, None, like)
    assert float((x * u).mean()) == pytest.approx(math.cos(part * math.pi / 2), abs=0.01)
    assert float((x * v).mean()) == pytest.approx(math.sin(part * math.pi / 2), abs=0.01)
    assert float(torch.lerp(u, v, part).var()) < 0.7


def test_a_row_does_not_depend_on_its_batch() -> None:
    pictures = [(3, 0), (3, 1), (9, 0), (3, 0), (3, 2), (1, 1), (9, 7)]
    like = torch.empty(7, 3, 5, 5)
    parts = [0.1, 0.9, 0.4, 0.1, 0.0, 1.0, 0.33]
    whole = Between(Rows(pictures), Noise(4, 7), parts).normal("step", None, None, like)
    for size in (1, 2):
        for k in range(0, 7, size):
            rows = slice(k, min(k + size, 7))
            noise = Between(Rows(pictures[rows]), Noise(4, range(rows.start, rows.stop)), parts[rows])
            assert torch.equal(noise.normal("step", None, None, like[rows]), whole[rows])
    assert torch.equal(
        Rows(pictures).normal("start", None, None, like)[2], Noise(9, [0]).normal("start", None, None, like[:1])[0]
    )
    with pytest.raises(SpecError, match="noise is for 7 images, the batch has 2"):
        Rows(pictures).normal("start", None, None, like[:2])


def sentence(length: int, seen: int, seed: int) -> Cond:
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(length)[None] < seen
    return Cond(torch.randn(1, length, 6, generator=g), mask, torch.randn(1, 4, generator=g))


def attended(cond: Cond, query: Tensor) -> Tensor:
    """What a query finds in a sentence by attention over its tokens."""
    assert cond.tokens is not None
    scores = (
        (cond.tokens[0] @ query).masked_fill(~cond.mask[0], -torch.inf) if cond.mask is not None else cond.tokens[0] @ query
    )
    return scores.softmax(0) @ cond.tokens[0]


@pytest.mark.parametrize("straight", [True, False])
@pytest.mark.parametrize(("m", "n"), [(3, 6), (4, 6), (5, 5), (3, 7)])
def test_sentences_of_unequal_length_meet_without_a_jump(m: int, n: int, straight: bool) -> None:
    """At the ends each is itself; near them attention finds nearly the same; what is masked has no part in it."""
    a, b = sentence(4, m, 0) if m < 4 else sentence(8, m, 0), sentence(9, n, 1)
    assert between.conds(a, b, 0.0) is a and between.conds(a, b, 1.0) is b
    query = torch.randn(6, generator=torch.Generator().manual_seed(5))
    for end, near in ((a, 1e-5), (b, 1 - 1e-5)):
        at = between.conds(a, b, near, straight=straight)
        assert at.tokens is not None and at.tokens.shape[1] == math.lcm(m, n) and at.mask is not None and bool(at.mask.all())
        torch.testing.assert_close(attended(at, query), attended(end, query), atol=1e-3, rtol=0)
    half = between.conds(a, b, 0.5, straight=straight)
    assert a.tokens is not None and b.tokens is not None and a.mask is not None and half.tokens is not None
    loud = a._replace(tokens=torch.where(a.mask[..., None], a.tokens, 1e6))
    assert torch.equal(between.conds(loud, b, 0.5, straight=straight).tokens, half.tokens)  # type: ignore[arg-type]
    way = torch.lerp if straight else slerp
    torch.testing.assert_close(half.tokens[:, 0], way(a.tokens[:, 0], b.tokens[:, 0], 0.5))
    torch.testing.assert_close(half.tokens[:, -1], way(a.tokens[:, m - 1], b.tokens[:, n - 1], 0.5))
    torch.testing.assert_close(half.vector, way(a.vector, b.vector, 0.5))  # type: ignore[arg-type]


def test_long_sentences_are_not_drawn_out_without_end() -> None:
    half = between.conds(sentence(77, 76, 0), sentence(77, 75, 1), 0.5)
    assert half.tokens is not None and half.tokens.shape == (1, 6 * 76, 6)


def test_sentences_without_a_mask_stay_without_one() -> None:
    a, b = sentence(5, 5, 0)._replace(mask=None), sentence(5, 5, 1)._replace(mask=None)
    half = between.conds(a, b, 0.5)
    assert half.mask is None and half.tokens is not None and half.tokens.shape == (1, 5, 6)
    drawn = between.conds(a, sentence(7, 7, 2)._replace(mask=None), 0.5)
    assert drawn.tokens is not None and drawn.tokens.shape[1] == 35 and drawn.mask is not None
