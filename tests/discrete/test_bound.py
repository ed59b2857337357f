"""The bound on a chain whose entropy is known: never below it, tight for the exact denoiser but for the steps' gap, right term by term."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from safelight.discrete import TokenProcess
from safelight.discrete.bound import FIRST, cross_entropy, prior_term, term, times
from safelight.discrete.process import AbsorbingTokens, GaussianTokens, MaskedTokens, UniformTokens
from safelight.evaluate.tokens import Bound, alone, bound, paired
from tests.discrete.chains import Chain

CHAIN = Chain.random(tokens=3, length=4)


def exact(chain: Chain, process: TokenProcess):
    """The exact denoiser as logits."""
    return lambda x, t: chain.believed(process, x, t).clamp(min=1e-30).log().float()


def measured(chain: Chain, process: TokenProcess, count: int, draws: int) -> Bound:
    x0 = chain.sample(count, seed=1)
    return list(bound(process, exact(chain, process), x0, chain.tokens, draws=draws, batch=5000))[-1]


def summed(chain: Chain, process: TokenProcess) -> float:
    """The bound by summing over every x_0, every step and every x_t: no sampling at all. Nats a token."""
    k, n, states = chain.tokens, chain.length, process.states(chain.tokens)
    xs = torch.tensor(list(itertools.product(range(k), repeat=n)))
    p = chain.first[xs[:, 0]] * math.prod(chain.step[xs[:, i], xs[:, i + 1]] for i in range(n - 1))
    ys = torch.tensor(list(itertools.product(range(states), repeat=n))).view(-1, 1, 1, n).float()
    whole = float((p * prior_term(process, xs.view(-1, 1, 1, n), k)).sum())
    for i in range(1, process.entries + 1):
        t = torch.tensor([i / process.entries], dtype=torch.float64)
        q = process.matrix(torch.zeros_like(t), t, k)[0]
        logits = chain.believed(process, ys, t.expand(len(ys))).clamp(min=1e-300).log()
        for x, weight in zip(xs, p, strict=True):
            chance = math.prod(q[x[j], ys[:, 0, 0, j].long()] for j in range(n))
            value = term(process, logits, x.view(1, 1, 1, n).expand(len(ys), -1, -1, -1).float(), ys, t.expand(len(ys)))
            whole += float(weight * (chance * value)[chance > 0].sum()) / process.entries
    return whole


@pytest.mark.parametrize("kind", [AbsorbingTokens, UniformTokens, GaussianTokens], ids=lambda c: c.kind)
def test_summed_over_everything_it_falls_to_the_entropy(kind) -> None:
    """Not below the entropy to the last digit at any T; twice the steps leave about half of the gap, so it is tight as T grows.

    For `gaussian` L_T is large where T is small, since betas are bounded; it is part of the sum.
    """
    chain = Chain.random(tokens=2, length=2 if kind is AbsorbingTokens else 3)
    options = {"first": 0.02, "last": 0.2} if kind is GaussianTokens else {}
    gaps = [summed(chain, kind(T=T, **options)) - chain.entropy for T in (4, 8, 16)]
    assert all(gap > -1e-12 for gap in gaps)
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.65 * gaps[1]
    assert gaps[2] < 0.35 * (chain.alone - chain.entropy)


def test_sampled_terms_are_those_summed() -> None:
    """The estimate of `bound` is that sum, within its own standard error, and its parts are the bound's."""
    chain, process = Chain.random(tokens=2, length=3), UniformTokens(T=8)
    found = measured(chain, process, 20_000, 6)
    assert found.error < 0.004 and abs(found.nats - summed(chain, process)) < 4 * found.error
    assert found.nats == pytest.approx(found.prior + found.middle + found.first)
    assert found.prior == pytest.approx(0, abs=1e-9) and found.bits == pytest.approx(found.nats / math.log(2))
    gaussian = measured(chain, GaussianTokens(T=4), 5000, 2)
    rows = GaussianTokens(T=4).matrix(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 2)[0]
    assert gaussian.prior == pytest.approx(float((rows[0] * (2 * rows[0]).log()).sum()), rel=1e-6) and gaussian.prior > 0.01


@pytest.mark.parametrize("schedule", ["linear", "cosine", "squared-cosine"])
def test_in_continuous_time_the_exact_denoiser_reaches_the_entropy(schedule: str) -> None:
    """Masked diffusion is an average over orders of the chain rule: the bound is the entropy, whatever the schedule."""
    found = measured(CHAIN, MaskedTokens(schedule=schedule), 20_000, 8)
    least = CHAIN.surprise(CHAIN.sample(20_000, seed=1))
    assert found.error < 0.005 and abs(found.nats - least) < 3 * found.error + 1e-3 * CHAIN.entropy
    assert CHAIN.entropy < 0.9 * CHAIN.alone  # so that knowing no neighbours would show
    assert found.first == pytest.approx(FIRST * CHAIN.entropy, rel=1) and found.prior == 0


def test_a_denoiser_without_neighbours_gets_the_entropy_of_a_token() -> None:
    """log p = log of the frequencies: the bound in continuous time is then the unigram entropy, and so is `alone`."""
    frequent = CHAIN.first.log().float().view(1, -1, 1, 1, 1)
    x0 = CHAIN.sample(20_000)
    found = list(bound(MaskedTokens(), lambda x, t: frequent.expand(len(x), -1, 1, 1, CHAIN.length), x0, 3, batch=5000))[-1]
    assert abs(found.nats - CHAIN.alone) < 3 * found.error + 2e-3
    assert alone(x0, 3) == pytest.approx(CHAIN.alone, abs=0.01)
    rate = CHAIN.entropy * CHAIN.length - CHAIN.alone
    assert paired(x0, 3) == pytest.approx(rate / (CHAIN.length - 1), abs=0.01)


def test_every_sample_has_draws_of_its_own() -> None:
    """The number does not depend on the batch, and the running result of a batch is that of its samples alone."""
    x0, process = CHAIN.sample(30), MaskedTokens()
    whole = list(bound(process, exact(CHAIN, process), x0, 3, batch=30))[-1]
    parts = list(bound(process, exact(CHAIN, process), x0, 3, batch=10))
    assert [p.samples for p in parts] == [10, 20, 30] and parts[-1].nats == pytest.approx(whole.nats, rel=1e-9)
    torch.testing.assert_close(parts[-1].by_time, whole.by_time, equal_nan=True)
    first = list(bound(process, exact(CHAIN, process), x0[:10], 3))[-1]
    assert parts[0].nats == pytest.approx(first.nats, rel=1e-9)


def test_times_fall_on_entries_and_what_is_known_costs_nothing() -> None:
    u = torch.tensor([0.0, 0.1, 0.25, 0.26, 1.0], dtype=torch.float64)
    assert times(UniformTokens(T=4), u).tolist() == [0.25, 0.25, 0.25, 0.5, 1.0]
    assert times(MaskedTokens(), u).tolist() == [FIRST, 0.1, 0.25, 0.26, 1.0]
    logits = torch.zeros(1, 3, 1, 1, 4)
    x0, x = torch.tensor([[[[0.0, 1, 2, 0]]]]), torch.tensor([[[[3.0, 1, 3, 0]]]])
    assert float(cross_entropy(MaskedTokens(), logits, x0, x)) == pytest.approx(math.log(3) / 2)
    assert float(cross_entropy(UniformTokens(), logits, x0, x0)) == pytest.approx(math.log(3))
