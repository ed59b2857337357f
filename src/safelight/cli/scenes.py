"""Look at the sprite scenes that the embedded model learns from, and measure the checker that grades it. Examples:

safelight scenes sheet --out sheet.png --count 48 --seed 0
safelight scenes sheet --split held --count 24
safelight scenes prompts --split held --count 10 --json
safelight scenes check --count 2000
safelight scenes speed --device auto
"""

from __future__ import annotations

import argparse

_SPLITS = ("text", "held", "codec", "codec-held", "all")


def add(parser: argparse.ArgumentParser) -> None:
    """Four things to do: sheet, prompts, check, speed."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="{sheet,prompts,check,speed}")
    sheet = verbs.add_parser("sheet", help="draw a contact sheet of scenes with their captions")
    sheet.add_argument("--out", default="out/scenes.png", help="the file to write (default: %(default)s)")
    prompts = verbs.add_parser("prompts", help="print prompts to measure a model on, a line each")
    prompts.add_argument("--json", action="store_true", help="as JSON lines, each with what its picture must show")
    check = verbs.add_parser("check", help="measure the rule checker on composed scenes, where the truth is known")
    speed = verbs.add_parser("speed", help="measure scenes a second on a device: drawn, painted, and as token ids")
    speed.add_argument("--device", default="auto", help="where (default: %(default)s)")
    speed.add_argument("--batch", type=int, default=1024, help="scenes at a time (default: %(default)s)")
    for verb, count in ((sheet, 48), (prompts, 20), (check, 2000)):
        verb.add_argument("--count", type=int, default=count, metavar="N", help="how many scenes (default: %(default)s)")
        verb.add_argument("--seed", type=int, default=0, help="of the draw")
        splits = ("text", "held") if verb is prompts else _SPLITS
        default = "held" if verb is prompts else "text"
        verb.add_argument("--split", choices=splits, default=default, help="which scenes (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Do the one asked for."""
    if args.what == "speed":
        return _speed(args.device, args.batch)
    import json

    from safelight.data.scenes.compose import Composer
    from safelight.data.scenes.prompts import asked, held_out_prompts, seen_prompts
    from safelight.data.scenes.splits import Split
    from safelight.data.scenes.sprites import load
    from safelight.spec import SpecError

    if args.count < 1:
        raise SpecError(f"--count {args.count}: ask for at least one scene")
    composer, split = Composer(load()), Split(args.split)
    if args.what == "prompts":
        make = held_out_prompts if split is Split.HELD else seen_prompts
        for prompt in make(args.count, args.seed, composer):
            print(json.dumps({"prompt": prompt.text, **prompt.truth.json()}, ensure_ascii=False) if args.json else prompt.text)
        return 0
    if split is Split.HELD:
        scenes = asked(composer, args.count, args.seed, split)
    else:
        scenes = composer.draw(args.seed, 0, args.count, split)
    if args.what == "check":
        from safelight.data.scenes.adherence import check

        for name, verdict in check(composer, composer.render(scenes), scenes).aspects().items():
            rate = f"{100 * verdict.rate:6.2f} %  of {int(verdict.applies.sum())}" if verdict.applies.any() else "       -"
            print(f"{name:<12} {rate}")
        return 0
    from safelight.data.scenes.sheet import contact_sheet
    from safelight.files import atomic

    title = f"{args.count} scenes, split {split.value}, seed {args.seed}"
    with atomic(args.out) as path:
        contact_sheet(composer, scenes, title=title).save(path)
    print(args.out)
    return 0


def _speed(name: str, batch: int) -> int:
    """Print scenes a second of each part, the median of five runs of about a quarter of a second."""
    import statistics
    import time
    from collections.abc import Callable

    import torch

    from safelight.data.scenes.captions import Phrases, TokenTable
    from safelight.data.scenes.compose import Composer
    from safelight.data.scenes.sprites import load
    from safelight.device import pick, title
    from safelight.text.tokens import load as vocabulary

    device = pick(name)

    def settle() -> None:  # a number read back waits for everything before it
        torch.zeros((), device=device).item()

    start = time.perf_counter()
    composer = Composer(load(), device)
    _ = composer.bank
    settle()
    print(f"{title(device)}; sprites read and scaled in {time.perf_counter() - start:.1f} s")
    tokenizer = vocabulary("clip-vocabulary")
    phrases = Phrases(composer.pack.nouns, device)
    table = TokenTable.make(phrases, tokenizer.encode, context=32, begin=tokenizer.begin, end=tokenizer.end, pad=tokenizer.end)
    scenes = composer.draw(0, 0, batch)
    parts: dict[str, Callable[[int], object]] = {
        "draw": lambda step: composer.draw(0, step, batch),
        "paint": lambda step: composer.render(scenes),
        "tokens": lambda step: table.assemble(phrases.numbers(scenes)),
        "all three": lambda step: (composer.batch(0, step, batch), table.tokens(scenes)),
        "captions": lambda step: phrases.captions(scenes),
    }
    for part, call in parts.items():
        rates = []
        for run in range(6):
            settle()
            start, n = time.perf_counter(), 0
            while time.perf_counter() - start < 0.25:
                call(100 * run + n)
                settle()
                n += 1
            rates.append(n * batch / (time.perf_counter() - start))
        print(f"{part:<10} {statistics.median(rates[1:]):>12,.0f} scenes a second, in batches of {batch}")
    return 0
