"""CLIP's text tower as the language of a diffusion model: published weights fit it, a small one trains with the denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.nn.clip import TextTower
from safelight.text.base import TextEncoder, TextSpec
from safelight.text.tokens import load


class CLIPTextSpec(TextSpec, kind="clip"):
    """The tower of nn/clip.py over a vocabulary of text/tokens.py.

    vocabulary: the name of one that ships, or the path of a merges file. length: tokens a window, `begin` and `end` among them.
    quick: QuickGELU, as in OpenAI's CLIP. causal: as published; a tower that is trained here does better when every word sees
    the whole prompt (False). pad: the id that fills a window, default `end` (OpenCLIP's models: 0). skip: last blocks left out.
    projection: width of a linear map on the pooled vector, without a bias (SDXL's second encoder), or none.

    The default has 3,063,744 parameters, 1,277,760 of them the words.
    """

    vocabulary: str = "clip-vocabulary"
    width: int = Field(192, ge=1)
    layers: int = Field(4, ge=1)
    heads: int = Field(3, ge=1)
    length: int = Field(32, ge=3)
    quick: bool = False
    causal: bool = True
    pad: int | None = Field(None, ge=0)
    skip: int = Field(0, ge=0)
    projection: int | None = Field(None, ge=1)

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
    The mask is True from `begin` to `end` of each window; windows that only fill up a shorter prompt are False throughout, so
    that a prompt's Cond is the same alone and in a batch. The vector is the mean of its own windows' pooled states.
    """

    def __init__(self, spec: CLIPTextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.tokenizer = load(spec.vocabulary)
        t = self.tokenizer
        self.tower = TextTower(t.size, spec.width, spec.layers, spec.heads, spec.length, t.end, spec.quick, spec.causal)
        self.projection = nn.Linear(spec.width, spec.projection, bias=False) if spec.projection else nn.Identity()

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
            ids = ids[:, : int((ids == self.tokenizer.end).int().argmax(-1).max()) + 1]
            n = ids.shape[1]
        states, pooled = self.tower(ids, self.spec.skip)  # (B k, L, W), (B k, W)
        there = ids[:, :1] == self.tokenizer.begin  # (B k, 1) False for a window that only fills up
        close = (ids == self.tokenizer.end).int().argmax(-1, keepdim=True)  # (B k, 1)
        mask = (torch.arange(ids.shape[1], device=ids.device) <= close) & there  # (B k, L)
        share = there.view(b, -1, 1).to(pooled.dtype)  # (B, k, 1)
        vector = (self.projection(pooled).view(b, share.shape[1], -1) * share).sum(1) / share.sum(1)  # (B, D)
        return Cond(states.reshape(b, n, -1), mask.reshape(b, n), vector)
