"""Model: denoiser + codec + text, saved as one self-describing file, and opened from that or from a published layout.

Our file is a `.safetensors` whose header holds a format number, the spec of every part and the lineage. Weights lie in named
sets, `raw` as trained and averages such as `ema`, each tensor under `set/parameter`. Only registered kinds can be built, so
nothing in a file executes, and loading is strict. The published layouts, diffusers folders and single files, are those of
interop/diffusers.py and interop/ldm.py; what lies at a path is known by its content.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from safelight.codec import CodecSpec
from safelight.codec.pixels import PixelsSpec
from safelight.denoise import Denoiser
from safelight.files import atomic
from safelight.grid import Grid, Rect
from safelight.guide import Bend, Mix
from safelight.guide.cfg import NoGuidance
from safelight.interop.checkpoint import Entry, Tensors, raw_header, write
from safelight.nn import NetworkSpec
from safelight.nn.blank import blank, whole
from safelight.nn.joined import parameter
from safelight.predict import Parameterization
from safelight.process import Process
from safelight.process.augment import Augment
from safelight.sample import Sampler
from safelight.sample.adams import ABM
from safelight.spec import Spec, SpecError, describe, nearest, parse
from safelight.text import TextSpec

if TYPE_CHECKING:
    from safelight.interop.foreign import Foreign

FORMAT = 1
# The embedded model that "default" stands for.
DEFAULT = "sprites-small"
_KEY = "safelight"
# Tensors that a published file had and no part uses, given back when it is written again.
_KEPT = "kept/"
# Files up to here are hashed when they are loaded, larger ones when somebody asks.
_SOON = 64_000_000
# From a description of format n to one of format n + 1. Pure functions of dicts.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class Defaults(Spec):
    """How a model is sampled unless a request says otherwise."""

    steps: int = Field(50, ge=1)
    sampler: Sampler = ABM()
    grid: Grid = Rect(power=1.3)
    mix: Mix = NoGuidance()
    bends: tuple[Bend, ...] = ()


class ModelSpec(Spec, family="model", kind="model"):
    """Everything needed to build a model with fresh weights.

    channels: of the pictures. size: (height, width) it was trained on, and makes by default. augment: for a network that enlarges
    pictures, the noise that they are seen through, whose level is the last number of Cond.vector.
    """

    network: NetworkSpec
    process: Process
    parameterization: Parameterization
    codec: CodecSpec = PixelsSpec()
    text: TextSpec | None = None
    channels: int = Field(1, ge=1)
    size: tuple[int, int]
    augment: Augment | None = None
    defaults: Defaults = Defaults()

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if min(self.size) < 1:
            raise ValueError(f"size is (height, width) in pixels, both at least 1, not {self.size}")
        return self

    @model_validator(mode="after")
    def _heard(self) -> Self:
        """What the network listens for is what the text encoder says: a class that no layer hears would be ignored in silence."""
        takes = getattr(self.network, "context", 0), getattr(self.network, "cond", 0)
        gives = self.text.gives if self.text is not None else (0, 0)
        who = f"text '{self.text.kind}'" if self.text is not None else "a model without text"
        for name, take, give in zip(("context", "cond"), takes, gives, strict=True):
            level = name == "cond" and self.augment is not None
            if take and take != give + level and not (level and take == 1):
                raise ValueError(f"network.{name} is {take}, but {who} gives {give or 'nothing'} there")
        if self.text is not None and not any(takes) and not self.network.answers:
            raise ValueError(
                f"the network would not hear {who}: set network.context to {gives[0]} or network.cond to {gives[1]}"
            )
        return self

    def build(self) -> Model:
        """A model of this architecture with fresh weights, drawn from torch's global generator."""
        return Model(self)


