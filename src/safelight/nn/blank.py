"""Modules without numbers: an architecture in memory before its weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


# What fills a tensor and leaves its shape, as functions of nn.init and as methods.
_FILLS = {
    "normal_", "uniform_", "trunc_normal_", "zero_", "zeros_", "ones_", "fill_", "constant_", "mul_", "div_", "copy_", "orthogonal_",
    "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_",
}  # fmt: skip


class _Blank(TorchFunctionMode):
    """`torch.empty` without a device gives a tensor of no memory: what a layer makes for its weights. Filling such a one does nothing.

    (Filled by torch's own functions for the meta device it stays as empty, after a second of importing them.)
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None and 0 not in args:
            kwargs["device"] = "meta"
        first = args[0] if args else kwargs.get("tensor")
        if isinstance(first, Tensor) and first.is_meta and getattr(func, "__name__", "") in _FILLS:
            return first
        return func(*args, **kwargs)


def blank(build: Callable[[], M]) -> M:
    """What `build` builds, its layers' weights being on the meta device: no memory, no random numbers; nobody's generator moves.

    Tables that a module computes for itself are real, so that once its weights are assigned it is whole. `whole` says so.
    """
    with torch.random.fork_rng(devices=[]), _Blank():
        return build()


def whole(module: nn.Module) -> None:
    """Raise RuntimeError, naming it, for a weight or buffer that still has no numbers."""
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_meta:
            raise RuntimeError(f"'{name}' of {type(module).__name__} was never given its numbers")
