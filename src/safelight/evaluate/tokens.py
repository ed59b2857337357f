"""The bound of a model of tokens, term by term, beside what tells nothing of neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.bound import NAT
from safelight.discrete.bound import FIRST, prior_term, term, times
from safelight.discrete.process import TokenProcess
from safelight.noise import Noise

# Parts of t in which the terms are told.
PARTS = 20


class Bound(NamedTuple):
    """An upper bound of -log p(x_0), in nats a token; the mean over so many samples of `size` tokens each.

    nats: L_T + middle + first, with its standard error over the samples. prior: L_T, of the last level. first: L_0, of the step to the
    data. middle: all terms between. by_time: (PARTS,) the integrand's mean in equal parts of t, NaN where none fell; without the end
    to the data its mean is `middle`.
    """

    nats: float
    error: float
    prior: float
    first: float
    middle: float
    by_time: Tensor
    samples: int
    size: int

    @property
    def bits(self) -> float:
        """Bits a token: of a text a character, of a picture a value of the alphabet's (bits/dim)."""
        return self.nats * NAT

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, everything in bits a token."""
        values = {name: getattr(self, name) * NAT for name in ("nats", "error", "prior", "first", "middle")}
        values["bits"] = values.pop("nats")
        by_time = [None if math.isnan(v) else v * NAT for v in self.by_time.tolist()]
        return {**values, "by_time": by_time, "samples": self.samples, "tokens": self.size}


def bound(
    process: TokenProcess,
    logits: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    tokens: int,
    *,
    draws: int = 8,
    seed: int = 0,
    batch: int = 64,
) -> Iterator[Bound]:
    """The bound on samples x0 (N, C, H, W) of `tokens` kinds of token; yields what is known after every batch, the last is the result.

    logits: (x, t) -> (B, K, C, H, W), log p(x_0 | x_t) up to a constant; `Tokens.logits`. draws: times for each sample, one in each of
    as many equal parts, beside the end to the data. A sample's draws are its own, whatever the batch.
    """
    start = FIRST if process.entries is None else 1 / process.entries
    each: list[Tensor] = []  # (B, 3) first, middle, prior
    sums, counts = torch.zeros(PARTS, dtype=torch.float64), torch.zeros(PARTS, dtype=torch.float64)
    for low in range(0, len(x0), batch):
        x = x0[low : low + batch]
        noise = Noise(seed, range(low, low + len(x)))
        found = torch.zeros(len(x), 3, dtype=torch.float64)

        def at(u: Tensor, purpose: str, noise: Noise = noise, x: Tensor = x) -> tuple[Tensor, Tensor]:
            t = times(process, u)
            xt = process.noised(x, t, noise.uniform(purpose, None, None, x), tokens)
            with torch.inference_mode():
                return t, term(process, logits(xt, t), x, xt, t).double().cpu()

        found[:, 0] = at(torch.full((len(x),), start, dtype=torch.float64), "first")[1] * start
        place = noise.uniform("times", None, None, torch.zeros(len(x), draws, dtype=torch.float64))
        for k in range(draws if start < 1 else 0):
            # Above `start`, which the end has already.
            t, value = at(1 - (1 - start) * (k + place[:, k]) / draws, f"term {k}")
            found[:, 1] += value * (1 - start) / draws
            part = (t * PARTS).ceil().long().sub(1).clamp(0, PARTS - 1)
            sums.index_add_(0, part, value)
            counts.index_add_(0, part, torch.ones_like(value))
        found[:, 2] = prior_term(process, x, tokens).cpu()
        each.append(found)
        whole = torch.cat(each)
        first, middle, prior = whole.mean(0).tolist()
        error = float(whole.sum(1).std()) / math.sqrt(len(whole)) if len(whole) > 1 else math.nan
        yield Bound(first + middle + prior, error, prior, first, middle, sums / counts, len(whole), x0[0].numel())


def alone(x0: Tensor, tokens: int) -> float:
    """The entropy of a token by itself, nats: what a model gets that knows how often each token is, and nothing else."""
    p = torch.bincount(x0.flatten().long(), minlength=tokens).double()
    p = p / p.sum()
    return float(-torch.xlogy(p, p).sum())


def paired(x0: Tensor, tokens: int) -> float:
    """The entropy of a token given the one before it in its row, nats: what the best bigram model of these very samples gets."""
    rows = x0.flatten(0, -2).long()
    counts = torch.bincount((rows[:, :-1] * tokens + rows[:, 1:]).flatten(), minlength=tokens**2).double().view(tokens, tokens)
    joint = counts / counts.sum()
    return float(torch.xlogy(joint.sum(1), joint.sum(1)).sum() - torch.xlogy(joint, joint).sum())
