"""`fashion-mnist-dit`: the same pictures and labels through a small diffusion transformer (adaLN-Zero, patches of 2, 4.2 M parameters)."""

from __future__ import annotations

from safelight.grid import Uniform
from safelight.nn.dit import DiTSpec
from safelight.predict import V
from safelight.process.continuous import Cosine
from safelight.recipes.fashion_mnist import WIDTH, labelled
from safelight.train import Train
from safelight.train.times import Stratified
from safelight.train.weighting import Unit


def recipe() -> Train:
    """As `fashion-mnist`, with a DiT of 6 blocks, 192 channels and 3 heads over 14 x 14 patches."""
    return labelled(
        "fashion-mnist-dit",
        "Class-conditional DiT, v-prediction on the cosine process.",
        network=DiTSpec(width=192, depth=6, heads=3, cond=WIDTH, qk_norm=True),
        process=Cosine(),
        parameterization=V(),
        times=Stratified(),
        weighting=Unit(),
        grid=Uniform(),
        lr=5e-4,
    )
