"""CLIP's text tower as the language of a diffusion model: published weights fit it, a small one trains with the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from safelight.cond import Cond, Framing
from safelight.nn.clip import TextTower
from safelight.text.base import TextEncoder, TextSpec
from safelight.text.prompt import Reading, Window, a1111, compel, windows
from safelight.text.tokens import Tokenizer
from safelight.text.vocabulary import Carried, layout, tokenizer


class CLIPTextSpec(TextSpec, kind="clip"):
    """The tower of nn/clip.py over a vocabulary of text/tokens.py.

    vocabulary: the name of one that ships, the path of a merges file, or one that lies among the model's own tensors. length: tokens
    a window, `begin` and `end` among them. quick: QuickGELU, as in OpenAI's CLIP. causal: as published; a tower that is trained here
    does better when every word sees the whole prompt (False). pad: the id that fills a window, default `end` (OpenCLIP's models: 0).
    skip: last blocks left out. projection: width of a linear map on the pooled vector, without a bias (SDXL's second encoder), or none.
    inner: width within a block's MLP, default four times `width`. raw: the states come without the last norm, and the pooled vector
    from behind all blocks, whatever is skipped (SDXL). masks: Cond.mask ends behind `end`; the published Stable Diffusion networks
    were trained to look at what fills the window too (False).

    The default has 3,063,744 parameters, 1,277,760 of them the words.
    """

    vocabulary: str | Carried = "clip-vocabulary"
    width: int = Field(192, ge=1)
    layers: int = Field(4, ge=1)
    heads: int = Field(3, ge=1)
    length: int = Field(32, ge=3)
    quick: bool = False
    causal: bool = True
    pad: int | None = Field(None, ge=0)
    skip: int = Field(0, ge=0)
    projection: int | None = Field(None, ge=1)
    inner: int | None = Field(None, ge=1)
    raw: bool = False
    masks: bool = True

    @classmethod
    def openai_l(cls) -> CLIPTextSpec:
        """The text tower of CLIP ViT-L/14, the language of Stable Diffusion 1: 123,060,480 parameters."""
        return cls(vocabulary="clip", width=768, layers=12, heads=12, length=77, quick=True, masks=False)

    @classmethod
    def openclip_h(cls) -> CLIPTextSpec:
        """The text tower of OpenCLIP ViT-H/14, read before its last block as in Stable Diffusion 2: 352,984,064 parameters."""
        return cls(vocabulary="clip", width=1024, layers=24, heads=16, length=77, pad=0, skip=1, masks=False)

    @classmethod
    def openclip_g(cls) -> CLIPTextSpec:
        """The text tower of OpenCLIP ViT-bigG/14 with its projection, read as in SDXL: 694,659,840 parameters."""
        return cls(
            vocabulary="clip", width=1280, layers=32, heads=20, length=77, pad=0, skip=1, projection=1280, raw=True, masks=False
        )

    @model_validator(mode="after")
    def _sound(self) -> CLIPTextSpec:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        if self.skip >= self.layers:
            raise ValueError(f"skipping {self.skip} of {self.layers} layers leaves none")
        return self

    @property
    def gives(self) -> tuple[int, int]:
        return self.width, self.projection or self.width

    def build(self) -> CLIPText:
        return CLIPText(self)


class CLIPText(TextEncoder):
    """Prompts -> Cond(tokens (B, k L, W), mask (B, k L), vector (B, W or projection)), k the windows of the longest prompt.

    Every window is encoded alone, as the tower knows no longer text, and laid behind the one before: no token is dropped.
    The mask is True from `begin` to `end` of each window, or over all of it (`masks` False: then there is no mask where all prompts
    have one window); windows that only fill up a shorter prompt are False throughout, so that a prompt's Cond is the same alone and
    in a batch. The vector is the mean of its own windows' pooled states.
    """

    def __init__(self, spec: CLIPTextSpec) -> None:
        super().__init__()
        self.spec = spec
        words = layout(spec.vocabulary)
        # The ids that open and close a window.
        self.ends = words.begin, words.end
        if isinstance(spec.vocabulary, Carried) and spec.vocabulary.packed:
            self.register_buffer("vocabulary", spec.vocabulary.empty())
        self.tower = TextTower(
            words.size, spec.width, spec.layers, spec.heads, spec.length, words.end, spec.quick, spec.causal, spec.inner
        )
        self.projection = nn.Linear(spec.width, spec.projection, bias=False) if spec.projection else nn.Identity()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, read when it is first needed. Raises SpecError for a model that came without its vocabulary."""
        return tokenizer(self.spec.vocabulary, getattr(self, "vocabulary", None))

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, k L) int64 on the CPU. Any text can be read; "" is the null prompt."""
        return self.tokenizer(prompts, self.spec.length, self.spec.pad)

    def forward(self, tokens: Tensor) -> Cond:
        """Raises ValueError when L does not divide the number of tokens."""
        b, n = tokens.shape
        if n % self.spec.length:
            raise ValueError(f"{n} tokens are not windows of {self.spec.length}: use this encoder's own tokenize")
        ids = tokens.reshape(-1, self.spec.length)  # (B k, L)
        if self.training and not self.spec.causal and n == self.spec.length and tokens.device.type == "cpu":
            # Places that no caption of the batch reaches are masked everywhere: left out, nothing else changes.
            ids = ids[:, : int((ids == self.ends[1]).int().argmax(-1).max()) + 1]
        return self._encode(ids, b)

    @torch.no_grad()
    def vectors(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """(N, D): the vectors of many prompts. Those of about one length are read together, and what lies behind the last of
        them to end is left out: captions take a third of the time that full windows do."""
        return self._short(prompts, batch, lambda _, pooled, __: self.projection(pooled))

    @torch.no_grad()
    def states(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """(N, W): of each prompt the mean state of its own tokens, without `begin` and `end`; of an empty one the null prompt's."""

        def mean(states: Tensor, _: Tensor, ends: Tensor) -> Tensor:
            place = torch.arange(states.shape[1], device=states.device)
            own = ((place > 0) & (place < ends[:, None].clamp(min=2))).to(states.dtype)[..., None]  # (B, L, 1)
            return (states * own).sum(1) / own.sum(1)

        return self._short(prompts, batch, mean)

    def _short(self, prompts: Sequence[str], batch: int, take: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """What `take` makes of the states (B, L, W), the pooled ones (B, W) and the places of `end` (B,) of each prompt's window."""
        device, length = self.tower.position.device, self.spec.length
        if not prompts:
            none = torch.empty(0, self.spec.width, device=device)
            return take(none[:, None], none, torch.empty(0, dtype=torch.int64, device=device))
        tokens = self.tokenize(prompts)
        if tokens.shape[1] > length:  # windows of its own for each: their mean
            each = [self.tokenize([prompt]).view(-1, length) for prompt in prompts]
            counts = [len(one) for one in each]
            tokens = torch.cat(each)
        else:
            counts = [1] * len(tokens)
        ends = (tokens == self.ends[1]).int().argmax(1)  # (N,)
        order, made = ends.argsort(stable=True), list[Tensor]()
        for rows in order.split(batch):
            last = ends[rows]
            states, pooled = self.tower(tokens[rows, : int(last[-1]) + 1].to(device), self.spec.skip, raw=self.spec.raw)
            made.append(take(states, pooled, last.to(device)))
        found = torch.cat(made)[order.argsort().to(device)]
        return found if len(found) == len(prompts) else torch.stack([part.mean(0) for part in found.split(counts)])

    def windows(self, prompts: Sequence[str], emphasis: str = "a1111") -> list[Reading]:
        """How each prompt will be read: its windows, their tokens, and what weight each piece of text has. Raises as `read` does."""
        return [windows(self.tokenizer, prompt, emphasis, self.spec.length) for prompt in prompts]

    def read(self, prompts: Sequence[str], emphasis: str = "none", framing: Framing | None = None) -> Cond:
        """Prompts -> Cond, with the weights and BREAKs of a mode of prompt/parse.py; see text/prompt.py for what a weight does.

        A prompt without syntax gives what `forward(tokenize([prompt]))` gives, the very bits where it fits one window, in every mode;
        and any prompt gives the same bits alone and in a batch, as each window is encoded by itself. The vector is not weighted:
        none of the three tools does (they take the first window's; here it is the mean of all, as ever). No framing is told. Raises
        SpecError for an unknown mode, and for what `parse` refuses.
        """
        voice = _Voice(self)
        known: dict[str, Cond] = {}
        for prompt in prompts:
            if prompt not in known:
                known[prompt] = voice.say(self.windows([prompt], emphasis)[0], emphasis)
        return Cond.cat([known[prompt] for prompt in prompts])

    def _encode(self, ids: Tensor, b: int, hidden: Tensor | None = None) -> Cond:
        n = len(ids) // max(b, 1) * ids.shape[1]
        states, pooled = self.tower(ids, self.spec.skip, hidden, raw=self.spec.raw)  # (B k, L, W), (B k, W)
        begin, end = self.ends
        there = ids[:, :1] == begin  # (B k, 1) False for a window that only fills up
        share = there.view(b, -1, 1).to(pooled.dtype)  # (B, k, 1)
        vector = (self.projection(pooled).view(b, share.shape[1], -1) * share).sum(1) / share.sum(1)  # (B, D)
        if self.spec.masks:
            close = (ids == end).int().argmax(-1, keepdim=True)  # (B k, 1)
            mask = (torch.arange(ids.shape[1], device=ids.device) <= close) & there  # (B k, L)
        elif len(ids) == b:
            return Cond(states, None, vector)
        else:
            mask = there.expand(-1, ids.shape[1])
        return Cond(states.reshape(b, n, -1), mask.reshape(b, n), vector)


class _Voice:
    """Encodes windows one by one, each of them once."""

    def __init__(self, text: CLIPText) -> None:
        self.text, self.device = text, text.tower.position.device
        self.seen: dict[tuple[tuple[int, ...], tuple[bool, ...]], Cond] = {}

    def row(self, first: object, middle: Sequence[object], rest: object) -> list[object]:
        """`middle` where a window's tokens stand, between `begin` and what fills the window."""
        return [first, *middle, *[rest] * (self.text.spec.length - 1 - len(middle))]

    def window(self, window: Window, hide: int | None) -> Cond:
        hidden = tuple(part == hide for part in window.parts)
        if (window.ids, hidden) not in self.seen:
            t, pad = self.text.tokenizer, self.text.spec.pad
            ids = self.row(t.begin, [*window.ids, t.end], t.end if pad is None else pad)
            mask = torch.tensor([self.row(False, hidden, False)], device=self.device) if any(hidden) else None
            self.seen[window.ids, hidden] = self.text._encode(torch.tensor([ids], device=self.device), 1, mask)
        return self.seen[window.ids, hidden]

    def states(self, windows: Sequence[Window], hide: int | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
        """z (k, L, W), mask (k, L) or None, vector (k, D); no token looks at those of segment `hide`."""
        z, mask, vector, _ = Cond.cat([self.window(window, hide) for window in windows])
        assert z is not None and vector is not None  # a CLIP tower gives both
        return z, mask, vector

    def say(self, reading: Reading, emphasis: str) -> Cond:
        """The Cond of one prompt."""
        z, mask, vector = self.states(reading.windows)
        if any(weight != 1 for window in reading.windows for weight in window.weights):
            rows = [self.row(1.0, window.weights, 1.0) for window in reading.windows]
            w = torch.tensor(rows, device=self.device, dtype=z.dtype)  # (k, L)
            if emphasis == "a1111":
                every = torch.ones(z.shape[:2], dtype=torch.bool, device=self.device)
                z = a1111(z, w, every if mask is None or self.text.spec.causal else mask)
            else:
                empty = self.states([Window((), (), (), ())])[0]  # (1, L, W)
                below = reading.below.items() if emphasis == "compel" else ()
                without = [(weight, self.states(reading.windows, part)[0]) for part, weight in below]
                z = compel(z, w, empty, without)  # without a segment below 1 it is comfy's
        flat = None if mask is None else mask.reshape(1, -1)
        return Cond(z.reshape(1, -1, z.shape[-1]), flat, vector.mean(0, keepdim=True))
