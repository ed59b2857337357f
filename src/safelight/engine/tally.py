"""A run without numbers: the same code on tensors that have shapes and no values, with every byte and every product counted.

A `Ghost` says it lies on a device, so that code that asks takes the path it takes there, but holds nothing. While a `Tally` is
active, each operation on ghosts gives ghosts, laid out as torch lays them out; the tally follows when their memory is taken and given
back, as the reference counts of the real run would do it. What a kernel takes beside its result (`scratch`) is known by rule for the
convolutions of oneDNN, the only ones that take much; the rules are those of torch 2.8 to 2.13 on x86, checked against the peak of a
process in tests/engine.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
# oneDNN's blocks of channels where vectors are 512 bits wide.
_BLOCK = 16


class Ghost(Tensor):
    """A tensor with a shape, a dtype, a layout and a device, and no values. It lives while a `Tally` is active.

    shadow: a meta tensor of the same layout, whose storage stands for the memory.
    """

    shadow: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> Ghost:
        with torch.inference_mode(False):  # what a view of an ordinary tensor is
            made: Ghost = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device=device,
                requires_grad=False,
            )
        made.shadow = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Ghost({tuple(self.shape)}, {self.dtype}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} of a ghost outside of its tally")


class Tally(TorchDispatchMode):
    """Counts what is computed and held while it is active, by the part at work.

    device: where the ghosts are said to lie. mapped: weights come from a mapped file as they are used, of a table that is looked up in
    only rows; else all of them are there from the beginning.
    work: part -> the most bytes live at once while it worked, weights not counted. peak: the same with the weights that were there by
    then. flops: part -> floating point operations, two for a multiplication with its addition. weights: part -> bytes of its weights;
    used: of those that something was computed with.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here, and to be skipped Dynamo would have to be loaded, which takes seconds

    def __init__(self, device: torch.device, *, mapped: bool = False) -> None:
        super().__init__()
        self.device, self.mapped = device, mapped
        self.part = ""
        self.live = 0
        self.work: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.weights: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self._known: dict[int, int] = {}  # storages that are followed
        self._cold: dict[int, tuple[str, int]] = {}  # storages of weights that nobody used yet

    # ---- what is counted ---------------------------------------------------------------------------------------------------------

    def haunt(self, module: nn.Module, part: str, dtype: torch.dtype | None = None) -> None:
        """Put a ghost in the place of every parameter and buffer of a module that is on the meta device, and `watch` it.

        dtype: of the floating ones.
        """
        ghosts: dict[int, Tensor] = {}
        for inside in module.modules():
            for table in (inside._parameters, inside._buffers):
                for name, tensor in table.items():
                    if tensor is None or tensor.device.type != "meta":
                        continue
                    if id(tensor) not in ghosts:
                        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                        inner = torch.empty_strided(tensor.size(), tensor.stride(), dtype=kind, device="meta")
                        ghost: Tensor = Ghost(inner, self.device)
                        self._weigh(inner, part)
                        with self:
                            ghosts[id(tensor)] = nn.Parameter(ghost, False) if isinstance(tensor, nn.Parameter) else ghost
                    table[name] = ghosts[id(tensor)]  # type: ignore[assignment]
        self.watch(module, part)

    def watch(self, module: nn.Module, part: str) -> None:
        """Count a module's weights and its work under `part`: from a call of any of its modules until one of another part is called."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._weigh(tensor.shadow if isinstance(tensor, Ghost) else tensor, part)
        for inside in module.modules():
            inside.register_forward_pre_hook(self._enter(part))

    def _weigh(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._cold:
            self.weights[part] += storage.nbytes()
            self._cold[storage._cdata] = part, storage.nbytes()

    def _enter(self, part: str) -> Callable[..., None]:
        here = weakref.ref(self)

        def enter(module: nn.Module, args: Any) -> None:
            if (tally := here()) is not None:
                tally.part = part

        return enter

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._cold:
            return
        size = storage.nbytes()
        self._known[key] = size
        self.live += size
        weakref.finalize(storage, self._free, key).atexit = False

    def _at(self, extra: int) -> None:
        """An operation was done, with so many bytes beside what is live."""
        there = total(self.used if self.mapped else self.weights)
        self.work[self.part] = max(self.work[self.part], self.live + extra)
        self.peak[self.part] = max(self.peak[self.part], self.live + extra + there)

    def _free(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)

    def _touch(self, func: Any, tensors: Sequence[Tensor]) -> None:
        """Weights that are used are read; of a table that is looked up in, only rows, which are few."""
        if func is _aten.embedding.default:
            tensors = tensors[1:]
        for tensor in tensors:
            part, size = self._cold.get(tensor.untyped_storage()._cdata, ("", 0))
            if size and func not in _VIEWS:
                key = tensor.untyped_storage()._cdata
                del self._cold[key]
                self._known[key] = 0
                self.used[part] += size

    # ---- how it is counted -------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, form = tree_flatten((args, kwargs or {}))
        if not any(isinstance(a, Ghost) for a in flat):
            self._touch(func, [a for a in flat if isinstance(a, Tensor)])
            found = func(*args, **(kwargs or {}))
            for tensor in tree_flatten(found)[0]:
                if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                    self._hold(tensor)
            self._at(0)
            return found
        if func not in _KEPT and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        if func in _ASKED:
            return _ASKED[func](*args)
        own = {id(a.shadow): a for a in flat if isinstance(a, Ghost)}
        inner = [self._meta(a) for a in flat]
        args, kwargs = tree_unflatten(inner, form)
        self._touch(func, [a for a in inner if isinstance(a, Tensor)])
        if func is _aten.scaled_dot_product_attention.default:
            found, flops = _attended(*args, **kwargs)
        else:
            found = func(*args, **kwargs)
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **kwargs, out_val=found) if count is not None else 0
        self.flops[self.part] += flops
        for tensor in tree_flatten(found)[0]:
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        extra = scratch(func, args, found) if self.device.type == "cpu" else 0
        self._at(extra)
        return tree_map(lambda t: self._wrapped(t, own) if isinstance(t, Tensor) else t, found)

    def _wrapped(self, inner: Tensor, own: Mapping[int, Ghost]) -> Ghost:
        """The ghost that was worked on in place, or a new one."""
        return own[id(inner)] if id(inner) in own else Ghost(inner, self.device)

    def _meta(self, value: Any) -> Any:
        if isinstance(value, Ghost):
            return value.shadow
        if isinstance(value, Tensor):
            return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")
        return torch.device("meta") if isinstance(value, torch.device) else value


# What values are asked for: nothing is found, and a number is 1.
_ASKED: dict[Any, Callable[..., Any]] = {
    _aten.nonzero.default: lambda x: torch.empty(0, x.ndim, dtype=torch.int64),
    _aten._local_scalar_dense.default: lambda x: torch.ones((), dtype=x.dtype).item(),
}
# Operations that are counted as a whole, though they are made of others.
_KEPT = {_aten.scaled_dot_product_attention.default}
# What looks at a weight without reading it.
_VIEWS = {
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.t.default,
    _aten.transpose.int,
    _aten.permute.default,
    _aten.expand.default,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.split.Tensor,
    _aten.split_with_sizes.default,
    _aten.unbind.int,
    _aten.detach.default,
    _aten.alias.default,
    _aten.as_strided.default,
}


def _attended(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, int]:
    """The fused kernel's result, (B, H, N, d) laid out as (B, N, H, d), and its two products."""
    *batch, n, d = q.shape
    heads = batch[-1] if batch else 1
    outer, length, wide = q.numel() // (heads * n * d), k.shape[-2], v.shape[-1]
    y = q.new_empty(*batch[:-1], n, heads, wide).transpose(-3, -2) if batch else q.new_empty(n, wide)
    return y, 2 * outer * heads * n * length * (d + wide)


