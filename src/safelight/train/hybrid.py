"""The variational bound as a loss, and the hybrid of it that teaches a network the variance of its steps."""

from __future__ import annotations

from functools import lru_cache

from pydantic import Field
from torch import Tensor

from safelight.bound import NAT, Chain, Variance
from safelight.denoise import Estimate
from safelight.grid import Uniform as Even
from safelight.model import Model
from safelight.process import Process
from safelight.spec import SpecError
from safelight.train.objective import Batch, Denoising, Draws, Player
from safelight.train.times import Stratified, Times
from safelight.train.weighting import Unit, Weighting

_ALL_ALIKE = ("uniform", "stratified", "importance")


class _Bounded(Denoising):
    """Objectives over the steps of a chain: times are its levels, all alike (`importance` evens its own preference out again).

    steps: n, of the chain, even in t; None takes every entry of a table.
    """

    steps: int | None = Field(None, ge=1)
    times: Times = Stratified()

    def prepare(self, model: Model) -> list[Player]:
        if self.times.kind not in _ALL_ALIKE:
            raise SpecError(
                f"objective.times: a bound is the sum over all steps, which '{self.times.kind}' would weigh; take {', '.join(_ALL_ALIKE)}"
            )
        self.chain(model.denoiser.process)
        return super().prepare(model)

    def chain(self, process: Process) -> Chain:
        """The chain of n steps. Raises SpecError where n has to be said."""
        n = self.parts_of(process)
        return _table(process, n) if process.settled() is process else _chain(process, n)

    def parts_of(self, process: Process) -> int:
        if self.steps is None and process.entries is None:
            raise SpecError(
                f"objective.steps: process '{process.kind}' is no table; say of how many steps the bound is: objective.steps=1000"
            )
        return self.steps or process.entries or 0

    def when(self, u: Tensor, process: Process) -> Tensor:
        chain = self.chain(process)
        return chain.levels.t[chain.place(u)]

    def believed(self, model: Model, batch: Batch, draws: Draws) -> Estimate:
        """The estimate at the batch's noised pictures."""
        x0, level = batch.x0, model.denoiser.process.at(draws.t)
        shaped = level.like(x0)
        found: Estimate = model.denoiser(shaped.alpha * x0 + shaped.sigma * draws.eps, level, self.cond(model, batch, draws))
        return found

    def bound(self, model: Model, x0: Tensor, t: Tensor, estimate: Estimate, variance: Variance) -> Tensor:
        """(B,) n times the mean term of the step at t, in bits a value: its mean over t is the bound without L_T."""
        chain = self.chain(model.denoiser.process)
        k = chain.step(t)
        each = chain.term(k, x0, estimate, variance)
        rows = (k == chain.n - 1).nonzero().flatten().to(x0.device)
        if len(rows):
            fraction = None if estimate.fraction is None else estimate.fraction[rows]
            last = chain.last(x0[rows], Estimate(estimate.x0[rows], fraction), variance)
            each = each.index_put((rows,), last.to(each.dtype))
        return each.flatten(1).mean(1) * (chain.n * NAT)


def _chain(process: Process, n: int) -> Chain:
    return Chain(process.at(Even()(process, n)))


# Every step of training asks for the chain again, which only a process that learns changes.
_table = lru_cache(8)(_chain)


class VLB(_Bounded, kind="vlb"):
    """min L_vlb, the variational bound in bits a value (Ho et al. 2020, eq. 5; with variance learned: Nichol and Dhariwal 2021, eq. 4).

    The loss is n L_k at a random step k, L_0 by the discrete decoder; its mean is the bound but for L_T, which no weight changes. It is
    noisy: Nichol and Dhariwal draw its times by `importance`.
    variance: of p(x' | x), `small`, `large` or `learned` as the sampler `ddpm` has them. steps: n, even in t; None takes every entry of a
    table. times: uniform, stratified or importance.
    """

    variance: Variance = "learned"

    def prepare(self, model: Model) -> list[Player]:
        if self.variance == "learned":
            _has_variance(self.kind, model)
        return super().prepare(model)

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) bits a value."""
        return self.bound(model, batch.x0, draws.t, self.believed(model, batch, draws), self.variance)


class Hybrid(_Bounded, kind="hybrid"):
    """min L_simple + vlb L_vlb, where L_vlb teaches the variance alone (Nichol and Dhariwal 2021, eq. 16).

    L_simple is the squared error of the network's prediction under `weighting`, as in `match`; L_vlb is the bound of `vlb` with the mean
    detached, so that only the network's fraction feels it. vlb: lambda, 0.001 in the paper. steps, times: as in `vlb`.
    """

    vlb: float = Field(0.001, gt=0)
    weighting: Weighting = Unit()

    def prepare(self, model: Model) -> list[Player]:
        _has_variance(self.kind, model)
        return super().prepare(model)

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) float32 (float64 for a float64 model)."""
        denoiser, x0 = model.denoiser, batch.x0
        estimate = self.believed(model, batch, draws)
        level = denoiser.process.at(draws.t)
        out = denoiser.parameterization.coeffs(level, denoiser.process).out
        # F - F* = (estimate - x0) / out
        weight = (self.weighting.on_network(level, out) / out.square()).to(x0.device, estimate.x0.dtype)
        simple = (estimate.x0 - x0).square().flatten(1).mean(1) * weight
        fixed = estimate._replace(x0=estimate.x0.detach())
        return simple + self.vlb * self.bound(model, x0, draws.t, fixed, "learned")


def _has_variance(kind: str, model: Model) -> None:
    if not getattr(model.denoiser.network.spec, "learned_variance", False):
        raise SpecError(f"objective '{kind}': the network predicts no variance; set model.network.learned_variance=true")
