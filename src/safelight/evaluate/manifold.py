"""Precision and recall, density and coverage: fidelity apart from diversity, by nearest neighbours among features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from safelight.spec import SpecError


class Manifold(NamedTuple):
    """precision: how many fakes look real; recall: how much of the real is reached; density: how deep fakes lie among the real
    (1 as the real themselves, may exceed 1); coverage: the fraction of the real with a fake near. All but density in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Tensor, fake: Tensor, k: int = 5, rows: int = 1024) -> Manifold:
    """The four numbers for features real (N, F) and fake (M, F), float64, `rows` at a time.

    With B(x) the ball around x that reaches to its k-th nearest neighbour in its own set (itself not counted):
        precision = mean_j [fake_j in any B(real_i)],         recall = mean_i [real_i in any B(fake_j)],
        density   = 1/(k M) sum_j #{i: fake_j in B(real_i)},  coverage = mean_i [any fake_j in B(real_i)]
    (Kynkaanniemi et al. 2019, eq. 2; Naeem et al. 2020, eq. 4 and 5).
    Recall favours large fake sets: compare at equal N. Raises SpecError for sets of k or fewer.
    """
    real, fake = real.to("cpu", torch.float64), fake.to("cpu", torch.float64)
    if min(len(real), len(fake)) <= k or k < 1 or real.shape[1:] != fake.shape[1:]:
        raise SpecError(
            f"{k} neighbours need more than {k} pictures a set with the same features, not {tuple(real.shape)} and "
            f"{tuple(fake.shape)}"
        )
    of_real, of_fake = radii(real, k, rows), radii(fake, k, rows)
    inside = torch.zeros(len(fake), dtype=torch.int64)  # in how many balls of real pictures each fake lies
    reached, covered = [], []
    for part, radius in zip(real.split(rows), of_real.split(rows), strict=True):
        d = distances(part, fake)
        hit = d <= radius[:, None]
        inside += hit.sum(0)
        covered.append(hit.any(1))
        reached.append((d <= of_fake).any(1))
    return Manifold(
        (inside > 0).double().mean().item(),
        torch.cat(reached).double().mean().item(),
        inside.double().mean().item() / k,
        torch.cat(covered).double().mean().item(),
    )


def radii(x: Tensor, k: int, rows: int = 1024) -> Tensor:
    """(N,): the distance of each x (N, F) to its k-th nearest neighbour among the others; twins count, at distance 0."""
    out = []
    for first in range(0, len(x), rows):
        d = distances(x[first : first + rows], x)
        d[torch.arange(len(d)), torch.arange(first, first + len(d))] = torch.inf
        out.append(d.kthvalue(k, dim=1).values)
    return torch.cat(out)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (len a, len b), by differences: expanding the square would part ties that decide `<=` above."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
