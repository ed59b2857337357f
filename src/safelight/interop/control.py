"""Files of controls, both ways: ControlNets and T2I-adapters as diffusers' folders or single files, IP-adapters as single files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

from torch import Tensor

from safelight.adapt.control import ControlNetwork
from safelight.interop.checkpoint import Tensors, component, read_json, write, write_json
from safelight.interop.keys import Key, check, to_ours, to_theirs
from safelight.interop.maps import controlnet, ip, t2i, vision
from safelight.nn.blank import blank
from safelight.nn.controlnet import ControlNet, ControlNetSpec
from safelight.nn.ip import IPSpec
from safelight.nn.t2i import T2IAdapter, T2ISpec
from safelight.nn.vision import Vision
from safelight.spec import SpecError

# What the weights of a diffusers folder are called.
_WEIGHTS = "diffusion_pytorch_model.safetensors"


class _Found(NamedTuple):
    """A control as its files say: its spec, the keys of its tensors, and these, without the prefix."""

    spec: ControlNetSpec | T2ISpec | IPSpec
    keys: list[Key]
    tensors: Mapping[str, Tensor]


def name(path: str | os.PathLike[str]) -> str:
    """What a control's file or folder is called in a request: its name without suffix, a folder's for weights that lie in one."""
    path = Path(path)
    if path.is_dir():
        return path.resolve().name
    return path.resolve().parent.name if (path.parent / "config.json").is_file() else path.stem


def weights(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The files of a control's weights. Raises SpecError for a folder without."""
    path = Path(path)
    return component(path).paths if path.is_dir() else (path,)


def digest(path: str | os.PathLike[str]) -> str:
    """The first 12 hex digits of the SHA-256 of a control's weights, the headers of their files left out."""
    found = hashlib.sha256()
    for part in weights(path):
        with part.open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()[:12]


def read(path: str | os.PathLike[str]) -> ControlNetwork:
    """The control of a diffusers folder or of a safetensors file: a `ControlNet`, a `T2IAdapter` or an `IPAdapter`, its weights mapped.

    Raises SpecError, in one line, for what is none of them, and for tensors that are missing, of another shape, or of no use.
    """
    path = Path(path)
    if not path.exists():
        raise SpecError(f"no control at {path}")
    folder = path if path.is_dir() else path.parent if (path.parent / "config.json").is_file() else None
    spec, keys, tensors = _single(path) if folder is None else _folder(folder, path)
    check(keys, tensors, str(path))
    net = cast(ControlNetwork, blank(spec.build))
    state = to_ours(keys, tensors.__getitem__, {key: value.shape for key, value in net.state_dict().items()})
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


def _folder(folder: Path, path: Path) -> _Found:
    if not (folder / "config.json").is_file():
        raise SpecError(f"{folder} has no config.json: it is no control's folder")
    config = read_json(folder / "config.json")
    kind, tensors = config.get("_class_name"), component(folder) if path.is_dir() else Tensors([path])
    if kind == controlnet.CLASS:
        net = controlnet.spec(config)
        return _Found(net, controlnet.keys(net), tensors)
    if kind == t2i.CLASS:
        adapter = t2i.spec(config)
        return _Found(adapter, t2i.keys(adapter), tensors)
    raise SpecError(f"{folder} holds a {kind}, which is no control that is known here ({controlnet.CLASS}, {t2i.CLASS})")


def _single(path: Path) -> _Found:
    held = Tensors([path])
    prefix = "control_model." if any(key.startswith("control_model.") for key in held) else ""
    tensors = {key.removeprefix(prefix): held[key] for key in held if key.startswith(prefix)}
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    if (net := controlnet.recognise(shapes)) is not None:
        return _Found(net, controlnet.ldm_keys(net), tensors)
    if (adapter := t2i.recognise(shapes)) is not None:
        return _Found(adapter, t2i.ldm_keys(adapter), tensors)
    if (prompt := ip.recognise(shapes)) is not None:
        return _Found(prompt, ip.keys(prompt), tensors)
    raise SpecError(f"{path} holds no control that is known here: neither a ControlNet nor a T2I-adapter nor an IP-adapter")


def tower(path: str | os.PathLike[str], adapter: IPSpec) -> Vision:
    """The image tower that the IP-adapter of a file sees through: the folder `image_encoder` beside it, or, for those of SDXL that see
    through SD 1's, in the folder `models` next door.

    Raises SpecError when there is none of the width that the adapter takes.
    """
    beside = Path(path).resolve().parent
    for folder in (beside / "image_encoder", beside.parent / "models" / "image_encoder"):
        if not (folder / "config.json").is_file():
            continue
        spec = vision.spec(read_json(folder / "config.json"))
        if (spec.width if adapter.picture.deep else spec.space) == adapter.picture.seen:
            tensors = component(folder)
            check(vision.keys(spec), tensors, str(folder), ignore=vision.ignored)
            net = blank(spec.build)
            state = to_ours(vision.keys(spec), tensors.__getitem__, {k: value.shape for k, value in net.state_dict().items()})
            net.load_state_dict(state, assign=True)
            return net.eval().requires_grad_(False)
    raise SpecError(
        f"{path} sees a picture through CLIP's image tower ({adapter.picture.seen} wide): put that beside it, as the folder image_encoder"
    )


def save(net: ControlNetwork, path: str | os.PathLike[str]) -> None:
    """Write a control as published: a ControlNet or a T2I-adapter as diffusers' folder at `path`, an IP-adapter as the file `path`.

    Raises SpecError for one that has no counterpart there.
    """
    path, notes = Path(path), {"format": "pt"}
    if isinstance(net, ControlNet):
        config, keys = controlnet.config(net.spec), controlnet.keys(net.spec)
    elif isinstance(net, T2IAdapter):
        config, keys = t2i.config(net.spec), t2i.keys(net.spec)
    else:
        write(path, to_theirs(ip.keys(net.spec), net.state_dict()), notes)
        return
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config)
    write(path / _WEIGHTS, to_theirs(keys, net.state_dict()), notes)
