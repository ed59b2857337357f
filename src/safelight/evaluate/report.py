"""One evaluation: everything measured on the same pictures, and beside every number what real pictures get at the same N."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.evaluate import copies as copying
from safelight.evaluate.classifier import Classifier, Seen
from safelight.evaluate.frechet import distance, moments, warning
from safelight.evaluate.kernel import kernel
from safelight.evaluate.made import Made
from safelight.evaluate.manifold import manifold
from safelight.evaluate.real import Labelled
from safelight.spec import SpecError, nearest

FORMAT = 1
DRAWS = 5  # how many samples of real pictures the floor is averaged over
NEIGHBOURS = 5


class Report(NamedTuple):
    """numbers: the JSON result. copies: the nearest training picture of every generated one, by pixels, for a sheet."""

    numbers: dict[str, Any]
    copies: copying.Copies


def evaluate(made: Made, train: Labelled, test: Labelled, classifier: Classifier, *, seed: int = 0) -> Report:
    """Measure generated pictures.

    made: N pictures and their prompts; prompts that name classes are what recognition is counted against. train: what the model
    learned from; test: real pictures that neither model nor classifier saw. seed: of the draws of real pictures.

    recognised: the rate at which the classifier sees the class asked for, beside its accuracy on real test pictures.
    frechet: FD of N generated to all of test; its floor: of N real training pictures of the same classes to all of test.
    kernel, manifold: the same two comparisons; the manifold's against N test pictures of the same classes, since recall depends
    on N.
    copies: nearness to training pictures, calibrated on N test pictures.
    Raises SpecError for shapes that differ, unknown classes, and too few real pictures.
    """
    began = time.perf_counter()
    names, n = classifier.spec.names, len(made.pictures)
    for what, real in (("train", train), ("test", test)):
        if real.names != names:
            raise SpecError(f"{what}: its classes are not the classifier's ({', '.join(names)})")
    asked = classes(made.prompts, names)
    ours, theirs, known = classifier.look(made.pictures), classifier.look(test.pictures), classifier.look(train.pictures)
    if asked is None:  # unconditional: compare with real pictures in the mix of the test set
        mix = test.labels[torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(seed))[:n]]
    else:
        mix = asked
    twins = [train.like(mix, seed + i) for i in range(DRAWS)]
    held = test.like(mix, seed)
    fake, reference = ours.features.double(), theirs.features.double()
    whole, at_n = moments(reference), reference[held]

    floor = [distance(moments(known.features[t]), whole) for t in twins]
    ours_kernel, their_kernel = kernel(fake, reference, seed), kernel(known.features[twins[0]], reference, seed)
    ours_manifold, their_manifold = manifold(at_n, fake, NEIGHBOURS), manifold(at_n, known.features[twins[0]], NEIGHBOURS)
    pixels = copying.copies(
        copying.in_pixels(made.pictures, train.pictures), copying.in_pixels(test.pictures[held], train.pictures)
    )
    features = copying.copies(
        copying.in_features(ours.features, known.features), copying.in_features(theirs.features[held], known.features)
    )
    numbers: dict[str, Any] = {
        "format": FORMAT,
        "what": "evaluation",
        "pictures": {
            "generated": n, "train": len(train.pictures), "test": len(test.pictures),
            "floor": f"{n:,} training pictures of the same classes", "channels": made.pictures.shape[1],
            "size": list(made.pictures.shape[2:]), "resize": "none", "range": "uint8 [0, 255]",
        },
        "made": made.about,
        "extractor": {
            "name": extractor(classifier), "hash": classifier.fingerprint, "features": classifier.spec.features,
            "layer": "the linear layer before the classes, after ReLU",
        },
        "recognised": recognised(ours, asked, theirs, test, names),
        "frechet": {
            "name": f"FD-{extractor(classifier)}", "value": distance(moments(fake), whole), "floor": sum(floor) / DRAWS,
            "floor_range": [min(floor), max(floor)], "warning": warning(n, classifier.spec.features),
        },
        "kernel": {
            "name": f"KD-{extractor(classifier)}", **ours_kernel._asdict(), "floor": their_kernel._asdict(),
            "interval": "95 %, 10 blocks",
        },
        "manifold": {"neighbours": NEIGHBOURS, **ours_manifold._asdict(), "floor": their_manifold._asdict()},
        "copies": {
            "pixels": _copies(pixels) | {"unit": "rms grey levels, over shifts by 1 pixel and mirror images"},
            "features": _copies(features) | {"unit": "Euclidean"},
        },
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    return Report(numbers, pixels)


def classes(prompts: Sequence[str], names: Sequence[str]) -> Tensor | None:
    """(N,) the number of the class each prompt names; None when all prompts are empty. Raises SpecError for other prompts."""
    if not any(prompts):
        return None
    stray = next((p for p in prompts if p not in names), None)
    if stray is not None:
        raise SpecError(f"prompt '{stray}' is no class of the classifier{nearest(stray, names)} (classes: {', '.join(names)})")
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[p] for p in prompts], dtype=torch.int64)


def extractor(classifier: Classifier) -> str:
    """The name that numbers on its features carry."""
    return str(classifier.lineage.get("name", f"classifier-{classifier.fingerprint}"))


def recognised(ours: Seen, asked: Tensor | None, theirs: Seen, test: Labelled, names: Sequence[str]) -> dict[str, Any]:
    """How often the class asked for is seen, overall and for each class, beside the same for real test pictures.

    `mistaken_for` is the most frequent wrong answer. Without prompts only the real accuracy and the classes seen are told.
    """
    seen, real = ours.logits.argmax(1), theirs.logits.argmax(1) == test.labels
    table = []
    for c, name in enumerate(names):
        row: dict[str, Any] = {"class": name, "real": _mean(real[test.labels == c]), "seen": int((seen == c).sum())}
        if asked is not None:
            here = seen[asked == c]
            wrong = here[here != c]
            row |= {
                "asked": len(here),
                "recognised": int((here == c).sum()),
                "mistaken_for": names[int(wrong.mode().values)] if len(wrong) else "",
            }
        table.append(row)
    rate = None if asked is None else _mean(seen == asked)
    return {"rate": rate, "real": _mean(real), "classes": table}


def _copies(found: copying.Copies) -> dict[str, Any]:
    return {
        "fraction": found.fraction, "expected": copying.PERCENTILE / 100, "threshold": found.threshold,
        "median": found.median, "held_out_median": found.held_out_median,
    }  # fmt: skip


def _mean(flags: Tensor) -> float | None:
    return flags.double().mean().item() if len(flags) else None
