"""Guidance: the formula, the branches it asks for, the limits where it must vanish."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from safelight.denoise import Estimate
from safelight.process import Level
from safelight.spec import SpecError, build

PROCESS = build("cosine", "process")
X = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))


class Two:
    """Two known branches, and a note of what was asked."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(1)
        self.x0 = {name: torch.randn(4, 1, 5, 5, generator=g) for name in ("cond", "null")}
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, x: Tensor, level: Level, names: tuple[str, ...]) -> Mapping[str, Estimate]:
        self.asked.append(names)
        return {name: Estimate(self.x0[name]) for name in names}


def test_cfg_formula() -> None:
    two = Two()
    found = build({"kind": "cfg", "scale": 3.5}, "mix")(two)(X, PROCESS.at(0.5))
    torch.testing.assert_close(found.x0, two.x0["null"] + 3.5 * (two.x0["cond"] - two.x0["null"]))
    assert set(found.parts) == {"cond", "null"}


def test_cfg_is_the_same_in_the_noise() -> None:
    """Mixing x0 and mixing eps are one thing, at any level."""
    two, level = Two(), PROCESS.at(0.3)
    alpha, sigma, _ = level.floats
    guided = build({"kind": "cfg", "scale": 2.0}, "mix")(two)(X, level).x0
    eps = {name: (X - alpha * x0) / sigma for name, x0 in two.x0.items()}
    torch.testing.assert_close(
        (X - alpha * guided) / sigma, eps["null"] + 2 * (eps["cond"] - eps["null"]), rtol=1e-4, atol=1e-5
    )


def test_scale_one_and_none_are_the_condition_alone_in_one_pass() -> None:
    for spec in ({"kind": "cfg", "scale": 1.0}, "none"):
        two = Two()
        assert torch.equal(build(spec, "mix")(two)(X, PROCESS.at(0.5)).x0, two.x0["cond"])
        assert two.asked == [("cond",)]


def test_interval() -> None:
    two = Two()
    guided = build({"kind": "cfg", "scale": 2.0, "interval": [0.2, 0.7]}, "mix")(two)
    for t in (0.1, 0.3, 0.7, 0.9):
        guided(X, PROCESS.at(t))
    assert two.asked == [("cond",), ("cond", "null"), ("cond", "null"), ("cond",)]


def test_rescale_restores_the_spread() -> None:
    two = Two()
    full = build({"kind": "cfg", "scale": 5.0, "rescale": 1.0}, "mix")(two)(X, PROCESS.at(0.5)).x0
    torch.testing.assert_close(full.flatten(1).std(1), two.x0["cond"].flatten(1).std(1))
    plain = build({"kind": "cfg", "scale": 5.0}, "mix")(two)(X, PROCESS.at(0.5)).x0
    half = build({"kind": "cfg", "scale": 5.0, "rescale": 0.5}, "mix")(two)(X, PROCESS.at(0.5)).x0
    torch.testing.assert_close(half, (full + plain) / 2)


@pytest.mark.parametrize("interval", [[0.5, 0.5], [-0.1, 1], [0, 1.5]])
def test_bad_interval(interval: list[float]) -> None:
    with pytest.raises(SpecError, match="interval must be 0 <= low < high <= 1"):
        build({"kind": "cfg", "interval": interval}, "mix")


def bent(x0: Tensor, **fields: float) -> Tensor:
    denoise = build({"kind": "threshold", **fields}, "bend")(lambda x, level: Estimate(x0))
    return denoise(x0, PROCESS.at(0.5)).x0


def test_threshold_keeps_what_is_inside() -> None:
    x0 = X / X.abs().max()
    assert torch.equal(bent(x0), x0)


def test_threshold_formula() -> None:
    """clip(x0, -m, m)/m with m the quantile of |x0| over each picture."""
    x0 = X * torch.tensor([1.0, 2, 3, 4]).view(-1, 1, 1, 1)
    found = bent(x0, percentile=0.8)
    for i in range(4):
        m = max(1.0, float(x0[i].abs().flatten().sort().values[19]))
        torch.testing.assert_close(found[i], x0[i].clamp(-m, m) / m)
    assert float(found.abs().max()) <= 1


def test_threshold_limit_is_clipping() -> None:
    torch.testing.assert_close(bent(3 * X, limit=1.0), (3 * X).clamp(-1, 1))


def test_threshold_bound_is_the_range_of_latents() -> None:
    """Latents of unit variance go beyond 1: within `bound` nothing changes, in any number of channels; beyond it, it is the rule."""
    z = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(bent(z, bound=5.0), z)
    found = bent(4 * z, bound=5.0)
    m = (4 * z).abs().flatten(1).sort(1).values[:, round(0.995 * 1024) - 1].view(-1, 1, 1, 1)
    assert float(m.min()) > 5
    torch.testing.assert_close(found, (4 * z).clamp(-m, m) * 5 / m)


def test_rescaling_leaves_flat_pictures_alone() -> None:
    flat = {"cond": Estimate(torch.full((2, 1, 3, 3), 0.5)), "null": Estimate(torch.full((2, 1, 3, 3), 0.25))}
    guided = build({"kind": "cfg", "scale": 3.0, "rescale": 1.0}, "mix")(lambda x, level, names: flat)
    level = build("flow", "process").at(torch.tensor(0.5, dtype=torch.float64))
    assert torch.equal(guided(torch.zeros(2, 1, 3, 3), level).x0, torch.full((2, 1, 3, 3), 1.0))
    one = {name: Estimate(e.x0[..., :1, :1]) for name, e in flat.items()}  # no spread at all
    found = build({"kind": "cfg", "scale": 3.0, "rescale": 1.0}, "mix")(lambda x, level, names: one)
    assert torch.equal(found(torch.zeros(2, 1, 1, 1), level).x0, torch.full((2, 1, 1, 1), 1.0))
