"""How likely are pictures under a model? By the variational bound, term by term, and by the probability-flow ODE; in bits a value.

    for event in likelihood(model, pictures, Plan(count=1000)): ...      # Measured after every batch; the last is a Report

The parts work on any denoiser and any data: `bound` and `density`, in nats.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from safelight.bound import NAT, Chain, Variance, prior
from safelight.codec.pixels import Pixels
from safelight.data import Pictures, to_unit
from safelight.denoise import Denoise, Estimate
from safelight.evaluate.adherence import Shelf
from safelight.grid import Exponential, Grid, Uniform
from safelight.model import Model
from safelight.noise import Noise
from safelight.process import Level, Process
from safelight.process.base import logsnr_of
from safelight.sample.ode import between, dormand_prince
from safelight.spec import Spec, SpecError, describe

FORMAT = 1
BYTES: Final = 256
# The volume of a byte on [-1, 1], where neighbours are 2/255 apart.
CELL: Final = 2 / (BYTES - 1)
# How many standard deviations of noise the half of a cell is.
_REACH = 3.0

Trace = Literal["rademacher", "gaussian", "exact"]
Dequantise = Literal["uniform", "normal"]


class Terms(NamedTuple):
    """The bound on B pictures, in nats a value, means over each picture. prior: (B,) L_T. steps: (B, J) L_k, at: (B, J) the k they are of,
    share: (B, J) how many steps each stands for. last: (B,) L_0."""

    prior: Tensor
    steps: Tensor
    at: Tensor
    share: Tensor
    last: Tensor

    @property
    def total(self) -> Tensor:
        """(B,) the bound: an unbiased estimate where not all steps were looked at."""
        return self.prior + (self.steps * self.share).sum(1) + self.last


def bound(
    denoise: Denoise,
    x0: Tensor,
    chain: Chain,
    noise: Noise,
    variance: Variance = "small",
    *,
    terms: int | None = None,
    buckets: int = BYTES,
) -> Terms:
    """The terms of the bound on -log p(x_0), each with one draw of x_t.

    x0: (B, C, *space). noise: of these pictures. terms: how many of the n - 1 steps between prior and decoder are looked at: spread evenly
    from a random first one, another for every picture, half over the steps and half over log-SNR, where the bits are; each is
    divided by its probability. None looks at all. With terms, denoise is asked for a level a picture. buckets: of the decoder, 0 for a
    Gaussian one and data that are not quantised.
    """
    inner = chain.n - 1

    def look(k: Tensor, purpose: str) -> Tensor:
        level = chain.level(k)
        eps = noise.normal(purpose, None if k.ndim else level, None, x0)
        shaped = level.like(x0)
        estimate = denoise(shaped.alpha * x0 + shaped.sigma * eps, level)
        if not k.ndim and int(k) == inner:
            found = chain.last(x0, estimate, variance, buckets=buckets)
        else:
            found = chain.term(k, x0, estimate, variance)
        return found.flatten(1).mean(1).double().cpu()

    if terms is None or terms >= inner:
        at = torch.arange(inner).expand(len(x0), inner)
        found, share = [look(torch.tensor(k), "bound") for k in range(inner)], torch.ones(len(x0), inner, dtype=torch.float64)
    else:
        p = _shares(chain)
        first = noise.uniform("bound first", None, None, torch.zeros(len(x0), 1, dtype=torch.float64))
        at = torch.searchsorted(p.cumsum(0), (torch.arange(terms) + first) / terms).clamp(max=inner - 1)
        found, share = [look(at[:, j], f"bound {j}") for j in range(terms)], 1 / (terms * p[at])
    steps = torch.stack(found, 1) if found else torch.zeros(len(x0), 0, dtype=torch.float64)
    last = look(torch.tensor(inner), "bound")
    return Terms(chain.prior(x0).flatten(1).mean(1).double().cpu(), steps, at, share, last)


def _shares(chain: Chain) -> Tensor:
    """(n - 1,) how likely a step between prior and decoder is looked at."""
    inner = chain.n - 1
    falls = chain.levels.logsnr[1:-1] - chain.levels.logsnr[:-2]
    falls = torch.where(torch.isfinite(falls), falls, torch.zeros_like(falls))
    even = torch.full_like(falls, 1 / inner)
    return (even + falls / falls.sum()) / 2 if float(falls.sum()) > 0 else even


class Density(NamedTuple):
    """log: (B, M) log p(x) in nats, one for each probe. calls: of the denoiser. refused: steps of the solver."""

    log: Tensor
    calls: int
    refused: int


def density(
    denoise: Denoise,
    x: Tensor,
    process: Process,
    noise: Noise,
    *,
    trace: Trace = "rademacher",
    probes: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    terminal: Callable[[Tensor, Level], Tensor] | None = None,
    start: float | None = None,
) -> Density:
    """log p(x) by the probability-flow ODE (Song et al. 2021, eq. 39), from the process's least finite level to its greatest.

    With y = x/(alpha + sigma), dy/du = f and u = sigma/(alpha + sigma) as in `sample.ode`, log p(y) falls by the divergence
    of f along the way: log p_0 = log p_1 + integral of tr(df/dy) du. What is given is the density of x_t/alpha at the least level.

    x: (B, C, *space); compute in float64 for the last digits. trace: `exact`, by as many backward passes as x has values, or an
    estimate v . (df/dy) v (Hutchinson 1990) with `probes` random v a picture, signs or normal draws, the same ones all along the way.
    rtol, atol: of the solver, on x and on log p a value. terminal: (x, level) -> (B,) log density at the greatest level; default the
    N(0, alpha^2 + sigma^2) that sampling begins from. start: the s = sigma/alpha of the level to begin at instead of the least.
    """
    d = x[0].numel()
    first, last = _levels(process, start)
    places, level_at = between(first, last)
    v = [] if trace == "exact" else [_probe(trace, noise, j, x) for j in range(probes)]
    columns = max(1, len(v))

    def slope(state: Tensor, u: float) -> Tensor:
        level = level_at(u)
        alpha, sigma, _ = level.floats
        total = alpha + sigma
        y = state[:, :d].reshape(x.shape)
        with torch.enable_grad():
            at = (y * total).detach().requires_grad_(True)
            x0 = denoise(at, level).x0
            # 1 - total dx0/dx, which is small near the data, is contracted as a whole: a probe's v . v would drown it.
            if v:
                pulled = [torch.autograd.grad(x0, at, w, retain_graph=w is not v[-1])[0] for w in v]
                traces = [(w * (w - total * g)).flatten(1).sum(1) for w, g in zip(v, pulled, strict=True)]
            else:
                traces = [_exact(x0, at, total)]
        moved = (y - x0.detach()).mul(total / sigma).flatten(1)
        return torch.cat([moved, torch.stack(traces, 1) * (total / sigma / d)], 1)

    def norm(error: Tensor) -> Tensor:
        squares = error.square()
        return torch.maximum(squares[:, :d].mean(1).max(), squares[:, d:].mean(1).max()).sqrt()

    alpha, sigma, _ = first.floats
    state = torch.cat([x.flatten(1) * (alpha / (alpha + sigma)), x.new_zeros(len(x), columns)], 1)
    state, calls, refused = dormand_prince(slope, state, *places, rtol=rtol, atol=atol, norm=norm)
    a, s, _ = last.floats
    end = (state[:, :d] * (a + s)).reshape(x.shape)
    if terminal is None:
        variance = a * a + s * s
        log = -(end.double().flatten(1).square().sum(1) / variance + d * math.log(2 * math.pi * variance)) / 2
    else:
        log = terminal(end, last)
    log = log + d * (math.log(a + s) - math.log(alpha + sigma) + math.log(alpha))
    return Density(log[:, None].double() + d * state[:, d:].double(), calls, refused)


def _levels(process: Process, start: float | None = None) -> tuple[Level, Level]:
    """The levels of the least (or `start`) and the greatest finite s."""
    least, most = process.ends
    first, last = (process.at(process.time(torch.tensor(logsnr_of(s), dtype=torch.float64))) for s in (start or least, most))
    return first, last


def _probe(trace: Trace, noise: Noise, j: int, x: Tensor) -> Tensor:
    if trace == "gaussian":
        return noise.normal(f"probe {j}", None, None, x)
    return (noise.uniform(f"probe {j}", None, None, x) - 0.5).sign()


def _exact(x0: Tensor, x: Tensor, total: float) -> Tensor:
    """(B,) the trace of 1 - total dx0/dx."""
    flat, d = x0.flatten(1), x[0].numel()
    rows = [torch.autograd.grad(flat[:, i].sum(), x, retain_graph=i < d - 1)[0].flatten(1)[:, i] for i in range(d)]
    return d - total * torch.stack(rows, 1).sum(1)


class Loose(NamedTuple):
    """Bytes made continuous. x: like the bytes; entropy: nats a value of how. log P(byte) >= E[log p(x)] + entropy (Theis et al. 2016,
    section 3.1). start: the s at which p is to be taken, None for the process's least."""

    x: Tensor
    entropy: float
    start: float | None


