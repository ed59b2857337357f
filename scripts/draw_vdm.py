"""Draws docs/images/vdm.png, how a learned schedule takes the variance out of the bound of a Gaussian, where all is known; and, given
the folder of a run of `vdm`, docs/images/vdm-fashion-mnist.png: the same of that model, measured on the test pictures, with its numbers.

    python -m scripts.draw_vdm [RUN]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safelight import data as store
from safelight.data.fashion import FashionMNISTSource
from safelight.data.transform import to_unit
from safelight.draw.chart import COLOURS, figure
from safelight.draw.grid import sheet
from safelight.generate import Finished, generate
from safelight.model import Model, load
from safelight.process.learned import Learned, LearnedProcess
from safelight.task import Request
from safelight.train.elbo import ELBO, Terms, learned
from safelight.train.objective import Batch, Draws
from scripts.thin import thin
from tests.train.test_elbo import BITS, drawn, error, gaussian, second

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
# Rates and lengths of the Gaussian's learning, which has no network to wait for.
STEPS, RATE, BATCH = 400, 1e-2, 128
# Test pictures in a forward pass, and groups for standard errors.
ROWS, GROUPS = 250, 50
NAMES = ("straight", "learned")
COLOUR = dict(zip(NAMES, (COLOURS[1], COLOURS[0]), strict=True))


def straight(process: LearnedProcess) -> LearnedProcess:
    """The process that runs in a straight line between the same ends."""
    now = process.settled()
    return Learned(first=now.first, last=now.last, units=now.units).build().to(process.shape.dtype)


def curves(axis: Any, processes: dict[str, LearnedProcess]) -> None:
    """log-SNR over t."""
    t = torch.linspace(1e-6, 1, 401, dtype=torch.float64)
    for name, process in processes.items():
        axis.plot(t, process.logsnr(t), color=COLOUR[name], label=name, linestyle="-" if name == "learned" else "--")
    axis.set(title="log-SNR", xlabel="t", xlim=(0, 1))
    axis.legend()


def clouds(axis: Any, t: Tensor, found: dict[str, Tensor], shown: int = 600) -> None:
    """The diffusion term of single pictures over t; the standard deviation of all in the legend."""
    some = torch.linspace(0, len(t) - 1, shown).long()
    for name, bits in found.items():
        axis.plot(t[some], bits[some], ".", markersize=2.5, color=COLOUR[name], label=f"{name}, sd {float(bits.std()):.2f}")
    top = 1.35 * float(torch.stack([bits[some] for bits in found.values()]).max())
    axis.set(title="diffusion term, bits a dimension", xlabel="t", xlim=(0, 1), ylim=(0, top))
    axis.legend(markerscale=3)


def known() -> None:
    """The Gaussian."""
    model, objective = gaussian(Learned().build().double()), ELBO(levels=0)
    process, logsnr = learned(model), torch.linspace(-5, 13.3, 20_001, dtype=torch.float64)
    least = float(torch.trapezoid(error(logsnr), logsnr) / 2 * BITS) ** 2 * (1 + 2 / 16)
    shape = objective.prepare(model)[1]
    optimizer = torch.optim.Adam([p for _, p in shape.parameters], lr=RATE)
    above = []
    for step in range(STEPS):
        above.append(float(second(process, n=4000).detach()) / least)
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        shape.loss(model, *drawn(BATCH, step, side=4)).mean().backward()
        optimizer.step()
    batch, draws = drawn(20_000, seed=1, side=4)
    processes = {"straight": straight(process), "learned": process}
    with torch.no_grad():
        found = {name: objective.terms(gaussian(p), batch, draws).diffusion for name, p in processes.items()}
    print(f"E[L^2] over the least there is: {above[0]:.3f} before, {float(second(process).detach()) / least:.3f} after")
    print("mean, variance: " + "; ".join(f"{k} {float(v.mean()):.3f}, {float(v.var()):.3f}" for k, v in found.items()))
    with figure(IMAGES / "vdm.png", 10.4, 3.2) as (fig, _):
        left, middle, right = fig.subplots(1, 3)
        curves(left, processes)
        clouds(middle, draws.t, found)
        right.plot(np.arange(STEPS), above, color=COLOURS[0])
        right.axhline(1, color=COLOURS[6], linewidth=0.9, linestyle=":")
        right.set(title="second moment over the least possible", xlabel="steps", xlim=(0, STEPS), ylim=(0.98, None))
    thin(IMAGES / "vdm.png")


def measured(model: Model, pictures: Tensor, seed: int = 0) -> tuple[Tensor, Terms]:
    """The times and terms of every picture (uint8) at one time each, all times even and dealt out by chance."""
    host, n = torch.Generator().manual_seed(seed), len(pictures)
    t = ((torch.arange(n, dtype=torch.float64) + 0.5) / n)[torch.randperm(n, generator=host)]
    found = []
    with torch.inference_mode():
        for first in range(0, n, ROWS):
            rows = slice(first, first + ROWS)
            x0 = to_unit(pictures[rows])
            draws = Draws(t[rows], torch.randn(x0.shape, generator=host), torch.zeros(len(x0), dtype=torch.bool))
            found.append(ELBO().terms(model, Batch(x0), draws))
    return t, Terms(*(torch.cat(parts).double() for parts in zip(*found, strict=True)))


def trained(run: Path) -> None:
    """The model of a run."""
    model = load(run)
    test = store.load(FashionMNISTSource(split="test"), channels=1, size=model.spec.size)
    pictures = test.batch(torch.arange(test.n))
    process = learned(model)
    processes = {"straight": straight(process), "learned": process}
    found: dict[str, Tensor] = {}
    now = process.settled()
    print(f"log-SNR from {now.first:.3f} to {now.last:.3f}, begun at {process.spec.first:g} to {process.spec.last:g}")
    for name, schedule in processes.items():
        model.denoiser.process = schedule  # type: ignore[assignment]
        t, terms = measured(model, pictures)
        found[name] = terms.diffusion
        mean = terms.bound.mean()
        groups = terms.bound[t.argsort()].view(-1, GROUPS).mean(0)
        print(
            f"{name}: {float(mean):.4f} +- {float(groups.std() / GROUPS**0.5):.4f} bits/dim (prior {float(terms.prior.mean()):.4f}, "
            f"reconstruction {float(terms.reconstruction.mean()):.4f}, diffusion {float(terms.diffusion.mean()):.4f}); "
            f"variance of the bound {float(terms.bound.var()):.4f}"
        )
    model.denoiser.process = process  # type: ignore[assignment]
    image = IMAGES / "vdm-fashion-mnist.png"
    made = [e.pictures for e in generate(model, Request(seed=1, count=48)) if isinstance(e, Finished)]
    with figure(image, 10.4, 3.2) as (fig, _):
        left, middle, right = fig.subplots(1, 3)
        curves(left, processes)
        clouds(middle, t, found)
        right.imshow(np.asarray(sheet(torch.cat(made), columns=8, scale=1, gap=1)), cmap="gray", vmin=0, vmax=255)
        right.set(title="drawn by the learned one", xticks=[], yticks=[])
        right.grid(False)
    thin(image)


def main() -> None:
    """Write the figures."""
    if len(sys.argv) > 1:
        trained(Path(sys.argv[1]))
    else:
        known()


if __name__ == "__main__":
    main()
