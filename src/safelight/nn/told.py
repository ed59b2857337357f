"""Networks that hear the noise level through a few numbers a block, and the binding of what is constant over a run.

Such a network is `forward(x, noise, cond) = draw(x, tell(noise, vector), read(tokens, mask), image)`. In sampling, `tell` sees the
same few noise levels and `read` always the same words; `bind` computes both once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from safelight.cond import Cond
from safelight.nn.network import Network, Output
from safelight.spec import SpecError

# What a network is told: one tensor for each block that is told anything, (n, that block's width).
Told = tuple[Tensor, ...]


class ToldNetwork(Network):
    """A network in three parts: `tell` (noise level, vector), `read` (words) and `draw` (the picture)."""

    def heard(self, cond: Cond) -> Tensor | None:
        """The vector (B, D) that `tell` is given of a condition: cond.vector, or more where the network pools the words."""
        return cond.vector

    def tell(self, noise: Tensor, vector: Tensor | None) -> Told:
        """noise: (n,); vector: (n, D) from `heard`, or None. What each block is told, (n, ...) each."""
        raise NotImplementedError

    def read(self, tokens: Tensor | None, mask: Tensor | None) -> tuple[Any, ...]:
        """tokens: (B, L, D), mask: (B, L). What each block needs of the text; the default reads nothing."""
        return ()

    def draw(self, x: Tensor, told: Told, words: tuple[Any, ...], image: Tensor | None = None) -> Output:
        """x: (B, C, *space). told, words: of batch B or 1. image: (B or 1, C', *space) to concatenate. The network proper."""
        raise NotImplementedError

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        """x: (B, C, *space). noise: (B,), (1,) or (). cond: of batch B or 1; its fields that the network does not use are ignored.

        Raises SpecError when the network needs a field of cond that is missing.
        """
        c = cond or Cond()
        told = self.tell(*_paired(noise.to(x.device).reshape(-1), self.heard(c)))  # (B or 1, ...) each
        return self.draw(x, told, self.read(c.tokens, c.mask), c.image)  # F: (B, C, *space)

    def bind(self, cond: Cond | None, noises: Sequence[float] = ()) -> Bound:
        """The function of (x, noise) with time embeddings, their maps in every block, and the text's keys and values made once.

        noises: the values of the run in the order of use, as Python floats. Others are accepted and made on the way. The tables serve
        when `noise` lies on the CPU and is the same for the whole batch (sampling); else it is made anew, since asking a GPU for a
        value would stall it. The result equals forward's up to the rounding of a matrix product of another batch size.
        No gradient flows to the weights through what is bound; to x it does.
        """
        return Bound(self, cond or Cond(), noises)


def _paired(noise: Tensor, vector: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """noise (n,) and vector (m, D) brought to one length, of which one may be 1."""
    if vector is not None and len(vector) != len(noise):
        if len(noise) == 1:
            noise = noise.expand(len(vector))
        elif len(vector) == 1:
            vector = vector.expand(len(noise), -1)
        else:
            raise SpecError(
                f"cond.vector: {len(vector)} rows for {len(noise)} noise values; give one row a picture, or one row"
            )
    return noise, vector


class Bound:
    """A `ToldNetwork` with its conditioning and noise levels bound: `bound(x, noise) -> Output`. Made by `bind`."""

    # Rows (noise levels x pictures) tabulated at once: enough for full matrix products, and a bound on memory.
    ROWS = 2048

    def __init__(self, network: ToldNetwork, cond: Cond, noises: Sequence[float]) -> None:
        self.network, self.cond = network, cond
        # Rounded as a float32 tensor of noises is, so that a value looked up is the value listed.
        self.noises = torch.tensor(list(noises), dtype=torch.float32).tolist()
        self._told: dict[float, Told] = {}
        self._words: tuple[Any, ...] | None = None
        self._heard: Tensor | None = None

    def __call__(self, x: Tensor, noise: Tensor) -> Output:
        """x: (B, C, *space). noise: (B,), (1,) or (). Equal to the network's forward with the bound cond."""
        if self._words is None:
            # On the first call, not in __init__: here autocast is as it will be when they are used.
            with torch.inference_mode(False), torch.no_grad():
                self._words = self.network.read(self.cond.tokens, self.cond.mask)
                self._heard = self.network.heard(self.cond)
        return self.network.draw(x, self._tell(x, noise), self._words, self.cond.image)

    def _tell(self, x: Tensor, noise: Tensor) -> Told:
        if noise.device.type == "cpu":
            values = noise.float().reshape(-1).tolist()
            if len(set(values)) == 1:
                return self._lookup(values[0], x)
        noise, vector = _paired(noise.to(x.device).reshape(-1), self._heard)
        with torch.inference_mode(False), torch.no_grad():
            return self.network.tell(noise.clone(), vector)

    def _lookup(self, value: float, x: Tensor) -> Told:
        if value not in self._told:
            vector, rows = self._heard, 1 if self._heard is None else len(self._heard)
            chunk = [value]
            if value in self.noises:
                size = max(1, self.ROWS // rows)
                # Chunks lie where they lie however a run begins: a product of fewer rows may round otherwise, and a run that is
                # gone on with from step k would differ in its last bits.
                first = self.noises.index(value) // size * size
                chunk = list(dict.fromkeys(self.noises[first : first + size]))
            with torch.inference_mode(False), torch.no_grad():
                noise = torch.tensor(chunk, device=x.device).repeat_interleave(rows)  # (n rows,)
                told = self.network.tell(noise, None if vector is None else vector.repeat(len(chunk), 1))  # (n rows, ...) each
            by_noise = zip(*(part.split(rows) for part in told), strict=True)
            self._told = dict(zip(chunk, by_noise, strict=True))  # the chunk before is let go
        return self._told[value]
