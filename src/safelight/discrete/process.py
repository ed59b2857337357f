"""How tokens become noise: a Markov chain of each token by itself, q(x_t | x_s) = Cat(x_s Q_{s->t}), for t in [0, 1], 0 = data.

Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces" (D3PM), arXiv 2107.03006, for chains of T entries;
Sahoo et al. 2024 (MDLM), arXiv 2406.07524, and Shi et al. 2024 (MD4), arXiv 2406.04329, for masking in continuous time.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from safelight import device as machine
from safelight.process.base import as_times
from safelight.process.level import Level
from safelight.spec import Spec, SpecError


class TokenProcess(Spec, family="token-process"):
    """What happens to a token on its way to noise: a kind gives `matrix`, and the exact posterior and the prior follow from it.

    K is the number of clean tokens, S >= K that of the states which x_t can be in: one more where there is a mask. Entry i = 1..T of a
    table sits at t = i/T. Arithmetic is float64 where the device has it.
    """

    @property
    def entries(self) -> int | None:
        """T for a chain of T entries, None in continuous time."""
        return None

    def states(self, tokens: int) -> int:
        """S for K = `tokens` clean ones."""
        return tokens

    def mask(self, tokens: int) -> int | None:
        """The state that stands for a token not known, or None for a process without one."""
        return None

    def keep(self, t: Tensor) -> Tensor:
        """alpha(t), how much is left of a token at times t (float64): from 1 at t = 0 to about 0 at t = 1."""
        raise NotImplementedError(type(self).__name__)

    def matrix(self, s: Tensor, t: Tensor, tokens: int) -> Tensor:
        """(B, S, S) float64: Q_{s->t}[i, j] = q(x_t = j | x_s = i) for times s <= t, (B,) each."""
        raise NotImplementedError(type(self).__name__)

    def prior(self, tokens: int) -> Tensor:
        """(S,) float64: what sampling draws x_1 from."""
        raise NotImplementedError(type(self).__name__)

    def at(self, t: Tensor | float) -> Level:
        """The level(s) at time(s) t: alpha = `keep`, sigma = 1 - alpha. Raises SpecError for a time outside [0, 1]."""
        t = as_times(t)
        alpha = self.keep(t)
        return Level(t, alpha, 1 - alpha)

    def before(self, t: Tensor) -> Tensor:
        """The entry before each of times t (B,) of a table, so that a step of the chain is from `before(t)` to t."""
        if self.entries is None:
            raise SpecError(f"token-process '{self.kind}' is continuous: it has no steps of its own")
        return (t * self.entries).round().sub(1).clamp(min=0) / self.entries

    def noised(self, x0: Tensor, t: Tensor, u: Tensor, tokens: int) -> Tensor:
        """x_t ~ q(x_t | x_0) by the inverse of its distribution function.

        x0, u: (B, ...) tokens and uniforms in (0, 1). t: (B,). Returns the dtype of x0.
        """
        q = self.matrix(torch.zeros_like(t), t, tokens).to(x0.device, _wide(x0))  # (B, S, S)
        rows = torch.take_along_dim(q, x0.flatten(1).long()[..., None], 1)  # (B, N, S)
        return draw(rows, u.flatten(1)).view(x0.shape).to(x0.dtype)

    def evidence(self, x: Tensor, t: Tensor, tokens: int) -> Tensor:
        """(B, N, K) float64: q(x_t | x_0 = k) of tokens x (B, N) at times t (B,), what a token says of itself."""
        q = self.matrix(torch.zeros_like(t), t, tokens)[:, :tokens].to(x.device, _wide(x))  # (B, K, S)
        return torch.take_along_dim(q, x.long()[:, None], 2).transpose(1, 2)

    def posterior(self, x: Tensor, p0: Tensor, s: Tensor, t: Tensor, tokens: int) -> Tensor:
        """p(x_s | x_t) = sum_k q(x_s | x_t, x_0 = k) p0(k), of every token by itself.

            q(x_s = j | x_t, x_0 = k) = Q_{0->s}[k, j] Q_{s->t}[j, x_t] / Q_{0->t}[k, x_t]        (D3PM, eq. 3)

        x: (B, N) tokens at t. p0: (B, N, K), p(x_0 | x_t); what x_t excludes is taken out of it, so a token that is no mask is carried
        over. s < t: (B,). Returns (B, N, S) in p0's dtype; at s = 0 the first K states are p0 itself.

        D3PM's eq. 4 weighs by the joint q(x_s, x_t | x_0) instead, which takes what a network says for p(x_0 | x_t) / q(x_t | x_0).
        """
        tiny = torch.finfo(p0.dtype).tiny
        whole = self.evidence(x, t, tokens).to(p0)  # (B, N, K)
        possible = whole > tiny
        p = (p0 + tiny) * possible
        p = p / p.sum(-1, keepdim=True)
        weight = torch.where(possible, p / whole.clamp(min=tiny), 0.0)  # (B, N, K)
        early = self.matrix(torch.zeros_like(s), s, tokens).to(p0)[:, :tokens]  # (B, K, S)
        late = self.matrix(s, t, tokens).to(p0)  # (B, S, S)
        return (weight @ early) * torch.take_along_dim(late, x.long()[:, None], 2).transpose(1, 2)

    def drawn(self, noise: Tensor, tokens: int) -> Tensor:
        """x_1 from the prior by uniforms like the tokens."""
        return draw(self.prior(tokens).to(noise.device, _wide(noise)).expand(*noise.shape, -1), noise).to(noise.dtype)


class _Blend(TokenProcess):
    """Q_{s->t} = a I + (1 - a) 1 pi^T with a = alpha(t) / alpha(s): a token stays, or is drawn anew from the prior pi.

    schedule: of alpha. `linear` 1 - t (D3PM's 1/(T - i + 1); Sahoo et al. 2024); `cosine` 1 - sin(pi t/2) (Shi et al. 2024, table 1);
    `squared-cosine` cos^2(pi t/2) (Hoogeboom et al. 2021, Nichol and Dhariwal 2021 without their offset). All end at exactly 0.
    """

    schedule: Literal["linear", "cosine", "squared-cosine"] = "linear"

    def keep(self, t: Tensor) -> Tensor:
        if self.schedule == "linear":
            return 1 - t
        # Written so that the ends are exact and nothing cancels near them.
        if self.schedule == "cosine":
            return 2 * torch.sin(math.pi / 4 * (1 - t)).square()
        return torch.sin(math.pi / 2 * (1 - t)).square()

    def fall(self, t: Tensor) -> Tensor:
        """-d alpha/dt at times t, float64."""
        if self.schedule == "linear":
            return torch.ones_like(t)
        if self.schedule == "cosine":
            return math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))
        return math.pi / 2 * torch.sin(math.pi * t)

    def matrix(self, s: Tensor, t: Tensor, tokens: int) -> Tensor:
        early = self.keep(s)
        a = torch.where(early > 0, self.keep(t) / torch.where(early > 0, early, 1.0), 1.0)[:, None, None]  # (B, 1, 1)
        n = self.states(tokens)
        return a * torch.eye(n, dtype=a.dtype, device=a.device) + (1 - a) * self.prior(tokens).to(a)

    def prior(self, tokens: int) -> Tensor:
        raise NotImplementedError(type(self).__name__)


class _Masking(_Blend):
    """A token stays or becomes the mask, state K, and then stays that: in reverse it is unmasked once and carried over."""

    def states(self, tokens: int) -> int:
        return tokens + 1

    def mask(self, tokens: int) -> int:
        return tokens

    def prior(self, tokens: int) -> Tensor:
        return F.one_hot(torch.tensor(tokens), tokens + 1).double()


class UniformTokens(_Blend, kind="uniform"):
    """Any other token with equal chance: Q = a I + (1 - a)/K 1 1^T (D3PM, appendix A.2.1; Hoogeboom et al. 2021), in T steps."""

    T: int = Field(1000, ge=1, le=100_000)

    @property
    def entries(self) -> int:
        return self.T

    def prior(self, tokens: int) -> Tensor:
        return torch.full((tokens,), 1 / tokens, dtype=torch.float64)


class AbsorbingTokens(_Masking, kind="absorbing"):
    """A mask that never leaves: Q = a I + (1 - a) 1 e_mask^T (D3PM, appendix A.2.2), in T steps."""

    T: int = Field(1000, ge=1, le=100_000)

    @property
    def entries(self) -> int:
        return self.T


class MaskedTokens(_Masking, kind="masked"):
    """`absorbing` with T to infinity: tokens are masked in continuous time (Sahoo et al. 2024; Shi et al. 2024)."""

    def rate(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)), the weight of the cross-entropy in the bound; float64, > 0, about 1/t at t = 0."""
        return self.fall(t) / (1 - self.keep(t))


class GaussianTokens(TokenProcess, kind="gaussian"):
    """Tokens that are amounts move to near ones: a discretised, truncated Gaussian (D3PM, appendix A.2.3), in T steps.

        Q_i[j, k] = exp(-4 (j - k)^2 / ((K - 1)^2 beta_i)) / sum over n = -(K-1)..K-1 of the same of n^2        for j != k,

    and the rest stays. beta rises linearly from `first` to `last` at T = 1000; other T scale it by 1000/T. Q is symmetric, so the
    chain tends to uniform tokens, without reaching them: L_T is not 0. With few tokens raise `last`: where (K - 1)^2 beta is far below
    4 hardly a token moves, and L_T says so.
    """

    T: int = Field(1000, ge=1, le=100_000)
    first: float = Field(1e-4, gt=0, description="beta of the first entry, at T = 1000")
    last: float = Field(0.02, gt=0, description="beta of the last entry, at T = 1000")

    @property
    def entries(self) -> int:
        return self.T

    def keep(self, t: Tensor) -> Tensor:
        """The variance-preserving alpha^2 of the same betas: what is left of an amount, not of a token's chance to stay."""
        entry = (t * self.T).round().long()
        betas = self._betas(t.device)
        kept = torch.cat([betas.new_ones(1), (1 - betas).clamp(min=0).cumprod(0)])
        return kept[entry]

    def _betas(self, device: torch.device | str = "cpu") -> Tensor:
        return torch.linspace(self.first, self.last, self.T, dtype=torch.float64, device=device) * (1000 / self.T)

    def matrix(self, s: Tensor, t: Tensor, tokens: int) -> Tensor:
        first, last = ((v * self.T).round().long().cpu() for v in (s, t))
        if bool((first == 0).all()):
            return _gaussian(self, tokens)[1][last].to(t.device)
        if bool((last - first == 1).all()):
            return _gaussian(self, tokens)[0][first].to(t.device)
        pairs = torch.stack([first, last], 1)
        found = [_product(self, tokens, a, b) for a, b in pairs.tolist()]
        return torch.stack(found).to(t.device)

    def prior(self, tokens: int) -> Tensor:
        return torch.full((tokens,), 1 / tokens, dtype=torch.float64)


@lru_cache(maxsize=8)
def _gaussian(process: GaussianTokens, tokens: int) -> tuple[Tensor, Tensor]:
    """The T matrices of one step each, and the T + 1 products of the first 0, 1, ..., T of them; (S, S) float64 each."""
    n = torch.arange(tokens, dtype=torch.float64)
    away = (n[:, None] - n).square() * (-4 / max(tokens - 1, 1) ** 2)
    steps, products = [], [torch.eye(tokens, dtype=torch.float64)]
    for beta in process._betas():
        weight = (away / beta).exp()
        q = weight / (2 * weight[0].sum() - weight[0, 0])
        q.fill_diagonal_(0)
        q += torch.diag(1 - q.sum(1))
        steps.append(q)
        products.append(products[-1] @ q)
    return torch.stack(steps), torch.stack(products)


@lru_cache(maxsize=4096)
def _product(process: GaussianTokens, tokens: int, first: int, last: int) -> Tensor:
    """The steps first + 1..last, multiplied."""
    q = torch.eye(tokens, dtype=torch.float64)
    for step in _gaussian(process, tokens)[0][first:last]:
        q = q @ step
    return q


def draw(p: Tensor, u: Tensor) -> Tensor:
    """Which state: p (..., S), not negative, of any positive sum; u (...) uniform in (0, 1). A state of no probability is never drawn."""
    below = p.cumsum(-1)
    found = (below < u[..., None].to(p.dtype) * below[..., -1:]).sum(-1)
    return found.clamp(max=p.shape[-1] - 1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if machine.doubles(x.device) else torch.float32
