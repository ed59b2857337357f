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

from safelight.process import Level, Process
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


class SoftMinSNR(Weighting, kind="soft-min-snr"):
    """w = gamma SNR / (SNR + gamma) (Crowson et al. 2024, "Hourglass diffusion transformers"): `min-snr` without its corner.

    That is 1/(s^2 + 1/gamma) with s = sigma/alpha; gamma = 4 in the paper, 1/sigma_data^2.
    """

    gamma: float = Field(4.0, gt=0)

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        return (level.alpha * out).square() / (level.sigma.square() + level.alpha.square() / self.gamma)


class P2(Weighting, kind="p2"):
    """w = SNR / (k + SNR)^gamma (Choi et al. 2022, "Perception prioritized training of diffusion models"): less near the data.

    gamma: 0 is `snr`; 0.5 and 1 in the paper.
    """

    k: float = Field(1.0, gt=0)
    gamma: float = Field(1.0, ge=0)

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        a, s = level.alpha.square(), level.sigma.square()
        return a * out.square() / s * (s / (self.k * s + a)) ** self.gamma


class Sigmoid(Weighting, kind="sigmoid"):
    """w = -dlambda/dt / 2 sigmoid(bias - lambda) SNR, lambda = log SNR (Kingma and Gao 2023; Hoogeboom et al. 2024, "Simpler diffusion").

    At times even in t the loss is 1/2 int sigmoid(bias - lambda) |eps - eps_hat|^2 dlambda on every process with the same ends: -dlambda/dt
    undoes the density of the levels. With a large bias it is the ELBO's, w = -dSNR/dt / 2.
    """

    bias: float = 0.0

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        # -dlambda/dt SNR = 2 alpha (alpha sigma' - sigma alpha') / sigma^3 is finite where alpha = 0 and lambda is not.
        da, ds = Process.slope(level.known, level)  # in t, whatever the process's own clock is
        rate = level.alpha * (level.alpha * ds - level.sigma * da) / level.sigma**3
        return rate * torch.sigmoid(self.bias - level.logsnr) * out.square()


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


class PseudoHuber(Distance, kind="pseudo-huber"):
    """sqrt(e^2 + c^2) - c: about e^2 / (2c) where e = |F - F*| is far below c, and e - c far above it (Charbonnier et al. 1997).

    whole: e is the root mean square over the picture instead of an element's, so that whole pictures and not pixels are outliers: with
    c = 0.00054 that is the loss of Song and Dhariwal 2023, "Improved techniques for training consistency models", over sqrt(C H W).
    """

    c: float = Field(0.03, gt=0)
    whole: bool = False

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        square = (prediction - target).square()
        if self.whole:
            square = square.flatten(1).mean(1).view(-1, *(1,) * (square.ndim - 1)).expand_as(square)
        # c is subtracted before it can swallow a small error: sqrt(e^2 + c^2) - c = e^2 / (sqrt(e^2 + c^2) + c).
        return square / ((square + self.c**2).sqrt() + self.c)
