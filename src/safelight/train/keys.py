"""Where training's randomness comes from: every draw is a pure function of (seed, step, purpose).

Nothing has to be replayed or saved to resume a run: step 1,000 draws the same whether 999 steps were run before it or none.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

from safelight import device as machine


def key(*parts: str | int) -> int:
    """A 63-bit integer that is the BLAKE2b hash of the parts: the seed of a generator used for one purpose.

    The parts' types and borders count: key(1, 23), key(12, 3) and key("1", 23) differ.
    """
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in ("safelight", *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(device: torch.device | str, *parts: str | int) -> torch.Generator:
    """A fresh generator on `device`, seeded by `key(*parts)`. Making one costs microseconds and waits for nothing."""
    made = torch.Generator(device)
    made.manual_seed(key(*parts))
    return made


@contextlib.contextmanager
def keyed(device: torch.device, *parts: str | int) -> Iterator[None]:
    """A region in which torch's global generators (of the CPU and of `device`) are seeded by `key(*parts)`; put back after.

    For what draws from them by itself: dropout in a network, initial weights.
    """
    with machine.forked(device):
        machine.seed(device, key(*parts))
        yield
