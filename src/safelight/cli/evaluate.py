"""Measure a model's pictures against real ones, or train the classifier that the measuring looks with.

  safelight evaluate quality fashion-mnist --count 1000 --guidance 1.5 --out out/quality
  safelight evaluate quality FOLDER-OF-PICTURES --out out/quality
  safelight evaluate classifier --out classifier.safetensors
  safelight evaluate card out/quality/result.json
  safelight evaluate adherence MODEL --prompts 1000 --scales 1,2,3,4,5 --out out/adherence
  safelight evaluate adherence --control perfect
  safelight evaluate codec MODEL MODEL --out out/codec
  safelight evaluate retrieval JOINT --model MODEL
  safelight evaluate train-judge --out sprites-judge.safetensors
  safelight evaluate likelihood MODEL --count 1000 --ode 100

`quality` measures everything on the same pictures at one guidance scale: recognition, Frechet and kernel distance, precision,
recall, density, coverage, copies of training pictures; beside each number stands what real pictures get. `likelihood` counts the
bits of real pictures under a model of pixels. The others measure on sprite scenes, whose truth is known.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safelight.evaluate.classifier import Classifier
    from safelight.evaluate.made import Made
    from safelight.evaluate.real import Labelled
    from safelight.evaluate.report import Report


def add(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which pictures."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=type(parser))
    quality = verbs.add_parser("quality", help="measure a model, or a folder of pictures")
    quality.add_argument(
        "model", metavar="MODEL", help="a model file, a run's folder, a name that ships, or a folder of pictures by class"
    )
    quality.add_argument(
        "--count", type=int, default=1000, metavar="N", help="pictures in all, split evenly over the classes (1000)"
    )
    quality.add_argument(
        "--guidance", type=float, metavar="X", help="classifier-free guidance; 1 is none (the model's default)"
    )
    quality.add_argument("--steps", type=int, metavar="N", help="steps of the sampler (the model's default)")
    quality.add_argument("--sampler", metavar="KIND", help="see: safelight list sampler")
    quality.add_argument("--grid", metavar="KIND", help="see: safelight list grid")
    quality.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="any field of the request: sampler.eta=1"
    )
    quality.add_argument("--weights", metavar="NAME", help="raw, or the name of an average (ema)")
    quality.add_argument("--seed", type=int, default=0, help="of the pictures, and of the draws of real ones (0)")
    quality.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ...")
    quality.add_argument("--micro-batch", type=int, default=100, metavar="N", help="pictures made at a time (100)")
    quality.add_argument(
        "--classifier", metavar="FILE", help="the classifier to look with (default: the Fashion-MNIST one that ships)"
    )
    quality.add_argument("--keep", action="store_true", help="also keep the generated pictures, DIR/pictures/CLASS/NUMBER.png")
    quality.add_argument(
        "--out", default="out/quality", metavar="DIR", help="where result.json, card.md and sheets go (%(default)s)"
    )
    _real(quality)

    fit = verbs.add_parser("classifier", help="train a classifier, and print its accuracy on test pictures")
    fit.add_argument("--epochs", type=int, default=10, help="(10)")
    fit.add_argument("--seed", type=int, default=0, help="(0)")
    fit.add_argument("--threads", type=int, default=1, help="of the CPU; the weights depend on it (1)")
    fit.add_argument(
        "--name", default="fashion-mnist-classifier", help="the name that numbers on its features carry (%(default)s)"
    )
    fit.add_argument("--out", default="out/fashion-mnist-classifier.safetensors", metavar="FILE", help="(%(default)s)")
    _real(fit)
    _text_to_image(verbs)
    _likelihood(verbs)

    card = verbs.add_parser("card", help="render a result.json as Markdown for a model's card")
    card.add_argument("result", metavar="FILE", help="a result.json")


def _text_to_image(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """adherence, codec, retrieval, train-judge: what is measured on sprite scenes."""
    asks = verbs.add_parser("adherence", help="does a text-to-image model show what it is asked for?")
    asks.add_argument("model", metavar="MODEL", nargs="?", help="a model file, a run's folder, or a name that ships")
    asks.add_argument(
        "--control", choices=("perfect", "shuffled"), help="instead of a model: composed pictures, right or mixed up"
    )
    asks.add_argument("--prompts", type=int, default=1000, metavar="N", help="held-out prompts (%(default)s)")
    asks.add_argument("--seen", type=int, default=500, metavar="N", help="prompts of what training shows (%(default)s)")
    asks.add_argument(
        "--curve", type=int, default=200, metavar="N", help="held-out prompts at each of several scales (%(default)s)"
    )
    asks.add_argument("--scales", default="1,2,3,4,5", metavar="X,X", help="guidance scales to choose from (%(default)s)")
    asks.add_argument("--judge", metavar="FILE", help="the scene classifier (default: the one that ships)")
    asks.add_argument("--out", default="out/adherence", metavar="DIR", help="a stopped run goes on from here (%(default)s)")

    codec = verbs.add_parser("codec", help="how well codecs rebuild concepts that they never saw")
    codec.add_argument("models", metavar="MODEL", nargs="+", help="model files, run folders, or names that ship")
    codec.add_argument("--count", type=int, default=1000, metavar="N", help="pictures (%(default)s)")
    codec.add_argument("--out", default="out/codec", metavar="DIR", help="(%(default)s)")

    finds = verbs.add_parser("retrieval", help="do pictures find their words, and words their pictures, by a joint model?")
    finds.add_argument("joint", metavar="JOINT", help="a joint model's file, or a name that ships")
    finds.add_argument("--model", metavar="MODEL", help="a text-to-image model, whose pictures stand beside composed ones")
    finds.add_argument("--scale", type=float, default=3.0, metavar="X", help="its guidance (%(default)s)")
    finds.add_argument("--prompts", type=int, default=100, metavar="N", help="held-out prompts to choose among (%(default)s)")
    finds.add_argument(
        "--sets", type=int, default=5, metavar="N", help="sets of so many prompts, composed pictures (%(default)s)"
    )
    finds.add_argument("--out", default="out/retrieval", metavar="DIR", help="(%(default)s)")

    judge = verbs.add_parser("train-judge", help="train the scene classifier that adherence is judged with, and examine it")
    judge.add_argument("--steps", type=int, default=2800, metavar="N", help="of 128 scenes (%(default)s)")
    judge.add_argument("--exam", type=int, default=4000, metavar="N", help="scenes it is examined on (%(default)s)")
    judge.add_argument("--threads", type=int, default=1, help="of the CPU; the weights depend on it (1)")
    judge.add_argument("--out", default="out/sprites-judge.safetensors", metavar="FILE", help="(%(default)s)")

    for verb in (asks, finds):
        verb.add_argument("--steps", type=int, metavar="N", help="steps of the sampler (the model's default)")
        verb.add_argument("--batch", type=int, default=50, metavar="N", help="pictures made at a time (%(default)s)")
    for verb in (asks, finds, codec):
        verb.add_argument("--weights", metavar="NAME", help="raw, or the name of an average (ema)")
    for verb in (asks, finds, judge):
        verb.add_argument("--vocabulary", choices=("reduced", "full"), default="reduced", help="of the scenes (%(default)s)")
    for verb in (asks, codec, finds, judge):
        verb.add_argument("--seed", type=int, default=7 if verb is codec else 0, help="(%(default)s)")
        verb.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ...")


def _likelihood(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bits = verbs.add_parser("likelihood", help="bits a value of pictures, by the variational bound and by the ODE")
    bits.add_argument("model", metavar="MODEL", help="a model of pixels: a file, a run's folder, or a name that ships")
    bits.add_argument("--count", type=int, default=1000, metavar="N", help="pictures for the bound, 0 for none (%(default)s)")
    bits.add_argument(
        "--ode", type=int, default=0, metavar="N", help="pictures for the ODE, the first of the same (%(default)s)"
    )
    bits.add_argument("--steps", type=int, metavar="N", help="of the bound's chain (a table's entries; 1000 elsewhere)")
    bits.add_argument("--grid", metavar="KIND", help="of the bound's chain (uniform on a table, exponential elsewhere)")
    bits.add_argument(
        "--terms", type=int, default=50, metavar="N", help="steps looked at for a picture, 0 for all (%(default)s)"
    )
    bits.add_argument("--no-clip", action="store_true", help="estimates of the bound as they are, also outside of [-1, 1]")
    bits.add_argument("--variance", choices=("small", "large", "learned"), help="of a step (learned where it is, else small)")
    bits.add_argument(
        "--trace", choices=("rademacher", "gaussian", "exact"), default="rademacher", help="of the ODE's slope (%(default)s)"
    )
    bits.add_argument(
        "--dequantise", choices=("uniform", "normal"), default="uniform", help="of bytes, for the ODE (%(default)s)"
    )
    bits.add_argument("--probes", type=int, default=1, metavar="N", help="random vectors for that trace (%(default)s)")
    bits.add_argument("--tolerance", type=float, default=1e-4, metavar="X", help="of the ODE's solver (%(default)s)")
    bits.add_argument(
        "--prompts", choices=("own", "none"), default="own", help="tell each picture's caption, or none (%(default)s)"
    )
    bits.add_argument("--test", metavar="DATA", help="real pictures (default: Fashion-MNIST's test set)")
    bits.add_argument("--weights", metavar="NAME", help="raw, or the name of an average (ema)")
    bits.add_argument("--seed", type=int, default=0, help="of the choice of pictures and of all draws (%(default)s)")
    bits.add_argument("--batch", type=int, default=50, metavar="N", help="pictures at a time (%(default)s)")
    bits.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ...")
    bits.add_argument("--out", default="out/likelihood", metavar="DIR", help="a stopped run goes on from here (%(default)s)")


def _real(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", metavar="DATA", help="what the model learned from (default: Fashion-MNIST's training set)")
    parser.add_argument("--test", metavar="DATA", help="real pictures that it never saw (default: Fashion-MNIST's test set)")


def run(args: argparse.Namespace) -> int:
    """Measure, or train, or render."""
    if args.what == "quality":
        return _quality(args)
    if args.what == "classifier":
        return _classifier(args)
    if args.what in ("adherence", "codec", "retrieval", "likelihood", "train-judge"):
        from safelight.cli import judging

        return int(getattr(judging, args.what.replace("-", "_"))(args))
    from safelight.evaluate.card import card
    from safelight.spec import SpecError

    try:
        print(card(json.loads(Path(args.result).read_text(encoding="utf-8"))))
    except (KeyError, TypeError, ValueError):  # ValueError: neither text nor JSON
        raise SpecError(f"{args.result} is no result of `safelight evaluate quality`") from None
    return 0


def _quality(args: argparse.Namespace) -> int:
    from safelight.evaluate.card import card
    from safelight.evaluate.classifier import load
    from safelight.evaluate.report import evaluate
    from safelight.files import atomic_bytes

    classifier = load(args.classifier)
    # The real pictures first: when they are missing, that is better known before the minutes of sampling.
    train, test = (_open(args, split, classifier) for split in ("train", "test"))
    made = _made(args, classifier)
    report = evaluate(made, train, test, classifier, seed=args.seed)
    out = Path(args.out)
    atomic_bytes(out / "result.json", (json.dumps(report.numbers, indent=2) + "\n").encode())
    atomic_bytes(out / "card.md", card(report.numbers).encode())
    _sheets(out, made, report, train)
    if args.keep:
        _keep(out / "pictures", made)
    print(card(report.numbers))
    for name in ("result.json", "card.md", "samples.png", "copies.png"):
        print(f"{name:<12} {out / name}")
    return 0


def _open(args: argparse.Namespace, split: str, classifier: Classifier) -> Labelled:
    from safelight.data.detect import detect
    from safelight.data.fashion import FashionMNISTSource
    from safelight.evaluate.real import read

    path = getattr(args, split)
    data = detect(path).open() if path else FashionMNISTSource(split="train" if split == "train" else "test").open()
    return read(data, classifier.spec.channels, classifier.spec.size, classifier.spec.names)


def _made(args: argparse.Namespace, classifier: Classifier) -> Made:
    from safelight import device as devices
    from safelight.cli.making import bar, resolve
    from safelight.cli.sample import classes
    from safelight.evaluate.made import collect, folder
    from safelight.generate import Event, Stepped, generate
    from safelight.model import load, locate, peek
    from safelight.spec import SpecError

    if Path(args.model).is_dir():
        try:
            locate(args.model)
        except SpecError:  # no run's folder: pictures
            return folder(args.model, classifier.spec.channels, classifier.spec.size)
    model = load(args.model, args.weights, device=devices.pick(args.device))
    names = classes(model)
    if args.count < 1 or args.count % len(names):
        raise SpecError(f"--count {args.count} does not split evenly over {len(names)} classes")
    asked = argparse.Namespace(**vars(args))
    asked.count = args.count // len(names)
    request = resolve(asked, model, {"prompt": names})
    weights = args.weights or next((n for n in peek(args.model).weights if n != "raw"), "raw")

    from collections.abc import Iterator

    def watched() -> Iterator[Event]:
        with bar(request) as advance:
            for event in generate(model, request):
                if isinstance(event, Stepped):
                    advance()
                yield event

    return collect(watched(), model, weights)


def _sheets(out: Path, made: Made, report: Report, train: Labelled) -> None:
    """samples.png: the first pictures of each class. copies.png: those nearest to a training picture, beside it."""
    import torch

    from safelight.draw.grid import save, sheet

    names = list(dict.fromkeys(made.prompts))
    if any(names):
        rows = [[i for i, p in enumerate(made.prompts) if p == name][:10] for name in names]
        wide = min(map(len, rows))
        chosen = [i for row in rows for i in row[:wide]]
        save(
            out / "samples.png",
            sheet(made.pictures[chosen], columns=wide, rows=names, note="the first of each class, none picked"),
        )
    else:
        save(out / "samples.png", sheet(made.pictures[:64], note="the first ones, none picked"))
    near = report.copies.nearest
    order = near.distance.argsort()[:32]
    pairs = torch.stack([made.pictures[order], train.pictures[near.index[order]]], 1).flatten(0, 1)
    captions = [text for i in order.tolist() for text in ("generated", f"train, {near.distance[i]:.1f} away")]
    note = (
        f"The {len(order)} of {len(made.pictures):,} generated pictures nearest to a training picture, each beside it; "
        "rms difference in grey levels over shifts by one pixel and mirror images. "
        f"One in a hundred held-out real pictures is nearer than {report.copies.threshold:.1f}."
    )
    save(out / "copies.png", sheet(pairs, columns=8, captions=captions, note=note))


def _keep(folder: Path, made: Made) -> None:
    from safelight.draw.grid import save
    from safelight.draw.pixels import to_bytes, to_image

    for i, (picture, prompt) in enumerate(zip(to_bytes(made.pictures), made.prompts, strict=True)):
        save(folder / (prompt.replace("/", "-") or ".") / f"{i:05d}.png", to_image(picture))


def _classifier(args: argparse.Namespace) -> int:
    import torch

    import safelight
    from safelight.data.detect import detect
    from safelight.data.fashion import FashionMNISTSource
    from safelight.data.idx import FASHION
    from safelight.evaluate.classifier import ClassifierSpec, save
    from safelight.evaluate.fit import Fit, accuracy, fit, rounded
    from safelight.evaluate.real import read
    from safelight.spec import SpecError, describe

    if args.threads < 1:
        raise SpecError("--threads: at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        how = Fit(epochs=args.epochs, seed=args.seed)
        data = detect(args.train).open() if args.train else FashionMNISTSource().open()
        height, width, channels = data.read(0).image.shape
        names = tuple(sorted(set(data.captions))) if args.train else FASHION
        train = read(data, channels, (height, width), names)
        held = detect(args.test).open() if args.test else FashionMNISTSource(split="test").open()
        test = read(held, channels, (height, width), names)
        spec = ClassifierSpec(names=train.names, channels=channels, size=(height, width))
        for epoch in fit(spec, train.pictures, train.labels, how):
            print(f"epoch {epoch.epoch} of {how.epochs}: training loss {epoch.loss:.4f}, {epoch.seconds:.0f} s", flush=True)
        shipped = rounded(epoch.classifier)
        rate, each = accuracy(shipped, test.pictures, test.labels)
        lineage = {
            "name": args.name, "fit": describe(how), "threads": args.threads, "seconds": round(epoch.seconds, 1),
            "trained_on": len(train.pictures), "tested_on": len(test.pictures), "test_accuracy": rate,
            "test_accuracy_by_class": dict(zip(train.names, each, strict=True)),
            "torch": torch.__version__, "safelight": safelight.__version__,
        }  # fmt: skip
        save(args.out, shipped, lineage)
    finally:
        torch.set_num_threads(before)
    for name, value in zip(train.names, each, strict=True):
        print(f"  {name:<14} {100 * value:5.1f} %")
    print(f"test accuracy {100 * rate:.2f} % of {len(test.pictures):,} pictures, hash {shipped.fingerprint}\n{args.out}")
    return 0
