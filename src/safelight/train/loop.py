"""train: the only way to train. A generator; whoever runs it owns the progress bar, the pictures, the files and the cancelling."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor

from safelight import device as machine
from safelight.data import Pictures, Stream
from safelight.model import Model
from safelight.nn import Network
from safelight.nn.joined import settle
from safelight.spec import SpecError
from safelight.train.feed import Fed, Words, feed, flipped, seen, words
from safelight.train.guard import BROKEN, OK
from safelight.train.held import Judged, Jury, memorising
from safelight.train.keys import keyed
from safelight.train.objective import Batch, Match, Objective
from safelight.train.plan import Plan, due
from safelight.train.state import TrainState
from safelight.train.times import Importance

# An accelerator is waited for at least so often, in steps, even where nothing is logged.
_LOOK = 256


class Diverged(SpecError):
    """Training stopped: too many steps in a row were not finite. The weights are those of the last good step."""


class Broken(NamedTuple):
    """A step that was skipped: its loss or gradient was not finite.

    ids: of its pictures. t: their times. loss, norm: as they came out. dtype: of the matrix products. overflow: fp16's range was
    exceeded, which loss scaling mends by itself.
    """

    step: int
    ids: tuple[str, ...]
    t: tuple[float, ...]
    loss: float
    norm: float
    dtype: str
    overflow: bool

    def sentence(self) -> str:
        """One line for a person."""
        if self.overflow:
            return f"step {self.step} overflowed fp16 and was skipped; the loss scale is halved"
        what = "gradient" if math.isfinite(self.loss) else "loss"
        some = ", ".join(self.ids[:4]) + (f" and {len(self.ids) - 4} more" if len(self.ids) > 4 else "")
        times = f"{min(self.t):.4f}..{max(self.t):.4f}"
        return f"step {self.step} skipped: its {what} is not finite ({self.dtype}, t = {times}, pictures {some})"


class Report(NamedTuple):
    """What happened in an optimizer step. Made without waiting for an accelerator unless it carries numbers of it.

    step: steps done, of `steps`. seen: pictures. epoch: passes over the data. lr: the rate of this step. metrics: at log and held-out
    steps, under the names of metrics.jsonl. judged: at held-out steps. broken: skipped steps found since the last look. notes:
    sentences a person should read. save, sample: whether the plan wants a checkpoint or pictures now.
    """

    step: int
    steps: int
    seen: int
    epoch: float
    lr: float
    metrics: dict[str, float | str]
    judged: Judged | None
    broken: tuple[Broken, ...]
    notes: tuple[str, ...]
    save: bool
    sample: bool


class _Taken(NamedTuple):
    """A step whose outcome has not been looked at yet: numbers are (loss, norm, verdict), on the device."""

    step: int
    indices: Tensor
    t: Tensor
    numbers: Tensor


def begin(model: Model, plan: Plan, objective: Objective | None = None) -> TrainState:
    """The state before the first step; `train` makes it when it is given none. Raises SpecError for a plan the model cannot follow."""
    objective = objective or Match()
    if isinstance(getattr(objective, "times", None), Importance) and objective.memory(model) is None:
        raise SpecError(f"objective.times: objective '{objective.kind}' remembers no losses, so 'importance' would do nothing")
    for part in objective.parts(model):
        if plan.checkpointing and not isinstance(part, Network):
            raise SpecError(f"plan.checkpointing: {type(part).__name__} has no blocks to checkpoint; leave it false")
    settle(model)  # an optimizer holds on to the parameters that it is given
    scaling = plan.effective(model.device).dtype == torch.float16
    return TrainState(model, plan, objective, scaling)


def train(
    model: Model,
    data: Pictures | Stream,
    plan: Plan,
    state: TrainState | None = None,
    *,
    objective: Objective | None = None,
    held_out: Pictures | None = None,
) -> Generator[Report, None, None]:
    """Train `model`, in place, on its device; yields a Report an optimizer step.

    data: the pictures to learn from, in the model's channels and size. plan: how. state: where to go on from (see `begin` and
    `restore`); it is advanced in place and stands at a step's end at every yield. objective: what is minimised (default: `match`).
    held_out: pictures to judge by and never to learn from.
    Everything random is a pure function of (plan.seed, step), so a resumed run equals an uninterrupted one: bit for bit on a CPU,
    and on an accelerator as far as its kernels are deterministic. Nothing is written; torch's global generators are left as they were.
    Raises SpecError for data that do not fit the model, and Diverged after plan.patience non-finite steps in a row.
    """
    objective = objective or Match()
    check(model, data)
    device, total = model.device, plan.length(data.n)
    precision = plan.effective(device)
    state = begin(model, plan, objective) if state is None else state
    jury = None
    if held_out is not None and plan.every.held_out:
        check(model, held_out)
        jury = Jury(model, objective, held_out, data, plan.held, plan.buckets, plan.batch)
    for part in objective.parts(model):
        if plan.channels_last:
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(part, Network):
            part.checkpointing = plan.checkpointing
        if plan.compile:
            part.compile()
    followed = [buffer for part in objective.parts(model) for buffer in part.buffers()]
    state.align()  # a resumed state has moments already, and the layout may just have changed
    model.train()

    text = words(model, data, device)
    pictures = feed(data, data.order(plan.seed), plan.per_step, state.step, total)
    notes: list[str] = [precision.note] if precision.note else []
    window: list[_Taken] = []
    busy = waited = 0.0
    since = state.step
    while state.step < total:
        began = time.perf_counter()
        fed = next(pictures)
        waited += time.perf_counter() - began
        window.append(_step(model, plan, state, objective, fed, text, followed, precision.dtype, total))

        done = state.step
        log = due(plan.every.log, done, total)
        judge = jury is not None and due(plan.every.held_out, done, total)
        save, sample = due(plan.every.save, done, total) or done == total, due(plan.every.sample, done, total)
        broken: tuple[Broken, ...] = ()
        # Looking at a number costs nothing on a CPU; an accelerator is looked at only when somebody wants to know.
        if device.type == "cpu" or log or judge or save or sample or len(window) >= _LOOK:
            broken = _look(window, state, data, str(precision.dtype).removeprefix("torch."))
            window.clear()
            notes += [b.sentence() for b in broken]
            if not plan.every.log:
                state.tally.clear()
        busy += time.perf_counter() - began
        metrics: dict[str, float | str] = {}
        if log:
            speed = {"images_per_second": (done - since) * plan.per_step / busy, "data_wait": waited / busy}
            metrics |= _metrics(state, plan.lr(done - 1, total), done * plan.per_step / data.n) | speed
            busy = waited = 0.0
            since = done
        judged = None
        if judge and jury is not None:
            judged, note = _judge(jury, model, state)
            metrics |= judged.metrics()
            notes += note
        hopeless = state.bad >= plan.patience
        yield Report(
            step=done,
            steps=total,
            seen=state.seen,
            epoch=done * plan.per_step / data.n,
            lr=plan.lr(done - 1, total),
            metrics=metrics,
            judged=judged,
            broken=broken,
            notes=tuple(notes),
            save=save and not hopeless,
            sample=sample,
        )
        notes.clear()
        if hopeless:
            raise Diverged(
                f"stopped at step {done}: {state.bad} steps in a row were not finite ({precision.name}); the weights are those of step "
                f"{done - state.bad}; lower plan.optimizer.lr, clip the gradient, or train in fp32"
            )
    model.eval()


def _step(
    model: Model,
    plan: Plan,
    state: TrainState,
    objective: Objective,
    fed: Fed,
    text: Words,
    followed: list[Tensor],
    dtype: torch.dtype,
    total: int,
) -> _Taken:
    """One optimizer step, without waiting for the device. The loss is the mean over all of the step's pictures.

    followed: buffers that a forward pass moves (a codec's running scale, its codebook); a step that is skipped gives them back.
    """
    device, step = model.device, state.step
    pixels = flipped(fed.pixels, plan.seed, step) if plan.flips else fed.pixels
    x0 = seen(model, objective, pixels, plan.channels_last)  # (N, c, h, w)
    batch = Batch(x0, text.of(fed.indices), text.null)
    memory = state.memory
    draws = (objective if memory is None else memory).draw(model, x0, plan.seed, step)
    losses, norms, verdicts = [], [], []
    for player, optimizer in zip(state.players, state.optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr(step, total)
        optimizer.zero_grad(set_to_none=True)
        before = [buffer.clone() for buffer in followed]
        loss = torch.zeros((), device=device)
        seen_losses: list[Tensor] = []
        for micro in range(plan.accumulation):
            rows = slice(micro * plan.batch, (micro + 1) * plan.batch)
            with keyed(device, plan.seed, step, micro, "network"):
                with machine.autocast(device, dtype):
                    each = player.loss(model, batch.part(rows), draws.part(rows)).float()  # (B,)
                seen_losses.append(each.detach())
                if draws.weight is not None:
                    each = each * draws.weight[rows].to(each)
                part = each.sum() / plan.per_step
                state.guard.backward(part)
            loss += part.detach()
        if memory is not None:
            memory.saw(draws, torch.cat(seen_losses).tolist())
        verdict, norm = state.guard.step(optimizer, [p for _, p in player.parameters], loss, plan.clip)
        for buffer, old in zip(followed, before, strict=True):
            buffer.copy_(torch.where(verdict == OK, buffer, old))
        losses.append(loss)
        norms.append(norm)
        verdicts.append(verdict)
    state.averages.update()
    state.saw(fed.indices)
    state.step += 1
    worst = torch.stack(verdicts).amax().to(torch.float32)
    numbers = torch.stack([torch.stack(losses).sum(), torch.stack(norms).square().sum().sqrt().to(torch.float32), worst])
    return _Taken(step, fed.indices, draws.t, numbers)


def _look(window: list[_Taken], state: TrainState, data: Pictures | Stream, dtype: str) -> tuple[Broken, ...]:
    """Fetch the outcomes of the steps in `window` (the one wait), count them, and say which were skipped."""
    broken = []
    for taken, (loss, norm, verdict) in zip(window, torch.stack([w.numbers for w in window]).tolist(), strict=True):
        if verdict == OK:
            state.tally.append((loss, norm))
            state.bad = 0
            continue
        state.skipped += 1
        state.bad += verdict == BROKEN
        ids = tuple(data.ids[i] for i in taken.indices.tolist())
        broken.append(Broken(taken.step + 1, ids, tuple(taken.t.tolist()), loss, norm, dtype, verdict != BROKEN))
    return tuple(broken)


def _metrics(state: TrainState, lr: float, epoch: float) -> dict[str, float | str]:
    """What metrics.jsonl gets at a log step: means over the good steps since the last one."""
    found: dict[str, float | str] = {"lr": lr, "epoch": epoch, "seen": state.seen, "order": state.order}
    if state.tally:
        losses, norms = zip(*state.tally, strict=True)
        found |= {"train/loss": math.fsum(losses) / len(losses), "grad_norm": math.fsum(norms) / len(norms)}
    if state.skipped:
        found["skipped"] = state.skipped
    if state.guard.scaling:
        found["loss_scale"] = float(state.guard.scale)
    state.tally.clear()
    return found


def _judge(jury: Jury, model: Model, state: TrainState) -> tuple[Judged, list[str]]:
    """Judge a copy of the model, so that neither its weights nor its mode can change."""
    before = memorising(state.history)
    judged = jury.judge(state.snapshot(model), state.step)
    state.history.append(judged)
    best = memorising(state.history)
    if best is None or before is not None:
        return judged, []
    return judged, [
        f"memorising: the held-out loss has risen to {judged.loss:.4f} from its best, {best.loss:.4f} at step {best.step}, while the "
        f"training loss fell to {judged.seen:.4f}; more data, more dropout or a smaller model would help, or stop here"
    ]


def check(model: Model, data: Pictures | Stream) -> None:
    """Raise SpecError when the pictures are not what the model was made for."""
    wanted = (model.spec.channels, *model.spec.size)
    if tuple(data.shape) != wanted:
        have, want = ("x".join(map(str, shape)) for shape in (data.shape, wanted))
        raise SpecError(f"data: the pictures are {have} (channels x height x width), the model is made for {want}")
