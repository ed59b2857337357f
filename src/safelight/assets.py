"""Assets: what a request names and does not hold, pictures by what is in them, models by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from safelight import model as files
from safelight.model import Model
from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.text.joint import Joint


def seal(picture: Tensor) -> str:
    """How a request names a picture: "sha256:" and the first 32 hex digits of the hash of its shape and bytes.

    picture: uint8 (C, H, W). The same pixels have the same seal, however their file is packed. Raises SpecError for anything else.
    """
    if picture.dtype != torch.uint8 or picture.ndim != 3 or not picture.numel():
        raise SpecError(f"a picture is uint8 (channels, height, width), not {picture.dtype} {tuple(picture.shape)}")
    body = repr(tuple(picture.shape)).encode() + picture.cpu().contiguous().numpy().tobytes()
    return f"sha256:{hashlib.sha256(body).hexdigest()[:32]}"


def as_pixels(picture: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 -> float32 in [-1, 1] on `device`: byte / 127.5 - 1, of which rounding back is the identity."""
    return picture.to(device).float() / 127.5 - 1


class Assets:
    """The pictures and models at hand. Models are loaded when first asked for, and once."""

    def __init__(self, pictures: Iterable[Tensor] = (), *, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._pictures: dict[str, Tensor] = {}
        self._models: dict[str, Model] = {}
        self._joints: dict[str, Joint] = {}
        self._classifiers: dict[str, nn.Module] = {}
        for picture in pictures:
            self.add(picture)

    def add(self, picture: Tensor) -> str:
        """Have a picture, uint8 (C, H, W), at hand; returns its seal."""
        name = seal(picture)
        self._pictures[name] = picture.cpu()
        return name

    def picture(self, name: str) -> Tensor:
        """uint8 (C, H, W), on the CPU. Raises SpecError when nobody has brought it."""
        if name not in self._pictures:
            raise SpecError(f"picture {name} is not at hand: give its file with --input")
        return self._pictures[name]

    def model(self, name: str) -> Model:
        """A model by path or embedded name; "NAME:WEIGHTS" takes that set of its weights. Raises SpecError when there is none."""
        if name not in self._models:
            source, _, weights = name.rpartition(":") if ":" in name else (name, "", "")
            self._models[name] = files.load(source, weights or None, device=self.device)
        return self._models[name]

    def joint(self, name: str) -> Joint:
        """A joint model of words and pictures, by path or the name of one that ships. Raises SpecError when there is none."""
        from safelight.text import joint

        if name not in self._joints:
            self._joints[name] = joint.load(files.locate(name), device=self.device)
        return self._joints[name]

    def classifier(self, name: str) -> nn.Module:
        """A classifier of noisy pictures, by path or the name of one that ships. Raises SpecError when there is none."""
        from safelight.nn import classifier

        if name not in self._classifiers:
            self._classifiers[name] = classifier.load(files.locate(name), device=self.device)
        return self._classifiers[name]
