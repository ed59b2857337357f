"""LoRA files, in and out: kohya, diffusers (current and legacy), PEFT, the original model's names, and our own.

A flavour is how a layer is called and what ends the names of its two factors:

    kohya      lora_unet_<name with _ for .>.lora_down.weight   .lora_up.weight  .alpha       lora_te_, lora_te1_, lora_te2_
    diffusers  unet.<name>.lora_A.weight                        .lora_B.weight                text_encoder., text_encoder_2.
    peft       base_model.model.<name>.lora_A.weight            .lora_B.weight                alpha in adapter_config.json
    legacy     unet.<attention>.processor.to_q_lora.down.weight .up.weight                    text_encoder.<name>.lora_linear_layer.
    original   diffusion_model.<name in the single file>.lora_A.weight, .lora_B.weight, .alpha
    safelight  <our module>[part/parts].lora_down.weight        .lora_up.weight  .alpha

Which layer a name means is looked up in the names of all layers of the model, spelled in every flavour. Nothing is guessed from a name
by taking it apart: in kohya's spelling an underscore may be a dot or an underscore. Flavours that hold no `alpha` tensor say it in the
header, as diffusers does, in an entry that it reads. What is written by one flavour and read again is the same to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from safelight.adapt.lora import KINDS, Change, Lora
from safelight.files import atomic
from safelight.interop.checkpoint import Tensors, header_dtype, read_json, torch_dtype, write, write_json
from safelight.interop.keys import Key, Place, Transposed, Turn, places
from safelight.interop.maps import clip, dit, pixart, unet
from safelight.model import Model
from safelight.spec import SpecError, nearest
from safelight.text.clip import CLIPText

Flavour = Literal["kohya", "diffusers", "peft", "legacy", "original", "safelight"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
_NOTE = "safelight"
_THEIRS = "lora_adapter_metadata"  # diffusers' entry of the header
_ROLES = tuple(
    (re.compile(end + "$"), role)
    for end, role in (
        (r"\.(?:lora_down|down|lora_A(?:\.(?!weight)\w+)?)\.weight", "down"),
        (r"\.(?:lora_up|up|lora_B(?:\.(?!weight)\w+)?)\.weight", "up"),
        (r"\.lora_mid\.weight", "mid"),
        (r"\.alpha", "alpha"),
        (r"\.(?:dora_scale|lora_magnitude_vector(?:\.(?!weight)\w+)?(?:\.weight)?)", "magnitude"),
    )
)
_ENDS: dict[Flavour, dict[str, str]] = {
    "kohya": {
        "down": ".lora_down.weight",
        "up": ".lora_up.weight",
        "mid": ".lora_mid.weight",
        "alpha": ".alpha",
        "magnitude": ".dora_scale",
    },
    "diffusers": {"down": ".lora_A.weight", "up": ".lora_B.weight", "magnitude": ".lora_magnitude_vector"},
    "legacy": {"down": ".down.weight", "up": ".up.weight"},
    "original": {"down": ".lora_A.weight", "up": ".lora_B.weight", "alpha": ".alpha", "magnitude": ".dora_scale"},
}
_ENDS["peft"], _ENDS["safelight"] = _ENDS["diffusers"], _ENDS["kohya"]
# What else is called an adapter: these change weights by other formulas.
_OTHERS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT",
    "lora_embedding_": "a LoRA of an embedding table",
    ".diff": "a full difference of weights",
    ".on_input": "an IA3",
    "lora_bias": "a LoRA with biases",
    "lora_B.bias": "a LoRA with biases",
}
_ATTENTION = re.compile(r"(.*)\.(to_[qkv]|to_out)(?:\.0)?$")
_WORDS = re.compile(r"(.*self_attn)\.(q|k|v|out)_proj$")
_COMFY = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
# A network's kind here, its map, and what the part is called in the names of adapters.
_NETWORKS: tuple[tuple[str, Any, str], ...] = (
    ("unet", unet, "unet"),
    ("dit", dit, "transformer"),
    ("dit", pixart, "transformer"),
)
_SHARE = re.compile(r"(.+)\[(\d+)/(\d+)\]$")


class Layer(NamedTuple):
    """A layer as a flavour knows it: share `part` of `parts` of the rows of our `module`, of weight `shape` there.

    spelling: whose `name` it is. of: "unet", "transformer", "text_encoder" or "text_encoder_2". turn: of its rows, see `keys.Key`.
    """

    module: str
    part: int
    parts: int
    shape: tuple[int, ...]
    name: str
    of: str
    spelling: Literal["diffusers", "original", "safelight"]
    turn: Turn | None = None


class Report(NamedTuple):
    """What became of a file's tensors. matched: names that are used; of the others, each with the reason in brackets.

    unused: no layer of the model takes it. missing: the half of a pair that is not there. mismatched: layers of other shapes.
    """

    matched: tuple[str, ...]
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is not as it should be."""
        return (*self.unused, *self.missing, *self.mismatched)

    def __str__(self) -> str:
        counts = (
            f"{len(names)} {what}" for what, names in zip(("unused", "missing", "mismatched"), self[1:], strict=True) if names
        )
        return ", ".join((f"{len(self.matched)} matched", *counts))