def dequantised(x0: Tensor, noise: Noise, kind: Dequantise, process: Process) -> Loose:
    """Bytes on [-1, 1] moved within their cells of 2/255.

    uniform: evenly. normal: by the noise of the process, cut off at the cell's borders, at a level whose s is a third of the way there
    or the process's least if that is more (Zheng et al. 2023, "Improved techniques for maximum likelihood estimation for diffusion
    ODEs", section 4.1). A model that trained on bytes has seen such x, and none that are spread evenly over a cell.
    """
    u = noise.uniform("dequantise", None, None, x0.double())
    if kind == "uniform":
        return Loose(x0 + ((u - 0.5) * CELL).to(x0), math.log(CELL), None)
    s = max(process.ends[0], CELL / 2 / _REACH)
    reach = torch.tensor(CELL / 2 / s, dtype=torch.float64)
    inside = 1 - 2 * torch.special.ndtr(-reach)
    eps = torch.special.ndtri(torch.special.ndtr(-reach) + u * inside)
    edge = torch.exp(-reach.square() / 2) / math.sqrt(2 * math.pi)
    entropy = math.log(s * math.sqrt(2 * math.pi * math.e)) + inside.log() - reach * edge / inside
    return Loose(x0 + (eps * s).to(x0), float(entropy), s)


