"""Training a model of tokens: by its bound, or by plain cross-entropy."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from safelight import device as machine
from safelight.discrete import bound
from safelight.discrete.model import Tokens
from safelight.model import Model
from safelight.spec import SpecError
from safelight.train.keys import generator
from safelight.train.objective import Batch, Draws, Objective, Player
from safelight.train.times import Stratified


class _OfTokens(Objective):
    """What the objectives of tokens share: times even over the process and spread over the batch, as `stratified` places them.

    The draws' eps are standard normal, as all objectives' are; their distribution function makes them the uniforms that tokens need.
    """

    def prepare(self, model: Model) -> list[Player]:
        """One player: the network. Raises SpecError for a model that is no model of tokens."""
        return [Player(list(tokens_of(model).named_parameters()), self.loss)]

    def see(self, model: Model, x: Tensor) -> Tensor:
        """Tokens (B, C, H, W) as float32. Raises SpecError for a byte that the model's alphabet lacks."""
        return tokens_of(model).read((x.float() + 1).mul(127.5).round().to(torch.uint8))

    def parts(self, model: Model) -> list[nn.Module]:
        """The network."""
        return [tokens_of(model).network]

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        u = Stratified().place(len(like), generator("cpu", seed, step, "levels"))
        noise = generator(like.device, seed, step, "noise")
        return self.fixed(model, u, torch.randn(like.shape, generator=noise, device=like.device, dtype=like.dtype))

    def fixed(self, model: Model, u: Tensor, eps: Tensor) -> Draws:
        return Draws(bound.times(tokens_of(model).process, u), eps, torch.zeros(len(u), dtype=torch.bool))

    def noised(self, model: Tokens, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """(x_t, logits)."""
        wide = torch.float64 if machine.doubles(batch.x0.device) else torch.float32
        u = torch.special.ndtr(draws.eps.to(wide))
        x = model.process.noised(batch.x0, draws.t, u, model.tokens)
        return x, model.logits(x, draws.t)


class TokenBound(_OfTokens, kind="token-bound"):
    """min L_vb + cross_entropy E[-log p(x_0 | x_t)], in nats a token: D3PM's hybrid loss (Austin et al. 2021, eq. 5), and for `masked`
    the bound in continuous time (Sahoo et al. 2024; Shi et al. 2024). L_T is left out: nothing in it learns.
    """

    cross_entropy: float = Field(0.0, ge=0, description="lambda; 0.01 in D3PM")

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) nats a token."""
        learner = tokens_of(model)
        x, logits = self.noised(learner, batch, draws)
        found = bound.term(learner.process, logits, batch.x0, x, draws.t)
        if self.cross_entropy:
            found = found + self.cross_entropy * bound.cross_entropy(learner.process, logits, batch.x0, x)
        return found


class TokenCrossEntropy(_OfTokens, kind="token-cross-entropy"):
    """min E[-log p(x_0 | x_t)], in nats a token, over the tokens that x_t does not give away; no bound, but all levels count alike."""

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) nats a token."""
        learner = tokens_of(model)
        x, logits = self.noised(learner, batch, draws)
        return bound.cross_entropy(learner.process, logits, batch.x0, x)


def tokens_of(model: nn.Module) -> Tokens:
    """The model as one of tokens. Raises SpecError for another."""
    if not isinstance(model, Tokens):
        raise SpecError("objective: this one trains a model of tokens (model.kind: tokens), not one of pictures")
    return model
