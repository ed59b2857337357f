"""Plan: how a model is trained, apart from what it is and what it sees."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from safelight import device as machine
from safelight.spec import Spec
from safelight.train.ema import Average, Power
from safelight.train.optim import AdamW, Constant, Optimizer, Schedule


class Every(Spec):
    """Every so many optimizer steps, 0 for never; the last step always counts, and a run always saves at its end.

    log: losses and speed, the only time an accelerator is waited for. held_out: the held-out loss. sample: a grid of pictures. save: a
    checkpoint.
    """

    log: int = Field(50, ge=0)
    held_out: int = Field(1000, ge=0)
    sample: int = Field(1000, ge=0)
    save: int = Field(1000, ge=0)


class Plan(Spec):
    """How a model is trained. Steps are optimizer steps throughout, whatever the accumulation.

    batch: pictures a forward pass. accumulation: forward passes an optimizer step; a step sees batch * accumulation pictures.
    steps, epochs, images: how long, exactly one of them; epochs and images are rounded up to whole steps.
    seed: of everything random: initial weights, order, noise, times, flips, dropped prompts.
    precision: of the matrix products; weights stay float32. auto: bf16 on an accelerator that has it, else fp32. What the device does
    not honour runs in fp32 and says so.
    clip: the largest norm of the gradient, 0 for no clipping. flips: mirror half of the pictures.
    checkpointing: recompute each block in the backward pass instead of keeping its activations: same gradients, less memory.
    compile: torch.compile the network. channels_last: its memory format; faster convolutions on most machines.
    averages: moving averages of the weights by name; the first is the one that is sampled, judged and loaded by default.
    every: how often the run is looked at; nothing in it changes a weight.
    held: how many pictures the held-out loss is measured on (and as many training pictures beside them); buckets: of time.
    keep: how many of the last checkpoints stay; the best by held-out loss always does.
    patience: non-finite steps in a row after which a run stops.
    """

    batch: int = Field(128, ge=1)
    accumulation: int = Field(1, ge=1)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    images: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    optimizer: Optimizer = AdamW()
    schedule: Schedule = Constant()
    averages: dict[str, Average] = {"ema": Power()}
    clip: float = Field(1.0, ge=0)
    flips: bool = False

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False

    every: Every = Every()
    held: int = Field(1000, ge=1)
    buckets: int = Field(10, ge=1)
    keep: int = Field(2, ge=1)
    patience: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("steps", "epochs", "images") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of steps, epochs, images (given: {', '.join(given) or 'none'})")
        for name in self.averages:
            if name == "raw" or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(
                    f"an average cannot be called '{name}': letters, digits, - and _, and not 'raw', the weights themselves"
                )
        return self

    @property
    def per_step(self) -> int:
        """Pictures an optimizer step."""
        return self.batch * self.accumulation

    def length(self, pictures: int) -> int:
        """The number of optimizer steps over a data set of so many pictures."""
        if self.steps is not None:
            return self.steps
        images = self.images if self.images is not None else math.ceil(self.epochs * pictures)  # type: ignore[operator]
        return math.ceil(images / self.per_step)

    def effective(self, device: torch.device) -> machine.Precision:
        """The precision this plan really has on `device`."""
        wanted: str = self.precision
        if wanted == "auto":
            wanted = "bf16" if device.type != "cpu" and machine.honours(device, torch.bfloat16) else "fp32"
        return machine.precision(wanted, device)

    def lr(self, step: int, total: int) -> float:
        """The learning rate of optimizer step `step` = 0, 1, ... of `total`."""
        return self.optimizer.lr * self.schedule.scale(step, total)


def due(every: int, step: int, total: int) -> bool:
    """Whether something done every so many steps is to be done after `step` of them; the last step always counts."""
    return every > 0 and (step % every == 0 or step == total)
