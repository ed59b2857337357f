"""Arithmetic in a text encoder's own space: weighted sums of conditions, whole or at one word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.cond import Cond, Framing
from safelight.spec import SpecError, nearest
from safelight.text.arithmetic import Term, Text
from safelight.text.base import TextEncoder

# Below this part of the length that it should have, a sum has no direction worth stretching.
_NOTHING = 1e-6


class Value(NamedTuple):
    """What an operand stands for. vector: (D,) the embedding that is compared. state: the mean length of its token states, or None."""

    weight: float
    vector: Tensor
    state: float | None = None


class Blend(NamedTuple):
    """A sum. cond: batch 1. vector: (D,) its embedding, comparable to those of `values`, one a term. state: as in `Value`."""

    cond: Cond
    vector: Tensor
    values: tuple[Value, ...]
    state: float | None = None


def blend(
    encoder: TextEncoder, terms: Sequence[Term], *, emphasis: str = "none", lengths: bool = True, framing: Framing | None = None
) -> Blend:
    """The sum of the terms, all of them texts, as a condition.

    Whole texts: token by token at equal places and vector by vector. A place counts where it counts in any of the texts; where it
    does not count in one of them, that one adds nothing. With a word chosen in a text, that text (the first such) is the ground: it stays
    what it is, its mask and vector too, but for the states s of the chosen word, which become w s + sum_i w_i v_i, v_i the mean state
    of another chosen word, or of a whole text's tokens. (The ground's other words have read the old word, and keep what they read.)
    lengths: sums are brought to the mean length of their terms, weighted by |w_i|: an encoder ends in a norm, and a network has never
    seen states of twice the length. One term alone, of positive weight, is then that text, bit for bit. framing: as in `read`; its numbers
    are not summed.
    Raises SpecError for a word that is not in its text or is there more than once, and for encoders without tokens.
    """
    ground = next((term for term in terms if isinstance(term.operand, Text) and term.operand.part), None)
    read = [encoder.read([_text(term)], emphasis, framing) for term in terms]
    numbers = encoder.spec.numbers
    if ground is not None:
        return _at_a_word(encoder, terms, read, list(terms).index(ground), emphasis, lengths)
    weights = [term.weight for term in terms]
    vectors = [_vector(cond, numbers) for cond in read]
    values = tuple(Value(w, v, _state(c)) for w, v, c in zip(weights, vectors, read, strict=True))
    if len(read) == 1 and (weights[0] == 1 or (lengths and weights[0] > 0)):
        return Blend(read[0], vectors[0], values, values[0].state)
    whole = Cond.cat(read)
    tokens = mask = vector = None
    if whole.tokens is not None:
        n, length, _ = whole.tokens.shape
        there = whole.mask if whole.mask is not None else whole.tokens.new_ones((n, length), dtype=torch.bool)
        tokens, mask = _sum(whole.tokens, weights, there, lengths)[None], there.any(0)[None]
    if whole.vector is not None:
        embedded, said = whole.vector.split([whole.vector.shape[1] - numbers, numbers], 1)
        vector = torch.cat([_sum(embedded[:, None], weights, None, lengths), said[:1]], 1)
    cond = Cond(tokens, mask, vector)
    return Blend(cond, _vector(cond, numbers), values, _state(cond))


def places(encoder: TextEncoder, text: str, part: str, emphasis: str = "none") -> list[int]:
    """Where the token states of a word of `text` lie, or with "#n" that of its n-th token.

    Raises SpecError for a word that is not there or more than once, and for an encoder without tokens.
    """
    ids, at = _said(encoder, text, emphasis)
    tokenizer: Any = encoder.tokenizer
    if part.startswith("#") and part[1:].isdecimal():
        number = int(part[1:])
        if not 1 <= number <= len(ids):
            raise SpecError(f"expression: '{text}' has {len(ids)} tokens, none is {part} ({_numbered(tokenizer, ids)})")
        return [at[number - 1]]
    word = tokenizer.encode(part)
    found = [i for i in range(len(ids) - len(word) + 1) if word and ids[i : i + len(word)] == word]
    if not found:
        raise SpecError(f"expression: '{part}' is no word of '{text}'{nearest(part, text.split())}")
    if len(found) > 1:
        raise SpecError(
            f"expression: '{part}' comes {len(found)} times in '{text}': choose a token ({_numbered(tokenizer, ids)})"
        )
    return at[found[0] : found[0] + len(word)]


def _at_a_word(
    encoder: TextEncoder, terms: Sequence[Term], read: Sequence[Cond], ground: int, emphasis: str, lengths: bool
) -> Blend:
    chosen, states = [], []
    for term, cond in zip(terms, read, strict=True):
        assert isinstance(term.operand, Text)
        text, part = term.operand
        at = places(encoder, text, part, emphasis) if part else _said(encoder, text, emphasis)[1]
        if not at:
            raise SpecError(f"expression: '{text}' has no word to put in another's place")
        assert cond.tokens is not None  # as it has places
        chosen.append(at)
        states.append(cond.tokens[0, at])  # (n, D)
    values = tuple(Value(t.weight, s.mean(0), float(s.norm(dim=-1).mean())) for t, s in zip(terms, states, strict=True))
    own = states[ground]  # (n, D)
    rest = [i for i in range(len(terms)) if i != ground]
    stack = torch.stack([own, *(values[i].vector.expand_as(own) for i in rest)])  # (terms, n, D)
    new = _sum(stack, [terms[ground].weight, *(terms[i].weight for i in rest)], None, lengths)  # (n, D)
    whole = read[ground].tokens
    assert whole is not None
    tokens = whole.clone()
    tokens[0, chosen[ground]] = new
    return Blend(read[ground]._replace(tokens=tokens), new.mean(0), values, float(new.norm(dim=-1).mean()))


def _sum(x: Tensor, weights: Sequence[float], there: Tensor | None, lengths: bool) -> Tensor:
    """(L, D) sum_i w_i x_i of x (n, L, D), where `there` (n, L); brought to the terms' mean length if `lengths`."""
    w = torch.tensor(weights, device=x.device, dtype=x.dtype)[:, None]  # (n, 1)
    w = w.expand(x.shape[:2]) if there is None else w * there  # (n, L)
    x = x if there is None else torch.where(there[..., None], x, 0)
    total = (w[..., None] * x).sum(0)  # (L, D)
    if not lengths:
        return total
    goal = (w.abs() * x.norm(dim=-1)).sum(0) / w.abs().sum(0).clamp(min=1e-12)  # (L,)
    length = total.norm(dim=-1)
    return total * torch.where(length > _NOTHING * goal, goal / length.clamp(min=1e-30), 1.0)[:, None]


