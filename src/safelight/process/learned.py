"""The learned process of variational diffusion models: a monotone network of t whose log-SNR, shape and ends, are trained.

A description (`Learned`) is frozen and is a process like any other; a model that is built from it holds a `LearnedProcess`, a module
whose weights are trained with the network's and saved beside them. What it has become is a description again: `settled()`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from safelight.process.base import CLOCK, Process, from_logsnr, ratio_of
from safelight.process.level import Level
from safelight.spec import SpecError

# The least positive time: where the process jumps to the data.
_FIRST = 1e-12
# A weight w stands for the height exp(_PACE w): at the small steps of a network's optimizer heights must still change by the factor
# of ten that separates a schedule's flat part from its steep one.
_PACE = 8.0
# How far beyond [0, 1] the first and the last unit lie at the start, and their steepness times their distance: so that together
# they are a straight line to a thousandth.
_BEYOND, _OVERLAP = 0.1, 1.5
# The least distance of the two ends, in nats of log-SNR.
_APART = 1.0
# Newton's steps, each kept inside its bracket; a bracket that halves ends at 2^-60.
_ROUNDS = 60


class Curve(NamedTuple):
    """A monotone curve at times t: its value, from 0 at t = 0 to 1 at t = 1, and its first and second derivative. Shape of t."""

    value: Tensor
    slope: Tensor
    bend: Tensor


class Learned(Process, kind="learned"):
    """logsnr(t) = first - (first - last) S(t), S a network of one hidden layer with positive weights (Kingma et al. 2021, app. H):

        S(t) = (R(t) - R(0)) / (R(1) - R(0)),   R(t) = b t + sum_j h_j sigmoid(k_j (t - c_j)),   b, h, k > 0

    Variance preserving: alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr). As VE does, it jumps from `first` at t -> 0 to the data
    at t = 0. The defaults are the paper's ends; S begins as a straight line, to a thousandth. A network is told log(sigma/alpha).

    first, last: log-SNR at t -> 0 and at t = 1, in nats. units: the number of j. shape: the weights of S, 3 units + 1 numbers as
    `LearnedProcess.shape` holds them; empty: the straight line. The objective `elbo` trains all of it, any other objective leaves it.
    """

    first: float = Field(13.3, gt=-40, lt=40)
    last: float = Field(-5.0, gt=-40, lt=40)
    units: int = Field(32, ge=2, le=4096)
    shape: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.last > self.first - _APART:
            raise ValueError(
                f"last ({self.last:g}) must be at least {_APART:g} below first ({self.first:g}): noise grows with t"
            )
        if self.shape and len(self.shape) != 3 * self.units + 1:
            raise ValueError(f"shape has {len(self.shape)} weights, but {self.units} units have {3 * self.units + 1}")
        return self

    def build(self) -> LearnedProcess:
        """The module that learns, beginning as described."""
        return LearnedProcess(self)

    def curve(self, t: Tensor) -> Curve:
        """S(t), S'(t), S''(t) at times t in [0, 1], float64."""
        return _curve(t, _weights(self, t.device))

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value = self.curve(t).value
        alpha, sigma = from_logsnr(self.first - (self.first - self.last) * value)
        return torch.where(t > 0, alpha, torch.ones_like(t)), torch.where(t > 0, sigma, torch.zeros_like(t))

    def time(self, logsnr: Tensor | float) -> Tensor:
        """By Newton's method inside a shrinking bracket; S(time) is right to 1e-14."""
        logsnr = torch.as_tensor(logsnr, dtype=torch.float64)
        with torch.no_grad():
            wanted = ((self.first - logsnr) / (self.first - self.last)).clamp(0, 1)
            low, high, t = torch.zeros_like(wanted), torch.ones_like(wanted), wanted
            for _ in range(_ROUNDS):
                value, slope, _ = self.curve(t)
                error = value - wanted
                if bool((error.abs() < 1e-15).all()):
                    break
                low, high = torch.where(error < 0, t, low), torch.where(error < 0, high, t)
                aimed = t - error / slope
                t = torch.where((aimed > low) & (aimed < high), aimed, (low + high) / 2)
            return torch.where(torch.isposinf(logsnr), torch.zeros_like(t), t.clamp(_FIRST, 1.0))

    def told(self, level: Level) -> Tensor:
        # By log s and not by t, whose meaning moves while the curve is learned; the scale is that of the exploding processes.
        return -CLOCK / 8 * level.logsnr.clamp(-40, 40)

    @property
    def ends(self) -> tuple[float, float]:
        return float(ratio_of(self.first)), float(ratio_of(self.last))


