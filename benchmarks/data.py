"""A batch of pictures in [-1, 1], beside the common way: per picture Image.open, convert, resize, to a tensor, then a stack.

    python benchmarks/data.py [--rounds 15] [--batch 128] [--json FILE]

28x28 grey pictures (the tests' 1,000 of Fashion-MNIST, written as PNG into a temporary folder for those who read files). One
torch thread, process CPU time, rounds interleaved and their order reversed each time, the median. Before any timing all ways
must give the same tensor to 1e-6. The order of the samples is drawn inside the timed region. Goal in memory: 10 us a picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safelight.data import Order, load, to_unit

FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "fashion-1000"
GOAL_US = 10.0

Way = Callable[[int], Tensor]  # step -> (B, 1, H, W) in [-1, 1]


def ours(path: str, batch: int, memory: str, workers: int) -> Way:
    """Order, gather (or decode, with the next batch ahead), uint8 -> float."""
    pictures = load(path, channels=1, size=28, memory=memory, workers=workers)  # type: ignore[arg-type]
    order = Order(pictures.n, seed=0)

    def way(step: int) -> Tensor:
        now = order.batch(step, batch)
        if workers:
            pictures.prefetch(order.batch(step + 1, batch))
        return to_unit(pictures.batch(now))

    return way


def common(files: list[Path], batch: int) -> Way:
    """What a map-style dataset with the usual transforms does: open, convert, resize, float tensor, scale, stack."""
    order = Order(len(files), seed=0)

    def one(file: Path) -> Tensor:
        with Image.open(file) as image:
            pixels = np.array(image.convert("L").resize((28, 28), Image.Resampling.BILINEAR), copy=True)
        x = torch.from_numpy(pixels).unsqueeze(0).float().div(255)
        return x * 2 - 1

    def way(step: int) -> Tensor:
        return torch.stack([one(files[i]) for i in order.batch(step, batch).tolist()])

    return way


def median_us(ways: dict[str, Way], rounds: int, batch: int, repeats: dict[str, int]) -> dict[str, float]:
    """Median CPU microseconds a picture over interleaved rounds."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    step = 0
    for n in range(rounds + 1):
        names = list(ways) if n % 2 else list(ways)[::-1]
        for name in names:
            start = time.process_time()
            for _ in range(repeats[name]):
                ways[name](step)
                step += 1
            if n:  # the first round warms up
                taken[name].append((time.process_time() - start) / (repeats[name] * batch) * 1e6)
    return {name: statistics.median(t) for name, t in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pixels = load(str(FIXTURE)).batch(torch.arange(1000)).numpy()
        for i, image in enumerate(pixels):
            Image.fromarray(image[0]).save(Path(folder) / f"{i:05d}.png")
        ways = {
            "in memory": ours(str(FIXTURE), args.batch, "always", 0),
            "from files": ours(folder, args.batch, "never", 0),
            "from files, 2 workers": ours(folder, args.batch, "never", 2),
            "open, resize, stack": common(sorted(Path(folder).iterdir()), args.batch),
        }
        want = ways["in memory"](3)
        for name, way in ways.items():
            worst = float((way(3) - want).abs().max())
            if worst > 1e-6:
                print(f"{name}: differs by {worst}: nothing is timed", file=sys.stderr)
                return 1
        repeats = {name: 100 if name == "in memory" else 1 for name in ways}
        us = median_us(ways, args.rounds, args.batch, repeats)
    peer = us["open, resize, stack"]
    print(f"{'batch of ' + str(args.batch):<24}{'CPU us/picture':>16}{'of the common way':>20}")
    for name, value in us.items():
        print(f"{name:<24}{value:>16.2f}{value / peer:>20.4f}")
    met = us["in memory"] <= GOAL_US
    print(f"goal in memory <= {GOAL_US:g} us: {'met' if met else 'MISSED'}")
    if args.json:
        report = {"benchmark": "data", "batch": args.batch, "us_per_picture": us, "goal_us": GOAL_US, "met": met}
        args.json.write_text(json.dumps(report | {"ratio": us["in memory"] / peer}, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
