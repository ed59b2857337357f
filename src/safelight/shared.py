"""The space that a joint model's texts and pictures share, with the gap between them taken out, and captions found in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.data.composed import ScenesSource
from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.seek import Found, seek
from safelight.spec import SpecError, parse
from safelight.text.joint import Joint
from safelight.text.near import Embed

# Scenes that the means are taken over: their standard error is then 2 % of the spread.
PAIRS = 2048


class Gap(NamedTuple):
    """The mean embedding of texts and that of pictures, (D,) each; `pairs` they were measured on, 0 for none (both are zero)."""

    text: Tensor
    picture: Tensor
    pairs: int

    def json(self) -> dict[str, Any]:
        """As a model's lineage keeps it, under "gap"."""
        return {"text": self.text.tolist(), "picture": self.picture.tolist(), "pairs": self.pairs}

    @property
    def distance(self) -> float:
        """How far the two lie apart; embeddings have length 1."""
        return float((self.text - self.picture).norm())


def gap(joint: Joint) -> Gap:
    """The gap that a model's file tells, else measured now."""
    told = joint.lineage.get("gap")
    if not told:
        return measure(joint)
    text, picture = (torch.tensor(told[name], dtype=torch.float32, device=joint.device) for name in ("text", "picture"))
    return Gap(text, picture, int(told["pairs"]))


@torch.no_grad()
def measure(joint: Joint, pairs: int = PAIRS) -> Gap:
    """The gap of a model of scenes, on `pairs` scenes of the vocabulary it was trained on, their captions and their pictures.

    Contrastive training leaves texts and pictures in two cones, nearly parallel and apart (Liang et al. 2022, "Mind the gap",
    section 2): a picture is nearer to any picture than to its own caption, and `picture - text + text` leads nowhere. With each kind's
    own mean subtracted, what is left of an embedding says what sets it apart from others of its kind, which is what the two
    kinds have in common. For a model of other data it is not known, and zero.
    """
    source = scenes(joint)
    if source is None:
        nothing = torch.zeros(joint.spec.space, device=joint.device)
        return Gap(nothing, nothing, 0)
    composer = source.composer(torch.device("cpu"))
    drawn = composer.draw(source.seed, 0, pairs, source.split)
    captions = Phrases(composer.pack.nouns).captions(drawn)
    pictures = torch.cat([joint.pictures(composer.render(drawn.rows(slice(i, i + 256)))) for i in range(0, pairs, 256)])
    return Gap(joint.texts(captions).mean(0), pictures.mean(0), pairs)


def scenes(trained: Any) -> ScenesSource | None:
    """The scenes that a model says it was trained on, or None."""
    told = trained.lineage.get("scenes")
    source = parse(told, "source") if told else None
    return source if isinstance(source, ScenesSource) else None


class Shared:
    """Texts and pictures of a joint model as vectors from their own kind's mean.

    read: what embeds texts, where that is not the model itself but a memory of it (text/near.py).
    """

    def __init__(self, joint: Joint, read: Embed | None = None) -> None:
        self.joint, self.gap, self.read = joint, gap(joint), read or joint.texts

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """(N, D) e(text) - mean of texts."""
        return self.read(prompts) - self.gap.text

    def pictures(self, x: Tensor) -> Tensor:
        """(N, D) e(picture) - mean of pictures; x (N, C, size, size), uint8 or in [-1, 1]."""
        return self.joint.pictures(x) - self.gap.picture

    def captions(self, goal: Tensor, k: int, among: Sequence[str] = ()) -> list[Found]:
        """The k captions of largest cosine to `goal` (D,), best first: of those given, else of all that the scenes' grammar has.

        Raises SpecError for a model of other data, whose grammar is not known, when no captions are given.
        """
        toward = F.normalize(goal, dim=0)

        def score(prompts: Sequence[str]) -> Tensor:
            return F.normalize(self.texts(prompts), dim=-1) @ toward

        if among:
            distinct = list(dict.fromkeys(among))
            each = zip(distinct, score(distinct).tolist(), strict=True)
            return sorted((Found(c, s) for c, s in each), key=lambda f: (-f.score, f.caption))[:k]
        source = scenes(self.joint)
        if source is None:
            raise SpecError(
                "captions: this joint model was not trained on scenes, whose captions are known: give captions to choose from"
            )
        return seek(source.vocabulary.pack(), score, k)


__all__ = ["PAIRS", "Gap", "Shared", "gap", "measure", "scenes"]
