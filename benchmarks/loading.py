"""Opening a diffusers folder of Stable Diffusion 1.5's shape: beside diffusers' own loader, and beside reading the mapped files alone.

    python benchmarks/loading.py [--scale 1.0] [--rounds 3] [--folder FOLDER] [--json FILE]

Each measurement is a process of its own, which imports, takes the time, opens, and takes it again: CPU seconds of the whole process, and
how far the resident set grew at its largest (mapped pages count). `open` makes the model; `open and read` also adds up every weight as
it lies in memory, so that every page has been read (q, k and v, one matrix here, are laid together when a run begins); `read` adds up the
same tensors as safetensors maps them, and makes nothing of them. The page cache is warm for all. The folder is made by us, of random
numbers; `--scale` shrinks the network's widths. Bounds: open at most half of diffusers', open and read at most 1.2 times read, peak memory
at most 1.1 times the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BEGIN = """
import json, mmap, re, sys, time
import torch
torch.set_num_threads(1)
folder = sys.argv[1]
def finish(model_parameters):
    total = 0.0
    for p in model_parameters:
        for one in pieces(p):
            total += float(one.detach().double().sum()) if one.numel() < 64 else float(one.detach().sum())
    return total
def measured(work):
    def memory(name):
        with open("/proc/self/status") as file:
            return 1024 * int(re.search(name + r":\\s+(\\d+) kB", file.read())[1])
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins here
    before, cpu, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    kept = work()
    took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    print(json.dumps({**took, "peak": memory("VmHWM") - before}))
"""
OURS = (
    BEGIN
    + """
from safelight.model import load
from safelight.nn.joined import pieces
from safelight.spec import families, kinds
import safelight.interop.diffusers, safelight.interop.bundle
_ = [kinds(family) for family in families()]
"""
)
THEIRS = (
    BEGIN
    + """
pieces = lambda p: (p,)
import warnings; warnings.simplefilter("ignore")
import diffusers, transformers
diffusers.utils.logging.set_verbosity_error(); diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error(); transformers.utils.logging.disable_progress_bar()
from diffusers import StableDiffusionPipeline, UNet2DConditionModel, AutoencoderKL, DDIMScheduler
from transformers import CLIPTextModel, CLIPTokenizer
def opened():
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    parts = [pipeline.unet, pipeline.vae, pipeline.text_encoder]
    return pipeline, [p for part in parts for p in part.parameters()]
"""
)
RUNS: dict[str, str] = {
    "read": BEGIN
    + """
from pathlib import Path
from safetensors.torch import load_file
pieces = lambda p: (p,)
def work():
    return sum(finish(load_file(path).values()) for path in Path(folder).rglob("*.safetensors"))
measured(work)
""",
    "ours: open": OURS + "measured(lambda: load(folder, dtype=None))\n",
    "ours: open and read": OURS
    + """
def work():
    model = load(folder, dtype=None)
    return model, finish(model.parameters())
measured(work)
""",
    "diffusers: open": THEIRS + "measured(opened)\n",
    "diffusers: open and read": THEIRS
    + """
def work():
    pipeline, parameters = opened()
    return pipeline, finish(parameters)
measured(work)
""",
}


def make(folder: Path, scale: float) -> None:
    """A folder of the shape, of random numbers; prints the bytes of its weights."""
    import torch

    from safelight.codec.kl import KLSpec
    from safelight.interop.diffusers import save_folder
    from safelight.model import ModelSpec
    from safelight.nn.unet import UNetSpec
    from safelight.process.tables import ScaledLinear
    from safelight.text.clip import CLIPTextSpec

    network = UNetSpec.sd1()
    widths = tuple(max(64, round(w * scale / 64) * 64) for w in network.widths)
    if scale != 1:
        network = UNetSpec.latent(widths, (1, 1, 1, 0), 768, heads=8, linear=False)
    codec = KLSpec(latents=4, widths=(128, 256, 512, 512), blocks=2, patch=1, fold=False, groups=32, attention=True, mix=True)
    spec = ModelSpec(
        network=network, process=ScaledLinear(beta_start=0.00085, beta_end=0.012), parameterization="eps", codec=codec,
        text=CLIPTextSpec.openai_l(), channels=3, size=(512, 512),
    )  # fmt: skip
    model = spec.build()
    with torch.no_grad():
        model.codec.get_buffer("scale").fill_(1 / 0.18215)
    save_folder(folder, model)
    print(sum(p.numel() * p.element_size() for p in model.parameters()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder")
    parser.add_argument("--json")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(Path(args.make), args.scale)
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        folder = Path(made) / "model"
        command = [sys.executable, __file__, "--make", str(folder), "--scale", str(args.scale)]
        size = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
        for i in range(args.rounds + 1):  # the first fills the page cache and is not counted
            for name in reversed(RUNS) if i % 2 else RUNS:
                ran = subprocess.run(
                    [sys.executable, "-c", RUNS[name], str(folder)], capture_output=True, text=True, check=False
                )
                if ran.returncode:
                    raise SystemExit(f"{name}: {ran.stderr[-2000:]}")
                if i:
                    found[name].append(json.loads(ran.stdout.splitlines()[-1]))
    middle = {name: {k: statistics.median(one[k] for one in ones) for k in ones[0]} for name, ones in found.items()}
    print(f"weights {size / 1e9:.2f} GB, medians of {args.rounds}\n")
    print(f"{'':<26}{'CPU s':>8}{'wall s':>8}{'peak/weights':>14}")
    for name, one in middle.items():
        print(f"{name:<26}{one['cpu']:>8.2f}{one['wall']:>8.2f}{one['peak'] / size:>14.2f}")
    bounds = {
        "open / diffusers' open": (middle["ours: open"]["cpu"] / middle["diffusers: open"]["cpu"], 0.5),
        "open and read / read": (middle["ours: open and read"]["cpu"] / middle["read"]["cpu"], 1.2),
        "peak / weights": (middle["ours: open and read"]["peak"] / size, 1.1),
    }
    print()
    for name, (value, most) in bounds.items():
        print(f"{name:<26}{value:>8.2f}  {'within' if value <= most else 'BEYOND'} {most}")
    if args.json:
        Path(args.json).write_text(json.dumps({"bytes": size, "medians": middle, "bounds": bounds}, indent=1))
    return 0 if all(value <= most for value, most in bounds.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
