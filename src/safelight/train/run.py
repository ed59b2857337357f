"""fit: a whole training run in a folder of its own, from its description alone.

DIR/run.json          what was asked (the whole recipe), with which versions, on what, with which data and seed
DIR/metrics.jsonl     losses, rates and held-out losses, one line a log step
DIR/skipped.jsonl     steps that were not finite, with their pictures and times; only when there were any
DIR/checkpoints/      see checkpoint.py
DIR/samples/          pictures on the way, by whoever runs this
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple, cast

import torch
from pydantic import BeforeValidator, Field, PlainSerializer

import safelight
from safelight import data as store
from safelight import device as machine
from safelight import model as files
from safelight.data import Crop, DataError, Fit, Pictures, Source, Stream
from safelight.data.composed import ScenesSource
from safelight.discrete.model import TokensSpec
from safelight.files import atomic_bytes
from safelight.model import Model, ModelSpec
from safelight.process.tables import Table
from safelight.spec import Spec, SpecError, describe, parse
from safelight.text.joint import JointSpec
from safelight.train import checkpoint
from safelight.train.feed import seen, words
from safelight.train.held import Jury
from safelight.train.journal import Journal
from safelight.train.keys import keyed
from safelight.train.loop import Report, begin, check, train
from safelight.train.objective import Match, Objective
from safelight.train.plan import Plan
from safelight.train.state import TrainState

# What may differ between a run and its resumption: nothing here changes a weight of a step that is already planned, but for how long
# the run is. The data may have moved; that they are the same is checked by their fingerprint.
_FREE = (
    "name",
    "notes",
    "reproduced",
    "workers",
    "memory",
    "data.path",
    "held_out_data.path",
    "plan.steps",
    "plan.epochs",
    "plan.images",
    "plan.every",
    "plan.keep",
    "plan.patience",
    "model.defaults",
    "prompts",
    "start",
)


def _learner(value: Any) -> Any:
    """A joint model and one of tokens say so by their kind; whatever does not is a model."""
    if isinstance(value, Mapping):
        others: dict[Any, type[Spec]] = {spec.kind: spec for spec in (JointSpec, TokensSpec)}
        return others.get(value.get("kind"), ModelSpec).model_validate(value)
    return value


def _told(spec: ModelSpec | JointSpec | TokensSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json") if isinstance(spec, ModelSpec) else describe(spec, family=False)


# What a run trains. All have channels and a size; beyond these an objective asks of its model what it needs.
Learner = Annotated[ModelSpec | JointSpec | TokensSpec, BeforeValidator(_learner), PlainSerializer(_told)]


class Train(Spec, family="train", kind="train"):
    """A training run, described in full: `fit(train, folder)` runs it.

    model: a model, or with `kind: joint` the pair of towers that puts texts and pictures into one space (objective `contrastive`), or
    with `kind: tokens` a model of tokens (objectives `token-bound` and `token-cross-entropy`).
    data: the pictures; they are brought to the model's size by `fit`. held_out: the part of them kept for the held-out loss, chosen by
    content; held_out_data: pictures for it from elsewhere instead. workers: threads that decode pictures. memory: whether decoded
    pictures are kept. reproduced: numbers this recipe reached here, by name.
    start: parts of the model that begin as those of a trained one, by name: `{codec: runs/sprites-vae}`; the others begin fresh.
    prompts: of the pictures on the way, for models that have no list of classes.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    notes: str = ""
    model: Learner
    data: Source
    fit: Fit = Crop()
    held_out: float = Field(0.0, ge=0, lt=1)
    held_out_data: Source | None = None
    objective: Objective = Match()
    plan: Plan
    workers: int = Field(0, ge=0, le=64)
    memory: Literal["auto", "always", "never"] = "auto"
    reproduced: dict[str, float | str] = {}
    start: dict[Literal["codec", "text", "denoiser"], str] = {}
    prompts: tuple[str, ...] = ()


