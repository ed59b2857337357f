"""A model in a published layout, opened: its description, and where our tensors come from. No weight is read until it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.interop.checkpoint import Entry, Tensors
from safelight.interop.keys import Key, check, to_ours, to_theirs
from safelight.model import FORMAT, Header, ModelSpec
from safelight.spec import SpecError, describe, one_line


class Beneath(Mapping[str, Tensor]):
    """The tensors whose names begin with a prefix, without it."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self.tensors, self.prefix = tensors, prefix
        self._names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, from the header."""
        return {name: self.tensors.entries[self.prefix + name].shape for name in self._names}


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """What goes wrong within, reading what somebody else wrote, as one line: a value of another type, an entry that is not there."""
    try:
        yield
    except SpecError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        missing = isinstance(error, KeyError)
        said = f"there is no entry {error}" if missing else one_line(error)
        raise SpecError(f"{path} is damaged, or of a kind that is not known here: {said[:300]}") from None


def nothing(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """No further tensors."""
    return {}


def never(name: str) -> bool:
    """No tensor is left out."""
    return False


class Share(NamedTuple):
    """What one part of our model takes from a component: `keys`, ours being beneath `prefix`.

    more: our tensors that are none there (a scale that a configuration says), from those that are.
    """

    prefix: str
    keys: Sequence[Key]
    more: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = nothing


class Component(NamedTuple):
    """A component of a published model: a folder's, or what begins with a prefix in a single file.

    where: as messages name it. tensors: by their names within it. shares: of the parts that are made of it. ignore: whether a tensor of
    that name is there without being needed; such ones are kept.
    """

    name: str
    where: str
    tensors: Mapping[str, Tensor]
    shares: Sequence[Share]
    ignore: Callable[[str], bool] = never

    def checked(self) -> Component:
        """Itself. Raises SpecError for a tensor that is missing, or that nobody uses."""
        check([key for share in self.shares for key in share.keys], self.tensors, self.where, ignore=self.ignore)
        return self

    def state(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Our tensors, by their names in the model. shapes: of the model's. Raises SpecError for one of another shape."""
        found: dict[str, Tensor] = {}
        for share in self.shares:
            mine = {name.removeprefix(share.prefix): shape for name, shape in shapes.items() if name.startswith(share.prefix)}
            made = to_ours(share.keys, self.tensors.__getitem__, mine)
            made |= share.more(made)
            found |= {share.prefix + name: value for name, value in made.items()}
        return found

    def kept(self) -> dict[str, Tensor]:
        """The tensors that no part uses, by their names."""
        used = {name for share in self.shares for key in share.keys for name in key.theirs}
        return {name: self.tensors[name] for name in self.tensors if name not in used}


def theirs(shares: Iterable[Share], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a component, made of our model's."""
    found: dict[str, Tensor] = {}
    for share in shares:
        mine = {name.removeprefix(share.prefix): value for name, value in state.items() if name.startswith(share.prefix)}
        found |= to_theirs(share.keys, mine)
    return found


class Foreign(NamedTuple):
    """layout: "diffusers" or "ldm". origin: what the files say of themselves, JSON-ready, from which they are written again.

    sets: the components of each set of weights, "raw" and maybe "ema". entries: of all tensors, by set and name. others: what belongs to
    the model and to none of our parts (further tensors, files as bytes), by name. settle: the same model with what only its weights
    can say, for layouts of which that is anything.
    """

    layout: str
    spec: ModelSpec
    origin: Mapping[str, Any]
    sets: Mapping[str, Sequence[Component]]
    entries: Mapping[str, Entry]
    others: Callable[[], Mapping[str, Tensor]]
    settle: Callable[[], Foreign] | None = None

    def header(self, path: Path) -> Header:
        """As `model.peek` tells it."""
        return Header(
            path, FORMAT, describe(self.spec), {"origin": dict(self.origin)}, tuple(self.sets), dict(self.entries), self.layout
        )

    def state(self, weights: str, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Our model's tensors. weights: which set. shapes: of the model's state dict. Raises SpecError for what does not fit."""
        found: dict[str, Tensor] = {}
        for component in self.sets[weights]:
            found |= component.state(shapes)
        return found
