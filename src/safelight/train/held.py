"""The held-out loss: the training loss on pictures never trained on, with everything random fixed, so that it can be compared.

Picture i's noise is a pure function of its id, its time of its rank among the ids; so the number is the same in two runs, after a
resume and at any batch size, costs training no random number, and moves only when the weights do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.data import Pictures, Stream
from safelight.denoise import Denoiser
from safelight.model import Model
from safelight.nn import Network, Output
from safelight.train.feed import Words, seen, words
from safelight.train.keys import generator
from safelight.train.objective import Batch, Objective

# The held-out loss has risen when it is this much above its best while the training loss fell below what it was then, twice running.
_RISE = 1.03
_TIMES = 2


class Judged(NamedTuple):
    """Losses at a step. buckets: of equal shares of the training times, first those nearest the data; their mean is the whole.

    loss: held-out. seen: on as many training pictures, measured alike. trivial: what a network that always answers 0 gets on the
    held-out ones: a model that learned something is below it; None where it is not the network that learns.
    """

    step: int
    loss: float
    seen: float
    trivial: float | None
    buckets: tuple[float, ...]
    seen_buckets: tuple[float, ...]

    @property
    def gap(self) -> float:
        """Held-out minus training loss: near 0 for a model that generalises."""
        return self.loss - self.seen

    def metrics(self) -> dict[str, float]:
        """Under the names of metrics.jsonl."""
        named = {"val/loss": self.loss, "val/train": self.seen, "val/gap": self.gap}
        if self.trivial is not None:
            named["val/trivial"] = self.trivial
        return named | {f"val/loss_t{i}": value for i, value in enumerate(self.buckets)}


def judged_from(row: Sequence[Any]) -> Judged:
    """What `list(judged)` was made from, read back from JSON."""
    step, loss, seen, trivial, buckets, seen_buckets = row
    return Judged(step, loss, seen, trivial, tuple(buckets), tuple(seen_buckets))


class Panel:
    """A fixed set of pictures with their fixed times and noise."""

    def __init__(self, pictures: Pictures, count: int, buckets: int, text: Words, batch: int) -> None:
        # Which pictures, and who gets which time, follow from the ids alone.
        ranked = sorted(range(pictures.n), key=lambda i: hashlib.blake2b(pictures.ids[i].encode(), digest_size=16).digest())
        self.pictures, self.text, self.batch = pictures, text, batch
        self.chosen = ranked[:count]
        self.u = (torch.arange(len(self.chosen), dtype=torch.float64) + 0.5) / len(self.chosen)
        self.bucket = (self.u * buckets).long()
        self.buckets = buckets

    def losses(self, model: Model, objective: Objective) -> Tensor:
        """(count,) float64 on the CPU: the loss of each picture at its own time."""
        device, found = model.device, []
        for first in range(0, len(self.chosen), self.batch):
            rows = self.chosen[first : first + self.batch]
            index = torch.tensor(rows, dtype=torch.int64)
            x0 = seen(model, objective, self.pictures.batch(index), channels_last=False)
            index = self.pictures.actual(index)  # captions go by the pictures that were really given
            noise = [torch.randn(x0.shape[1:], generator=generator("cpu", "held-out", self.pictures.ids[i])) for i in rows]
            eps = torch.stack(noise).to(device, x0.dtype)
            draws = objective.fixed(model, self.u[first : first + len(rows)], eps)
            with torch.no_grad():
                each = objective.loss(model, Batch(x0, self.text.of(index), self.text.null), draws)
            found.append(each.double().cpu())
        return torch.cat(found)

    def means(self, losses: Tensor) -> tuple[float, ...]:
        """The mean loss of each bucket of time."""
        return tuple(float(losses[self.bucket == b].mean()) for b in range(self.buckets))


class Jury:
    """A panel of held-out pictures and one, as large, of training pictures."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        held_out: Pictures,
        training: Pictures | Stream,
        count: int,
        buckets: int,
        batch: int,
    ) -> None:
        count = min(count, held_out.n, training.n)
        if isinstance(training, Stream):
            training = training.first(count)
        buckets = min(buckets, count)
        self.objective = objective
        like = seen(model, objective, held_out.batch(torch.zeros(1, dtype=torch.int64)), channels_last=False)
        objective.fixed(model, torch.full((1,), 0.5, dtype=torch.float64), like)  # one that has no such loss says so now
        self.held_out = Panel(held_out, count, buckets, words(model, held_out, model.device), batch)
        self.training = Panel(training, count, buckets, words(model, training, model.device), batch)
        self._trivial: float | None = None

    def judge(self, model: Model, step: int) -> Judged:
        """Both panels' losses under `model`, which is not changed and must be in evaluation mode."""
        held, seen = self.held_out.losses(model, self.objective), self.training.losses(model, self.objective)
        network = model.denoiser.network if hasattr(model, "denoiser") else None
        learns = any(part is network for part in self.objective.parts(model))
        if self._trivial is None and learns:
            self._trivial = float(self.held_out.losses(_silent(model), self.objective).mean())
        return Judged(
            step, float(held.mean()), float(seen.mean()), self._trivial, self.held_out.means(held), self.training.means(seen)
        )


def memorising(history: Sequence[Judged]) -> Judged | None:
    """The best judgement, when since then the held-out loss rose while the training loss fell; None when all is well.

    It has to hold for the last two judgements, so that noise is not called a trend.
    """
    if len(history) <= _TIMES:
        return None
    best = min(history, key=lambda j: j.loss)
    later = [j.step > best.step and j.loss > _RISE * best.loss and j.seen < best.seen for j in history[-_TIMES:]]
    return best if all(later) else None


class _Silent(Network):
    """F = 0, and a variance in the middle where one is predicted."""

    def __init__(self, like: Network) -> None:
        super().__init__()
        self.spec = like.spec

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        nothing = torch.zeros_like(x)
        return Output(nothing, nothing + 0.5 if getattr(self.spec, "learned_variance", False) else None)


class _Mute(nn.Module):
    """A model whose network answers 0."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.denoiser = Denoiser(_Silent(model.denoiser.network), model.denoiser.process, model.denoiser.parameterization)
        self.codec, self.text, self.device = model.codec, model.text, model.device


def _silent(model: Model) -> Any:
    return _Mute(model)
