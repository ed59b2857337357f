"""Objective: what is minimised. It draws its own randomness, keyed by the step, and gives one loss a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from safelight import device as machine
from safelight.cond import Cond
from safelight.model import Model
from safelight.process import Process
from safelight.spec import Spec, SpecError
from safelight.train.keys import generator
from safelight.train.memory import History, Memory
from safelight.train.times import Importance, Times, Uniform
from safelight.train.weighting import MSE, Distance, Unit, Weighting


class Batch(NamedTuple):
    """What is learned from. x0: (B, C, *space), what the objective sees of the pictures, on the model's device: the codec's latents.

    tokens: (B, L) the captions as the model's text encoder tokenised them, null: (1, L) the empty prompt; None without an encoder.
    """

    x0: Tensor
    tokens: Tensor | None = None
    null: Tensor | None = None

    def part(self, rows: slice) -> Batch:
        """Some of the pictures: a micro-batch."""
        return Batch(self.x0[rows], None if self.tokens is None else self.tokens[rows], self.null)


class Draws(NamedTuple):
    """The randomness of a step. t: (B,) float64 on the CPU. eps: like x0, standard normal. drop: (B,) bool, prompts left out.

    part_of: (B,) int64, the part of the times that each t is from, and weight: (B,) float64, what the loss there is multiplied by: only
    where a memory chose the times, and both on the CPU.
    """

    t: Tensor
    eps: Tensor
    drop: Tensor
    part_of: Tensor | None = None
    weight: Tensor | None = None

    def part(self, rows: slice) -> Draws:
        """The draws of some of the pictures."""
        return Draws(*(None if v is None else v[rows] for v in self))  # type: ignore[arg-type]


class Player(NamedTuple):
    """Who is optimised, and how well it does: `loss(model, batch, draws) -> (B,)`, one number a picture, not averaged."""

    parameters: list[tuple[str, nn.Parameter]]
    loss: Callable[[Model, Batch, Draws], Tensor]


class Objective(Spec, family="objective"):
    """What is minimised. `prepare(model)` names the players: one for most objectives."""

    def prepare(self, model: Model) -> list[Player]:
        """The players of a training run of `model`; what must not learn is frozen here."""
        raise NotImplementedError(type(self).__name__)

    def see(self, model: Model, x: Tensor) -> Tensor:
        """x0 of pictures x (B, C, *space) in [-1, 1]: the codec's latents, unless it is the codec that learns."""
        with torch.no_grad():
            return model.codec.encode(x)

    def parts(self, model: Model) -> list[nn.Module]:
        """The modules that do a step's work: what a plan's memory format, compilation and checkpointing are applied to."""
        return [model.denoiser.network]

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,), one number a picture: the loss of the only player, or what held-out pictures are judged by where there are several."""
        raise NotImplementedError(type(self).__name__)

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        """All randomness of optimizer step `step` for a batch x0 like `like` (B, C, *space): a pure function of (seed, step).

        Drawn for the whole step at once, before it is cut into micro-batches, so accumulating 3 x B draws what 1 x 3B draws.
        """
        raise NotImplementedError(type(self).__name__)

    def memory(self, model: Model) -> Memory | None:
        """What it remembers from step to step, empty as at the beginning; None for an objective that remembers nothing."""
        return None

    def fixed(self, model: Model, u: Tensor, eps: Tensor) -> Draws:
        """The draws of a held-out loss: times at the quantiles u (B,) of those trained on, the noise as given, no prompt dropped.

        Raises SpecError for an objective that has no such loss.
        """
        raise SpecError(f"objective '{self.kind}' has no held-out loss: leave held_out and held_out_data out")


class Denoising(Objective):
    """What the objectives of one denoiser share: noise at times of a distribution, prompts left out, and no say of codec and text.

    times: see their family. drop: the probability that a picture's prompt is replaced by the empty one, so that one network learns both
    branches of classifier-free guidance (Ho and Salimans 2022, algorithm 1); 0 for models without text.
    """

    times: Times = Uniform()
    drop: float = Field(0.0, ge=0, lt=1)

    def prepare(self, model: Model) -> list[Player]:
        for parameter in model.codec.parameters():
            parameter.requires_grad_(False)
        # The noisiest level in a million is tried here: one without a target would stop the run at some later step.
        denoiser, u = model.denoiser, torch.tensor([1 - 1e-6], dtype=torch.float64)
        noisiest = denoiser.process.at(self.when(u, denoiser.process))
        denoiser.parameterization.target(noisiest, denoiser.process)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return [Player(named, self.loss)]

    def when(self, u: Tensor, process: Process) -> Tensor:
        """(B,) float64 times at the quantiles u (B,) of those trained on."""
        return self.times.times(u, process)

    def parts_of(self, process: Process) -> int:
        """How many parts a memory tells the times apart by: the entries of a table, where they are trained on, else a hundred."""
        return process.entries if self.times.entries and process.entries is not None else 100

    def memory(self, model: Model) -> Memory | None:
        if not isinstance(self.times, Importance):
            return None
        return Recall(self, History(self.parts_of(model.denoiser.process), self.times.history, self.times.floor))

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        host = generator("cpu", seed, step, "levels")
        return self.drawn(model, like, seed, step, self.times.place(len(like), host), host)

    def drawn(self, model: Model, like: Tensor, seed: int, step: int, u: Tensor, host: torch.Generator) -> Draws:
        """The draws of a step whose times are at u (B,); host: the step's generator, from which u came."""
        drop = torch.rand(len(like), generator=host) < self.drop
        noise = generator(like.device, seed, step, "noise")
        # Drawn flat and shaped after, so that the memory format of x0 does not move a number.
        eps = torch.randn(like.shape, generator=noise, device=like.device, dtype=like.dtype)
        return Draws(self.when(u, model.denoiser.process), eps, drop)

    def fixed(self, model: Model, u: Tensor, eps: Tensor) -> Draws:
        return Draws(self.when(u, model.denoiser.process), eps, torch.zeros(len(u), dtype=torch.bool))

    def cond(self, model: Model, batch: Batch, draws: Draws) -> Cond | None:
        """The conditioning of a batch after dropout; None for a model without text."""
        if model.text is None or batch.tokens is None:
            return None
        tokens = batch.tokens
        if batch.null is not None:
            dropped = draws.drop.to(tokens.device, non_blocking=True)
            tokens = torch.where(dropped[:, None], batch.null, tokens)
        cond: Cond = model.text(tokens)
        return cond


