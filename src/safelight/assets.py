"""Assets: what a request names and does not hold, pictures by what is in them, models by name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from safelight import model as files
from safelight.adapt.control import Control, ControlNetwork
from safelight.adapt.inversion import Inversion, WordUse
from safelight.adapt.lora import Lora, LoraUse
from safelight.model import Model
from safelight.nn.ip import IPAdapter
from safelight.nn.vision import Vision
from safelight.spec import SpecError, nearest

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
    """The pictures, adapters and models at hand. Models are loaded when first asked for, and once."""

    def __init__(self, pictures: Iterable[Tensor] = (), *, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._pictures: dict[str, Tensor] = {}
        self._models: dict[str, Model] = {}
        self._joints: dict[str, Joint] = {}
        self._classifiers: dict[str, nn.Module] = {}
        self._loras: dict[str, Path] = {}
        self._words: dict[str, Path] = {}
        self._control_paths: dict[str, Path] = {}
        self._controls: dict[str, ControlNetwork] = {}
        self._towers: dict[str, Vision] = {}
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

    def bring_lora(self, file: str | os.PathLike[str]) -> LoraUse:
        """Have an adapter's file at hand; returns it as a request names it, worn whole.

        Raises SpecError for a file that is not there, and for a second one of the same name.
        """
        name = _named(file, self._loras, "adapter")
        return LoraUse(name=name, hash=_lora_digest(self._loras[name]))

    def bring_word(self, file: str | os.PathLike[str], word: str | None = None) -> WordUse:
        """Have the file of a learned word at hand; returns it as a request names it. word: another name for it in prompts.

        Raises SpecError as `bring_lora`.
        """
        name = _named(file, self._words, "learned word")
        return WordUse(name=name, word=word, hash=_word_digest(self._words[name]))

    def meant(self, use: LoraUse | WordUse | Control) -> LoraUse | WordUse | Control:
        """The same with the hash of its file, where that is at hand and no hash is said."""
        there, digest = (self._words, _word_digest)
        if isinstance(use, LoraUse):
            there, digest = self._loras, _lora_digest
        elif isinstance(use, Control):
            there, digest = self._control_paths, _control_digest
        if use.hash or use.name not in there or not there[use.name].exists():
            return use
        return use.model_copy(update={"hash": digest(there[use.name])})

    def lora(self, use: LoraUse, model: Model) -> Lora:
        """An adapter that a request names, for a model. Raises SpecError when nobody has brought it, it is another, or does not fit."""
        from safelight.interop.lora import load

        if use.name not in self._loras:
            raise SpecError(f"adapter '{use.name}' is not at hand: give its file with --lora{nearest(use.name, self._loras)}")
        path = self._loras[use.name]
        if use.hash and not (found := _lora_digest(path)).startswith(use.hash[: len(found)]):
            raise SpecError(f"{path} is another adapter '{use.name}' ({found}) than the one that is meant ({use.hash})")
        return load(path, model, partial=use.partial)[0]

    def words(self, use: WordUse) -> list[Inversion]:
        """The words in a file that a request names. Raises SpecError when nobody has brought it, it is another, or holds none."""
        from safelight.interop.inversion import load

        if use.name not in self._words:
            raise SpecError(
                f"learned word '{use.name}' is not at hand: give its file with --embedding{nearest(use.name, self._words)}"
            )
        path = self._words[use.name]
        if use.hash and not (found := _word_digest(path)).startswith(use.hash[: len(found)]):
            raise SpecError(f"{path} is another learned word '{use.name}' ({found}) than the one that is meant ({use.hash})")
        return load(path, use.word)

    def bring_control(self, path: str | os.PathLike[str]) -> str:
        """Have a control's file or folder at hand; returns the name by which a request calls it. It is read when it is asked for.

        Raises SpecError when there is nothing at the path, and for a second control of the same name.
        """
        from safelight.interop import control

        name, found = control.name(path), Path(path).resolve()
        if not found.exists():
            raise SpecError(f"no control at {path}")
        if self._control_paths.setdefault(name, found) != found:
            raise SpecError(f"two controls are called '{name}', {self._control_paths[name]} and {found}: rename one of them")
        return name

    def control(self, name: str, meant: str = "") -> ControlNetwork:
        """A control that was brought. meant: its hash, where it is known. Raises SpecError for another, and for files that hold none."""
        from safelight.interop import control

        path = self._control_path(name)
        if meant and not (found := _control_digest(path)).startswith(meant[: len(found)]):
            raise SpecError(f"{path} is another control '{name}' ({found}) than the one that is meant ({meant})")
        if name not in self._controls:
            self._controls[name] = control.read(path).to(self.device)
        return self._controls[name]

    def tower(self, name: str) -> Vision:
        """The image tower that an IP-adapter, brought as a control, sees through. Raises SpecError when there is none beside it."""
        from safelight.interop import control

        if name not in self._towers:
            adapter = self.control(name)
            if not isinstance(adapter, IPAdapter):
                raise SpecError(f"control '{name}' is no IP-adapter: it sees its picture itself")
            self._towers[name] = control.tower(self._control_path(name), adapter.spec).to(self.device)
        return self._towers[name]

    def _control_path(self, name: str) -> Path:
        if name not in self._control_paths:
            near = nearest(name, self._control_paths)
            raise SpecError(f"control '{name}' is not at hand: give its file with --control{near}")
        return self._control_paths[name]


def _named(file: str | os.PathLike[str], there: dict[str, Path], what: str) -> str:
    """The name of a file that is put at hand."""
    path = Path(file).absolute()
    name = path.name if path.is_dir() else path.stem
    if not path.exists():
        raise SpecError(f"no file {file}")
    if there.setdefault(name, path) != path:
        raise SpecError(
            f"two files are called '{name}', {there[name]} and {path}: rename one, a request knows the {what} by it"
        )
    return name


def _control_digest(path: Path) -> str:
    from safelight.interop.control import digest, weights

    files = weights(path)
    return _once(digest, files[0]) if len(files) == 1 else digest(path)


def _lora_digest(path: Path) -> str:
    from safelight.interop.lora import digest

    return _once(digest, path)


def _word_digest(path: Path) -> str:
    from safelight.interop.inversion import digest

    return _once(digest, path)


def _once(digest: Callable[[Path], str], path: Path) -> str:
    """A file's hash, worked out again only where the file is another: adapters have hundreds of megabytes."""
    if path.is_dir():
        return digest(path)
    about = path.stat()
    return _hashed(digest, path.absolute(), about.st_mtime_ns, about.st_size, about.st_ino)


@lru_cache(256)
def _hashed(digest: Callable[[Path], str], path: Path, *stamp: int) -> str:
    return digest(path)