class Plan(Spec):
    """How much is measured. count: pictures for the bound, 0 for none; ode: pictures for the ODE, the first of the same, 0 for none.

    steps, grid: of the chain that the bound is for; None takes all entries of a table, and of other processes 1,000 steps even in log-SNR.
    terms: how many of its steps are looked at for a picture; None for all. variance: of p(x' | x); None takes the learned one where there
    is one, else the small one. clip: whether the bound is of the model with its estimates held within [-1, 1], where all bytes lie
    (Nichol and Dhariwal 2021, in their code): where a table is nearly noise, an error of eps is a large one of the estimate.
    dequantise: see `dequantised`; trace, probes, rtol, atol: see `density`. prompts: whether a picture's own caption is told to the
    model, or none. seed: of the choice of pictures, and of all draws. batch: pictures at a time.
    """

    count: int = Field(1000, ge=0)
    ode: int = Field(0, ge=0)
    steps: int | None = Field(None, ge=2)
    grid: Grid | None = None
    terms: int | None = Field(50, ge=1)
    variance: Variance | None = None
    clip: bool = True
    dequantise: Dequantise = "uniform"
    trace: Trace = "rademacher"
    probes: int = Field(1, ge=1)
    rtol: float = Field(1e-4, gt=0)
    atol: float = Field(1e-4, gt=0)
    prompts: Literal["own", "none"] = "own"
    seed: int = Field(0, ge=0)
    batch: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.count and not self.ode:
            raise ValueError("nothing is measured: count and ode are both 0")
        return self


class Measured(NamedTuple):
    """A batch is there: how many pictures so far, of how many, and how many of them were kept from an earlier run."""

    done: int
    total: int
    kept: int


class Report(NamedTuple):
    """numbers: the result, as JSON takes it."""

    numbers: dict[str, Any]


