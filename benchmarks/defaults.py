"""What a model's usual sampler should be: how far samplers on grids end from the model's own converged ODE, under its own guidance.

    python benchmarks/defaults.py [fashion-mnist sprites-small] [--pictures 32] [--steps 5 8 10 15 20 30 50] [--json FILE]

The same starts for all, of the pictures' own noise; prompts as `safelight tune-sampler` takes them. The truth is `abm` in `--reference`
steps on `rect` with power 1.3, and stands in the table with half as many. A cell is the geometric mean of the pictures' RMS errors, in
the units of the latents. With --json a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from safelight.cli.tune_sampler import prompts
from safelight.evaluate import tune
from safelight.model import load
from safelight.spec import build
from safelight.task import Request

STEPS = (5, 8, 10, 15, 20, 30, 50)
# Beside the model's own: samplers, each on its own grid and, where that says None, on the model's.
ROWS = {
    "abm, rect 1.3": ("abm", {"kind": "rect", "power": 1.3}),
    "abm, the model's grid": ("abm", None),
    "ab 2, rect 1.3": ({"kind": "ab", "k": 2}, {"kind": "rect", "power": 1.3}),
    "dpm++2m, rect 1.3": ("dpm++2m", {"kind": "rect", "power": 1.3}),
    "unipc 2, the model's grid": ({"kind": "unipc", "k": 2}, None),
    "dpm++3m, the model's grid": ("dpm++3m", None),
}


def main() -> None:
    """Print a table a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["fashion-mnist", "sprites-small"])
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--reference", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the numbers go, and from where a stopped run goes on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for name in args.models:
        model = load(name)
        usual = model.spec.defaults
        given = argparse.Namespace(prompt=None, prompts=None, trajectories=args.pictures, unseen=0, seed=args.seed)
        texts = prompts(given, model)
        texts = [texts[k % len(texts)] for k in range(args.pictures)]
        request = Request(seed=args.seed).resolve(model)
        case = tune.of_model(model, request, texts, range(args.pictures))
        folder = args.json.parent / f"{name}-{args.pictures}-{args.reference}-{args.seed}" if args.json else None
        truth = torch.cat(list(tune.reference(case, args.reference, chunk=8, folder=folder)))
        rows = {f"the model's: {usual.sampler.kind}, {usual.grid.kind}": (usual.sampler, usual.grid)}
        for said, (sampler, grid) in ROWS.items():
            rows[said] = (build(sampler, "sampler"), usual.grid if grid is None else build(grid, "grid"))  # type: ignore[arg-type]
        half = f"abm, rect 1.3, {args.reference // 2} steps"
        guided = f"{usual.mix.kind} {getattr(usual.mix, 'scale', '')}".strip()
        print(
            f"\n{name}, {guided}: {args.pictures} pictures from seed {args.seed}\n{'steps':34}"
            + "".join(f"{n:>10}" for n in args.steps)
        )
        cells = kept.setdefault(name, {})
        for said, (sampler, grid) in {**rows, half: (tune.SAMPLER, tune.GRID)}.items():
            line = cells.setdefault(said, {})
            for n in args.steps if said != half else [args.reference // 2]:
                if str(n) not in line:
                    times = grid(model.process, n // sampler.calls)
                    line[str(n)] = float(tune.errors(tune.solve(case, sampler, times), truth).log().mean().exp())
                    if args.json:
                        args.json.write_text(json.dumps(kept, indent=1) + "\n")
            print(f"{said:34}" + "".join(f"{value:>10.1e}" for value in line.values()), flush=True)


if __name__ == "__main__":
    main()
