"""Copies: does the model remember? Distances to the nearest training picture, calibrated on held-out pictures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from safelight.spec import SpecError

PERCENTILE = 1.0


class Nearest(NamedTuple):
    """For each of N queries its nearest training picture: index (N,) int64 and distance (N,) float64."""

    index: Tensor  # type: ignore[assignment]  # a tuple has a method of that name, of which a record of pictures has no use
    distance: Tensor


class Copies(NamedTuple):
    """fraction: of generated pictures nearer to a training picture than `threshold`, the 1st percentile of what held-out real
    pictures are; a model that has learned and not memorised stays near 0.01. median, held_out_median: of the two distances."""

    fraction: float
    threshold: float
    median: float
    held_out_median: float
    nearest: Nearest


def copies(generated: Nearest, held_out: Nearest) -> Copies:
    """Compare the distances of generated pictures to training pictures with those of held-out ones. Neither may be empty."""
    if not len(generated.distance) or not len(held_out.distance):
        raise SpecError("copies: both generated and held-out pictures are needed")
    threshold = torch.quantile(held_out.distance, PERCENTILE / 100).item()
    fraction = (generated.distance < threshold).double().mean().item()
    return Copies(fraction, threshold, generated.distance.median().item(), held_out.distance.median().item(), generated)


def in_pixels(query: Tensor, train: Tensor, *, shift: int = 1, mirror: bool = True, rows: int = 4096) -> Nearest:
    """The nearest training picture of each query, as root mean square difference in grey levels, 0..255.

    query (N, C, H, W), train (M, C, H, W), uint8. A copy moved by up to `shift` pixels (edges repeated), or mirrored, is one.
    The search multiplies matrices in float32 (exact to 0.05 levels); the winner's distance is then computed from the bytes.
    """
    if query.shape[1:] != train.shape[1:] or query.dtype != torch.uint8 or train.dtype != torch.uint8 or not len(train):
        raise SpecError(
            f"copies: uint8 pictures of one shape are needed, not {tuple(query.shape)} {query.dtype} and "
            f"{tuple(train.shape)} {train.dtype}"
        )
    variants = torch.stack(moved(query, shift, mirror), 1)  # (N, V, C, H, W)
    n, v = variants.shape[:2]
    # Centred on the training mean, so that float32 keeps more digits of the differences.
    mean = train[:: max(1, len(train) // 1000)].float().mean(0).flatten()
    q = variants.flatten(2).float() - mean  # (N, V, D)
    best = torch.full((n, v), torch.inf)
    index = torch.zeros((n, v), dtype=torch.int64)
    flat = q.flatten(0, 1)
    for first in range(0, len(train), rows):
        part = train[first : first + rows].flatten(1).float() - mean
        d = torch.addmm(part.square().sum(1), flat, part.T, alpha=-2).view(n, v, -1)  # |p|^2 - 2 q.p; |q|^2 is added below
        low, at = d.min(2)
        nearer = low < best
        best = torch.where(nearer, low, best)
        index = torch.where(nearer, at + first, index)
    variant = (best + q.square().sum(2)).argmin(1)
    index = index[torch.arange(n), variant]
    difference = variants[torch.arange(n), variant].double() - train[index].double()
    return Nearest(index, difference.flatten(1).square().mean(1).sqrt())


def in_features(query: Tensor, train: Tensor, rows: int = 4096) -> Nearest:
    """The nearest of train (M, F) for each query (N, F), Euclidean, float64."""
    query, train = query.double(), train.double()
    if query.ndim != 2 or query.shape[1:] != train.shape[1:] or not len(train):
        raise SpecError(f"copies: features of one width are needed, not {tuple(query.shape)} and {tuple(train.shape)}")
    best, index = torch.full((len(query),), torch.inf, dtype=torch.float64), torch.zeros(len(query), dtype=torch.int64)
    for first in range(0, len(train), rows):
        low, at = torch.cdist(query, train[first : first + rows]).min(1)
        index = torch.where(low < best, at + first, index)
        best = torch.minimum(low, best)
    return Nearest(index, (query - train[index]).square().sum(1).sqrt())


def moved(pictures: Tensor, shift: int, mirror: bool) -> list[Tensor]:
    """Pictures (..., H, W) shifted by -shift..shift pixels both ways, edges repeated; and so their mirror images."""
    h, w = pictures.shape[-2:]
    out = []
    for base in (pictures, pictures.flip(-1)) if mirror else (pictures,):
        for dy in range(-shift, shift + 1):
            rows = (torch.arange(h) + dy).clamp(0, h - 1)
            for dx in range(-shift, shift + 1):
                out.append(base[..., rows, :][..., (torch.arange(w) + dx).clamp(0, w - 1)])
    return out
