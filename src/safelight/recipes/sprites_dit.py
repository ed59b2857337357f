"""`sprites-dit`: a transformer in the place of the U-Net of `sprites-unet`, nothing else changed. A step costs 1.3 of the U-Net's.

adaLN-Zero hears the noise level and the pooled text; the words themselves are read by cross-attention, as in PixArt-alpha.
"""

from __future__ import annotations

from safelight.nn.dit import DiTSpec
from safelight.recipes.sprites_unet import WIDTH, model, run
from safelight.train import Train


def dit() -> DiTSpec:
    """64 tokens of one latent place each."""
    return DiTSpec(channels=16, cond=WIDTH, context=WIDTH, patch=1, width=192, depth=6, heads=4, qk_norm=True)


def recipe() -> Train:
    """As long as `sprites-unet`."""
    return run("sprites-dit", "Text to image on sprite scenes: latent DiT, reduced vocabulary.", model(network=dit()))