def load(source: str | os.PathLike[str], model: Model, *, partial: bool = False) -> tuple[Lora, Report]:
    """An adapter from a file, or from a folder: PEFT's (`adapter_model.safetensors`, `adapter_config.json`) or diffusers', for a model.

    It may hold one folder of PEFT's a part, as `save` writes them. The tensors are views of the mapped file. partial: what does not
    fit is left out instead of being an error, and told in the report. Raises SpecError, in one line, for a file that is missing or of
    another kind, for one of which a tensor fits no layer of the model or a pair is not whole, and, also when partial, for one of which
    nothing fits.
    """
    path, parts = Path(source), {of: Tensors([file]) for of, file in _files(Path(source)).items()}
    tensors: Mapping[str, Tensor] = parts.get("") or {f"{of}/{n}": part[n] for of, part in parts.items() for n in part}
    configs = {of: _beside(path / of) for of in parts} if path.is_dir() else {}
    notes = next(iter(parts.values())).notes
    found, report = read(tensors, notes, model, where=str(path), configs=configs, partial=partial)
    return found._replace(name=path.name if path.is_dir() else path.stem), report


def digest(path: str | os.PathLike[str]) -> str:
    """The first 12 hex digits of the SHA-256 of a safetensors file without its header: A1111's "Lora hashes".

    Of a folder it is that of its parts' files in order. Raises SpecError where there is none.
    """
    found = hashlib.sha256()
    for name in _files(Path(path)).values():
        with name.open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()[:12]


def read(
    tensors: Mapping[str, Tensor],
    notes: Mapping[str, str],
    model: Model,
    *,
    where: str = "the adapter",
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    partial: bool = False,
) -> tuple[Lora, Report]:
    """An adapter from tensors by name and the notes of a header, see `load`. configs: PEFT's by part, or under "" for all."""
    spellings, note = Spellings(model), _noted(notes)
    told = _told(notes, where) | dict(configs or {})
    found: dict[tuple[str, int, int], tuple[Layer, dict[str, str]]] = {}
    unused, matched, missing, mismatched = list[str](), list[str](), list[str](), list[str]()
    for name in tensors:
        stem, role = _parsed(name)
        layer = spellings.find(stem) if role else None
        if layer is None:
            unused.append(f"{name} ({spellings.why(name, stem, role, near=not unused)})")
            continue
        there = found.setdefault(layer[:3], (layer, {}))[1]
        if role in there:
            unused.append(f"{name} (the same layer as {there[role]})")
        else:
            there[role] = name
    changes, spelling = list[Change](), ""
    for layer, roles in found.values():
        lost = [role for role in ("down", "up") if role not in roles]
        if lost:
            missing.append(f"{next(iter(roles.values()))} (its '{lost[0]}' is not there)")
            continue
        values = {role: tensors[name] for role, name in roles.items()}
        why = _misfit(layer, values, roles)
        if why:
            mismatched.append(f"{roles['down']} ({why})")
            continue
        if "alpha" not in values:
            alpha = _alpha(layer, len(values["down"]), _parsed(roles["down"])[0], told, note)
            values |= {} if alpha is None else {"alpha": alpha}
        changes.append(_ours(layer, values, spellings.inner(layer)))
        matched += roles.values()
        if not layer.of.startswith("text_encoder") and (layer.spelling == "original" or roles["down"].startswith("lora_")):
            spelling = layer.spelling
    report = Report(tuple(matched), tuple(unused), tuple(missing), tuple(mismatched))
    if (report.problems and not partial) or not changes:
        first, more = (report.problems or ("it holds no tensors",))[0], len(report.problems) - 1
        tail = f", and {more} more" if more > 0 else ""
        hope = "; --allow-partial takes the rest" if changes else ""
        raise SpecError(f"{where} does not fit the model, {report}: {first}{tail}{hope}")
    about = {k: v for k, v in notes.items() if k not in (_NOTE, _THEIRS)}
    return Lora(tuple(changes), about=about, spelling=note.get("spelling", spelling)), report


