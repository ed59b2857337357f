"""Parameterizations: what a network's raw output F means. Four coefficients, nothing else.

    x0 = skip x + out F(inp x, noise)                    (Karras et al. 2022, eq. 7, for any alpha and sigma)

Each kind says what F stands for; the target of training and the weight of its loss follow from the four numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from safelight.process import Level, Process
from safelight.spec import Spec, SpecError

_FAINTEST = 1e-8


class Coeffs(NamedTuple):
    """x0 = skip x + out F(inp x, noise). Float64, each of the level's shape."""

    skip: Tensor
    out: Tensor
    inp: Tensor
    noise: Tensor


class Parameterization(Spec, family="parameterization"):
    """What the network predicts. A kind gives (skip, out) for a level; inputs are scaled to at most unit variance."""

    def x0_from(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        """(skip, out) such that x0 = skip x + out F."""
        raise NotImplementedError(type(self).__name__)

    def coeffs(self, level: Level, process: Process) -> Coeffs:
        """The four coefficients at a level.

        inp = 1 / max(1, sqrt(alpha^2 + sigma^2)): variance-preserving and flow networks see x itself, exploding ones a bounded x.
        noise = process.told(level), or what the level says that the network is told.
        Raises SpecError where the parameterization has no x0 (eps and score where alpha = 0).
        """
        skip, out = self.x0_from(level, process)
        inp = 1 / torch.hypot(level.alpha, level.sigma).clamp(min=1.0)
        return Coeffs(skip, out, inp, process.told(level) if level.told is None else level.told)

    def target(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        """(a, b) of the training target F* = a x0 + b eps, the F for which the x0 above is exact, derived from the coefficients:

        x0 = skip (alpha x0 + sigma eps) + out F*   =>   F* = (1 - skip alpha)/out x0 - skip sigma/out eps
        """
        skip, out = self.x0_from(level, process)
        return (1 - skip * level.alpha) / out, -skip * level.sigma / out

    def _signal(self, level: Level) -> None:
        # On an accelerator a look would stall it; training draws t < 1 there, and sampling levels live on the CPU.
        if level.alpha.device.type == "cpu" and bool((level.alpha == 0).any()):
            raise SpecError(
                f"parameterization '{self.kind}' has no x0 where alpha = 0 (t = 1 of this process, zero terminal SNR): "
                "use 'v', 'x0' or 'velocity', or begin the grid below t = 1"
            )


class Eps(Parameterization, kind="eps"):
    """F = eps, the noise: x0 = (x - sigma F) / alpha (Ho et al. 2020, eq. 15). Refused where alpha = 0."""

    def x0_from(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        self._signal(level)
        return 1 / level.alpha, -level.sigma / level.alpha

    def target(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        self._signal(level)
        return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


class X0(Parameterization, kind="x0"):
    """F = x0, the picture itself."""

    def x0_from(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


class V(Parameterization, kind="v"):
    """F = v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2) (Salimans and Ho 2022, appendix D, for any alpha and sigma).

    x0 = (alpha x - sigma sqrt(alpha^2 + sigma^2) F) / (alpha^2 + sigma^2); defined at every level, alpha = 0 included.
    """

    def x0_from(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        root = torch.hypot(level.alpha, level.sigma)
        return level.alpha / root**2, -level.sigma / root

    def target(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        root = torch.hypot(level.alpha, level.sigma)
        return -level.sigma / root, level.alpha / root


class Score(Parameterization, kind="score"):
    """F = grad log q(x_t | x0) = -eps / sigma: x0 = (x + sigma^2 F) / alpha (Vincent 2011; Song et al. 2021). Refused where alpha = 0."""

    def x0_from(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        self._signal(level)
        return 1 / level.alpha, level.sigma**2 / level.alpha

    def target(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        self._signal(level)
        return torch.zeros_like(level.alpha), -1 / level.sigma


class Velocity(Parameterization, kind="velocity"):
    """F = dx/du = alpha' x0 + sigma' eps in the process's own clock u (Lipman et al. 2022; Albergo et al. 2023, eq. 2.9).

    x0 = (sigma' x - sigma F) / (alpha sigma' - sigma alpha'). On `flow` F = eps - x0 for any shift, and x0 = x - u F.
    """

    def x0_from(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        da, ds = process.slope(level)
        bottom = level.alpha * ds - level.sigma * da
        return ds / bottom, -level.sigma / bottom

    def target(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        return process.slope(level)


class EDM(Parameterization, kind="edm"):
    """The preconditioning of Karras et al. 2022 (table 1), F of unit variance at every level, written for any alpha:

    skip = alpha d^2 / (sigma^2 + alpha^2 d^2), out = sigma d / sqrt(sigma^2 + alpha^2 d^2), inp = 1 / sqrt(sigma^2 + alpha^2 d^2),
    noise = ln(sigma/alpha) / 4, with d = sigma_data, the standard deviation of the data (0.5 in the paper, pictures in [-1, 1]).
    """

    sigma_data: float = Field(0.5, gt=0)

    def x0_from(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        d = self.sigma_data
        square = level.sigma**2 + (level.alpha * d) ** 2
        return level.alpha * d**2 / square, level.sigma * d / square.sqrt()

    def target(self, level: Level, process: Process) -> tuple[Tensor, Tensor]:
        # (1 - skip alpha)/out without the cancellation at small sigma.
        root = torch.hypot(level.sigma, level.alpha * self.sigma_data)
        return level.sigma / (self.sigma_data * root), -level.alpha * self.sigma_data / root

    def coeffs(self, level: Level, process: Process) -> Coeffs:
        skip, out = self.x0_from(level, process)
        inp = 1 / torch.hypot(level.sigma, level.alpha * self.sigma_data)
        noise = (level.sigma.clamp(min=_FAINTEST) / level.alpha.clamp(min=_FAINTEST)).log() / 4
        return Coeffs(skip, out, inp, noise)
