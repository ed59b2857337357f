"""`bind`: everything constant over a run made once, and the same output as forward."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.nn.attention import TransformerSpec
from safelight.nn.dit import DiTSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.norm import GroupNormSpec
from safelight.nn.told import Bound, ToldNetwork
from safelight.nn.unet import UNetSpec
from safelight.spec import SpecError, kinds

NOISES = (999.0, 701.3, 333.1, 50.7, 0.0)


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nets(cond: int = 4) -> list[ToldNetwork]:
    """A U-Net with text, and DiTs of every kind of block with and without text; none of their weights zero."""
    torch.manual_seed(0)
    look = TransformerSpec(head_width=8, norm=GroupNormSpec(groups=4))
    unet = UNetSpec(
        widths=(8, 16),
        depth=1,
        skips=2,
        norm=GroupNormSpec(groups=4),
        attention=(look,),
        middle=look,
        time=16,
        cond=cond,
        context=6,
    )
    waves = SinusoidSpec(width=16)
    dits = [
        DiTSpec(width=32, depth=2, heads=4, cond=cond, context=context, embedding=waves, block=kind)
        for kind in kinds("dit-block")
        for context in (0, 6)
    ]
    built = [spec.build().eval() for spec in (unet, *dits)]
    for net in built:
        for p in net.parameters():
            nn.init.normal_(p, std=0.1)
    return built


def everything(b: int) -> Cond:
    """A condition of batch b."""
    return Cond(tokens=draw(b, 3, 6), mask=torch.tensor([[True, True, False]] * b), vector=draw(b, 4))


def check(net: ToldNetwork, bound: Bound, cond: Cond, x: Tensor, noise: Tensor) -> None:
    """Bound and forward agree to rounding."""
    want, got = net(x, noise, cond).F, bound(x, noise).F
    assert (got - want).abs().max() <= 1e-6 * want.abs().max().clamp(min=1)


@pytest.mark.parametrize("rows", [2048, 3, 1])
@pytest.mark.parametrize("b", [1, 4])
def test_bound_equals_forward(b: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed noises in and out of order, unlisted ones, one a picture; tables of several sizes; cond of batch 1 for any batch."""
    monkeypatch.setattr(Bound, "ROWS", rows)
    for net in nets():
        cond = everything(b)
        bound = net.bind(cond, NOISES)
        with torch.inference_mode():
            for value in (*NOISES, NOISES[0], 123.4, NOISES[3]):
                for shape in ((b,), (1,), ()):
                    check(net, bound, cond, draw(b, 1, 9, 7), torch.full(shape, value, dtype=torch.float64))
            check(net, bound, cond, draw(b, 1, 9, 7), torch.linspace(0, 900, b))
            if b == 1:
                check(net, bound, cond, draw(5, 1, 9, 7), torch.full((5,), NOISES[1]))
                check(net, bound, cond, draw(5, 1, 9, 7), torch.linspace(0, 900, 5))


def test_the_two_halves_of_guidance_in_one_batch() -> None:
    """A batch of 2 B, conditions and null conditions, gives each half what it gives alone."""
    for net in nets():
        cond, whole = everything(2), torch.ones(2, 3, dtype=torch.bool)
        null = Cond(tokens=draw(2, 3, 6, seed=5), mask=whole, vector=torch.zeros(2, 4))
        x, noise = draw(2, 1, 8, 8), torch.full((2,), NOISES[1])
        both = net.bind(Cond.cat((cond, null)), NOISES)(torch.cat((x, x)), torch.cat((noise, noise))).F
        for half, c in zip(both.chunk(2), (cond, null), strict=True):
            want = net(x, noise, c).F
            assert (half - want).abs().max() <= 1e-6 * want.abs().max().clamp(min=1)


def test_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps of a listed run ask for the time once and for the words once."""
    for net in nets():
        asked = {name: Mock(wraps=getattr(net, name)) for name in ("tell", "read")}
        for name, mock in asked.items():
            monkeypatch.setattr(net, name, mock)
        bound = net.bind(everything(2), NOISES)
        with torch.inference_mode():
            for _ in range(4):
                for value in NOISES:
                    bound(draw(2, 1, 8, 8), torch.full((2,), value))
        assert {name: mock.call_count for name, mock in asked.items()} == {"tell": 1, "read": 1}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bound, "ROWS", 8)
    net = nets()[1]
    bound = net.bind(everything(4), range(100))
    for value in range(100):
        bound(draw(4, 1, 4, 4), torch.full((4,), float(value)))
        assert len(bound._told) <= 2


def test_gradient_to_the_picture_passes() -> None:
    """Guidance by a gradient asks for it, also after the tables were made in inference mode."""
    for net in nets():
        cond, noise = everything(2), torch.full((2,), NOISES[0])
        bound = net.bind(cond, NOISES)
        with torch.inference_mode():
            bound(draw(2, 1, 8, 8), noise)
        grads = []
        for f in (bound, lambda x, noise, net=net, cond=cond: net(x, noise, cond)):
            x = draw(2, 1, 8, 8).requires_grad_()
            grads.append(torch.autograd.grad(f(x, noise).F.square().sum(), x)[0])
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)


def test_without_a_condition() -> None:
    torch.manual_seed(0)
    net = DiTSpec(width=32, depth=1, heads=4).build()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    check(net, net.bind(None, NOISES), Cond(), draw(3, 1, 8, 8), torch.full((3,), NOISES[2]))


def test_rows_that_do_not_pair_are_one_line() -> None:
    for net in nets():
        with pytest.raises(SpecError, match="cond.vector: 3 rows for 2 noise values"):
            net(draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), everything(3))