class Run:
    """A run in progress. Iterate over it; at every Report it stands at a step's end and may be saved or left.

    model, state: live; `state.snapshot(model)` is a copy to look at. data, held_out: the pictures. notes: said while it was built.
    """

    def __init__(self, recipe: Train, out: Path, *, resume: bool, device: torch.device) -> None:
        self.recipe, self.out, self.device = recipe, out, device
        self.notes: list[str] = []
        self.metrics = Journal(out / "metrics.jsonl")
        self._skipped = Journal(out / "skipped.jsonl")
        self._lock: IO[str] | None = None
        self._parents: dict[str, str] = {}
        self.model, self.state, self.data, self.held_out = ready(recipe, device, resume=resume)
        if resume:
            self._take_up()
        else:
            self._set_up()

    @property
    def steps(self) -> int:
        """The run's length in optimizer steps."""
        return self.recipe.plan.length(self.data.n)

    def __iter__(self) -> Iterator[Report]:
        """Train to the end. Raises SpecError in one line when the run cannot go on: a full disk, Diverged, unfit data."""
        recipe = self.recipe
        reports = train(self.model, self.data, recipe.plan, self.state, objective=recipe.objective, held_out=self.held_out)
        try:
            for report in reports:
                for broken in report.broken:
                    self._skipped.write(broken._asdict())
                if report.metrics:
                    self.metrics.write({"step": report.step, "time": round(time.time(), 1), **report.metrics})
                if report.save:
                    self.save()
                yield report
        finally:
            reports.close()
            if self._lock is not None:
                self._lock.close()

    def save(self) -> Path:
        """Write a checkpoint of this moment. Raises checkpoint.Unwritable on a full disk; the earlier ones stay."""
        return checkpoint.write(self.out, self.model, self.state, keep=self.recipe.plan.keep, lineage=self.lineage())

    def lineage(self) -> dict[str, Any]:
        """How the weights came to be; goes into every model file. No path of this machine is in it."""
        recipe = self.recipe
        # A stream's words are few, and what a prompt is checked against.
        return {
            "recipe": recipe.name,
            "plan": describe(recipe.plan),
            "objective": describe(recipe.objective),
            "data": {"kind": recipe.data.kind, "pictures": self.data.n, "fingerprint": self.data.fingerprint},
            "step": self.state.step,
            "images": self.state.seen,
            "held_out": self.state.history[-1].loss if self.state.history else None,
            "start": self._parents,
            # Scenes are told whole, as they have no path: what a model of them knows can be asked again.
            **({"scenes": describe(recipe.data)} if isinstance(recipe.data, ScenesSource) else {}),
            "code": f"safelight {safelight.__version__}",
        } | ({"vocabulary": self.data.words} if isinstance(self.data, Stream) else {})

    def _set_up(self) -> None:
        vacant(self.out)
        self._hold()
        self._parents = {part: files.fingerprint(files.locate(name)) for part, name in self.recipe.start.items()}
        try:
            (self.out / "samples").mkdir(exist_ok=True)
            self._note_down({})
        except OSError as error:
            raise checkpoint.Unwritable(f"{self.out}: {checkpoint.reason(error)}") from None

    def _take_up(self) -> None:
        before = about(self.out)
        same_recipe(before["recipe"], describe(self.recipe))
        self._hold()
        self._parents = before.get("start", {})
        old = before["data"]["fingerprint"]
        if old != self.data.fingerprint:
            raise SpecError(
                f"the data are not those of the run in {self.out}: {before['data']['pictures']:,} pictures then, {self.data.n:,} now, or "
                "other names, order or captions; a resumed run must see the same"
            )
        checkpoint.sweep(self.out)
        path, notes = checkpoint.newest(self.out)
        self.notes += notes
        if path is None:
            self.notes.append(f"{self.out} has no whole checkpoint yet: starting from step 0")
        else:
            self.state = checkpoint.read(path, self.model, self.recipe.plan, self.recipe.objective, self.state.guard.scaling)
            atomic_bytes(path.parent / "LATEST", f"{path.name}\n".encode())
        self.metrics.trim(self.state.step)
        self._skipped.trim(self.state.step)
        here = machine.title(self.device)
        if here != before["hardware"]["device"]:
            self.notes.append(
                f"this run began on {before['hardware']['device']}, it goes on on {here}: not bit for bit the same"
            )
        self._note_down(before)

    def _note_down(self, before: Mapping[str, Any]) -> None:
        record = facts(self) | {
            "start": self._parents,
            "sessions": [*before.get("sessions", []), {"began": _now(), "step": self.state.step}],
        }
        atomic_bytes(self.out / "run.json", (json.dumps(record, indent=1) + "\n").encode())

    def _hold(self) -> None:
        """Take the folder for this process; the system gives it back when the process ends, however it ends."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock = (self.out / ".lock").open("w")
        except OSError as error:
            raise checkpoint.Unwritable(f"{self.out}: {checkpoint.reason(error)}") from None
        with contextlib.suppress(ImportError):  # no fcntl on Windows
            import fcntl

            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SpecError(f"{self.out}: another process is training here") from None


def fit(recipe: Train, out: str | Path, *, resume: bool = False, device: str | torch.device = "auto") -> Run:
    """Begin, or with `resume` go on with, the run that `recipe` describes, in folder `out`. Iterate over the result to train.

    device: "auto", "cpu", ... Raises SpecError in one line for data that are missing or do not fit, a folder that holds a run already
    (without resume) or none (with it), and a recipe that differs from the run's in more than its length and cadences.
    """
    return Run(recipe, Path(out), resume=resume, device=machine.pick(device))


class Ready(NamedTuple):
    """All that a run needs, before its first step: the fresh model, its state, the pictures to train on and those held out."""

    model: Model
    state: TrainState
    data: Pictures | Stream
    held_out: Pictures | None


def ready(recipe: Train, device: torch.device, *, resume: bool = False) -> Ready:
    """What `recipe` describes, with its parts held against each other; nothing is written, so a dry run is this and no more.

    resume: the weights will come from a checkpoint, so those that `recipe.start` names are not asked for.
    Raises SpecError, or DataError, for whatever can be wrong: pictures that are missing or cannot be read, a caption that is no class
    of the model, a step larger than the data, an objective without a held-out loss.
    """
    plan, objective = recipe.plan, recipe.objective
    data, held_out = pictures(recipe, device)
    model = fresh(recipe).to(device)
    if not resume:
        begun(recipe, model)
    check(model, data)
    if plan.per_step > data.n:
        raise SpecError(
            f"plan.batch x plan.accumulation = {plan.per_step:,} is larger than the data ({data.n:,} pictures to train on)"
        )
    words(model, data, torch.device("cpu"))
    if plan.every.sample and not isinstance(recipe.model, ModelSpec):
        raise SpecError(f"plan.every.sample: a '{recipe.model.kind}' makes no pictures on the way; set it to 0")
    guide = recipe.model.defaults.mix if isinstance(recipe.model, ModelSpec) else None
    if guide and plan.every.sample and model.text is None and guide.names != ("cond",):
        raise SpecError(
            f"model.defaults.mix: a model without text leaves guidance '{guide.kind}' nothing to go by; set model.defaults.mix=none"
        )
    state = begin(model, plan, objective)
    if isinstance(recipe.model, TokensSpec):
        for part in (data, held_out):
            if isinstance(part, Pictures):
                recipe.model.alphabet.check(part)
    first = data.batch(torch.zeros(1, dtype=torch.int64))
    objective.draw(model, seen(model, objective, first, channels_last=False), plan.seed, 0)
    if held_out is not None and plan.every.held_out:
        check(model, held_out)
        Jury(model, objective, held_out, data, plan.held, plan.buckets, plan.batch)
    return Ready(model, state, data, held_out)


def vacant(out: Path) -> None:
    """Raise SpecError when the folder holds a run already."""
    if (out / "run.json").exists() or (out / checkpoint.FOLDER).exists():
        raise SpecError(f"{out} holds a run already: go on with it by --resume, or choose another --out")


def begun(recipe: Train, model: Model) -> None:
    """Give `model` the trained parts that `recipe.start` names. Raises SpecError where there are none, or they do not fit."""
    for part, source in recipe.start.items():
        try:
            donor = files.load(source, device=model.device)
        except SpecError as error:
            raise SpecError(f"start.{part}: {error}") from None
        mine, theirs = getattr(model, part, None), getattr(donor, part)
        if mine is None or theirs is None:
            raise SpecError(f"start.{part}: {'this model' if mine is None else source} has no {part}")
        files.fit(mine, theirs.state_dict(), f"start.{part}: {source}")


def pictures(recipe: Train, device: torch.device) -> tuple[Pictures | Stream, Pictures | None]:
    """(training, held out or None). Raises DataError for pictures that are missing or cannot be read."""

    def load(source: Source) -> Pictures:
        model = recipe.model
        return store.load(
            source,
            channels=model.channels,
            size=model.size,
            fit=recipe.fit,
            memory=recipe.memory,
            device=device,
            workers=recipe.workers,
        )

    elsewhere = load(recipe.held_out_data) if recipe.held_out_data is not None else None
    endless = getattr(recipe.data, "stream", None)
    if endless is not None and getattr(recipe.data, "count", None) is None:
        if recipe.held_out:
            raise DataError("held_out: a share of a stream without end is no set; give held_out_data instead")
        stream: Stream = endless(device)
        return stream, elsewhere
    everything = load(recipe.data)
    if elsewhere is not None:
        return everything, elsewhere
    if not recipe.held_out:
        return everything, None
    training, held = store.split(everything, recipe.held_out)
    return everything.subset(training), everything.subset(held)


def fresh(recipe: Train) -> Model:
    """The recipe's model with fresh weights on the CPU: a pure function of plan.seed, on any device."""
    with keyed(torch.device("cpu"), recipe.plan.seed, "weights"):
        return cast(Model, recipe.model.build())  # or a joint model, for an objective that trains one


