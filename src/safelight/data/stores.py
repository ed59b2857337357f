"""Where the pixels of `Pictures` lie: in memory as one tensor, or in their files, decoded as they are asked for."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from safelight.data.source import CorruptError, Pixels

# Decoded pictures that wait for their batch take at most so many bytes.
AHEAD_BYTES = 256 << 20

Decode = Callable[[int], Pixels]  # row -> uint8 (C, H, W), or CorruptError


class Store(ABC):
    """Rows of uint8 (C, H, W), numbered from 0."""

    @abstractmethod
    def fetch(self, rows: Tensor) -> tuple[Tensor, dict[int, str]]:
        """Rows (B,), int64 on the CPU -> uint8 (B, C, H, W) on the device, and {place in the batch: why its row is broken}."""

    @abstractmethod
    def row(self, row: int) -> Pixels:
        """One row as an array, for hashing. Raises CorruptError when it is broken."""

    def expect(self, rows: Tensor) -> None:
        """These rows come next: begin to decode them. Where there is nothing to decode there is nothing to do."""
        return


class Resident(Store):
    """All pictures in one tensor (N, C, H, W); a batch is one gather and, when it lies on another device, one copy."""

    def __init__(self, pixels: Tensor, device: torch.device) -> None:
        self.pixels, self.device = pixels, device

    def fetch(self, rows: Tensor) -> tuple[Tensor, dict[int, str]]:
        there = rows if self.pixels.device.type == "cpu" else rows.to(self.pixels.device, non_blocking=True)
        return self.pixels.index_select(0, there).to(self.device, non_blocking=True), {}

    def row(self, row: int) -> Pixels:
        return self.pixels[row].cpu().numpy()


class Streamed(Store):
    """Pictures decoded when they are asked for, by `workers` threads (0: by the caller), the expected ones ahead.

    Which thread decodes what changes nothing: a row always gives the same pixels, and batches are put together by place.
    """

    def __init__(self, decode: Decode, shape: tuple[int, int, int], device: torch.device, workers: int) -> None:
        self._decode, self._shape, self.device, self.workers = decode, shape, device, workers
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[int, Future[Pixels]] = {}
        self._most = max(64, AHEAD_BYTES // max(1, int(np.prod(shape))))

    def expect(self, rows: Tensor) -> None:
        if not self.workers:
            return
        for row in rows.tolist():
            if row not in self._coming:
                if len(self._coming) >= self._most:  # someone announced rows and never fetched them
                    self._coming.pop(next(iter(self._coming))).cancel()
                self._coming[row] = self._threads().submit(self._decode, row)

    def fetch(self, rows: Tensor) -> tuple[Tensor, dict[int, str]]:
        wanted = rows.tolist()
        batch = torch.empty((len(wanted), *self._shape), dtype=torch.uint8, pin_memory=self.device.type != "cpu")
        into = batch.numpy()
        broken: dict[int, str] = {}
        waiting = {row: self._coming.pop(row, None) or self._submit(row) for row in dict.fromkeys(wanted)}
        for place, row in enumerate(wanted):
            try:
                future = waiting[row]
                into[place] = self._decode(row) if future is None else future.result()
            except CorruptError as error:
                into[place] = 0
                broken[place] = str(error)
        return batch.to(self.device, non_blocking=True), broken

    def row(self, row: int) -> Pixels:
        return self._decode(row)

    def _submit(self, row: int) -> Future[Pixels] | None:
        return self._threads().submit(self._decode, row) if self.workers else None

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="safelight-data")
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        return self._pool


def in_threads(work: Callable[[int], object], rows: Sequence[int], workers: int) -> Iterator[tuple[int, object]]:
    """(row, result) in order; `work` runs in `workers` threads (0: here), a bounded number of rows ahead."""
    if workers < 1 or len(rows) < 2:
        for row in rows:
            yield row, work(row)
        return
    ahead = 4 * workers
    with ThreadPoolExecutor(workers, thread_name_prefix="safelight-data") as pool:
        queue: list[tuple[int, Future[object]]] = []
        try:
            for row in rows:
                queue.append((row, pool.submit(work, row)))
                if len(queue) >= ahead:
                    first, future = queue.pop(0)
                    yield first, future.result()
            for first, future in queue:
                yield first, future.result()
        finally:
            for _, future in queue:
                future.cancel()
