"""Controls: networks beside a model that steer it by a picture for a run. The model itself is not touched.

A ControlNet (nn/controlnet.py) adds to the U-Net's skips at every step, a T2I-adapter (nn/t2i.py) adds to its way down what it saw once,
an IP-adapter (nn/ip.py) has its cross-attentions read a picture beside the words. Several add up, each times its weight, and each acts
in its own part of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.denoise import Denoise, Denoiser, Estimate
from safelight.nn.attention import JoinedSpec, TransformerSpec
from safelight.nn.controlnet import ControlNet
from safelight.nn.ip import IPAdapter
from safelight.nn.network import Output
from safelight.nn.pad import pad_to
from safelight.nn.t2i import T2IAdapter
from safelight.nn.told import Told, ToldNetwork
from safelight.nn.unet import Trunk, UNet, UNetSpec
from safelight.process import Level
from safelight.spec import Spec, SpecError

# A network that steers another.
ControlNetwork = ControlNet | T2IAdapter | IPAdapter


class Control(Spec):
    """One control of a request. name: of one at hand (its file or folder, without suffix). picture: the seal of what it sees.

    start, end: the part of the run's n steps in which it acts: step i (0..n-1) does where i / n >= start and (i + 1) / n <= end.
    """

    name: str = Field(min_length=1, description="the control's file, without folder and suffix")
    picture: str = Field(min_length=1, description="the picture that it steers by")
    weight: float = Field(1.0, ge=-10, le=10, description="how strongly it steers; 1 is as trained")
    start: float = Field(0.0, ge=0, le=1, description="the part of the steps after which it begins")
    end: float = Field(1.0, ge=0, le=1, description="the part of the steps after which it ends")
    hash: str = Field("", description="the first hex digits of its weights' SHA-256; the file is refused where they differ")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"it begins at {self.start} of the steps and ends at {self.end}: start must be below end")
        return self

    def span(self, levels: Sequence[Level]) -> tuple[float, float]:
        """(low, high): the control acts at times low < t <= high of a run over these n + 1 levels."""
        n = len(levels) - 1
        active = [i for i in range(n) if i / n >= self.start and (i + 1) / n <= self.end]
        if not active:
            return math.inf, math.inf
        first, last = active[0], active[-1]
        high = math.inf if first == 0 else float(levels[first].t)
        return (-math.inf if last == n - 1 else float(levels[last + 1].t)), high


class Steering(NamedTuple):
    """A control at work. seen: what it made of its picture, once: E of it, a feature a resolution, or (1, n, D) tokens.

    It acts at times low < t <= high.
    """

    net: ControlNetwork
    seen: tuple[Tensor, ...]
    weight: float = 1.0
    low: float = -math.inf
    high: float = math.inf


def look(net: ControlNet | T2IAdapter, picture: Tensor, base: nn.Module, stride: int) -> tuple[Tensor, ...]:
    """What a control makes of its picture, (1, C, H, W) in [0, 1], for a U-Net `base` whose codec has the given stride.

    Sides that the U-Net pads are padded here as there. Raises SpecError for a control of another model, and for a picture of other
    channels or of sides that a T2I-adapter cannot halve.
    """
    base = _unet(base)
    if picture.shape[1] != net.spec.channels:
        raise SpecError(f"control: the picture has {picture.shape[1]} channels, the control sees {net.spec.channels}")
    mine, theirs = _net_like(net, base, stride) if isinstance(net, ControlNet) else _adapter_like(net, base, stride)
    if mine != theirs:
        raise SpecError(f"control: '{net.spec.kind}' is of a U-Net with {mine}, the model's has {theirs}")
    whole = pad_to(picture.to(next(net.parameters()).dtype), stride * base.spec.stride)
    if isinstance(net, ControlNet):
        return (net.see(whole),)
    if any(n % net.spec.stride for n in whole.shape[2:]):
        raise SpecError(f"control: this T2I-adapter takes pictures whose sides are multiples of {net.spec.stride}; set size")
    return tuple(net(whole))


def _net_like(net: ControlNet, base: UNet, stride: int) -> tuple[str, str]:
    """What a ControlNet must share with a U-Net, as said of each."""

    def said(spec: UNetSpec, cell: int) -> str:
        skips = [plan.out for plan in spec.stages() if plan.way <= 0]
        return (
            f"widths {skips[0]}..{skips[-1]} in {len(skips)} stages, tokens of {spec.context}, a vector of {spec.cond},"
            f" {spec.channels} channels and {cell} pixels a place"
        )

    return said(net.spec.trunk, net.spec.stride), said(base.spec, stride)


def _adapter_like(net: T2IAdapter, base: UNet, stride: int) -> tuple[str, str]:
    """The width and the pixels a place of each feature, and of what it is added to (`Trunk.descend`); the middle may be left out."""
    wanted, levels = [], 1 + max(stage.plan.level for stage in base.stages)
    for level in range(levels):
        row = [stage.plan for stage in base.stages if stage.plan.way < 0 and stage.plan.level == level]
        reads = any(isinstance(plan.attention, TransformerSpec | JoinedSpec) for plan in row)
        halved = not reads and any(plan.resample < 0 for plan in row)
        wanted.append((base.spec.widths[level], stride * 2 ** (level + halved)))
    wanted.append((base.spec.widths[-1], stride * 2 ** (levels - 1)))
    made = [(w, net.spec.unshuffle * 2 ** sum(h <= i for h in net.spec.halves)) for i, w in enumerate(net.spec.widths)]

    def said(features: Sequence[tuple[int, int]]) -> str:
        return ", ".join(f"width {width} at {pixels} pixels a place" for width, pixels in features)

    return said(made), said(wanted[: max(len(made), levels)])


def told(conds: Mapping[str, Cond | None], steerings: Sequence[Steering]) -> dict[str, Cond | None]:
    """The conditions with the tokens of the pictures that IP-adapters see in front of the words.

    seen of such a steering: the tokens of its picture, and those of no picture, which the branches "null" and "negative..." are shown.
    """
    adapters = [s for s in steerings if isinstance(s.net, IPAdapter)]
    if not adapters:
        return dict(conds)
    found: dict[str, Cond | None] = {}
    for name, cond in conds.items():
        if cond is None or cond.tokens is None:
            raise SpecError("control: an IP-adapter is read beside the words, and this model reads none")
        away = name.startswith(("null", "negative"))
        shown = torch.cat([s.seen[1 if away else 0] for s in adapters], dim=1).to(cond.tokens)  # (1, n, D)
        shown = shown.expand(len(cond.tokens), -1, -1)
        mask = None if cond.mask is None else torch.cat((cond.mask.new_ones(shown.shape[:2]), cond.mask), dim=1)
        found[name] = cond._replace(tokens=torch.cat((shown, cond.tokens), dim=1), mask=mask)
    return found


class Steered(ToldNetwork):
    """A U-Net and the controls that act on it now. `cond.tokens` begin with those of all IP-adapters' pictures, acting or not."""

    def __init__(self, base: UNet, steerings: Sequence[Steering], acting: Sequence[int]) -> None:
        super().__init__()
        self.base = base
        self.nets = nn.ModuleList(s.net for s in steerings)
        self.steerings, self.acting = tuple(steerings), tuple(acting)
        now = [self.steerings[i] for i in self.acting]
        self.copies = [(s.net, s.seen[0], s.weight) for s in now if isinstance(s.net, ControlNet)]
        self.features = [[s.weight * f for f in s.seen] for s in now if isinstance(s.net, T2IAdapter)]

    def heard(self, cond: Cond) -> Tensor | None:
        """What the U-Net hears."""
        return self.base.heard(cond)

    def tell(self, noise: Tensor, vector: Tensor | None) -> Told:
        """What the U-Net is told, then what each ControlNet is."""
        return tuple(number for part in self._trunks() for number in part.tell(noise, vector))

    def read(self, tokens: Tensor | None, mask: Tensor | None) -> tuple[Any, ...]:
        """What the U-Net reads, pictures beside words, then what each ControlNet does (the words alone)."""
        pictures: list[tuple[IPAdapter, Tensor, float]] = []
        for i, s in enumerate(self.steerings):
            if isinstance(s.net, IPAdapter) and tokens is not None:
                n = s.seen[0].shape[1]
                if i in self.acting:
                    pictures.append((s.net, tokens[:, :n], s.weight))
                tokens, mask = tokens[:, n:], None if mask is None else mask[:, n:]
        words, *others = (part.read(tokens, mask) for part in self._trunks())
        for net, shown, weight in pictures:
            words = net.beside(self.base, words, shown, weight)
        return (words, *others)

    def draw(self, x: Tensor, told: Told, words: tuple[Any, ...], image: Tensor | None = None) -> Output:
        """x: (B, channels, H, W). The U-Net with all that is added to it."""
        numbers = iter(told)
        mine, *shares = (tuple(next(numbers) for stage in part.stages if stage.tell is not None) for part in self._trunks())
        added = [
            [weight * e for e in net.draw(x, share, w, seen)]
            for (net, seen, weight), share, w in zip(self.copies, shares, words[1:], strict=True)
        ]
        return self.base.draw(x, mine, words[0], image, _summed(added), _summed(self.features))

    def _trunks(self) -> list[Trunk]:
        """What is told and read: the U-Net, then the copies of its way down."""
        return [self.base, *(net.trunk for net, _, _ in self.copies)]


