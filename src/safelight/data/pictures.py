"""Pictures: what training reads. A data set fitted to one size, ready to be gathered into batches of uint8 on a device.

pictures = load("pets", channels=3, size=64, workers=2)
order = Order(pictures.n, seed=0)
for step in range(steps):
    now = order.batch(step, 128)
    pictures.prefetch(order.batch(step + 1, 128))
    x0 = to_unit(pictures.batch(now))                       # (128, 3, 64, 64) in [-1, 1]
    captions = [pictures.captions[i] for i in pictures.actual(now)]
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from safelight.data.budget import budget
from safelight.data.decode import as_channels
from safelight.data.detect import detect
from safelight.data.order import Order
from safelight.data.source import CorruptError, DataError, Dataset, Pixels, Skipped, Source, digest
from safelight.data.stores import Resident, Store, Streamed, in_threads
from safelight.data.transform import Crop, Fit
from safelight.spec import describe, parse

Shape = tuple[int, int, int]


class Pictures:
    """Pictures of one shape, numbered 0..n-1. Made by `load`.

    n:           how many there are (a picture that is repeated counts as often).
    ids:         one name each; captions: one text each, "" where there is none.
    shape:       (C, H, W).
    quarantined: files that are not used, with the reason; grows when a file goes bad during a run.
    replaced:    how often a batch had to take another picture because one went bad.
    """

    def __init__(
        self,
        store: Store,
        rows: Tensor,
        ids: Sequence[str],
        captions: Sequence[str],
        shape: Shape,
        quarantined: list[Skipped],
        key: str,
    ) -> None:
        self._store, self._rows, self._key = store, rows, key
        self._whole = bool((rows == torch.arange(len(rows))).all())
        self.ids, self.captions, self.shape = list(ids), list(captions), shape
        self.quarantined = quarantined
        self.replaced = 0
        self._instead: dict[int, int] = {}

    @property
    def n(self) -> int:
        """How many pictures an epoch has."""
        return len(self.ids)

    def __len__(self) -> int:
        return self.n

    def order(self, seed: int) -> Order:
        """In which order a run of this seed sees them."""
        return Order(self.n, seed)

    @property
    def in_memory(self) -> bool:
        """Whether all pixels lie in memory; else they are decoded as they are asked for."""
        return isinstance(self._store, Resident)

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change when the pictures' names, order, captions, shape or fitting do: a run that is resumed
        must find the same. (Pixels are not part of it: hashing them would mean reading everything.)"""
        h = hashlib.blake2b(f"{self.shape}{self._key}".encode(), digest_size=16)
        for name, caption in zip(self.ids, self.captions, strict=True):
            h.update(f"{len(name)} {name} {len(caption)} {caption}\n".encode())
        return h.hexdigest()

    def summary(self) -> str:
        """One line for the start of a run: how many, of which shape, where, and what is not used."""
        captions = len(set(self.captions) - {""})
        without = self.captions.count("")
        text = f"{self.n:,} pictures {'x'.join(map(str, self.shape))} {'in memory' if self.in_memory else 'from disk'}"
        text += f", {captions:,} different captions" if captions else ", no captions"
        text += f" ({without:,} pictures without)" if captions and without else ""
        if self.quarantined:
            # A near miss in a name comes first: it may have cost all captions.
            worst = max(self.quarantined, key=lambda s: bool(s.meant))
            text += f"; {len(self.quarantined):,} left out ({worst.path}: {worst.reason})"
        return text

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 (B, C, H, W) on the device for int64 indices (B,).

        A picture that cannot be read is replaced by the next one (by index, cyclically) that can, is listed in
        `quarantined` and counted in `replaced`; which one is taken depends on the files alone. `actual` tells which.
        Raises DataError when no picture can be read.
        """
        indices = indices.cpu()
        taken = self.actual(indices)
        if self._instead:
            self.replaced += int((taken != indices).sum())
        pixels, broken = self._store.fetch(self._row_of(taken))
        for place, reason in broken.items():
            index = int(taken[place])
            if index not in self._instead:
                self._replace(index, reason)
            self.replaced += 1
            again, faults = self._store.fetch(self._row_of(torch.tensor([self._instead[index]])))
            if faults:
                raise DataError(f"{self.ids[self._instead[index]]}: {faults[0]}")
            pixels[place] = again[0]
        return pixels

    def actual(self, indices: Tensor) -> Tensor:
        """What `batch(indices)` really gave: the indices, with the pictures gone bad replaced. Captions go by these."""
        if not self._instead:
            return indices
        return torch.tensor([self._instead.get(i, i) for i in indices.tolist()], dtype=torch.int64)

    def prefetch(self, indices: Tensor) -> None:
        """These pictures come next: decode them meanwhile, in the worker threads. Changes no result; free in memory."""
        self._store.expect(self._row_of(self.actual(indices.cpu())))

    def digest(self, i: int) -> bytes:
        """16 bytes, equal exactly when two pictures' (fitted) pixels are. Raises CorruptError when it cannot be read."""
        return digest(self._store.row(int(self._row_of(torch.tensor([i])))))

    def subset(self, indices: Tensor) -> Pictures:
        """The pictures of these indices, renumbered 0.. in this order; pixels are shared, not copied."""
        chosen = [int(i) for i in indices]
        if not chosen:
            raise DataError("a subset of no pictures")
        return Pictures(
            self._store,
            self._rows[indices.cpu()],
            [self.ids[i] for i in chosen],
            [self.captions[i] for i in chosen],
            self.shape,
            self.quarantined,
            self._key,
        )

    def _row_of(self, indices: Tensor) -> Tensor:
        return indices if self._whole else self._rows[indices]

    def _replace(self, index: int, reason: str) -> None:
        """Find what stands in for a picture gone bad, looking only among these pictures (never across a split)."""
        self.quarantined.append(Skipped(self.ids[index], reason))
        bad = {index}
        for k in range(1, self.n):
            other = (index + k) % self.n
            if other in self._instead:
                continue
            try:
                self._store.row(int(self._rows[other]))
            except CorruptError as error:
                self.quarantined.append(Skipped(self.ids[other], str(error)))
                bad.add(other)
                continue
            self._instead |= dict.fromkeys(bad, other)
            # What stood in until now and went bad itself hands its places on.
            self._instead |= {old: other for old, new in self._instead.items() if new in bad}
            return
        raise DataError(f"no picture can be read any more ({self.ids[index]}: {reason})")


