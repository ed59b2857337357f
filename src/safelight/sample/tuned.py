"""A sampler whose weights were fitted to a model at a number of steps: `safelight tune-sampler` writes it."""

from __future__ import annotations

from typing import Self

from pydantic import field_validator, model_validator
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.grid import falling
from safelight.process import Level
from safelight.sample.adams import ABM
from safelight.sample.base import Draws, Sampler, State
from safelight.sample.multistep import mixed
from safelight.spec import SpecError

# A step begins at its place when u agrees to this.
_SAME = 1e-6
# Rows of weights add up to 1 to this; they are written with ten decimals.
_SUM = 1e-6


class Tuned(Sampler, kind="tuned"):
    """Every step goes along the straight line from x_T to a weighted mean of all estimates so far (Shaul et al. 2024, "Bespoke
    non-stationary solvers for fast sampling of diffusion and flow models", with x_0 for the velocity and weights tied by the line):

        y_(i+1) = u_(i+1)/u_0 y_0 + (1 - u_(i+1)/u_0) sum_(j <= i) w_ij x0_j,    sum_j w_ij = 1,

    in y = x/(alpha + sigma) and u = sigma/(alpha + sigma); x0_j is the denoiser's estimate at step j. Where the estimate does not change it
    is exact for any weights. Every linear multistep method has this form; fitting begins with `abm`.

    s: sigma/alpha at which each step begins, falling, as in the grid `optimised` beside it. weights: row i = 0..n-1 is w_i0..w_ii.
    model: the fingerprint of the weights it was fitted to, "" for none. () is what fitting begins with, the sampler `abm`.
    Raises SpecError for another number of steps or at other places than it was fitted to, and where a run begins in its middle.
    """

    s: tuple[float, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    model: str = ""

    _falls = field_validator("s")(falling)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.weights) != len(self.s):
            raise ValueError(f"{len(self.s)} places need as many rows of weights, not {len(self.weights)}")
        for i, row in enumerate(self.weights):
            if len(row) != i + 1 or abs(sum(row) - 1) > _SUM:
                raise ValueError(f"row {i} of the weights must hold {i + 1} numbers that add up to 1")
        return self

    @property
    def order(self) -> int:
        """1 when fitted: it is for one number of steps, over which no order can show."""
        return 1 if self.weights else ABM().order

    @property
    def multistep(self) -> bool:
        return True

    def start(self, n: int) -> State:
        if self.weights and n != len(self.s):
            raise SpecError(f"steps: sampler 'tuned' was fitted for {len(self.s)} steps and takes no other number (given: {n})")
        return {}

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        if not self.weights:
            return ABM().step(denoise, x, now, to, state, noise)
        i = int(state.get("i", 0))
        top, here, there = (_fraction(self.s[k]) if k < len(self.s) else 0.0 for k in (0, i, i + 1))
        for level, place in ((now, here), (to, there)):
            alpha, sigma, s = level.floats
            if abs(sigma / (alpha + sigma) - place) > _SAME:
                raise SpecError(
                    f"sampler 'tuned' stands at sigma/alpha = {place / (1 - place):.4g} in step {i + 1}, not at {s:.4g}: "
                    "take the grid 'optimised' that was fitted with it"
                )
        estimate = denoise(x, now)
        estimates = [state[f"e{j}"] for j in range(i)] + [estimate.x0]
        first = state["x"] if i else x
        assert isinstance(first, Tensor)
        scale, part = to.floats[0] + to.floats[1], there / top
        began = float(state["y"]) if i else 1 / (now.floats[0] + now.floats[1])
        out = mixed(first, scale * part * began, estimates, [scale * (1 - part) * w for w in self.weights[i]])  # type: ignore[arg-type]
        held: dict[str, Tensor | float] = {"i": float(i + 1), "x": first, "y": began}
        held.update((f"e{j}", each) for j, each in enumerate(estimates))
        return out, held, estimate


def _fraction(s: float) -> float:
    """u = sigma / (alpha + sigma) of s = sigma / alpha."""
    return s / (1 + s)
