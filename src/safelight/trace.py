"""Trace: the recording of a run. Live view, scrubbing, GIF, comparing, forking and explaining all read traces."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from safelight.files import atomic
from safelight.generate import Event, Finished, Started, Stepped
from safelight.interop.checkpoint import raw_header
from safelight.model import own_header
from safelight.process import Level
from safelight.sample import State
from safelight.spec import SpecError, describe, parse
from safelight.task import Request

FORMAT = 1
_KEY = "safelight"
# What the names of a trace's tensors begin with: x/K, x0/K, part/BRANCH/K, state/NAME/K, pictures. Others are somebody else's.
_KEPT = ("x", "x0", "part", "state", "pictures")


class Moment(NamedTuple):
    """What is known of step k without reading a tensor. t, alpha, sigma: of the level it began at. milliseconds: wall time."""

    k: int
    t: float
    alpha: float
    sigma: float
    milliseconds: float


class Recorder:
    """Collects the events of a run into a Trace.

    exact: keep x, x0, the solver's state and (with `branches`) every guided branch in float32, so that a step can be recomputed
    and the run forked exactly; otherwise x and x0 are kept in float16, for looking at. Cost: (2 + branches) tensors a step.
    """

    def __init__(self, *, exact: bool = True, branches: bool = False) -> None:
        self.exact, self.branches = exact, branches
        self.request: Request | None = None
        self._levels: tuple[Level, ...] = ()
        self._ms: dict[int, float] = {}
        self._parts: dict[str, list[Tensor]] = {}
        self._floats: dict[int, dict[str, float]] = {}
        self._prompts: list[str] = []

    def see(self, event: Event) -> None:
        """Take in the next event of `generate`. Raises SpecError for runs of several stages, which record a trace a stage."""
        if isinstance(event, Started):
            if event.stage:
                raise SpecError("a trace holds one stage; give each stage of this run its own Recorder")
            self.request, self._levels = event.request, event.levels
            self._put(f"x/{event.first}", event.x)
            self._remember(event.state or {}, event.first)
        elif isinstance(event, Stepped):
            step = event.step
            self._ms[step.i] = self._ms.get(step.i, 0.0) + event.milliseconds
            self._put(f"x/{step.i + 1}", step.x)
            self._put(f"x0/{step.i}", step.estimate.x0)
            if self.branches:
                for name, x0 in step.estimate.parts.items():
                    self._put(f"part/{name}/{step.i}", x0)
            self._remember(step.state, step.i + 1)
        elif isinstance(event, Finished):
            self._prompts += event.prompts
            self._put("pictures", event.pictures)

    def take_up(self, trace: Trace, k: int, *, done: int = 0, rows: slice = slice(None)) -> None:
        """Go on with a recording, before the first event: a run that goes on is then recorded as one that was never interrupted.

        k: of the pictures not yet finished, what came before step k is taken; x and the solver's memory there come with `Started`.
        done: so many pictures are finished, and taken whole. rows: which pictures of the recording are gone on with.
        """
        self.request, self._levels = trace.request, tuple(trace.levels)
        self._ms = {m.k: m.milliseconds for m in trace.steps if m.k < k or done}
        self._prompts = list(trace.prompts[rows][:done])
        for name in trace.names:
            what, _, step = name.partition("/")[0], *name.rpartition("/")[1:]
            if (what == "part" and not self.branches) or (what == "state" and not self.exact) or what not in _KEPT:
                continue
            kept = trace.tensor(name)[rows]
            if what == "pictures" or int(step) >= k:
                kept = kept[:done]
            if len(kept):
                self._put(name, kept)
        if self.exact:
            told = {int(step): named for step, named in trace.about["state"].items()}
            self._floats = {i: {n: float(v) for n, v in named.items()} for i, named in told.items() if i < k or done}

    def _remember(self, state: State, k: int) -> None:
        """Keep the solver's memory before step k."""
        for name, value in state.items() if self.exact else ():
            if isinstance(value, Tensor):
                self._put(f"state/{name}/{k}", value)
            else:
                self._floats.setdefault(k, {})[name] = float(value)

    def _put(self, name: str, value: Tensor) -> None:
        wide = self.exact or name == "pictures"
        self._parts.setdefault(name, []).append(value.detach().to("cpu", torch.float32 if wide else torch.float16, copy=True))

    def trace(self) -> Trace:
        """The trace of what was seen so far, in memory. Raises SpecError before the first event."""
        if self.request is None:
            raise SpecError("nothing was recorded: the run has not begun")
        about = {
            "format": FORMAT,
            "what": "trace",
            "exact": self.exact,
            "request": describe(self.request),
            "prompts": self._prompts,
            "levels": [[float(v.t), float(v.alpha), float(v.sigma)] for v in self._levels],
            "milliseconds": {str(k): ms for k, ms in self._ms.items()},
            # As text: a solver may remember an infinity, which JSON has no number for.
            "state": {str(k): {name: repr(value) for name, value in v.items()} for k, v in self._floats.items()},
        }
        return Trace(about, {name: torch.cat(parts) for name, parts in self._parts.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as one file, whole or not at all."""
        self.trace().save(path)


class Trace:
    """A recorded run. Opened from a file, tensors are read when asked for, one at a time."""

    def __init__(self, about: dict[str, Any], tensors: dict[str, Tensor] | Path) -> None:
        self.about = about
        self._tensors = tensors
        self._names = set(tensors) if isinstance(tensors, dict) else set(raw_header(tensors)) - {"__metadata__"}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """A trace from its file; reads the header only. Raises SpecError for files of another kind."""
        file = Path(path)
        found = own_header(file)
        if found.get("what") != "trace":
            raise SpecError(f"{file} is not a trace")
        if found["format"] > FORMAT:
            raise SpecError(f"{file} has trace format {found['format']}, this version reads up to {FORMAT}: update safelight")
        return cls(found, file)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as one file, whole or not at all."""
        tensors = {name: self._get(name) for name in sorted(self._names)}
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(self.about, allow_nan=False)})

    @cached_property
    def request(self) -> Request:
        """The request, fully resolved."""
        spec = parse(self.about["request"], "request")
        assert isinstance(spec, Request)
        return spec

    @cached_property
    def levels(self) -> list[Level]:
        """The n + 1 levels of the run."""
        return [Level(*torch.tensor(v, dtype=torch.float64)) for v in self.about["levels"]]

    @property
    def prompts(self) -> Sequence[str]:
        """The prompt of each picture."""
        return self.about["prompts"]

    @property
    def steps(self) -> list[Moment]:
        """The recorded steps, in order."""
        levels, spent = self.about["levels"], {int(k): float(ms) for k, ms in self.about["milliseconds"].items()}
        return [Moment(k, levels[k][0], levels[k][1], levels[k][2], spent[k]) for k in sorted(spent)]

    @property
    def branches(self) -> list[str]:
        """The names of the recorded guidance branches."""
        return sorted({name.split("/")[1] for name in self._names if name.startswith("part/")})

    @property
    def names(self) -> list[str]:
        """The names of all its tensors."""
        return sorted(self._names)

    def tensor(self, name: str) -> Tensor:
        """A tensor by its full name. Raises SpecError for one that there is not."""
        return self._get(name)

    def holds(self, name: str) -> bool:
        """Whether a tensor of this full name was recorded: `x/K`, `x0/K`, `part/NAME/K`, `pictures`."""
        return name in self._names

    def x(self, k: int) -> Tensor:
        """(B, C, *space) x before step k; k = n is the result."""
        return self._get(f"x/{k}")

    def x0(self, k: int) -> Tensor:
        """What was believed at step k."""
        return self._get(f"x0/{k}")

    def part(self, name: str, k: int) -> Tensor:
        """The x0 of one guidance branch at step k."""
        return self._get(f"part/{name}/{k}")

    @property
    def pictures(self) -> Tensor:
        """(B, C, H, W) the finished pictures."""
        return self._get("pictures")

    def state(self, k: int) -> State:
        """The solver's memory before step k. Raises SpecError for a trace of previews only."""
        if not self.about["exact"]:
            raise SpecError("this trace holds previews only; record it with exact=True to go on from a step")
        tensors = {n.split("/")[1]: self._get(n) for n in self._names if n.startswith("state/") and n.endswith(f"/{k}")}
        found: dict[str, Tensor | float] = {
            **tensors,
            **{name: float(text) for name, text in self.about["state"].get(str(k), {}).items()},
        }
        if not found and k == min((m.k for m in self.steps), default=0):  # begun here, by a solver with no memory yet
            solver = self.request.solver
            return {} if solver is None else solver.start(len(self.levels) - 1)
        return found

    def _get(self, name: str) -> Tensor:
        if name not in self._names:
            raise SpecError(
                f"the trace does not hold '{name}' (steps {self.steps[0].k}..{self.steps[-1].k})"
                if self.steps
                else f"the trace does not hold '{name}'"
            )
        if isinstance(self._tensors, dict):
            return self._tensors[name]
        with safe_open(self._tensors, framework="pt", device="cpu") as file:
            return file.get_tensor(name)
