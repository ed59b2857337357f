"""A classifier of noisy pictures: half a U-Net that is told the level and answers with classes. It guides, and never judges.

Its file is a `.safetensors` with the spec and the lineage in its header, weights in fp16; a run's folder or a model's file whose
network is such a classifier can be loaded as well.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.cond import Cond
from safelight.files import atomic
from safelight.nn.blocks import Block, ConvDown, ResnetSpec, TimedBlock, conv
from safelight.nn.embed import Embedding, SinusoidSpec
from safelight.nn.network import Network, NetworkSpec, Output
from safelight.nn.norm import GroupNormSpec, Norm
from safelight.nn.pad import channels_last, pad_to, to_patches
from safelight.process import Level
from safelight.spec import SpecError, describe, one_line

FORMAT = 1  # of the file
_KEY = "safelight"
_WHAT = "noisy classifier"
_RASTER = 3  # places a side over which features are averaged


class NoisyClassifierSpec(NetworkSpec, kind="classifier"):
    """The way down of a U-Net, the means over a 3x3 raster, one hidden layer, the classes (Dhariwal and Nichol 2021, section 4, with
    a raster instead of attention pooling). For two dimensions of space, of any size."""

    answers: ClassVar[bool] = True

    names: tuple[str, ...] = Field(min_length=2, description="the classes, in the order of their numbers")
    channels: int = Field(1, ge=1, description="of the pictures, or of the latents")
    patch: int = Field(2, ge=1, description="side of the squares of pixels that become channels at the entrance")
    widths: tuple[int, ...] = Field((32, 64), min_length=1, description="channels of each resolution, the finest first")
    depth: int = Field(1, ge=1, description="blocks a resolution")
    block: Block = ResnetSpec()
    norm: Norm = GroupNormSpec(groups=8)
    embedding: Embedding = SinusoidSpec(width=64)
    time: int = Field(128, ge=1, description="width of what the blocks are told of the level")
    features: int = Field(128, ge=1, description="width of the hidden layer")

    @field_validator("names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names or len(set(names)) != len(names):
            raise ValueError('names must be distinct and not ""')
        return names

    def build(self) -> NoisyClassifier:
        """A classifier with fresh weights. Raises SpecError when widths and groups do not fit."""
        return NoisyClassifier(self)


class _Stage(nn.Module):
    """A block with what it hears of the level, or (without a block) a halving of the resolution."""

    def __init__(self, spec: NoisyClassifierSpec, inp: int, out: int, halve: bool = False) -> None:
        super().__init__()
        self.block: TimedBlock | None = None if halve else spec.block.make(2, inp, out, spec.norm)
        self.tell = nn.Linear(spec.time, self.block.told) if self.block is not None else None
        self.down = ConvDown().make(2, inp, out) if halve else None

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        if self.block is not None and self.tell is not None:
            return self.block(x, self.tell(heard))  # (B, C_out, H, W)
        assert self.down is not None
        return self.down(x)  # (B, C_out, H/2, W/2)


class NoisyClassifier(Network):
    """`logits(x_t, level) -> (B, classes)`: log p(y | x_t) up to a constant a picture. Of any process: only sigma/alpha counts."""

    spec: NoisyClassifierSpec

    def __init__(self, spec: NoisyClassifierSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = spec.embedding.make()
        act = nn.GELU if spec.block.gelu else nn.SiLU
        self.time = nn.Sequential(nn.Linear(spec.embedding.width, spec.time), act(), nn.Linear(spec.time, spec.time), act())
        self.stem = conv(2, spec.channels * spec.patch**2, spec.widths[0])
        stages, width = [], spec.widths[0]
        for i, wide in enumerate(spec.widths):
            if i:
                stages.append(_Stage(spec, width, wide, halve=True))
            stages += [_Stage(spec, wide, wide) for _ in range(spec.depth)]
            width = wide
        self.stages = nn.ModuleList(stages)
        self.norm = spec.norm.make(width)
        self.head = nn.Sequential(
            nn.Linear(width * _RASTER**2, spec.features), nn.SiLU(), nn.Linear(spec.features, len(spec.names))
        )
        self.lineage: dict[str, Any] = {}

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        """x: (B, C, H, W), of unit scale. noise: (B,) or (1,), the level's angle, 0 clean to 1000 pure noise. F: (B, classes)."""
        if x.ndim != 4 or x.shape[1] != self.spec.channels:
            raise SpecError(
                f"this classifier sees (B, {self.spec.channels}, H, W), not {tuple(x.shape)}: it is of other latents"
            )
        dtype = next(self.time.parameters()).dtype
        heard = self.time(self.embedding(noise.to(x.device).reshape(-1)).to(dtype))  # (B or 1, time)
        stride = self.spec.patch * 2 ** (len(self.spec.widths) - 1)
        h = self.stem(channels_last(to_patches(pad_to(x.to(dtype), stride), self.spec.patch)))  # (B, C', H/p, W/p)
        for stage in self.stages:
            h = stage(h, heard)
        h = F.adaptive_avg_pool2d(F.silu(self.norm(h)), _RASTER)  # (B, C', 3, 3)
        return Output(self.head(h.flatten(1)))  # (B, classes)

    def logits(self, x: Tensor, level: Level) -> Tensor:
        """(B, classes) of x_t at one level or at a level a picture, float32 (float64 for a float64 classifier).

        alpha / sqrt(alpha^2 + sigma^2) times what the network says. True log-odds vanish like that when the picture drowns in noise:
        they are linear in alpha x_t / sigma^2 there. So sigma^2/alpha times their gradient, which is what guides, stays bounded.
        """
        shaped = level.like(x)
        scale = torch.hypot(shaped.alpha, shaped.sigma)
        angle = torch.atan2(level.sigma, level.alpha) * (2000 / math.pi)
        raw = self(x / scale, angle.float()).F
        return raw.to(torch.promote_types(raw.dtype, torch.float32)) * (shaped.alpha / scale).reshape(-1, 1)

    def bind(self, cond: Cond | None, noises: Sequence[float] = ()) -> Callable[[Tensor, Tensor], Output]:
        """Raises SpecError: to bind is to sample, and this makes no pictures."""
        raise SpecError(
            "this is a classifier of noisy pictures, it makes none: guide another model by it with bends=[classifier]"
        )


