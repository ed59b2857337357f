"""`plan` beside the measured peak memory of five models on the CPU.

    python benchmarks/plan.py                     # the table; a few minutes on one core
    python benchmarks/plan.py stable ddpm

Each model is written with random weights, and made to paint in a fresh process of one thread. What is measured is that process's peak
resident memory (VmHWM) beyond what it held after it had painted with a small model of the same parts: interpreter, torch, and the
kernels that both need are the program itself, which `plan` says apart. The models are chosen for what differs between systems: where the
peak lies (weights, denoiser, codec), which kernels work, converted weights, text encoders, and parts that leave memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from safelight.engine.plan import Plan, plan, stored
from safelight.model import ModelSpec, peek, save
from safelight.spec import parse
from safelight.task import Request

_DEFAULTS = {"steps": 3, "sampler": "dpm++2m", "grid": "uniform", "mix": {"kind": "cfg", "scale": 5}}
_KL = {"kind": "kl", "latents": 4, "blocks": 2, "patch": 1, "fold": False, "groups": 32, "attention": True, "mix": True}


class Case(NamedTuple):
    """A model, as a function of its width; what is asked of it, and how it is loaded."""

    name: str
    model: dict[str, Any]
    small: dict[str, Any]
    request: dict[str, Any]
    dtype: str = "float32"
    memory: str = "full"


def stable(w: int, size: int) -> dict[str, Any]:
    """The parts of Stable Diffusion 1: a U-Net with transformers, a KL autoencoder, a CLIP text encoder."""
    looks = [{"kind": "transformer", "heads": 8, "head_width": w * k // 8} for k in (1, 2, 4)]
    net = {"kind": "unet", "channels": 4, "widths": [w, 2 * w, 4 * w, 4 * w], "depth": 2, "skips": 3, "context": 256}
    net |= {"time": 4 * w, "attention": [*looks, {"kind": "no-attention"}], "middle": looks[2], "norm": {"kind": "group-norm"}}
    net |= {"block": {"kind": "resnet", "scale_shift": False}, "zero": False}
    text = {"kind": "clip", "width": 256, "layers": 4, "heads": 4, "length": 77}
    codec = {**_KL, "widths": [w, 2 * w, 4 * w, 4 * w]}
    return _model(net, size, codec=codec, text=text)


def ddpm(w: int, size: int) -> dict[str, Any]:
    """DDPM's U-Net on pixels, unconditional."""
    look, no = {"kind": "full-attention", "head_width": w // 2, "bias": True}, {"kind": "no-attention"}
    net = {"kind": "unet", "channels": 3, "widths": [w, 2 * w, 2 * w, 2 * w], "depth": 2, "skips": 3, "zero": False}
    net |= {"attention": [no, look, no, no], "middle": look, "block": {"kind": "resnet", "scale_shift": False}}
    return _model(net, size, defaults={**_DEFAULTS, "mix": "none"})


def dit(w: int, size: int, depth: int) -> dict[str, Any]:
    """A diffusion transformer on latents, with classes."""
    net = {"kind": "dit", "channels": 4, "width": w, "depth": depth, "heads": 8, "cond": w, "patch": 2}
    label = {"kind": "label", "names": ["cat", "dog"], "width": w}
    return _model(net, size, codec={**_KL, "widths": [32, 64, 128, 128]}, text=label)


def modern(w: int, size: int) -> dict[str, Any]:
    """This house's own: root-mean-square norms, normalised queries and keys, a local codec."""
    net = {"kind": "unet", "channels": 16, "widths": [w, 2 * w, 4 * w], "cond": 64, "norm": {"kind": "rms-norm"}, "zero": False}
    label = {"kind": "label", "names": ["cat", "dog"], "width": 64}
    codec = {"kind": "kl", "widths": [w // 2, w, 2 * w], "blocks": 2}
    return _model(net, size, codec=codec, text=label, process="flow", parameterization="velocity")


def _model(network: dict[str, Any], size: int, **rest: Any) -> dict[str, Any]:
    usual = {"process": "scaled-linear", "parameterization": "eps", "channels": 3, "defaults": _DEFAULTS}
    return {"network": network, "size": [size, size], **usual, **rest}


CASES = (
    Case("stable", stable(64, 256), stable(32, 64), {"count": 2}),
    Case("ddpm", ddpm(128, 64), ddpm(32, 32), {"count": 4}),
    Case("dit", dit(512, 256, 12), dit(64, 64, 1), {"count": 2}),
    Case("modern", modern(160, 256), modern(32, 64), {"count": 6}),
    Case("stable, bf16", stable(64, 256), stable(32, 64), {"count": 1}, dtype="bfloat16"),
    Case("stable, low", stable(64, 256), stable(32, 64), {"count": 2}, memory="low"),
    Case("dit, low", dit(512, 256, 12), dit(64, 64, 1), {"count": 2}, memory="low"),
)

_CHILD = """
import json, sys
import torch
torch.set_num_threads(1)
from safelight import device, model
from safelight.engine.place import place
from safelight.generate import Request, generate

def paint(path, request):
    made = model.load(path, dtype=getattr(torch, sys.argv[4]))
    place(made, sys.argv[5])
    for _ in generate(made, Request.model_validate(request)):
        pass

device.steady()
paint(sys.argv[2], {"steps": 2})
device.given_back(torch.device("cpu"))
held = device.memory(torch.device("cpu")).used
paint(sys.argv[1], json.loads(sys.argv[3]))
print(device.memory(torch.device("cpu")).peak - held)
"""


def measured(case: Case, folder: Path) -> tuple[Plan, int]:
    """The plan of a case, and the bytes that a fresh process took at its peak."""
    stem = case.name.split(",")[0]
    files = [folder / f"{stem}-{which}.safetensors" for which in ("full", "small")]
    for path, described in zip(files, (case.model, case.small), strict=True):
        if not path.exists():
            spec = parse(described, "model")
            assert isinstance(spec, ModelSpec)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                save(path, spec.build())
    header = peek(files[0])
    spec, request = parse(header.spec, "model"), Request.model_validate(case.request)
    assert isinstance(spec, ModelSpec)
    # A convolution's memory depends on the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        told = plan(spec, request, file=stored(header), dtype=getattr(torch, case.dtype), memory=case.memory)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    command = [sys.executable, "-c", _CHILD, *map(str, files), json.dumps(case.request), case.dtype, case.memory]
    one = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=one)
    return told, int(out.stdout)


def main(names: list[str]) -> None:
    """Print the table."""
    print(f"{'model':<16}{'weights':>10}{'planned':>10}{'measured':>10}{'planned / measured':>20}")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if names and case.name not in names:
                continue
            told, found = measured(case, Path(folder))
            weights = sum(part.weights for part in told.parts.values())
            columns = "".join(f"{value / 1e6:>7.1f} MB" for value in (weights, told.peak, found))
            print(f"{case.name:<16}{columns}{told.peak / found:>20.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