def _text(term: Term) -> str:
    if not isinstance(term.operand, Text):
        raise SpecError("expression: pictures have no place in a text encoder's space: name a joint model")
    return term.operand.text


def _vector(cond: Cond, numbers: int) -> Tensor:
    """(D,) what two conditions are compared by: the vector without its numbers, else the mean of the tokens that count."""
    if cond.vector is not None and cond.vector.shape[1] > numbers:
        return cond.vector[0, : cond.vector.shape[1] - numbers]
    if cond.tokens is None:
        raise SpecError("expression: this model's text encoder makes neither tokens nor a vector")
    return (cond.tokens[0] if cond.mask is None else cond.tokens[0][cond.mask[0]]).mean(0)


def _state(cond: Cond) -> float | None:
    if cond.tokens is None:
        return None
    tokens = cond.tokens[0] if cond.mask is None else cond.tokens[0][cond.mask[0]]
    return float(tokens.norm(dim=-1).mean())


def _said(encoder: TextEncoder, text: str, emphasis: str) -> tuple[list[int], list[int]]:
    """The ids of a text's tokens and where their states lie."""
    windows = getattr(encoder, "windows", None)
    if windows is None:
        raise SpecError(f"expression: text '{encoder.spec.kind}' reads labels, which have no words to choose: leave [ ] out")
    length = encoder.spec.length
    read = windows([text], emphasis)[0].windows
    placed = [(i, k * length + 1 + j) for k, window in enumerate(read) for j, i in enumerate(window.ids)]
    return [i for i, _ in placed], [at for _, at in placed]


def _numbered(tokenizer: Any, ids: Sequence[int]) -> str:
    return ", ".join(f"#{n} {piece}" for n, piece in enumerate(tokenizer.pieces(ids), 1)) or "it has none"


__all__ = ["Blend", "Value", "blend", "places"]
