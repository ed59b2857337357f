"""Training a joint model: CLIP's contrastive loss over the pairs of a batch, with a learned temperature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from safelight.model import Model
from safelight.spec import SpecError
from safelight.text.joint import Joint
from safelight.train.objective import Batch, Draws, Objective, Player


class Contrastive(Objective, kind="contrastive"):
    """(CE over texts + CE over pictures) / 2, one value a pair (Radford et al. 2021, figure 3), equal captions sharing targets.

    A pair is contrasted with the others of its micro-batch: accumulating does not widen the choice, a larger `batch` does.
    """

    def prepare(self, model: Model) -> list[Player]:
        """One player: both towers, their projections and the temperature. Raises SpecError for a model that is no `Joint`."""
        joint(model)
        return [Player(list(model.named_parameters()), self.loss)]

    def see(self, model: Model, x: Tensor) -> Tensor:
        """The pictures themselves."""
        return x

    def parts(self, model: Model) -> list[nn.Module]:
        """Both towers."""
        pair = joint(model)
        return [pair.text, pair.pair.image]

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        """Nothing is drawn."""
        return _nothing(like)

    def fixed(self, model: Model, u: Tensor, eps: Tensor) -> Draws:
        """Nothing is drawn. A held-out picture is contrasted with the panel's others, `batch` at a time."""
        return _nothing(eps)

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) float32."""
        pair, tokens = joint(model), batch.tokens
        if tokens is None:
            raise SpecError("objective: contrast needs captions, and the data have none")
        same = (tokens[:, None] == tokens[None]).all(-1)  # (B, B)
        return pair.pair.contrast(pair.embed_image(batch.x0), pair.embed_text(tokens), same)


def _nothing(like: Tensor) -> Draws:
    n = len(like)
    return Draws(torch.zeros(n, dtype=torch.float64), like.new_zeros(n), torch.zeros(n, dtype=torch.bool))


def joint(model: nn.Module) -> Joint:
    """The model as a joint one. Raises SpecError for another."""
    if not isinstance(model, Joint):
        raise SpecError("objective: 'contrastive' trains a joint model of two towers, not a denoiser")
    return model
