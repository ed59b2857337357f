"""The evidence lower bound in continuous time: what variational diffusion models are trained by, in bits a dimension.

Kingma et al. 2021, "Variational diffusion models". With gamma(t) = -logsnr(t) and z_t = alpha x + sigma eps,

    -log p(x) <=  KL(q(z_1 | x) || N(0, I))  +  E[-log p(x | z_0)]  +  1/2 E_t[ gamma'(t) ||eps - eps_hat(z_t)||^2 ]

The last term is an integral over gamma from end to end: its value does not ask how gamma runs between them, its variance does.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight import device as machine
from safelight.bound import NAT
from safelight.codec.pixels import Pixels
from safelight.model import Model
from safelight.predict import Velocity
from safelight.process import Level, Process
from safelight.process.base import from_logsnr
from safelight.process.learned import LearnedProcess
from safelight.spec import SpecError
from safelight.train.objective import Batch, Denoising, Draws, Player
from safelight.train.times import Stratified, Times, Uniform
from safelight.train.weighting import SNR

# Values farther than this many standard deviations from z_0 are left out of the decoder's sum: each is below exp(-18) of it.
_FAR = 12.0
# Of so many forward passes the errors are kept within a step; the shape of a longer one is learned from passes of its own.
_MICRO = 64


class Terms(NamedTuple):
    """The three terms of the bound, (B,) each, in bits a dimension. error: the mean of (eps - eps_hat)^2, without a unit."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor
    error: Tensor

    @property
    def bound(self) -> Tensor:
        """(B,) their sum: an estimate of an upper bound on -log2 p(x) a dimension."""
        return self.prior + self.reconstruction + self.diffusion


