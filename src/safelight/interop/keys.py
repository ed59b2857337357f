"""Key maps: which of our tensors is which of theirs, both ways, and nothing else.

A map is a sequence of `Key`s. A key says that some of our tensors, laid one behind the other along their first dimension, are some of
theirs, laid behind one another in the same way: q, k and v of a peer are one `qkv` here, the merged `in_proj_weight` of another is three
tensors there. A key also says the shape of theirs where it is not ours (a 1x1 convolution that is a linear map here), and the turn
between the two where rows stand in another order. All of it is a bijection: `to_theirs(to_ours(x))` is x, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from safelight.nn.joined import joined
from safelight.spec import SpecError, nearest


class Turn(Protocol):
    """A permutation of values between their layout and ours, given the whole tensor of a key."""

    def ours(self, theirs: Tensor) -> Tensor:
        """From their layout."""

    def theirs(self, ours: Tensor) -> Tensor:
        """To their layout."""


class Transposed(NamedTuple):
    """Their matrix is the transpose of ours: (in, out) there, (out, in) here."""

    def ours(self, theirs: Tensor) -> Tensor:
        return theirs.mT

    def theirs(self, ours: Tensor) -> Tensor:
        return ours.mT


class HeadsFirst(NamedTuple):
    """Their rows go (head, part, width), ours (part, head, width): the fused qkv of guided-diffusion's attention."""

    heads: int
    parts: int = 3

    def ours(self, theirs: Tensor) -> Tensor:
        return theirs.unflatten(0, (self.heads, self.parts, -1)).transpose(0, 1).flatten(0, 2)

    def theirs(self, ours: Tensor) -> Tensor:
        return ours.unflatten(0, (self.parts, self.heads, -1)).transpose(0, 1).flatten(0, 2)


class Swapped(NamedTuple):
    """The two halves of their rows change places: (shift, scale) there, (scale, shift) here."""

    def ours(self, theirs: Tensor) -> Tensor:
        return torch.cat(theirs.chunk(2)[::-1])

    def theirs(self, ours: Tensor) -> Tensor:
        return torch.cat(ours.chunk(2)[::-1])


class Key(NamedTuple):
    """`cat(ours) = turn(cat(theirs))`, names being those of whole tensors ("...weight").

    shape: of each of their tensors, with -1 for the first dimension's share; None where theirs have our dimensions.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    turn: Turn | None = None


def key(
    ours: str | Sequence[str], theirs: str | Sequence[str], shape: tuple[int, ...] | None = None, turn: Turn | None = None
) -> Key:
    """A `Key` from one name or several on either side."""
    one, other = ((names,) if isinstance(names, str) else tuple(names) for names in (ours, theirs))
    return Key(one, other, shape, turn)


def layer(
    ours: str | Sequence[str],
    theirs: str | Sequence[str],
    *,
    bias: bool = True,
    shape: tuple[int, ...] | None = None,
    turn: Turn | None = None,
) -> Iterator[Key]:
    """The keys of a layer's weight and, if it has one, its bias. shape: of each of their weights, see `Key`."""
    one, other = ((names,) if isinstance(names, str) else tuple(names) for names in (ours, theirs))
    for end in ("weight", "bias") if bias else ("weight",):
        names = tuple(f"{n}.{end}" for n in one), tuple(f"{n}.{end}" for n in other)
        yield Key(*names, shape if end == "weight" else None, None if end == "bias" and isinstance(turn, Transposed) else turn)


def beneath(keys: Iterable[Key], ours: str = "", theirs: str = "") -> Iterator[Key]:
    """The same keys with a prefix (a part's place in a whole) on each side."""
    for k in keys:
        yield k._replace(ours=tuple(ours + n for n in k.ours), theirs=tuple(theirs + n for n in k.theirs))


