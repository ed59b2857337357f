"""A weight that is several of a file's tensors, laid one behind the other when it is first looked at.

q, k and v of a published file are one matrix here. To lay them together is a copy, of six hundredths of the weights of Stable Diffusion
1.5, and takes longer than all else of opening it; a file that is opened to be looked at, planned or converted never needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


class _Whole:
    """The parts until they are wanted, and from then on the whole; shared by all that stand for it."""

    def __init__(self, parts: Sequence[Tensor], tensor: Tensor | None = None) -> None:
        self.parts: Sequence[Tensor] = tuple(parts)
        self.tensor = tensor

    def get(self) -> Tensor:
        if self.tensor is None:
            with torch.no_grad():
                self.tensor = torch.cat(tuple(self.parts))
            self.parts = ()
        return self.tensor


_BARE: Any = torch._C.TensorBase.data  # what gives a tensor other values and, with them, their dtype and device


class Joined(Tensor):
    """cat(parts), made at the first operation on it. Its shape, dtype and device are known before; it is as any tensor in use.

    parts: two or more on the CPU, of one dtype, whose shapes differ at most in the first dimension. `settle` puts plain tensors in the
    place of a module's, once they are wanted over and over.
    """

    _whole: _Whole

    @staticmethod
    def __new__(cls, whole: _Whole, shape: torch.Size, dtype: torch.dtype) -> Joined:
        made: Joined = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=torch.device("cpu"))
        made._whole = whole
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is torch.ops.aten.detach.default:  # what nn.Parameter and state_dict do
            of = args[0]
            return Joined(of._whole, of.shape, of.dtype)
        args, kwargs = tree_map_only(Joined, lambda one: one._whole.get(), (args, kwargs or {}))
        return func(*args, **kwargs)

    @property
    def data(self) -> Tensor:
        """Itself, without a gradient. What is put here (`Module.to` does) is what it stands for from then on."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        _BARE.__set__(self, value)
        self._whole = value._whole if isinstance(value, Joined) else _Whole((), value)

    def plain(self) -> Tensor:
        """The same tensor as one of the usual kind, which shares its memory."""
        return self._whole.get()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self.plain())

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        whole = self.plain().clone()
        found = nn.Parameter(whole, self.requires_grad) if isinstance(self, nn.Parameter) else whole
        memo[id(self)] = found
        return found

    def numpy(self, *, force: bool = False) -> Any:
        """As of any tensor: an array of its values."""
        return self.plain().numpy(force=force)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts behind one another along their first dimension, copied when the result is first looked at; views see the copy."""
    first = parts[0]
    return Joined(_Whole(parts), torch.Size((sum(len(p) for p in parts), *first.shape[1:])), first.dtype)


def parameter(value: Tensor, requires_grad: bool) -> nn.Parameter:
    """`nn.Parameter(value, requires_grad)`, of a `Joined` one without an operation on it.

    (The first operation on any subclass makes torch import its distributed tensors: half a second, as much as all else of opening.)
    """
    if not isinstance(value, Joined):
        return nn.Parameter(value, requires_grad)
    made: Any = Joined(value._whole, value.shape, value.dtype)
    made._is_param = True  # by which nn.Parameter knows those of other classes
    made.requires_grad = requires_grad
    found: nn.Parameter = made
    return found


def pieces(value: Tensor) -> Sequence[Tensor]:
    """The tensors in memory that hold a value: the parts of a `Joined` one that was not looked at yet, else itself."""
    if not isinstance(value, Joined):
        return (value,)
    return value._whole.parts or (value.plain(),)


def settle(module: nn.Module) -> None:
    """Plain tensors in the place of all `Joined` ones of a module."""
    for inside in module.modules():
        table: dict[str, Any] = inside._parameters
        for name, value in table.items():
            if isinstance(value, Joined):
                table[name] = nn.Parameter(value.plain(), value.requires_grad)
