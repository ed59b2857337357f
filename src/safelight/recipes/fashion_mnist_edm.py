"""`fashion-mnist-edm`: the shipped model's twin in the design of Karras et al. 2022, to compare with: all else is equal."""

from __future__ import annotations

from safelight.grid import Karras
from safelight.nn.embed import FourierSpec
from safelight.predict import EDM
from safelight.process.continuous import EDM as Elucidated
from safelight.recipes.fashion_mnist import labelled, unet
from safelight.train import Train
from safelight.train.times import LogNormal
from safelight.train.weighting import EDM as Balanced

# The standard deviation of Fashion-MNIST's pixels in [-1, 1].
SIGMA_DATA = 0.71


def recipe() -> Train:
    """EDM preconditioning, log-normal sigma, the EDM weight; the network hears ln(sigma)/4 through Fourier features."""
    return labelled(
        "fashion-mnist-edm",
        "Class-conditional U-Net, EDM preconditioning.",
        network=unet(FourierSpec(width=64, scale=1.0)),
        process=Elucidated(),
        parameterization=EDM(sigma_data=SIGMA_DATA),
        times=LogNormal(mean=-1.2, std=1.2),
        weighting=Balanced(sigma_data=SIGMA_DATA),
        grid=Karras(),
        lr=1e-3,
    )