class Model(nn.Module):
    """A denoiser, the codec whose latents it denoises, and the encoder of its prompts (None: unconditional).

    painter: how it is called; set by the floor above, which knows how to make pictures.
    """

    painter: ClassVar[Callable[..., Any] | None] = None

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.denoiser = Denoiser(spec.network.build(), spec.process.build(), spec.parameterization)
        self.codec = spec.codec.build()
        self.text = spec.text.build() if spec.text is not None else None
        latents = self.codec.channels(spec.channels)
        takes = getattr(spec.network, "channels", latents)
        if takes != latents:
            raise SpecError(
                f"model.network.channels is {takes}, but codec '{spec.codec.kind}' makes {latents} channels of a picture's {spec.channels}"
            )
        self.lineage: Mapping[str, Any] = {}
        # Of the file it was loaded from, empty for one that was not: its name without folder and suffix, set of weights.
        self.name = self.weights = ""
        self._print: str | tuple[Path, tuple[Stamp, ...]] = ""
        # Tensors of a published file that no part uses, by their names there.
        self.kept: Mapping[str, Tensor] = {}

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of its file's hash, "" for one of no file: which weights a picture was made with.

        A large file is hashed when this is first asked. Raises SpecError when the file is then no longer what was loaded.
        """
        if not isinstance(self._print, str):
            path, stamps = self._print
            if _stamps(path) != stamps:
                raise SpecError(f"{path} has changed since it was loaded: load it again")
            self._print = fingerprint(path)
        return self._print

    @fingerprint.setter
    def fingerprint(self, digits: str) -> None:
        self._print = digits

    def forward(self, prompt: str | Sequence[str] = "", **fields: Any) -> Any:
        """Pictures of a prompt, as `safelight.generate` makes them: `safelight.load("default")("a cat", seed=3)`. See `generate.paint`."""
        if self.painter is None:
            raise SpecError("a model paints once safelight.generate is imported; load it by safelight.load")
        return type(self).painter(self, prompt, **fields)  # type: ignore[misc]

    @property
    def process(self) -> Process:
        """Its process: the described one, or what that became by learning."""
        return self.denoiser.process

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """(channels, height, width) of the latent of a picture of `size` pixels (default: the model's own).

        Raises SpecError when the size is no multiple of the codec's stride.
        """
        height, width = size or self.spec.size
        stride = self.codec.stride
        if height < 1 or width < 1 or height % stride or width % stride:
            raise SpecError(f"size: {height}x{width} is no multiple of the codec's stride {stride}")
        return self.codec.channels(self.spec.channels), height // stride, width // stride


class Header(NamedTuple):
    """What a file says of itself, read without touching a weight.

    path: the file, or a diffusers folder. spec: the model's description. lineage: how it came to be; of a foreign layout what it said
    itself is "origin". weights: the names of its weight sets. tensors: by set and name, of a foreign layout by its own names. layout:
    "safelight", "diffusers" or "ldm".
    """

    path: Path
    format: int
    spec: dict[str, Any]
    lineage: dict[str, Any]
    weights: tuple[str, ...]
    tensors: dict[str, Entry]
    layout: str = "safelight"


def own_header(path: Path) -> dict[str, Any]:
    """What a safetensors file of ours (a model, a trace, attention) says of itself; {} of others'. Raises SpecError as `raw_header`."""
    found: dict[str, Any] = json.loads(raw_header(path).get("__metadata__", {}).get(_KEY, "{}"))
    return found


def peek(source: str | os.PathLike[str]) -> Header:
    """What a model says of itself; no weight is read.

    source: a path (our file, a diffusers folder, a published single file), a run's folder, or the name of an embedded model.
    Raises SpecError for what is no model of these.
    """
    path = locate(source)
    theirs = foreign(path)
    if theirs is not None:
        return theirs.header(path)
    found = raw_header(path)
    try:
        return _described(path, found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{path} is damaged: its header cannot be read") from None


def foreign(path: Path) -> Foreign | None:
    """The model of a published layout that lies at a path, None for what may be a file of ours. Raises SpecError as they do."""
    if path.is_dir():
        from safelight.interop import diffusers

        return diffusers.open_folder(path)
    if _KEY in raw_header(path).get("__metadata__", {}):
        return None
    from safelight.interop import ldm

    return ldm.open_file(path)


def _described(path: Path, found: dict[str, Any]) -> Header:
    about = json.loads(found.get("__metadata__", {})[_KEY])
    if "spec" not in about:
        raise SpecError(f"{path} holds {about.get('what', 'something else')}, not a model")
    if about["format"] > FORMAT:
        raise SpecError(f"{path} has format {about['format']}, this version reads up to {FORMAT}: update safelight")
    for number in range(about["format"], FORMAT):
        about = MIGRATIONS[number](about)
    tensors = {k: Entry(e["dtype"], tuple(e["shape"])) for k, e in found.items() if k != "__metadata__"}
    return Header(path, about["format"], about["spec"], about["lineage"], tuple(about["weights"]), tensors)


def embedded() -> dict[str, Path]:
    """The models that come with the package, by name."""
    folder = Path(__file__).parent / "assets"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors")) if _is_model(path)}


def _is_model(path: Path) -> bool:
    return "spec" in own_header(path)


def locate(source: str | os.PathLike[str]) -> Path:
    """The model file that a path, a run's folder (its latest checkpoint) or an embedded model's name stands for; a diffusers folder itself.

    Raises SpecError naming what there is when there is none.
    """
    path = Path(source)
    if path.is_dir():
        for latest in (path / "LATEST", path / "checkpoints" / "LATEST"):
            if latest.is_file():
                return latest.parent / latest.read_text().strip() / "model.safetensors"
        if (path / "model_index.json").is_file():
            return path
        if (path / "model.safetensors").is_file():
            return path / "model.safetensors"
        raise SpecError(f"{path} holds no model.safetensors and no checkpoints")
    if path.exists():
        return path
    assets = Path(__file__).parent / "assets"
    if str(source) == "default":
        return locate(DEFAULT)
    if path.name == str(source) and not path.suffix:
        if (assets / f"{source}.safetensors").is_file():
            return assets / f"{source}.safetensors"
        names = embedded()
        raise SpecError(
            f"no model '{source}': no such file, and embedded are {', '.join(names) or 'none'}{nearest(str(source), names)}"
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not path.suffix:
        from safelight.data.pull import cached

        found = cached(str(source))
        if found is not None:
            files = list(found.glob("*.safetensors"))
            return files[0] if len(files) == 1 and not (found / "model_index.json").is_file() else found
        raise SpecError(f"no file {path}; if it is a repository of the hub: safelight pull {source}")
    raise SpecError(f"no file {path}")


def save(
    path: str | os.PathLike[str],
    model: Model,
    *,
    lineage: Mapping[str, Any] | None = None,
    averages: Mapping[str, Mapping[str, Tensor]] | None = None,
    raw: bool = True,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model as one file, whole or not at all.

    lineage: how it came to be (recipe, images seen, parent, numbers), JSON-ready. averages: further weight sets by name, each a
    (partial) state dict of the model; what one lacks (buffers, frozen parts) is taken from the model. raw: also the model's own
    weights. dtype: floating tensors are written in it (float16 halves the file). Raises SpecError when nothing would be written.
    """
    state = {k: v.detach() for k, v in model.state_dict().items()}
    sets: dict[str, Mapping[str, Tensor]] = {"raw": state} if raw else {}
    for name, average in (averages or {}).items():
        unknown = set(average) - set(state)
        if unknown:
            raise SpecError(f"weights '{name}' hold '{sorted(unknown)[0]}', which the model has not")
        sets[name] = {**state, **average}
    if not sets:
        raise SpecError("nothing to save: no averages are given, and raw is False")
    tensors = {
        f"{name}/{key}": value.detach().to("cpu", dtype if dtype and value.is_floating_point() else value.dtype)
        for name, weights in sets.items()
        for key, value in weights.items()
    }
    tensors |= {_KEPT + name: value for name, value in getattr(model, "kept", {}).items()}
    about = {"format": FORMAT, "spec": describe(model), "lineage": dict(lineage or model.lineage), "weights": list(sets)}
    with atomic(path) as temporary:
        write(temporary, tensors, metadata={_KEY: json.dumps(about)})


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage: thousands of modules are made, none of them is any, and to walk all of a process's objects takes as long."""
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            gc.enable()


@_uncollected()
def load(
    source: str | os.PathLike[str],
    weights: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    family: str = "model",
) -> Model:
    """A model from its file, in evaluation mode.

    source: a path, a run's folder, or an embedded model's name ("fashion-mnist"). weights: which set, "raw" or an average's name;
    None takes the first average, else raw. dtype: of floating tensors (None: as in the file). family: of what is in the file, for
    those whose models are not of pictures.
    Raises SpecError, in one line, for a missing or foreign file, an unknown set, or weights that do not fit the spec.
    """
    path = locate(source)
    theirs = foreign(path)
    header = peek(path) if theirs is None else theirs.header(path)
    found = header.spec.get("family", "model")
    if found != family:
        verb = "; its verb is: safelight tokens" if found == "tokens" else ""
        raise SpecError(f"{header.path} holds no '{family}' but a '{found}'{verb}")
    names = header.weights
    chosen = weights or next((n for n in names if n != "raw"), "raw")
    if chosen == "ema" and chosen not in names:
        chosen = next((n for n in names if n.startswith("ema")), chosen)
    if chosen not in names:
        raise SpecError(f"{header.path} has no weights '{chosen}'{nearest(chosen, names)} (it has: {', '.join(names)})")
    if theirs is not None and theirs.settle is not None:
        theirs = theirs.settle()
    spec = parse(header.spec, family) if theirs is None else theirs.spec
    model: Model = blank(spec.build)
    if theirs is not None:
        state, kept = theirs.state(chosen, {k: v.shape for k, v in model.state_dict().items()}), theirs.others()
    else:
        tensors = Tensors([header.path])
        state = {k.removeprefix(chosen + "/"): tensors[k] for k in tensors if k.startswith(chosen + "/")}
        kept = {k.removeprefix(_KEPT): tensors[k] for k in tensors if k.startswith(_KEPT)}
    fit(model, state, str(header.path), assign=True)
    whole(model)
    model.lineage, model.kept = header.lineage, kept
    model.name, model.weights = header.path.stem if header.path.is_file() else header.path.resolve().name, chosen
    stamps = _stamps(header.path)
    soon = sum(stamp.size for stamp in stamps) <= _SOON or not isinstance(model, Model)
    if soon:
        model.fingerprint = fingerprint(header.path)
    else:
        model._print = header.path, stamps
    if dtype is not None:
        model.to(dtype)
    return (model if torch.device(device).type == "cpu" else model.to(device)).eval()


def fit(model: nn.Module, state: Mapping[str, Tensor], where: str, *, assign: bool = False) -> None:
    """Load a state dict strictly. assign: take its tensors over as they are, dtype included, instead of copying their values.

    Raises SpecError naming the first tensor that is missing, unknown or of another shape.
    """
    own = model.state_dict()
    for kind, names in (("lacks", sorted(set(own) - set(state))), ("has the unknown tensor", sorted(set(state) - set(own)))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise SpecError(f"{where} is of another network: it {kind} '{names[0]}'{more}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise SpecError(
                f"{where} is of another network: '{name}' is {tuple(state[name].shape)} there, {tuple(value.shape)} is expected"
            )
    if not assign:
        model.load_state_dict(dict(state))
        return
    # What load_state_dict(assign=True) does for modules without hooks of their own, in a fifth of its time.
    for prefix, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                new = state.get(f"{prefix}.{name}" if prefix else name)
                if value is not None and new is not None:
                    tensors[name] = parameter(new, value.requires_grad) if isinstance(value, nn.Parameter) else new


class Stamp(NamedTuple):
    """A file as it was: hashed once as long as this does not change."""

    path: Path
    size: int
    written: int
    number: int


def _stamps(path: Path) -> tuple[Stamp, ...]:
    """The file, or those of a folder that say what its model is."""
    files = [path] if path.is_file() else [f for f in sorted(path.rglob("*")) if f.suffix in (".safetensors", ".json")]
    stats = [(file, file.stat()) for file in files]
    return tuple(Stamp(file, s.st_size, s.st_mtime_ns, s.st_ino) for file, s in stats)


@lru_cache(maxsize=1024)
def _digest(stamp: Stamp) -> str:
    with stamp.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """The first 16 hex digits of the file's SHA-256: which weights a picture was made with.

    Of a folder it is the hash of its model's files, names and contents, in the order of their names.
    """
    if path.is_file():
        return _digest(_stamps(path)[0])[:16]
    lines = "".join(f"{_digest(stamp)}  {stamp.path.relative_to(path).as_posix()}\n" for stamp in _stamps(path))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
