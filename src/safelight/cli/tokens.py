"""Texts and pictures by a model of tokens (discrete diffusion), and its bound in bits.

MODEL is a run's folder (its latest checkpoint) or a model's file.

    safelight tokens sample runs/d3pm-text --count 4 --temperature 0.9
    safelight tokens sample runs/masked-fashion --count 16 --steps 128 --out clothes.png --show-steps
    safelight tokens bound runs/d3pm-text --count 500 --draws 16

A text is printed, and written where --out says; pictures make one sheet. Sample k of a seed is the same in any number of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from safelight.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.data import Pictures
    from safelight.discrete import Tokens

# So many moments of a run are shown, and so many samples of them.
_MOMENTS, _SHOWN = 8, 6
# A mask, in a text and in a picture.
_HIDDEN, _COLOUR = "_", (86, 120, 180)


def add(parser: argparse.ArgumentParser) -> None:
    """Declare `sample` and `bound`."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="sample|bound", parser_class=type(parser))
    make = verbs.add_parser("sample", help="make texts or pictures")
    make.add_argument("--steps", type=int, metavar="N", help="of sampling (the model's default)")
    make.add_argument(
        "--temperature", type=float, default=1.0, metavar="X", help="below 1 likelier tokens, 0 the likeliest (1)"
    )
    make.add_argument("--show-steps", action="store_true", help="also the run on its way: in the sheet, or line by line")
    make.add_argument("--out", metavar="FILE", help="of the sheet, .png (out/tokens/NAME.png), or of the texts, .txt")
    count = verbs.add_parser("bound", help="bits a token of data that it was not trained on, by the variational bound")
    count.add_argument("--data", metavar="PATH", help="a text, or pictures (the run's own held-out data)")
    count.add_argument("--draws", type=int, default=8, metavar="N", help="times for each sample (8)")
    count.add_argument("--batch", type=int, default=64, metavar="N", help="samples at a time (64)")
    count.add_argument("--out", metavar="FILE", help="the numbers as .json")
    for verb, many in ((make, 4), (count, 500)):
        verb.add_argument("model", metavar="MODEL", help="a run's folder or a model's file")
        verb.add_argument("--count", type=int, default=many, metavar="N", help=f"samples ({many})")
        verb.add_argument("--seed", type=int, default=0, metavar="N", help="(0)")
        verb.add_argument("--weights", metavar="NAME", help="raw, or the name of an average (ema)")
        verb.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ...")


def run(args: argparse.Namespace) -> int:
    """Sample or measure, with a bar, and print what came of it."""
    from safelight import device as devices
    from safelight.discrete import load

    if args.count < 1 or getattr(args, "draws", 1) < 1 or getattr(args, "batch", 1) < 1:
        raise SpecError("--count, --draws and --batch: at least 1")
    model = load(args.model, args.weights, device=devices.pick(args.device))
    return _sample(args, model) if args.action == "sample" else _bound(args, model)


def _sample(args: argparse.Namespace, model: Tokens) -> int:
    import torch

    from safelight.cli.judging import Watch
    from safelight.discrete import sample
    from safelight.files import atomic_bytes
    from safelight.noise import Noise

    alphabet = model.alphabet
    out = Path(args.out) if args.out else None
    if out is not None and out.suffix != (".txt" if alphabet.text else ".png"):
        raise SpecError(f"--out {out}: samples of this model are written as {'.txt' if alphabet.text else '.png'}")
    noise = Noise(args.seed, args.count)
    moments: list[tuple[float, Tensor]] = []
    with Watch("steps") as watch:
        for step in sample(model, noise, args.count, steps=args.steps, temperature=args.temperature):
            watch.see(step.i + 1, step.n)
            if args.show_steps and (step.i + 1) * _MOMENTS // step.n > step.i * _MOMENTS // step.n:
                moments.append((float(step.level.t), step.x[:_SHOWN]))
    last = step.x
    if alphabet.text:
        for t, x in moments[:-1]:
            print(f"t = {t:.3f}  {shown(model, x)[0]}")
        texts = shown(model, last)
        print("\n".join(texts))
        if out is not None:
            atomic_bytes(out, ("\n".join(texts) + "\n").encode())
        return 0
    from safelight.draw.grid import save, sheet

    out = out or Path("out/tokens") / f"{Path(args.model).name}.png"
    if moments:
        rows = len(moments[0][1])
        cells = torch.stack([coloured(model, x) for _, x in moments], 1).flatten(0, 1)
        picture = sheet(cells, columns=len(moments), heads=[f"t = {t:.2f}" for t, _ in moments])
        print(f"steps    {save(out.with_stem(out.stem + '-steps'), picture)} ({rows} of {len(last)})")
    print(f"picture  {save(out, sheet(alphabet.write(last).cpu()))}")
    return 0


