"""Noise: every random draw of sampling, keyed by (seed, image, purpose, level) through a counter-based integer stream.

Image i draws the same numbers alone, in any batch, in any order, at any step count and on any device, because a draw depends on
nothing but its key: Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") on the CPU. The integers
are bit-identical everywhere; the normals made of them agree to rounding.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from safelight.process import Level
from safelight.spec import SpecError

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_ROUNDS = 10
# What every round adds to the key's two words, as the words are paired below.
_STEPS = np.arange(_ROUNDS, dtype=np.uint64)[:, None, None] * np.array([[_WEYL[1]], [_WEYL[0]]], dtype=np.uint64)
# Times that agree to this are one level, so that a last bit of rounding in a schedule does not change the draw.
_TICKS = 10**9


def philox(key: tuple[int, int], c0: np.ndarray, c1: np.ndarray, c2: int, c3: int) -> np.ndarray:
    """The Philox-4x32-10 block function over arrays of counters.

    key: two 32-bit words. c0, c1: uint64 arrays holding 32-bit counter words, of one shape; c2, c3: the other two words.
    Returns uint32 of shape (*shape, 4).
    """
    n = c0.size
    # The round works on (x0, x2) and (x1, x3) alike, so each pair is one array and a round is five calls.
    even, odd = np.empty((2, n), dtype=np.uint64), np.empty((2, n), dtype=np.uint64)
    even[0], even[1], odd[0], odd[1] = c0.ravel(), c2, c1.ravel(), c3
    product = np.empty_like(even)
    for words in (_STEPS + np.array([[key[1]], [key[0]]], dtype=np.uint64)) & _LOW:
        np.multiply(even, _MULTIPLIERS, out=product)
        # (x0, x1, x2, x3) <- (hi(M1 x2) ^ x1 ^ k0, lo(M1 x2), hi(M0 x0) ^ x3 ^ k1, lo(M0 x0))
        mixed = product >> _32
        mixed ^= odd[::-1]
        mixed ^= words
        even, odd = mixed[::-1], (product & _LOW)[::-1]
    found = np.empty((n, 4), dtype=np.uint32)
    found[:, 0::2], found[:, 1::2] = even.T, odd.T
    return found.reshape(*c0.shape, 4)


class Noise:
    """The random draws of a run of sampling.

    seed: any integer. index: the number of each image of the batch, in order (or how many, then 0, 1, 2, ...).
    """

    def __init__(self, seed: int, index: Iterable[int] | int | None = None) -> None:
        self.seed = int(seed)
        numbers = range(index) if isinstance(index, int) else index
        self.index = None if numbers is None else tuple(int(i) for i in numbers)
        if self.index is not None and any(not 0 <= i < 2**32 for i in self.index):
            raise SpecError("an image's index lies in 0..2^32-1")

    def words(self, purpose: str, now: Level | None, to: Level | None, count: int, batch: int) -> np.ndarray:
        """(batch, count) uint32: the integer stream itself. Raises SpecError when the batch is not that of `index`."""
        index = self.index if self.index is not None else tuple(range(batch))
        if len(index) != batch:
            raise SpecError(f"noise is for {len(index)} images, the batch has {batch}")
        times = [-1 if level is None else round(float(level.t) * _TICKS) for level in (now, to)]
        text = b"safelight noise 1" + purpose.encode() + b"\0" + struct.pack("<qq", *times) + str(self.seed).encode()
        k0, k1, c2, c3 = struct.unpack("<4I", hashlib.blake2b(text, digest_size=16).digest())
        blocks = -(-count // 4)
        c0 = np.arange(blocks, dtype=np.uint64)[None].repeat(batch, 0)
        c1 = np.asarray(index, dtype=np.uint64)[:, None].repeat(blocks, 1)
        return philox((k0, k1), c0, c1, c2, c3).reshape(batch, blocks * 4)[:, :count]

    def uniform(self, purpose: str, now: Level | None, to: Level | None, like: Tensor) -> Tensor:
        """Uniform draws in (0, 1), of the shape, device and dtype of `like` (B, ...): (word + 1/2) / 2^32."""
        count = like[0].numel() if len(like) else 0
        u = (self.words(purpose, now, to, count, len(like)) + 0.5) / 2.0**32
        kind = torch.finfo(like.dtype)  # rounded to fewer digits the ends would be 0 and 1 themselves
        return torch.from_numpy(u).reshape(like.shape).to(like.device, like.dtype).clamp_(kind.tiny, 1 - kind.eps / 2)

    def normal(self, purpose: str, now: Level | None, to: Level | None, like: Tensor) -> Tensor:
        """Standard normal draws of the shape, device and dtype of `like` (B, ...), by Box and Muller 1958 from pairs of words.

        purpose: what it is for ("start", "step", ...); draws for different purposes are independent. now, to: the step's levels.
        """
        count = like[0].numel() if len(like) else 0
        pairs = -(-count // 2)
        u = (self.words(purpose, now, to, 2 * pairs, len(like)) + 0.5) / 2.0**32
        radius, angle = np.sqrt(-2 * np.log(u[:, :pairs])), 2 * np.pi * u[:, pairs:]
        draws = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]
        return torch.from_numpy(draws).reshape(like.shape).to(like.device, like.dtype)
