"""Models that read words: a small one of random weights, and one whose denoiser is the exact posterior mean of its class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.denoise import Denoise, Estimate
from safelight.model import Model
from safelight.nn.dit import DiTSpec
from safelight.process import Level, Process
from safelight.text.clip import CLIPTextSpec
from tests import small
from tests.task import toys


def words(seed: int = 0) -> Model:
    """A DiT on 8 x 8 pictures that attends to the tokens of a CLIP tower with windows of 8, and hears its vector."""
    text = CLIPTextSpec(width=16, layers=1, heads=2, length=8)
    network = DiTSpec(width=32, depth=1, heads=2, context=16, cond=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Model = small.spec("flow").model_copy(update={"network": network, "text": text}).build()
        for name, p in made.named_parameters():
            nn.init.normal_(p, std=1.0 if "text.tower" in name and p.ndim == 2 and p.shape[1] == 16 else 0.15)
    return made.eval()


class Two(nn.Module):
    """x_0 ~ sum_k w_k N(m_k, std^2 I), w the first two numbers of Cond.vector; its exact denoiser, in float64."""

    process: Process

    def __init__(self, means: Tensor, std: float) -> None:
        super().__init__()
        self.means, self.std = means.double().flatten(1), std  # (2, d)
        self.nothing = nn.Parameter(torch.zeros(1))

    def bind(self, cond: Cond | None, levels: Sequence[Level] = ()) -> Denoise:
        assert cond is not None and cond.vector is not None
        weights = cond.vector[:, :2].double()

        def denoise(x: Tensor, level: Level) -> Estimate:
            flat, (alpha, sigma, _) = x.flatten(1).double(), level.floats
            var = (alpha * self.std) ** 2 + sigma**2
            off = flat[:, None] - alpha * self.means  # (B, 2, d)
            share = (weights.log() - off.square().sum(2) / (2 * var)).softmax(1)
            each = self.means + alpha * self.std**2 / var * off
            return Estimate((share[..., None] * each).sum(1).view_as(x).to(x.dtype))

        return denoise


def two(std: float = 0.3, process: str = "flow") -> Model:
    """Classes "shirt" and "shoe", exact; "bag" and "" are either with equal odds. Pictures of 8 x 8, distant means of size 0.5."""
    made = toys.model(labelled=True, process=process)
    g = torch.Generator().manual_seed(3)
    exact = Two(0.5 * torch.randn(2, 64, generator=g).sign(), std)
    exact.process = made.process
    made.denoiser = exact  # type: ignore[assignment]
    assert made.text is not None
    with torch.no_grad():
        table = made.text.embedding.weight  # type: ignore[union-attr]
        table.zero_()  # type: ignore[operator]
        table[:, :2] = torch.tensor([[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]])  # type: ignore[index]
    return made


def classes(made: Model, pictures: Tensor) -> list[int]:
    """Which of the two means each picture is nearest to."""
    means: Tensor = made.denoiser.means  # type: ignore[assignment]
    found: list[int] = torch.cdist(pictures.flatten(1).double(), means).argmin(1).tolist()
    return found
