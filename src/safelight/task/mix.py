"""Mix: a picture of a sum. Texts and pictures are added, subtracted and weighted as embeddings, and the result is painted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from safelight.assets import Assets
from safelight.cond import Cond, Framing
from safelight.data.scenes.seek import Found, seek
from safelight.data.transform import Crop, Fit
from safelight.model import Model
from safelight.shared import Shared, scenes
from safelight.spec import SpecError
from safelight.task import canvas
from safelight.task.base import Aside, Brief, Request, Start, Task, conditions
from safelight.task.image import Image
from safelight.task.text import Text as Pure
from safelight.task.within import changed
from safelight.text.arithmetic import Expression, Picture, Term, Text, parse, terms, write
from safelight.text.base import TextEncoder
from safelight.text.blend import Blend, blend
from safelight.text.clip import CLIPText
from safelight.text.near import Embed, Memory, lexicon, nothing
from safelight.text.sdxl import SDXLText

# The beam of a search whose captions are told and not painted: a third less work, and the best scores were the same in the 13 sums tried.
_FEW = 8
# What a branch is asked to be told the prompt by, to learn which branches are.
_PROMPT = "\0"


class Row(NamedTuple):
    """An operand. length: of its embedding, in a joint space as seen from the mean of its kind; state: the mean length of its token
    states, None where there are none. cosine: with the result."""

    operand: str
    weight: float
    length: float
    cosine: float
    state: float | None = None


class Near(NamedTuple):
    """Something near the result, and its cosine with it."""

    what: str
    cosine: float


class Report(NamedTuple):
    """What came of an expression.

    space: "words of the model", or the joint model's name. length, state: of the result, as in `Row`. gap: how far the means of
    texts and pictures lie apart, None where that is not known. captions, pictures, words: the nearest, best first; in a joint space the
    picture is made of the first caption.
    """

    expression: str
    space: str
    rows: tuple[Row, ...]
    length: float
    state: float | None
    gap: float | None
    captions: tuple[Near, ...]
    pictures: tuple[Near, ...]
    words: tuple[Near, ...] = ()

    @property
    def caption(self) -> str:
        """The nearest caption, "" when none is known."""
        return self.captions[0].what if self.captions else ""


class Mix(Task, kind="mix"):
    """A picture of an expression over texts and pictures (text/arithmetic.py), in one of two spaces.

    joint None: the generator's own text encoder. The sum is its condition, on every branch of the guidance that hears the prompt; see
    text/blend.py for whole texts, single words, and `lengths`. Pictures have no place there.
    joint a name: that joint model's space, in which pictures are vectors like texts. The sum of vectors, each from the mean of
    its kind (shared.py), is put back into words: the caption with the largest cosine, of `captions`, or else of the whole grammar
    of the scenes that the model was trained on; the generator is told this caption. Single words cannot be chosen there.
    strength: below 1 the run begins as the `image` task does, from the first picture that is not subtracted. fit: how it, and
    pictures for the joint model, take another size.
    The request's prompt stays empty: the expression is what is asked for.
    """

    expression: str
    joint: str | None = None
    lengths: bool = True
    captions: tuple[str, ...] = ()
    strength: float = Field(1.0, ge=0, le=1)
    fit: Fit = Crop()

    @model_validator(mode="after")
    def _sound(self) -> Mix:
        parsed = self.terms
        pictures = [t for t in parsed if isinstance(t.operand, Picture)]
        words = next((t.operand for t in parsed if isinstance(t.operand, Text) and t.operand.part), None)
        if self.joint is None:
            if pictures:
                raise ValueError(
                    f"'{write(pictures[0].operand)}' is a picture: name a joint model, whose space has texts and pictures"
                )
            if self.captions:
                raise ValueError("captions are chosen among in a joint model's space: name one, or leave them out")
        elif words is not None:
            raise ValueError(
                f"{write(words)} chooses a word, but a joint model sees texts as a whole: leave [ ] or the joint model out"
            )
        if self.strength < 1 and not any(t.weight > 0 for t in pictures):
            raise ValueError("strength below 1 begins from a picture of the expression, and it adds none")
        return self

    @property
    def parsed(self) -> Expression:
        """The expression."""
        return parse(self.expression)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The expression multiplied out."""
        return terms(self.parsed)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(t.operand.name for t in self.terms if isinstance(t.operand, Picture))

    def size(self, request: Request, model: Model, assets: Assets) -> tuple[int, int]:
        return self._inner.size(request, model, assets)

    def stages(self, brief: Brief) -> Generator[Start | Aside, Tensor, None]:
        if any(brief.prompts):
            prompt = next(filter(None, brief.prompts))
            raise SpecError(f'mix: the expression is what is asked for; add "{prompt}" to it, not as a prompt')
        if self.joint is not None:
            found = self._captions(self._shared(brief.assets), brief.assets, 1)[0]
            yield from self._inner.stages(brief._replace(prompts=(found.caption,) * len(brief.prompts)))
        else:
            conds = self._conds(brief)

            def told(start: Start) -> Generator[Start, Tensor, Tensor]:
                return (yield start._replace(conds=conds))

            yield from changed(self._inner.stages(brief), told)

    def finish(self, brief: Brief, pictures: Tensor | None) -> Tensor:
        return self._inner.finish(brief, pictures)

    def blend(self, encoder: TextEncoder, emphasis: str = "none", framing: Framing | None = None) -> Blend:
        """The sum in a text encoder's own space. framing: what the picture is said to be cut from, beside the sum."""
        return blend(encoder, self.terms, emphasis=emphasis, lengths=self.lengths, framing=framing)

    def report(
        self,
        model: Model,
        assets: Assets,
        *,
        k: int = 5,
        among: Sequence[str] = (),
        emphasis: str = "a1111",
        seeking: bool = True,
        memory: Memory | None = None,
        check: Callable[[], None] = nothing,
    ) -> Report:
        """Lengths, cosines, the k nearest words and captions; in a joint space also the nearest of the pictures `among`, by seal.

        Words are those that the model was trained on, else its tokenizer's whole ones; where a single word of a text was changed,
        they are compared as states of a word. Captions are those that the space knows: `captions`, the grammar of the scenes that the
        model says it was trained on, the classes of a model of labels; none for other models, and none where a single word was
        changed. seeking: False leaves out the captions, which take a second or two. memory: of this space, kept by whoever asks often.
        check: called every now and then; what it raises ends the search.
        """
        memory = Memory() if memory is None else memory
        with torch.no_grad():
            if self.joint is None:
                return self._worded(model, k, emphasis, seeking, memory, check)
            return self._joined(assets, k, among, seeking, memory, check)

    @property
    def _inner(self) -> Task:
        if self.strength == 1:
            return Pure()
        first = next(t.operand for t in self.terms if isinstance(t.operand, Picture) and t.weight > 0)
        return Image(picture=first.name, strength=self.strength, fit=self.fit)

    # ---- in the generator's own words

    def _conds(self, brief: Brief) -> dict[str, Cond | None]:
        """The conditions of every branch: those that hear the prompt hear the sum, each in its own model's words."""
        request = brief.request
        conds = conditions(brief)
        known: dict[int, Cond] = {}
        for branch, text in request.mix.words(_PROMPT, request.negative).items():
            if text != _PROMPT:
                continue
            others = request.mix.others
            speaker = _speaker(brief.assets.model(others[branch]) if branch in others else brief.model)
            if id(speaker) not in known:
                framing = (request.framing or Framing()).at(request.size)
                known[id(speaker)] = self.blend(speaker, request.emphasis, framing).cond
            conds[branch] = known[id(speaker)].take(
                torch.zeros(len(brief.prompts), dtype=torch.int64, device=brief.model.device)
            )
        return conds

    def _worded(self, model: Model, k: int, emphasis: str, seeking: bool, memory: Memory, check: Callable[[], None]) -> Report:
        encoder = _speaker(model)
        found = self.blend(encoder, emphasis)
        rows = [
            Row(write(t.operand), t.weight, float(v.vector.norm()), _cosine(v.vector, found.vector), v.state)
            for t, v in zip(self.terms, found.values, strict=True)
        ]
        chosen = any(isinstance(t.operand, Text) and t.operand.part for t in self.terms)
        toward = F.normalize(found.vector, dim=0)
        captions = _Sought(memory.reader("vector", encoder.vectors, check), toward)
        words = captions
        if chosen and isinstance(encoder, CLIPText | SDXLText):
            words = _Sought(memory.reader("state", encoder.states, check), toward)
        tokenizer, source = getattr(encoder, "tokenizer", None), scenes(model)
        near: list[Found] = []
        if seeking and not chosen and source is not None:
            near = seek(source.vocabulary.pack(), captions.score, k, beam=_FEW)
        elif seeking and not chosen:
            near = captions.best(getattr(encoder.spec, "names", ()), k)
        return Report(
            write(self.parsed),
            "words of the model",
            tuple(rows),
            float(found.vector.norm()),
            found.state,
            None,
            tuple(Near(*each) for each in near),
            (),
            tuple(Near(*each) for each in words.best(lexicon(model, tokenizer), k)) if tokenizer is not None else (),
        )

    # ---- in a joint space

    def _shared(self, assets: Assets, memory: Memory | None = None, check: Callable[[], None] = nothing) -> Shared:
        assert self.joint is not None
        joint = assets.joint(self.joint)
        return Shared(joint, None if memory is None else memory.reader("vector", joint.texts, check))

    def _vectors(self, shared: Shared, assets: Assets) -> Tensor:
        """(terms, D) the operands, each from the mean of its kind."""
        return torch.cat(
            [
                shared.texts([t.operand.text])
                if isinstance(t.operand, Text)
                else shared.pictures(self._seen(shared, assets, t.operand.name))
                for t in self.terms
            ]
        )

    def _seen(self, shared: Shared, assets: Assets, name: str) -> Tensor:
        """(1, C, size, size) a picture as the joint model takes it."""
        return canvas.picture(assets, name, shared.joint, shared.joint.spec.size, self.fit)

    def _sum(self, vectors: Tensor) -> Tensor:
        return torch.tensor([t.weight for t in self.terms], device=vectors.device) @ vectors

    def _captions(self, shared: Shared, assets: Assets, k: int) -> list[Found]:
        with torch.inference_mode():
            return shared.captions(self._sum(self._vectors(shared, assets)), k, self.captions)

    def _joined(
        self, assets: Assets, k: int, among: Sequence[str], seeking: bool, memory: Memory, check: Callable[[], None]
    ) -> Report:
        shared = self._shared(assets, memory, check)
        vectors = self._vectors(shared, assets)
        total = self._sum(vectors)
        rows = [
            Row(write(t.operand), t.weight, float(v.norm()), _cosine(v, total))
            for t, v in zip(self.terms, vectors, strict=True)
        ]
        known = shared.captions(total, k, self.captions) if seeking else []
        words = shared.captions(total, k, lexicon(shared.joint, shared.joint.text.tokenizer))
        pictures = [Near(name, _cosine(shared.pictures(self._seen(shared, assets, name))[0], total)) for name in among]
        pictures = sorted(pictures, key=lambda near: -near.cosine)[:k]
        gap = shared.gap.distance if shared.gap.pairs else None
        expression, length = write(self.parsed), float(total.norm())
        captions, told = (tuple(Near(*each) for each in found) for found in (known, words))
        return Report(expression, str(self.joint), tuple(rows), length, None, gap, captions, tuple(pictures), told)


class _Sought(NamedTuple):
    """Texts by their cosine with a direction (D,)."""

    read: Embed
    toward: Tensor

    def score(self, texts: Sequence[str]) -> Tensor:
        """(N,) the cosines of texts."""
        return F.normalize(self.read(texts), dim=-1) @ self.toward

    def best(self, texts: Sequence[str], k: int) -> list[Found]:
        """The k texts of largest cosine, best first."""
        each = [Found(text, s) for text, s in zip(texts, self.score(texts).tolist(), strict=True)] if texts else []
        return sorted(each, key=lambda f: (-f.score, f.caption))[:k]


def _speaker(model: Model) -> TextEncoder:
    if model.text is None:
        raise SpecError("mix: this model is unconditional, it has no words to add")
    return model.text


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double(), b.double(), dim=0))


__all__ = ["Mix", "Near", "Report", "Row"]
