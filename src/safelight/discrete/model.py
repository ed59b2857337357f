"""A model of tokens: alphabet + process + network, saved as one self-describing file, and sampled by the house's one loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from safelight import device as machine
from safelight import model as files
from safelight.denoise import Estimate
from safelight.discrete.alphabet import Alphabet, Characters
from safelight.discrete.process import MaskedTokens, TokenProcess
from safelight.discrete.sample import Ancestral
from safelight.grid import Uniform
from safelight.nn.tokens import TokenNetworkSpec, TokenTransformerSpec
from safelight.noise import Noise
from safelight.process import Level, Process
from safelight.sample import trajectory
from safelight.sample.loop import Step
from safelight.spec import Spec, SpecError


class TokensSpec(Spec, family="tokens", kind="tokens"):
    """channels, size: of the pictures whose bytes are read; a text of N characters is 1 x N. steps: of sampling, unless told."""

    network: TokenNetworkSpec = TokenTransformerSpec()
    process: TokenProcess = MaskedTokens()
    alphabet: Alphabet = Characters()
    channels: int = Field(1, ge=1)
    size: tuple[int, int]
    steps: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if min(self.size) < 1:
            raise ValueError(f"size is (height, width), both at least 1, not {self.size}; a text of N characters is (1, N)")
        return self

    def build(self) -> Tokens:
        """A model with fresh weights, drawn from torch's global generator."""
        return Tokens(self)


class Tokens(nn.Module):
    """p(x_0 | x_t) of every token by itself: a `Denoise` whose estimate is the probabilities."""

    text = None  # it hears no prompts

    def __init__(self, spec: TokensSpec) -> None:
        super().__init__()
        self.spec = spec
        self.process, self.alphabet, self.tokens = spec.process, spec.alphabet, spec.alphabet.tokens
        self.network = spec.network.make(spec.process.states(self.tokens), self.tokens, spec.channels)
        self.lineage: Mapping[str, Any] = {}
        self.name = self.fingerprint = self.weights = ""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def read(self, pixels: Tensor) -> Tensor:
        """Tokens (B, C, H, W) as float32 of pictures, uint8 of that shape."""
        return self.alphabet.read(pixels)

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, K, C, H, W) float32, of tokens x (B, C, H, W) at times t (B,): the network's answer + log q(x_t | x_0 = k).

        What a token says of itself is known and need not be learned: the network tells what the others say of it. So a token that is no
        mask is certain.
        """
        found: Tensor = self.network(x.long(), (1000 * t).to(x.device, torch.float32))
        own = self.process.evidence(x.flatten(1), t, self.tokens).transpose(1, 2).view(found.shape)  # (B, K, C, H, W)
        return found.float() + own.float().clamp(min=torch.finfo(torch.float32).tiny).log()

    def forward(self, x: Tensor, level: Level, temperature: float = 1.0) -> Estimate:
        """Probabilities softmax(logits / temperature), float64 where the device has it; at temperature 0 the likeliest token alone."""
        return Estimate(chances(self.logits(x, level.t.expand(len(x))), temperature))


def chances(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax over dimension 1 of logits / temperature, float64 where the device has it; 0: all on the first largest.

    Raises SpecError for a temperature below 0.
    """
    if temperature < 0:
        raise SpecError(f"temperature: at least 0 (0 takes the likeliest token), not {temperature:g}")
    wide = logits.to(torch.float64 if machine.doubles(logits.device) else torch.float32)
    if temperature == 0:
        return torch.zeros_like(wide).scatter_(1, wide.argmax(1, keepdim=True), 1.0)
    return (wide / temperature).softmax(1)


def sample(model: Tokens, noise: Noise, count: int, *, steps: int | None = None, temperature: float = 1.0) -> Iterator[Step]:
    """Make `count` samples from the prior, a Step after every step; the last one's x is (count, C, H, W) tokens.

    noise: its index numbers the samples: each is the same alone and in any batch. steps: fewer than a chain's T walk it in strides.
    temperature: of p(x_0 | x_t). Raises SpecError for more steps than a chain has entries, and a temperature below 0.
    """
    process, spec = model.process, model.spec
    # A grid asks a process for its entries and its kind, which this one has.
    times = Uniform()(cast(Process, process), spec.steps if steps is None else steps)
    start = noise.uniform("start", None, None, torch.empty(count, spec.channels, *spec.size, device=model.device))
    x = process.drawn(start, model.tokens)

    def denoise(x: Tensor, level: Level) -> Estimate:
        found: Estimate = model(x, level, temperature)
        return found

    with torch.inference_mode():
        yield from trajectory(denoise, x, process.at(times), Ancestral(process=process), noise)


def load(source: str | os.PathLike[str], weights: str | None = None, *, device: str | torch.device = "cpu") -> Tokens:
    """A model of tokens from its file, in evaluation mode: a path or a run's folder. As `safelight.model.load`, which see."""
    return cast(Tokens, files.load(source, weights, device=device, family=TokensSpec.family))
