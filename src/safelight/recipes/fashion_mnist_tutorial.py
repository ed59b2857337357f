"""`fashion-mnist-tutorial`: the field's first example, to the letter ("The annotated diffusion model", Rogge and Rasul 2022).

Unconditional; U-Net of dim 28, multipliers 1, 2, 4, ConvNeXt blocks; random flips; Adam at 1e-3, batch 128, 5 epochs; smooth L1 on eps
at random integer timesteps; T = 200, linear betas 1e-4..0.02; sampled by all 200 steps of DDPM with the posterior's variance.

What it teaches without saying so: with T = 200 these betas end at a terminal SNR of 0.15, not at 0. The last x_t still keeps 0.36 of the
picture, the sampler starts from pure noise, which the network never saw, and so pictures come out too grey and too busy. The run
prints that number; `fashion-mnist` does not have the problem.

The tutorial drops nothing of an epoch: 469 batches, the last one short. Here batches straddle epochs, and 5 epochs are 2,344 full ones.
"""

from __future__ import annotations

from safelight.data.fashion import FashionMNISTSource
from safelight.grid import Trailing
from safelight.model import Defaults, ModelSpec
from safelight.nn.unet import UNetSpec
from safelight.predict import Eps
from safelight.process.tables import Linear
from safelight.sample.ancestral import DDPM
from safelight.train import Every, Plan, Train
from safelight.train.objective import Match
from safelight.train.optim import Adam, Constant
from safelight.train.times import Uniform
from safelight.train.weighting import Huber, Unit


def recipe() -> Train:
    """The tutorial's run. About 2,344 steps: a few minutes on a GPU, an hour or two on a CPU core."""
    return Train(
        name="fashion-mnist-tutorial",
        notes="The annotated diffusion model, to the letter; its terminal SNR is not zero.",
        model=ModelSpec(
            network=UNetSpec.tutorial(dim=28, mults=(1, 2, 4), channels=1),
            process=Linear(T=200, beta_start=1e-4, beta_end=0.02),
            parameterization=Eps(),
            channels=1,
            size=(28, 28),
            defaults=Defaults(steps=200, sampler=DDPM(variance="small"), grid=Trailing()),
        ),
        data=FashionMNISTSource(),
        held_out_data=FashionMNISTSource(split="test"),
        objective=Match(distance=Huber(delta=1.0), weighting=Unit(), times=Uniform(entries=True)),
        plan=Plan(
            batch=128,
            epochs=5,
            optimizer=Adam(lr=1e-3),
            schedule=Constant(),
            averages={},
            clip=0,
            flips=True,
            precision="fp32",
            every=Every(log=50, held_out=469, sample=469, save=469),
        ),
    )
