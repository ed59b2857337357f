"""`ncsn`: a noise-conditional score network of Fashion-MNIST, sampled by annealed Langevin dynamics (Song and Ermon 2019, 2020).

The noise levels are those of "Improved techniques": the largest is about the largest distance between two pictures, so that it joins
them all; neighbours differ by 8 %, so that the shells of noise of 784 pixels still overlap.
"""

from __future__ import annotations

from safelight.data.fashion import FashionMNISTSource
from safelight.grid import Exponential, Grid
from safelight.model import Defaults, ModelSpec
from safelight.nn.embed import FourierSpec
from safelight.nn.unet import UNetSpec
from safelight.predict import EDM
from safelight.process import Process
from safelight.process.continuous import VE
from safelight.recipes.fashion_mnist_edm import SIGMA_DATA
from safelight.sample import Sampler
from safelight.sample.langevin import Langevin
from safelight.train import Every, Plan, Train
from safelight.train.ema import Power
from safelight.train.optim import AdamW
from safelight.train.optim import Cosine as Falling
from safelight.train.score import DSM, Geometric
from safelight.train.times import Times

LEVELS = 100


def scored(
    name: str,
    notes: str,
    process: Process,
    times: Times,
    sampler: Sampler,
    grid: Grid,
    steps: int,
    reproduced: dict[str, float | str] | None = None,
) -> Train:
    """An unconditional score model of Fashion-MNIST: what these recipes share.

    The network is preconditioned as Karras et al. 2022 do. One that answers with the noise, as the papers' do, has to give back its own
    input at high noise, to a digit that so small and short a training does not reach.
    """
    return Train(
        name=name,
        notes=notes,
        reproduced=reproduced or {},
        model=ModelSpec(
            network=UNetSpec(patch=2, widths=(32, 64), depth=1, skips=2, embedding=FourierSpec(width=64, scale=1.0)),
            process=process,
            parameterization=EDM(sigma_data=SIGMA_DATA),
            channels=1,
            size=(28, 28),
            defaults=Defaults(steps=steps, sampler=sampler, grid=grid),
        ),
        data=FashionMNISTSource(),
        held_out_data=FashionMNISTSource(split="test"),
        objective=DSM(times=times),
        plan=Plan(
            batch=64,
            images=120_000,
            optimizer=AdamW(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01),
            schedule=Falling(warmup=100),
            averages={"ema": Power(sigma_rel=0.1)},
            clip=1.0,
            channels_last=True,
            every=Every(log=50, held_out=1000, sample=0, save=250),
        ),
    )


def recipe() -> Train:
    """100 levels from 40 to 0.02, five walks at each, and a last denoising: 501 calls."""
    return scored(
        "ncsn",
        "Noise-conditional score network, annealed Langevin dynamics.",
        process=VE(sigma_min=0.02, sigma_max=40.0),
        times=Geometric(levels=LEVELS),
        sampler=Langevin(times=5, size=0.2),
        grid=Exponential(),
        steps=LEVELS,
        reproduced={
            "val/loss": 0.1413,
            "FD-fashion-mnist-classifier of 500, annealed Langevin": 27.2,
            "FD-fashion-mnist-classifier of 500, ODE in 30 calls": 37.4,
            "where": "one CPU thread",
        },
    )
