"""`fashion-mnist-noisy-classifier`: the classifier that steers `fashion-mnist`. It sees noisy pictures, on that model's process.

What it trains is not a generator: the run's folder serves as `classifier` of the bend `classifier`. The judge of
`safelight evaluate` is another network, on clean pictures, so what is steered by this one is not graded by it.
"""

from __future__ import annotations

from safelight.data.fashion import FashionMNISTSource
from safelight.data.idx import FASHION
from safelight.model import ModelSpec
from safelight.nn.classifier import NoisyClassifierSpec
from safelight.predict import V
from safelight.process.continuous import Cosine
from safelight.text.label import LabelSpec
from safelight.train import Every, Plan, Train
from safelight.train.classify import Classify
from safelight.train.ema import Power
from safelight.train.optim import AdamW
from safelight.train.optim import Cosine as Falling
from safelight.train.times import Stratified


def recipe() -> Train:
    """Five epochs: about three minutes of one core."""
    return Train(
        name="fashion-mnist-noisy-classifier",
        notes="Classifier of noisy pictures on the cosine process, for classifier guidance.",
        model=ModelSpec(
            network=NoisyClassifierSpec(names=FASHION),
            process=Cosine(),
            parameterization=V(),
            text=LabelSpec(names=FASHION, width=1),
            channels=1,
            size=(28, 28),
        ),
        data=FashionMNISTSource(),
        held_out_data=FashionMNISTSource(split="test"),
        objective=Classify(times=Stratified()),
        plan=Plan(
            batch=128,
            images=300_000,
            optimizer=AdamW(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.05),
            schedule=Falling(warmup=100),
            averages={"ema": Power(sigma_rel=0.05)},
            clip=1.0,
            channels_last=True,
            every=Every(log=50, held_out=0, sample=0, save=0),
        ),
    )
