"""Which models stay in memory: those used last, as many as a budget of bytes and a number allow."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

import torch

from safelight import device as devices
from safelight.model import Model

T = TypeVar("T")


class Held(NamedTuple):
    """Something on the shelf, its bytes, and what it was made from: of another it is made anew."""

    thing: object
    bytes: int
    stamp: Hashable


class Shelf(Generic[T]):
    """Things by name. What was not asked for the longest goes first when `budget` bytes, or `most` of them, would not do.

    budget: bytes; 0 is half of the device's memory. most: 0 is any number. A single thing may be larger than the budget. What leaves is
    forgotten here; its memory goes back to the system as soon as nobody else has it. Safe among threads: a thing is made once, and while
    it is made the others are at hand.
    """

    def __init__(self, device: torch.device, budget: int = 0, most: int = 0) -> None:
        self.device, self.most = device, most
        self.budget = budget or devices.memory(device).total // 2
        self.made = 0  # how many things were made
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._lock, self._making = threading.RLock(), threading.Lock()

    def get(self, name: str, stamp: Hashable, need: Callable[[], int], make: Callable[[], tuple[T, int]]) -> T:
        """The thing of a name and stamp, made if it is not there. need: the bytes that it will take, asked before it is made.

        make: the thing and the bytes it takes.
        """
        if (found := self._known(name, stamp)) is not None:
            return found
        with self._making:
            if (found := self._known(name, stamp)) is not None:  # somebody else made it meanwhile
                return found
            self.room(need(), but=name)
            thing, size = make()
            with self._lock:
                self._held[name] = Held(thing, size, stamp)
                self.made += 1
            return thing

    def _known(self, name: str, stamp: Hashable) -> T | None:
        with self._lock:
            found = self._held.get(name)
            if found is None or found.stamp != stamp:
                return None
            self._held.move_to_end(name)
            return found.thing  # type: ignore[return-value]

    def room(self, size: int, *, but: str = "") -> None:
        """Let go of `but`, and of the oldest until one more of `size` bytes fits."""
        with self._lock:
            before = len(self._held)
            self._held.pop(but, None)
            while self._held and (sum(self.sizes().values()) + size > self.budget or 0 < self.most <= len(self._held)):
                self._held.popitem(last=False)
            gone = len(self._held) < before
        if gone:
            devices.given_back(self.device)

    def drop(self, which: Callable[[str], bool]) -> None:
        """Let go of every thing whose name `which` says yes to."""
        with self._lock:
            for name in [name for name in self._held if which(name)]:
                del self._held[name]
        devices.given_back(self.device)

    def sizes(self) -> dict[str, int]:
        """The bytes of those that are there, the one used last at the end."""
        with self._lock:
            return {name: held.bytes for name, held in self._held.items()}


def size_of(model: Model) -> int:
    """Bytes of a model's weights, as they are computed with."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


__all__ = ["Held", "Shelf", "size_of"]