def load(
    source: Source | Dataset | Mapping[str, Any] | str | os.PathLike[str],
    *,
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Fit | None = None,
    memory: Literal["auto", "always", "never"] = "auto",
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Pictures:
    """Open, check, fit and (when they fit) decode pictures once, so that batches cost microseconds.

    source:   a Source, its description, an open Dataset, or a path, whose format is then detected.
    channels: 1 (luma) or 3; None takes the pictures' own, which must then be alike.
    size:     the side of a square or (H, W); None takes the pictures' own, which must then be alike.
    fit:      how other sizes become this one: Crop() (default), Pad(), Stretch().
    memory:   "always" keeps all pixels in memory (on the device if they fit there, else on the host); "never" decodes for
              each batch; "auto" keeps them when they take at most a quarter of the device's or half of the host's free memory.
    device:   where batches are wanted.
    workers:  threads that decode. The pictures and their order do not depend on it.
    Pictures that cannot be read are left out and listed in `quarantined`. Raises DataError in one line when the source
    cannot be opened, when none can be read, or when shapes differ and no size is given.
    """
    device = torch.device(device)
    data = _open(source)
    fit = Crop() if fit is None else fit
    quarantined = [s for s in data.skipped if s.lost]
    if channels not in (None, 1, 3):
        raise DataError(f"channels: 1 or 3, not {channels}")
    wanted = (size, size) if isinstance(size, int) else size
    if wanted is not None and min(wanted) < 1:
        raise DataError(f"size: at least 1x1, not {wanted[0]}x{wanted[1]}")
    first = _first(data)
    height, width = first.shape[:2] if wanted is None else wanted
    shape: Shape = (first.shape[2] if channels is None else channels, height, width)
    strict = wanted is None or channels is None

    def decode(i: int) -> Pixels:
        image = data.read(i).image
        if strict:
            _same(data, i, image, first, channels, wanted)
        return _chw(fit(as_channels(image, shape[0]), shape[1:]))

    place = _place(memory, len(data) * math.prod(shape), device)
    if place is None and strict:
        raise DataError("pictures that stay on disk need `size` and `channels` (their own are not known before all are read)")
    store: Store
    if place is None:
        store = Streamed(decode, shape, device, workers)
        good = _probe(data, quarantined, workers)
    else:
        pixels, good = _decode_all(data, decode, shape, quarantined, workers)
        store = Resident(pixels.to(place), device)
    if not good:
        raise DataError(f"none of the {len(data):,} pictures can be read ({quarantined[-1].path}: {quarantined[-1].reason})")
    times = [1 if data.repeats is None else data.repeats[i] for i in good]
    rows = torch.arange(len(good)) if place is not None else torch.tensor(good)
    rows = rows.repeat_interleave(torch.tensor(times))
    visits = [i for i, n in zip(good, times, strict=True) for _ in range(n)]
    return Pictures(
        store, rows, [data.ids[i] for i in visits], [data.captions[i] for i in visits], shape, quarantined, repr(describe(fit))
    )


def _open(source: Source | Dataset | Mapping[str, Any] | str | os.PathLike[str]) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str | os.PathLike):
        source = detect(source)
    spec = parse(source, "source")
    assert isinstance(spec, Source)
    return spec.open()


