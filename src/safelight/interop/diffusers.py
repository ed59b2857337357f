"""Folders in the layout of diffusers: `model_index.json`, and a folder for each component.

    open_folder(path)           what a folder holds; only configurations and headers are read
    save_folder(path, model)    the folder of a model, for diffusers to load

A folder that was opened here is written again with the very tensors, types and configurations it had, whatever happened in between
to the file that our model was kept in: what it said of itself travels in `lineage["origin"]`, what no part uses in `model.kept`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.codec.kl import KLSpec
from safelight.codec.latent import LatentSpec
from safelight.codec.pixels import PixelsSpec
from safelight.codec.vq import VQSpec
from safelight.files import sync_folder
from safelight.guide import Mix
from safelight.guide.cfg import CFG, NoGuidance
from safelight.interop import schedulers, tokenizers
from safelight.interop.checkpoint import Tensors, component, plain, read_json, variants, write
from safelight.interop.foreign import Component, Foreign, Share, theirs, understood
from safelight.interop.maps import clip, dit, pixart, t5, unet, vae
from safelight.model import Defaults, Model, ModelSpec
from safelight.nn import NetworkSpec
from safelight.nn.dit import DiTSpec
from safelight.nn.unet import UNetSpec
from safelight.predict import Eps
from safelight.process.augment import Augment
from safelight.spec import SpecError, nearest
from safelight.text import TextSpec, vocabulary
from safelight.text.clip import CLIPText, CLIPTextSpec
from safelight.text.label import LabelSpec
from safelight.text.sdxl import SDXLText, SDXLTextSpec
from safelight.text.t5 import T5Text, T5TextSpec

INDEX = "model_index.json"
NETWORK, CODEC, TEXT = "denoiser.network.", "codec.", "text."
# Files beside the weights: configurations, vocabularies. Nothing else is carried along.
CONFIGS = ("config.json", "scheduler_config.json")
# Schedulers of the noise on the picture that is enlarged, and the entry that diffusers takes unless told.
AUGMENTS = {"low_res_scheduler": 20, "image_noising_scheduler": 250}
_WORDS = ("tokenizer", "tokenizer_2")
_SIDE = (".json", ".txt", ".model", ".jinja")
_LARGEST = 32_000_000


class Part(NamedTuple):
    """A part of our model as a folder has it: its description, and what it takes from each component."""

    spec: Any
    shares: Mapping[str, Share]


class Pipeline(NamedTuple):
    """How diffusers runs a class unless told: steps, and the scale of classifier-free guidance, None where it has none."""

    steps: int
    guidance: float | None = None


PIPELINES: dict[str, Pipeline] = {
    "StableDiffusionPipeline": Pipeline(50, 7.5),
    "StableDiffusionImg2ImgPipeline": Pipeline(50, 7.5),
    "StableDiffusionInpaintPipeline": Pipeline(50, 7.5),
    "StableDiffusionInpaintPipelineLegacy": Pipeline(50, 7.5),
    "StableDiffusionDepth2ImgPipeline": Pipeline(50, 7.5),
    "StableDiffusionUpscalePipeline": Pipeline(75, 9.0),
    "StableDiffusionXLPipeline": Pipeline(50, 5.0),
    "StableDiffusionXLImg2ImgPipeline": Pipeline(50, 5.0),
    "StableDiffusionXLInpaintPipeline": Pipeline(50, 7.5),
    "DiTPipeline": Pipeline(50, 4.0),
    "PixArtAlphaPipeline": Pipeline(20, 4.5),
    "IFPipeline": Pipeline(100, 7.0),
    "IFImg2ImgPipeline": Pipeline(80, 10.0),
    "IFSuperResolutionPipeline": Pipeline(50, 4.0),
    "DDPMPipeline": Pipeline(1000),
    "DDIMPipeline": Pipeline(50),
    "PNDMPipeline": Pipeline(50),
    "LDMPipeline": Pipeline(50),
}


def open_folder(path: Path, variant: str | None = None) -> Foreign:
    """The model in a folder; configurations and headers are read, no weight.

    variant: as in `model.fp16.safetensors`; None takes the weights without a variant where there are some, else the only variant.
    Raises SpecError, in one line, for a class that has no counterpart here, and for what is damaged, missing or left over.
    """
    with understood(path):
        return _opened(_Disk(path, variant), settled=False)


def _opened(disk: _Disk, settled: bool) -> Foreign:
    """settled: with what only weights can say."""
    reading = Reading(disk)
    parts = reading.parts()
    if (
        settled
        and isinstance(parts.network.spec, DiTSpec)
        and parts.text is not None
        and isinstance(parts.text.spec, LabelSpec)
    ):
        (name,) = parts.network.shares
        parts = parts.classed(name, *dit.settled(parts.network.spec, parts.text.spec, disk.weights(name).__getitem__))
    made = []
    for name, taken in parts.shares(reading.classes).items():
        if taken or variants(disk.path / name):
            ignore = _ignored if taken else _all
            made.append(Component(name, str(disk.path / name), disk.weights(name), taken, ignore).checked())
    weighed = {c.name: disk.weights(c.name) for c in made}
    told = {name: disk.told(name, weighed.get(name)) for name in reading.classes}
    return Foreign(
        layout="diffusers",
        spec=reading.model(parts),
        origin={"layout": "diffusers", "index": reading.index, "components": told},
        sets={"raw": made},
        entries={f"raw/{part}.{name}": e for part, tensors in weighed.items() for name, e in tensors.entries.items()},
        others=lambda: (
            {f"tensors/{c.name}/{name}": value for c in made for name, value in c.kept().items()} | disk.files(reading)
        ),
        settle=None if settled or not isinstance(parts.network.spec, DiTSpec) else lambda: _opened(disk, settled=True),
    )


class _Disk:
    """A folder as it lies on a disk."""

    def __init__(self, path: Path, variant: str | None = None) -> None:
        self.path, self.variant, self.where = path, variant, str(path)
        self._opened: dict[str, Tensors] = {}

    def index(self) -> dict[str, Any]:
        return read_json(self.path / INDEX)

    def config(self, part: str, kind: str) -> dict[str, Any]:
        folder = self.path / part
        if not folder.is_dir():
            raise SpecError(f"{folder} is missing, which {INDEX} names")
        for name in CONFIGS:
            if (folder / name).is_file():
                return {"_class_name": kind, **read_json(folder / name)}
        return {}

    def names(self, part: str) -> Iterable[str]:
        return self.weights(part)

    def worded(self, part: str, spec: Any) -> tuple[Any, dict[str, Tensor]]:
        """An encoder with the words of the tokenizer beside it, and its own tensors that hold them."""
        folder = self.path / part.replace("text_encoder", "tokenizer")
        reader = tokenizers.t5 if isinstance(spec, T5TextSpec) else tokenizers.clip
        return reader(spec, folder if folder.is_dir() else None)

    def weights(self, part: str) -> Tensors:
        """A component's tensors."""
        if part not in self._opened:
            folder, variant = self.path / part, self.variant
            if variant is None:
                there = variants(folder)
                variant = there[0] if len(there) == 1 else ""
            self._opened[part] = component(folder, variant)
        return self._opened[part]

    def told(self, part: str, tensors: Tensors | None) -> dict[str, Any]:
        """What a component said of itself, JSON-ready: its configuration, and which of its tensors lie in which file."""
        found: dict[str, Any] = {}
        config = next((name for name in CONFIGS if (self.path / part / name).is_file()), None)
        if config is not None:
            found["config"] = read_json(self.path / part / config)
        if part in _WORDS:
            files = vocabulary.folder_files(self.path / part)
            found["vocabulary"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        if tensors is not None:
            found["weights"] = {path.name: list(names) for path, names in tensors.files.items()}
            found["notes"] = tensors.notes
        return found

    def files(self, reading: Reading) -> dict[str, Tensor]:
        """The bytes of the files beside the weights, by name. Vocabularies are not among them, which travel in the encoders."""
        found = {}
        for name in ("", *reading.classes):
            for path in sorted((self.path / name).iterdir()):
                aside = path.suffix in _SIDE and path.is_file() and (name or path.name == INDEX)
                carried = name in _WORDS and path.name in vocabulary.FILES
                if aside and not carried and 0 < path.stat().st_size <= _LARGEST:
                    data = bytearray(path.read_bytes())
                    found[f"files/{path.relative_to(self.path).as_posix()}"] = torch.frombuffer(data, dtype=torch.uint8)
        return found


class _Memory:
    """The same folder as a model that was opened from it remembers it."""

    def __init__(self, model: Model) -> None:
        self.said, self.kept, self.where = model.lineage["origin"], model.kept, "the folder that this model came from"
        self.texts = dict(_encoders(model))

    def index(self) -> dict[str, Any]:
        return dict(self.said["index"])

    def config(self, part: str, kind: str) -> dict[str, Any]:
        config = self.said["components"][part].get("config")
        return {} if config is None else {"_class_name": kind, **config}

    def names(self, part: str) -> Iterable[str]:
        return [name for names in self.said["components"][part]["weights"].values() for name in names]

    def worded(self, part: str, spec: Any) -> tuple[Any, dict[str, Tensor]]:
        mine = self.texts[part].spec
        return spec.model_copy(update={"vocabulary": mine.vocabulary, "pad": mine.pad}), {}

    def words(self, part: str) -> dict[str, bytes]:
        """The files of a tokenizer's vocabulary."""
        encoder = self.texts.get(part.replace("tokenizer", "text_encoder"))
        hashes = self.said["components"][part].get("vocabulary")
        return {} if encoder is None or not hashes else tokenizers.files(encoder, hashes)


class Parts(NamedTuple):
    """What a folder's components are here."""

    network: Part
    codec: Part
    text: Part | None
    schedule: schedulers.Schedule
    augment: Augment | None

    def shares(self, names: Iterable[str]) -> dict[str, list[Share]]:
        """Of each component, by name."""
        found: dict[str, list[Share]] = {name: [] for name in names}
        for part in (self.network, self.codec, *([self.text] if self.text else [])):
            for name, share in part.shares.items():
                found[name].append(share)
        return found

    def classed(self, name: str, network: DiTSpec, labels: LabelSpec) -> Parts:
        """With another network and table of classes, both of the component `name`."""
        return self._replace(
            network=Part(network, {name: Share(NETWORK, dit.keys(network))}),
            text=Part(labels, {name: Share(TEXT, dit.text_keys(network))}),
        )


class Reading:
    """A folder's configurations as our parts."""

    def __init__(self, source: _Disk | _Memory) -> None:
        self.source, self.where = source, source.where
        self.index = source.index()
        name = self.index.get("_class_name")
        if not isinstance(name, str) or name not in PIPELINES:
            raise SpecError(
                f"{self.where}: the class {str(name)!r:.80} has no counterpart here{nearest(str(name), PIPELINES)} "
                f"(known: {', '.join(PIPELINES)})"
            )
        self.pipeline = PIPELINES[name]
        # A component that is left out stands as [null, null].
        self.classes: dict[str, str] = {
            part: value[1]
            for part, value in self.index.items()
            if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
        }
        wrong = next((part for part in self.classes if not plain(part)), None)
        if wrong is not None:
            raise SpecError(f"{self.where}: {INDEX} names the component {wrong!r:.80}, which is no folder of its own")
        self.configs = {part: source.config(part, kind) for part, kind in self.classes.items()}

    def one(self, *names: str) -> str | None:
        """The first of the components that is there."""
        return next((name for name in names if name in self.classes), None)

    def said(self, part: str) -> dict[str, Any]:
        """A component's configuration. Raises SpecError where it has none."""
        if not self.configs[part]:
            raise SpecError(f"{self.where}/{part} has no configuration (config.json)")
        return self.configs[part]

    def parts(self) -> Parts:
        """Raises SpecError for what has no counterpart here."""
        network = self.one("unet", "transformer")
        if network is None or "scheduler" not in self.classes:
            raise SpecError(f"{self.where}: {INDEX} names no {'unet or transformer' if network is None else 'scheduler'}")
        text, coder = self.text(network), self.one("vae", "vqvae")
        return Parts(
            network=self.network(network, None if text is None else text.spec),
            codec=self.codec(coder) if coder else Part(PixelsSpec(), {}),
            text=text,
            schedule=schedulers.read(self.said("scheduler")),
            augment=self.augment(),
        )

    def augment(self) -> Augment | None:
        """The noise through which a network that enlarges pictures sees them."""
        for name, level in AUGMENTS.items():
            if name in self.classes:
                return Augment(process=schedulers.read(self.configs[name]).process, level=level)
        return None

    def network(self, part: str, text: TextSpec | None) -> Part:
        """The denoiser's network, from its configuration."""
        config = self.said(part)
        name, norm = config["_class_name"], config.get("norm_type")
        if name == "Transformer2DModel":  # as both were called before they had classes of their own
            name = {"ada_norm_zero": dit.CLASS, "ada_norm_single": pixart.CLASS}.get(str(norm), name)
        spec: NetworkSpec
        if name in ("UNet2DConditionModel", "UNet2DModel"):
            learned = self.configs["scheduler"].get("variance_type") in ("learned", "learned_range")
            pooled = text.encoders[-1].gives[1] if isinstance(text, SDXLTextSpec) else None
            spec = unet.spec(config, pooled=pooled, learned=learned)
            keys = unet.keys(spec, list(self.source.names(part)))
        elif name == dit.CLASS:
            spec = dit.spec(config)
            keys = dit.keys(spec)
        elif name == pixart.CLASS:
            spec = pixart.spec(config)
            keys = pixart.keys(spec)
        else:
            raise SpecError(f"{self.where}/{part}: the class {name!r:.80} has no counterpart here")
        return Part(spec, {part: Share(NETWORK, keys)})

    def codec(self, part: str) -> Part:
        """The codec, from its configuration; its scale stands there."""
        config = self.said(part)
        spec = vae.spec(config)
        return Part(
            spec,
            {part: Share(CODEC, vae.keys(spec, list(self.source.names(part))), lambda state: vae.constants(config, state))},
        )

    def text(self, network: str) -> Part | None:
        """The encoder of prompts, from its configuration and the tokenizer beside it."""
        config = self.said(network)
        if config.get("norm_type") == "ada_norm_zero":
            labels = dit.labels(config, self.index.get("id2label"))
            return Part(labels, {network: Share(TEXT, dit.text_keys(dit.spec(config)))})
        encoders = [name for name in ("text_encoder", "text_encoder_2") if name in self.classes]
        if not encoders and isinstance(config.get("num_class_embeds"), int):  # the network has the table of classes itself
            return Part(LabelSpec(names=tuple(map(str, range(config["num_class_embeds"]))), raw=True), {})
        if not encoders:
            return None
        if "text_encoder_2" not in encoders:
            return self.encoder(encoders[0], TEXT)
        parts = [self.encoder(name, f"{TEXT}encoders.{i}.") for i, name in enumerate(encoders)]
        joint = SDXLTextSpec.of(
            *(part.spec for part in parts),
            zeros=bool(self.index.get("force_zeros_for_empty_prompt", True)),
            scored=bool(self.index.get("requires_aesthetics_score", False)),
            size=self.size(network, self.stride()),
        )
        return Part(joint, {name: share for part in parts for name, share in part.shares.items()})

    def encoder(self, name: str, prefix: str) -> Part:
        """A text encoder, and the vocabulary of the tokenizer beside it. prefix: where it is in our model."""
        config, names = self.said(name), self.source.names(name)
        kind = config["_class_name"]
        if kind in ("CLIPTextModel", "CLIPTextModelWithProjection"):
            tower, words = self.source.worded(name, clip.spec(config))
            return Part(tower, {name: Share(prefix, clip.keys(tower, clip.prefix(names)), partial(_carrying, words))})
        if kind == "T5EncoderModel":
            reader, words = self.source.worded(name, t5.spec(config, **self.read_by_t5()))
            return Part(reader, {name: Share(prefix, t5.keys(reader), partial(_carrying, words))})
        raise SpecError(f"{self.where}/{name}: the class {kind!r:.80} has no counterpart here")

    def read_by_t5(self) -> dict[str, Any]:
        """How the pipeline reads prompts by T5, which T5's own files do not say."""
        if "transformer" not in self.classes:
            return {"length": 77, "masks": False}  # DeepFloyd IF
        network = pixart.spec(self.configs["transformer"])
        return {"length": 120, "masks": True, "framed": network.sizes, "size": self.size("transformer", self.stride())}

    def stride(self) -> int:
        """Pixels a cell of the latents, along each side."""
        coder = self.one("vae", "vqvae")
        if coder is None:
            return 1
        spec = vae.spec(self.configs[coder])
        return spec.patch * 2 ** (len(spec.widths) - 1)

    def model(self, parts: Parts) -> ModelSpec:
        """All of it as one description, sampled as diffusers samples it."""
        steps, guidance = self.pipeline
        net, codec, text, schedule, augment = parts
        mix: Mix = CFG(scale=guidance) if guidance is not None and text is not None else NoGuidance()
        return ModelSpec(
            network=net.spec,
            process=schedule.process,
            parameterization=schedule.parameterization,
            codec=codec.spec,
            text=None if text is None else text.spec,
            channels=net.spec.channels if isinstance(codec.spec, PixelsSpec) else codec.spec.pictures,
            size=self.size(next(iter(net.shares)), self.stride()),
            augment=augment,
            defaults=Defaults(steps=steps, sampler=schedule.sampler, grid=schedule.grid, mix=mix, bends=schedule.bends),
        )

    def size(self, part: str, stride: int) -> tuple[int, int]:
        """(height, width) in pixels of the pictures it was trained on."""
        side = self.configs[part].get("sample_size") or 64
        sides = side if isinstance(side, list) else [side, side]
        if len(sides) != 2 or not all(isinstance(v, int) and 1 <= v <= 1 << 16 for v in sides):
            raise SpecError(f"{self.where}/{part}: sample_size {side!r:.60} is no size")
        return sides[0] * stride, sides[1] * stride


def _carrying(words: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of an encoder's own that hold its vocabulary."""
    return words


def _ignored(name: str) -> bool:
    """Tensors that older versions of the libraries wrote and nobody reads."""
    return clip.ignored(name) or t5.ignored(name)


def _all(name: str) -> bool:
    return True


# --- writing -----------------------------------------------------------------------------------------------------------------


class NoClassError(SpecError):
    """A model that none of diffusers' classes is."""


class Written(NamedTuple):
    """A component to be written: its class (library and name), small files as bytes, and tensors by file with the notes of their header."""

    kind: tuple[str, str]
    files: Mapping[str, bytes]
    weights: Mapping[str, Mapping[str, Tensor]] = {}
    notes: Mapping[str, str] = {"format": "pt"}


def save_folder(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model as a folder that diffusers loads, whole or not at all.

    A model that came from a folder becomes that folder again, tensor for tensor and word for word; one of another origin becomes one of the
    published class that it is. Raises NoClassError, in one line, for a model that is of no published class (see interop/bundle.py), and
    SpecError when there is something at `path` already.
    """
    folder = Path(path)
    if folder.exists():
        raise SpecError(f"{folder} is there already: name another folder, or remove it first")
    try:
        index, components = _again(model) or _anew(model)
    except SpecError as error:
        raise NoClassError(str(error)) from None
    with whole_folder(folder) as temporary:
        for name, made in components.items():
            (temporary / name).mkdir(parents=True)
            for file, data in made.files.items():
                (temporary / name / file).write_bytes(data)
            for file, tensors in made.weights.items():
                write(temporary / name / file, tensors, made.notes)
        (temporary / INDEX).write_bytes(index)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when all went well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _again(model: Model) -> tuple[bytes, dict[str, Written]] | None:
    """The folder that a model came from, None for a model of another origin, or one that is no longer what it was."""
    said = model.lineage.get("origin", {})
    if said.get("layout") != "diffusers":
        return None
    memory = _Memory(model)
    reading = Reading(memory)
    parts = reading.parts()
    network, text = model.spec.network, model.spec.text
    if isinstance(network, DiTSpec) and isinstance(text, LabelSpec) and parts.text is not None:
        (name,) = parts.network.shares
        parts = parts.classed(name, network, text) if _classes(parts.text.spec) == text.names else parts
    read = reading.model(parts)
    if any(getattr(read, part) != getattr(model.spec, part) for part in ("network", "codec", "text", "augment")):
        return None
    schedule = _schedule(model)._replace(config=reading.configs["scheduler"])
    state = model.state_dict()
    shares = parts.shares(reading.classes)
    found = {}
    for name, kind in reading.classes.items():
        files = {n.rpartition("/")[2]: _raw(v) for n, v in model.kept.items() if n.startswith(f"files/{name}/")}
        if name in _WORDS:
            files |= memory.words(name)
        if name == "scheduler" and schedule.parts != parts.schedule.parts:
            files["scheduler_config.json"] = _json(schedulers.write(schedule))
        for share in shares[name]:
            if share.prefix == CODEC and not _scaled_alike(share, state):
                assert isinstance(model.spec.codec, LatentSpec)  # it has a scale
                config = vae.config(model.spec.codec, model.codec.state_dict())
                files["config.json"] = _json(said["components"][name]["config"] | _scales(config))
        before = f"tensors/{name}/"
        tensors = theirs(shares[name], state) | {
            n.removeprefix(before): v for n, v in model.kept.items() if n.startswith(before)
        }
        lies = said["components"][name].get("weights", {})
        found[name] = Written(
            (reading.index[name][0], kind),
            files,
            {file: {n: tensors[n] for n in names} for file, names in lies.items()},
            said["components"][name].get("notes", {}),
        )
    return _raw(model.kept[f"files/{INDEX}"]), found


def _anew(model: Model) -> tuple[bytes, dict[str, Written]]:
    """A folder of the published class that a model is."""
    spec, network, state = model.spec, model.spec.network, model.state_dict()
    high, wide = (v // model.codec.stride for v in spec.size)
    side: int | tuple[int, int] = high if high == wide else (high, wide)  # pipelines compare a number
    index: dict[str, Any] = {"_class_name": _class(spec), "_diffusers_version": schedulers.VERSION}
    found: dict[str, Written] = {}

    def weighed(name: str, library: str, config: Mapping[str, Any], shares: Sequence[Share]) -> None:
        file = "diffusion_pytorch_model.safetensors" if library == "diffusers" else "model.safetensors"
        said = {k: v for k, v in config.items() if library == "diffusers" or k != "_class_name"}
        said = {**said, "_diffusers_version": schedulers.VERSION} if library == "diffusers" else said
        found[name] = Written((library, config["_class_name"]), {"config.json": _json(said)}, {file: theirs(shares, state)})

    if isinstance(network, UNetSpec):
        weighed("unet", "diffusers", unet.config(network, size=side), [Share(NETWORK, unet.keys(network))])
    elif isinstance(network, DiTSpec) and isinstance(spec.text, LabelSpec):
        shares = [Share(NETWORK, dit.keys(network)), Share(TEXT, dit.text_keys(network))]
        weighed("transformer", "diffusers", dit.config(network, high, len(spec.text.names)), shares)
        index["id2label"] = dit.class_names(spec.text)
    else:
        assert isinstance(network, DiTSpec)  # _class knows no other
        weighed("transformer", "diffusers", pixart.config(network, high), [Share(NETWORK, pixart.keys(network))])
    if not isinstance(spec.codec, PixelsSpec):
        assert isinstance(spec.codec, LatentSpec)
        config = vae.config(spec.codec, model.codec.state_dict()) | {"sample_size": spec.size[0]}
        name = "vae" if config["_class_name"] == "AutoencoderKL" or index["_class_name"] != "LDMPipeline" else "vqvae"
        weighed(name, "diffusers", config, [Share(CODEC, vae.keys(spec.codec))])
    for name, encoder in _encoders(model):
        prefix = TEXT if encoder is model.text else f"{TEXT}encoders.{int(name != 'text_encoder')}."
        if len(getattr(model.text, "encoders", ())) == 1:
            prefix = f"{TEXT}encoders.0."
        layout = clip if isinstance(encoder, CLIPText) else t5
        weighed(name, "transformers", layout.config(encoder.spec), [Share(prefix, layout.keys(encoder.spec))])
        kind = "CLIPTokenizer" if layout is clip else "T5Tokenizer"
        found[name.replace("text_encoder", "tokenizer")] = Written(("transformers", kind), _tokenizer(encoder))
    if spec.augment is not None:
        name = "image_noising_scheduler" if index["_class_name"] == _CASCADE else "low_res_scheduler"
        noising = schedulers.write(schedulers.plain(spec.augment.process, Eps()))
        found[name] = Written(("diffusers", noising["_class_name"]), {"scheduler_config.json": _json(noising)})
    config = schedulers.write(_schedule(model))
    found["scheduler"] = Written(("diffusers", config["_class_name"]), {"scheduler_config.json": _json(config)})
    if index["_class_name"].startswith("StableDiffusionXL"):
        assert isinstance(spec.text, SDXLTextSpec)
        index["force_zeros_for_empty_prompt"] = spec.text.zeros
        if spec.text.scored:
            index["requires_aesthetics_score"] = True
    for name in _NEEDED.get(index["_class_name"], ()):
        index.setdefault(name, [None, None])
    if "safety_checker" in index:
        index["requires_safety_checker"] = False
    index |= {name: list(made.kind) for name, made in found.items()}
    return _json(dict(sorted(index.items()))), found


_CASCADE = "IFSuperResolutionPipeline"
# Components that a class's constructor asks for and that may be left out.
_NEEDED = {
    **dict.fromkeys(
        ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"), ("safety_checker", "feature_extractor", "image_encoder")
    ),
    "StableDiffusionXLPipeline": ("image_encoder", "feature_extractor"),
    "StableDiffusionUpscalePipeline": ("safety_checker", "feature_extractor", "watermarker"),
    "IFPipeline": ("safety_checker", "feature_extractor", "watermarker"),
    _CASCADE: ("safety_checker", "feature_extractor", "watermarker"),
    "StableDiffusionXLImg2ImgPipeline": ("image_encoder", "feature_extractor", "text_encoder", "tokenizer"),
}


def _class(spec: ModelSpec) -> str:
    """The published class that a model is. Raises SpecError for one that is none."""
    network, text, latent = spec.network, spec.text, isinstance(spec.codec, KLSpec | VQSpec)
    if isinstance(network, UNetSpec) and latent and isinstance(text, SDXLTextSpec):
        return "StableDiffusionXLImg2ImgPipeline" if text.scored else "StableDiffusionXLPipeline"
    if (
        isinstance(network, UNetSpec)
        and latent
        and isinstance(text, CLIPTextSpec)
        and spec.augment is None
        and network.image in (0, 5)
    ):
        return "StableDiffusionInpaintPipeline" if network.image else "StableDiffusionPipeline"
    if isinstance(network, DiTSpec) and isinstance(spec.codec, KLSpec) and isinstance(text, LabelSpec):
        return "DiTPipeline"
    if isinstance(network, DiTSpec) and isinstance(spec.codec, KLSpec) and isinstance(text, T5TextSpec):
        return "PixArtAlphaPipeline"
    if isinstance(network, UNetSpec) and latent and isinstance(text, CLIPTextSpec) and spec.augment is not None:
        return "StableDiffusionUpscalePipeline"
    if isinstance(network, UNetSpec) and isinstance(spec.codec, PixelsSpec) and isinstance(text, T5TextSpec):
        return "IFPipeline" if spec.augment is None else _CASCADE
    if isinstance(network, UNetSpec) and not network.image and (text is None or (isinstance(text, LabelSpec) and text.raw)):
        return "LDMPipeline" if latent else "DDIMPipeline"
    said = f"text '{text.kind}'" if text is not None else "no text"
    raise SpecError(f"a model of network '{network.kind}', codec '{spec.codec.kind}' and {said} has no class in diffusers")


def _schedule(model: Model) -> schedulers.Schedule:
    """How the model is sampled by default; where no scheduler there does that, its levels with the plainest one."""
    d, process = model.spec.defaults, model.process.settled()
    own = schedulers.Schedule(process, model.spec.parameterization, d.sampler, d.grid, d.bends)
    try:
        schedulers.write(own)
    except SpecError:
        return schedulers.plain(process, model.spec.parameterization, d.bends)
    return own


def _encoders(model: Model) -> Iterator[tuple[str, Any]]:
    """The text encoders that have a folder of their own, by its name: the refiner of SDXL has the second alone."""
    if isinstance(model.text, SDXLText):
        both = len(model.text.encoders) > 1
        for i, encoder in enumerate(model.text.encoders):
            yield ("text_encoder" if both and not i else "text_encoder_2"), encoder
    elif isinstance(model.text, CLIPText | T5Text):
        yield "text_encoder", model.text


def _tokenizer(encoder: CLIPText | T5Text) -> dict[str, bytes]:
    """The files of an encoder's tokenizer."""
    files = tokenizers.files(encoder)
    if isinstance(encoder, CLIPText) and isinstance(encoder.spec.vocabulary, vocabulary.Carried):
        words, pad = encoder.tokenizer.tokens, encoder.spec.pad
        begin, end = encoder.ends
        marks = {
            "bos_token": words[begin],
            "eos_token": words[end],
            "pad_token": words[end if pad is None else pad],
            "unk_token": words[end],
        }
        about = {**marks, "model_max_length": encoder.spec.length, "tokenizer_class": "CLIPTokenizer"}
        return files | {"special_tokens_map.json": _json(marks), "tokenizer_config.json": _json(about)}
    if isinstance(encoder, CLIPText):
        return files | tokenizers.settings_files(encoder.spec)
    return files | {"tokenizer_config.json": _json({"tokenizer_class": "T5Tokenizer", "model_max_length": encoder.spec.length})}


def _classes(text: Any) -> tuple[str, ...]:
    return text.names if isinstance(text, LabelSpec) else ()


def _scaled_alike(share: Share, state: Mapping[str, Tensor]) -> bool:
    """Whether a codec's scale is still what its configuration says."""
    mine = {name.removeprefix(CODEC): value for name, value in state.items() if name.startswith(CODEC)}
    said = share.more(mine)
    return all(torch.equal(said[name].to(mine[name]), mine[name]) for name in ("shift", "scale"))


def _scales(config: Mapping[str, Any]) -> dict[str, Any]:
    names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    return {name: config[name] for name in names if name in config}


def _raw(value: Tensor) -> bytes:
    """A file that was kept."""
    return value.cpu().numpy().tobytes()


def _json(value: Mapping[str, Any]) -> bytes:
    """As diffusers and transformers write it."""
    return (json.dumps(value, indent=2) + "\n").encode()
