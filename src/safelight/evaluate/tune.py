"""Fitting a sampler to a model: where its steps fall, and how it weighs the estimates, so that few steps end where many would.

    case = of_model(model, request, prompts, range(1024))
    truth = torch.cat(list(reference(case, 200)))
    for fitting in fit(case, truth, 8): ...                    # Fitting after every iteration; the last holds what was found
    sampler, grid = fitting.sampler(case.process), fitting.grid(case.process)

The sampler is `tuned` (see safelight.sample.tuned). Its places and weights go down the gradient, through all its steps, of

    E log sqrt(|x - x*|^2/d + floor^2),    x* the end of the probability-flow ODE from the same x_T,

the geometric mean of the pictures' errors, which a few pictures that end at another mode do not rule. The network is asked and never
changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safelight.assets import Assets
from safelight.cond import Cond
from safelight.denoise import Denoise, Estimate
from safelight.files import atomic
from safelight.grid import Optimised, Rect
from safelight.model import Model
from safelight.noise import Noise
from safelight.process import Level, Process
from safelight.sample import Sampler, trajectory
from safelight.sample.adams import ABM
from safelight.sample.tuned import Tuned
from safelight.spec import SpecError
from safelight.task import Brief, Resolved, Start

# Where fitting begins, and what the reference is made with.
GRID, SAMPLER = Rect(power=1.3), ABM()
# The ground under the logarithm, in units of the error that fitting begins with.
_FLOOR = 0.02
# A weight moves the step by so much of that error when its parameter moves by 1; the parameters move by RATE an iteration.
_REACH, RATE = 10.0, 0.02
_BETAS, _TINY = (0.9, 0.99), 1e-8
# Trajectories that the scale of the weights is taken from, and the ridge that keeps estimates which hardly differ apart.
_SEEN, _RIDGE = 256, 1e-6
# Pictures whose prompts are read at a time.
_CHUNK = 64
# Pure noise has no s; this one leaves 1e-8 of the picture.
_NOISE = 1e8


class Case(NamedTuple):
    """Trajectories: a process, their starts at its noisiest level on GRID, and who denoises some of them.

    x: (N, C, *space). denoise: the denoiser of the rows named by a LongTensor, differentiable in x and in the level, whose numbers then
    have the shape (1,).
    """

    process: Process
    x: Tensor
    denoise: Callable[[Tensor], Denoise]

    def rows(self, rows: slice) -> Case:
        """Some of the trajectories."""
        index = torch.arange(len(self.x))[rows]
        return Case(self.process, self.x[rows], lambda some: self.denoise(index[some]))


def of_model(
    model: Model, request: Resolved, prompts: Sequence[str], numbers: Sequence[int], assets: Assets | None = None
) -> Case:
    """The trajectories of pictures (request.seed, number) of `prompts`, a prompt each, guided and bent as the request asks.

    Raises SpecError for a task that does not begin with noise alone, and for requests that the model cannot follow.
    """
    assets = assets or Assets(device=model.device)
    if request.task.kind != "text":
        raise SpecError(f"task: a sampler is fitted to runs from pure noise, to task 'text' and not '{request.task.kind}'")
    if request.temperature != 1 or request.churn is not None or request.variation is not None:
        raise SpecError("temperature, churn and variation change the noise of a run: a sampler is fitted without them")
    starts: list[Start] = []
    for k in range(0, len(prompts), _CHUNK):
        mine, index = tuple(prompts[k : k + _CHUNK]), tuple(numbers[k : k + _CHUNK])
        asked = request.model_copy(update={"grid": GRID, "prompt": mine, "count": 1})
        with torch.no_grad():
            start = next(asked.task.stages(Brief(model, asked, mine, index, Noise(request.seed, index), assets)))
        assert isinstance(start, Start)
        starts.append(start)
    x, others = torch.cat([start.x for start in starts]), starts[0].others
    conds: dict[str, Cond | None] = {}
    for name in starts[0].conds:
        told = [cond for start in starts if (cond := start.conds[name]) is not None]
        conds[name] = Cond.cat(told) if told else None

    def denoise(rows: Tensor) -> Denoise:
        words = [prompts[k] for k in rows.tolist()]
        bends = [bend.bind(assets, words) for bend in request.bends]

        def run(x: Tensor, level: Level) -> Estimate:
            # Mixes and bends ask a level for Python numbers; the gradient goes to the networks' own level.
            def branches(x: Tensor, plain: Level, names: tuple[str, ...]) -> Mapping[str, Estimate]:
                found: dict[str, Estimate] = {}
                for who in dict.fromkeys(others.get(name, model.denoiser) for name in names):
                    mine = [name for name in names if others.get(name, model.denoiser) is who]
                    given = [cond.take(rows) for cond in (conds[name] for name in mine) if cond is not None]
                    both = who(torch.cat([x] * len(mine)), level, Cond.cat(given) if given else None)
                    found |= {name: Estimate(x0) for name, x0 in zip(mine, both.x0.chunk(len(mine)), strict=True)}
                return found

            mixed = request.mix(branches)
            for bend in bends:
                mixed = bend(mixed)
            t, alpha, sigma = (v.detach().reshape(()) for v in (level.t, level.alpha, level.sigma))
            return mixed(x, Level(t, alpha, sigma, level.process))

        return run

    return Case(model.process, x, denoise)


def reference(case: Case, steps: int = 200, *, chunk: int = 64, folder: Path | None = None) -> Iterator[Tensor]:
    """The ends of the trajectories by `steps` steps of SAMPLER on GRID, `chunk` rows at a time.

    folder: where every chunk is kept, and read again instead of being made when a run goes on. It is for one case and one `steps`.
    """
    for k, begin in enumerate(range(0, len(case.x), chunk)):
        path = folder / f"{k:04d}.safetensors" if folder else None
        if path and path.exists():
            yield load_file(path)["x"].to(case.x.device)
            continue
        ends = solve(case.rows(slice(begin, begin + chunk)), SAMPLER, GRID(case.process, steps))
        if path:
            with atomic(path) as temporary:
                save_file({"x": ends.cpu()}, temporary)
        yield ends


@torch.no_grad()
def solve(case: Case, sampler: Sampler, times: Tensor) -> Tensor:
    """Where a sampler without noise carries all trajectories over the levels at `times`."""
    x = case.x
    levels = case.process.at(times).split()
    first = levels[0]
    start = case.process.at(GRID(case.process, 1)[0])
    x = x * float(torch.hypot(first.alpha, first.sigma) / torch.hypot(start.alpha, start.sigma))
    for step in trajectory(case.denoise(torch.arange(len(x))), x, levels, sampler):
        x = step.x
    return x


def errors(found: Tensor, truth: Tensor) -> Tensor:
    """(N,) float64, the root mean square error of each picture."""
    return (found - truth).double().flatten(1).square().mean(1).sqrt()


class Form(NamedTuple):
    """How a flat vector of parameters is read: 0 is `abm` on GRID.

    times: (n,) where GRID's steps begin. rows: the weights of `abm` there, i + 1 in row i. shapes: (i, i) for row i >= 1, from parameters
    to changes of w_i0..w_i(i-1), in which all directions move the step alike. floor: of the loss.
    """

    times: Tensor
    rows: tuple[Tensor, ...]
    shapes: tuple[Tensor, ...]
    floor: float

    @property
    def size(self) -> int:
        """The number of parameters: n - 1 places, and n (n - 1)/2 weights."""
        n = len(self.times)
        return n - 1 + n * (n - 1) // 2

    def read(self, parameters: Tensor, places: bool = True) -> tuple[Tensor, list[Tensor]]:
        """(times (n,), rows of weights) of a vector (size,), float64; the first place stays."""
        n = len(self.times)
        times, at = self.times, n - 1
        if places and n > 1:
            # Every place is a part of the one before: they cannot pass each other, nor reach the data.
            part = torch.sigmoid(torch.logit(times[1:] / times[:-1]) + parameters[: n - 1])
            times = torch.cat([times[:1], times[:1] * part.cumprod(0)])
        rows = [self.rows[0]]
        for i in range(1, n):
            change = self.shapes[i - 1] @ parameters[at : at + i]
            rows.append(torch.cat([self.rows[i][:i] + change, (self.rows[i][i] - change.sum())[None]]))
            at += i
        return times, rows


def form(case: Case, truth: Tensor, n: int) -> Form:
    """The parameters of n steps, scaled by what the denoiser says along the first trajectories."""
    some = case.rows(slice(0, _SEEN))
    times = GRID(case.process, n)[:-1]
    rows = abm(case.process, times)
    with torch.no_grad():
        found, estimates = carry(some, torch.arange(len(some.x)), times, rows)
    scale = float(errors(found, truth[: len(found)]).log().mean().exp())
    shapes = []
    for i in range(1, n):
        apart = torch.stack([(estimates[j] - estimates[i]).double().flatten() for j in range(i)])
        gram = apart @ apart.T / apart.shape[1]
        gram += _RIDGE * gram.diagonal().mean() * torch.eye(i, dtype=gram.dtype, device=gram.device)
        shapes.append(torch.linalg.inv(torch.linalg.cholesky(gram)).T.cpu() * (_REACH * scale))
    return Form(times, rows, tuple(shapes), _FLOOR * scale)


def abm(process: Process, times: Tensor) -> tuple[Tensor, ...]:
    """The weights of `abm` over n steps that begin at `times`, float64, i + 1 in row i: its steps are linear in x_T and the estimates,
    so a run on unit vectors shows them."""
    n = len(times)
    levels = process.at(torch.cat([times, torch.zeros(1, dtype=times.dtype)])).split()
    units = iter(torch.eye(n + 1, dtype=torch.float64)[:, None])
    start = next(units)
    run = trajectory(lambda x, level: Estimate(next(units)), start, levels, SAMPLER)
    first = levels[0].floats
    rows = []
    for step in run:
        alpha, sigma, _ = step.level.floats
        total = alpha + sigma
        left = 1 - (sigma / total) * (first[0] + first[1]) / first[1]
        row = step.x[0, 1 : step.i + 2] / (total * left)
        rows.append(row / row.sum())
    return tuple(rows)


def carry(case: Case, rows: Tensor, times: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What `tuned` makes of the rows with these places and weights, and the estimates on the way: differentiable in both."""
    x, denoise = case.x[rows], case.denoise(rows)
    start = x
    levels = [case.process.at(t) for t in times.split(1)]
    total = [level.alpha + level.sigma for level in levels]
    estimates: list[Tensor] = []
    for i, level in enumerate(levels):
        estimates.append(denoise(x, level).x0)
        last = i + 1 == len(levels)
        scale = torch.ones(1, dtype=torch.float64) if last else total[i + 1]
        u = torch.zeros(1, dtype=torch.float64) if last else levels[i + 1].sigma / scale
        kept = u * total[0] / levels[0].sigma
        x = _as(scale * kept / total[0], start) * start
        for weight, estimate in zip(_as(scale * (1 - kept) * weights[i], start), estimates, strict=True):
            x = x + weight * estimate
    return x, estimates


