"""Grids: where a sampler's steps fall. `(process, n) -> n + 1` strictly decreasing times; the last is 0, the data."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from safelight.process import Level, Process
from safelight.process.level import Place
from safelight.spec import Spec, SpecError, parse


class Grid(Spec, family="grid"):
    """n steps through a process. `grid(process, n)` gives n + 1 times in [0, 1], float64, strictly decreasing, ending at 0."""

    def places(self, process: Process, n: int) -> Tensor:
        """The n positive times, decreasing."""
        raise NotImplementedError(type(self).__name__)

    def __call__(self, process: Process, n: int) -> Tensor:
        """The times of n steps. Raises SpecError for n < 1, for more steps than a table has entries, or when two would coincide."""
        if n < 1:
            raise SpecError(f"steps: at least 1 is needed (given: {n})")
        if process.entries is not None and n > process.entries:
            raise SpecError(f"steps: {n} steps do not fit process '{process.kind}', a table of T = {process.entries} entries")
        times = torch.cat([self.places(process, n), torch.zeros(1, dtype=torch.float64)])
        if not bool((times[1:] < times[:-1]).all()):
            raise SpecError(f"grid '{self.kind}' cannot place {n} distinct steps on process '{process.kind}': use fewer")
        return times

    def at(self, process: Process, times: Tensor, n: int | None = None) -> Level:
        """The levels at times that this grid has given, or at the last of them: the process's own, unless a kind says otherwise.

        n: the steps of the whole grid, where the times are a part of it.
        """
        return process.at(times)

    def spread(self, level: Level) -> float:
        """The standard deviation of the noise that a run begins with at its first level: that of x there, of data of variance 1."""
        return float(torch.hypot(level.alpha, level.sigma))


def _fractions(n: int, last: float) -> Tensor:
    """n numbers from 1 down to `last`, evenly spaced; just 1 for n = 1."""
    return torch.linspace(1.0, last, n, dtype=torch.float64) if n > 1 else torch.ones(1, dtype=torch.float64)


def _entries(process: Process, index: Tensor) -> Tensor:
    """Times of a table's integer entries, exactly: t = (i + 1) / T."""
    assert process.entries is not None
    return (index.to(torch.float64) + 1) / process.entries


class Uniform(Grid, kind="uniform"):
    """Even in t. On a table the integers nearest to linspace(T-1, 0, n) (what peers call linspace); else linspace(start, 0, n+1).

    start: where a continuous process begins, in (0, 1].
    """

    start: float = Field(1.0, gt=0, le=1)

    def places(self, process: Process, n: int) -> Tensor:
        if process.entries is not None:
            places = np.linspace(0, process.entries - 1, n) if n > 1 else np.array([process.entries - 1.0])
            return _entries(process, torch.from_numpy(places.round()[::-1].copy()))
        return self.start * torch.linspace(1, 0, n + 1, dtype=torch.float64)[:-1]


class Even(Grid, kind="even"):
    """n places even in t from `start` to `last`, and then the data: what peers give flows, whose last place is the least entry of a table.

    start, last: times in (0, 1], start above last.
    """

    start: float = Field(1.0, gt=0, le=1)
    last: float = Field(1e-3, gt=0, le=1)

    def places(self, process: Process, n: int) -> Tensor:
        if self.start <= self.last:
            raise SpecError(f"grid 'even': start ({self.start:g}) must be above last ({self.last:g})")
        return self.last + (self.start - self.last) * _fractions(n, 0.0)