def likelihood(model: Model, pictures: Pictures, plan: Plan, keep: Path | None = None) -> Iterator[Measured | Report]:
    """Measure a model of pixels on pictures in its size; yields Measured after every batch, and at last the Report.

    keep: a folder in which every batch's numbers lie; a run that was stopped goes on from there.
    Raises SpecError for a model whose codec is not the pixels themselves, and where a variance is asked for that it does not learn.
    """
    if not isinstance(model.codec, Pixels):
        raise SpecError(
            f"likelihood: bits of pictures need a model of pixels; what codec '{model.spec.codec.kind}' loses has no bound"
        )
    began = time.perf_counter()
    total = min(max(plan.count, plan.ode), pictures.n)
    chosen = torch.randperm(pictures.n, generator=torch.Generator().manual_seed(plan.seed))[:total]
    learned = bool(getattr(model.denoiser.network.spec, "learned_variance", False))
    variance: Variance = plan.variance or ("learned" if learned else "small")
    if variance == "learned" and not learned:
        raise SpecError("likelihood: the network predicts no variance; take variance small or large")
    model = model.eval().requires_grad_(False)
    entries = model.process.entries
    grid = plan.grid or (Exponential() if entries is None else Uniform())
    chain = Chain(model.process.at(grid(model.process, plan.steps or entries or 1000)))
    inner = chain.n - 1
    terms = None if plan.terms is None or plan.terms >= inner else plan.terms
    shelf, about = Shelf(keep), _about(model, plan)
    work = [("bound", first) for first in range(0, min(plan.count, total), plan.batch)]
    work += [("ode", first) for first in range(0, min(plan.ode, total), plan.batch)]
    whole = min(plan.count, total) + min(plan.ode, total)
    done = kept = 0
    found: dict[str, list[Tensor]] = {"bound": [], "ode": []}
    for what, first in work:
        rows = chosen[first : min(first + plan.batch, plan.count if what == "bound" else plan.ode, total)]
        names = [pictures.ids[i] for i in rows.tolist()]
        seal = hashlib.blake2b(json.dumps([about[what], variance, names]).encode(), digest_size=16).hexdigest()
        name = f"{what}-{first:06d}"
        table = shelf.fetch(name, seal)
        if table is None:
            x0, denoise = _asked(model, pictures, rows, plan.prompts, clip=plan.clip and what == "bound")
            noise = Noise(plan.seed, rows.tolist())
            with torch.no_grad():
                if what == "bound":
                    t = bound(denoise, x0, chain, noise, variance, terms=terms)
                    table = torch.cat([t.prior[:, None], t.last[:, None], t.at, t.steps, t.share], 1)
                else:
                    how = {"trace": plan.trace, "probes": plan.probes, "rtol": plan.rtol, "atol": plan.atol}
                    loose = dequantised(x0, noise, plan.dequantise, model.process)
                    d = density(denoise, loose.x, model.process, noise, start=loose.start, **how)  # type: ignore[arg-type]
                    bits = -(d.log / x0[0].numel() + loose.entropy) * NAT
                    calls = torch.full((len(rows), 1), d.calls, dtype=torch.float64)
                    mismatch = _mismatch(model.process, x0)[:, None]
                    table = torch.cat([calls, mismatch.cpu(), bits.cpu()], 1)
            shelf.put(name, seal, table)
        else:
            kept += len(rows)
        found[what].append(table)
        done += len(rows)
        yield Measured(done, whole, kept)
    numbers: dict[str, Any] = {
        "format": FORMAT, "what": "likelihood", "unit": "bits a value: 1 of the C x H x W bytes of a picture",
        "model": {"fingerprint": model.fingerprint, "weights": model.weights, "process": describe(model.spec.process, family=False)},
        "plan": describe(plan), "pictures": {"of": pictures.n, "shape": list(pictures.shape), "fingerprint": pictures.fingerprint},
        "variance": variance, "steps": chain.n, "grid": describe(grid, family=False),
        "prompts": plan.prompts if model.text is not None else "none",
    }  # fmt: skip
    if found["bound"]:
        numbers["bound"] = _bounded(torch.cat(found["bound"]), chain)
    if found["ode"]:
        numbers["ode"] = _flowed(torch.cat(found["ode"]), plan)
    numbers["seconds"] = round(time.perf_counter() - began, 1)
    yield Report(numbers)


def _about(model: Model, plan: Plan) -> dict[str, Any]:
    """What a batch's numbers depend on, by what was measured."""
    fields = describe(plan)
    whose = {"model": model.fingerprint, "weights": model.weights} | {n: fields[n] for n in ("prompts", "seed")}
    return {
        "bound": whose | {n: fields[n] for n in ("steps", "grid", "terms", "clip")},
        "ode": whose | {n: fields[n] for n in ("dequantise", "trace", "probes", "rtol", "atol", "batch")},
    }


def _asked(model: Model, pictures: Pictures, rows: Tensor, prompts: str, *, clip: bool) -> tuple[Tensor, Denoise]:
    """(x0, the denoiser of these pictures), conditioned on their captions where they are told, its estimates in [-1, 1] with clip."""
    x0 = to_unit(pictures.batch(rows)).to(model.device)
    texts = [pictures.captions[i] if prompts == "own" else "" for i in pictures.actual(rows).tolist()]
    with torch.no_grad():
        cond = model.text(model.text.tokenize(texts).to(model.device)) if model.text is not None else None
        bound_to = model.denoiser.bind(cond)

    def denoise(x: Tensor, level: Level) -> Estimate:
        estimate: Estimate = bound_to(x, level) if level.t.ndim == 0 else model.denoiser(x, level, cond)
        return estimate._replace(x0=estimate.x0.clamp(-1, 1)) if clip else estimate

    return x0, denoise