class ELBO(Denoising, kind="elbo"):
    """The bound above, one number a picture in bits a dimension, for a model on the process `learned` (Kingma et al. 2021, section 5).

    The network and the ends of the process descend the bound; the shape of the process, which the bound does not see, descends the
    variance of its diffusion term L (section 5 and appendix I.2 there). As E[L] is the same for every shape, that is E[L^2], and its
    gradient is taken at a fixed noise level, so that it asks for no derivative of the network:

        d E[L^2] = E[ L^2 (dS' - S''/S' dS) / S' ]

    times: stratified over the batch (appendix I.1) or drawn one by one, even in t for each picture, as the integral is. levels: the data
    are the whole numbers 0..levels - 1 mapped to [-1, 1], and p(x | z_0) is the probability of one of them, proportional to
    exp(-(z_0/alpha_0 - x)^2 / 2 s_0^2); 0: the data are real numbers, and p(x | z_0) is the density
    N(z_0/alpha_0, s_0^2). shape, ends: what of the process learns. drop: as in `match`.
    """

    levels: int = Field(256, ge=0, le=256)
    shape: bool = True
    ends: bool = True
    times: Times = Stratified()

    @model_validator(mode="after")
    def _even(self) -> Self:
        if not isinstance(self.times, Stratified | Uniform) or self.times.entries:
            raise ValueError("times of the bound are even in t: 'stratified' or 'uniform', without entries")
        if self.levels == 1:
            raise ValueError("levels: data of one value have nothing to learn; 256 for bytes, 0 for real numbers")
        return self

    def prepare(self, model: Model) -> list[Player]:
        """Two players: the network with what else of the model learns and the ends of the process, and the shape of the process.

        Raises SpecError for a process that does not learn, for `velocity`, whose meaning would move with the process, and for levels of
        a codec's latents.
        """
        process = learned(model)
        if isinstance(model.denoiser.parameterization, Velocity):
            raise SpecError(
                "objective 'elbo': parameterization 'velocity' would change its meaning while the process learns; use 'v'"
            )
        if self.levels and not isinstance(model.codec, Pixels):
            raise SpecError(
                f"objective.levels: latents of codec '{model.spec.codec.kind}' are no whole numbers; set objective.levels=0"
            )
        process.shape.requires_grad_(self.shape)
        for end in (process.first, process.last):
            end.requires_grad_(self.ends)
        named = super().prepare(model)[0].parameters
        mine = [(name, p) for name, p in named if p is not process.shape]
        if not self.shape:
            return [Player(mine, self.loss)]
        spread = _Spread(self)
        return [Player(mine, spread.first), Player([(name, p) for name, p in named if p is process.shape], spread)]

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) the bound."""
        return self.terms(model, batch, draws).bound

    def terms(self, model: Model, batch: Batch, draws: Draws) -> Terms:
        """The terms of the bound, with gradients to the network and to the ends of the process."""
        denoiser, x0, t = model.denoiser, batch.x0, times(batch, draws)
        process = learned(model)
        first, last = (end.to(t.device) for end in process.span())
        curve = process.curve(t)
        logsnr = first - (first - last) * curve.value.detach()
        level = Level(t, *from_logsnr(logsnr), cast("Process", process))
        out = denoiser.parameterization.coeffs(level, denoiser.process).out
        each = denoiser.match(x0, draws.eps, level, self.cond(model, batch, draws))
        error = each * SNR().on_network(level, out).to(each)
        speed = (first - last) * curve.slope.detach()
        diffusion = speed.to(error) * error / 2

        alpha, sigma = (v.to(each) for v in from_logsnr(last))
        prior = (alpha.square() * x0.square().flatten(1).mean(1) + sigma.square() - 1) / 2 - sigma.log()
        found = self.reconstruction(x0, draws.eps, first.to(x0.device, each.dtype))
        return Terms(prior * NAT, found * NAT, diffusion * NAT, error)

    def reconstruction(self, x0: Tensor, eps: Tensor, first: Tensor) -> Tensor:
        """(B,) -log p(x | z_0) in nats a dimension for z_0 = alpha_0 x + sigma_0 eps at log-SNR `first`; x0, eps: (B, C, *space)."""
        s = torch.exp(-first / 2)
        if not self.levels:
            return eps.square().flatten(1).mean(1) / 2 + math.log(2 * math.pi) / 2 + s.log()
        apart = 2 / (self.levels - 1) / s  # two neighbours' distance in standard deviations
        most = self.levels - 1
        # Looking at a number costs nothing on a CPU, where summing over all levels would cost as much as the network.
        reach = min(most, math.ceil(_FAR / float(apart.detach())) + 1) if x0.device.type == "cpu" else most
        place = ((x0 + 1) / 2 * most).round()
        total = -eps.square() / 2  # the log of the sum over values, begun with x itself, so that it is finite throughout
        for k in (k * sign for k in range(1, reach + 1) for sign in (-1, 1)):
            there = (place + k >= 0) & (place + k <= most)
            total = torch.logaddexp(total, torch.where(there, -(eps - k * apart).square() / 2, -math.inf))
        return (total + eps.square() / 2).flatten(1).mean(1)


class _Spread:
    """The shape's loss: nothing in value, so that what is logged is the bound, and in gradient that of the variance."""

    def __init__(self, objective: ELBO) -> None:
        self.objective = objective
        self.kept: list[tuple[Tensor, Tensor]] = []

    def first(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """The network's loss. Its diffusion terms are kept for the shape's, which comes after it in a step and sees the same draws."""
        terms = self.objective.terms(model, batch, draws)
        self.kept = [*self.kept[-_MICRO:], (draws.t, terms.diffusion.detach())]
        return terms.bound

    def __call__(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        found = next((diffusion for t, diffusion in reversed(self.kept) if torch.equal(t, draws.t)), None)
        if found is None:
            with torch.no_grad():
                found = self.objective.terms(model, batch, draws).diffusion
        curve = learned(model).curve(times(batch, draws))
        moved = (curve.slope - curve.bend.detach() / curve.slope.detach() * curve.value) / curve.slope.detach()
        return found.square() * (moved - moved.detach()).to(found)


def times(batch: Batch, draws: Draws) -> Tensor:
    """(B,) the times of the draws, where float64 exists on the pictures' device."""
    return draws.t.to(batch.x0.device, non_blocking=True) if machine.doubles(batch.x0.device) else draws.t


def learned(model: Model) -> LearnedProcess:
    """The model's process that learns. Raises SpecError when it has none."""
    process: object = model.denoiser.process
    if not isinstance(process, LearnedProcess):
        raise SpecError(
            f"objective 'elbo' trains a process that learns, not '{model.spec.process.kind}': set model.process=learned"
        )
    return process