class Leading(Grid, kind="leading"):
    """Entries (n-1) r, ..., r, 0 with r = T // n (Lin et al. 2023, table 2): the stride of DDIM's code, which never starts at T - 1.

    entries: how many a continuous process is cut into, since there "leading" has no meaning of its own.
    """

    entries: int = Field(1000, ge=1)

    def places(self, process: Process, n: int) -> Tensor:
        total = process.entries or self.entries
        if n > total:
            raise SpecError(f"steps: {n} steps do not fit grid 'leading' with entries = {total}")
        index = torch.arange(n - 1, -1, -1) * (total // n)
        return (index.to(torch.float64) + 1) / total


class Trailing(Grid, kind="trailing"):
    """Entries round(T - k T/n) - 1, k = 0..n-1 (Lin et al. 2023, table 2): starts at the last entry, where x_T was drawn.

    On a continuous process that is even in t: 1, 1 - 1/n, ..., 1/n.
    """

    def places(self, process: Process, n: int) -> Tensor:
        k = torch.arange(n, dtype=torch.float64)
        if process.entries is not None:
            return _entries(process, (process.entries - k * process.entries / n).round() - 1)
        return 1 - k / n


class Distilled(Grid, kind="distilled"):
    """Of the `steps` entries k r - 1, r = T // steps, at which a model was distilled, those at floor(i steps / n) from the last one

    (Luo et al. 2023, "Latent consistency models", section 4.3). Where n is more than that, n are taken for `steps`.
    entries: how many a continuous process is cut into.
    """

    steps: int = Field(50, ge=1)
    entries: int = Field(1000, ge=1)

    def places(self, process: Process, n: int) -> Tensor:
        total = process.entries or self.entries
        of = min(max(self.steps, n), total)
        taken = (torch.arange(n) * of / n).floor()
        return (of - taken).to(torch.float64) * (total // of) / total


class _Ratios(Grid):
    """Grids placed in s = sigma/alpha, from s_max down to s_min, then 0.

    s_min, s_max: the ends, > 0; None takes the process's own (a table's first and last entry; sigma_min and sigma_max; 1e-3 and 1e3
    for processes that reach 0 and infinity).
    """

    s_min: float | None = Field(None, gt=0)
    s_max: float | None = Field(None, gt=0)

    def ratios(self, low: float, high: float, n: int) -> Tensor:
        """n values of s from `high` to `low`, decreasing."""
        raise NotImplementedError(type(self).__name__)

    def places(self, process: Process, n: int) -> Tensor:
        low, high = process.ends
        low, high = self.s_min or low, self.s_max or high
        if low >= high:
            raise SpecError(f"grid '{self.kind}': s_min ({low:g}) must be below s_max ({high:g})")
        s = self.ratios(low, high, n)
        return process.time(-2 * s.log())


class Karras(_Ratios, kind="karras"):
    """s_i = (s_max^(1/rho) + i/(n-1) (s_min^(1/rho) - s_max^(1/rho)))^rho (Karras et al. 2022, eq. 5)."""

    rho: float = Field(7.0, gt=0)

    def ratios(self, low: float, high: float, n: int) -> Tensor:
        a, b = high ** (1 / self.rho), low ** (1 / self.rho)
        return (b + (a - b) * _fractions(n, 0.0)) ** self.rho


class LogSNR(_Ratios, kind="logsnr"):
    """Even in log-SNR (Lu et al. 2022, DPM-Solver, section 3.4); peers call it exponential."""

    def ratios(self, low: float, high: float, n: int) -> Tensor:
        top, bottom = math.log(high), math.log(low)
        return (bottom + (top - bottom) * _fractions(n, 0.0)).exp()


class Exponential(LogSNR, kind="exponential"):
    """s_i = s_max (s_min/s_max)^(i/(n-1)), the name k-diffusion and diffusers give to what is even in log-SNR: `logsnr`."""


class Arctan(_Ratios, kind="arctan"):
    """s_i = tan(atan s_max + i/(n-1) (atan s_min - atan s_max)): even in the angle between noise and picture ("KL optimal" of Sabour et

    al. 2024, "Align your steps", section 3.1).
    """

    def ratios(self, low: float, high: float, n: int) -> Tensor:
        top, bottom = math.atan(high), math.atan(low)
        return torch.tan(bottom + (top - bottom) * _fractions(n, 0.0))


class Lu(_Ratios, kind="lu"):
    """Even in lambda^(1/rho) between lambda = log s_min and log s_max, signs kept (Lu et al. 2022, "DPM-Solver++"; diffusers' "lu" is
    rho = 1, again what is even in log-SNR). rho > 1 puts more steps where s is near 1.
    """

    rho: float = Field(1.0, gt=0)

    def ratios(self, low: float, high: float, n: int) -> Tensor:
        def bent(v: float) -> float:
            return math.copysign(abs(v) ** (1 / self.rho), v)

        top, bottom = bent(math.log(high)), bent(math.log(low))
        u = bottom + (top - bottom) * _fractions(n, 0.0)
        return (u.sign() * u.abs() ** self.rho).exp()


class Beta(Grid, kind="beta"):
    """Times at the quantiles of a Beta distribution, 1 - i/n -> B^-1 (Lee et al. 2024, "Beta sampling is all you need", eq. 6):

    with a = b = 0.6 steps are dense at both ends of t. On a table the nearest integer entries, repeated ones moved apart.
    """

    a: float = Field(0.6, gt=0)
    b: float = Field(0.6, gt=0)

    def places(self, process: Process, n: int) -> Tensor:
        t = torch.tensor([_beta_quantile(1 - i / n, self.a, self.b) for i in range(n)], dtype=torch.float64)
        if process.entries is None:
            return t
        index = (t * process.entries).round().long().clamp(1, process.entries) - 1
        for i in range(1, n):  # never two of one entry: from above, then from below
            index[i] = min(int(index[i]), int(index[i - 1]) - 1)
        for i in range(n - 1, -1, -1):
            index[i] = max(int(index[i]), n - 1 - i)
        return _entries(process, index)


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Abramowitz and Stegun 26.5.8, Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the complement converges faster
        return 1 - _beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    f = c = 1.0
    d = 0.0
    for i in range(1, 500):
        m = i // 2
        part = (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
            if i % 2 == 0
            else -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        )
        d = 1 / (1 + part * d)
        c = 1 + part / c
        f *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front / f


@lru_cache(16_384)
def _beta_quantile(p: float, a: float, b: float) -> float:
    """x with I_x(a, b) = p, by bisection to the last bit."""
    low, high = 0.0, 1.0
    if p >= 1:
        return 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if _beta_cdf(middle, a, b) < p else (low, middle)


class BetaNoise(_Ratios, kind="beta-noise"):
    """s_i = s_min + B^-1(1 - i/(n-1)) (s_max - s_min), B^-1 the quantiles of a Beta distribution: Lee et al. 2024 as diffusers has it,

    in the noise level where `beta` has them in the time.
    """

    a: float = Field(0.6, gt=0)
    b: float = Field(0.6, gt=0)

    def ratios(self, low: float, high: float, n: int) -> Tensor:
        parts = [_beta_quantile(float(p), self.a, self.b) for p in _fractions(n, 0.0)]
        return low + (high - low) * torch.tensor(parts, dtype=torch.float64)


class Published(Grid, kind="published"):
    """Steps as the samplers of published pipelines place them on a table of T entries, with what they do besides.

    spacing: `leading`, entries offset + k r with r = T // n; `linspace`, T - 1 down to 0; `trailing`, round(T - k T/n) - 1 (Lin et al.
    2023, table 2); `simple`, T - 1 - floor(k T/n). closed: the end of the run counts as a place: r = T // (n + 1) without its entry 0, and
    linspace of n + 1 without its last. between: what linspace does between entries: it rounds to `entries`, or s is `linear` there, or
    its `log` is. above: entries whose lambda = log(alpha/sigma) is below this are left out.
    curve: instead of the places a grid in s between the greatest and the least of them (`karras`, `exponential`, `beta-noise`, `lu`);
    whole: between the ends of the table.
    told: what the network hears of a place: its entry with all digits (`exact`), that where s is `linear` between entries instead of
    its log, `rounded`, or `cut` to the entry below. end: where a run ends: at the `data`; at `entry` 0, whose noise is never taken away;
    or at its `ratio`, entry 0 divided by its alpha, which solvers in s hand out. pure: it begins with noise of standard deviation sigma
    instead of sqrt(alpha^2 + sigma^2). entries: how many a continuous process is cut into; its network hears what the process says.
    """

    spacing: Literal["leading", "linspace", "trailing", "simple"] = "leading"
    offset: int = Field(0, ge=0)
    closed: bool = False
    between: Literal["entries", "linear", "log"] = "entries"
    above: float | None = None
    curve: Grid | None = None
    whole: bool = False
    told: Literal["exact", "linear", "rounded", "cut"] = "exact"
    end: Literal["data", "entry", "ratio"] = "data"
    pure: bool = False
    entries: int = Field(1000, ge=1)

    @field_validator("curve")
    @classmethod
    def _in_ratios(cls, value: Grid | None) -> Grid | None:
        if value is not None and (not isinstance(value, _Ratios) or isinstance(value, Rect)):
            raise ValueError(f"a curve is a grid in s = sigma/alpha, such as karras or exponential, not '{value.kind}'")
        return value

    def places(self, process: Process, n: int) -> Tensor:
        index, total = self._index(process, n), self._total(process)
        if self.curve is None and self.between != "linear":
            return (index + 1) / total
        s = _linear(index, self._ratios(process))
        if self.curve is None:
            return process.time(-2 * s.log())
        assert isinstance(self.curve, _Ratios)
        least, most = process.ends
        low, high = (least, most) if self.whole else (max(float(s[-1]), least), min(float(s[0]), most))
        s = self.curve.ratios(self.curve.s_min or low, self.curve.s_max or high, n)
        return process.time(-2 * s.log())

    def at(self, process: Process, times: Tensor, n: int | None = None) -> Level:
        level, steps = process.at(times), len(times) - 1
        place = Place(torch.arange(steps, -1, -1), n or steps)
        alpha, sigma, told = level.alpha, level.sigma, None
        if process.entries is not None and self.told != "exact":
            told = process.told(level)
            if self.told == "linear":
                s = self._ratios(process)
                told = torch.from_numpy(np.interp(level.ratio.numpy(), s, np.arange(len(s)))).to(told)
            else:
                told = told.round() if self.told == "rounded" else told.floor()
        if self.end != "data":
            last, first = level.t == 0, process.at(1 / self._total(process))
            scale = 1.0 if self.end == "entry" else first.alpha
            alpha, sigma = torch.where(last, first.alpha / scale, alpha), torch.where(last, first.sigma / scale, sigma)
        return Level(level.t, alpha, sigma, process, told, place)

    def spread(self, level: Level) -> float:
        return float(level.sigma) if self.pure else super().spread(level)

    def _total(self, process: Process) -> int:
        return process.entries or self.entries

    def _ratios(self, process: Process) -> np.ndarray:
        """(T,) s of every entry, rising."""
        total = self._total(process)
        return process.at((torch.arange(total, dtype=torch.float64) + 1) / total).ratio.numpy()

    def _index(self, process: Process, n: int) -> Tensor:
        """The n places in the table, falling; float64."""
        total = last = self._total(process)
        if self.above is not None:
            last -= int((-np.log(self._ratios(process)) < self.above).sum())
        count = n + 1 if self.closed else n
        if self.spacing == "leading":
            index = np.arange(count)[::-1][:n] * (last // count) + float(self.offset)
        elif self.spacing == "linspace":
            index = np.linspace(0, last - 1, count)[::-1][:n] if count > 1 else np.array([last - 1.0])
            index = index.round() if self.between == "entries" else index
        elif self.spacing == "simple":
            index = last - 1 - np.floor(np.arange(n) * (total / n))
        else:
            index = (last - np.arange(n) * (total / n)).round() - 1
        if not (0 <= index[-1] and index[0] < total):
            raise SpecError(
                f"grid 'published': {n} steps do not fit {total} entries: ask for fewer, or for another spacing or offset"
            )
        return torch.from_numpy(index.copy())


def _linear(index: Tensor, ratios: np.ndarray) -> Tensor:
    """s at fractional entries, linear between entries."""
    return torch.from_numpy(np.interp(index.numpy(), np.arange(len(ratios)), ratios))


def falling(places: tuple[float, ...]) -> tuple[float, ...]:
    """The check of fitted places: they fall and stay above 0."""
    if places and not all(0 < b < a for a, b in zip(places, (*places[1:], places[-1] / 2), strict=True)):
        raise ValueError("the places must fall and stay above 0")
    return places


class Optimised(Grid, kind="optimised"):
    """Places that were fitted to a model: s = sigma/alpha of every step, falling; see `safelight tune-sampler`.

    s: as many as the steps it was fitted for, the first where the run begins. Another number of steps is interpolated, in u = s/(1 + s)
    with u = 0 at the end, by the part of the way that a step begins at. () is what fitting begins with: `rect` with power 1.3.
    """

    s: tuple[float, ...] = ()

    _falls = field_validator("s")(falling)

    def places(self, process: Process, n: int) -> Tensor:
        if not self.s:
            return Rect(power=1.3).places(process, n)
        known = np.asarray(self.s)
        if n != len(known):
            u = np.interp(np.arange(n) / n * len(known), np.arange(len(known) + 1), np.append(known / (1 + known), 0.0))
            known = u / (1 - u)
        return process.time(torch.from_numpy(-2 * np.log(known)))


class Rect(_Ratios, kind="rect"):
    """Even in u = s / (1 + s), the time of a straight flow: from s_max to the data in n pieces, u = u_max (1 - i/n)^power.

    power: 1 makes them equal; above 1 the steps are longer in the noise and shorter near the data. Where the last of them would fall
    below s_min, the pieces end at s_min and a last step goes from there to the data.
    """

    power: float = Field(1.0, gt=0)

    def places(self, process: Process, n: int) -> Tensor:
        low, high = process.ends
        low, high = self.s_min or low, self.s_max or high
        pure = self.s_max is None and float(process.alpha(1.0)) == 0
        top = 1.0 if pure else high / (1 + high)  # a process that ends in nothing but noise is entered there
        bottom = low / (1 + low)
        if bottom >= top:
            raise SpecError(f"grid '{self.kind}': s_min ({low:g}) must be below s_max ({high:g})")
        root = top ** (1 / self.power)
        last = max(root / n, bottom ** (1 / self.power))
        u = (root * _fractions(n, last / root)) ** self.power
        u[0] = top
        s = u / (1 - u)
        return process.time(-2 * s.log())


class Shifted(Grid, kind="shifted"):
    """t = shift u / (1 + (shift - 1) u), u even (Esser et al. 2024, eq. 23): shift > 1 spends more steps in the noise.

    start: where it begins, in (0, 1].
    """

    shift: float = Field(3.0, gt=0)
    start: float = Field(1.0, gt=0, le=1)

    def places(self, process: Process, n: int) -> Tensor:
        u = torch.linspace(1, 0, n + 1, dtype=torch.float64)[:-1]
        return self.start * self.shift * u / (1 + (self.shift - 1) * u)


def grid(process: Process | str, n: int, kind: Grid | str = "uniform") -> Tensor:
    """The n + 1 times of n steps through a process, by default evenly spaced: `process.at(grid(process, n))` are the levels.

    kind: a Grid or its name. Raises SpecError as `Grid.__call__` does.
    """
    spec, where = parse(kind, "grid"), parse(process, "process")
    assert isinstance(spec, Grid) and isinstance(where, Process)
    return spec(where, n)


__all__ = ["Grid", "Published", "falling", "grid"]
