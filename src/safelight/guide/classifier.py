"""Classifier guidance: a classifier of noisy pictures steers a model that knows no classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.guide.base import Bend
from safelight.guide.strength import Interval, Scale, strength
from safelight.process import Level
from safelight.spec import SpecError, nearest

# Below this alpha a level is taken for this one: at pure noise x0 moves by sigma^2/alpha times a gradient that goes to zero like alpha.
_LEAST = 1e-6


class ClassifierGuidance(Bend, kind="classifier"):
    """x0 += scale (sigma^2 / alpha) grad_x log p(y | x_t) (Dhariwal and Nichol 2021, algorithm 2).

    By Bayes and Tweedie's formula this is exact at scale 1: E[x0 | x_t, y] = E[x0 | x_t] + (sigma^2 / alpha) grad_x log p(y | x_t). It
    changes the estimate and nothing else, so it works with every sampler, mix and process.
    classifier: a file, a run's folder, or the name of one that ships; see nn/classifier.py. It must have been trained on what is
    denoised: the same latents. target: the class, for all pictures; None takes each picture's prompt for it. A model that knows
    classes is steered as one that does not by mix `none` and the prompt "". interval: guide only at times t in [low, high].
    """

    classifier: str = Field("fashion-mnist-noisy-classifier", min_length=1)
    scale: Scale = 1.0
    target: str | None = None
    interval: Interval = (0.0, 1.0)

    def bind(self, assets: Any, prompts: Sequence[str]) -> Callable[[Denoise], Denoise]:
        """The bend for pictures of these prompts. Raises SpecError for a class that the classifier does not know."""
        network = assets.classifier(self.classifier)
        wanted = [prompt if self.target is None else self.target for prompt in prompts]
        target = torch.tensor([self._number(name, network.spec.names) for name in wanted])
        return lambda denoise: self.steer(denoise, network.logits, target)

    def steer(self, denoise: Denoise, logits: Callable[[Tensor, Level], Tensor], target: Tensor) -> Denoise:
        """The bent denoiser, from any classifier `logits(x (B, C, *space), level) -> (B, K)`. target: (B,) class numbers."""

        def bent(x: Tensor, level: Level) -> Estimate:
            estimate = denoise(x, level)
            scale = strength(self.scale, self.interval, level, outside=0.0)
            if scale == 0:
                return estimate
            # Sampling runs in inference mode, whose tensors no gradient may pass: copies made outside of it are ordinary ones.
            with torch.inference_mode(False), torch.enable_grad():
                alpha, sigma = float(level.alpha.clamp(min=_LEAST)), float(level.sigma)
                seen = x.detach().clone().requires_grad_(True)
                here = Level(level.t.clone(), level.alpha.clone().clamp(min=_LEAST), level.sigma.clone(), level.process)
                wanted = target.to(x.device, copy=True)[:, None]
                log_p = logits(seen, here).log_softmax(1).gather(1, wanted).sum()
                (slope,) = torch.autograd.grad(log_p, seen)
            moved = estimate.x0 + (scale * sigma**2 / alpha) * slope.to(estimate.x0)
            return estimate._replace(x0=moved, parts={**estimate.parts, "unsteered": estimate.x0})

        return bent

    def __call__(self, denoise: Denoise) -> Denoise:
        raise SpecError("bend 'classifier' must be bound to its classifier and to the prompts before use")

    def _number(self, name: str, names: Sequence[str]) -> int:
        if name in names:
            return names.index(name)
        if not name:
            raise SpecError(f"bends: guidance by a classifier needs a class: set target, or give a prompt ({', '.join(names)})")
        raise SpecError(
            f"bends: the classifier '{self.classifier}' knows no class '{name}'{nearest(name, names)} (classes: {', '.join(names)})"
        )
