"""Sampling of tokens: one step of the reverse chain, from the exact posterior."""

from __future__ import annotations

from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.discrete.process import TokenProcess, draw
from safelight.noise import Noise
from safelight.process import Level
from safelight.sample.base import Draws, Sampler, State
from safelight.spec import SpecError


class TokenSampler(Sampler, family="token-sampler"):
    """A solver of the reverse chain, for `trajectory`: x holds tokens (B, ...), an estimate's x0 their probabilities (B, K, ...)."""


class Ancestral(TokenSampler, kind="ancestral"):
    """x_s ~ sum_k q(x_s | x_t, x_0 = k) p(k | x_t), every token by itself (Austin et al. 2021; Sahoo et al. 2024, eq. 6).

    Between any two levels, so a chain of T entries may be walked in fewer steps. A masked process only unmasks, and a token once
    unmasked is carried over. process: whose chain it is.
    """

    process: TokenProcess

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, denoise: Denoise, x: Tensor, now: Level, to: Level, state: State, noise: Draws | None
    ) -> tuple[Tensor, State, Estimate]:
        """x: (B, ...) tokens at `now`. Returns those at `to`. Raises SpecError without a Noise: its uniforms are needed."""
        if not isinstance(noise, Noise):
            raise SpecError("sampler 'ancestral' draws tokens by uniforms: give trajectory(..., noise=Noise(seed))")
        estimate = denoise(x, now)
        p0 = estimate.x0.flatten(2).transpose(1, 2)  # (B, N, K)
        s, t = (level.t.reshape(1).cpu() for level in (to, now))
        p = self.process.posterior(x.flatten(1), p0, s, t, p0.shape[2])  # (B, N, S)
        u = noise.uniform("tokens", now, to, x)
        return draw(p, u.flatten(1)).view(x.shape).to(x.dtype), state, estimate
