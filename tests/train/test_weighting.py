"""Every weighting is its paper's formula, one and the same loss through every parameterization, and finite at zero terminal SNR."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from safelight.process import Process
from safelight.spec import build, kinds, parse
from safelight.train.objective import Match
from safelight.train.weighting import P2, SNR, MinSNR, PseudoHuber, Sigmoid, SoftMinSNR, Weighting
from tests.train.belief import losses

# w of the squared error of x0, from the papers: (weighting, f(SNR, process, t)).
Formula = Callable[[Tensor, Process, Tensor], Tensor]
PUBLISHED: dict[str, tuple[Weighting, Formula]] = {
    "p2": (P2(k=1.0, gamma=0.5), lambda snr, process, t: snr / (1 + snr).sqrt()),
    "p2 of k 3": (P2(k=3.0), lambda snr, process, t: snr / (3 + snr)),
    "soft-min-snr": (SoftMinSNR(), lambda snr, process, t: 1 / (1 / snr + 0.25)),
    "sigmoid": (Sigmoid(bias=-1.0), lambda snr, process, t: -rate(process, t) / 2 * torch.sigmoid(-1 - snr.log()) * snr),
}


def rate(process: Process, t: Tensor) -> Tensor:
    """d logsnr / dt, by differences."""
    h = 1e-6
    return (process.logsnr(t + h) - process.logsnr(t - h)) / (2 * h)


@pytest.mark.parametrize("process", ["linear", "cosine", "edm", "flow"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_weighted_losses_agree_across_parameterizations(process: str, name: str) -> None:
    torch.manual_seed(0)
    x0, belief, eps = (torch.randn(6, 1, 8, 8, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.0501, 0.9501, 6, dtype=torch.float64)
    where = build(process, "process")
    weighting, formula = PUBLISHED[name]
    expected = formula(torch.exp(where.logsnr(t)), where, t) * (belief - x0).square().flatten(1).mean(1)
    for kind in kinds("parameterization"):
        found = losses(Match(weighting=weighting), kind, process, t, x0, belief, eps)
        torch.testing.assert_close(
            found, expected, rtol=1e-6 if name == "sigmoid" else 1e-9, atol=0, msg=f"{kind} on {process}"
        )


@pytest.mark.parametrize("process", ["cosine", "flow", "vp", "sub-vp", "ve", "edm", "linear", {"kind": "flow", "shift": 3.0}])
def test_the_sigmoid_loss_does_not_depend_on_the_process(process: str | dict[str, object]) -> None:
    """E_t[w out^2] of eps at even times is 1/2 int sigmoid(bias - lambda) dlambda between the ends, whatever lies between them."""
    where, eps = parse(process, "process"), build("eps", "parameterization")
    assert isinstance(where, Process)
    ends = where.time(torch.tensor([8.0, -4.0], dtype=torch.float64))
    low, high = (float(v) for v in where.logsnr(ends.flip(0)))
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    level = where.at(ends[0] + u * (ends[1] - ends[0]))
    weights = Sigmoid(bias=1.0).on_network(level, eps.coeffs(level, where).out)
    found = float(weights.mean() * (ends[1] - ends[0]))
    expected = 0.5 * (math.log1p(math.exp(1 - low)) - math.log1p(math.exp(1 - high)))
    assert found == pytest.approx(expected, rel=1e-4)


def test_limits() -> None:
    """P2 of gamma 0 is SNR; soft-min-SNR is min-SNR far from its corner and half of it there; a large bias is the ELBO."""
    process, v = build("cosine", "process"), build("v", "parameterization")
    level = process.at(torch.linspace(0.02, 0.98, 9, dtype=torch.float64))
    out = v.coeffs(level, process).out
    torch.testing.assert_close(P2(gamma=0.0).on_network(level, out), SNR().on_network(level, out))
    far = process.at(process.time(torch.tensor([-12.0, math.log(4), 16.0], dtype=torch.float64)))
    sides = v.coeffs(far, process).out
    ratio = SoftMinSNR(gamma=4).on_network(far, sides) / MinSNR(gamma=4).on_network(far, sides)
    torch.testing.assert_close(ratio, torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64), rtol=1e-4, atol=0)
    t = level.t
    elbo = -(torch.exp(process.logsnr(t + 1e-6)) - torch.exp(process.logsnr(t - 1e-6))) / 4e-6 * out.square()
    torch.testing.assert_close(Sigmoid(bias=60.0).on_network(level, out), elbo, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", sorted(kinds("weighting")))
@pytest.mark.parametrize("name", ["x0", "v", "velocity"])
@pytest.mark.parametrize(
    "process", [{"kind": "linear", "zero_terminal_snr": True}, {"kind": "cosine"}, {"kind": "flow", "shift": 3.0}]
)
def test_finite_at_zero_terminal_snr(kind: str, name: str, process: dict[str, object]) -> None:
    there, parameterization = parse(process, "process"), build(name, "parameterization")
    assert isinstance(there, Process)
    level = there.at(torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert float(level.alpha[0]) == 0
    found = build(kind, "weighting").on_network(level, parameterization.coeffs(level, there).out)
    assert torch.isfinite(found).all() and (found >= 0).all()


def test_pseudo_huber_is_a_square_then_a_line() -> None:
    a = torch.tensor([[1e-4, 0.03, 5.0]], dtype=torch.float64)
    zero, c = torch.zeros_like(a), 0.03
    found = PseudoHuber(c=c)(a, zero)
    torch.testing.assert_close(found, (a.square() + c**2).sqrt() - c, rtol=1e-9, atol=0)
    assert float(found[0, 0]) == pytest.approx(1e-8 / (2 * c), rel=1e-4)
    assert float(found[0, 2]) == pytest.approx(5 - c, rel=1e-4)
    small = torch.tensor([[1e-6]])
    assert float(PseudoHuber(c=1.0)(small, torch.zeros(1, 1))) == pytest.approx(5e-13, rel=1e-5)  # float32 would lose it in c


def test_the_pseudo_huber_of_whole_pictures_is_the_consistency_models() -> None:
    """sqrt(|x - y|^2 + c'^2) - c' with c' = 0.00054 sqrt(D) is sqrt(D) times ours."""
    a, b = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64).unbind(0)
    d = 3 * 8 * 8
    c = 0.00054 * math.sqrt(d)
    theirs = ((a - b).flatten(1).square().sum(1) + c**2).sqrt() - c
    ours = PseudoHuber(c=0.00054, whole=True)(a, b).flatten(1).mean(1)
    torch.testing.assert_close(ours * math.sqrt(d), theirs)
