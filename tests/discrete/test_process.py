"""Chains of tokens against their definitions: matrices multiplied out, posteriors by Bayes, draws by counting."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from safelight.discrete import TokenProcess
from safelight.discrete.bound import prior_term
from safelight.discrete.process import AbsorbingTokens, GaussianTokens, MaskedTokens, UniformTokens, draw
from safelight.spec import SpecError

K, T = 5, 12
CHAINS = [
    *(UniformTokens(T=T, schedule=s) for s in ("linear", "cosine", "squared-cosine")),
    *(AbsorbingTokens(T=T, schedule=s) for s in ("linear", "cosine", "squared-cosine")),
    GaussianTokens(T=T),
]
MASKED = [MaskedTokens(schedule=s) for s in ("linear", "cosine", "squared-cosine")]
ALL = pytest.mark.parametrize("process", [*CHAINS, *MASKED], ids=lambda p: f"{p.kind}-{getattr(p, 'schedule', '')}")


def at(*times: float) -> torch.Tensor:
    return torch.tensor(times, dtype=torch.float64)


@ALL
def test_transitions_multiply_and_end_in_the_prior(process: TokenProcess) -> None:
    """Chapman and Kolmogorov: Q_{r->t} = Q_{r->s} Q_{s->t}; rows are distributions; Q_{0->1} is the prior, but for `gaussian`."""
    r, s, t = at(0, 3 / T, 5 / T), at(2 / T, 4 / T, 7 / T), at(5 / T, 5 / T, 1)
    whole = process.matrix(r, t, K)
    torch.testing.assert_close(process.matrix(r, s, K) @ process.matrix(s, t, K), whole, rtol=0, atol=1e-12)
    n = process.states(K)
    assert whole.shape == (3, n, n) and float(whole.min()) >= 0
    torch.testing.assert_close(whole.sum(2), torch.ones(3, n, dtype=torch.float64), rtol=0, atol=1e-12)
    end = process.matrix(at(0), at(1), K)[0]
    if process.kind == "gaussian":
        assert 1e-3 < float((end - process.prior(K)).abs().max()) < 0.2
    else:
        assert torch.equal(end, process.prior(K).expand(n, n)) and float(process.keep(at(1))) == 0
        assert float(prior_term(process, torch.arange(K).view(1, 1, 1, K), K).abs().max()) < 1e-12
    assert torch.equal(process.matrix(at(0), at(0), K)[0], torch.eye(n, dtype=torch.float64))


def test_the_kinds_are_their_definitions() -> None:
    """D3PM's appendix A.2, entry by entry; alpha of the schedules of Shi et al. 2024, table 1."""
    i = torch.arange(1, T + 1, dtype=torch.float64)
    for process in (UniformTokens(T=T), AbsorbingTokens(T=T)):
        beta = 1 / (T - i + 1)  # D3PM, section 3.1
        n = process.states(K)
        expected = (1 - beta)[:, None, None] * torch.eye(n, dtype=torch.float64)
        if process.kind == "uniform":
            expected = expected + beta[:, None, None] / K
        else:
            expected[:, :, K] += beta[:, None]
        torch.testing.assert_close(process.matrix((i - 1) / T, i / T, K), expected, rtol=0, atol=1e-12)
    t = at(0, 0.25, 0.5, 1)
    torch.testing.assert_close(MaskedTokens().keep(t), 1 - t)
    torch.testing.assert_close(MaskedTokens(schedule="cosine").keep(t), 1 - torch.cos(math.pi / 2 * (1 - t)))
    torch.testing.assert_close(MaskedTokens(schedule="squared-cosine").keep(t), torch.cos(math.pi / 2 * t).square())
    gaussian = GaussianTokens(T=1000)
    q = gaussian.matrix(at(0.999), at(1), K)[0]
    z = sum(math.exp(-4 * n * n / ((K - 1) ** 2 * 0.02)) for n in range(1 - K, K))
    assert float(q[1, 3]) == pytest.approx(math.exp(-4 * 4 / (16 * 0.02)) / z, rel=1e-9)
    torch.testing.assert_close(q, q.T)


