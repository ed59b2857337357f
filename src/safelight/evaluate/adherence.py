"""Does a text-to-image model show what it is asked for? Prompts whose truth is known, graded by rules and by the judge.

    for event in adherence(OfModel(model, plan), Checker(judge), plan): ...      # Painted after every batch; the last is a Report

Background, count, colour and relation are checked by rules (data/scenes/adherence.py), concept and style by the judge
(scene_classifier.py). Beside every rate stands what composed pictures of the same scenes get: the checkers' own rate.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from safelight.codec.pixels import Pixels
from safelight.data.scenes.adherence import Matcher, Verdict, check
from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.prompts import asked
from safelight.data.scenes.splits import Split
from safelight.draw.pixels import to_bytes
from safelight.evaluate.designs import Designs, Gallery, designs
from safelight.evaluate.scene_classifier import Judge, Judged, confusions
from safelight.files import atomic
from safelight.generate import Finished, generate
from safelight.guide.cfg import CFG
from safelight.model import Model
from safelight.spec import Spec, SpecError, describe
from safelight.task import Request

FORMAT = 1
Z95 = 1.959963984540054
SEEN_CELLS, HELD_CELLS = "concept, seen cells", "concept, held-out cells"
# What the model that ships has to reach on held-out prompts, at its best guidance scale.
BARS: Final = {"background": 0.98, SEEN_CELLS: 0.85, HELD_CELLS: 0.70, "count": 0.75, "relation": 0.75, "colour": 0.80}
# The aspects of one picture, in the order of the marks under it.
MARKS: Final = ("background", "concept", "count", "relation", "colour")
# Noise of the parts does not meet: picture i of a part draws (seed, offset + i).
_OFFSET = {"held": 0, "seen": 1_000_000, "curve": 2_000_000}


class Rate(NamedTuple):
    """right of n, and its Wilson interval."""

    right: int
    n: int

    @property
    def rate(self) -> float:
        """right / n; nan of nothing."""
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson (1927), eq. of the score test; (0, 1) of nothing."""
        return wilson(self.right, self.n)

    def json(self) -> dict[str, Any]:
        low, high = self.interval
        return {"right": self.right, "n": self.n, "rate": self.rate if self.n else None, "low": low, "high": high}


def wilson(right: int, n: int, z: float = Z95) -> tuple[float, float]:
    """(p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n), p = right / n: stays in [0, 1], also at 0 and n of n."""
    if not n:
        return 0.0, 1.0
    p, k = right / n, z * z / n
    half = math.sqrt(p * (1 - p) * k + k * k / 4)
    low, high = (p + k / 2 - half) / (1 + k), (p + k / 2 + half) / (1 + k)
    return (low if right else 0.0), (high if right < n else 1.0)  # exact at the ends, where rounding would not be


class Plan(Spec):
    """How much is asked. prompts: held-out ones (seen parts in combinations never trained, and cells never trained). seen: ones
    of what training draws. curve: held-out ones of another draw, for each of several scales; the best scale is taken from these, so that
    it is not chosen on what it is then reported on. batch: pictures made at a time."""

    prompts: int = Field(1000, ge=1)
    seen: int = Field(500, ge=0)
    curve: int = Field(200, ge=1)
    scales: tuple[float, ...] = Field((1.0, 2.0, 3.0, 4.0, 5.0), min_length=1)
    steps: int | None = Field(None, ge=1)
    batch: int = Field(50, ge=1)
    seed: int = Field(0, ge=0)

    @property
    def pictures(self) -> int:
        """How many are made in all."""
        return self.prompts + self.seen + (self.curve * len(self.scales) if len(self.scales) > 1 else 0)


class Asked(NamedTuple):
    """A part of what is asked: its name, the scenes, and their captions."""

    part: str
    scenes: Scenes
    captions: tuple[str, ...]

    def rows(self, which: slice) -> Asked:
        return Asked(self.part, self.scenes.rows(which), self.captions[which])


