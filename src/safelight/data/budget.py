"""How many bytes of pictures may be kept in memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

# Parts of what is free that pictures may take: a model, its optimiser and its activations want the rest.
HOST_PART, DEVICE_PART = 0.5, 0.25


def budget(device: torch.device) -> int:
    """Bytes of pictures that may lie on `device`: half of the free host memory, a quarter of an accelerator's."""
    if device.type == "cpu":
        return int(HOST_PART * free_host())
    module = torch.get_device_module(device)
    info = getattr(module, "mem_get_info", None)
    if info is None:  # an accelerator that shares the host's memory and does not tell
        return int(DEVICE_PART * free_host())
    return int(DEVICE_PART * info(device)[0])


def free_host() -> int:
    """Bytes of host memory this process may still take: the system's figure, or a container's limit when that is less."""
    free = 1 << 30
    with contextlib.suppress(OSError, ValueError, AttributeError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, limit - used))
    return free