class Recall:
    """The memory of `importance`: a history of losses, which places the times. See `History`."""

    def __init__(self, objective: Denoising, history: History) -> None:
        self.objective, self.history = objective, history

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        """As `Objective.draw`, at the times that the history sends it to."""
        host = generator("cpu", seed, step, "levels")
        u, part, weight = self.history.place(self.objective.times.place(len(like), host))
        return self.objective.drawn(model, like, seed, step, u, host)._replace(part_of=part, weight=weight)

    def saw(self, draws: Draws, losses: Sequence[float]) -> None:
        """Remember a step's losses."""
        assert draws.part_of is not None
        self.history.saw(draws.part_of, losses)

    def tensors(self) -> dict[str, Tensor]:
        """losses: (parts, history) float64, counts: (parts,) int64."""
        return {"losses": self.history.losses, "counts": self.history.counts}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.history.losses.copy_(tensors["losses"])
        self.history.counts.copy_(tensors["counts"])


class Match(Denoising, kind="match"):
    """min E[ w out^2 distance(F(x_t), F*) ]: denoising in network space (Ho et al. 2020, eq. 14; Karras et al. 2022, eq. 8).

    distance, weighting: see their families.
    """

    distance: Distance = MSE()
    weighting: Weighting = Unit()

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) float32 (float64 for a float64 model)."""
        denoiser, x0 = model.denoiser, batch.x0
        # One small copy that waits for nothing; the levels are then computed where the pictures are, if float64 exists there.
        t = draws.t.to(x0.device, non_blocking=True) if machine.doubles(x0.device) else draws.t
        each = denoiser.match(x0, draws.eps, t, self.cond(model, batch, draws), distance=self.distance)
        level = denoiser.process.at(t)
        out = denoiser.parameterization.coeffs(level, denoiser.process).out
        return each * self.weighting.on_network(level, out).to(each)