class Painter(Protocol):
    """What is measured. `about` says what it is, as JSON: equal ones make equal pictures."""

    @property
    def about(self) -> Mapping[str, Any]: ...

    def __call__(self, asked: Asked, first: int, scale: float) -> Tensor:
        """uint8 (B, 3, H, W), a picture of each caption; the first is number `first` of its part."""
        ...

    def through(self, pictures: Tensor) -> Tensor | None:
        """Pictures (B, 3, H, W) uint8 through its codec and back, since a model paints no finer than that; None without one."""
        ...


class OfModel:
    """Pictures of a model, under its own guidance at the scale asked for."""

    def __init__(self, model: Model, plan: Plan, weights: str = "") -> None:
        if model.text is None or model.spec.channels != 3:
            raise SpecError("adherence is measured on a text-to-image model of colour pictures; this one is not")
        self.model, self.plan = model, plan
        own = describe(Request(prompt=("",), steps=plan.steps).resolve(model), family=False)
        names = ("steps", "sampler", "grid", "mix", "bends")
        self.about = {"model": model.fingerprint, "weights": weights, "seed": plan.seed, **{name: own[name] for name in names}}

    def request(self, captions: tuple[str, ...], part: str, first: int, scale: float) -> Request:
        """What is asked of the model."""
        mix = self.about["mix"]
        mix = {**mix, "scale": scale} if "scale" in mix else describe(CFG(scale=scale), family=False)
        fields = {
            "prompt": captions,
            "seed": self.plan.seed,
            "index": _OFFSET[part] + first,
            "steps": self.plan.steps,
            "mix": mix,
        }
        return Request.model_validate(fields)

    def __call__(self, asked: Asked, first: int, scale: float) -> Tensor:
        parts = []
        for event in generate(self.model, self.request(asked.captions, asked.part, first, scale)):
            if isinstance(event, Finished):
                parts.append(_bytes(event.pictures))
        return torch.cat(parts)

    @torch.no_grad()
    def through(self, pictures: Tensor) -> Tensor | None:
        codec, device = self.model.codec, self.model.device
        if isinstance(codec, Pixels):
            return None
        parts = (part.to(device).float() / 127.5 - 1 for part in pictures.split(self.plan.batch))
        return torch.cat([_bytes(codec.decode(codec.encode(x))) for x in parts])


class OfComposer:
    """Controls. Perfect: the composed picture of every prompt. Shuffled: the composed pictures of a batch in another order, which
    is the level of chance."""

    def __init__(self, composer: Composer, *, shuffled: bool = False) -> None:
        self.composer, self.shuffled = composer, shuffled
        self.about = {"model": "composer, prompts shuffled" if shuffled else "composer"}

    def shown(self, scenes: Scenes, first: int) -> Scenes:
        """What is painted where `scenes` are asked, of which the first is number `first`."""
        if not self.shuffled:
            return scenes
        ring = torch.randperm(len(scenes.template), generator=torch.Generator().manual_seed(first))
        order = torch.empty_like(ring).scatter_(0, ring, ring.roll(1))  # none stays where it was
        return scenes.rows(order.to(scenes.template.device))

    def __call__(self, asked: Asked, first: int, scale: float) -> Tensor:
        return self.composer.render(self.shown(asked.scenes, first)).cpu()

    def through(self, pictures: Tensor) -> Tensor | None:
        return None


