"""U-Net against DiT, flow against v, KL against VQ, guidance on and off: each trained with the same time of one core.

The figures behind docs/LOG.md. A variant is the recipe `sprites-unet` with one thing changed; how many pictures it may see follows from
its measured speed, so that all have cost the same when they are done. What each can do is then asked of the rule checker and the
judge, on prompts held out, at guidance 1 (off) and 3 (on).

    python benchmarks/sprites.py --out out/sprites --kl runs/sprites-vae --vq runs/sprites-vq [--seconds 900] [--only unet-flow dit-flow]

Every variant is a run in a folder of its own: stopped and started again, the script goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from safelight.data.composed import REDUCED
from safelight.data.scenes.compose import Composer
from safelight.draw.chart import figure, heading
from safelight.evaluate import adherence as measure
from safelight.evaluate.classifier import load as load_eye
from safelight.evaluate.scene_classifier import Judge, shipped
from safelight.model import load, peek
from safelight.predict import V
from safelight.process.continuous import Cosine
from safelight.recipes import recipe
from safelight.train import Train, fit, train
from safelight.train.objective import Match
from safelight.train.run import ready, recipe_of
from safelight.train.times import Stratified

SCALES = (1.0, 3.0)


def variants(kl: str, vq: str) -> dict[str, Train]:
    """What is compared, by name; the first is the recipe that ships."""
    base = recipe("sprites-unet").model_copy(update={"start": {"codec": kl}})
    v = base.model.model_copy(update={"process": Cosine(), "parameterization": V()})
    on_vq = recipe("sprites-vq").model
    return {
        "unet-flow": base,
        "dit-flow": recipe("sprites-dit").model_copy(update={"start": {"codec": kl}}),
        "unet-v": base.model_copy(update={"model": v, "objective": Match(times=Stratified(), drop=0.1)}),
        "unet-flow-vq": base.model_copy(update={"model": on_vq, "start": {"codec": vq}}),
    }


def quiet(found: Train, name: str, images: int) -> Train:
    """A variant's run of so many pictures, looked at only at its end."""
    every = found.plan.every.model_copy(update={"held_out": 0, "sample": 0, "save": 200})
    plan = found.plan.model_copy(update={"images": images, "every": every})
    return found.model_copy(update={"name": name, "plan": plan, "held_out_data": None})


def speeds(every: dict[str, Train], rounds: int = 6, steps: int = 4) -> dict[str, float]:
    """Pictures a second of process CPU time, of each. They take turns, and each one's fastest turn counts: a machine shared with
    other work is slow for all of them in the same minutes."""
    runs = {}
    for name, found in every.items():
        made = ready(quiet(found, name, 10**6), torch.device("cpu"))
        runs[name] = train(made.model, made.data, found.plan, made.state, objective=found.objective)
        for _ in range(2):
            next(runs[name])
    best = dict.fromkeys(every, 0.0)
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            for _ in range(steps):
                next(run)
            best[name] = max(best[name], steps * every[name].plan.per_step / (time.process_time() - began))
    return best


def trained(found: Train, name: str, folder: Path, images: int) -> Iterator[str]:
    """Train a variant, or go on with it; says what happens."""
    if (folder / "run.json").exists():
        run = fit(recipe_of(folder), folder, resume=True, device="cpu")
    else:
        run = fit(quiet(found, name, images), folder, device="cpu")
    began = time.process_time()
    for report in run:
        if "train/loss" in report.metrics:
            yield f"{name}: step {report.step:,} of {report.steps:,}, loss {report.metrics['train/loss']:.4f}"
    yield f"{name}: {time.process_time() - began:.0f} s of CPU in this session"


def asked(folder: Path, prompts: int) -> dict[str, Any]:
    """The rates of a trained variant at each scale."""
    composer = Composer(REDUCED.pack())
    checker = measure.Checker(Judge(load_eye(shipped()), composer))
    model = load(folder)
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "images": peek(folder).lineage["images"],
    }
    for scale in SCALES:
        plan = measure.Plan(prompts=prompts, seen=0, scales=(scale,))
        *_, report = measure.adherence(measure.OfModel(model, plan, "ema"), checker, plan, folder / f"pictures-{scale:g}")
        assert isinstance(report, measure.Report)
        found[f"{scale:g}"] = {name: row.rate for name, row in report.held.graded.rates().items()}
    return found


def draw(results: dict[str, Any], path: Path, seconds: float) -> Path:
    """Bars: an aspect a group, a variant a bar, guidance off pale behind guidance on."""
    aspects = list(next(iter(results.values()))["1"])
    with figure(path, 11, 4.2) as (page, _):
        heading(page, f"Rates on held-out prompts, {seconds:.0f} s of one core each (pale: without guidance)")
        axis = page.add_subplot()
        wide = 0.8 / len(results)
        for k, (name, found) in enumerate(results.items()):
            places = [i + (k - (len(results) - 1) / 2) * wide for i in range(len(aspects))]
            axis.bar(places, [found["3"][a] for a in aspects], wide, color=f"C{k}", label=name)
            axis.bar(places, [found["1"][a] for a in aspects], wide * 0.45, color="white", alpha=0.6)
        axis.set_xticks(range(len(aspects)), [aspect.replace(", ", ",\n") for aspect in aspects])
        axis.set_ylim(0, 1)
        axis.legend(ncols=len(results), loc="upper center", frameon=False)
    return path


def main() -> None:
    """Train what is not trained yet, ask all of them, and write results.json and results.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kl", required=True, help="a run of sprites-vae, or a model with its codec")
    parser.add_argument("--vq", required=True, help="a run of sprites-vq")
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    every = variants(args.kl, args.vq)
    known = args.out / "speeds.json"
    if not known.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(speeds(every), indent=1) + "\n")
    fast = json.loads(known.read_text())
    print({name: f"{speed:.0f} pictures a second of CPU" for name, speed in fast.items()}, flush=True)
    for name, found in every.items():
        if name in results or (args.only and name not in args.only):
            continue
        images = round(args.seconds * fast[name] / found.plan.per_step) * found.plan.per_step
        for line in trained(found, name, args.out / name, images):
            print(line, flush=True)
        results[name] = asked(args.out / name, args.prompts)
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(name, {scale: {a: round(r, 3) for a, r in results[name][scale].items()} for scale in ("1", "3")}, flush=True)
    if results:
        print(draw(results, args.out / "results.png", args.seconds))


if __name__ == "__main__":
    main()
