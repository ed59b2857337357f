"""`sprites-vae-sharp`: the decoder of `sprites-vae` goes on alone, to please a perceptual eye and a critic of patches.

The encoder is not touched, so every denoiser that was trained on its latents stays right and only paints better. The eye is the
picture tower of `sprites-clip`, trained here; it judges nothing that is measured.
"""

from __future__ import annotations

from safelight.recipes import sprites_vae
from safelight.train import Train
from safelight.train.autoencode import Autoencode


def recipe() -> Train:
    """2,500 steps of 16."""
    base = sprites_vae.recipe()
    objective = Autoencode(
        l1=1.0, l2=2.0, gradient=0.5, order=0.0, perceptual=0.1, eye="sprites-clip", adversarial=0.02, warmup=300, encoder=False
    )
    plan = base.plan.model_copy(update={"images": 40_000, "optimizer": base.plan.optimizer.model_copy(update={"lr": 4e-4})})
    return base.model_copy(
        update={
            "name": "sprites-vae-sharp",
            "notes": "The decoder of sprites-vae with perceptual and adversarial losses; its latents stay.",
            "start": {"codec": "runs/sprites-vae"},
            "objective": objective,
            "plan": plan,
        }
    )
