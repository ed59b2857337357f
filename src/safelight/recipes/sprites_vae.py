"""`sprites-vae`: the codec of the model that ships. KL, stride 8, 16 channels, on scenes of 609 of the 709 concepts.

The other 100 concepts are the measure: what it rebuilds of them it did not learn by heart. Its latents are those that every
`sprites-*` denoiser learns on; `sprites-vae-sharp` goes on with the decoder alone, so that they stay what they are.
"""

from __future__ import annotations

from safelight.codec.kl import KLSpec
from safelight.data.composed import ScenesSource
from safelight.data.scenes.splits import Split
from safelight.model import ModelSpec
from safelight.recipes.sprites_unet import model
from safelight.train import Every, Plan, Train
from safelight.train.autoencode import Autoencode
from safelight.train.ema import Power
from safelight.train.optim import AdamW
from safelight.train.optim import Cosine as Falling

OBJECTIVE = Autoencode(l1=1.0, l2=2.0, gradient=0.5, order=5e-3)


def codec(name: str, notes: str, model: ModelSpec, objective: Autoencode = OBJECTIVE) -> Train:
    """A codec's run on scenes: what these recipes share."""
    return Train(
        name=name,
        notes=notes,
        model=model,
        data=ScenesSource(split=Split.CODEC),
        held_out_data=ScenesSource(split=Split.CODEC_HELD, seed=999, count=512),
        objective=objective,
        plan=Plan(
            batch=16,
            images=120_000,
            optimizer=AdamW(lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4),
            schedule=Falling(warmup=50),
            averages={"ema": Power(sigma_rel=0.05)},
            clip=1.0,
            channels_last=True,
            held=512,
            every=Every(log=100, held_out=1000, sample=1000, save=500),
        ),
    )


def recipe() -> Train:
    """7,500 steps of 16: about 20 minutes of one core."""
    return codec("sprites-vae", "KL autoencoder of sprite scenes, f8 z16.", model(KLSpec()))
