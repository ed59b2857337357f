"""Between: what lies on the way from one noise to another, and from one prompt to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from safelight.cond import Cond
from safelight.noise import Noise
from safelight.process import Level
from safelight.sample import Draws
from safelight.spec import SpecError

# Below this sine of their angle two directions are one to rounding, and the formula would divide by it.
_PARALLEL = 1e-4


def slerp(a: Tensor, b: Tensor, parts: Sequence[float] | float) -> Tensor:
    """(sin((1 - p) w) a + sin(p w) b) / sin w, w the angle between a and b (Shoemake 1985, "Animating rotation", section 3.3).

    a, b: (B, ...), each row one vector. parts: p of every row, or one for all. Independent normal rows of many values stand at a
    right angle and are equally long, so what lies between them is as long too: noise stays noise, of variance 1, where a straight
    mix would lose up to half of the variance. Rows at p = 0 and 1 are a's and b's bit for bit; rows in one direction (and exactly
    opposite ones, which no single arc joins) are mixed straight. A row's result does not depend on the rows beside it.
    """
    each = [float(parts)] * len(a) if isinstance(parts, int | float) else [float(p) for p in parts]
    rows = [_arc(u, v, p) for u, v, p in zip(a, b, each, strict=True)]
    return torch.stack(rows) if rows else a.clone()


def _arc(a: Tensor, b: Tensor, part: float) -> Tensor:
    if part in (0.0, 1.0):
        return b if part else a
    u, v = (e.detach().cpu().double().flatten() for e in (a, b))
    lengths = math.sqrt(float(u.square().sum()) * float(v.square().sum()))
    angle = math.acos(max(-1.0, min(1.0, float((u * v).sum()) / lengths))) if lengths else 0.0
    if math.sin(angle) < _PARALLEL:
        return torch.lerp(a, b, part)
    return a * (math.sin((1 - part) * angle) / math.sin(angle)) + b * (math.sin(part * angle) / math.sin(angle))


class Rows:
    """The noise of pictures of unequal seeds: row i is what picture `pictures[i]` = (seed, number) draws."""

    def __init__(self, pictures: Iterable[tuple[int, int]]) -> None:
        self.pictures = tuple(pictures)

    def normal(self, purpose: str, now: Level | None, to: Level | None, like: Tensor) -> Tensor:
        """Standard normal draws like `like` (B, ...). Raises SpecError when the batch is not that of `pictures`."""
        if len(like) != len(self.pictures):
            raise SpecError(f"noise is for {len(self.pictures)} images, the batch has {len(like)}")
        drawn = {p: Noise(p[0], (p[1],)).normal(purpose, now, to, like[:1]) for p in dict.fromkeys(self.pictures)}
        return torch.cat([drawn[p] for p in self.pictures])


class Between:
    """Noise on the way from one stream to another: every draw is slerp(a, b, part), one part (0..1) a row.

    At 0 and 1 the draws are those of the ends, bit for bit; between them their variance stays 1.
    """

    def __init__(self, a: Draws, b: Draws, parts: Sequence[float]) -> None:
        self.a, self.b, self.parts = a, b, tuple(parts)

    def normal(self, purpose: str, now: Level | None, to: Level | None, like: Tensor) -> Tensor:
        """Draws like `like` (B, ...), B the number of parts."""
        return slerp(self.a.normal(purpose, now, to, like), self.b.normal(purpose, now, to, like), self.parts)


class Tempered:
    """Another stream's draws, times `temperature`."""

    def __init__(self, noise: Draws, temperature: float) -> None:
        self.noise, self.temperature = noise, temperature

    def normal(self, purpose: str, now: Level | None, to: Level | None, like: Tensor) -> Tensor:
        """Draws like `like`, of standard deviation `temperature`."""
        return self.noise.normal(purpose, now, to, like) * self.temperature


def tempered(noise: Draws, temperature: float) -> Draws:
    """A stream at a temperature; at 1 it is the stream itself."""
    return noise if temperature == 1 else Tempered(noise, temperature)


def conds(a: Cond, b: Cond, part: float, *, straight: bool = False) -> Cond:
    """The condition (batch 1) at `part` (0..1) of the way from a to b (batch 1 each); at 0 and 1 it is a or b itself.

    tokens: each by `slerp` with the one at its place, or straight. Sentences of unequal length are both drawn out to a common
    multiple of their lengths, every token repeated equally often, which attention does not notice: so the way begins and ends at
    the sentences themselves, without a jump, and no place that is masked has any part in it. Where text and picture attend in one
    pool (DiT's `in-context`) repetition does weigh more, and unequal lengths begin and end with a jump.
    vector: by `slerp` or straight. image: straight.
    """
    if part in (0.0, 1.0):
        return b if part else a
    way: _Way = torch.lerp if straight else slerp
    tokens = mask = None
    if a.tokens is not None and b.tokens is not None:
        if a.mask is None and b.mask is None and a.tokens.shape == b.tokens.shape:
            tokens = way(a.tokens[0], b.tokens[0], part)[None]  # (1, L, D), a row a token
        else:
            tokens = _drawn_out(_said(a), _said(b), part, way)[None]
            mask = torch.ones_like(tokens[..., 0], dtype=torch.bool)
    return Cond(tokens, mask, _both(a.vector, b.vector, way, part), _both(a.image, b.image, torch.lerp, part))


def angle(a: Tensor, b: Tensor) -> float:
    """The angle that `slerp` turns, in degrees, the mean over rows (B, D)."""
    cosines = functional.cosine_similarity(a.detach().cpu().double(), b.detach().cpu().double(), dim=-1)
    return float(torch.rad2deg(torch.acos(cosines.clamp(-1, 1))).mean())


def turn(a: Cond, b: Cond) -> float | None:
    """The angle, in degrees, that `conds` turns words of batch 1: the mean over their tokens, else of the vector; None without either."""
    if a.tokens is not None and b.tokens is not None:
        (u, v), of = _lined(_said(a), _said(b))
        return angle(u[of], v[of])
    return None if a.vector is None or b.vector is None else angle(a.vector, b.vector)


_Way = Callable[[Tensor, Tensor, float], Tensor]
# Sentences are not drawn out beyond this, where their lengths have no smaller common multiple: then a few tokens repeat once more.
_LONGEST = 512


def _drawn_out(a: Tensor, b: Tensor, part: float, way: _Way) -> Tensor:
    """(L, D) from tokens (m, D) and (n, D): both drawn out to L places, and mixed place by place."""
    (u, v), of = _lined(a, b)
    return way(u, v, part)[of]


def _lined(a: Tensor, b: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Tokens (m, D) and (n, D) as pairs: those that differ, (P, D) each, and which of them is at each of the L places."""
    m, n = len(a), len(b)
    most = max(m, n)
    length = min(math.lcm(m, n), max(_LONGEST // most, 1) * most)
    places = torch.arange(length, device=a.device)
    pairs = torch.stack([places * m // length, places * n // length], 1)
    unlike, of = torch.unique_consecutive(pairs, dim=0, return_inverse=True)  # a pair that repeats is mixed once
    return (a[unlike[:, 0]], b[unlike[:, 1]]), of


def _said(cond: Cond) -> Tensor:
    """(n, D) the tokens that count."""
    assert cond.tokens is not None
    return cond.tokens[0] if cond.mask is None else cond.tokens[0][cond.mask[0]]


def _both(a: Tensor | None, b: Tensor | None, way: _Way, part: float) -> Tensor | None:
    return None if a is None or b is None else way(a, b, part)


__all__ = ["Between", "Rows", "Tempered", "angle", "conds", "slerp", "tempered", "turn"]
