"""How exact the samplers are: observed orders and distances of distributions against a Gaussian mixture, as a table.

The figures behind `tests/sample`: the same measurements, printed instead of asserted. Slow: about half an hour of one core.

    python benchmarks/exactness.py [--dimensions 2 64] [--steps 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.oracle import Mixture
from tests.sample import test_order, test_stochastic


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 64])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for d in args.dimensions:
        for name in test_order.DETERMINISTIC:
            for process in test_order.PROCESSES:
                errors = test_order.errors_of(test_order.sampler_of(name), d, process, 64 if d == 2 else 48)
                rows.append({"d": d, "sampler": name, "process": process, "slope": test_order.slope(errors), "errors": errors})
                print(
                    f"d={d:<3} {name:24} {process:8} order {rows[-1]['slope']:.2f}  error at n=320 {errors[-1]:.1e}", flush=True
                )
    for d in args.dimensions:
        mixture = Mixture.ring() if d == 2 else Mixture.random(d)
        for spec in test_stochastic.SAMPLERS:
            for process in test_order.PROCESSES:
                ratio, scale = test_stochastic.measure(spec, process, mixture, args.steps, test_stochastic.N)
                rows.append({"d": d, "sampler": spec, "process": process, "distance": ratio, "scale": scale})
                print(f"d={d:<3} {spec!s:40} {process:8} distance {ratio:.2f} of the floor  scale {scale:.3f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
