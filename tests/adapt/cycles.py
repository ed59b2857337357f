"""Load, wear, paint, take off, let go: 50 times over three models and three adapters, in a process of its own. Prints one JSON line.

python -m tests.adapt.cycles FOLDER [COUNT]
"""

from __future__ import annotations

import gc
import json
import sys
import weakref
from pathlib import Path

import torch

from safelight.assets import Assets
from safelight.generate import Finished, generate
from safelight.interop import lora as files
from safelight.model import Model, ModelSpec, load, save
from safelight.nn.dit import DiTSpec
from safelight.predict import V
from safelight.spec import build
from safelight.task import Request

MODELS, ADAPTERS = 3, 3


def resident() -> int:
    """Bytes of this process in memory that are its own: of mapped files only pages that were written to count."""
    rows = dict(row.split(":", 1) for row in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(rows[name].split()[0]) for name in ("Private_Dirty", "Swap")) * 1024


def prepare(folder: Path) -> None:
    """Models of 5.6 million parameters each, 22 MB, and adapters of all their linear layers."""
    from tests.adapt.test_run import adapter

    for i in range(MODELS):
        torch.manual_seed(i)
        spec = ModelSpec(
            network=DiTSpec(width=256, depth=5, heads=4),
            process=build("cosine", "process"),
            parameterization=V(),
            size=(8, 8),
        )
        made = Model(spec)
        save(folder / f"m{i}.safetensors", made)
        if i == 0:
            for k in range(ADAPTERS):
                files.save(folder / f"a{k}.safetensors", adapter(made, 1000 * k, 0.02), made, "safelight")


def same(model: Model, again: dict[str, torch.Tensor]) -> bool:
    """Whether a model's weights are those that it was loaded with, to the last bit."""
    return all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def cycle(folder: Path, i: int) -> tuple[weakref.ref[Model], bool, float]:
    """One: a model's reference, whether its weights came out as they went in, and how far the adapter moved its picture."""
    model = load(folder / f"m{i % MODELS}.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assets = Assets()
    use = assets.bring_lora(folder / f"a{(i // MODELS) % ADAPTERS}.safetensors")
    pictures = []
    for loras in ((use,), ()):
        request = Request(steps=1, seed=i, loras=loras)
        pictures += [e.pictures for e in generate(model, request, assets=assets) if isinstance(e, Finished)]
    return weakref.ref(model), same(model, before), float((pictures[0] - pictures[1]).abs().max())


def main(folder: Path, count: int) -> None:
    prepare(folder)
    alive, exact, moved, memory = 0, True, [], []
    for i in range(count):
        reference, bits, far = cycle(folder, i)
        gc.collect()
        alive += reference() is not None
        exact &= bits
        moved.append(far)
        memory.append(resident())
    print(json.dumps({"alive": alive, "exact": exact, "moved": min(moved), "memory": memory}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50)
