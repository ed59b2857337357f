"""Feed: pictures on their way to the model. What is fed at a step is a pure function of (seed, step)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.data import Endless, Order, Pictures, Stream, flip, to_unit
from safelight.model import Model
from safelight.spec import SpecError
from safelight.text.base import TextSpec
from safelight.text.label import LabelSpec
from safelight.train.keys import generator
from safelight.train.objective import Objective

# More different captions than these are sentences, not classes.
_CLASSES = 50


class Fed(NamedTuple):
    """The pictures of an optimizer step: uint8 (N, C, H, W) on the device, and which they are (N,), on the CPU."""

    pixels: Tensor
    indices: Tensor


class Words(NamedTuple):
    """The captions. read: picture numbers (B,) -> tokens (B, L) on the device; null: (1, L). None for a model without text."""

    read: Callable[[Tensor], Tensor] | None = None
    null: Tensor | None = None

    def of(self, indices: Tensor) -> Tensor | None:
        """(B, L) the captions of these pictures; None for a model without text."""
        return None if self.read is None else self.read(indices)


def words(model: Model, pictures: Pictures | Stream, device: torch.device) -> Words:
    """The captions of `pictures` as `model` reads them: of a set tokenised once, of a stream as they come.

    Raises SpecError for one that it cannot read.
    """
    if model.text is None:
        return Words()
    if isinstance(pictures, Stream):
        return Words(pictures.reader(model.text), model.text.tokenize([""]).to(device))
    # A caption met often (a class) is tokenised once.
    distinct = {text: i for i, text in enumerate(dict.fromkeys(pictures.captions))}
    try:
        table = model.text.tokenize([*distinct, ""])
    except SpecError as error:
        raise SpecError(f"captions of the data: {error}{_relabel(model.text.spec, distinct)}") from None
    rows = torch.tensor([distinct[text] for text in pictures.captions], dtype=torch.int64)
    tokens = table[rows].to(device)
    return Words(lambda indices: tokens[indices.to(device, non_blocking=True)], table[-1:].to(device))


def _relabel(spec: TextSpec, captions: Iterable[str]) -> str:
    """How a model of labels is given the classes of these captions; "" for other models, and for captions too many to be classes."""
    classes = sorted(set(captions) - {""})
    if not isinstance(spec, LabelSpec) or len(classes) > _CLASSES:
        return ""
    return f"; for a model of the data's own classes: --set 'model.text.names={json.dumps(classes, ensure_ascii=False)}'"


def feed(pictures: Pictures | Stream, order: Order | Endless, size: int, first: int, last: int) -> Iterator[Fed]:
    """The pictures of optimizer steps first..last-1, `size` each; the next step's are announced before this one's are handed out.

    Raises DataError when a step is larger than the data.
    """
    for step in range(first, last):
        indices = order.batch(step, size)
        pixels = pictures.batch(indices)
        if step + 1 < last:
            pictures.prefetch(order.batch(step + 1, size))
        yield Fed(pixels, pictures.actual(indices))


def seen(model: Model, objective: Objective, pixels: Tensor, channels_last: bool) -> Tensor:
    """uint8 (B, C, H, W) -> x0 (B, c, h, w), what the objective sees of pixels in [-1, 1], float32 and on the same device."""
    x = to_unit(pixels)
    if channels_last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return objective.see(model, x)


def flipped(pixels: Tensor, seed: int, step: int) -> Tensor:
    """Half of the pictures mirrored left to right; which half is a pure function of (seed, step)."""
    mask = torch.rand(len(pixels), generator=generator("cpu", seed, step, "flips")) < 0.5
    return flip(pixels, mask.to(pixels.device, non_blocking=True))
