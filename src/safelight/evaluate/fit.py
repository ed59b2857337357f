"""Training the classifier: a generator over epochs, deterministic by seed (and number of threads)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from safelight.evaluate.classifier import Classifier, ClassifierSpec
from safelight.spec import Spec, SpecError


class Fit(Spec):
    """How a classifier is trained: AdamW under one cosine cycle, pictures mirrored and shifted."""

    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=128, ge=2)
    lr: float = Field(default=5e-3, gt=0, description="at the top of the cycle, reached after 20 % of the steps")
    weight_decay: float = Field(default=0.05, ge=0)
    flip: bool = Field(default=True, description="mirror half of the pictures")
    shift: int = Field(default=0, ge=0, description="move pictures by up to so many pixels; Fashion-MNIST is centred")
    seed: int = 0


class Epoch(NamedTuple):
    """After an epoch: its number from 1, mean training loss (nats), the rate it ended with, seconds so far, the classifier."""

    epoch: int
    loss: float
    lr: float
    seconds: float
    classifier: Classifier


def fit(spec: ClassifierSpec, pictures: Tensor, labels: Tensor, how: Fit | None = None) -> Iterator[Epoch]:
    """Train a classifier on pictures (N, C, H, W) uint8 and labels (N,) int64; yields after every epoch.

    Same seed, same thread count: same weights. Raises SpecError for labels beyond the names or fewer pictures than a batch.
    """
    how = how or Fit()
    n = len(pictures)
    if n < how.batch or len(labels) != n:
        raise SpecError(f"{n} pictures and {len(labels)} labels for batches of {how.batch}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(spec.names):
        raise SpecError(f"labels in [{int(labels.min())}, {int(labels.max())}] for {len(spec.names)} names")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        model = spec.build()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch forgot this form
    random = torch.Generator().manual_seed(how.seed)
    optimizer = torch.optim.AdamW(model.parameters(), how.lr, weight_decay=how.weight_decay)
    per = n // how.batch
    total, warm = per * how.epochs, max(1, per * how.epochs // 5)
    began, step = time.perf_counter(), 0
    model.train()
    for epoch in range(1, how.epochs + 1):
        order, losses, rate = torch.randperm(n, generator=random), 0.0, 0.0
        for index in order[: per * how.batch].split(how.batch):  # the remainder has its turn in another epoch's order
            x = _augment(pictures[index].float() / 127.5 - 1, how, random)
            rate = (
                how.lr * (step + 1) / warm
                if step < warm
                else how.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.random.fork_rng(devices=[]):  # dropout draws from the global stream
                torch.manual_seed(how.seed * 1_000_003 + step)
                loss = nn.functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses += float(loss.detach())
            step += 1
        if not math.isfinite(losses):
            raise SpecError(f"the classifier's loss is not finite in epoch {epoch}: lower lr ({how.lr:g})")
        yield Epoch(epoch, losses / per, rate, time.perf_counter() - began, model)


def rounded(model: Classifier) -> Classifier:
    """The classifier as its file gives it back (weights rounded to fp16): what is shipped is measured, not what was trained."""
    twin = model.spec.build()
    twin.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()})
    return twin.eval().requires_grad_(False)


def accuracy(model: Classifier, pictures: Tensor, labels: Tensor) -> tuple[float, list[float]]:
    """The fraction recognised, over all pictures and for each class (NaN for a class without pictures)."""
    right = model.look(pictures).logits.argmax(1) == labels
    return right.double().mean().item(), [right[labels == c].double().mean().item() for c in range(len(model.spec.names))]


def _augment(x: Tensor, how: Fit, random: torch.Generator) -> Tensor:
    b, _, h, w = x.shape
    if how.flip:
        x = torch.where(torch.rand(b, 1, 1, 1, generator=random) < 0.5, x.flip(3), x)
    if how.shift:  # beyond the edge the edge goes on
        s = how.shift
        move = torch.randint(-s, s + 1, (b, 2), generator=random)
        rows = (torch.arange(h) + move[:, :1]).clamp(0, h - 1)  # (B, H)
        cols = (torch.arange(w) + move[:, 1:]).clamp(0, w - 1)  # (B, W)
        x = x[
            torch.arange(b)[:, None, None, None],
            torch.arange(x.shape[1])[None, :, None, None],
            rows[:, None, :, None],
            cols[:, None, None, :],
        ]
    return x
