"""TrainState: all that a run carries from one optimizer step to the next. What is a pure function of the step is not in it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from safelight.model import Model
from safelight.train.ema import Averages
from safelight.train.guard import Guard
from safelight.train.held import Judged, judged_from
from safelight.train.objective import Objective, Player
from safelight.train.plan import Plan


class TrainState:
    """step: optimizer steps done, skipped ones included. seen: pictures. skipped, bad: non-finite steps, in all and in a row.

    order: a hash chained over the indices of all pictures seen, in order: two runs that end with the same one saw the same.
    memory: what the objective remembers, None for one that does not.
    tally: loss and gradient norm of the good steps since the last log. history: every held-out judgement.
    At each yield of `train` the state is at an optimizer step's end, so it can be saved there.
    """

    def __init__(self, model: Model, plan: Plan, objective: Objective, scaling: bool) -> None:
        self.players: list[Player] = objective.prepare(model)
        self.optimizers = [plan.optimizer.make(p for _, p in player.parameters) for player in self.players]
        # A player may bring parameters that are not the model's, a critic's: resumed with, but neither averaged nor shipped.
        own = {id(p) for p in model.parameters()}
        self._brought = {name: p for player in self.players for name, p in player.parameters if id(p) not in own}
        self.averages = Averages(
            plan.averages, [named for player in self.players for named in player.parameters if id(named[1]) in own]
        )
        self.guard = Guard(model.device, scaling)
        self.memory = objective.memory(model)
        self.step = 0
        self.seen = 0
        self.skipped = 0
        self.bad = 0
        self.order = ""
        self.tally: list[tuple[float, float]] = []
        self.history: list[Judged] = []

    def saw(self, indices: Tensor) -> None:
        """Chain the pictures of a step into `order`."""
        self.order = hashlib.blake2b(self.order.encode() + indices.numpy().tobytes(), digest_size=16).hexdigest()
        self.seen += len(indices)

    def snapshot(self, model: Model, weights: str = "") -> Model:
        """A copy of `model` in evaluation mode, eager and fp32, with the named average in it; "" the first average, "raw" none.

        Sampling and judging work on copies, so that looking at a run cannot change it.
        """
        weights = weights or next(iter(self.averages.kinds), "raw")
        copied = copy.deepcopy(model)
        if weights != "raw":
            own = dict(copied.named_parameters())
            with torch.no_grad():
                for name, value in self.averages.tensors(weights).items():
                    own[name].copy_(value)
        return copied.requires_grad_(False).eval()

    def tensors(self) -> dict[str, Tensor]:
        """The optimizers', the guard's and the memory's tensors by name: parameter names, so that the file can be read by a person."""
        found = {"guard/scale": self.guard.scale, "guard/good": self.guard.good}
        found |= {f"brought/{name}": p.detach() for name, p in self._brought.items()}
        found |= {f"memory/{name}": v for name, v in (self.memory.tensors() if self.memory else {}).items()}
        for number, (player, optimizer) in enumerate(zip(self.players, self.optimizers, strict=True)):
            for name, parameter in player.parameters:
                for slot, value in optimizer.state.get(parameter, {}).items():
                    found[f"optimizer{number}/{name}/{slot}"] = value
        return found

    def numbers(self) -> dict[str, Any]:
        """The rest of it, JSON-ready."""
        return {
            "step": self.step,
            "seen": self.seen,
            "skipped": self.skipped,
            "bad": self.bad,
            "order": self.order,
            "updates": self.averages.updates,
            "tally": [list(pair) for pair in self.tally],
            "history": [list(judged) for judged in self.history],
        }

    def align(self) -> None:
        """Lay the optimizers' moments out in memory as their parameters are.

        A fused optimizer walks both by address and not by index: moments read back in another layout than the parameter's (a
        channels-last network's from a file) would be paired with the wrong weights, in silence.
        """
        for player, optimizer in zip(self.players, self.optimizers, strict=True):
            for _, parameter in player.parameters:
                slots = optimizer.state.get(parameter, {})
                for slot, value in slots.items():
                    if value.shape == parameter.shape and value.stride() != parameter.stride():
                        slots[slot] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Put back what `tensors` and `numbers` gave, bit for bit."""
        self.guard.scale.copy_(tensors["guard/scale"])
        self.guard.good.copy_(tensors["guard/good"])
        if self.memory is not None:
            held = {key: value for key, value in tensors.items() if key.startswith("memory/")}
            self.memory.load({key.removeprefix("memory/"): value for key, value in held.items()})
        with torch.no_grad():
            for name, parameter in self._brought.items():
                parameter.copy_(tensors[f"brought/{name}"])
        for number, (player, optimizer) in enumerate(zip(self.players, self.optimizers, strict=True)):
            for name, parameter in player.parameters:
                head = f"optimizer{number}/{name}/"
                slots = {key.removeprefix(head): value for key, value in tensors.items() if key.startswith(head)}
                if slots:
                    optimizer.state[parameter] = {
                        # Step counts of unfused optimizers stay on the CPU; moments go where their parameter is.
                        slot: value.to(parameter.device if value.ndim or optimizer.defaults.get("fused") else "cpu", copy=True)
                        for slot, value in slots.items()
                    }
        self.step, self.seen = numbers["step"], numbers["seen"]
        self.skipped, self.bad, self.order = numbers["skipped"], numbers["bad"], numbers["order"]
        self.averages.updates = numbers["updates"]
        self.tally = [(loss, norm) for loss, norm in numbers["tally"]]
        self.history = [judged_from(row) for row in numbers["history"]]
