"""LoRA: low-rank changes of a model's layers, worn for a run and taken off bit-exactly.

Hu et al. 2022, "LoRA: low-rank adaptation of large language models", section 4.1: a layer of weight W (out, in, *kernel) becomes

    W' = W + sum_i w_i s_i (B_i A_i),        s = alpha / rank,

A = `down` (rank, in, *kernel), B = `up` (out, rank), w_i the weight with which adapter i of a stack is worn. With a `mid` (rank, rank,
*kernel) between two 1x1 maps (Yeh et al. 2024, "Navigating text-to-image customization", LoCon's Tucker form) the product is
sum_ab B_oa mid_ab A_bi. With a `magnitude` m (out,) it is DoRA's (Liu et al. 2024, eq. 5): W + w (m (W + s B A) / ||W + s B A|| - W),
norms over a row.

W' is made once, in float32, rounded once to W's type, and stands in front of W: `module.weight` is W' while `module.state_dict()` and
`module.parameters()` still are W, which is never written to. So it is heard by whatever reads a layer's weight, a stack costs nothing
in a step, and taking it off is forgetting it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from safelight.spec import Spec, SpecError, nearest
from safelight.text.tokens import Tokenizer

# The layers that take a low-rank change.
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# A tokenizer, and the ids of the names that it shall know.
Words = tuple[Tokenizer, Mapping[str, tuple[int, ...]]]


class LoraUse(Spec):
    """One adapter of a request. name: of one at hand (its file without folder and suffix)."""

    name: str = Field(min_length=1, description="the adapter's file, without folder and suffix")
    weight: float = Field(1.0, ge=-10, le=10, description="how much of it is worn; 1 is as trained")
    text: float | None = Field(None, ge=-10, le=10, description="its weight in the text encoder; none: the same")
    hash: str = Field("", description="of the file's tensors, see `interop.lora.digest`; a file of another is refused")
    partial: bool = Field(False, description="what of it fits no layer of the model is left out")

    @property
    def parts(self) -> dict[str, float]:
        """Its weights by part of a model, for `wear`."""
        return {"denoiser": self.weight, "text": self.weight if self.text is None else self.text}


_TAG = re.compile(r"\s*<lora:([^:<>\n]+)((?::[^:<>\n]*)*)>")


def tagged(prompt: str) -> tuple[str, list[LoraUse]]:
    """A prompt of A1111's without its adapters, and these: `<lora:name>`, `<lora:name:weight>`, `<lora:name:text:weight>`, or with `te=`
    and `unet=` in place of numbers. Raises SpecError for a weight that is no number.
    """
    uses = []
    for name, rest in _TAG.findall(prompt):
        parts = [part.strip() for part in rest.split(":")[1:]]
        named = dict(part.split("=", 1) for part in parts if "=" in part)
        try:
            plain = [float(part) for part in parts if "=" not in part]
            text = float(named["te"]) if "te" in named else plain[0] if plain else 1.0
            weight = float(named["unet"]) if "unet" in named else plain[1] if len(plain) > 1 else text
            uses.append(LoraUse(name=name.strip(), weight=weight, text=None if text == weight else text))
        except ValueError:
            raise SpecError(f"<lora:{name}{rest}>: a weight is a number from -10 to 10, as in <lora:{name}:0.8>") from None
    return _TAG.sub("", prompt).strip() if uses else prompt, uses


class Change(NamedTuple):
    """The low-rank change of share `part` of `parts` of a layer's rows, in the layout of that layer.

    module: the layer's name in the model. down: (r, in, *kernel), with kernel 1 if there is a `mid` (r, r, *kernel). up: (rows, r) and
    any ones behind. alpha: a scalar, or None for r. magnitude: (rows,), DoRA's m.
    """

    module: str
    down: Tensor
    up: Tensor
    alpha: Tensor | None = None
    part: int = 0
    parts: int = 1
    mid: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """r."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """s = alpha / r."""
        return 1.0 if self.alpha is None else float(self.alpha) / self.rank

    @property
    def label(self) -> str:
        """The layer's name, with the share of it where it is not the whole."""
        return self.module if self.parts == 1 else f"{self.module}[{self.part + 1}/{self.parts}]"

    def to(self, device: torch.device) -> Change:
        """Its factors on a device."""
        mid, magnitude = (None if v is None else v.to(device) for v in (self.mid, self.magnitude))
        return self._replace(down=self.down.to(device), up=self.up.to(device), mid=mid, magnitude=magnitude)

    def product(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """B A: (rows, in * kernel), without the scale."""
        up, down = self.up.to(dtype).flatten(1), self.down.to(dtype)
        if self.mid is None:
            return up @ down.flatten(1)
        return torch.einsum("oa,abk,bi->oik", up, self.mid.to(dtype).flatten(2), down.flatten(1)).flatten(1)

    def problem(self, layer: nn.Module | None) -> str:
        """Why it does not fit a layer, in a few words; "" where it does."""
        if layer is None:
            return "the model has no such layer"
        if not isinstance(layer, KINDS):
            return f"a {type(layer).__name__} takes no low-rank change"
        rows, inner = layer.weight.shape[0] / self.parts, layer.weight[0].numel()
        wide = self.down[0].numel() * (1 if self.mid is None else self.mid[0, 0].numel())
        if (len(self.up), wide) != (rows, inner):
            return f"a change of {len(self.up)}x{wide}, where the layer has {rows:g}x{inner}"
        if self.up[0].numel() != self.rank or (self.mid is not None and self.mid.shape[:2] != (self.rank, self.rank)):
            return f"down has rank {self.rank}, up {self.up[0].numel()}"
        if self.magnitude is not None and self.magnitude.shape != (len(self.up),):
            return f"a magnitude of {tuple(self.magnitude.shape)} for {len(self.up)} rows"
        return ""


class Lora(NamedTuple):
    """An adapter: its changes, each of another share of the model. name: how it is called. about: what its file says of itself.

    spelling: whose names its file had for the network's layers, "original" for those of single files or "diffusers", where it said so.
    """

    changes: tuple[Change, ...]
    name: str = "adapter"
    about: Mapping[str, str] = {}
    spelling: str = ""


class Worn:
    """Adapters on a model: `with worn: ...` is the time in which it wears them. Made by `wear` and `adapt.inversion.learn`.

    Between such times, and after the last, the model is its own to the last bit: its parameters are never written to, `merge` apart.
    Whoever runs the model meanwhile hears them: a model is for one thread at a time.
    """

    def __init__(self, model: nn.Module, shadows: Mapping[tuple[str, str], Any], words: Sequence[Words] = ()) -> None:
        """shadows: what stands in front of an attribute of a module, by (module, attribute). words: what tokenizers know meanwhile."""
        self.names = tuple(name for name, _ in shadows)
        self._shadows = [(model.get_submodule(name), attribute, value) for (name, attribute), value in shadows.items()]
        self._words = list(words)
        self._before: list[dict[str, tuple[int, ...]]] = []
        self._deep = 0

    def __or__(self, other: Worn) -> Worn:
        """Both at once."""
        both = copy.copy(self)
        both.names, both._shadows = self.names + other.names, self._shadows + other._shadows
        both._words, both._before, both._deep = self._words + other._words, [], 0
        return both

    def __enter__(self) -> Self:
        self._deep += 1
        if self._deep == 1:
            for i, (module, attribute, value) in enumerate(self._shadows):
                if attribute in module.__dict__:
                    self._off(i)
                    self._deep = 0
                    raise SpecError(
                        f"'{self.names[i]}' wears another adapter already: take that off first, or wear both as one stack"
                    )
                module.__dict__[attribute] = value
            self._before = [tokenizer.extra for tokenizer, _ in self._words]
            for tokenizer, words in self._words:
                tokenizer.extra = {**tokenizer.extra, **words}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._deep -= 1
        if self._deep == 0:
            self._off(len(self._shadows))
            for (tokenizer, _), before in reversed([*zip(self._words, self._before, strict=True)]):
                tokenizer.extra = before

    def _off(self, count: int) -> None:
        for module, attribute, _ in self._shadows[:count]:
            module.__dict__.pop(attribute, None)

    @torch.no_grad()
    def merge(self) -> None:
        """Write the changed weights into the model for good: it can then be saved, and there is nothing to take off.

        Raises SpecError for words, which are no weights of the model.
        """
        if self._words:
            raise SpecError("words that were learned cannot be merged into a model: its vocabulary would be another")
        for module, _, weight in self._shadows:
            own = module._parameters["weight"]
            assert own is not None
            module._parameters["weight"] = nn.Parameter(weight, requires_grad=own.requires_grad)


def wear(model: nn.Module, stack: Sequence[tuple[Lora, float | Mapping[str, float]]]) -> Worn:
    """The model's layers with a stack of adapters in them; they are on within `with` only.

    stack: adapters with their weights, or weights by part: {"text": 0.5, "denoiser": 1} names the first words of layers' names, the
    longest that fits counts, and what none fits has weight 0. The cost is a copy of each changed layer's weight, and rank times its
    size of products, once. Weights of 0 leave their layers alone.
    Raises SpecError for a change that does not fit the model, and for weights that come out not finite.
    """
    layers = dict(model.named_modules())
    by_layer: dict[str, list[tuple[Change, float]]] = {}
    for lora, weight in stack:
        for change in lora.changes:
            why = change.problem(layers.get(change.module))
            if why:
                near = nearest(change.module, layers) if change.module not in layers else ""
                raise SpecError(f"adapter '{lora.name}' does not fit at '{change.label}': {why}{near}")
            w = weight if isinstance(weight, int | float) else _of(weight, change.module)
            if w:
                by_layer.setdefault(change.module, []).append((change, float(w)))
    with torch.inference_mode(False), torch.no_grad():
        changed = {name: _changed(layers[name], changes) for name, changes in by_layer.items()}
    bad = next((name for name, weight in changed.items() if not bool(weight.isfinite().all())), None)
    if bad is not None:
        names = ", ".join(f"'{lora.name}'" for lora, _ in stack)
        raise SpecError(
            f"with the adapters {names} the weight of '{bad}' is not finite in {str(changed[bad].dtype)[6:]}: a file is damaged"
        )
    return Worn(model, {(name, "weight"): weight for name, weight in changed.items()})


def _of(weights: Mapping[str, float], module: str) -> float:
    fits = [part for part in weights if module == part or module.startswith(part + ".")]
    return weights[max(fits, key=len)] if fits else 0.0


def _changed(layer: nn.Module, changes: Sequence[tuple[Change, float]]) -> Tensor:
    base = layer._parameters["weight"]
    assert base is not None
    wide = torch.promote_types(base.dtype, torch.float32)
    found = base.detach().to(wide, copy=True)
    for change, weight in changes:
        rows = len(base) // change.parts
        mine = found[change.part * rows : (change.part + 1) * rows]
        on = change.to(base.device)
        delta = on.product(wide) * on.scale  # (rows, in * kernel)
        if on.magnitude is not None:
            own = base.detach()[change.part * rows : (change.part + 1) * rows].to(wide).flatten(1)
            turned = own + delta
            delta = turned * (on.magnitude.to(wide) / turned.norm(dim=1))[:, None] - own
        mine.add_(delta.view_as(mine), alpha=weight)
    return found.to(base.dtype)