def _as(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.device, like.dtype)


class Fitting(NamedTuple):
    """After iteration i = 0..n-1 of n: the loss of its batch, as an error (the geometric mean), and all that going on needs.

    state: the parameters and their moments, (3, size) float64.
    """

    i: int
    n: int
    loss: float
    state: Tensor
    form: Form
    places: bool

    def sampler(self, process: Process, model: str = "") -> Tuned:
        """What was found so far. model: the fingerprint it shall carry."""
        times, rows = self.form.read(self.state[0], self.places)
        weights = []
        for row in rows:
            head = [round(float(w), 10) for w in row[:-1]]
            weights.append((*head, round(1 - math.fsum(head), 10)))
        return Tuned(s=ratios(process, times), weights=tuple(weights), model=model)

    def grid(self, process: Process) -> Optimised:
        """The grid that the sampler stands on."""
        return Optimised(s=ratios(process, self.form.read(self.state[0], self.places)[0]))


def ratios(process: Process, times: Tensor) -> tuple[float, ...]:
    """s = sigma/alpha at times; 1e8 where nothing of the picture is left."""
    return tuple(min(level.floats[2], _NOISE) for level in process.at(times.detach()).split())


def fit(
    case: Case,
    truth: Tensor,
    n: int,
    *,
    iterations: int = 200,
    batch: int = 64,
    micro: int | None = None,
    seed: int = 0,
    places: bool = True,
    shape: Form | None = None,
    state: Tensor | None = None,
    first: int = 0,
) -> Iterator[Fitting]:
    """Fit n steps to trajectories that end at `truth`; yields after every iteration (Adam under half a cosine, batches with replacement).

    micro: trajectories whose steps are held in memory at a time (the batch). places: also where the steps fall, not the weights alone.
    shape: `form(case, truth, n)`, if it is there. state, first: go on with the state after `first` iterations: the same to the last bit.
    Raises SpecError when an iteration comes out non-finite.
    """
    shape = shape or form(case, truth, n)
    draws = torch.randint(len(case.x), (iterations, batch), generator=torch.Generator().manual_seed(seed))
    memory = torch.zeros(3, shape.size, dtype=torch.float64) if state is None else state.clone()
    for i in range(first, iterations):
        parameters = memory[0].clone().requires_grad_(True)
        slope, total = torch.zeros(shape.size, dtype=torch.float64), 0.0
        for rows in draws[i].split(micro or batch):
            times, weights = shape.read(parameters, places)
            found, _ = carry(case, rows, times, weights)
            square = (found - truth[rows]).double().flatten(1).square().mean(1)
            loss = (square + shape.floor**2).log().sum() / (2 * batch)
            if shape.size:  # into the parameters alone: the network's weights gather nothing
                slope += torch.autograd.grad(loss, parameters)[0]
            total += float(loss.detach())
        if not (math.isfinite(total) and bool(slope.isfinite().all())):
            raise SpecError(f"fitting came out non-finite in iteration {i + 1}: the model or its precision is at fault")
        rate = RATE * (1 + math.cos(math.pi * i / iterations)) / 2
        mean = _BETAS[0] * memory[1] + (1 - _BETAS[0]) * slope
        power = _BETAS[1] * memory[2] + (1 - _BETAS[1]) * slope**2
        step = mean / (1 - _BETAS[0] ** (i + 1)) / ((power / (1 - _BETAS[1] ** (i + 1))).sqrt() + _TINY)
        memory = torch.stack([memory[0] - rate * step, mean, power])
        yield Fitting(i, iterations, math.exp(total), memory, shape, places)