def _summed(several: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Place by place; nothing for none. Where some have more places than others, those stand alone there."""
    return [sum(rest, first) for first, *rest in map(_there, zip_longest(*several))]


def _there(values: Sequence[Tensor | None]) -> list[Tensor]:
    return [value for value in values if value is not None]


def _unet(network: nn.Module) -> UNet:
    if not isinstance(network, UNet):
        raise SpecError("control: the model's network has no way down that a control could steer; it takes a U-Net")
    return network


class Controlled(Denoiser):
    """A denoiser whose network is steered, at each level by the controls that act there. The weights are the denoiser's own."""

    def __init__(self, denoiser: Denoiser, steerings: Sequence[Steering]) -> None:
        super().__init__(denoiser.network, denoiser.process, denoiser.parameterization)
        _unet(denoiser.network)
        self.steerings = tuple(steerings)
        self.nets = nn.ModuleList(s.net for s in steerings)

    def forward(self, x: Tensor, level: Level, cond: Cond | None = None) -> Estimate:
        """As `Denoiser.forward`, at one level for all pictures; cond: with the pictures' tokens, see `told`."""
        return self._steered(self._acting(level))(x, level, cond)

    def bind(self, cond: Cond | None, levels: Sequence[Level] = ()) -> Denoise:
        """As `Denoiser.bind`; cond: with the pictures' tokens, see `told`."""
        bound: dict[tuple[int, ...], Denoise] = {}

        def denoise(x: Tensor, level: Level) -> Estimate:
            acting = self._acting(level)
            if acting not in bound:
                mine = [v for v in levels if self._acting(v) == acting]
                bound[acting] = self._steered(acting).bind(cond, mine)
            return bound[acting](x, level)

        return denoise

    def _acting(self, level: Level) -> tuple[int, ...]:
        t = float(level.t.reshape(-1)[0])
        return tuple(i for i, s in enumerate(self.steerings) if s.low < t <= s.high and s.weight)

    def _steered(self, acting: tuple[int, ...]) -> Denoiser:
        return Denoiser(Steered(_unet(self.network), self.steerings, acting), self.process, self.parameterization)
