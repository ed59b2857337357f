"""Learning-rate curves against their formulas; optimizers against torch's own, and their flag for skipping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from safelight.train import Plan
from safelight.train.optim import Adam, AdamW, Constant, Cosine, InverseSqrt, Schedule


@pytest.mark.parametrize("kind", [Constant(warmup=10), Cosine(warmup=10), InverseSqrt(warmup=10, flat=10)], ids=repr)
def test_warmup_is_linear_and_ends_at_the_peak(kind: Schedule) -> None:
    assert [kind.scale(s, 100) for s in range(10)] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert kind.scale(9, 100) == 1
    assert kind.scale(10, 100) == pytest.approx(1, rel=0.06)


def test_cosine_ends_exactly_at_its_final_value() -> None:
    kind = Cosine(warmup=5, final=0.1)
    assert kind.scale(99, 100) == pytest.approx(0.1)
    assert kind.scale(150, 100) == pytest.approx(0.1)
    assert Cosine().scale(99, 100) == pytest.approx(0, abs=1e-15)
    middle = 5 + (99 - 5) / 2
    assert kind.shape(int(middle), 100) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * (int(middle) - 5) / 94)) / 2)


def test_inverse_sqrt() -> None:
    kind = InverseSqrt(flat=100)
    assert kind.scale(99, 10**6) == 1
    assert kind.scale(399, 10**6) == pytest.approx(0.5)
    assert kind.scale(9_999, 10**6) == pytest.approx(0.1)


def test_accumulation_does_not_stretch_the_curve() -> None:
    """Counted in optimizer steps: the same images in the same number of steps, the same rates, ending at 0."""
    one = Plan(batch=24, images=2400, schedule=Cosine(warmup=3))
    three = Plan(batch=8, accumulation=3, images=2400, schedule=Cosine(warmup=3))
    assert one.length(999) == three.length(999) == 100
    rates = [[plan.lr(s, 100) for s in range(100)] for plan in (one, three)]
    assert rates[0] == rates[1]
    assert rates[0][-1] == pytest.approx(0, abs=1e-18)


def test_lengths_round_up() -> None:
    assert Plan(batch=128, epochs=5).length(60_000) == 2344
    assert Plan(batch=128, accumulation=2, images=257).length(60_000) == 2
    assert Plan(steps=7).length(1) == 7


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))


def _train(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    for k in range(5):
        optimizer.zero_grad()
        net(torch.linspace(-1, 1, 12).view(3, 4) * (k + 1)).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def test_adam_is_adam() -> None:
    mine, theirs = _net(), _net()
    ours = _train(mine, Adam(lr=1e-2, betas=(0.8, 0.95)).make(mine.parameters()))
    ref = _train(theirs, torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.8, 0.95)))
    for a, b in zip(ours, ref, strict=True):
        torch.testing.assert_close(a, b)


def test_adamw_decays_matrices_alone() -> None:
    """With zero gradients what is left of a weight is (1 - lr decay)^n, and gains and biases do not move."""
    net = _net()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = AdamW(lr=0.1, weight_decay=0.5).make(net.parameters())
    for _ in range(3):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    for p, old in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (0.95**3 if p.ndim >= 2 else 1.0))


def test_a_fused_optimizer_reads_the_flag() -> None:
    """What the guard relies on where it does not look: found_inf = 1 leaves weights, moments and step counts alone."""
    net = _net()
    optimizer = AdamW(lr=0.1).make(net.parameters())
    assert optimizer.defaults["fused"]
    _train(net, optimizer)
    weights = [p.detach().clone() for p in net.parameters()]
    state = {k: [v.clone() for v in s.values()] for k, s in enumerate(optimizer.state.values())}
    for p in net.parameters():
        p.grad = torch.full_like(p, math.nan)
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    for k, slots in enumerate(optimizer.state.values()):
        assert all(torch.equal(a, b) for a, b in zip(state[k], slots.values(), strict=True))
