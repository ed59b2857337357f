"""The one module that knows devices by name. Everything else asks here.

A requested precision that a device does not honour is never dropped in silence: `precision` returns the dtype that will
really be used, and the sentence that says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import torch

from safelight.spec import SpecError, nearest

PrecisionName = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CUDA = "cuda"  # ROCm builds of torch answer to the same name


class Precision(NamedTuple):
    """The precision a run really has: `dtype` of the autocast region, and `note`, empty when the wish was honoured."""

    asked: str
    name: str
    dtype: torch.dtype
    note: str


class Memory(NamedTuple):
    """Bytes: now in use by this process, its peak, and what the device has. 0 where the system does not tell."""

    used: int
    peak: int
    total: int


def available() -> list[str]:
    """Names of the devices this machine has, best first; `cpu` is always the last."""
    names: list[str] = []
    if torch.cuda.is_available():
        names += [f"{_CUDA}:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def pick(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; `auto` is the best one there is.

    name: "auto", "cpu", "mps", or an accelerator with or without an index. Raises SpecError, naming what there is, when
    this machine has no such device or torch was built without it.
    """
    if isinstance(name, torch.device):
        name = str(name)
    have = available()
    if name == "auto":
        return torch.device(have[0])
    types = {d.split(":")[0] for d in have}
    if name in have or name in types:
        return torch.device(name)
    raise SpecError(f"device: no '{name}' here{nearest(name, have)} (devices: auto, {', '.join(have)})")


def name(device: torch.device) -> str:
    """What tells a device from every other: "cuda:0" where there may be several, whichever way it was asked for."""
    return f"{device.type}:{device.index or 0}" if device.type == "cuda" else str(device)


def doubles(device: torch.device) -> bool:
    """Whether the device computes in float64; Apple's does not."""
    return device.type != "mps"


def honours(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `device` computes in `dtype` natively (a GPU) or at least faithfully (bf16 on a CPU), without emulating it.

    fp16 on a CPU is not honoured: its gradients underflow, loss scaling is not available there, and it is slower than fp32.
    """
    if dtype == torch.float32:
        return True
    if device.type == _CUDA:
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return dtype == torch.float16 or _computes(device, dtype)
    return device.type == "cpu" and dtype == torch.bfloat16


def _computes(device: torch.device, dtype: torch.dtype) -> bool:
    try:
        one = torch.ones(1, 1, device=device, dtype=dtype)
        return bool((one @ one).item() == 1)
    except (RuntimeError, TypeError):
        return False


def dtypes(device: torch.device) -> list[str]:
    """Names of the precisions that `device` honours."""
    return [name for name, dtype in _DTYPES.items() if honours(device, dtype)]


def precision(asked: str, device: torch.device) -> Precision:
    """The precision a run gets when it asks for `asked` ("fp32", "bf16", "fp16") on `device`.

    What is not honoured runs in fp32, and `note` says so.
    Raises SpecError for an unknown name.
    """
    if asked not in _DTYPES:
        raise SpecError(f"precision: no '{asked}'{nearest(asked, _DTYPES)} (one of: {', '.join(_DTYPES)})")
    if honours(device, _DTYPES[asked]):
        return Precision(asked, asked, _DTYPES[asked], "")
    return Precision(asked, "fp32", torch.float32, f"{asked} is not honoured on {device}: running in fp32")


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A region whose matrix products run in `dtype`; a plain region for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def forked(device: torch.device) -> AbstractContextManager[None]:
    """A region after which torch's global generators, the CPU's and `device`'s, stand where they stood before it."""
    if device.type == _CUDA:
        return torch.random.fork_rng(devices=[device.index or 0], device_type=_CUDA)
    return torch.random.fork_rng(devices=[])


def seed(device: torch.device, number: int) -> None:
    """Seed torch's global generators of the CPU and of `device`, and no other's: those `forked` puts back."""
    torch.default_generator.manual_seed(number)
    if device.type == _CUDA:
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def memory(device: torch.device) -> Memory:
    """What this process takes on `device`: the allocator's count on an accelerator, resident memory on the CPU."""
    if device.type == _CUDA:
        total = torch.cuda.get_device_properties(device).total_memory
        return Memory(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device), total)
    if device.type == "mps":
        used = torch.mps.current_allocated_memory()
        return Memory(used, used, torch.mps.recommended_max_memory())
    return _resident()


