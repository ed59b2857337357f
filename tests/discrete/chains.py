"""A Markov chain of tokens and everything exact about it: its entropy, its statistics, and p(x_0 | x_t) by forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from safelight.denoise import Estimate
from safelight.discrete import TokenProcess
from safelight.discrete.process import draw
from safelight.process import Level


class Chain:
    """x_1 ~ first, x_{n+1} ~ step[x_n]: sequences of `length` tokens, (B, 1, 1, length) as everywhere in the room."""

    def __init__(self, first: Tensor, step: Tensor, length: int) -> None:
        self.first, self.step, self.length, self.tokens = first.double(), step.double(), length, len(first)

    @classmethod
    def random(cls, tokens: int = 4, length: int = 12, seed: int = 0) -> Chain:
        """One that is far from even: rows drawn from a Dirichlet of 0.4, the first token from the stationary distribution."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            step = torch.distributions.Dirichlet(torch.full((tokens, tokens), 0.4, dtype=torch.float64)).sample()
        step = 0.95 * step + 0.05 / tokens
        return cls(torch.linalg.matrix_power(step, 200)[0], step, length)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """(count, 1, 1, length) float32."""
        u = torch.rand(count, self.length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        x = [draw(self.first.expand(count, -1), u[:, 0])]
        for n in range(1, self.length):
            x.append(draw(self.step[x[-1]], u[:, n]))
        return torch.stack(x, 1)[:, None, None].float()

    @property
    def entropy(self) -> float:
        """Nats a token."""
        first = -(self.first * self.first.log()).sum()
        rate = -(self.first @ (self.step * self.step.log()).sum(1))
        return float(first + (self.length - 1) * rate) / self.length

    @property
    def alone(self) -> float:
        """The entropy of a token by itself: what a model that knows no neighbours gets."""
        return float(-(self.first * self.first.log()).sum())

    def surprise(self, x: Tensor) -> float:
        """The mean of -log p of samples, nats a token: their own entropy, without the noise of having drawn so many."""
        rows = x.flatten(1).long()
        logs = self.first[rows[:, 0]].log() + self.step[rows[:, :-1], rows[:, 1:]].log().sum(1)
        return float(-logs.mean()) / self.length

    def denoise(self, process: TokenProcess, temperature: float = 1.0):
        """The exact denoiser: x_t is a hidden chain's evidence, q(x_t | x_0) each token's own."""

        def estimate(x: Tensor, level: Level) -> Estimate:
            p = self.believed(process, x, level.t.expand(len(x)))
            p = torch.nn.functional.one_hot(p.argmax(1), self.tokens).movedim(-1, 1).double() if temperature == 0 else p
            return Estimate(p)

        return estimate

    def believed(self, process: TokenProcess, x: Tensor, t: Tensor) -> Tensor:
        """(B, K, 1, 1, N) p(x_0 = k | x_t)."""
        q = process.matrix(torch.zeros_like(t), t, self.tokens)[:, : self.tokens]  # (B, K, S)
        like = torch.take_along_dim(q, x.flatten(1).long()[:, None], 2)  # (B, K, N)
        ahead, behind = [like[..., 0] * self.first], [torch.ones_like(like[..., 0])]
        for n in range(1, self.length):
            a = like[..., n] * (ahead[-1] @ self.step)
            ahead.append(a / a.sum(1, keepdim=True))
            b = (behind[-1] * like[..., self.length - n]) @ self.step.T
            behind.append(b / b.sum(1, keepdim=True))
        p = torch.stack(ahead, -1) * torch.stack(behind[::-1], -1)
        return (p / p.sum(1, keepdim=True))[:, :, None, None]

    def apart(self, x: Tensor) -> tuple[float, float]:
        """Total variation between samples' statistics and the chain's: of single tokens, and of pairs of neighbours."""
        rows = x.flatten(1).long()
        single = torch.bincount(rows.flatten(), minlength=self.tokens).double() / rows.numel()
        pairs = (rows[:, :-1] * self.tokens + rows[:, 1:]).flatten()
        double = torch.bincount(pairs, minlength=self.tokens**2).double() / pairs.numel()
        joint = (self.first[:, None] * self.step).flatten()
        return float((single - self.first).abs().sum() / 2), float((double - joint).abs().sum() / 2)
