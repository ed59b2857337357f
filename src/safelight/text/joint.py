"""The joint model: words and pictures in one space. A CLIP pair with its tokenizer, as one file.

It judges and compares; it does not condition. (A generator's own text encoder must not grade what it made.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.files import atomic
from safelight.nn.clip import ImageTower, Pair, Similarity
from safelight.spec import Spec, SpecError, describe, one_line
from safelight.text.clip import CLIPText, CLIPTextSpec

FORMAT = 1  # of the file
_KEY = "safelight.joint"


class JointSpec(Spec, family="joint", kind="joint"):
    """text: the language tower. size, channels: of the square pictures. patch, width, layers, heads: of the picture tower, a
    vision transformer; early: its patches are made by convolutions, not by one linear map (learns from fewer pictures).
    space: dimensions of the shared sphere. The default has 4,942,657 parameters."""

    text: CLIPTextSpec = CLIPTextSpec(causal=False)
    channels: int = Field(3, ge=1)
    size: tuple[int, int] = (64, 64)
    patch: int = Field(8, ge=1)
    width: int = Field(192, ge=1)
    layers: int = Field(4, ge=1)
    heads: int = Field(3, ge=1)
    early: bool = False
    space: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _square(self) -> JointSpec:
        if self.size[0] != self.size[1] or self.size[0] < 1 or self.size[0] % self.patch:
            raise ValueError(f"size is that of a square that patches of {self.patch} tile, not {self.size[0]}x{self.size[1]}")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        if self.early and (self.patch < 2 or self.patch & (self.patch - 1) or self.width % self.patch):
            raise ValueError(f"early: convolutions need a patch that is a power of two and divides the width, not {self.patch}")
        return self

    def build(self) -> Joint:
        """A pair with fresh weights."""
        return Joint(self)


class Joint(nn.Module):
    """Prompts and pictures -> unit vectors of one space. `text` tokenises and encodes words, `pair.image` pictures."""

    def __init__(self, spec: JointSpec) -> None:
        super().__init__()
        self.spec = spec
        self.text = CLIPText(spec.text)
        image = ImageTower(
            spec.channels, spec.size[0], spec.patch, spec.width, spec.layers, spec.heads, spec.text.quick, spec.early
        )
        self.pair = Pair(spec.text.projection or spec.text.width, image, spec.space)
        self.lineage: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.pair.scale.device

    def embed_text(self, tokens: Tensor) -> Tensor:
        """tokens (B, k L), as `text.tokenize` gives them -> (B, space) of length 1, float32."""
        vector = self.text(tokens).vector
        assert vector is not None  # a CLIP tower always pools
        return self.pair.embed_text(vector)

    def embed_image(self, x: Tensor) -> Tensor:
        """x (B, C, size, size) in [-1, 1] -> (B, space) of length 1, float32."""
        return self.pair.embed_image(x)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """(N, space): prompts of any length, embedded."""
        return self.pair.embed_text(self.text.vectors(prompts, batch))

    @torch.no_grad()
    def pictures(self, x: Tensor, batch: int = 256) -> Tensor:
        """(N, space): pictures (N, C, size, size), uint8 or in [-1, 1], embedded."""
        parts = (p.to(self.device) for p in x.split(batch))
        return torch.cat([self.embed_image(p.float() / 127.5 - 1 if p.dtype == torch.uint8 else p) for p in parts])

    def similarity(self, x: Tensor, prompts: Sequence[str]) -> Similarity:
        """How well each of N pictures fits each of M prompts: (N, M). Zero-shot classification, with a prompt a class."""
        return self.pair.compare(self.pictures(x), self.texts(prompts))

    def classify(self, x: Tensor, names: Sequence[str], templates: Sequence[str] = ("a picture of {}",)) -> Similarity:
        """Which of M names each of N pictures shows: (N, M). A class is the direction of its templates' mean.

        Radford et al. 2021, section 3.1.4, "prompt ensembling". Raises SpecError for a template without its place, {}.
        """
        for template in templates:
            if "{}" not in template:
                raise SpecError(f"template '{template}' has no place for the name: write {{}} in it")
        texts = self.texts([template.replace("{}", name) for name in names for template in templates])
        classes = F.normalize(texts.unflatten(0, (len(names), len(templates))).mean(1), dim=-1)
        return self.pair.compare(self.pictures(x), classes)


def recall(images: Tensor, texts: Tensor, k: int = 1) -> tuple[float, float]:
    """R@k of N pairs of embeddings (N, D): how often a picture's own text is among its k nearest, and a text's own picture.

    Ties count against, and so does what is not a number: a collapsed space or a diverged model has recall near 0, not 1.
    """
    s = images @ texts.T
    own = s.diagonal()
    return tuple(((~(s < own.unsqueeze(d))).sum(d) <= k).double().mean().item() for d in (1, 0))  # type: ignore[return-value]


def save(
    path: str | os.PathLike[str], joint: Joint, lineage: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write one `.safetensors` with the spec and the lineage in its header, floats in `dtype`; whole or not at all."""
    from safetensors.torch import save_file

    tensors = {
        k: v.detach().cpu().to(dtype if v.is_floating_point() else v.dtype).contiguous() for k, v in joint.state_dict().items()
    }
    header = {_KEY: str(FORMAT), "spec": json.dumps(describe(joint)), "lineage": json.dumps(dict(lineage or joint.lineage))}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Joint:
    """A saved pair, or that of a run's checkpoint, in evaluation mode, float32.

    Of a run's checkpoint the first average is taken, else the raw weights. Raises SpecError, in one line, for a missing, foreign or
    damaged file.
    """
    from safetensors import SafetensorError, safe_open

    target = Path(path)
    if not target.is_file():
        raise SpecError(f"{path}: there is no joint model; train one with the recipe sprites-clip")
    try:
        with safe_open(target, framework="pt") as file:
            spec, lineage, weights = _described(target, file.metadata() or {})
            names = {k.removeprefix(weights): k for k in file.keys() if k.startswith(weights)}  # noqa: SIM118 (not a dict)
            tensors = {name: file.get_tensor(full).float() for name, full in names.items()}
        with torch.random.fork_rng(devices=[]):
            joint = JointSpec.model_validate(spec).build()
        joint.load_state_dict(tensors)
    except (SafetensorError, OSError) as error:
        raise SpecError(f"{target}: not a readable .safetensors file ({one_line(error)})") from None
    except (KeyError, json.JSONDecodeError, ValidationError, RuntimeError) as error:
        raise SpecError(f"{target}: {one_line(error, 'spec')}") from None
    joint.lineage = lineage
    return joint.to(device).eval()


def _described(path: Path, header: Mapping[str, str]) -> tuple[Any, dict[str, Any], str]:
    """The spec, the lineage and what the names of the weights to take begin with: a saved pair's own, or those of a checkpoint."""
    if header.get(_KEY) == str(FORMAT):
        return json.loads(header["spec"]), json.loads(header.get("lineage", "{}")), ""
    about = json.loads(header.get("safelight", "{}"))
    if about.get("format") != FORMAT or about.get("spec", {}).get("family") != "joint":
        raise SpecError(f"{path}: no joint model of format {FORMAT}")
    weights = next((name for name in about["weights"] if name != "raw"), "raw")
    return about["spec"], about["lineage"], f"{weights}/"
