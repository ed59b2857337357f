"""A small convolutional classifier: the eye that the evaluation looks with. Classes are named, weights pinned by a hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from safelight.files import atomic_bytes
from safelight.spec import Spec, SpecError, describe, one_line

FORMAT = 1  # of the file; rises when an old file could no longer be read


class ClassifierSpec(Spec):
    """The architecture: for each width a 3x3 convolution, batch normalisation, ReLU and (but for the last) halving by maximum;
    then the mean over a 3x3 raster, one linear layer with ReLU, whose outputs are the *features*, and the linear classes."""

    names: tuple[str, ...] = Field(min_length=2, description="the classes, in the order of their numbers")
    channels: int = Field(default=1, ge=1)
    size: tuple[int, int] = (28, 28)
    widths: tuple[int, ...] = Field(default=(24, 48, 96), min_length=1)
    features: int = Field(default=128, ge=2)
    dropout: float = Field(default=0.3, ge=0, lt=1, description="of the features, in training")

    def build(self) -> Classifier:
        """A classifier with freshly initialised weights."""
        return Classifier(self)


class Seen(NamedTuple):
    """What the classifier sees in N pictures: features (N, F) float32, logits (N, classes) float32, both on the CPU."""

    features: Tensor
    logits: Tensor


class Classifier(nn.Module):
    """`forward((B, C, H, W) in [-1, 1]) -> (B, classes)` logits; `features` the layer before."""

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__()
        self.spec = spec
        layers: list[nn.Module] = []
        width = spec.channels
        for i, wide in enumerate(spec.widths):
            layers += [nn.Conv2d(width, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i + 1 < len(spec.widths) else [nn.AdaptiveAvgPool2d(3), nn.Flatten()]
            width = wide
        self.trunk = nn.Sequential(*layers, nn.Linear(9 * width, spec.features), nn.ReLU())
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(spec.features, len(spec.names))
        self.lineage: dict[str, Any] = {}

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, F), each >= 0."""
        return self.trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.trunk(x)))  # (B, C, H, W) -> (B, F) -> (B, classes)

    @torch.no_grad()
    def look(self, pictures: Tensor, batch: int = 500) -> Seen:
        """Features and logits of pictures (N, C, H, W), uint8 or float in [-1, 1], in evaluation mode, in float32.

        Raises SpecError for another shape, and for NaN or infinite values.
        """
        due = (self.spec.channels, *self.spec.size)
        if pictures.ndim != 4 or tuple(pictures.shape[1:]) != due:
            raise SpecError(f"the classifier looks at pictures (N, {', '.join(map(str, due))}), not {tuple(pictures.shape)}")
        if not len(pictures):
            raise SpecError("the classifier was given no picture")
        training, device = self.training, self.head.weight.device
        self.eval()
        features, logits = [], []
        for part in pictures.split(batch):
            x = part.to(device)
            x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()
            f = self.features(x)
            features.append(f.cpu())
            logits.append(self.head(f).cpu())
        self.train(training)
        seen = Seen(torch.cat(features), torch.cat(logits))
        if not seen.features.isfinite().all():
            bad = int((~seen.features.isfinite().all(1)).sum())
            raise SpecError(f"{bad} of {len(pictures)} pictures have NaN or infinite values and cannot be evaluated")
        return seen

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over architecture and weights: numbers on features are comparable only where it is equal."""
        digest = hashlib.sha256(json.dumps(describe(self), sort_keys=True).encode())
        for name, tensor in sorted(weights(self).items()):
            digest.update(name.encode() + str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def weights(classifier: Classifier) -> dict[str, Tensor]:
    """Everything that decides what the classifier sees: its state without the counters of its normalisations."""
    return {k: v for k, v in classifier.state_dict().items() if v.is_floating_point()}


def save(path: str | os.PathLike[str], classifier: Classifier, lineage: Mapping[str, Any] | None = None) -> Path:
    """Write one `.safetensors`, weights as fp16, spec and lineage (how it was trained, its accuracy) in the header.

    Whole or not at all. Raises SpecError for another suffix.
    """
    from safetensors.torch import save as to_bytes

    tensors = {k: v.detach().cpu().half().contiguous() for k, v in weights(classifier).items()}
    about = {"format": FORMAT, "what": "classifier", "classifier": describe(classifier), "lineage": dict(lineage or {})}
    target = Path(path)
    if target.suffix != ".safetensors":
        raise SpecError(f"{target}: a classifier is written as .safetensors")
    atomic_bytes(target, to_bytes(tensors, {"safelight": json.dumps(about)}))
    return target


def load(path: str | os.PathLike[str] | None = None) -> Classifier:
    """A saved classifier in evaluation mode; without a path the one that ships. `.lineage` says how it was trained.

    Raises SpecError, in one line, for a missing file, a file of another sort, and weights that do not fit its spec.
    """
    from safetensors import SafetensorError, safe_open

    target = Path(path) if path is not None else shipped()
    if not target.is_file():
        raise SpecError(f"{target}: there is no classifier; train one with `safelight evaluate classifier`")
    try:
        with safe_open(target, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("safelight", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise SpecError(f"{target}: not a readable .safetensors file ({one_line(error)})") from None
    if about.get("what") != "classifier" or about.get("format") != FORMAT:
        raise SpecError(f"{target}: no classifier of format {FORMAT}; train one with `safelight evaluate classifier`")
    try:
        classifier = ClassifierSpec.model_validate(about["classifier"]).build()
        wrong = sorted(set(weights(classifier)) ^ set(tensors))
        classifier.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    except (KeyError, ValidationError, RuntimeError) as error:
        raise SpecError(f"{target}: {one_line(error, 'classifier')}") from None
    if wrong:
        raise SpecError(f"{target}: weights and spec disagree at '{wrong[0]}'")
    classifier.lineage = about.get("lineage", {})
    return classifier.eval().requires_grad_(False)


def shipped() -> Path:
    """Where the Fashion-MNIST classifier of this installation lies."""
    return Path(__file__).parent.parent / "assets" / "fashion-mnist-classifier.safetensors"