def about(out: Path) -> dict[str, Any]:
    """A run's run.json. Raises SpecError when the folder holds no run."""
    try:
        found: dict[str, Any] = json.loads((out / "run.json").read_bytes())
    except FileNotFoundError:
        raise SpecError(f"{out} holds no run to resume (no run.json in it)") from None
    except ValueError:
        raise SpecError(f"{out / 'run.json'} is damaged") from None
    return found


def recipe_of(out: Path) -> Train:
    """The recipe of the run in a folder. Raises SpecError when there is none."""
    found = parse(about(out)["recipe"], "train")
    assert isinstance(found, Train)
    return found


def same_recipe(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise SpecError naming the first field in which two recipes differ, beyond those that a resumption may change."""
    for path, (before, now) in _differences(old, new, ""):
        if not any(path == free or path.startswith(free + ".") for free in _FREE):
            raise SpecError(
                f"{path}: the run was begun with {before!r}, not {now!r}; start a new run, or resume with the old value"
            )


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(set(old) | set(new)):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, (old, new)


def facts(run: Run) -> dict[str, Any]:
    """What run.json says of a run."""
    recipe, device = run.recipe, run.device
    precision = recipe.plan.effective(device)
    process = recipe.model.process if isinstance(recipe.model, ModelSpec) else None
    return {
        "format": 1,
        "recipe": describe(recipe),
        "seed": recipe.plan.seed,
        "steps": run.steps,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "precision": {"asked": recipe.plan.precision, "effective": precision.name},
        "terminal_snr": process.terminal_snr if isinstance(process, Table) else None,
        "data": {
            "pictures": run.data.n,
            "held_out": run.held_out.n if run.held_out is not None else 0,
            "fingerprint": run.data.fingerprint,
        },
        "versions": {"safelight": safelight.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "hardware": {"device": machine.title(device), "system": f"{platform.system()} {platform.machine()}"},
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