@pytest.mark.parametrize("process", MASKED, ids=lambda p: p.schedule)
def test_the_rate_is_the_hazard_of_unmasking(process: MaskedTokens) -> None:
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64).requires_grad_()
    slope = torch.autograd.grad(process.keep(t).sum(), t)[0]
    torch.testing.assert_close(process.fall(t.detach()), -slope)
    torch.testing.assert_close(process.rate(t.detach()), (-slope / (1 - process.keep(t))).detach())


@ALL
def test_the_posterior_is_bayes(process: TokenProcess) -> None:
    """q(x_s | x_t, x_0) from the joint of the chain, for every x_0 and every x_t that it can become, and mixtures over x_0 of it."""
    s, t = at(4 / T), at(7 / T)
    n = process.states(K)
    early, late = process.matrix(at(0), s, K)[0], process.matrix(s, t, K)[0]
    joint = early[:K, :, None] * late  # (x_0, x_s, x_t)
    whole = joint.sum(1)
    x = torch.arange(n).view(1, n).float()
    for k in range(K):
        found = process.posterior(x, F.one_hot(torch.full((1, n), k), K).double(), s, t, K)[0]  # (x_t, x_s)
        for y in range(n):
            if whole[k, y] > 0:
                torch.testing.assert_close(found[y], joint[k, :, y] / whole[k, y], rtol=0, atol=1e-12)
    p0 = torch.rand(1, n, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    found = process.posterior(x, p0, s, t, K)[0]
    torch.testing.assert_close(found.sum(1), torch.ones(n, dtype=torch.float64))
    for y in range(n):
        p = p0[0, y] * (whole[:, y] > 0)
        expected = sum(p[k] / p.sum() * joint[k, :, y] / whole[k, y] for k in range(K) if whole[k, y] > 0)
        torch.testing.assert_close(found[y], expected, rtol=0, atol=1e-12)


@ALL
def test_draws_have_their_distribution(process: TokenProcess) -> None:
    count, t = 40_000, at(6 / T)
    u = torch.rand(K, 1, 1, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0 = torch.arange(K).view(K, 1, 1, 1).expand(-1, 1, 1, count).float()
    x = process.noised(x0, t.expand(K), u, K)
    assert x.dtype == x0.dtype and x.shape == x0.shape
    row = process.matrix(at(0), t, K)[0]
    for k in range(K):
        counted = torch.bincount(x[k].flatten().long(), minlength=len(row)).double() / count
        assert float((counted - row[k]).abs().max()) < 4 / math.sqrt(count)
    assert torch.equal(process.noised(x0, at(0).expand(K), u, K), x0)


def test_a_mask_leaves_once_and_what_is_known_stays() -> None:
    """Sahoo et al. 2024, eq. 6: unmasked with chance (alpha_s - alpha_t)/(1 - alpha_t), by p0; carried over with certainty."""
    for process in MASKED:
        s, t = at(0.3), at(0.6)
        p0 = torch.tensor([[[0.1, 0.2, 0.3, 0.4, 0.0]] * 2], dtype=torch.float64)
        found = process.posterior(torch.tensor([[K, 2.0]]), p0, s, t, K)[0]
        a, b = process.keep(s), process.keep(t)
        torch.testing.assert_close(found[0, :K], (a - b) / (1 - b) * p0[0, 0])
        torch.testing.assert_close(found[0, K:], (1 - a) / (1 - b))
        assert (found[1] > 0).tolist() == [False, False, True, False, False, False]
        # Even where the network believes that the token cannot be what it is.
        sure = process.posterior(torch.tensor([[4.0, 4.0]]), p0, s, t, K)[0]
        assert (sure[0] > 0).tolist() == [False] * 4 + [True, False]


def test_a_draw_never_lands_where_no_probability_is() -> None:
    p = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0], dtype=torch.float64)
    u = torch.tensor([1e-12, 0.25, 0.2500001, 1 - 1e-12, 1.0], dtype=torch.float64)
    assert draw(p.expand(5, -1), u).tolist() == [1, 1, 3, 3, 3]
    assert draw(8 * p.expand(5, -1), u).tolist() == [1, 1, 3, 3, 3]


def test_a_continuous_process_has_no_entry_before() -> None:
    assert torch.equal(UniformTokens(T=4).before(at(0.25, 1)), at(0, 0.75))
    with pytest.raises(SpecError, match="'masked' is continuous"):
        MaskedTokens().before(at(0.5))