def shown(model: Tokens, x: Tensor) -> list[str]:
    """Texts of tokens (B, 1, H, W), masks as underscores."""
    mask = model.process.mask(model.tokens)
    if mask is None:
        return model.alphabet.say(x)
    texts = model.alphabet.say(x.clamp(max=model.tokens - 1))
    hidden = (x == mask).flatten(1).tolist()
    return [
        "".join(_HIDDEN if h else c for c, h in zip(text, row, strict=True)) for text, row in zip(texts, hidden, strict=True)
    ]


def coloured(model: Tokens, x: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 of tokens (B, C, H, W), masks in a colour of their own."""
    import torch

    mask = model.process.mask(model.tokens)
    bytes_ = model.alphabet.write(x.clamp(max=model.tokens - 1)).cpu().expand(-1, 3, -1, -1)
    if mask is None:
        return bytes_
    hidden = (x == mask).any(1, keepdim=True).cpu()
    return torch.where(hidden, torch.tensor(_COLOUR, dtype=torch.uint8).view(3, 1, 1), bytes_)


def _bound(args: argparse.Namespace, model: Tokens) -> int:

    import torch

    from safelight.bound import NAT
    from safelight.cli.judging import Watch
    from safelight.evaluate.tokens import alone, bound, paired
    from safelight.files import atomic_bytes

    data = _held_out(args, model)
    # Spread over the data, so that a part of a text or of a sorted set does not stand for all of it.
    chosen = torch.linspace(0, data.n - 1, min(args.count, data.n)).round().long()
    x0 = model.read(data.batch(chosen)).to(model.device)
    with Watch("samples") as watch:
        for found in bound(model.process, model.logits, x0, model.tokens, draws=args.draws, seed=args.seed, batch=args.batch):
            watch.see(found.samples, len(x0))
    numbers = found.as_dict() | {"alone": alone(x0, model.tokens) * NAT, "paired": paired(x0, model.tokens) * NAT}
    what = "a character" if model.alphabet.text else f"a pixel of {model.tokens} levels"
    print(f"{numbers['samples']:,} samples of {numbers['tokens']:,} tokens, bits {what}")
    print(f"  bound    {numbers['bits']:.4f} +- {numbers['error']:.4f} (one standard error)")
    for name, text in (
        ("prior", "L_T, the last level"),
        ("middle", "all terms between"),
        ("first", "L_0, the step to the data"),
    ):
        print(f"    {name:<7}{numbers[name]:.4f}   {text}")
    print(f"  entropy  {numbers['alone']:.4f} of a token by itself, {numbers['paired']:.4f} given the one before it")
    if args.out:
        atomic_bytes(args.out, (json.dumps(numbers, indent=1) + "\n").encode())
        print(f"numbers  {args.out}")
    return 0


def _held_out(args: argparse.Namespace, model: Tokens) -> Pictures:
    from safelight.data import detect, load
    from safelight.data.text import TextSource
    from safelight.train import recipe_of

    size = model.spec.size
    if args.data:
        fold = "letters" if model.tokens == 27 else "none"
        source = TextSource(path=args.data, length=size[0] * size[1], fold=fold) if model.alphabet.text else detect(args.data)
    else:
        folder = Path(args.model)
        found = recipe_of(folder).held_out_data if folder.is_dir() else None
        if found is None:
            raise SpecError("--data: say on what; only a run's folder knows data that it was not trained on")
        source = found
    return load(source, channels=model.spec.channels, size=size)
