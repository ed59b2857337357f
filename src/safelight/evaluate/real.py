"""Real pictures to measure against: read from a data source, labelled by their captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from safelight.data.source import Dataset
from safelight.spec import SpecError, nearest


class Labelled(NamedTuple):
    """pictures (N, C, H, W) uint8; labels (N,) int64, numbers of `names`."""

    pictures: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def take(self, index: Tensor) -> Labelled:
        """The pictures numbered by `index`."""
        return Labelled(self.pictures[index], self.labels[index], self.names)

    def like(self, labels: Tensor, seed: int = 0) -> Tensor:
        """Indices of distinct pictures with the classes of `labels` (N,), in that order; drawn by seed.

        Raises SpecError when a class has too few pictures.
        """
        random = torch.Generator().manual_seed(seed)
        out = torch.empty(len(labels), dtype=torch.int64)
        for c in labels.unique().tolist():
            places, pool = (labels == c).nonzero()[:, 0], (self.labels == c).nonzero()[:, 0]
            if len(pool) < len(places):
                raise SpecError(
                    f"{len(places)} real pictures of '{self.names[c]}' are needed for a comparison, there are {len(pool)}"
                )
            out[places] = pool[torch.randperm(len(pool), generator=random)[: len(places)]]
        return out


def read(data: Dataset, channels: int, size: tuple[int, int], names: Sequence[str] = ()) -> Labelled:
    """All pictures of an opened dataset, as they are; another size is refused, since resizing would be measured too.

    names: the classes, by which captions become labels; by default the captions that occur, sorted.
    Raises SpecError for a caption that is no class, or a picture of another shape.
    """
    captions = list(data.captions)
    names = tuple(names) or tuple(sorted(set(captions)))
    number = {name: i for i, name in enumerate(names)}
    stray = next((c for c in captions if c not in number), None)
    if stray is not None:
        raise SpecError(f"caption '{stray}' is no class of the classifier{nearest(stray, names)} (classes: {', '.join(names)})")
    whole = data.array()
    if whole is None:
        images = [data.read(i).image for i in range(len(data))]
        odd = next((i for i, image in enumerate(images) if image.shape != (*size, channels)), None)
        if odd is not None:
            raise SpecError(f"picture '{data.ids[odd]}' is {_by(images[odd].shape)}, {_by((*size, channels))} is measured here")
        whole = np.stack(images)
    if whole.shape[1:] != (*size, channels):
        raise SpecError(f"the data's pictures are {_by(whole.shape[1:])}, {_by((*size, channels))} is measured here")
    pixels = torch.from_numpy(whole.transpose(0, 3, 1, 2).copy())  # a copy: the dataset may be read-only
    return Labelled(pixels, torch.tensor([number[c] for c in captions], dtype=torch.int64), names)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
