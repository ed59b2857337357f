"""Guard: what stands between gradients and weights. A step whose loss or gradient is not finite changes nothing.

All of it happens on the device, so an accelerator is never waited for: the verdict is a tensor that fused optimizers read, and a
list of verdicts that the loop looks at when it logs. On a CPU looking is free, and the optimizer is simply not called.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

# Loss scaling for fp16 (Micikevicius et al. 2018, section 3.2): halved at each overflow, doubled after so many good steps.
_FIRST_SCALE = 2.0**16
_LAST_SCALE = 2.0**24
_PATIENCE = 2000

OK, OVERFLOW, BROKEN = 0, 1, 2


class Guard:
    """Scales the loss (in fp16), measures and clips the gradient, and lets the optimizer step only when all is finite.

    `scale` and `good` are the loss scale and the number of good steps since it last changed, tensors on the device.
    """

    def __init__(self, device: torch.device, scaling: bool) -> None:
        self.scaling = scaling
        self.scale = torch.tensor(_FIRST_SCALE if scaling else 1.0, device=device)
        self.good = torch.tensor(0, dtype=torch.int64, device=device)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss`, times the scale."""
        (loss * self.scale if self.scaling else loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor, clip: float
    ) -> tuple[Tensor, Tensor]:
        """Step if loss and gradient are finite. Returns (verdict, norm): OK, OVERFLOW or BROKEN, and the gradient's norm unclipped.

        OVERFLOW: too large for fp16 at this scale, which is halved; BROKEN: not finite at any scale.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.scaling:
            torch._foreach_mul_(gradients, 1 / self.scale)
        norm = get_total_norm(gradients)
        found = ~(torch.isfinite(norm) & torch.isfinite(loss))
        if clip and gradients:
            _clip(gradients, norm, clip)
        self._apply(optimizer, found)
        verdict = torch.where(found, BROKEN, OK)
        if self.scaling:
            verdict = torch.where(found & (self.scale > 1), OVERFLOW, verdict)
            self._rescale(found)
        return verdict, norm

    def _apply(self, optimizer: torch.optim.Optimizer, found: Tensor) -> None:
        if found.device.type == "cpu" or not optimizer.defaults.get("fused"):
            if not bool(found):
                optimizer.step()
            return
        # Fused kernels read this flag where they run: they leave weights, moments and step counts alone where it is 1.
        optimizer.found_inf = found.to(torch.float32)  # type: ignore[attr-defined]
        optimizer.step()

    def _rescale(self, found: Tensor) -> None:
        grown = self.good + 1 >= _PATIENCE
        scale = torch.where(found, self.scale / 2, torch.where(grown, self.scale * 2, self.scale))
        self.good = torch.where(found | grown, torch.zeros_like(self.good), self.good + 1)
        self.scale = scale.clamp(1.0, _LAST_SCALE)


def _clip(gradients: list[Tensor], norm: Tensor, most: float) -> None:
    """Scale gradients of norm `norm` down to a norm of at most `most` (Pascanu et al. 2013, algorithm 1)."""
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    # Multiplying by 1 changes nothing and reads every gradient: left out where looking is free.
    if scale.device.type != "cpu" or bool(scale < 1):
        torch._foreach_mul_(gradients, scale)
