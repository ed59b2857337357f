"""What a run will take, before anything is loaded: parameters, memory by part, floating point operations, and what fits.

    safelight plan default
    safelight plan sd15.safetensors --size 768x512 --batch 4
    safelight plan sdxl/ --memory low --dtype bf16 --json

Read from the file's header alone: the run's own code is run on tensors that hold nothing. Memory is what the process takes beyond the
program itself. The exit code is 1 where the run does not fit into the memory that is free now.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from safelight.cli import making

if TYPE_CHECKING:
    from safelight.engine.plan import Plan, Switch


def add(parser: argparse.ArgumentParser) -> None:
    """The model, what is asked of it, and where it shall run."""
    parser.add_argument("model", metavar="MODEL", help="a model file, a diffusers folder, a run's folder, or a name that ships")
    parser.add_argument("--size", metavar="HxW", help="in pixels, if not the size the model was trained on")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="pictures at a time (%(default)s)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the sampler, if not the model's own number")
    parser.add_argument("--sampler", metavar="KIND", help="see: safelight list sampler")
    parser.add_argument("--guidance", type=float, metavar="X", help="classifier-free guidance; 1 is none")
    parser.add_argument("--weights", metavar="NAME", help="raw, or the name of an average (ema)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ...; see: safelight doctor")
    parser.add_argument(
        "--memory", choices=("full", "low"), default="full", help="low: text encoder and codec leave (%(default)s)"
    )
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the weights (%(default)s)")
    parser.add_argument("--json", action="store_true", help="everything as JSON, in bytes")


def run(args: argparse.Namespace) -> int:
    """Plan, and print it."""
    from safelight import device as devices
    from safelight.engine.plan import plan, stored, switches
    from safelight.guide.cfg import scaled
    from safelight.model import ModelSpec, peek
    from safelight.spec import SpecError, describe, parse
    from safelight.task import Request

    if args.batch < 1:
        raise SpecError(f"--batch {args.batch}: one picture at least")
    header = peek(args.model)
    spec = parse(header.spec, header.spec.get("family", "model"))
    if not isinstance(spec, ModelSpec):
        raise SpecError(f"{header.path} holds no model of pictures but a '{header.spec.get('family')}', which has no plan")
    device = devices.pick(args.device)
    precision = devices.precision(args.dtype, device)
    asked: dict[str, Any] = {"count": args.batch, "size": making.size(args.size), "steps": args.steps, "sampler": args.sampler}
    if args.guidance is not None:
        asked["mix"] = scaled(describe(spec.defaults.mix), args.guidance)
    request = parse({name: value for name, value in asked.items() if value is not None}, "request")
    assert isinstance(request, Request)
    given: dict[str, Any] = {"file": stored(header, args.weights), "device": device, "dtype": precision.dtype}
    now = plan(spec, request, memory=args.memory, **given)
    other = plan(spec, request, memory="full" if args.memory == "low" else "low", **given)
    more = plan(spec, request.model_copy(update={"count": args.batch + 1}), memory=args.memory, **given)
    free = devices.free(device)
    fits = not free or now.peak <= free
    most = most_at_once(now, more, free)
    ways = [] if fits else switches(spec, request, memory=args.memory, **given)[1]
    if args.json:
        found = {"model": str(header.path), "note": precision.note, **now.describe()}
        found |= {"steps": request.steps or spec.defaults.steps, f"peak_{other.memory}": other.peak}
        found |= {"program": devices.memory(devices.pick("cpu")).used, "free": free, "largest_batch": most}
        found |= {"fits": fits, "switches": [switch._asdict() for switch in ways]}
        print(json.dumps(found, indent=1))
        return 0 if fits else 1
    steps = request.steps or spec.defaults.steps
    sampler = (request.sampler or spec.defaults.sampler).kind
    print(f"{header.path}: {now.parameters:,} parameters")
    if precision.note:
        print(precision.note)
    show(now, other, steps=steps, sampler=sampler, free=free, most=most, ways=ways, fits=fits)
    return 0 if fits else 1


def most_at_once(now: Plan, more: Plan, free: int) -> int:
    """The largest batch that fits into `free` bytes. more: the plan of one picture more; memory is a line in the batch."""
    working, next_ = max(now.peaks.values()), max(more.peaks.values())
    if now.load > free:
        return 0
    return max(now.batch + (free - working) // max(next_ - working, 1), 0)


def show(now: Plan, other: Plan, *, steps: int, sampler: str, free: int, most: int, ways: list[Switch], fits: bool) -> None:
    """Print a plan for a person."""
    from safelight import device as devices
    from safelight.engine.plan import sized

    height, width = now.size
    many = "1 picture" if now.batch == 1 else f"{now.batch} pictures at a time"
    kind = str(now.dtype).removeprefix("torch.")
    print(f"{many} of {height}x{width}, {steps} steps of {sampler}, in {kind} on {now.device}, memory {now.memory}\n")
    print(f"  {'part':<10}{'parameters':>16}{'weights':>11}{'read':>11}{'work':>11}{'peak':>11}{'FLOP':>11}")
    for name, part in now.parts.items():
        sizes = "".join(f"{sized(v):>11}" for v in (part.weights, part.used, part.work, now.peaks[name]))
        print(f"  {name:<10}{part.parameters:>16,}{sizes}{part.flops:>11.2e}")
    if now.load:
        print(f"  {'load':<10}{'':>49}{sized(now.load):>11}   (of another dtype in the file, or copied)")
    where = max([("while loading", now.load), *((f"in the {n}", v) for n, v in now.peaks.items())], key=lambda pair: pair[1])[0]
    own = sized(devices.memory(devices.pick("cpu")).used)
    print(f"\npeak     {sized(now.peak)} {where}, beyond the program itself ({own} of host memory)")
    print(f"         {sized(other.peak)} with --memory {other.memory}")
    if free:
        print(f"free     {sized(free)}: {'it fits' if fits else 'it does not fit'}; about {most} of this size at a time would")
    for way in ways:
        print(f"         {way.option} saves {sized(way.saves)}")