def save(path: str | os.PathLike[str], lora: Lora, model: Model, flavour: Flavour) -> None:
    """Write an adapter in a flavour, with its notes; for "peft" `path` is a folder, and one for each part beneath it if there are several.

    Raises SpecError where the flavour cannot say it: a layer that it has no name for, DoRA in "legacy", a Tucker middle in most.
    """
    target = Path(path)
    tensors, notes, configs = spelled(lora, model, flavour)
    if flavour != "peft":
        with atomic(target) as temporary:
            write(temporary, tensors, notes)
        return
    for of, config in configs.items():
        folder = target if len(configs) == 1 else target / of
        folder.mkdir(parents=True, exist_ok=True)
        mine = {name.removeprefix(of + "/"): value for name, value in tensors.items() if name.startswith(of + "/")}
        with atomic(_weights(folder)) as temporary:
            write(temporary, mine, notes)
        write_json(folder / "adapter_config.json", _PEFT | config)


def spelled(lora: Lora, model: Model, flavour: Flavour) -> tuple[dict[str, Tensor], dict[str, str], dict[str, dict[str, Any]]]:
    """What `save` writes: the tensors, the header's notes, and PEFT's settings by part ("unet", "text_encoder").

    In "peft" the names begin with the part and a "/". Raises as `save` does.
    """
    spellings = Spellings(model)
    ends, tensors, alphas = _ENDS[flavour], dict[str, Tensor](), dict[str, list[str]]()
    said: dict[str, list[tuple[str, Change]]] = {}
    original = flavour == "original" or (
        flavour == "kohya" and lora.spelling != "diffusers" and (lora.spelling == "original" or spellings.texts > 1)
    )
    for whole in lora.changes:
        for change, layer in spellings.split(whole, lora.name, original, flavour):
            stem = spellings.stem(layer, flavour)
            for role, value in _theirs(layer, change, flavour).items():
                if role in ends:
                    tensors[stem + ends[role]] = value
                elif role == "alpha":
                    alphas.setdefault(f"{header_dtype(value.dtype)} {value.ndim}", []).append(stem)
                else:
                    raise SpecError(
                        f"adapter '{lora.name}': the flavour '{flavour}' has no word for the {role} of '{change.label}'"
                    )
            said.setdefault(layer.of, []).append((layer.name, change))
    notes = dict(lora.about)
    configs = {of: _config(layers, lora.name, of) for of, layers in said.items()} if "alpha" not in ends else {}
    note: dict[str, Any] = {"what": "lora", "format": 1, "spelling": lora.spelling}
    if "alpha" not in ends:
        notes[_NOTE] = json.dumps(note | {"alpha": alphas}, sort_keys=True)
        if flavour != "peft":
            theirs = {f"{of}.{name}": value for of, config in configs.items() for name, value in config.items()}
            notes[_THEIRS] = json.dumps(theirs, indent=2, sort_keys=True)
    elif flavour != "kohya":
        notes[_NOTE] = json.dumps(note, sort_keys=True)
    return tensors, notes, configs


