"""Weighted prompts as windows of tokens, and what a weight does to the states of a text tower.

The syntax is prompt/parse.py. Here z are a tower's states (k windows, L places, W wide), w >= 0 or < 0 the weight of each place,
1 for `begin`, `end` and padding, and e the states of the empty prompt. Where all weights are 1, z comes back untouched, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from safelight.prompt.parse import Segment, parse
from safelight.text.tokens import Tokenizer

_LEAST = 1e-5  # compel's least weight: tan has a pole at 0


class Window(NamedTuple):
    """What a text tower reads at a time. ids: without `begin` and `end`. weights: one an id. parts: which segment an id is of."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    parts: tuple[int, ...]
    pieces: tuple[Segment, ...]

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return len(self.ids)


class Reading(NamedTuple):
    """A prompt as it will be encoded, for the encoder and for people. room: the tokens a window has room for."""

    windows: tuple[Window, ...]
    room: int

    @property
    def tokens(self) -> int:
        """How many tokens the prompt has, in all its windows."""
        return sum(window.tokens for window in self.windows)

    @property
    def below(self) -> dict[int, float]:
        """The segments whose weight is below 1, by number."""
        return {part: w for window in self.windows for part, w in zip(window.parts, window.weights, strict=True) if w < 1}


def windows(tokenizer: Tokenizer, prompt: str, emphasis: str, length: int) -> Reading:
    """The windows of a prompt for a tower of `length` places: every token of it in one of them, in order.

    BREAK begins a window. A section longer than a window is cut as `Tokenizer.spans` does: behind a comma or full stop near the
    window's end, else behind a word. Segments are tokenized one by one, as in all three tools. A section without tokens is an empty
    window, as in A1111, unless it is the last of several. Raises SpecError for an unknown emphasis.
    """
    found: list[Window] = []
    part = 0
    for section in parse(prompt, emphasis):
        ids: list[int] = []
        weights: list[float] = []
        parts: list[int] = []
        for text, weight in section:
            mine = tokenizer.encode(text)
            ids += mine
            weights += [weight] * len(mine)
            parts += [part] * len(mine)
            part += 1
        for span in tokenizer.spans(ids, length - 2):
            w = weights[span]
            pieces = [
                Segment(tokenizer.decode(ids[span.start + run[0] : span.start + run[-1] + 1]), value)
                for value, places in groupby(range(len(w)), key=w.__getitem__)
                for run in [list(places)]
            ]
            found.append(Window(tuple(ids[span]), tuple(w), tuple(parts[span]), tuple(pieces)))
    if len(found) > 1 and not found[-1].ids:
        found.pop()
    return Reading(tuple(found), length - 2)


def a1111(z: Tensor, w: Tensor, over: Tensor) -> Tensor:
    """z' = w z, then z'' = z' mean(z) / mean(z'), the means over all channels of a window's places `over`.

    `EmphasisOriginal` of stable-diffusion-webui (`modules/sd_emphasis.py`). The ratio of means is sound where the means of the
    places agree in sign, as in OpenAI's CLIP. It is left out (the tool's own option "No norm") where it lies outside [1/r, r], with
    r the largest of w and 1/w: there the means cancel, as in a tower fresh from its initialisation, and it would be rounding noise.

    z: (k, L, W), w: (k, L), over: (k, L) bool -> (k, L, W).
    """
    scaled = z * w[..., None]
    count = over[..., None].to(z.dtype)
    ratio = (z * count).sum((1, 2)) / (scaled * count).sum((1, 2))  # (k,)
    most = torch.maximum(w.amax(1), 1 / w.clamp(min=0.1).amin(1))
    ratio = torch.where((ratio >= 1 / most) & (ratio <= most), ratio, torch.ones_like(ratio))  # not a number counts as outside
    return torch.where((w == 1).all(1)[:, None, None], z, scaled * ratio[:, None, None])


def comfy(z: Tensor, w: Tensor, e: Tensor) -> Tensor:
    """z' = e + w (z - e), place by place, where w is not 1. ComfyUI, `ClipTokenWeightEncoder` in `comfy/sd1_clip.py`.

    z: (k, L, W), w: (k, L), e: (1, L, W) -> (k, L, W).
    """
    return torch.where((w == 1)[..., None], z, (z - e) * w[..., None] + e)


def compel(z: Tensor, w: Tensor, e: Tensor, without: Sequence[tuple[float, Tensor]]) -> Tensor:
    """(y + sum_i t_i y_i) / (1 + sum_i t_i), t_i = tan((1 - w_i) pi / 2), where y is comfy's z'.

    y_i is y with z taken from the prompt whose segment i, one of weight w_i < 1, no token may look at: at w_i = 1/2 half of the
    result is that prompt, at 0 all of it. compel, `embeddings_provider.py` with `DownweightMode.MASK`, its default. The sum
    is over the whole prompt, all its windows.

    z: (k, L, W), w: (k, L), e: (1, L, W), without: (w_i, states (k, L, W)) a segment -> (k, L, W).
    """
    shares = [math.tan((1 - max(_LEAST, weight)) * math.pi / 2) for weight, _ in without]
    y = comfy(z, w, e)
    for share, (_, states) in zip(shares, without, strict=True):
        y = y + share * comfy(states, w, e)
    return y / (1 + sum(shares))
