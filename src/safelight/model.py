"""Model: denoiser + codec + text, saved as one self-describing file.

The file is a `.safetensors` whose header holds a format number, the spec of every part and the lineage. Weights lie in named
sets, `raw` as trained and averages such as `ema`, each tensor under `set/parameter`. Only registered kinds can be built, so
nothing in a file executes, and loading is strict.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from safelight.codec import CodecSpec
from safelight.codec.pixels import PixelsSpec
from safelight.denoise import Denoiser
from safelight.files import atomic
from safelight.grid import Grid, Rect
from safelight.guide import Bend, Mix
from safelight.guide.cfg import NoGuidance
from safelight.nn import NetworkSpec
from safelight.predict import Parameterization
from safelight.process import Process
from safelight.sample import Sampler
from safelight.sample.adams import ABM
from safelight.spec import Spec, SpecError, describe, nearest, parse
from safelight.text import TextSpec

FORMAT = 1
# The embedded model that "default" stands for.
DEFAULT = "sprites-small"
_KEY = "safelight"
# Nothing sane has a header beyond this; a longer one is a file of another kind.
_LONGEST_HEADER = 100_000_000
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

    channels: of the pictures. size: (height, width) it was trained on, and makes by default.
    """

    network: NetworkSpec
    process: Process
    parameterization: Parameterization
    codec: CodecSpec = PixelsSpec()
    text: TextSpec | None = None
    channels: int = Field(1, ge=1)
    size: tuple[int, int]
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
            if take and take != give:
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
        # Of the file it was loaded from, empty for one that was not: its name without folder and suffix, hash, set of weights.
        self.name = self.fingerprint = self.weights = ""

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


class Entry(NamedTuple):
    """A tensor as a header describes it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


class Header(NamedTuple):
    """What a file says of itself, read without touching a weight.

    spec: the model's description. lineage: how it came to be. weights: the names of its weight sets. tensors: by full name.
    """

    path: Path
    format: int
    spec: dict[str, Any]
    lineage: dict[str, Any]
    weights: tuple[str, ...]
    tensors: dict[str, Entry]


def raw_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file. Raises SpecError, in one line, for a file that is missing or of another kind."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            size = path.stat().st_size
            if len(head) < 8 or not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise SpecError(f"{path} is not a safetensors file{_looks_like(head)}")
            found = json.loads(file.read(length))
    except FileNotFoundError:
        raise SpecError(f"no file {path}") from None
    except IsADirectoryError:
        raise SpecError(f"{path} is a folder, not a model file") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise SpecError(f"{path} is not a safetensors file{_looks_like(head)}") from None
    if not isinstance(found, dict):
        raise SpecError(f"{path} is not a safetensors file")
    try:
        end = 8 + length + max((int(e["data_offsets"][1]) for k, e in found.items() if k != "__metadata__"), default=0)
    except (TypeError, KeyError, IndexError, ValueError):
        raise SpecError(f"{path} is damaged: its header describes a tensor without saying where it lies") from None
    if end > size:
        raise SpecError(f"{path} is cut short: its header promises {end} bytes, it has {size}; copy it again")
    return found


def own_header(path: Path) -> dict[str, Any]:
    """What a safetensors file of ours (a model, a trace, attention) says of itself; {} of others'. Raises SpecError as `raw_header`."""
    found: dict[str, Any] = json.loads(raw_header(path).get("__metadata__", {}).get(_KEY, "{}"))
    return found


def _looks_like(head: bytes) -> str:
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return " (it looks like a pickle, which is never loaded: it could run code)"
    return ""


def peek(source: str | os.PathLike[str]) -> Header:
    """What a model file says of itself; reads the header only.

    source: a path, a run's folder, or the name of an embedded model. Raises SpecError for files that are not Safelight models.
    """
    path = locate(source)
    found = raw_header(path)
    try:
        return _described(path, found)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError):
        raise SpecError(f"{path} is damaged: its header cannot be read") from None


def _described(path: Path, found: dict[str, Any]) -> Header:
    text = found.get("__metadata__", {}).get(_KEY)
    if text is None:
        raise SpecError(f"{path} is a safetensors file, but not a Safelight model: its header has no '{_KEY}' entry")
    about = json.loads(text)
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
    """The model file that a path, a run's folder (its latest checkpoint) or an embedded model's name stands for.

    Raises SpecError naming what there is when there is none.
    """
    path = Path(source)
    if path.is_dir():
        for latest in (path / "LATEST", path / "checkpoints" / "LATEST"):
            if latest.is_file():
                return latest.parent / latest.read_text().strip() / "model.safetensors"
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
        f"{name}/{key}": value.detach()
        .to("cpu", dtype if dtype and value.is_floating_point() else value.dtype)
        .contiguous()
        .clone()
        for name, weights in sets.items()
        for key, value in weights.items()
    }
    about = {"format": FORMAT, "spec": describe(model), "lineage": dict(lineage or model.lineage), "weights": list(sets)}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(about)})


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
    header = peek(source)
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
    spec = parse(header.spec, family)
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn and thrown away: nobody's random numbers may move
        model: Model = spec.build()
    try:
        with safe_open(header.path, framework="pt", device="cpu") as file:
            state = {k.removeprefix(chosen + "/"): file.get_tensor(k) for k in file.keys() if k.startswith(chosen + "/")}  # noqa: SIM118
    except SafetensorError as error:
        raise SpecError(f"{header.path} is damaged: {' '.join(str(error).split())}") from None
    fit(model, state, str(header.path), assign=True)
    model.lineage = header.lineage
    model.name, model.fingerprint, model.weights = header.path.stem, fingerprint(header.path), chosen
    if dtype is not None:
        model.to(dtype)
    return model.to(device).eval()


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
    model.load_state_dict(dict(state), assign=assign)


def fingerprint(path: Path) -> str:
    """The first 16 hex digits of the file's SHA-256: which weights a picture was made with."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
