"""Where a model's parts are while others work: `place` lets text encoder and codec leave memory, and decodes piece by piece.

On a CPU weights are pages of the file they came from. Those of a part that has done its work are given back to the system, which reads
them again when they are used; weights that are no pages of a file (converted, or joined from several tensors) are first moved to a
temporary one. On an accelerator they wait in the CPU's memory. Nothing is computed otherwise but the codec's work: a picture at a time,
and a large one in tiles (codec/tiled.py), which is exact for a codec whose reach is bounded and nearly so for others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from safelight import device as devices
from safelight.codec import tiled
from safelight.model import Model
from safelight.nn.joined import settle

# The parts of a model, in the order in which a run needs them.
PARTS = ("text", "denoiser", "codec")
# Latent cells of a tile's side. What the published codecs of stride 8 were trained on is 32; a quarter of a tile is shared.
TILE = 64
# Weights from which on memory is asked of the system piece by piece, so that it is given back: bytes.
STEADY = 128_000_000


class Placement:
    """How a model lies in memory: "full" or "low". Ends with the model, or by `end`."""

    def __init__(self, model: Model, memory: Literal["full", "low"], device: torch.device, *, parked: bool) -> None:
        self.memory = memory
        self._at = ""
        self._ways: dict[str, _Paged | _Waiting] = {}
        self._hooks: list[Any] = []
        if memory == "full" or not parked:
            return
        for name in PARTS:
            part: nn.Module | None = getattr(model, name)
            if part is None or not any(True for _ in part.parameters()):
                continue
            if device.type == "cpu":
                self._ways[name] = _Paged(part, spill=name != "denoiser")
            elif name != "denoiser":
                self._ways[name] = _Waiting(part, device)
            for module in part.modules():
                self._hooks.append(module.register_forward_pre_hook(_entering(self, name)))
        for way in self._ways.values():
            way.leave()

    def enter(self, name: str) -> None:
        """The part `name` begins to work: the one before it leaves."""
        if name == self._at:
            return
        if self._at in self._ways:
            self._ways[self._at].leave()
        self._at = name
        if name in self._ways:
            self._ways[name].enter()

    def whole(self) -> None:
        """Have all parts' weights there, as whoever reads them from outside must."""
        self._at = ""
        for way in self._ways.values():
            way.enter()

    def end(self) -> None:
        """Leave the model as it was: everything in memory."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.whole()
        self._ways.clear()
        self.memory = "full"


def _entering(placement: Placement, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any) -> None:
        placement.enter(name)

    return hook


class _Paged:
    """A part whose weights are pages of a file, given back when it leaves and read again when they are used."""

    def __init__(self, part: nn.Module, *, spill: bool) -> None:
        self.weights = [p for p in part.parameters() if p.numel()]
        if spill:
            devices.spill(self.weights)

    def enter(self) -> None:
        """They come as they are read."""

    def leave(self) -> None:
        """Give the pages back. A page that was written to is no page of the file any more: it stays."""
        devices.page_out(self.weights)


class _Waiting:
    """A part whose weights wait on the CPU. Meanwhile it has, in their places, tensors of one NaN: what uses them by mistake shows."""

    def __init__(self, part: nn.Module, device: torch.device) -> None:
        self.device = device
        self.weights = [(p, p.data.to("cpu", copy=True)) for p in part.parameters() if p.is_floating_point()]
        self.there = True

    def enter(self) -> None:
        """Bring them to the device."""
        if not self.there:
            for p, home in self.weights:
                p.data = home.to(self.device, copy=True)
            self.there = True

    def leave(self) -> None:
        """Forget them on the device."""
        for p, _ in self.weights:
            p.data = torch.full((), torch.nan, dtype=p.dtype, device=self.device).expand(p.shape)
        self.there = False


_PLACED: weakref.WeakKeyDictionary[Model, Placement] = weakref.WeakKeyDictionary()


def place(
    model: Model,
    memory: Literal["full", "low"] = "full",
    *,
    device: torch.device | None = None,
    parked: bool = True,
) -> Placement:
    """Lay a model out in memory on a device (None: where it is); what was said before of it ends.

    A model that comes from the CPU goes to an accelerator only with what is to stay there. parked: False changes only how it decodes.
    """
    before = _PLACED.pop(model, None)
    if before is not None:
        before.end()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    if parked and (memory == "low" or weights >= STEADY):
        devices.steady()
    if parked and memory == "low":
        settle(model)  # what is kept must be what is computed with
    here = device or model.device
    if parked and here != model.device:
        (model if memory == "full" else model.denoiser).to(here)
    placed = _PLACED[model] = Placement(model, memory, here, parked=parked)
    return placed


def memory_of(model: Model) -> str:
    """How a model lies in memory."""
    placed = _PLACED.get(model)
    return "full" if placed is None else placed.memory


def whole(model: Model) -> None:
    """Have all of a model's weights there, before they are read other than by calling its parts."""
    placed = _PLACED.get(model)
    if placed is not None:
        placed.whole()


def decode(model: Model, z: Tensor) -> Tensor:
    """`model.codec.decode(z)`; of a model that is placed low a picture at a time, beyond `TILE` cells a side in tiles."""
    codec = model.codec
    placed = _PLACED.get(model)
    if placed is None or placed.memory == "full":
        return codec.decode(z)
    placed.enter("codec")
    return torch.cat([_one(model, z[i : i + 1]) for i in range(len(z))])


def _one(model: Model, z: Tensor) -> Tensor:
    codec = model.codec
    field = tiled.receptive_field(codec)
    tile = TILE if field is None else max(TILE, 2 * field[1])
    return codec.decode(z) if codec.stride == 1 or max(z.shape[-2:]) <= tile else tiled.decode(codec, z, tile)


__all__ = ["PARTS", "STEADY", "TILE", "Placement", "decode", "memory_of", "place", "whole"]
