"""`sprites-vq`: the codec with a codebook, beside `sprites-vae`: stride 4, 16 x 16 tokens out of 2,048 codes of 4 numbers."""

from __future__ import annotations

from safelight.codec.vq import VQSpec
from safelight.recipes.sprites_unet import model, unet
from safelight.recipes.sprites_vae import OBJECTIVE, codec
from safelight.train import Train


def recipe() -> Train:
    """7,500 steps of 16: about 30 minutes of one core. Commitment weighs 0.25, as published."""
    spec = VQSpec(latents=4, widths=(48, 96), codes=2048)
    network = unet().model_copy(update={"channels": 4, "patch": 2})
    objective = OBJECTIVE.model_copy(update={"order": 0.25})
    return codec("sprites-vq", "VQ autoencoder of sprite scenes, f4, 2,048 codes.", model(spec, network), objective)
