"""What training costs beside forward and backward: data, draws, keyed generators, the guard, optimizer, averages, bookkeeping.

    python benchmarks/overhead.py [--recipe fashion-mnist] [--batch 128] [--rounds 9] [--json FILE]

One torch thread, process CPU time. Each round times a step of `safelight.train.train` and one of forward and backward alone, on the
same network and batch size, order reversed each round; reported are the median of paired ratios and, from calls of their own, the parts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from safelight.data import Order, load, memory
from safelight.recipes import recipe
from safelight.train import Report, begin, train
from safelight.train.feed import feed, seen, words
from safelight.train.guard import Guard
from safelight.train.keys import keyed
from safelight.train.objective import Batch
from safelight.train.run import fresh

GOAL = 0.03
STEPS = 1


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def main() -> int:
    """Measure and print; exit 1 when the overhead is above the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fashion-mnist")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")

    found = recipe(args.recipe)
    plan = found.plan.model_copy(update={"batch": args.batch, "images": None, "steps": 1_000_000})
    names = getattr(found.model.text, "names", ("",))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4096, *found.model.size, found.model.channels), dtype=np.uint8)
    data = load(memory(images, [names[i % len(names)] for i in range(4096)]))
    model, bare = fresh(found), fresh(found).train()
    state = begin(model, plan, found.objective)
    going: Iterator[Report] = train(model, data, plan, state, objective=found.objective)

    order, text = Order(data.n, 0), words(bare, data, cpu)
    if plan.channels_last:
        bare.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fed = next(feed(data, order, args.batch, 0, 2))
    x0 = seen(bare, found.objective, fed.pixels, plan.channels_last)
    batch = Batch(x0, None if text.tokens is None else text.tokens[fed.indices], text.null)
    draws = found.objective.draw(bare, x0, 0, 0)

    def alone() -> None:
        for p in bare.parameters():
            p.grad = None
        found.objective.loss(bare, batch, draws).mean().backward()

    whole: list[float] = []
    part: list[float] = []
    next(going), alone()
    for k in range(args.rounds):
        for work, into in [(lambda: next(going), whole), (alone, part)][:: 1 if k % 2 else -1]:
            into.append(seconds(work, STEPS))
    overhead = statistics.median(1 - b / w for w, b in zip(whole, part, strict=True))
    step = statistics.median(whole)

    parameters = [p for _, p in state.players[0].parameters]
    optimizer, guard = plan.optimizer.make(parameters), Guard(cpu, scaling=False)
    one = torch.tensor(1.0)

    def guarded() -> None:
        guard.step(optimizer, parameters, one, plan.clip)

    def fenced() -> None:
        with keyed(cpu, 0, 0, 0, "network"):
            pass

    optimizer.step()
    stepping = seconds(optimizer.step, 10)
    parts = {
        "data": seconds(lambda: data.batch(order.batch(3, args.batch)), 20),
        "to floats": seconds(lambda: seen(bare, found.objective, fed.pixels, plan.channels_last), 20),
        "draws": seconds(lambda: found.objective.draw(bare, x0, 0, 1), 20),
        "keyed generators": seconds(fenced, 50),
        "optimizer": stepping,
        "norm, clip, verdict": seconds(guarded, 10) - stepping,
        f"{len(plan.averages)} averages": seconds(state.averages.update, 10),
    }
    print(
        f"{found.name}, batch {args.batch}: {step * 1e3:.0f} ms a step, forward and backward {statistics.median(part) * 1e3:.0f} ms"
    )
    print(f"overhead {overhead:.1%} of a step by difference (goal {GOAL:.0%}); by parts {sum(parts.values()) / step:.1%}:")
    for name, cost in parts.items():
        print(f"  {name:<20} {cost * 1e3:8.3f} ms  {cost / step:6.2%}")
    print(f"  data a picture       {parts['data'] / args.batch * 1e6:8.2f} us")
    if args.json:
        args.json.write_text(json.dumps({"overhead": overhead, "step": step, "parts": parts}, indent=1) + "\n")
    return 0 if sum(parts.values()) / step <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
