"""A model that believes what it is told: the loss of an estimate that is given, through any parameterization."""

from __future__ import annotations

import torch
from torch import Tensor

from safelight.cond import Cond
from safelight.nn import Network, Output
from safelight.predict import Parameterization
from safelight.process import Process
from safelight.train.objective import Batch, Draws, Objective
from tests.train import tiny


class Believes(Network):
    """The network that makes the estimate a given x0, whatever the parameterization: F = (belief - skip x) / out."""

    def __init__(self, belief: Tensor, process: Process, parameterization: Parameterization, t: Tensor) -> None:
        super().__init__()
        self.belief = belief
        self.coeffs = parameterization.coeffs(process.at(t), process)

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        skip, out, inp, _ = (c.view(-1, 1, 1, 1) for c in self.coeffs)
        return Output((self.belief - skip * x / inp) / out)


def losses(
    objective: Objective, parameterization: str, process: str, t: Tensor, x0: Tensor, belief: Tensor, eps: Tensor
) -> Tensor:
    """(B,) the loss of a model that believes `belief`, in float64."""
    model = tiny.model(process=process, parameterization=parameterization, text=None, network=tiny.network(cond=0)).double()
    denoiser = model.denoiser
    denoiser.network = Believes(belief, denoiser.process, denoiser.parameterization, t)
    return objective.loss(model, Batch(x0), Draws(t, eps, torch.zeros(len(t), dtype=torch.bool)))
