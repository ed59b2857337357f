"""`vdm`: a variational diffusion model of Fashion-MNIST: learned log-SNR, bound in bits a dimension, Fourier features of the picture."""

from __future__ import annotations

from safelight.data.fashion import FashionMNISTSource
from safelight.grid import Rect
from safelight.model import Defaults, ModelSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.unet import UNetSpec
from safelight.predict import V
from safelight.process.learned import Learned
from safelight.sample.dpm import DPM2M
from safelight.train import Every, Plan, Train
from safelight.train.elbo import ELBO
from safelight.train.ema import Power
from safelight.train.optim import AdamW
from safelight.train.optim import Cosine as Falling


def recipe() -> Train:
    """Kingma et al. 2021, small: v on the learned process, n = 7 and 8, no class; 2,000 steps of 64."""
    return Train(
        name="vdm",
        notes="Variational diffusion: the process is learned with the network; val/loss is the bound in bits a dimension.",
        model=ModelSpec(
            network=UNetSpec(patch=2, widths=(32, 64), depth=1, skips=2, fourier=(7, 8), embedding=SinusoidSpec(width=64)),
            process=Learned(),
            parameterization=V(),
            channels=1,
            size=(28, 28),
            defaults=Defaults(steps=25, sampler=DPM2M(), grid=Rect(power=1.3)),
        ),
        data=FashionMNISTSource(),
        held_out_data=FashionMNISTSource(split="test"),
        objective=ELBO(),
        plan=Plan(
            batch=64,
            steps=2_000,
            optimizer=AdamW(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01),
            schedule=Falling(warmup=100),
            averages={"ema": Power(sigma_rel=0.05)},
            clip=1.0,
            channels_last=True,
            held=2_000,
            every=Every(log=50, held_out=500, sample=500, save=250),
        ),
        reproduced={
            "val/loss": 3.650,
            "bits/dim, 10,000 test pictures": 3.695,
            "variance of the bound, learned shape": 1.07,
            "variance of the bound, straight line": 9.94,
            "where": "one CPU thread",
        },
    )
