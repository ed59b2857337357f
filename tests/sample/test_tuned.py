"""`tuned`: fitted weights are taken as they are said to be, and no others than they were fitted for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.denoise import Estimate
from safelight.evaluate.tune import abm, ratios
from safelight.noise import Noise
from safelight.process import Level, Process
from safelight.sample import Sampler, trajectory
from safelight.sample.tuned import Tuned
from safelight.spec import SpecError, build, describe, parse
from tests.oracle import Mixture, final

PROCESSES = ("linear", "cosine", "edm", "flow", "ve", "sub-vp")
N = 7


def like_abm(process: Process, n: int = N) -> tuple[Tuned, Tensor]:
    """The sampler that says what `abm` does on rect, and its times."""
    times = build({"kind": "rect", "power": 1.3}, "grid")(process, n)
    rows = abm(process, times[:-1])
    return Tuned(s=ratios(process, times[:-1]), weights=tuple(tuple(row.tolist()) for row in rows)), times


def random(n: int = N, seed: int = 0) -> tuple[tuple[float, ...], ...]:
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randn(i + 1, dtype=torch.float64, generator=g) for i in range(n)]
    return tuple(tuple((row + (1 - row.sum()) / len(row)).tolist()) for row in rows)


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_linear_multistep_method_is_a_choice_of_weights(kind: str) -> None:
    """With the weights read off `abm` it is `abm`, on every process, to rounding."""
    process, mixture = build(kind, "process"), Mixture.ring()
    sampler, times = like_abm(process)
    grid = build({"kind": "optimised", "s": sampler.s}, "grid")
    alpha, sigma, _ = process.at(times[0]).floats
    x = mixture.noised(64, alpha, sigma, seed=2)
    theirs = final(trajectory(mixture.denoise, x, process.at(times), build("abm", "sampler"))).x
    ours = final(trajectory(mixture.denoise, x, process.at(grid(process, N)), sampler)).x
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6 if alpha == 0 else 1e-8)  # from s = 1e8 where theirs is infinite


@pytest.mark.parametrize("kind", PROCESSES)
def test_any_weights_carry_an_unchanging_estimate_to_the_picture(kind: str) -> None:
    process, g = build(kind, "process"), torch.Generator().manual_seed(1)
    truth, eps = (torch.randn(2, 3, 4, dtype=torch.float64, generator=g) for _ in range(2))
    _, times = like_abm(process)
    sampler = Tuned(s=ratios(process, times[:-1]), weights=random())
    levels = process.at(build({"kind": "optimised", "s": sampler.s}, "grid")(process, N)).split()
    first = levels[0]
    for step in trajectory(lambda x, level: Estimate(truth), first.alpha * truth + first.sigma * eps, levels, sampler):
        torch.testing.assert_close(step.x, step.level.alpha * truth + step.level.sigma * eps, rtol=1e-9, atol=1e-6)


def test_a_step_is_its_equation() -> None:
    """x_(i+1) from x_T and all estimates so far, written out."""
    process = build("linear", "process")
    _, times = like_abm(process, 4)
    sampler = Tuned(s=ratios(process, times[:-1]), weights=random(4))
    g = torch.Generator().manual_seed(3)
    estimates = [torch.randn(2, 5, dtype=torch.float64, generator=g) for _ in range(4)]
    x, given = torch.randn(2, 5, dtype=torch.float64, generator=g), iter(estimates)
    levels = process.at(times).split()
    u = [float(v.sigma / (v.alpha + v.sigma)) for v in levels]
    y = x / float(levels[0].alpha + levels[0].sigma)
    for i, step in enumerate(trajectory(lambda x, level: Estimate(next(given)), x, levels, sampler)):
        mean = sum((w * e for w, e in zip(sampler.weights[i], estimates, strict=False)), torch.zeros_like(y))
        wanted = u[i + 1] / u[0] * y + (1 - u[i + 1] / u[0]) * mean
        torch.testing.assert_close(step.x, wanted * float(step.level.alpha + step.level.sigma), rtol=1e-9, atol=1e-9)


def test_it_goes_on_exactly_and_batches_do_not_matter() -> None:
    process, mixture = build("edm", "process"), Mixture.ring()
    _, times = like_abm(process)
    sampler, levels = Tuned(s=ratios(process, times[:-1]), weights=random()), process.at(times).split()

    def denoise(x: Tensor, level: Level) -> Estimate:
        return mixture.denoise(x, level)

    x = 80 * Noise(1, 6).normal("start", None, None, torch.empty(6, 2, dtype=torch.float64))
    steps = list(trajectory(denoise, x, levels, sampler))
    for k in (1, 4, 6):
        again = list(trajectory(denoise, steps[k - 1].x, levels, sampler, state=steps[k - 1].state, first=k))
        assert torch.equal(again[-1].x, steps[-1].x)
    torch.testing.assert_close(final(trajectory(denoise, x[3:4], levels, sampler)).x, steps[-1].x[3:4], rtol=1e-9, atol=1e-9)


def test_unfitted_it_is_where_fitting_begins() -> None:
    process, mixture = build("linear", "process"), Mixture.ring()
    x = mixture.noised(16, *process.at(1.0).floats[:2], seed=0)
    runs = [
        final(trajectory(mixture.denoise, x, process.at(build(grid, "grid")(process, 9)), build(kind, "sampler"))).x  # type: ignore[arg-type]
        for kind, grid in (("tuned", "optimised"), ("abm", {"kind": "rect", "power": 1.3}))
    ]
    assert torch.equal(*runs)
    assert build("tuned", "sampler").order == build("abm", "sampler").order


def run(sampler: Sampler, process: Process, times: Tensor) -> None:
    list(trajectory(lambda x, level: Estimate(x), torch.zeros(1, 2), process.at(times), sampler))


def test_refusals_are_one_line() -> None:
    process = build("linear", "process")
    sampler, times = like_abm(process)
    with pytest.raises(
        SpecError, match=r"^steps: sampler 'tuned' was fitted for 7 steps and takes no other number \(given: 9\)$"
    ):
        run(sampler, process, build("rect", "grid")(process, 9))
    with pytest.raises(SpecError, match=r"^sampler 'tuned' stands at sigma/alpha = \S+ in step 1, not at \S+: take the grid"):
        run(sampler, process, build("uniform", "grid")(process, 7))
    moved = times.clone()
    moved[4] *= 0.99
    with pytest.raises(SpecError, match="in step 4, not at"):
        run(sampler, process, moved)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"s": [2.0, 1.0], "weights": [[1.0]]}, "2 places need as many rows of weights, not 1"),
        ({"s": [2.0, 1.0], "weights": [[1.0], [1.0]]}, "row 1 of the weights must hold 2 numbers that add up to 1"),
        ({"s": [2.0, 1.0], "weights": [[1.0], [0.5, 0.6]]}, "row 1 of the weights"),
        ({"s": [1.0, 2.0], "weights": [[1.0], [0.5, 0.5]]}, "the places must fall"),
    ]
    for fields, said in bad:
        with pytest.raises(SpecError, match=said) as caught:
            parse({"kind": "tuned", **fields}, "sampler")
        assert "\n" not in str(caught.value)


def test_it_is_a_spec_like_any_other() -> None:
    sampler = like_abm(build("cosine", "process"))[0].model_copy(update={"model": "cd702ea3a50f6b66"})
    assert build(describe(sampler)) == sampler
