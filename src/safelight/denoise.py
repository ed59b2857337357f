"""Denoiser: network + process + parameterization, behind the one contract of the house: `(x, level) -> Estimate(x0, ...)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.nn.network import Network, Output
from safelight.predict import Parameterization
from safelight.process import Level, Process
from safelight.process.level import shaped


class Estimate(NamedTuple):
    """What a denoiser believes at a level.

    x0: (B, C, *space), the expected picture E[x_0 | x_t]. fraction: learned-variance fraction in [0, 1], or None.
    parts: the x0 of every branch that guidance mixed ("cond", "null", ...), for traces; empty without guidance.
    free: x0 before a bend limited its values, None where none did: for samplers that keep the noise it stands for.
    """

    x0: Tensor
    fraction: Tensor | None = None
    parts: Mapping[str, Tensor] = {}
    free: Tensor | None = None


Denoise = Callable[[Tensor, Level], Estimate]
Branches = Callable[[Tensor, Level, tuple[str, ...]], Mapping[str, Estimate]]
Distance = Callable[[Tensor, Tensor], Tensor]


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """(prediction - target)^2, elementwise."""
    return (prediction - target).square()


class Denoiser(nn.Module):
    """A network that has been told what its input and output mean."""

    def __init__(self, network: Network, process: Process, parameterization: Parameterization) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.parameterization = parameterization

    def forward(self, x: Tensor, level: Level, cond: Cond | None = None) -> Estimate:
        """x0 = skip x + out F(inp x, noise, cond).

        x: (B, C, *space), noisy, as `process.add_noise` makes it. level: one level, or one a picture.
        Returns an Estimate in x's dtype (at least float32), whatever the network's own dtype.
        Raises SpecError where the parameterization has no x0.
        """
        return self._estimate(x, level, lambda h, noise: self.network(h, noise.to(h.device).expand(len(h)), cond))

    def bind(self, cond: Cond | None, levels: Sequence[Level] = ()) -> Denoise:
        """The denoiser of one run: everything constant over it (embeddings of cond and of the levels) is computed once.

        The result is that of `forward`; levels not listed are accepted.
        """
        # As Python numbers: they multiply a tensor on any device without being copied to it.
        known = {float(v.t): self._floats(v) for v in levels if float(v.sigma) > 0}
        bound = self.network.bind(cond, [coeffs.noise for coeffs in known.values()])

        def denoise(x: Tensor, level: Level) -> Estimate:
            coeffs = known.get(float(level.t)) if level.t.ndim == 0 else None
            return self._estimate(x, level, bound, coeffs)

        return denoise

    def match(
        self,
        x0: Tensor,
        eps: Tensor,
        t: Tensor | Level,
        cond: Cond | None = None,
        target: Tensor | None = None,
        distance: Distance = squared,
    ) -> Tensor:
        """(B,) the mean over a picture of distance(F, F*), in the network's own space.

        x_t = alpha x0 + sigma eps, F* = (1 - skip alpha)/out x0 - skip sigma/out eps: the F that would make the estimate exact.
        x0, eps: (B, C, *space). t: (B,), or the levels themselves, whose gradient is then followed. target: the x0 to be matched instead
        of the true one (a teacher's; distillation).
        distance: elementwise, the square unless an objective says otherwise. A loss on x0 of weight w is this one times w out^2.
        """
        level = t if isinstance(t, Level) else self.process.at(t)
        a, b = (shaped(v, x0) for v in self.parameterization.target(level, self.process))
        _, out, inp, noise = self.parameterization.coeffs(level, self.process)
        here = level.like(x0)
        x = here.alpha * x0 + here.sigma * eps
        wanted = a * x0 + b * eps
        if target is not None:
            # F moves by (target - x0)/out when the x0 that it stands for moves.
            wanted = wanted + (target - x0) / shaped(out, x0)
        found = self.network(shaped(inp, x0) * x, noise.to(x.device, torch.float32).expand(len(x0)), cond)
        return distance(found.F.to(wanted.dtype), wanted).flatten(1).mean(1)

    def _floats(self, level: Level) -> _Numbers:
        return _Numbers(*(float(v) for v in self.parameterization.coeffs(level, self.process)))

    def _estimate(
        self, x: Tensor, level: Level, network: Callable[[Tensor, Tensor], Output], coeffs: _Numbers | None = None
    ) -> Estimate:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if coeffs is None and level.t.ndim == 0:
            coeffs = self._floats(level)
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        if coeffs is not None:
            # One number on the CPU: a bound network looks its embedding up by it, without asking the device.
            told = torch.tensor([coeffs.noise], dtype=exact)
            answer = network((wide * coeffs.inp).to(_dtype(self.network, wide)), told)
            x0 = wide * coeffs.skip + answer.F.to(wide.dtype) * coeffs.out
        else:
            found = self.parameterization.coeffs(level, self.process)
            skip, out, inp = (shaped(v, wide) for v in found[:3])
            answer = network((wide * inp).to(_dtype(self.network, wide)), found.noise.to(x.device, exact))
            x0 = wide * skip + answer.F.to(wide.dtype) * out
        return Estimate(x0, None if answer.fraction is None else answer.fraction.to(wide.dtype))


class _Numbers(NamedTuple):
    """`predict.Coeffs` of a single level as Python numbers."""

    skip: float
    out: float
    inp: float
    noise: float


def branches(
    denoiser: Denoiser,
    conds: Mapping[str, Cond | None],
    levels: Sequence[Level] = (),
    others: Mapping[str, Denoiser] | None = None,
) -> Branches:
    """Named conditions evaluated in one batched pass: what a guidance mix asks for.

    conds: each of the batch B of x (None for an unconditional model). others: branches that another denoiser evaluates, each in a
    pass of its own. A denoiser is bound once for each set of names asked of it.
    """
    others = others or {}
    bound: dict[tuple[str, ...], Denoise] = {}

    def together(who: Denoiser, x: Tensor, level: Level, names: tuple[str, ...]) -> dict[str, Estimate]:
        if names not in bound:
            given = [c for c in (conds[name] for name in names) if c is not None]
            bound[names] = who.bind(Cond.cat(given) if given else None, levels)
        estimate = bound[names](torch.cat([x] * len(names)) if len(names) > 1 else x, level)
        x0 = estimate.x0.chunk(len(names))
        fraction = estimate.fraction.chunk(len(names)) if estimate.fraction is not None else (None,) * len(names)
        return {name: Estimate(a, f) for name, a, f in zip(names, x0, fraction, strict=True)}

    def evaluate(x: Tensor, level: Level, names: tuple[str, ...]) -> Mapping[str, Estimate]:
        mine = tuple(name for name in names if name not in others)
        found = together(denoiser, x, level, mine) if mine else {}
        for name in names:
            if name in others:
                found |= together(others[name], x, level, (name,))
        return found

    return evaluate


def _dtype(network: nn.Module, x: Tensor) -> torch.dtype:
    """The dtype a network computes in: that of its first floating parameter, or x's when it has none."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), x.dtype)
