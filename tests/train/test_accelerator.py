"""What can only be measured where there is an accelerator: the loop never waits for it between logs."""

from __future__ import annotations

import pytest
import torch

from safelight import device as machine
from safelight.train import Every, begin, train
from safelight.train.objective import Match
from safelight.train.times import LogNormal, Stratified
from tests.train import tiny

DEVICE = machine.pick("auto")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("process, parameterization, times", [("cosine", "v", Stratified()), ("edm", "edm", LogNormal())])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_steps_do_not_wait(process: str, parameterization: str, times: object, precision: str) -> None:
    """Any synchronisation inside a step is an error; only the last step, which logs, may wait."""
    model = tiny.model(process=process, parameterization=parameterization).to(DEVICE)
    plan = tiny.plan(steps=12, precision=precision, channels_last=True, every=Every(log=0, held_out=0, sample=0, save=0))
    objective = Match(drop=0.2, times=times)  # type: ignore[arg-type]
    state = begin(model, plan, objective)
    going = train(model, tiny.pictures(device=DEVICE), plan, state, objective=objective)
    next(going)  # warm: kernels are loaded, moments are made
    torch.cuda.set_sync_debug_mode("error")
    try:
        for report in going:
            if report.step == plan.steps - 1:
                break
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [r.step for r in going] == [12]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_non_finite_step_is_skipped_without_looking() -> None:
    """The fused optimizer reads the verdict where it is: a poisoned step moves no weight and no moment."""
    from tests.train.test_loop import _Poisoned

    objective = _Poisoned(at=(2,))
    model, plan = tiny.model().to(DEVICE), tiny.plan(steps=4, every=Every(log=4, held_out=0, sample=0, save=0))
    state = begin(model, plan, objective)
    seen, broken = [], []
    for report in train(model, tiny.pictures(device=DEVICE), plan, state, objective=objective):
        seen.append(tiny.weights(model) | {k: v.clone() for k, v in state.tensors().items()})
        broken += [b.step for b in report.broken]
    assert tiny.same(seen[1], seen[2]) and not tiny.same(seen[2], seen[3]) and broken == [3]


def test_on_the_accelerator_it_learns_what_the_cpu_learns() -> None:
    """Same pictures, times and prompts; noise from another generator: the losses agree as two draws of one distribution do."""
    losses = []
    for device in (torch.device("cpu"), DEVICE):
        model = tiny.model(network=tiny.network(dropout=0.0)).to(device)
        plan = tiny.plan(steps=40, batch=32, precision="fp32", every=Every(log=40, held_out=40, sample=0, save=0))
        (last,) = (
            r for r in train(model, tiny.pictures(device=device), plan, held_out=tiny.pictures(32, 1, device)) if r.judged
        )
        assert last.judged is not None
        losses.append(last.judged.loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
