"""Denoising score matching over noise levels: what noise-conditional score networks are trained by.

The score of q(x_t | x_0) is -eps / sigma, and a model's is s = (alpha x0_hat - x_t) / sigma^2; so

    s - (-eps / sigma) = alpha (x0_hat - x_0) / sigma^2

and a loss on scores is one on x_0 with the weight alpha^2 / sigma^4.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from safelight.process import Level, Process
from safelight.train.objective import Match
from safelight.train.times import Stratified, Times
from safelight.train.weighting import MSE, Weighting


class ScoreError(Weighting, kind="score"):
    """sigma^power on the squared error of the score: w = alpha^2 sigma^(power - 4) (Vincent 2011; Song and Ermon 2019, eq. 6).

    power: 2 makes all levels count alike (Song and Ermon 2019, section 4.2) and is `snr`, the L_simple of eps; 0 is the plain
    Fisher divergence, of which nearly all lies at the least noise.
    """

    power: float = Field(2.0, ge=0, le=4)

    def on_network(self, level: Level, out: Tensor) -> Tensor:
        return (level.alpha * out * level.sigma ** (self.power / 2 - 2)).square()


class Geometric(Times, kind="geometric"):
    """Only `levels` noise levels, whose s = sigma/alpha form a geometric row between the process's ends (Song and Ermon 2019, section 4.2).

    levels: L; 0 takes all levels between the ends, even in log s. The grid `exponential` of L steps walks down the same row.
    """

    levels: int = Field(100, ge=0)

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        low, high = (torch.tensor(end, dtype=torch.float64).log() for end in process.ends)
        v = u if not self.levels else (u * self.levels).floor() / max(self.levels - 1, 1)
        return process.time(-2 * (low + v * (high - low)))


class DSM(Match, kind="dsm"):
    """min E[ lambda(sigma) |s(x_t, sigma) + eps/sigma|^2 ], the mean over a picture's values: denoising score matching
    (Vincent 2011, eq. 11; over noise levels: Song and Ermon 2019, eq. 6, without its half; over an SDE: Song et al. 2021, eq. 7).

    Its minimum is the score of the noised data at every level where lambda > 0. It is `match` in terms of the score, so any
    parameterization learns by it, and the distance is the square, since no other has the score as its minimum.

    weighting: lambda, by default sigma^2. times: the levels, by default those of a table or of the SDE, even in t; `geometric` is
    NCSN's row. drop: as in `match`.
    """

    distance: MSE = MSE()
    weighting: Weighting = ScoreError()
    times: Times = Stratified()
