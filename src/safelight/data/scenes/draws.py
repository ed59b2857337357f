"""Counter-based random integers for scenes: every draw is a hash of (seed, step, index, purpose).

A scene is then the same on a CPU and on a GPU, alone and in a batch of thousands: all of it is integer arithmetic below 2^63.
The mixer is the 32-bit xor-shift-multiply permutation of Wellons' hash prospector (2018), constants 21f0aaad and d35a2d97.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words (int64 tensors holding 0 <= x < 2^32) with good avalanche."""
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & MASK  # only the low 32 bits are kept: wrapping at 2^64 does not touch them
    x = x ^ (x >> 15)
    x = (x * 0xD35A2D97) & MASK
    return x ^ (x >> 15)


def fold(*words: Tensor | int) -> Tensor:
    """One 32-bit word from several, order mattering; tensors (all on one device) broadcast. Numbers are taken modulo 2^32."""
    state: Tensor | int = 0
    for place, word in enumerate(words):
        word = word if isinstance(word, Tensor) else torch.tensor(word & MASK)
        state = mix((state * 3 + mix((word + 0x9E3779B9 * (place + 1)) & MASK)) & MASK)
    if isinstance(state, int):
        raise TypeError("fold() needs at least one word")
    return state


def name_hash(*names: str) -> int:
    """A 32-bit word from strings, the same in every process (unlike Python's own hash)."""
    return int.from_bytes(hashlib.blake2b("|".join(names).encode(), digest_size=4).digest(), "little")


class Draws:
    """`columns` independent 32-bit words for each scene: int64 (B, columns), word j of scene i = hash(seed, step, i, j)."""

    def __init__(self, seed: int, step: int, index: Tensor, columns: int) -> None:
        device = index.device
        key = fold(seed & MASK, seed >> 32, step & MASK, step >> 32).to(device)
        purpose = torch.arange(columns, device=device, dtype=torch.int64)
        self.words = fold(key, index[:, None], purpose)  # (B, columns)
        self._next = 0

    def word(self, columns: int = 1) -> Tensor:
        """The next unused words, (B, columns). The order of calls is the purpose, so it may only ever be appended to."""
        start, self._next = self._next, self._next + columns
        if self._next > self.words.shape[1]:
            raise IndexError(f"{self._next} draws asked of {self.words.shape[1]}")
        return self.words[:, start : self._next]

    def below(self, n: Tensor | int, columns: int = 1) -> Tensor:
        """Uniform integers in [0, n), n < 2^31, biased by n 2^-32 at most: (w n) >> 32. Shape (B,), or (B, columns)."""
        word = self.word(columns)
        if columns == 1:
            word = word[:, 0]
        return (word * n) >> 32

    def weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """An index drawn by whole `weights` >= 0 (B, K) or (K,), and whether any weight was positive: (B,), bool (B,)."""
        total = weights.cumsum(-1)
        if total.ndim == 1:
            total = total[None, :]
        drawn = self.below(total[:, -1])
        index = (total <= drawn[:, None]).sum(-1)
        some = total[:, -1] > 0
        return index.clamp(max=weights.shape[-1] - 1), some.expand(drawn.shape)
