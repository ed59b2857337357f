"""Held-out pictures, chosen by their content: renaming, re-ordering or repacking the data changes nothing.

Picture i is held out when u_i < fraction, where u_i in [0, 1) is the first 8 bytes of BLAKE2b(seed, hash of its pixels) over
2^64. So exact duplicates always fall on the same side (the held-out loss cannot be learned by heart from a copy), and
pictures added later do not move the ones that were there. The number held out is binomial: n fraction on average.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from safelight.data.pictures import Pictures
from safelight.data.source import CorruptError, DataError, Dataset, digest


def split(data: Pictures | Dataset, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(train, held): disjoint ascending int64 indices that together are all of `data`.

    With fraction > 0 and at least two different pictures neither side is empty: the smallest u is held out, the largest is not.
    Every picture is read once (streamed data: decoded once). Pictures that cannot be read are on the train side, where they are
    replaced. Raises DataError for a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise DataError(f"held-out fraction: 0 <= fraction < 1, not {fraction}")
    n = len(data)
    if fraction == 0:
        return torch.arange(n), torch.empty(0, dtype=torch.int64)
    places = [_place(data, i, seed) for i in range(n)]
    distinct = sorted({u for u in places if u < 1})
    held = {u for u in distinct if u < fraction}
    if len(distinct) > 1:
        held = (held or {distinct[0]}) - ({distinct[-1]} if len(held) == len(distinct) else set())
    mask = torch.tensor([u in held for u in places], dtype=torch.bool)
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def _place(data: Pictures | Dataset, i: int, seed: int) -> float:
    """u in [0, 1) by content, or 2 for a picture that cannot be read."""
    try:
        content = data.digest(i) if isinstance(data, Pictures) else digest(data.read(i).image)
    except CorruptError:
        return 2.0
    h = hashlib.blake2b(f"safelight split {seed} ".encode() + content, digest_size=8)
    return (int.from_bytes(h.digest(), "little") >> 11) / 2**53
