"""Training a classifier of noisy pictures, for guidance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight import device as machine
from safelight.model import Model
from safelight.nn.classifier import NoisyClassifier
from safelight.process import Process
from safelight.spec import SpecError
from safelight.text.label import LabelSpec
from safelight.train.keys import generator
from safelight.train.objective import Batch, Draws, Match, Objective, Player
from safelight.train.times import Times, Uniform


class Classify(Objective, kind="classify"):
    """min E[ -log p(y | x_t) ], x_t = alpha x0 + sigma eps: cross-entropy at all noise levels (Dhariwal and Nichol 2021, section 4).

    The model's network is a `classifier`, its text the labels of the data, its process that of the model to be guided (another one
    spends the training on other levels; only sigma/alpha is told). times: where on it, see their family.
    """

    times: Times = Uniform()

    def prepare(self, model: Model) -> list[Player]:
        """One player: the network. Raises SpecError for a network that is no classifier, and for labels that are not its classes."""
        network = classifier(model)
        said = getattr(model.spec.text, "names", ())
        if not isinstance(model.spec.text, LabelSpec) or said != network.spec.names:
            raise SpecError(
                "objective: 'classify' needs the labels that its classifier knows: set model.text.names to network.names"
            )
        for frozen in (model.codec, model.text):
            if frozen is not None:
                frozen.requires_grad_(False)
        return [Player([(n, p) for n, p in model.named_parameters() if p.requires_grad], self.loss)]

    def parts(self, model: Model) -> list[nn.Module]:
        """The blocks. Not the network as a whole: it is no denoiser, of which there would be pictures and a trivial loss."""
        return [classifier(model).stages]

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        """Times and noise, as `match` draws them; no label is dropped."""
        return Match(times=self.times).draw(model, like, seed, step)

    def fixed(self, model: Model, u: Tensor, eps: Tensor) -> Draws:
        """The held-out draws, as those of `match`."""
        return Match(times=self.times).fixed(model, u, eps)

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) nats, float32; log(classes) is what a classifier without eyes gets."""
        if batch.tokens is None:
            raise SpecError("objective: classifying needs labels, and the data have none")
        x0 = batch.x0
        t = draws.t.to(x0.device, non_blocking=True) if machine.doubles(x0.device) else draws.t
        level = model.denoiser.process.at(t)
        shaped = level.like(x0)
        x = shaped.alpha * x0 + shaped.sigma * draws.eps
        return F.cross_entropy(classifier(model).logits(x, level).float(), batch.tokens[:, 0], reduction="none")


@torch.no_grad()
def recognised(network: NoisyClassifier, x0: Tensor, labels: Tensor, process: Process, t: float, seed: int = 0) -> float:
    """The share of pictures x0 (N, C, H, W) in [-1, 1], noised to time t of `process`, whose class is told rightly."""
    eps = torch.randn(x0.shape, generator=generator("cpu", seed, "recognised", str(t)), dtype=x0.dtype).to(x0.device)
    level = process.at(t)
    right = [
        network.logits(process.add_noise(a, e, t), level).argmax(1) == y
        for a, e, y in zip(x0.split(500), eps.split(500), labels.split(500), strict=True)
    ]
    return float(torch.cat(right).double().mean())


def classifier(model: Model) -> NoisyClassifier:
    """The model's network. Raises SpecError for one that is no classifier."""
    network = model.denoiser.network
    if not isinstance(network, NoisyClassifier):
        raise SpecError(f"objective: 'classify' trains a network 'classifier', not '{network.spec.kind}'")
    return network
