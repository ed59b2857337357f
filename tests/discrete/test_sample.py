"""Sampling a Markov chain by its exact denoiser: statistics of tokens and of pairs, carry-over, temperature, seeds."""

from __future__ import annotations

import pytest
import torch

from safelight.discrete import Ancestral, TokenProcess
from safelight.discrete.process import AbsorbingTokens, GaussianTokens, MaskedTokens, UniformTokens
from safelight.grid import Uniform
from safelight.noise import Noise
from safelight.sample import trajectory
from safelight.spec import SpecError
from tests.discrete.chains import Chain

CHAIN = Chain.random(tokens=3, length=8)


def run(process: TokenProcess, count: int, steps: int, temperature: float = 1.0, seed: int = 0, chain: Chain = CHAIN):
    noise = Noise(seed, count)
    x = process.drawn(noise.uniform("start", None, None, torch.empty(count, 1, 1, chain.length)), chain.tokens)
    levels = process.at(Uniform()(process, steps))
    return list(trajectory(chain.denoise(process, temperature), x, levels, Ancestral(process=process), noise))


@pytest.mark.parametrize(
    "process",
    [AbsorbingTokens(T=64), UniformTokens(T=64), GaussianTokens(T=64), MaskedTokens(), MaskedTokens(schedule="cosine")],
    ids=lambda p: f"{p.kind}-{getattr(p, 'schedule', '')}",
)
def test_the_chain_is_recovered(process: TokenProcess) -> None:
    """Total variation below 0.02 of tokens and of pairs of neighbours, in 64 steps; tokens drawn alone would be far off in pairs."""
    x = run(process, 3000, 64)[-1].x
    single, double = CHAIN.apart(x)
    assert single < 0.02 and double < 0.02
    shuffled = x.flatten()[torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0))].view(x.shape)
    assert CHAIN.apart(shuffled)[1] > 0.1


def test_fewer_steps_are_further_away() -> None:
    """Tokens that are drawn in one step are drawn independently: the pairs suffer, and only they."""
    far = [CHAIN.apart(run(MaskedTokens(), 2500, n)[-1].x) for n in (1, 4, 32)]
    assert far[0][1] > 2 * far[1][1] > 4 * far[2][1] / 2 and far[0][1] > 0.1
    assert all(single < 0.03 for single, _ in far)


def test_a_chain_may_be_walked_in_strides() -> None:
    """Some of its T entries, by the products of its matrices."""
    for process in (UniformTokens(T=128), GaussianTokens(T=128, last=0.1), AbsorbingTokens(T=128)):
        assert max(CHAIN.apart(run(process, 2500, 32)[-1].x)) < 0.03


@pytest.mark.parametrize("process", [MaskedTokens(), AbsorbingTokens(T=20)], ids=lambda p: p.kind)
def test_it_only_unmasks(process: TokenProcess) -> None:
    """From nothing but masks to none, each token set once and carried over; about n (1 - alpha) of them hidden on the way."""
    steps = run(process, 500, 20)
    mask = process.mask(CHAIN.tokens)
    assert bool((steps[0].before == mask).all()) and not bool((steps[-1].x == mask).any())
    for step in steps:
        known = step.before != mask
        assert torch.equal(step.x[known], step.before[known])
        hidden = float((step.x == mask).double().mean())
        assert hidden == pytest.approx(float(step.level.sigma), abs=0.03)


def test_at_temperature_0_every_token_is_the_likeliest() -> None:
    """One step from masks takes the arg max of p(x_0); many steps from one start end in few samples, at a probability above the rest."""
    (only,) = run(MaskedTokens(), 8, 1, temperature=0)
    assert torch.equal(only.x[:, 0, 0], only.estimate.x0[:, :, 0, 0].argmax(1).float())
    cold, warm = run(MaskedTokens(), 1000, 16, temperature=0)[-1].x, run(MaskedTokens(), 1000, 16)[-1].x
    assert CHAIN.surprise(cold) < CHAIN.surprise(warm) - 1 / CHAIN.length and len(cold.unique(dim=0)) < 0.3 * len(
        warm.unique(dim=0)
    )


def test_a_sample_is_its_own_in_any_batch() -> None:
    whole = run(UniformTokens(T=8), 6, 8)[-1].x
    noise = Noise(0, [4])
    process = UniformTokens(T=8)
    x = process.drawn(noise.uniform("start", None, None, torch.empty(1, 1, 1, CHAIN.length)), CHAIN.tokens)
    levels = process.at(Uniform()(process, 8))
    (*_, last) = trajectory(CHAIN.denoise(process), x, levels, Ancestral(process=process), noise)
    assert torch.equal(last.x[0], whole[4])


def test_no_noise_is_refused() -> None:
    process = MaskedTokens()
    with pytest.raises(SpecError, match="draws tokens by uniforms"):
        list(
            trajectory(
                CHAIN.denoise(process),
                torch.full((1, 1, 1, 8), 3.0),
                process.at(torch.tensor([1.0, 0.0])),
                Ancestral(process=process),
            )
        )
