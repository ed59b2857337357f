"""Versions, devices, precisions and folders of this machine: the first thing to look at, and to paste into a report.

Exit code 1 when something that the core needs is broken.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import safelight
from safelight.cli.main import extras

CORE = ("torch", "numpy", "pydantic", "safetensors", "pillow", "rich", "ruamel.yaml", "matplotlib")


def add(parser: argparse.ArgumentParser) -> None:
    """`--json` for machines."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 when a core package is missing or the output folder cannot be written."""
    found = report()
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    return 1 if found["problems"] else 0


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report() -> dict[str, Any]:
    """Everything the command prints, JSON-ready."""
    problems: list[str] = []
    packages = {name: version(name) for name in CORE}
    problems += [f"core package '{name}' is not installed: pip install safelight" for name, v in packages.items() if v is None]
    folders = {str(path): _writable(path) for path in (Path.cwd(), Path(tempfile.gettempdir()))}
    problems += [f"cannot write to {path}" for path, state in folders.items() if not state["writable"]]
    if importlib.util.find_spec("torchvision") is not None:
        problems.append(
            "torchvision is installed: safelight never uses it, and it breaks at import beside a CPU build of torch"
        )
    return {
        "safelight": safelight.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": packages,
        "optional": {extra: {name: version(name) for name in names} for extra, names in extras().items()},
        "devices": _devices(problems),
        "folders": folders,
        "problems": problems,
    }


def _devices(problems: list[str]) -> list[dict[str, Any]]:
    try:
        from safelight import device
    except ImportError as error:
        problems.append(f"torch cannot be imported: {error}")
        return []
    rows = []
    for name in device.available():
        this = device.pick(name)
        memory = device.memory(this)
        refused = [p for p in ("bf16", "fp16") if p not in device.dtypes(this)]
        rows.append(
            {
                "device": name,
                "name": device.title(this),
                "honours": device.dtypes(this),
                "falls back to fp32": refused,
                "memory_total": memory.total,
                "memory_used": memory.used,
            }
        )
    return rows


def _writable(path: Path) -> dict[str, Any]:
    try:
        with tempfile.TemporaryFile(dir=path):
            return {"writable": True, "free": shutil.disk_usage(path).free}
    except OSError:
        return {"writable": False, "free": 0}


def show(found: dict[str, Any]) -> None:
    """Print the report for a person."""
    head = ("safelight", "python", "system", "cores")
    print("\n".join(f"{key:<10} {found[key]}" for key in head))
    print("packages   " + ", ".join(f"{name} {v or 'MISSING'}" for name, v in found["packages"].items()))
    for extra, packages in found["optional"].items():
        there = [f"{name} {v}" for name, v in packages.items() if v]
        gone = [name for name, v in packages.items() if not v]
        line = ", ".join(there) + (" · " if there and gone else "")
        print(f"[{extra}]".ljust(10), line + (f"absent: {', '.join(gone)} (pip install 'safelight[{extra}]')" if gone else ""))
    for row in found["devices"]:
        falls = f"; {', '.join(row['falls back to fp32'])} run in fp32 instead" if row["falls back to fp32"] else ""
        print(f"{row['device']:<10} {row['name']}, {row['memory_total'] / 2**30:.1f} GiB, {', '.join(row['honours'])}{falls}")
    for path, state in found["folders"].items():
        print("folder    ", path, f"writable, {state['free'] / 2**30:.1f} GiB free" if state["writable"] else "NOT WRITABLE")
    for problem in found["problems"]:
        print("problem   ", problem, file=sys.stderr)
