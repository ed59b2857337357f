"""Where each word was looked at: cross-attention, recorded by running a recorded run again.

A run does not pay for maps that nobody asks for. Who asks has the run made again from its trace, the weights of attention worked out
beside the kernel that the network uses, so that the second run is the first one, bit for bit; `Heard.identical` says whether it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from safelight.assets import Assets
from safelight.files import atomic
from safelight.generate import Event, Finished, Started, Stepped, generate
from safelight.model import Model, own_header
from safelight.nn.attention import CrossAttention, tapped
from safelight.nn.dit_tokens import CrossAttending
from safelight.spec import SpecError
from safelight.task.interpolate import Interpolate
from safelight.task.mix import Mix
from safelight.text.spans import Role, Token, tokens
from safelight.trace import Trace

FORMAT = 1
_KEY = "safelight"


class Share(NamedTuple):
    """How much of a place's look a token gets; the shares of all tokens sum to 1."""

    token: int
    share: float


class Heard:
    """The cross-attention of a run: for each step, picture and token a map (h, w) over the latent, mean over heads and layers.

    At every place the maps of all tokens, those that are no words too, sum to 1. Opened from a file, maps are read when asked for.
    """

    def __init__(self, about: dict[str, Any], tensors: dict[str, Tensor] | Path) -> None:
        self.about, self._tensors = about, tensors
        self._tops: dict[tuple[int | None, int], float] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Heard:
        """From its file; reads the header only. Raises SpecError for files of another kind."""
        file = Path(path)
        found = own_header(file)
        if found.get("what") != "attention":
            raise SpecError(f"{file} holds no attention")
        if found["format"] > FORMAT:
            raise SpecError(
                f"{file} has attention format {found['format']}, this version reads up to {FORMAT}: update safelight"
            )
        return cls(found, file)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as one file, whole or not at all."""
        if isinstance(self._tensors, Path):
            raise SpecError(f"{self._tensors} is the file of this attention: copy it")
        with atomic(path) as temporary:
            save_file(
                self._tensors, temporary, metadata={_KEY: json.dumps({**self.about, "what": "attention", "format": FORMAT})}
            )

    @property
    def steps(self) -> list[int]:
        """The steps of the run that were heard, in order."""
        return list(self.about["steps"])

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers whose own maps were kept; none unless they were asked for."""
        return tuple(self.about["layers"])

    @property
    def identical(self) -> bool:
        """Whether the run that was heard gave the recorded run's own numbers, to the last bit, at every step and at its end."""
        return bool(self.about["identical"])

    def tokens(self, picture: int = 0) -> list[Token]:
        """What a picture's places could look at, in the order of the maps. Raises SpecError for a picture that there is not."""
        listed = self.about["tokens"]
        if not 0 <= picture < len(listed):
            raise SpecError(f"picture {picture} was not heard: there are {len(listed)}")
        return [Token(**token) for token in listed[picture]]

    def maps(self, step: int | None = None, picture: int = 0, layer: str | None = None) -> Tensor:
        """(L, h, w) float32, the maps of all tokens at a step; None: the mean over all steps. layer: of one layer, in its own size.

        Raises SpecError for a step, picture or layer that was not heard.
        """
        count = len(self.tokens(picture))
        if layer is not None and layer not in self.layers:
            kept = f"kept are {', '.join(self.layers)}" if self.layers else "none was kept: listen with layers"
            raise SpecError(f"no layer '{layer}' ({kept})")
        if step is not None and step not in self.steps:
            raise SpecError(f"step {step} was not heard: there are {self.steps[0]}..{self.steps[-1]}")
        start = "mean" if layer is None else f"layer/{layer}"
        wanted = self.steps if step is None else [step]
        found = [self._get(f"{start}/{k}")[picture, :count] for k in wanted]
        return found[0] if step is not None else torch.stack(found).mean(0)

    def map(self, token: int, step: int | None = None, picture: int = 0, layer: str | None = None) -> Tensor:
        """(h, w) the map of one token; see `maps`. Raises SpecError for a token that there is not."""
        if not 0 <= token < (count := len(self.tokens(picture))):
            raise SpecError(f"token {token}: picture {picture} has tokens 0..{count - 1}")
        return self.maps(step, picture, layer)[token]

    def at(self, y: float, x: float, step: int | None = None, picture: int = 0) -> list[Share]:
        """The tokens by what they get of the look from one place, the most first. y, x: of the picture, in [0, 1)."""
        if not (0 <= y < 1 and 0 <= x < 1):
            raise SpecError(f"a place is y, x in [0, 1), not {y:g}, {x:g}")
        maps = self.maps(step, picture)
        shares = maps[:, int(y * maps.shape[1]), int(x * maps.shape[2])]
        return [Share(int(i), float(shares[i])) for i in shares.argsort(descending=True)]

    def written(self, step: int | None = None, picture: int = 0) -> Tensor:
        """(h, w) what all words together get: the rest goes to `begin`, `end` and what else is no word."""
        rows = [i for i, token in enumerate(self.tokens(picture)) if token.role == "word"]
        return self.maps(step, picture)[rows].sum(0)

    def picture(
        self, token: int | None, step: int | None = None, picture: int = 0, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """uint8 (H, W, 1), a token's map (None: of all words) in grey, white for most, as large as the picture it is laid over.

        White is the largest value of that token at any step, so the steps of one token can be compared; the mean over steps has its
        own.
        """
        own = self._one(token, step, picture)
        if step is not None and (token, picture) not in self._tops:
            self._tops[token, picture] = max(float(self._one(token, k, picture).max()) for k in self.steps)
        top = float(own.max()) if step is None else self._tops[token, picture]
        large = F.interpolate(own[None, None], size or tuple(self.about["size"]), mode="bilinear")[0, 0]
        return (large / max(top, 1e-12) * 255).round().clamp(0, 255).byte().numpy()[..., None]

    def _one(self, token: int | None, step: int | None, picture: int) -> Tensor:
        return self.written(step, picture) if token is None else self.map(token, step, picture)

    def json(self, picture: int = 0) -> dict[str, Any]:
        """What a client needs to name the maps: tokens with their numbers i, steps, the maps' size, layers, identical."""
        height, width = self._get(f"mean/{self.steps[0]}").shape[-2:]
        return {
            "tokens": [{"i": i, **token._asdict()} for i, token in enumerate(self.tokens(picture))],
            "steps": len(self.steps),
            "numbers": self.steps,
            "layers": list(self.layers),
            "height": height,
            "width": width,
            "identical": self.identical,
        }

    def _get(self, name: str) -> Tensor:
        if isinstance(self._tensors, dict):
            return self._tensors[name]
        with safe_open(self._tensors, framework="pt", device="cpu") as file:
            return file.get_tensor(name)


class Listener:
    """Makes a recorded run again and hears its attention: `for event in listener: ...`, then `listener.heard()`.

    trace: of any run; one that begins in the middle (a fork) must be exact. first: the step that a fork was forked at, where its trace
    also holds its parent's steps, which were made with another request and are not heard. assets: what its request names. layers: keep
    each layer's own maps too, in their own size: some 2 to 20 times the room. A solver that asks the network several times a step is
    heard at the first, at the step's own level. The events are those of `generate`; whoever wants to stop stops taking them.
    Raises SpecError when the network reads no words by cross-attention.
    """

    def __init__(
        self, trace: Trace, model: Model, *, assets: Assets | None = None, layers: bool = False, first: int | None = None
    ) -> None:
        network = model.denoiser.network
        self._names = [name for name, module in network.named_modules() if isinstance(module, CrossAttention)]
        if not self._names or model.text is None:
            raise SpecError(
                "attention: this model's network reads no words by cross-attention, so there is nothing to see of it"
            )
        if not trace.steps:
            raise SpecError("attention: the trace has no step yet")
        self.trace, self.model, self.assets, self.layers, self.first = trace, model, assets, layers, first
        self._space: tuple[int, ...] = tuple(trace.x0(trace.steps[0].k).shape[-2:])
        self._now: dict[str, Tensor] = {}
        self._kept: dict[str, list[Tensor]] = {}
        self._tokens: list[list[Token]] = []
        self._rows, self._prompts, self._identical, self._steps = slice(0, 0), tuple[str, ...](), True, list[int]()

    def __iter__(self) -> Iterator[Event]:
        first, last = self.first if self.first is not None else self.trace.steps[0].k, self.trace.steps[-1].k
        # A fork goes on from recorded noise, at step 0 too: its seed alone does not make it.
        recorded = self.trace if first or self.first is not None else None
        run = iter(generate(self.model, self.trace.request, assets=self.assets, recorded=recorded, first=first))
        while True:
            self._now = {}
            with tapped(self.model.denoiser.network, self._hear):
                event = next(run, None)
            if event is None:
                return
            self._see(event)
            yield event
            stopped = isinstance(event, Stepped) and event.step.i == last and last + 1 < event.step.n
            if stopped and event.part + 1 == event.parts:  # as the recorded run was
                return

    def heard(self) -> Heard:
        """What was heard so far. Raises SpecError before the first step."""
        if not self._steps:
            raise SpecError("attention: nothing was heard, the run has not begun")
        places = max(len(row) for row in self._tokens)
        tensors = {
            name: torch.cat([F.pad(part, (0, 0, 0, 0, 0, places - part.shape[1])) for part in parts]).contiguous()
            for name, parts in self._kept.items()
        }
        height, width = self._space
        about = {
            "steps": self._steps,
            "layers": self._names if self.layers else [],
            "identical": self._identical,
            "tokens": [[token._asdict() for token in row] for row in self._tokens],
            "size": [height * self.model.codec.stride, width * self.model.codec.stride],
        }
        return Heard(about, tensors)

    def _hear(self, name: str, weights: Tensor) -> None:
        self._now.setdefault(name, weights)

    def _see(self, event: Event) -> None:
        if isinstance(event, Started):
            if event.stage:
                raise SpecError("attention: a run of several stages cannot be heard")
            self._prompts, self._rows = event.prompts, slice(self._rows.stop, self._rows.stop + len(event.x))
        elif isinstance(event, Stepped):
            self._keep(event.step.i)
            self._compare(self.trace.x(event.step.i + 1), event.step.x)
        elif isinstance(event, Finished):
            self._compare(self.trace.pictures, event.pictures)

    def _keep(self, k: int) -> None:
        # The branch of the prompt comes first in every batch of a mix's branches.
        count = self._rows.stop - self._rows.start
        large = list[Tensor]()
        for name, weights in self._now.items():
            own = weights[:count].mean(1).transpose(1, 2).to("cpu")  # (B, L, N)
            height, width, side = self._grid(own.shape[2])
            maps = own.unflatten(2, (height, width))  # (B, L, h, w)
            if self.layers:
                self._kept.setdefault(f"layer/{name}/{k}", []).append(maps.contiguous())
            full = maps.repeat_interleave(side, 2).repeat_interleave(side, 3)
            large.append(full[..., : self._space[0], : self._space[1]])
        if not large:
            raise SpecError(f"attention: the network read no words at step {k}")
        self._kept.setdefault(f"mean/{k}", []).append(torch.stack(large).mean(0))
        if k not in self._steps:
            self._steps.append(k)
        if len(self._tokens) < self._rows.stop:
            self._tokens += [self._named(prompt, large[0].shape[1]) for prompt in self._prompts]

    def _grid(self, n: int) -> tuple[int, int, int]:
        """(height, width, side) of a layer that sees n places, each a square of side x side cells of the latent."""
        spec = self.model.denoiser.network.spec
        unit = getattr(spec, "stride", getattr(spec, "patch", 1))
        height, width = (-(-length // unit) * unit for length in self._space)  # as the network pads them
        for side in range(1, unit + 1):
            if unit % side == 0 and (height // side) * (width // side) == n:
                return height // side, width // side, side
        raise SpecError(f"attention: a layer looks from {n} places, which is no grid of a latent of {height} x {width}")

    def _named(self, prompt: str, count: int) -> list[Token]:
        """The `count` places that a picture of this prompt looks at."""
        assert self.model.text is not None
        request, spec = self.trace.request, self.model.denoiser.network.spec
        first: list[Token] = []
        if isinstance(getattr(spec, "block", None), CrossAttending):
            roles: Sequence[Role] = ("time", "vector") if spec.cond else ("time",)
            first = [Token(role, -1, role=role) for role in roles]
        # Of a blend of prompts no place is a word's own any more.
        blended = isinstance(request.task, Mix | Interpolate)
        found = [] if blended else tokens(self.model.text, prompt, request.emphasis, filled=True)
        rest = count - len(first) - len(found)
        fill = [Token(f"place {len(found) + i}" if blended else "", -1, role="word" if blended else "pad") for i in range(rest)]
        return [*first, *found, *fill]

    def _compare(self, recorded: Tensor, made: Tensor) -> None:
        mine = recorded[self._rows]  # none of them where a run in parts was stopped
        self._identical &= not len(mine) or torch.equal(mine, made.detach().to("cpu", mine.dtype))


def hear(trace: Trace, model: Model, *, assets: Assets | None = None, layers: bool = False, first: int | None = None) -> Heard:
    """The attention of a recorded run, in one call; see `Listener`."""
    listener = Listener(trace, model, assets=assets, layers=layers, first=first)
    for _ in listener:
        pass
    return listener.heard()


__all__ = ["Heard", "Listener", "Share", "hear"]