def _mismatch(process: Process, x0: Tensor) -> Tensor:
    """(B,) bits a value of KL(q(x | x0) || N(0, alpha^2 + sigma^2)) at the greatest level: in the mean at least what the ODE's number gains
    or loses by taking the one for the true density there."""
    return prior(x0, _levels(process)[1]).flatten(1).mean(1).double() * NAT


def _mean(values: Tensor) -> dict[str, float]:
    """The mean of (N,) values and its standard error, nan of a single one."""
    return {
        "mean": float(values.mean()),
        "error": float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan,
    }


def _bounded(table: Tensor, chain: Chain) -> dict[str, Any]:
    """The JSON of the bound; table: a row a picture, (L_T, L_0, the k, their L_k, their shares).

    by_step: of the steps k that were looked at, the levels they begin and end at, the mean of L_k and its part of the bound.
    """
    inner = chain.n - 1
    prior, last = table[:, 0] * NAT, table[:, 1] * NAT
    at, steps, share = table[:, 2:].chunk(3, 1)
    parts = steps * share * NAT
    zero, at = torch.zeros(inner, dtype=torch.float64), at.long()
    part = zero.scatter_add(0, at.flatten(), parts.flatten()) / len(table)
    sums = zero.scatter_add(0, at.flatten(), steps.flatten() * NAT)
    seen = zero.scatter_add(0, at.flatten(), torch.ones(at.numel(), dtype=torch.float64))
    there = seen > 0
    t, logsnr = chain.levels.t, chain.levels.logsnr
    each = prior + parts.sum(1) + last
    by_step = {
        "t": t[:-2], "t_to": t[1:-1], "logsnr": logsnr[:-2], "logsnr_to": logsnr[1:-1], "bits": sums / seen, "part": part, "seen": seen,
    }  # fmt: skip
    return {
        "pictures": len(table), "terms": at.shape[1], "bits": _mean(each), "prior": _mean(prior), "middle": _mean(parts.sum(1)),
        "last": _mean(last), "each": each.tolist(),
        "by_step": {name: [v if math.isfinite(v) else None for v in found[there].tolist()] for name, found in by_step.items()},
    }  # fmt: skip


def _flowed(table: Tensor, plan: Plan) -> dict[str, Any]:
    """The JSON of the ODE's numbers; table: a row a picture, (calls, mismatch, bits by each probe)."""
    calls, mismatch, bits = table[:, 0], table[:, 1], table[:, 2:]
    each, probes = bits.mean(1), bits.shape[1]
    noise = float((bits.var(1) / probes).sum().sqrt() / len(table)) if probes > 1 else None
    return {
        "pictures": len(table), "bits": _mean(each), "error_of_probes": noise, "trace": plan.trace, "dequantise": plan.dequantise,
        "probes": 0 if plan.trace == "exact" else probes, "calls": float(calls.mean()), "prior_mismatch": float(mismatch.mean()),
        "each": each.tolist(),
    }  # fmt: skip


def table(numbers: Mapping[str, Any]) -> str:
    """The result as Markdown, in bits a value."""
    lines = ["| bits a value | mean | standard error | pictures |", "|---|---:|---:|---:|"]

    def row(name: str, found: Mapping[str, float], pictures: int) -> None:
        lines.append(f"| {name} | {found['mean']:.4f} | {found['error']:.4f} | {pictures:,} |")

    text = []
    if "bound" in numbers:
        found = numbers["bound"]
        row("**bound**", found["bits"], found["pictures"])
        for name, part in (("L_T, the prior", "prior"), ("L_k, the steps", "middle"), ("L_0, the decoder", "last")):
            row(f"  {name}", found[part], found["pictures"])
        text.append(
            f"Bound: {numbers['steps']:,} steps, {found['terms']:,} of them looked at for a picture, variance {numbers['variance']}"
            f"{', estimates held in [-1, 1]' if numbers['plan']['clip'] else ''}."
        )
    if "ode" in numbers:
        found = numbers["ode"]
        row("**ODE**", found["bits"], found["pictures"])
        how = "exact trace" if found["trace"] == "exact" else f"{found['probes']} {found['trace']} probes a picture"
        noise = "" if found["error_of_probes"] is None else f", which add {found['error_of_probes']:.4f} of the error"
        text.append(
            f"ODE: {found['calls']:.0f} calls, {how}{noise}; {found['dequantise']} dequantisation; the prior it ends in differs from "
            f"the noised pictures by at most {found['prior_mismatch']:.1e}."
        )
    return "\n\n".join(["\n".join(lines), *text])