def to_ours(
    keys: Iterable[Key], get: Callable[[str], Tensor], shapes: Mapping[str, torch.Size | tuple[int, ...]]
) -> dict[str, Tensor]:
    """Our state dict from theirs. get: their tensor of a name. shapes: of all our tensors that the keys name.

    A tensor that is one of theirs is a view of it, without a copy. Raises SpecError naming the first that does not fit.
    """
    state: dict[str, Tensor] = {}
    for k in keys:
        parts = [get(name) for name in k.theirs]
        if k.shape is not None:
            wrong = next((i for i, p in enumerate(parts) if not _fits(p.shape, k.shape)), None)
            if wrong is not None:
                raise SpecError(f"'{k.theirs[wrong]}' is {tuple(parts[wrong].shape)}, where {k.shape} is expected")
        mine = [tuple(shapes[name]) for name in k.ours]
        if sum(p.numel() for p in parts) != sum(map(math.prod, mine)):
            found, wanted = ", ".join(str(tuple(p.shape)) for p in parts), ", ".join(map(str, mine))
            raise SpecError(f"'{k.theirs[0]}' is {found}, where something of {wanted} is expected")
        if k.shape is None and len(k.ours) == len(k.theirs) == 1 and k.turn is None and tuple(parts[0].shape) != mine[0]:
            raise SpecError(f"'{k.theirs[0]}' is {tuple(parts[0].shape)}, where {mine[0]} is expected")
        if len(mine) == 1 and len(parts) > 1 and k.turn is None and _stack(parts, mine[0]):
            state[k.ours[0]] = joined(parts)
            continue
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        whole = whole if k.turn is None else k.turn.ours(whole)
        if len(mine) == 1:
            state[k.ours[0]] = whole.reshape(mine[0])
        else:
            cut = whole.reshape(sum(shape[0] for shape in mine), *mine[0][1:]).split([shape[0] for shape in mine])
            state.update(zip(k.ours, cut, strict=True))
    return state


def to_theirs(keys: Iterable[Key], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict from ours: the inverse of `to_ours`. Every tensor is contiguous and its own."""
    found: dict[str, Tensor] = {}
    for k in keys:
        mine = [state[name] for name in k.ours]
        whole = mine[0] if len(mine) == 1 else torch.cat(mine)
        if k.turn is not None:
            whole = k.turn.theirs(whole)
        n = len(k.theirs)
        if k.shape is None:
            parts = whole.chunk(n) if n > 1 else (whole,)
        else:
            parts = tuple(p.reshape(k.shape) for p in (whole.chunk(n) if n > 1 else (whole,)))
        found.update((name, part.contiguous()) for name, part in zip(k.theirs, parts, strict=True))
    return found


def check(keys: Sequence[Key], names: Iterable[str], where: str, *, ignore: Callable[[str], bool] = lambda name: False) -> None:
    """Raise SpecError, naming the first, if a tensor that the keys need is missing or one of `names` is used by none of them."""
    needed, there = {name for k in keys for name in k.theirs}, set(names)
    missing = sorted(needed - there)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SpecError(f"{where} lacks '{missing[0]}'{more}{nearest(missing[0], there - needed)}")
    unused = sorted(name for name in there - needed if not ignore(name))
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise SpecError(f"{where} has '{unused[0]}'{more}, which no part of the model uses")


class Place(NamedTuple):
    """Where one of their layers is here: `part` of `parts` equal shares of the rows of our module `ours`.

    shape: of their weight, -1 for the rows, None where it has our dimensions. turn: between its rows and ours, see `Key`.
    """

    ours: str
    part: int = 0
    parts: int = 1
    shape: tuple[int, ...] | None = None
    turn: Turn | None = None


def places(keys: Iterable[Key]) -> dict[str, Place]:
    """Their layers by name (without ".weight"): what an adapter that speaks of their layers is put on here."""
    found: dict[str, Place] = {}
    for k in keys:
        if len(k.ours) == 1 and k.ours[0].endswith(".weight"):
            for i, name in enumerate(k.theirs):
                found[name.removesuffix(".weight")] = Place(
                    k.ours[0].removesuffix(".weight"), i, len(k.theirs), k.shape, k.turn
                )
    return found


def _stack(parts: Sequence[Tensor], shape: tuple[int, ...]) -> bool:
    """Whether the parts behind one another are, as they are, a tensor of this shape, on the CPU and in one dtype."""
    first = parts[0]
    alike = all(p.shape[1:] == shape[1:] and p.dtype == first.dtype and p.device.type == "cpu" for p in parts)
    return alike and sum(len(p) for p in parts) == shape[0]


def _fits(shape: torch.Size, wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))