def save(
    path: str | os.PathLike[str],
    classifier: NoisyClassifier,
    lineage: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write one `.safetensors` with the spec and the lineage (how it was trained, what it recognises) in its header, floats in
    `dtype`; whole or not at all."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().to(dtype).contiguous() for k, v in classifier.state_dict().items()}
    about = {
        "format": FORMAT,
        "what": _WHAT,
        "classifier": describe(classifier),
        "lineage": dict(lineage or classifier.lineage),
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(about)})


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> NoisyClassifier:
    """A saved classifier, in evaluation mode, float32; of a model's file (a training run's checkpoint) its first average.

    Raises SpecError, in one line, for a missing, foreign or damaged file.
    """
    from safetensors import SafetensorError, safe_open

    target = Path(path)
    if not target.is_file():
        raise SpecError(f"{target}: there is no classifier; train one with `safelight train fashion-mnist-noisy-classifier`")
    # Loaded while sampling, in inference mode, its weights would let no gradient through.
    with torch.inference_mode(False), torch.no_grad():
        try:
            with safe_open(target, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get(_KEY, "{}"))
                described, prefix = _described(about, target)
                tensors = {k.removeprefix(prefix): file.get_tensor(k).float() for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
            with torch.random.fork_rng(devices=[]):
                classifier = NoisyClassifierSpec.model_validate(described).build()
            classifier.load_state_dict(tensors)
        except (SafetensorError, OSError) as error:
            raise SpecError(f"{target}: not a readable .safetensors file ({one_line(error)})") from None
        except (KeyError, TypeError, json.JSONDecodeError, ValidationError, RuntimeError) as error:
            raise SpecError(f"{target}: {one_line(error, 'classifier')}") from None
        classifier.lineage = about.get("lineage", {})
        return classifier.to(device).eval().requires_grad_(False)


def _described(about: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Any], str]:
    """(the classifier's description, what its tensors' names begin with) of a file's header."""
    if about.get("what") == _WHAT and about.get("format") == FORMAT:
        return about["classifier"], ""
    network = about.get("spec", {}).get("network", {})
    if network.get("kind") != NoisyClassifierSpec.kind:
        raise SpecError(f"{path}: no classifier of noisy pictures of format {FORMAT}")
    chosen = next((name for name in about["weights"] if name != "raw"), "raw")
    return network, f"{chosen}/denoiser.network."
