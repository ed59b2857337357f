"""Samplers beside diffusers' schedulers of the same name, at the same noise levels and with the same exact denoiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.process import Level
from safelight.sample import trajectory
from safelight.spec import build
from tests.oracle import Mixture

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in the peer's code

COMMON: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}
KARRAS = {"use_karras_sigmas": True, "lower_order_final": False, "final_sigmas_type": "zero"}
PEERS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"kind": "unipc", "k": 1}, "UniPCMultistepScheduler", {"solver_order": 1, **KARRAS}),
    ({"kind": "unipc", "k": 2}, "UniPCMultistepScheduler", {"solver_order": 2, **KARRAS}),
    ({"kind": "unipc", "k": 3}, "UniPCMultistepScheduler", {"solver_order": 3, **KARRAS}),
    ({"kind": "unipc", "k": 2, "b": "bh1"}, "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1", **KARRAS}),
    ({"kind": "dpm++2m"}, "DPMSolverMultistepScheduler", {"solver_order": 2, **KARRAS}),
    ({"kind": "dpm++3m", "plain": True}, "DPMSolverMultistepScheduler", {"solver_order": 3, **KARRAS}),
    (
        {"kind": "deis", "k": 2},
        "DEISMultistepScheduler",
        {"solver_order": 2, "use_karras_sigmas": True, "lower_order_final": False},
    ),
    (
        {"kind": "deis", "k": 3},
        "DEISMultistepScheduler",
        {"solver_order": 3, "use_karras_sigmas": True, "lower_order_final": False},
    ),
]


@pytest.mark.parametrize(("spec", "name", "options"), PEERS, ids=lambda v: str(v)[:60])
def test_every_step_is_the_peers(spec: dict[str, Any], name: str, options: dict[str, Any]) -> None:
    n, mixture = 12, Mixture.ring()
    peer = getattr(diffusers, name)(**COMMON, **options)
    peer.set_timesteps(n)
    sigmas = peer.sigmas.double()[:n]
    t = torch.linspace(1, 0.1, n, dtype=torch.float64)
    levels = [Level(t[i], 1 / (1 + s * s).sqrt(), s / (1 + s * s).sqrt()) for i, s in enumerate(sigmas)]
    alpha, sigma, _ = levels[0].floats
    start = mixture.noised(64, alpha, sigma, seed=1)

    x, theirs = start, []
    for i in range(n - 1):
        level = levels[i]
        eps = (x - level.alpha * mixture.denoise(x, level).x0) / level.sigma
        x = peer.step(eps, peer.timesteps[i], x).prev_sample
        theirs.append(x)
    ours: list[Tensor] = [step.x for step in trajectory(mixture.denoise, start, levels, build(spec, "sampler"))]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-4)


def test_lms_is_the_peers() -> None:
    n, mixture = 12, Mixture.ring()
    peer = diffusers.LMSDiscreteScheduler(**COMMON, use_karras_sigmas=True)
    peer.set_timesteps(n)
    sigmas = peer.sigmas.double()[:n]
    levels = [Level(1 - torch.tensor(i / n), torch.ones((), dtype=torch.float64), s) for i, s in enumerate(sigmas)]
    start = mixture.noised(64, 1.0, float(sigmas[0]), seed=1)
    x = start
    for i in range(n - 1):
        peer.is_scale_input_called = True
        x = peer.step((x - mixture.denoise(x, levels[i]).x0) / sigmas[i], peer.timesteps[i], x).prev_sample
    last = list(trajectory(mixture.denoise, start, levels, build("lms", "sampler")))[-1].x
    torch.testing.assert_close(last, x, rtol=1e-4, atol=1e-3)