class Spellings:
    """The layers of a model, called by every name that an adapter's file may have for them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._weights = {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, KINDS)}
        texts = _texts(model)
        self.texts = len(texts)
        self.layers: list[Layer] = []
        for kind, maps, of in _NETWORKS:
            spec = model.spec.network
            if spec.kind == kind and (theirs := _places(maps, maps.keys, spec)):
                self._add(theirs, "denoiser.network.", of, "diffusers")
                self._add(_places(maps, maps.ldm_keys, spec), "denoiser.network.", of, "original")
                break
        for i, (prefix, spec) in enumerate(texts):
            self._add(
                _places(clip, clip.keys, spec), prefix, "text_encoder" if i == 0 else f"text_encoder_{i + 1}", "diffusers"
            )
        self._known: dict[str, Layer | None] = {}
        for layer in self.layers:
            for stem in self._aliases(layer):
                there = self._known.setdefault(stem, layer)
                if there is not None and there[:3] != layer[:3]:
                    self._known[stem] = None

    def _add(self, found: Mapping[str, Place], prefix: str, of: str, spelling: Literal["diffusers", "original"]) -> None:
        for name, place in found.items():
            module = prefix + place.ours
            if module not in self._weights or isinstance(place.turn, Transposed) or (place.turn and place.parts > 1):
                continue
            rows, *inner = self._weights[module]
            shape = (rows // place.parts, *(inner if place.shape is None else place.shape[1:]))
            self.layers.append(Layer(module, place.part, place.parts, shape, name, of, spelling, place.turn))

    def inner(self, layer: Layer) -> tuple[int, ...]:
        """The shape of our weight behind its rows."""
        return self._weights[layer.module][1:]

    def find(self, stem: str) -> Layer | None:
        """The layer of a name without its end; None for one that is unknown or means several."""
        if stem in self._known:
            return self._known[stem]
        share = _SHARE.match(stem)
        module, part, parts = (share[1], int(share[2]) - 1, int(share[3])) if share else (stem, 0, 1)
        if module not in self._weights or not 0 <= part < parts or self._weights[module][0] % parts:
            return None
        return self._own(module, part, parts)

    def _own(self, module: str, part: int, parts: int) -> Layer:
        rows, *inner = self._weights[module]
        return Layer(module, part, parts, (rows // parts, *inner), module, "", "safelight")

    def why(self, name: str, stem: str, role: str, *, near: bool = False) -> str:
        """Why no layer takes a tensor, in a few words. near: with the nearest name that there is, which takes its time."""
        other = next((what for mark, what in _OTHERS.items() if mark in name), None)
        if other:
            return f"of {other}, which is not read here"
        if not role:
            return "no tensor of a LoRA is called so"
        if stem in self._known:
            return "its name means more than one layer"
        return f"the model has no such layer{nearest(stem, self._known) if near else ''}"

    def stem(self, layer: Layer, flavour: Flavour) -> str:
        """What a layer is called in a flavour, without the end."""
        name, of = layer.name, layer.of
        text = of.startswith("text_encoder")
        if flavour == "safelight":
            return Change(layer.module, torch.empty(0), torch.empty(0), None, layer.part, layer.parts).label
        if flavour == "kohya":
            number = of.removeprefix("text_encoder").removeprefix("_") or "1"
            return (f"lora_te{number if self.texts > 1 else ''}_" if text else "lora_unet_") + name.replace(".", "_")
        if flavour == "peft":
            return f"{of}/base_model.model.{name}"
        if flavour == "original":
            return f"text_encoders.{_COMFY[of]}.transformer.{name}" if text else f"diffusion_model.{name}"
        if flavour == "diffusers":
            return f"{of}.{name}"
        if text:
            return f"{of}.{name}.lora_linear_layer"
        match = _ATTENTION.match(name)
        return f"{of}.{match[1]}.processor.{match[2]}_lora" if match else f"{of}.{name}.lora"

    def _aliases(self, layer: Layer) -> Iterator[str]:
        """Every name of a layer, in the flavours and in what has been written under their names."""
        name, of, flat = layer.name, layer.of, layer.name.replace(".", "_")
        if layer.spelling == "original":
            yield from (f"diffusion_model.{name}", f"model.diffusion_model.{name}", f"lora_unet_{flat}", name)
            return
        match = _ATTENTION.match(name)
        if not of.startswith("text_encoder"):
            yield from (
                f"lora_unet_{flat}",
                f"lora_{of}_{flat}",
                f"{of}/base_model.model.{name}",
                f"{of}.base_model.model.{name}",
            )
            for start in (f"{of}.", "", "base_model.model."):
                yield from (start + name, f"{start}{name}.lora")
                if match:
                    yield from (f"{start}{match[1]}.processor.{match[2]}_lora", f"{start}{match[1]}.{match[2]}_lora")
            return
        number = of.removeprefix("text_encoder").removeprefix("_") or "1"
        bare = name.removeprefix(clip.PREFIX)
        for inside in (bare, clip.PREFIX + bare):
            flat = inside.replace(".", "_")
            words = _WORDS.match(inside)
            yield f"lora_te{number}_{flat}"
            yield from (f"lora_te_{flat}",) if self.texts == 1 else ()
            yield from (f"text_encoders.{_COMFY[of]}.transformer.{inside}",) if of in _COMFY else ()
            yield f"{of}/base_model.model.{inside}"
            for start in (f"{of}.", "", "base_model.model."):
                yield from (start + inside, f"{start}{inside}.lora_linear_layer", f"{start}{inside}.lora")
                if words:
                    yield f"{start}{words[1]}.to_{words[2]}_lora"

    def split(self, change: Change, name: str, original: bool, flavour: Flavour) -> list[tuple[Change, Layer]]:
        """A change with the layer that a flavour has for it; several, where it changes the whole of what are several layers there.

        Raises SpecError where the flavour has none.
        """
        if flavour == "safelight":
            return [(change, self._own(change.module, change.part, change.parts))]
        for spelling in ("original", "diffusers") if original else ("diffusers",):
            there = [x for x in self.layers if x.module == change.module and x.spelling == spelling]
            same = [x for x in there if x[:3] == (change.module, change.part, change.parts)]
            if same:
                return [(change, same[0])]
            if there and change.parts == 1 and len(there) == there[0].parts:
                rows = [None if v is None else v.chunk(len(there)) for v in (change.up, change.magnitude)]
                return [
                    (
                        change._replace(
                            part=x.part,
                            parts=x.parts,
                            up=rows[0][x.part],  # type: ignore[index]
                            magnitude=None if rows[1] is None else rows[1][x.part],
                        ),
                        x,
                    )
                    for x in there
                ]
        raise SpecError(
            f"adapter '{name}': '{change.label}' has no name in the flavour '{flavour}'; only 'safelight' has one for every layer"
        )


_PEFT: dict[str, Any] = {
    "base_model_name_or_path": None,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_dropout": 0.0,
    "peft_type": "LORA",
    "task_type": None,
    "use_rslora": False,
}


def _places(maps: Any, keys: Callable[[Any], list[Key]], spec: Any) -> dict[str, Place]:
    """The layers of a part by the names of a layout, none where the part has no counterpart there."""
    try:
        maps.config(spec)
        return places(keys(spec))
    except SpecError:
        return {}


def _texts(model: Model) -> list[tuple[str, Any]]:
    """The CLIP encoders of a model in their order: their place in it, and their specs."""
    if model.text is None:
        return []
    return [(f"text.{name}." if name else "text.", m.spec) for name, m in model.text.named_modules() if isinstance(m, CLIPText)]


def _weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def _files(path: Path) -> dict[str, Path]:
    """The files of an adapter, by part, or under "" for all. Raises SpecError for a folder that holds none."""
    if not path.is_dir():
        return {"": path}
    for file in (_weights(path), path / "pytorch_lora_weights.safetensors"):
        if file.is_file():
            return {"": file}
    found = {
        of: _weights(path / of)
        for of in ("unet", "transformer", "text_encoder", "text_encoder_2")
        if _weights(path / of).is_file()
    }
    if not found:
        raise SpecError(
            f"{path} holds no adapter: neither adapter_model.safetensors nor pytorch_lora_weights.safetensors is there"
        )
    return found


def _beside(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    return read_json(path) if path.is_file() else {}


def _parsed(name: str) -> tuple[str, str]:
    """A tensor's name without its end, and what the end says it is ("" for nothing of a LoRA)."""
    for pattern, role in _ROLES:
        match = pattern.search(name)
        if match:
            return name[: match.start()], role
    return name, ""