def _bytes(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> uint8, as they would be saved."""
    return torch.from_numpy(to_bytes(pictures, "generated").transpose(0, 3, 1, 2).copy())


class Graded(NamedTuple):
    """verdicts: by aspect, (B,) or for things (B, 2); judged: what the judge saw."""

    verdicts: dict[str, Verdict]
    judged: Judged

    def rates(self) -> dict[str, Rate]:
        """right of n, by aspect."""
        return {name: Rate(int((v.right & v.applies).sum()), int(v.applies.sum())) for name, v in self.verdicts.items()}


class Checker:
    """Rules, judge and gallery of training sprites."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.composer = judge, judge.composer
        self.matcher = Matcher(self.composer.pack, self.composer.device)
        self.gallery = Gallery(self.composer)

    def grade(self, pictures: Tensor, scenes: Scenes) -> Graded:
        """Verdicts on pictures (B, 3, H, W) uint8, one for each of `scenes`.

        concept counts things, of which a relation has two; its two groups part them by whether training shows the (concept,
        style) asked for. colour: of painted things (that of "a red apple" is part of its concept). style: of the drawing of all
        things together. everything: all that was asked for is right, style left aside.
        """
        report = check(self.composer, pictures, scenes, self.matcher).aspects()
        report["colour"] = Verdict(report["colour"].right, scenes.colour[:, 0] >= 0)
        judged = self.judge.look(pictures, scenes)
        thing = scenes.concept >= 0  # (B, 2)
        held = self.composer.held.cell[scenes.sprite.clamp(min=0)]
        concept = Verdict(judged.right, thing)
        every = (judged.right | ~thing).all(1)
        for name in ("background", "count", "relation", "colour"):
            every &= report[name].right | ~report[name].applies
        whole = torch.ones_like(every)
        verdicts = {
            "background": report["background"],
            "concept": concept,
            SEEN_CELLS: Verdict(judged.right, thing & ~held),
            HELD_CELLS: Verdict(judged.right, thing & held),
            "count": report["count"],
            "relation": report["relation"],
            "colour": report["colour"],
            "style": Verdict(judged.style == scenes.style, whole),
            "everything": Verdict(every, whole),
        }
        return Graded({name: Verdict(v.right.cpu(), v.applies.cpu()) for name, v in verdicts.items()}, judged)


class Part(NamedTuple):
    """What was asked, what came, and how it was graded. own: the grades of composed pictures of the same scenes; codec: of those
    through the model's codec, empty without one."""

    asked: Asked
    pictures: Tensor
    graded: Graded
    own: dict[str, Rate]
    codec: dict[str, Rate]

    def rows(self) -> dict[str, dict[str, Any]]:
        """Each aspect that was asked for: its rate with interval, and the checkers' own rates."""
        return {
            name: {
                **rate.json(),
                "own": self.own[name].rate,
                "codec": self.codec[name].rate if self.codec else None,
            }
            for name, rate in self.graded.rates().items()
            if rate.n
        }

    def marks(self) -> list[tuple[bool | None, ...]]:
        """For each picture, in the order of MARKS: right, wrong, or None where it was not asked for."""
        columns = []
        for name in MARKS:
            verdict = self.graded.verdicts[name]
            right, applies = verdict.right, verdict.applies
            if right.ndim == 2:  # things: all of a picture's
                right, applies = (right | ~applies).all(1), applies.any(1)
            columns.append([r if a else None for r, a in zip(right.tolist(), applies.tolist(), strict=True)])
        return list(zip(*columns, strict=True))


class Painted(NamedTuple):
    """A batch is there: how many pictures so far, of how many, and how many of them were kept from an earlier run."""

    done: int
    total: int
    kept: int


class Report(NamedTuple):
    """numbers: the result, as JSON takes it. held, seen: at the best scale. designs: the copies among held's and seen's."""

    numbers: dict[str, Any]
    held: Part
    seen: Part | None
    designs: dict[str, Designs]
    best: float


class Shelf:
    """Pictures kept between runs: a batch is made again only when what made it has changed."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def fetch(self, name: str, seal: str) -> Tensor | None:
        """The pictures of that name, if they are there and of that seal."""
        path = self.folder / f"{name}.npz" if self.folder else None
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path) as kept:
                return torch.from_numpy(kept["pictures"]) if str(kept["seal"]) == seal else None
        except (OSError, ValueError, KeyError, BadZipFile):  # cut short, or of another making: it is made again
            return None

    def put(self, name: str, seal: str, pictures: Tensor) -> None:
        """Keep them, whole or not at all."""
        if self.folder:
            with atomic(self.folder / f"{name}.npz") as path:
                np.savez_compressed(path, pictures=pictures.numpy(), seal=np.array(seal))


def prompts(composer: Composer, part: str, count: int, seed: int) -> Asked:
    """What is asked in a part: `held` and `curve` from what training never shows, `seen` from what it does."""
    scenes = asked(composer, count, seed + 1 if part == "curve" else seed, Split.TEXT if part == "seen" else Split.HELD)
    return Asked(part, scenes, tuple(Phrases(composer.pack.nouns, composer.device).captions(scenes)))


def adherence(paint: Painter, checker: Checker, plan: Plan, keep: Path | None = None) -> Iterator[Painted | Report]:
    """Measure it: the curve over scales first, then everything at the best of them.

    keep: a folder for the pictures as they come; a run that was stopped goes on from there. Yields `Painted` after every batch and one
    `Report` at the end. Raises SpecError where the vocabulary holds out too little, or the painter refuses.
    """
    began, composer, shelf = time.perf_counter(), checker.composer, Shelf(keep)
    done = kept = 0
    sets = {"held": prompts(composer, "held", plan.prompts, plan.seed)}
    if plan.seen:
        sets["seen"] = prompts(composer, "seen", plan.seen, plan.seed)
    if len(plan.scales) > 1:
        sets["curve"] = prompts(composer, "curve", plan.curve, plan.seed)
    own: dict[str, dict[str, Rate]] = {}
    codec: dict[str, dict[str, Rate]] = {}
    for name, part in sets.items():
        pictures = composer.render(part.scenes).cpu()
        own[name] = checker.grade(pictures, part.scenes).rates()
        again = None if name == "curve" else paint.through(pictures)
        codec[name] = {} if again is None else checker.grade(again, part.scenes).rates()

    def paint_all(part: Asked, scale: float) -> Iterator[Painted | Part]:
        nonlocal done, kept
        parts = []
        for first in range(0, len(part.captions), plan.batch):
            rows = part.rows(slice(first, first + plan.batch))
            name = f"{part.part}-{scale:g}-{first:05d}"
            what = json.dumps([paint.about, scale, first, rows.captions], sort_keys=True)
            seal = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
            pictures = shelf.fetch(name, seal)
            if pictures is None:
                pictures = paint(rows, first, scale)
                _fits(pictures, len(rows.captions), composer.size)
                shelf.put(name, seal, pictures)
            else:
                kept += len(pictures)
            parts.append(pictures)
            done += len(pictures)
            yield Painted(done, plan.pictures, kept)
        whole = torch.cat(parts)
        yield Part(part, whole, checker.grade(whole, part.scenes), own[part.part], codec[part.part])

    curve: list[dict[str, Any]] = []
    best = plan.scales[0]
    if "curve" in sets:
        for scale in plan.scales:
            for event in paint_all(sets["curve"], scale):
                if isinstance(event, Part):
                    curve.append({"scale": scale, "mean": mean(event), "rates": event.rows()})
                else:
                    yield event
        best = max(curve, key=lambda row: row["mean"])["scale"]
    finished: dict[str, Part] = {}
    for name in ("held", "seen"):
        for event in paint_all(sets[name], best) if name in sets else ():
            if isinstance(event, Part):
                finished[name] = event
            else:
                yield event
    found = {name: designs(checker.gallery, part.pictures, part.asked.scenes) for name, part in finished.items()}
    copied = {name: d for name, d in found.items() if d is not None}
    eye = checker.judge.eye
    numbers: dict[str, Any] = {
        "format": FORMAT,
        "what": "adherence",
        "painter": dict(paint.about),
        "plan": describe(plan, family=False),
        "vocabulary": {"concepts": len(composer.pack.nouns), "sprites": len(composer.pack.sprites)},
        "judge": {"name": eye.lineage.get("name", ""), "hash": eye.fingerprint, "exam": eye.lineage.get("exam", {})},
        "curve": curve,
        "scale": best,
        **{name: part.rows() for name, part in finished.items()},
        "distinct": {name: len(set(part.asked.captions)) for name, part in finished.items()},
        "bars": BARS,
        "confused": [
            {"concept": c, "wrong": w, "of": n, "taken_for": o}
            for c, w, n, o in confusions(checker.judge, finished["held"].graded.judged, sets["held"].scenes)
        ],
        "copies": {name: _copied(d) for name, d in copied.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }
    yield Report(numbers, finished["held"], finished.get("seen"), copied, best)


def mean(part: Part) -> float:
    """The mean of the rates that have a bar: what the best scale is chosen by."""
    rates = [rate.rate for name, rate in part.graded.rates().items() if name in BARS and rate.n]
    return sum(rates) / len(rates)


def _fits(pictures: Tensor, n: int, size: int) -> None:
    if pictures.dtype != torch.uint8 or tuple(pictures.shape) != (n, 3, size, size):
        raise SpecError(f"adherence is checked on {n} pictures of 3x{size}x{size} bytes here, not {tuple(pictures.shape)}")


def _copied(found: Designs) -> dict[str, Any]:
    ours, real = found.copies, found.real
    return {
        "n": len(found.rows), "fraction": ours.fraction, "threshold": ours.threshold, "median": ours.median,
        "real": {"fraction": real.fraction, "median": real.median}, "other_designs": {"median": ours.held_out_median},
        "unit": "rms grey levels of cut-outs, over shift, size and ground",
    }  # fmt: skip


def table(numbers: Mapping[str, Any]) -> str:
    """The result as Markdown, for a screen and for a model's card. Rendered from the JSON and nothing else."""
    seen = numbers.get("seen")
    lines = ["| asked for | held-out prompts | bar | seen prompts | composed pictures | through the codec |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, row in numbers["held"].items():
        bar = numbers["bars"].get(name)
        other = _share(seen[name]) if seen and name in seen else ""
        mark = "" if bar is None else f">= {100 * bar:.0f} % {'met' if row['rate'] >= bar else 'missed'}"
        lines.append(f"| {name} | **{_share(row)}** | {mark} | {other} | {_percent(row['own'])} | {_percent(row['codec'])} |")
    for name, bar in numbers["bars"].items():
        if name not in numbers["held"]:  # nothing asked is nothing met, and is seen
            lines.append(f"| {name} | none asked | >= {100 * bar:.0f} % not measured | | | |")
    plan, judge = numbers["plan"], numbers["judge"]
    exam = judge["exam"].get("all")
    known = f", right on {100 * exam['right'] / exam['n']:.1f} % of {exam['n']:,} things in scenes it never saw" if exam else ""
    text = [
        "\n".join(lines),
        f"Guidance scale {numbers['scale']:g}, {plan['prompts']:,} held-out prompts ({numbers['distinct']['held']:,} of them distinct) "
        f"and {plan['seen']:,} seen ones, of {numbers['vocabulary']['concepts']} concepts, seed {plan['seed']}; "
        "in brackets 95 % intervals (Wilson). `everything` is all of it at once, style aside. The last columns are the checkers' "
        f"own rates. Judge `{judge['hash']}`{known}.",
    ]
    if numbers["curve"]:
        names = [name for name in numbers["bars"] if name in numbers["curve"][0]["rates"]]
        rows = [f"| scale | {' | '.join(names)} | mean |", "|---:|" + "---:|" * (len(names) + 1)]
        for row in numbers["curve"]:
            cells = (_percent(row["rates"][name]["rate"]) for name in names)
            rows.append(f"| {row['scale']:g} | {' | '.join(cells)} | {_percent(row['mean'])} |")
        text.append("\n".join(rows))
    for name, row in numbers["copies"].items():
        text.append(
            f"Copies, {name} prompts: {_percent(row['fraction'])} of {row['n']} pictures of one thing are nearer to a training "
            f"sprite than 99 % of real drawings are to another design's (nearer than {row['threshold']:.1f} grey levels); composed "
            f"pictures: {_percent(row['real']['fraction'])}. Median distance {row['median']:.1f}, composed {row['real']['median']:.1f}, "
            f"other designs {row['other_designs']['median']:.1f}."
        )
    return "\n\n".join(text)


def _share(row: Mapping[str, Any]) -> str:
    return f"{_percent(row['rate'])} of {row['n']:,} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
