"""The variational bound of tokens: -log p(x_0) <= L_T + sum_i L_{i-1} + L_0, each term in closed form at a noised x_t.

Austin et al. 2021, eq. 1, for chains of T entries; for `masked` their limit (Sahoo et al. 2024, eq. 10; Shi et al. 2024, eq. 4):

    L_T + E_q[-log p(x_0 | x_first)] + integral from `first` to 1 of -alpha'(t)/(1 - alpha(t)) E_q[sum over masks of -log p(x_0 | x_t)] dt.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.discrete.model import chances
from safelight.discrete.process import MaskedTokens, TokenProcess
from safelight.spec import SpecError

# Where continuous time begins: below it one step goes to the data, as a chain's first does, and the integrand's variance stays finite.
FIRST = 1e-3


def times(process: TokenProcess, u: Tensor) -> Tensor:
    """The times at which `term` is meant, for uniforms u in (0, 1): the entry of a chain that u falls into; max(u, FIRST) without one."""
    if process.entries is None:
        return u.clamp(min=FIRST)
    return (u * process.entries).ceil().clamp(1, process.entries) / process.entries


def term(process: TokenProcess, logits: Tensor, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """(B,) nats a token, whose mean over u, t = times(u), and over x_t is the bound without L_T.

    logits: (B, K, ...) of p(x_0 | x_t). x0, x: (B, ...) tokens, at 0 and at t. t: (B,) float64, from `times`.
    A chain: T KL(q(x_{i-1} | x_t, x_0) || p(x_{i-1} | x_t)), which at i = 1 is T times L_0 = -log p(x_0 | x_1). `masked`: the integrand.
    Raises SpecError for a process that is neither.
    """
    if process.entries is not None:
        k, s = logits.shape[1], process.before(t)
        target = F.one_hot(x0.flatten(1).long(), k)
        p0 = chances(logits).flatten(2).transpose(1, 2)  # (B, N, K)
        x = x.flatten(1)
        q, p = (process.posterior(x, given, s, t, k) for given in (target.to(p0), p0))
        kl = torch.xlogy(q, q) - q * p.clamp(min=torch.finfo(p.dtype).tiny).log()
        return process.entries * kl.sum(-1).mean(-1)
    if not isinstance(process, MaskedTokens):
        raise SpecError(f"token-process '{process.kind}' has no bound in continuous time")
    rate = torch.where(t > FIRST, process.rate(t), 1 / FIRST).to(logits.device, torch.float32)
    return rate * cross_entropy(process, logits, x0, x)


def cross_entropy(process: TokenProcess, logits: Tensor, x0: Tensor, x: Tensor) -> Tensor:
    """(B,) -log p(x_0 | x_t) in nats, the mean over all tokens; those that a mask did not hide are known, and cost nothing."""
    each = F.cross_entropy(logits, x0.long(), reduction="none")  # (B, C, H, W)
    mask = process.mask(logits.shape[1])
    return (each if mask is None else each * (x == mask)).flatten(1).mean(1)


def prior_term(process: TokenProcess, x0: Tensor, tokens: int) -> Tensor:
    """(B,) L_T = KL(q(x_1 | x_0) || prior) in nats a token: what the last level still tells of x_0. No network is in it."""
    one = torch.ones(1, dtype=torch.float64)
    rows = process.matrix(torch.zeros_like(one), one, tokens)[0, :tokens]  # (K, S)
    prior = process.prior(tokens)
    kl = torch.where(rows > 0, torch.xlogy(rows, rows) - rows * prior.clamp(min=torch.finfo(prior.dtype).tiny).log(), 0.0)
    return kl.sum(1).to(x0.device)[x0.flatten(1).long()].mean(1)
