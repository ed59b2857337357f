"""A training run made to be killed: what the children of test_run.py do."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from safelight.data.folder import FolderSource
from safelight.train import Every, Plan, Train, fit
from safelight.train.ema import Classic, Power
from safelight.train.objective import Match
from safelight.train.optim import AdamW, Cosine
from tests.train import tiny

STEPS = 12


def recipe(data: Path, accumulation: int = 1, workers: int = 0, **fields: Any) -> Train:
    """Twelve steps on a folder of pictures that are decoded anew for every batch; a checkpoint every three."""
    plan: dict[str, Any] = {
        "batch": 4,
        "accumulation": accumulation,
        "steps": STEPS,
        "optimizer": AdamW(lr=3e-3),
        "schedule": Cosine(warmup=3, final=0.1),
        "averages": {"ema": Power(sigma_rel=0.1), "slow": Classic()},
        "flips": True,
        "every": Every(log=2, held_out=4, sample=0, save=3),
        "held": 8,
        "buckets": 4,
        "keep": 2,
    }
    return Train(
        name="victim",
        model=tiny.spec(),
        data=FolderSource(path=str(data)),
        held_out=0.2,
        objective=Match(drop=0.2),
        plan=Plan(**(plan | fields)),
        workers=workers,
        memory="never",
    )


def go(data: str, out: str, accumulation: int, workers: int, die_at: int = 0, tell: Any = None) -> None:
    """Begin or take up the run. die_at = k: kill -9 ourselves at the k-th touch of a file of the run (0: live).

    tell: a queue that gets the number of touches at the end.
    """
    torch.set_num_threads(1)
    count, touches = 0, ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir")

    def touched(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event in touches and args and str(args[0]).startswith(out):
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touched)
    for _ in fit(recipe(Path(data), accumulation, workers), out, resume=(Path(out) / "run.json").exists(), device="cpu"):
        pass
    if tell is not None:
        tell.put(count)
