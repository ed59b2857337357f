"""Checkpoints: written whole or not at all, verified when read, usable for inference as they are.

    DIR/checkpoints/LATEST                        the name of the newest one
    DIR/checkpoints/step-00001000/
        model.safetensors                         raw weights and averages under their names; `safelight.load(DIR)` takes it
        state.safetensors, state.json             the optimizer and all else that resuming needs
        manifest.json                             SHA-256 of the others, written last

A checkpoint is made in a hidden folder, flushed to disk, and renamed; then LATEST is replaced. Killed at any moment it leaves either
a whole checkpoint or a hidden folder, which the next save or resume sweeps away. Deleting goes the other way: hidden first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from safelight import model as files
from safelight.files import atomic, atomic_bytes, sync_folder
from safelight.model import Model
from safelight.spec import SpecError
from safelight.train.objective import Objective
from safelight.train.plan import Plan
from safelight.train.state import TrainState

FOLDER = "checkpoints"
_MODEL, _TENSORS, _NUMBERS, _MANIFEST, _LATEST = (
    "model.safetensors",
    "state.safetensors",
    "state.json",
    "manifest.json",
    "LATEST",
)
_PARTIAL = ".partial"


class Unwritable(SpecError):
    """A file of a run could not be written: a full disk, mostly. What was there before is untouched."""


class Kept(NamedTuple):
    """A checkpoint on disk, as its manifest describes it. held_out: the last held-out loss by then, or None."""

    path: Path
    step: int
    held_out: float | None


def write(run: Path, model: Model, state: TrainState, *, keep: int, lineage: Mapping[str, Any]) -> Path:
    """Save a checkpoint of `state.step` in the run's folder, then delete what is neither among the last `keep` nor the best.

    Returns its folder. Raises Unwritable when the disk is full or refuses, with all earlier checkpoints as they were.
    """
    home = run / FOLDER
    final = home / f"step-{state.step:08d}"
    temporary = home / f".{final.name}{_PARTIAL}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        sweep(run)
        if damage(final):
            temporary.mkdir()
            _fill(temporary, model, state, lineage)
            if final.exists():  # a damaged one of the same step
                os.replace(final, home / f".{final.name}.old{_PARTIAL}")
            os.replace(temporary, final)
            sync_folder(home)
        atomic_bytes(home / _LATEST, f"{final.name}\n".encode())
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise Unwritable(
            f"the checkpoint of step {state.step} could not be written to {home}: {reason(error)}; {_before(run)}"
        ) from None
    _retire(run, keep)
    return final


def _fill(folder: Path, model: Model, state: TrainState, lineage: Mapping[str, Any]) -> None:
    averages = {name: state.averages.tensors(name) for name in state.averages.kinds}
    files.save(folder / _MODEL, model, lineage=lineage, averages=averages)
    with atomic(folder / _TENSORS) as path:
        save_file({k: v.detach().to("cpu").contiguous().clone() for k, v in state.tensors().items()}, path)
    atomic_bytes(folder / _NUMBERS, json.dumps(state.numbers()).encode())
    hashes = {name: _sha256(folder / name) for name in (_MODEL, _TENSORS, _NUMBERS)}
    about = {"format": 1, "step": state.step, "held_out": state.history[-1].loss if state.history else None, "files": hashes}
    atomic_bytes(folder / _MANIFEST, json.dumps(about, indent=1).encode())
    sync_folder(folder)


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files all match its manifest (None: there is none), and a sentence for each newer, damaged one."""
    notes: list[str] = []
    for path in sorted((run / FOLDER).glob("step-*"), reverse=True):
        fault = damage(path)
        if not fault:
            return path, [f"{note}; going on from {path.name}" for note in notes]
        notes.append(f"checkpoint {path.name} is damaged ({fault})")
    return None, notes


def damage(path: Path) -> str:
    """What is wrong with a checkpoint folder; "" when every file matches its manifest."""
    try:
        about = json.loads((path / _MANIFEST).read_bytes())
        for name, expected in about["files"].items():
            if _sha256(path / name) != expected:
                return f"{name} does not match its manifest"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    return ""


def read(path: Path, model: Model, plan: Plan, objective: Objective, scaling: bool) -> TrainState:
    """Put a checkpoint's raw weights into `model` and return the state of that step, bit for bit.

    Raises SpecError when the checkpoint is of another network, or of averages or an optimizer that the plan does not have.
    """
    tensors = load_file(path / _MODEL)
    sets: dict[str, dict[str, Any]] = {}
    for full, value in tensors.items():
        name, _, key = full.partition("/")
        sets.setdefault(name, {})[key] = value
    files.fit(model, sets["raw"], str(path / _MODEL))
    state = TrainState(model, plan, objective, scaling)
    for name in state.averages.kinds:
        if name not in sets:
            raise SpecError(f"{path} has no average '{name}' (it has: {', '.join(sorted(set(sets) - {'raw'})) or 'none'})")
        state.averages.load(name, sets[name])
    state.load(load_file(path / _TENSORS), json.loads((path / _NUMBERS).read_bytes()))
    return state


def kept(run: Path) -> list[Kept]:
    """The checkpoints of a run by their manifests, oldest first. Their files are not checked."""
    found = []
    for path in sorted((run / FOLDER).glob("step-*")):
        try:
            about = json.loads((path / _MANIFEST).read_bytes())
            found.append(Kept(path, int(about["step"]), about["held_out"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def sweep(run: Path) -> None:
    """Remove what killed saves and deletions left behind."""
    for path in (run / FOLDER).glob(f".*{_PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def reason(error: Exception) -> str:
    """Why a write failed, in words."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left" in str(error):
        return "the disk is full"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "the file would be larger than this system allows"
    return " ".join((error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split())


def _before(run: Path) -> str:
    there = kept(run)
    if not there:
        return "there is no earlier one; make room and start again"
    return f"that of step {there[-1].step} is intact; make room and go on with --resume"


def _retire(run: Path, keep: int) -> None:
    there = kept(run)
    judged = [
        k for k in there if k.held_out is not None and math.isfinite(k.held_out)
    ]  # a NaN is below nothing, and above nothing
    stay = {k.path for k in there[-keep:]} | {min(judged, key=lambda k: k.held_out or 0.0).path for _ in judged[:1]}
    for gone in (k.path for k in there if k.path not in stay):
        hidden = gone.with_name(f".{gone.name}{_PARTIAL}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.replace(gone, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