def _first(data: Dataset) -> Pixels:
    """The first picture that can be read."""
    whole = data.array()
    if whole is not None:
        return whole[0]
    why = ""
    for i in range(len(data)):
        try:
            return data.read(i).image
        except CorruptError as error:
            why = why or f"{data.name(i)}: {error}"
    raise DataError(f"none of the {len(data):,} pictures can be read ({why})" if why else "no pictures")


def _same(data: Dataset, i: int, image: Pixels, first: Pixels, channels: int | None, wanted: tuple[int, int] | None) -> None:
    if wanted is None and image.shape[:2] != first.shape[:2]:
        (h, w), (h0, w0) = image.shape[:2], first.shape[:2]
        raise DataError(f"pictures differ in size ({w0}x{h0}, but {data.ids[i]} is {w}x{h}): say which is wanted with `size`")
    if channels is None and image.shape[2] != first.shape[2]:
        raise DataError(f"some pictures are grey and some are not (such as {data.ids[i]}): say which is wanted with `channels`")


def _place(memory: str, size: int, device: torch.device) -> torch.device | None:
    """Where the pixels will lie: the device, the host, or (None) on disk."""
    if memory == "never":
        return None
    host = torch.device("cpu")
    if device.type != "cpu" and size <= budget(device):
        return device
    return host if memory == "always" or size <= budget(host) else None


def _decode_all(data: Dataset, decode: Any, shape: Shape, quarantined: list[Skipped], workers: int) -> tuple[Tensor, list[int]]:
    """All pictures that can be read as one tensor, and which they are."""
    whole = data.array()
    if whole is not None and whole.shape[1:] == (*shape[1:], shape[0]):
        # A copy: what `frombuffer` gave is read-only, and torch wants to own its memory.
        return torch.from_numpy(np.array(whole.transpose(0, 3, 1, 2), order="C")), list(range(len(whole)))
    pixels = torch.empty((len(data), *shape), dtype=torch.uint8)
    into = pixels.numpy()

    def work(i: int) -> str:
        try:
            into[i] = decode(i)
        except CorruptError as error:
            return str(error) or "cannot be read"
        return ""

    good: list[int] = []
    for i, reason in in_threads(work, range(len(data)), workers):
        if reason:
            quarantined.append(Skipped(data.name(i), str(reason)))
        else:
            good.append(i)
    return (pixels if len(good) == len(data) else pixels[torch.tensor(good, dtype=torch.int64)]), good


def _probe(data: Dataset, quarantined: list[Skipped], workers: int) -> list[int]:
    """The pictures whose headers can be read."""

    def work(i: int) -> str:
        try:
            data.probe(i)
        except CorruptError as error:
            return str(error) or "cannot be read"
        return ""

    good: list[int] = []
    for i, reason in in_threads(work, range(len(data)), workers):
        if reason:
            quarantined.append(Skipped(data.name(i), str(reason)))
        else:
            good.append(i)
    return good


def _chw(image: Pixels) -> Pixels:
    return np.ascontiguousarray(image.transpose(2, 0, 1))