class LearnedProcess(nn.Module):
    """A `Learned` process whose weights are parameters: all that a process is asked, it answers as what it is at that moment.

    Its answers carry no gradient to its weights, and its levels belong to the description that it then was (`settled`), which further
    training does not move. An objective that trains it asks `span` and `curve`.

    first, last: the ends. shape: (3 units + 1,) log-heights w of b and of the h_j (the height is exp(8 w)), log-steepness of the k_j,
    places c_j.
    """

    def __init__(self, spec: Learned) -> None:
        super().__init__()
        self.spec = spec
        self.first = nn.Parameter(torch.tensor(spec.first))
        self.last = nn.Parameter(torch.tensor(spec.last))
        self.shape = nn.Parameter(_weights(spec, torch.device("cpu")).to(self.first.dtype))

    def span(self) -> tuple[Tensor, Tensor]:
        """(first, last) as float64, with gradients; wherever `last` went, its end stays at least 1 below the first."""
        first, last = self.first.double(), self.last.double()
        return first, torch.minimum(last, first - _APART)

    def curve(self, t: Tensor) -> Curve:
        """S(t), S'(t), S''(t) at times t in [0, 1], float64, with gradients to `shape`."""
        return _curve(t, self.shape.to(t.device, torch.float64))

    def settled(self) -> Learned:
        """What it is now, as a description: frozen, comparable, to be written into a file or another model.

        Raises SpecError when a weight is not finite.
        """
        first, last = (float(v) for v in torch.stack(self.span()).detach())
        try:
            return Learned(first=first, last=last, units=self.spec.units, shape=tuple(self.shape.detach().double().tolist()))
        except ValidationError:
            raise SpecError(
                f"the learned process has run away: its log-SNR goes from {first:g} to {last:g}, or a weight of its shape is not finite"
            ) from None

    @property
    def kind(self) -> str:
        """Its kind's name."""
        return self.spec.kind

    @property
    def entries(self) -> int | None:
        """None: it is continuous."""
        return self.spec.entries

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest s = sigma/alpha."""
        return self.settled().ends

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times t."""
        return self.settled().levels(t)

    def at(self, t: Tensor | float) -> Level:
        """The level(s) at time(s) t."""
        return self.settled().at(t)

    def alpha(self, t: Tensor | float) -> Tensor:
        """alpha(t)."""
        return self.settled().alpha(t)

    def sigma(self, t: Tensor | float) -> Tensor:
        """sigma(t)."""
        return self.settled().sigma(t)

    def logsnr(self, t: Tensor | float) -> Tensor:
        """log(alpha(t)^2 / sigma(t)^2)."""
        return self.settled().logsnr(t)

    def time(self, logsnr: Tensor | float) -> Tensor:
        """The time at which the log-SNR is `logsnr`."""
        return self.settled().time(logsnr)

    def slope(self, level: Level) -> tuple[Tensor, Tensor]:
        """(d alpha / dt, d sigma / dt)."""
        return self.settled().slope(level)

    def told(self, level: Level) -> Tensor:
        """What a network is told of a level, with the gradient of the level."""
        return self.spec.told(level)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """x_t = alpha(t) x_0 + sigma(t) eps."""
        return self.settled().add_noise(x0, eps, t)


def _curve(t: Tensor, weights: Tensor) -> Curve:
    """The curve of weights (3 units + 1,), as `LearnedProcess` describes them, at times t."""
    units = (len(weights) - 1) // 3
    base, heights = torch.exp(_PACE * weights[0]), torch.exp(_PACE * weights[1 : units + 1])
    steep, places = torch.exp(weights[units + 1 : 2 * units + 1]), weights[2 * units + 1 :]

    def raw(at: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(steep * (at[..., None] - places))  # (..., units)
        return base * at + (heights * gate).sum(-1), gate

    ends, _ = raw(torch.tensor([0.0, 1.0], dtype=t.dtype, device=t.device))
    whole = ends[1] - ends[0]
    value, gate = raw(t)
    lift = heights * steep * gate * (1 - gate)  # (..., units)
    slope = base + lift.sum(-1)
    bend = (lift * steep * (1 - 2 * gate)).sum(-1)
    return Curve((value - ends[0]) / whole, slope / whole, bend / whole)


@lru_cache(64)
def _weights(spec: Learned, device: torch.device) -> Tensor:
    """(3 units + 1,) float64: those of a description, or of the straight line where it gives none."""
    if spec.shape:
        return torch.tensor(spec.shape, dtype=torch.float64, device=device)
    places = torch.linspace(-_BEYOND, 1 + _BEYOND, spec.units, dtype=torch.float64)
    apart = float(places[1] - places[0])
    heights = torch.tensor([0.5, *[0.5 * apart] * spec.units], dtype=torch.float64).log() / _PACE
    steep = torch.full((spec.units,), _OVERLAP / apart, dtype=torch.float64).log()
    return torch.cat([heights, steep, places]).to(device)
