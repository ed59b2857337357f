"""Pictures that are in memory already, as a Dataset: for tests and notebooks. Not a kind, since it cannot be described."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safelight.data.idx import Stack
from safelight.data.source import DataError, Dataset, Example, Pixels


class Pile(Dataset):
    """Pictures of any sizes, in a list."""

    def __init__(self, images: Sequence[Pixels], captions: Sequence[str], ids: Sequence[str]) -> None:
        self._images = list(images)
        self.captions, self.ids = list(captions), list(ids)

    def read(self, i: int) -> Example:
        return Example(self.ids[i], self._images[i], self.captions[i])


def memory(
    images: Pixels | Sequence[Pixels], captions: Sequence[str] | None = None, ids: Sequence[str] | None = None
) -> Dataset:
    """A Dataset of uint8 pictures: one array (N, H, W, C) or (N, H, W), or a list of (H, W, C) of any sizes, C = 1 or 3.

    Raises DataError for another dtype or shape, and when captions or ids are not as many as pictures.
    """
    n = len(images)
    if n == 0:
        raise DataError("no pictures in memory")
    for name, given in (("captions", captions), ("ids", ids)):
        if given is not None and len(given) != n:
            raise DataError(f"{len(given)} {name} for {n} pictures")
    rows = [image[..., None] if image.ndim == 2 else image for image in images]
    for i, row in enumerate(rows):
        if row.dtype != "uint8" or row.ndim != 3 or row.shape[2] not in (1, 3):
            raise DataError(f"picture {i} is {row.dtype} {row.shape}: uint8 (H, W, C) with C = 1 or 3 is wanted")
    captions = [""] * n if captions is None else captions
    if isinstance(images, np.ndarray):
        return Stack(images[..., None] if images.ndim == 3 else images, captions, ids)
    width = max(5, len(str(n - 1)))
    return Pile(rows, captions, [f"{i:0{width}d}" for i in range(n)] if ids is None else ids)
