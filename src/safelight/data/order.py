"""In which order pictures are seen: a pure function of (seed, epoch, place), so that a run can resume anywhere.

Sample number k of a run (k = 0, 1, ...) is picture `P_e[k mod n]` with e = k div n, where P_e is a permutation of 0..n-1: the
stable argsort of n 64-bit integers, the raw output of numpy's Philox-4x64-10 (Salmon et al. 2011) whose 128-bit key is the
BLAKE2b hash of "safelight order", the seed and the epoch. Raw Philox output is a fixed stream (numpy promises it for its bit
generators, not for `permutation`), so the order is the same on every machine and version. Nothing is drawn from torch's or
numpy's global generators, and nothing has to be stored: the state of the order is k.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safelight.data.source import DataError


class Order:
    """The order of `n` pictures under `seed`. Every epoch visits each exactly once; batches may straddle two epochs."""

    def __init__(self, n: int, seed: int = 0) -> None:
        if n < 1:
            raise DataError(f"an order needs pictures, there are {n}")
        self.n, self.seed = n, seed
        self._kept: dict[int, NDArray[np.int64]] = {}

    def __repr__(self) -> str:
        return f"Order(n={self.n}, seed={self.seed})"

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """P_e, shape (n,). The last two are kept, since a batch may need both."""
        if epoch < 0:
            raise DataError(f"epochs count from 0, not {epoch}")
        if epoch not in self._kept:
            name = b"safelight order" + struct.pack("<q", epoch) + str(self.seed).encode()
            key = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), "<u8")
            draws = np.random.Philox(key=key).random_raw(self.n)
            if len(self._kept) > 1:
                del self._kept[next(iter(self._kept))]
            self._kept[epoch] = np.argsort(draws, kind="stable").astype(np.int64, copy=False)
        return self._kept[epoch]

    def indices(self, start: int, count: int) -> Tensor:
        """Samples number start..start+count-1 of the run: pictures' indices, int64 (count,), on the CPU."""
        if start < 0 or count < 0:
            raise DataError(f"samples are counted from 0, not from {start} for {count}")
        parts: list[NDArray[np.int64]] = []
        k, end = start, start + count
        while k < end:
            epoch, place = divmod(k, self.n)
            part = self.permutation(epoch)[place : place + end - k]
            parts.append(part)
            k += len(part)
        return torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, np.int64))

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Tensor:
        """This rank's part of batch `step` of `size` samples: contiguous, disjoint, and together the whole batch.

        A world of 2 with this `size` sees what a world of 1 sees. When `world` does not divide `size` the parts differ by one.
        Raises DataError when the batch is larger than the data, since it would hold a picture twice.
        """
        if not 1 <= size <= self.n:
            more = "batches hold at least 1" if size < 1 else f"it is larger than the data ({self.n:,} pictures)"
            raise DataError(f"batch of {size:,}: {more}")
        if not 0 <= rank < world:
            raise DataError(f"rank {rank} of {world}: ranks are 0..{world - 1}")
        first, last = rank * size // world, (rank + 1) * size // world
        return self.indices(step * size + first, last - first)

    def epoch(self, k: int) -> int:
        """The epoch to which sample number k belongs."""
        return k // self.n