def free(device: torch.device) -> int:
    """Bytes that this process could still take on `device` without pushing out others'; 0 where the system does not tell."""
    if device.type == _CUDA:
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory(), 0)
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as file:
        found.append(int(next(line for line in file if line.startswith("MemAvailable")).split()[1]) * 1024)
    limit = "/sys/fs/cgroup/memory."  # a container's
    with contextlib.suppress(OSError, ValueError), open(limit + "max") as most, open(limit + "current") as now:
        found.append(int(most.read()) - int(now.read()))
    return max(min(found), 0) if found else 0


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )


def given_back(device: torch.device) -> None:
    """Let the system have what this process has let go of and its allocator still keeps."""
    if device.type == _CUDA:
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    else:
        with contextlib.suppress(OSError, AttributeError):  # glibc's alone
            _c().malloc_trim(0)


# Pieces from here on come from the system and go back to it: glibc's M_MMAP_THRESHOLD.
_PIECE, _M_MMAP_THRESHOLD = 1 << 20, -3


def steady() -> None:
    """From now on this process gives memory back to the system as soon as tensors of 1 MiB and more are let go of.

    glibc's allocator otherwise raises that size up to 32 MiB by itself, and what is smaller lies in a heap whose holes stay: a run's
    peak was 1.15 to 1.45 times what was live, another each time. Costs page faults: a tenth of the time of small pictures, nothing
    to be measured of large models. Nothing happens with other allocators.
    """
    with contextlib.suppress(OSError, AttributeError):
        _c().mallopt(_M_MMAP_THRESHOLD, _PIECE)


def _c() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


_PAGEOUT = 21  # of madvise, Linux 5.4


def page_out(tensors: Iterable[torch.Tensor]) -> None:
    """Give the pages of tensors that are mapped from files back to the system, which reads them again when they are used.

    What was written to stays. Nothing happens where the system cannot do it.
    """
    if platform.system() != "Linux":
        return
    page = os.sysconf("SC_PAGE_SIZE")
    advise = _c().madvise
    for tensor in tensors:
        begin, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        first = begin + tensor.storage_offset() * tensor.element_size()
        last = min(first + tensor.numel() * tensor.element_size(), begin + size)
        first, last = first // page * page, -(-last // page) * page
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _PAGEOUT)


def spill(tensors: Iterable[torch.Tensor]) -> None:
    """Move parameters of the CPU that are no pages of a file into a mapped temporary one, which ends with them.

    They stay the same objects. Nothing happens where pages cannot be given back.
    """
    if platform.system() != "Linux":
        return
    files = _files()
    loose = [t for t in tensors if not any(low <= t.data_ptr() < high for low, high in files)]
    if not loose:
        return
    starts: list[int] = []
    with tempfile.NamedTemporaryFile(prefix="safelight-") as file:
        for tensor in loose:
            starts.append(file.seek(-file.tell() % 64, os.SEEK_CUR))
            file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        file.flush()
        mapped = torch.from_file(file.name, shared=False, size=file.tell(), dtype=torch.uint8)
    for tensor, start in zip(loose, starts, strict=True):
        size = tensor.numel() * tensor.element_size()
        tensor.data = mapped[start : start + size].view(tensor.dtype).view(tensor.shape)


def _files() -> list[tuple[int, int]]:
    """The addresses at which this process has files mapped."""
    found = []
    with contextlib.suppress(OSError, ValueError), open("/proc/self/maps") as maps:
        for line in maps:
            span, _, _, _, inode = line.split()[:5]
            if inode != "0":
                low, high = span.split("-")
                found.append((int(low, 16), int(high, 16)))
    return found


def _resident() -> Memory:
    used = peak = total = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[1]) * page
    try:  # of this program: what getrusage tells begins with the peak of the process that started it
        with open("/proc/self/status") as file:
            peak = int(next(line for line in file if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, ValueError, StopIteration):
        with contextlib.suppress(ImportError):  # not on Windows
            import resource

            unit = 1 if platform.system() == "Darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Memory(used, max(peak, used), total)


def title(device: torch.device) -> str:
    """What a person calls the device: the card's name, or the processor's architecture and torch's thread count."""
    if device.type == _CUDA:
        return str(torch.cuda.get_device_name(device))
    if device.type == "mps":
        return f"Apple {platform.machine()}"
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
