"""Look at a data set before training on it: what is used, what is not and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from safelight.data.detect import detect
from safelight.data.source import CorruptError, Dataset, Skipped, Source, digest
from safelight.data.stores import in_threads

# Wraps the pictures as they are looked at, for a progress bar: watch(pictures, how many) -> the same pictures.
Watch = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    kind:       the format (a kind of source).
    used:       pictures that can be read; visits: pictures an epoch shows (more, when some are repeated).
    skipped:    files that are not used, with the reason; those with `lost` were meant as data.
    uncaptioned: used pictures whose caption is "".
    captions:   how many different captions there are.
    duplicates: groups of names whose pixels are equal.
    sizes:      {(width, height, channels): pictures}, the most frequent first.
    """

    path: str
    kind: str
    used: int
    visits: int
    skipped: tuple[Skipped, ...]
    uncaptioned: int
    captions: int
    duplicates: tuple[tuple[str, ...], ...]
    sizes: dict[tuple[int, int, int], int] = field(default_factory=dict)

    @property
    def lost(self) -> list[Skipped]:
        """The skipped files that were meant as data."""
        return [s for s in self.skipped if s.lost]

    @property
    def near_misses(self) -> list[Skipped]:
        """The files whose names are a slip away from a name that counts."""
        return [s for s in self.skipped if s.meant]

    @property
    def loss(self) -> float:
        """Lost files as a part of lost and used ones."""
        return len(self.lost) / max(1, len(self.lost) + self.used)

    def ok(self, max_loss: float = 0.0) -> bool:
        """Whether there are pictures, no more than `max_loss` is lost, and no name is a near miss (a misspelt metadata file
        is one file but may hold all captions)."""
        return self.used > 0 and self.loss <= max_loss and not self.near_misses

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        whole = asdict(self)
        whole["skipped"] = [s._asdict() for s in self.skipped]
        whole["sizes"] = [{"width": w, "height": h, "channels": c, "pictures": n} for (w, h, c), n in self.sizes.items()]
        return whole | {"lost": len(self.lost), "loss": self.loss}


def check(source: Source | Dataset | str, *, workers: int | None = None, watch: Watch | None = None) -> CheckReport:
    """Read every picture of a source (or of whatever lies at a path) and report.

    workers: threads that decode; None takes up to four. The report does not depend on it.
    Raises DataError when it cannot be opened at all: missing, empty, no pictures, a damaged container.
    """
    path = source if isinstance(source, str) else getattr(source, "path", None) or getattr(source, "name", "") or ""
    spec = detect(source) if isinstance(source, str) else source
    data = spec if isinstance(spec, Dataset) else spec.open()
    if workers is None:
        workers = min(4, os.cpu_count() or 1) if data.array() is None else 0

    def look(i: int) -> tuple[bytes, tuple[int, int, int]] | str:
        try:
            image = data.read(i).image
        except CorruptError as error:
            return str(error) or "cannot be read"
        return digest(image), (image.shape[1], image.shape[0], image.shape[2])

    skipped = list(data.skipped)
    groups: dict[bytes, list[str]] = {}
    sizes: Counter[tuple[int, int, int]] = Counter()
    used = uncaptioned = visits = 0
    captions: set[str] = set()
    found: Iterable[Any] = in_threads(look, range(len(data)), workers)
    for i, seen in found if watch is None else watch(found, len(data)):
        if isinstance(seen, str):
            skipped.append(Skipped(data.name(i), seen))
            continue
        used += 1
        visits += 1 if data.repeats is None else data.repeats[i]
        uncaptioned += data.captions[i] == ""
        captions.add(data.captions[i])
        groups.setdefault(seen[0], []).append(data.name(i))
        sizes[seen[1]] += 1
    return CheckReport(
        path=str(path),
        kind=spec.kind if isinstance(spec, Source) else "memory",
        used=used,
        visits=visits,
        skipped=tuple(skipped),
        uncaptioned=uncaptioned,
        captions=len(captions - {""}),
        duplicates=tuple(tuple(names) for names in groups.values() if len(names) > 1),
        sizes=dict(sizes.most_common()),
    )
