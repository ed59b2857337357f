"""The exact oracle: a Gaussian mixture, whose score, posterior mean and samples are closed form at every noise level.

x_0 ~ sum_k w_k N(m_k, C_k);  x_t ~ sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I);  E[x_0 | x_t] by Bayes, componentwise.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from safelight.denoise import Estimate
from safelight.process import Level
from safelight.sample import Step


class Mixture:
    """K Gaussians in d dimensions, covariances U diag(l) U^T kept by eigenvectors, all float64."""

    def __init__(self, weights: Tensor, means: Tensor, vectors: Tensor, values: Tensor) -> None:
        self.w, self.m, self.u, self.l = (v.double() for v in (weights, means, vectors, values))

    @property
    def d(self) -> int:
        return self.m.shape[1]

    @classmethod
    def ring(cls, modes: int = 8, std: float = 0.1, radius: float = 1.0) -> Mixture:
        """d = 2, `modes` Gaussians on a circle with unequal weights and an elongated covariance along it."""
        angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
        means = radius * torch.stack([angle.cos(), angle.sin()], 1)
        outward = torch.stack([angle.cos(), angle.sin()], 1)
        along = torch.stack([-angle.sin(), angle.cos()], 1)
        weights = 1 + torch.arange(modes, dtype=torch.float64) % 3
        values = torch.tensor([(std / 2) ** 2, (std * 1.5) ** 2]).expand(modes, 2)
        return cls(weights / weights.sum(), means, torch.stack([outward, along], 2), values)

    @classmethod
    def random(cls, d: int = 64, modes: int = 10, rank: int = 8, seed: int = 0) -> Mixture:
        """Random means of unit scale and low-rank covariances plus 0.05^2 I."""
        g = torch.Generator().manual_seed(seed)
        means = torch.randn(modes, d, generator=g, dtype=torch.float64) * 0.7
        factors = torch.randn(modes, d, rank, generator=g, dtype=torch.float64) * (0.4 / math.sqrt(rank))
        values, vectors = torch.linalg.eigh(factors @ factors.mT + 0.05**2 * torch.eye(d, dtype=torch.float64))
        weights = torch.rand(modes, generator=g, dtype=torch.float64) + 0.3
        return cls(weights / weights.sum(), means, vectors, values)

    def sample(self, n: int, seed: int) -> Tensor:
        """(n, d) exact samples."""
        g = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.w, n, replacement=True, generator=g)
        z = torch.randn(n, self.d, generator=g, dtype=torch.float64) * self.l[k].sqrt()
        return self.m[k] + torch.einsum("nij,nj->ni", self.u[k], z)

    def responsibilities(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> tuple[Tensor, Tensor]:
        """(n, K) posterior probabilities of the components given x_t, and (n, K, d) x - alpha m_k in each component's axes."""
        var = alpha**2 * self.l + sigma**2  # (K, d)
        off = torch.einsum("nkd,kde->nke", x[:, None] - alpha * self.m, self.u)
        logp = self.w.log() - 0.5 * (off.square() / var + var.log()).sum(-1)
        return logp.softmax(1), off

    def mean(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """(n, d) E[x_0 | x_t = x]."""
        if sigma == 0:
            return x / alpha
        r, off = self.responsibilities(x, alpha, sigma)
        gain = alpha * self.l / (alpha**2 * self.l + sigma**2)
        each = self.m + torch.einsum("nke,kde->nkd", off * gain, self.u)
        return torch.einsum("nk,nkd->nd", r, each)

    def denoise(self, x: Tensor, level: Level) -> Estimate:
        """The exact denoiser, for x of shape (B, d, 1, 1) or (B, d), in x's dtype."""
        flat = x.reshape(len(x), self.d).double()
        return Estimate(self.mean(flat, float(level.alpha), float(level.sigma)).reshape(x.shape).to(x.dtype))

    def noised(self, n: int, alpha: float, sigma: float, seed: int) -> Tensor:
        """(n, d) exact samples of x_t."""
        g = torch.Generator().manual_seed(seed + 10_000)
        return alpha * self.sample(n, seed) + sigma * torch.randn(n, self.d, generator=g, dtype=torch.float64)

    def scale(self, x: Tensor) -> float:
        """The root mean square of samples whitened by their own component: 1 for exact samples."""
        r, off = self.responsibilities(x)
        k = r.argmax(1)
        own = off[torch.arange(len(x)), k]
        return float((own.square() / self.l[k]).mean().sqrt())

    def exact(self, x: Tensor, s_from: float, s_to: float) -> Tensor:
        """The probability-flow ODE dz/ds = (z - D(z; 1, s))/s of z = x_0 + s eps, from s_from to s_to, solved to 1e-11."""
        from scipy.integrate import solve_ivp

        shape = x.shape

        def rhs(log_s: float, z: np.ndarray) -> np.ndarray:
            points = torch.from_numpy(z).reshape(shape)
            return (points - self.mean(points, 1.0, math.exp(log_s))).numpy().ravel()

        found = solve_ivp(rhs, (math.log(s_from), math.log(s_to)), x.numpy().ravel(), method="DOP853", rtol=1e-10, atol=1e-12)
        return torch.from_numpy(found.y[:, -1]).reshape(shape)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 64, seed: int = 0) -> float:
    """The mean over random directions of the 1-Wasserstein distance of the projections of two equally large sets."""
    g = torch.Generator().manual_seed(seed)
    axes = torch.nn.functional.normalize(torch.randn(a.shape[1], directions, generator=g, dtype=torch.float64), dim=0)
    return float(((a @ axes).sort(0).values - (b @ axes).sort(0).values).abs().mean())


def final(steps: Iterator[Step]) -> Step:
    """The last step of a trajectory, without keeping the others."""
    return deque(steps, maxlen=1)[0]