def _noted(notes: Mapping[str, str]) -> dict[str, Any]:
    """Our own entry of a header, {} where there is none or it is not one of ours."""
    try:
        found = json.loads(notes.get(_NOTE, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("what") == "lora" else {}


def _told(notes: Mapping[str, str], where: str) -> dict[str, Mapping[str, Any]]:
    """diffusers' entry of a header: PEFT's settings by part."""
    try:
        found = json.loads(notes.get(_THEIRS, "{}"))
        told: dict[str, dict[str, Any]] = {}
        for name, value in found.items():
            of, _, setting = name.partition(".")
            told.setdefault(of, {})[setting] = value
    except (ValueError, AttributeError, RecursionError):
        raise SpecError(f"{where} is damaged: '{_THEIRS}' in its header is no JSON object") from None
    return dict(told)


def _alpha(layer: Layer, rank: int, stem: str, told: Mapping[str, Mapping[str, Any]], note: Mapping[str, Any]) -> Tensor | None:
    """A layer's alpha as settings say it, in the type that our own note says; None where nothing does, which means the rank."""
    config = told.get(layer.of) or told.get("") or {}
    try:
        value = _pattern(config.get("alpha_pattern") or {}, layer.name)
        value = float(config["lora_alpha"] if value is None else value) if "lora_alpha" in config else None
        types = {name: kind for kind, names in note.get("alpha", {}).items() for name in names}
        stem = stem if stem in types else f"{layer.of}/{stem}"  # as a folder of its own it is called without the part
        if value is None or ("alpha" in note and stem not in types):
            return None
        if config.get("use_rslora"):  # Kalajdzievski 2023: alpha / sqrt(rank)
            value *= math.sqrt(rank)
        kind, _, dims = types.get(stem, "F32 0").partition(" ")
        return torch.tensor(value, dtype=torch_dtype(kind)).reshape((1,) * min(int(dims or 0), 4))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise SpecError(f"adapter: the settings of '{layer.of}' in its header or adapter_config.json are damaged") from None


def _pattern(patterns: Mapping[str, Any], name: str) -> Any:
    """The value of the first of PEFT's patterns that means a layer. They are names, or ends of names; no expression is run."""
    for pattern, value in patterns.items():
        end = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if name == end or (not pattern.startswith("^") and name.endswith("." + end)) or name == clip.PREFIX + end:
            return value
    return None


def _misfit(layer: Layer, values: Mapping[str, Tensor], names: Mapping[str, str]) -> str:
    """Why tensors do not fit a layer, in a few words; "" where they do."""
    down, up, mid, magnitude = (values.get(role) for role in ("down", "up", "mid", "magnitude"))
    assert down is not None and up is not None
    rows, inner, rank = layer.shape[0], layer.shape[1:], len(down) if down.ndim else 0
    wide = math.prod(inner if mid is None else inner[:1])
    whole = next((role for role, value in values.items() if role != "alpha" and not value.is_floating_point()), None)
    if whole is not None:
        return f"its '{whole}' is of {str(values[whole].dtype).removeprefix('torch.')}, which says no weights"
    if not rank:
        return "it has rank 0"
    if down.ndim < 2 or up.ndim < 2 or len(up) != rows or down[0].numel() != wide:
        return f"{tuple(down.shape)} and {tuple(up.shape)}, where the layer has {rows} rows of {wide}"
    if up[0].numel() != rank or (mid is not None and tuple(mid.shape) != (rank, rank, *inner[1:])):
        return f"down has rank {rank}, up {up[0].numel()}"
    if "alpha" in values and values["alpha"].numel() != 1:
        return f"its alpha is {values['alpha'].numel()} numbers"
    if magnitude is not None and magnitude.numel() != rows:
        return f"its magnitude is {tuple(magnitude.shape)}, where the layer has {rows} rows"
    if magnitude is not None and names["magnitude"].endswith(".dora_scale") and magnitude.ndim > 1 and len(magnitude) != rows:
        return "its dora_scale is one of columns, which is not read here; that of rows is"
    return ""


def _ours(layer: Layer, values: Mapping[str, Tensor], inner: Sequence[int]) -> Change:
    """A layer's change in our layout. inner: the shape of our weight behind its rows."""
    down, up, mid, magnitude = (values.get(role) for role in ("down", "up", "mid", "magnitude"))
    assert down is not None and up is not None
    ones = (1,) * (len(inner) - 1)
    down = down.reshape(len(down), *inner) if mid is None else down.reshape(len(down), -1, *ones)
    up = up.reshape(len(up), -1)
    magnitude = None if magnitude is None else magnitude.reshape(-1)
    if layer.turn is not None:
        up, magnitude = layer.turn.ours(up), None if magnitude is None else layer.turn.ours(magnitude)
    return Change(layer.module, down, up, values.get("alpha"), layer.part, layer.parts, mid, magnitude)


def _theirs(layer: Layer, change: Change, flavour: Flavour) -> dict[str, Tensor]:
    """A change's tensors in the layout of a layer there, the inverse of `_ours`."""
    rank, rows, inner = change.rank, layer.shape[0], layer.shape[1:]
    ones = (1,) * (len(inner) - 1)
    up, magnitude = change.up, change.magnitude
    if layer.turn is not None:
        up, magnitude = layer.turn.theirs(up), None if magnitude is None else layer.turn.theirs(magnitude)
    found = {"down": change.down.reshape(rank, *(inner if change.mid is None else (inner[0], *ones)))}
    found["up"] = up.reshape(rows, rank, *ones)
    if change.alpha is not None:
        found["alpha"] = change.alpha
    if change.mid is not None:
        found["mid"] = change.mid
    if magnitude is not None:
        if "alpha" in _ENDS[flavour]:
            found["magnitude"] = magnitude.reshape(rows, 1, *ones)
        else:  # PEFT's: a vector, or what multiplies a convolution's output
            found["magnitude"] = magnitude.reshape((1, rows, *ones) if ones else (rows,))
    return {role: value.contiguous() for role, value in found.items()}


def _config(layers: Sequence[tuple[str, Change]], name: str, of: str) -> dict[str, Any]:
    """PEFT's settings of layers by name, the commonest rank and alpha as the rule and the others as exceptions.

    Those of text towers are given by the ends of names, which is what they have in common before and since version 5 of transformers.
    """
    start = "" if of.startswith("text_encoder") else "^"
    layers = [(layer if start else layer.removeprefix(clip.PREFIX), change) for layer, change in layers]
    ranks = {layer: change.rank for layer, change in layers}
    alphas = {layer: float(change.rank if change.alpha is None else change.alpha) for layer, change in layers}
    dora = {change.magnitude is not None for _, change in layers}
    if len(dora) > 1:
        raise SpecError(
            f"adapter '{name}': PEFT has DoRA in all layers or in none, here it is in some; 'kohya' and 'safelight' can say so"
        )
    (rank, _), (alpha, _) = Counter(ranks.values()).most_common(1)[0], Counter(alphas.values()).most_common(1)[0]
    names: list[str] | str = sorted(ranks)
    if any(other.endswith("." + one) for one in names if "." not in one for other in names):
        names = "|".join(re.escape(one) for one in names)  # a list would mean every name that ends so
    return {
        "alpha_pattern": {start + layer: value for layer, value in alphas.items() if value != alpha},
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "r": rank,
        "rank_pattern": {start + layer: value for layer, value in ranks.items() if value != rank},
        "target_modules": names,
        "use_dora": dora == {True},
    }