def scratch(func: Any, args: Sequence[Any], found: Any) -> int:
    """Bytes that a kernel holds beside its arguments and its result while it works, on a CPU.

    oneDNN's convolutions copy the weights, once to channels-last and once to blocks, or once to blocks where the picture is not
    channels-last; then the picture and the result are copied to blocks as well, and the result's final place is not touched until the
    picture's copy is given back. A 1x1 convolution of a small batch on one thread is a plain matrix product, in place.
    """
    if func is not _aten.convolution.default or not isinstance(found, Tensor):
        return 0
    x, w, stride, dilation = args[0], args[1], args[3], args[5]
    if x.ndim != 4 or args[6]:
        return 0
    plain = w.shape[2:] == (1, 1) and {*stride, *dilation} == {1} and len(x) < 16
    if plain and torch.get_num_threads() == 1 and x.dtype == torch.float32:
        return 0
    if x.is_contiguous(memory_format=torch.channels_last):
        return (1 if w.is_contiguous(memory_format=torch.channels_last) else 2) * _bytes(w)
    result = _bytes(found)
    made = _blocked(found)
    return max(_blocked(x) + _bytes(w) + made, made + result) - result


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _blocked(x: Tensor) -> int:
    """Bytes of a picture whose channels are filled up to whole blocks."""
    return _bytes(x) // x.shape[1] * -(-x.shape[1] // _BLOCK) * _BLOCK


def total(counts: Mapping[str, int]) -> int:
    """The sum over parts."""
    return sum(counts.values())


__all__ = ["Ghost", "Tally", "scratch", "total"]
