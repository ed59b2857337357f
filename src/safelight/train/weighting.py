"""How much each noise level counts, and how far apart prediction and target are.

Every weighting is a weight w on the squared error of x0. The loss is taken in network space, where that error is out^2 times
smaller: x0_hat - x0 = out (F - F*), so the weight there is w out^2. Written this way the same weighting gives the same loss
through every parameterization (min-SNR of v is not the min-SNR of eps: Hang et al. 2023, section 3.4), and products are formed
before they can be infinite: at zero terminal SNR (alpha = 0) all of them are finite for v, x0 and velocity.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from safelight.process import Level
from safelight.spec import Spec


class Weighting(Spec, family="weighting"):
    """How much each noise level counts."""

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        """w out^2, the weight on the squared error of F.

        level: (B,). out: (B,), the parameterization's coefficient there. Returns (B,) in the level's dtype (float64).
        """
        raise NotImplementedError(type(self).__name__)


class Unit(Weighting, kind="unit"):
    """1 in network space (w = 1/out^2): the L_simple of whatever the network predicts (Ho et al. 2020, eq. 14)."""

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        return torch.ones_like(out)


class SNR(Weighting, kind="snr"):
    """w = SNR = alpha^2 / sigma^2 (Salimans and Ho 2022, eq. 9): the L_simple of eps, whatever the network predicts."""

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        return (level.alpha * out / level.sigma).square()


class MinSNR(Weighting, kind="min-snr"):
    """w = min(SNR, gamma) (Hang et al. 2023, "Efficient diffusion training via min-SNR weighting", eq. 8).

    On the network's error that is min(SNR, gamma)/SNR for eps, min(SNR, gamma)/(SNR + 1) for v, min(SNR, gamma) for x0.
    """

    gamma: float = Field(5.0, gt=0)

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        return torch.minimum((level.alpha * out / level.sigma).square(), self.gamma * out.square())


class EDM(Weighting, kind="edm"):
    """w = (s^2 + d^2) / (s d)^2 with s = sigma/alpha, d = sigma_data (Karras et al. 2022, table 1): 1 in the EDM network's space.

    Where alpha = 0 this is its limit, 1/d^2.
    """

    sigma_data: float = Field(0.5, gt=0)

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        d = self.sigma_data
        return (level.sigma.square() + (level.alpha * d).square()) * (out / (level.sigma * d)).square()


class Distance(Spec, family="distance"):
    """How far a prediction is from its target, elementwise."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Both (B, C, *space); the distance of each element, >= 0."""
        raise NotImplementedError(type(self).__name__)


class MSE(Distance, kind="mse"):
    """(F - F*)^2: the only distance whose minimum is the conditional mean, hence the true score."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square()


class L1(Distance, kind="l1"):
    """|F - F*|: its minimum is the conditional median."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs()


class Huber(Distance, kind="huber"):
    """e^2 / (2 delta) where e = |F - F*| < delta, else e - delta/2 (Girshick 2015, eq. 3; torch's smooth_l1_loss with beta = delta)."""

    delta: float = Field(1.0, gt=0)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.smooth_l1_loss(prediction, target, reduction="none", beta=self.delta)
