"""The contract of the loop: an oracle that always returns x0 is believed; a run can be gone on with; images are independent."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.denoise import Estimate
from safelight.noise import Noise
from safelight.process import Level
from safelight.sample import trajectory
from safelight.spec import SpecError, build, kinds
from tests.oracle import Mixture, final

T = 60
PROCESSES = [
    {"kind": "linear", "T": T},
    {"kind": "linear", "T": T, "zero_terminal_snr": True},
    {"kind": "cosine-betas", "T": T},
    {"kind": "cosine"},
    {"kind": "ve"},
    {"kind": "edm"},
    {"kind": "flow", "shift": 3.0},
]
EXTRA: list[dict[str, Any]] = [
    {"kind": "ddim", "eta": 1.0},
    {"kind": "ddpm", "variance": "large"},
    {"kind": "ddpm", "variance": "learned"},
    {"kind": "euler", "churn": 10.0},
    {"kind": "heun", "churn": 10.0},
    {"kind": "dpm++2m-sde", "eta": 0.5},
    {"kind": "dpm++3m-sde", "brownian": True},
    {"kind": "unipc", "last": 3},
    {"kind": "pndm", "runge_kutta": False},
    {"kind": "consistency", "gamma": 0.4},
    {"kind": "langevin", "snr": 0.1},
]
SAMPLERS: list[dict[str, Any]] = [*({"kind": kind} for kind in kinds("sampler")), *EXTRA]
# Every process there is, and tables whose entries are used up, or whose end is nothing but noise.
EVERY: list[dict[str, Any]] = [
    *({"kind": kind} for kind in kinds("process")),
    {"kind": "linear", "T": 100},
    {"kind": "linear", "T": 100, "zero_terminal_snr": True},
    {"kind": "cosine-betas", "T": 100, "zero_terminal_snr": True},
    {"kind": "constant", "T": 100},
    {"kind": "flow", "shift": 0.2},
]
MEAN, VARIANCE = 0.3, 0.25


@pytest.mark.parametrize("process_spec", PROCESSES, ids=str)
@pytest.mark.parametrize("grid_kind", list(kinds("grid")))
@pytest.mark.parametrize("spec", SAMPLERS, ids=str)
def test_the_true_picture_is_returned(spec: dict[str, object], grid_kind: str, process_spec: dict[str, object]) -> None:
    process, sampler, grid = build(process_spec, "process"), build(spec, "sampler"), build(grid_kind, "grid")
    truth = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fraction = torch.full_like(truth, 0.3)
    for n in (1, 2, 3, 4, 10, 50, T):
        levels = process.at(grid(process, n))
        first = levels.split()[0]
        x = first.alpha * truth + first.sigma * torch.randn_like(truth)
        last = final(trajectory(lambda x, level: Estimate(truth, fraction), x, levels, sampler, Noise(0)))
        # Slopes at alpha = 1e-4 and less, at which some solvers look back, have lost that many digits, and more where two of them lie as
        # near to each other as the first places of this grid do on a process without an end.
        lost = 1e-6 if grid_kind == "beta-noise" else 1e-8
        torch.testing.assert_close(
            last.x, truth, rtol=0, atol=lost if spec["kind"] in ("pndm", "abm", "ab", "lms", "deis", "tuned") else 1e-12
        )
        assert last.i == n - 1 and last.n == n and float(last.level.sigma) == 0


def gaussian(x: Tensor, level: Level) -> Estimate:
    """The exact denoiser of N(MEAN, VARIANCE)."""
    alpha, sigma, _ = level.floats
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return Estimate(x.mul(gain).add_(MEAN - gain * alpha * MEAN), torch.full_like(x, 0.5))


class Constant:
    """Noise that costs nothing."""

    def normal(self, purpose: str, now: Level | None, to: Level | None, like: Tensor) -> Tensor:
        return torch.full_like(like, 0.7 if len(purpose) % 2 else -0.7)


def finite(process_spec: dict[str, object], grid_kind: str, n: int, specs: list[dict[str, object]]) -> None:
    """n steps that fall, in time and in noise, and of every sampler numbers at their end."""
    process = build(process_spec, "process")
    levels = process.at(build(grid_kind, "grid")(process, n)).split()
    assert len(levels) == n + 1 and float(levels[-1].t) == 0
    for now, to in pairwise(levels):
        assert float(to.t) < float(now.t) and to.floats[2] < now.floats[2], (n, now, to)
    alpha, sigma, _ = levels[0].floats
    x = alpha * MEAN + math.sqrt(alpha**2 * VARIANCE + sigma**2) * torch.tensor([[1.0, -0.5]])
    for spec in specs:
        last = final(trajectory(gaussian, x, levels, build(spec, "sampler"), Constant()))
        assert bool(torch.isfinite(last.x).all()), (spec, n, last.x)


@pytest.mark.parametrize("process_spec", EVERY, ids=str)
def test_nothing_in_the_registry_makes_no_number(process_spec: dict[str, object]) -> None:
    """One step with every grid and sampler, and more of them with a third of the samplers; the next test does all."""
    draw = random.Random(str(process_spec))
    for grid_kind in kinds("grid"):
        finite(process_spec, grid_kind, 1, SAMPLERS)
        finite(process_spec, grid_kind, draw.randrange(2, 61), draw.sample(SAMPLERS, len(SAMPLERS) // 3))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 11 s of a core that is free
@pytest.mark.parametrize("grid_kind", list(kinds("grid")))
@pytest.mark.parametrize("process_kind", list(kinds("process")))
def test_nothing_in_the_registry_makes_no_number_at_any_count(process_kind: str, grid_kind: str) -> None:
    for n in range(1, 101):
        finite({"kind": process_kind}, grid_kind, n, [{"kind": kind} for kind in kinds("sampler")])


@pytest.mark.parametrize("spec", SAMPLERS, ids=str)
def test_a_run_goes_on_exactly(spec: dict[str, object]) -> None:
    mixture, process, sampler = Mixture.ring(), build("edm", "process"), build(spec, "sampler")
    x = 80 * torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    levels = process.at(build("karras", "grid")(process, 12)).split()

    def denoise(x: Tensor, level: Level) -> Estimate:
        return mixture.denoise(x, level)._replace(fraction=torch.full_like(x, 0.5))

    steps = list(trajectory(denoise, x, levels, sampler, Noise(3)))
    for k in (1, 6, 11):
        again = list(trajectory(denoise, steps[k - 1].x, levels, sampler, Noise(3), state=steps[k - 1].state, first=k))
        assert torch.equal(again[-1].x, steps[-1].x)
        assert [s.i for s in again] == list(range(k, 12))


@pytest.mark.parametrize("spec", SAMPLERS, ids=str)
def test_an_image_does_not_depend_on_its_batch(spec: dict[str, object]) -> None:
    mixture, process, sampler = Mixture.ring(), build("edm", "process"), build(spec, "sampler")
    levels = process.at(build("karras", "grid")(process, 8))

    def run(index: list[int]) -> Tensor:
        noise = Noise(7, index)
        like = torch.empty(len(index), 2, dtype=torch.float64)

        def denoise(x: Tensor, level: Level) -> Estimate:
            return mixture.denoise(x, level)._replace(fraction=torch.full_like(x, 0.5))

        last = final(trajectory(denoise, 80 * noise.normal("start", None, None, like), levels, sampler, noise))
        return last.x

    batch = run([0, 1, 2, 3, 4, 5, 6])
    torch.testing.assert_close(run([4]), batch[4:5], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(run([6, 2]), batch[[6, 2]], rtol=1e-9, atol=1e-9)


def test_samplers_do_not_touch_their_inputs() -> None:
    mixture, process = Mixture.ring(), build("linear", "process")
    for spec in SAMPLERS:
        x = torch.randn(3, 2)
        kept = x.clone()
        seen: list[tuple[Tensor, Tensor]] = []

        def denoise(x: Tensor, level: Level, seen: list[tuple[Tensor, Tensor]] = seen) -> Estimate:
            estimate = mixture.denoise(x, level)._replace(fraction=torch.full_like(x, 0.5))
            seen.append((estimate.x0, estimate.x0.clone()))
            return estimate

        for step in trajectory(denoise, x, process.at(build("uniform", "grid")(process, 5)), build(spec, "sampler"), Noise(0)):
            before = step.before.clone()
            assert torch.equal(step.before, before)
        assert torch.equal(x, kept)
        assert all(torch.equal(a, b) for a, b in seen)


def test_half_precision_is_widened() -> None:
    process = build("cosine", "process")
    last = final(
        trajectory(
            lambda x, level: Estimate(torch.zeros_like(x)),
            torch.randn(2, 2, dtype=torch.bfloat16),
            process.at(build("uniform", "grid")(process, 3)),
            build("ddim", "sampler"),
        )
    )
    assert last.x.dtype == torch.float32


def test_bad_input_is_named() -> None:
    process, x = build("linear", "process"), torch.zeros(1, 2)
    oracle = lambda x, level: Estimate(x)  # noqa: E731
    with pytest.raises(SpecError, match="draws noise: give trajectory"):
        list(trajectory(oracle, x, process.at(torch.tensor([1.0, 0.5, 0.0])), build("ddpm", "sampler")))
    with pytest.raises(SpecError, match=r"levels must fall in time: 0\.5 is followed by 0\.7"):
        list(trajectory(oracle, x, process.at(torch.tensor([0.5, 0.7])), build("ddim", "sampler")))
    with pytest.raises(SpecError, match="at least two levels"):
        list(trajectory(oracle, x, [process.at(1.0)], build("ddim", "sampler")))
    with pytest.raises(SpecError, match="needs a network that predicts the fraction"):
        list(
            trajectory(
                oracle,
                x,
                process.at(torch.tensor([1.0, 0.5])),
                build({"kind": "ddpm", "variance": "learned"}, "sampler"),
                Noise(0),
            )
        )


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_euler_ancestral_is_the_published_step(eta: float) -> None:
    """Crowson's form in z = x / alpha: Euler to s_down, then noise up to s', on a process where alpha moves too."""
    process, g = build("cosine", "process"), torch.Generator().manual_seed(3)
    now, to = process.at(0.7), process.at(0.4)
    x, x0 = torch.randn(5, 2, dtype=torch.float64, generator=g), torch.randn(5, 2, dtype=torch.float64, generator=g)
    (alpha, _, s), (alpha_to, _, s_to) = now.floats, to.floats
    up = eta * (s_to**2 * (s**2 - s_to**2) / s**2) ** 0.5
    down = (s_to**2 - up**2) ** 0.5
    z = x / alpha
    z = z + (down - s) * (z - x0) / s + up * Noise(0).normal("step", now, to, x)
    found, _, _ = build({"kind": "euler-ancestral", "eta": eta}, "sampler").step(
        lambda x, level: Estimate(x0), x, now, to, {}, Noise(0)
    )
    torch.testing.assert_close(found, alpha_to * z, rtol=1e-12, atol=1e-12)
