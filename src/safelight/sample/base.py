"""What a sampler is: one pure step from a noise level to a lower one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.spec import Spec, SpecError

# A solver's memory: tensors of the batch's shape and Python numbers, so that a trace can hold it.
State = Mapping[str, "Tensor | float"]


class Draws(Protocol):
    """Where a sampler's noise comes from; `safelight.noise.Noise` is one."""

    def normal(self, purpose: str, now: Level | None, to: Level | None, like: Tensor) -> Tensor:
        """Standard normal draws like `like`."""
        ...


class Sampler(Spec, family="sampler"):
    """A solver of the reverse process. It sees only `denoise(x, level) -> Estimate`; its memory travels in the returned state.

    Solvers write x = alpha x_0 + sigma eps and s = sigma / alpha. The last step, to sigma = 0, adds no noise.
    """

    @property
    def order(self) -> int:
        """The order of convergence of the deterministic solver; 1 for those that add noise."""
        return 1

    @property
    def stochastic(self) -> bool:
        """Whether `step` draws noise."""
        return False

    @property
    def multistep(self) -> bool:
        """Whether a step looks back on the steps before it, so that x must not be moved in between."""
        return False

    @property
    def calls(self) -> int:
        """How often a step, other than the last, calls the denoiser."""
        return 1

    def start(self, n: int) -> State:
        """The state before the first of n steps."""
        return {}

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        """One step from level `now` to the lower level `to`.

        x: (B, C, *space), at `now`. Returns x at `to`, the new state, and the estimate made at `now`.
        Raises SpecError when a stochastic sampler is given no noise.
        """
        raise NotImplementedError(type(self).__name__)

    def draw(self, noise: Draws | None, purpose: str, now: Level, to: Level, like: Tensor) -> Tensor:
        """Noise for this step, or a clear refusal."""
        if noise is None:
            raise SpecError(f"sampler '{self.kind}' draws noise: give trajectory(..., noise=Noise(seed))")
        return noise.normal(purpose, now, to, like)
