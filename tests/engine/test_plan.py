"""The plan: what it says against closed forms, against other runs, and against the peak of a fresh process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.plan import CASES, Case, measured
from safelight import model as files
from safelight.engine import plan as plans
from safelight.engine.plan import Stored, plan, roomy, stored, switches, told
from safelight.model import ModelSpec
from safelight.spec import SpecError, parse
from safelight.task import Request
from tests import small

CPU = torch.device("cpu")
TINY = Stored(4 * 25_000, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plan_is_within_a_tenth_of_the_measured_peak(case: Case, tmp_path: Path) -> None:
    said, found = measured(case, tmp_path)
    assert said.peak == pytest.approx(found, rel=0.1)


def test_parameters_and_flops_are_the_models_own() -> None:
    model = small.model()
    said = plan(small.spec(), Request(prompt=("shoe",), steps=2))
    own = {"text": model.text, "denoiser": model.denoiser, "codec": model.codec}
    for name, part in said.parts.items():
        module = own[name]
        assert module is not None
        assert part.parameters == sum(p.numel() for p in module.parameters())
        assert part.weights == sum(v.numel() * v.element_size() for v in module.state_dict().values())
    assert said.parameters == sum(p.numel() for p in model.parameters())
    assert said.flops == sum(part.flops for part in said.parts.values())
    assert said.describe()["peak"] == said.peak


def test_steps_that_are_left_out_cost_what_the_last_one_did() -> None:
    flops = {n: plan(small.spec(), Request(prompt=("bag",), steps=n)).parts["denoiser"].flops for n in (2, 3, 10)}
    assert flops[10] - flops[3] == 7 * (flops[3] - flops[2])
    two = plan(small.spec(), Request(prompt=("bag",), steps=10, sampler="heun")).parts["denoiser"].flops
    assert two > 1.8 * flops[10]  # two evaluations a step, but for the last


def test_memory_is_a_line_in_the_batch_and_guidance_doubles_it() -> None:
    work = [plan(small.spec(), Request(prompt=("bag",), count=n, steps=2)).parts["denoiser"].work for n in (16, 32, 64)]
    assert work[2] - work[1] == pytest.approx(2 * (work[1] - work[0]), rel=0.02)
    alone = plan(small.spec(), Request(prompt=("bag",), count=64, steps=2, mix="none")).parts["denoiser"].work
    assert work[2] / alone == pytest.approx(2, rel=0.15)


def test_a_micro_batch_is_what_counts() -> None:
    whole, parts = (plan(small.spec(), Request(prompt=("bag",), count=8, steps=2, micro_batch=m)) for m in (None, 2))
    assert (whole.batch, parts.batch) == (8, 2)
    assert parts.peak < whole.peak


def test_a_converted_file_is_in_memory_twice_while_it_is_read() -> None:
    request = Request(prompt=("bag",), steps=2)
    kept = plan(small.spec(), request, file=TINY)
    halved = plan(small.spec(), request, file=TINY, dtype=torch.bfloat16)
    assert kept.mapped and not kept.load
    weights = sum(part.weights for part in halved.parts.values())
    assert halved.load == weights + TINY.bytes
    assert weights < 0.6 * sum(part.weights for part in kept.parts.values())


def test_low_holds_one_part_at_a_time_of_what_is_mapped() -> None:
    from benchmarks.plan import dit

    spec = parse(dit(64, 64, 1), "model")
    assert isinstance(spec, ModelSpec)
    request = Request(prompt=("cat",), count=4, steps=2)
    file = Stored(21_450_332, torch.float32)
    full, low = (plan(spec, request, file=file, memory=memory) for memory in ("full", "low"))  # type: ignore[arg-type]
    assert low.peaks["codec"] == low.parts["codec"].work + low.parts["codec"].used
    assert low.parts["codec"].work < 0.5 * full.parts["codec"].work  # four pictures, one by one
    assert low.parts["codec"].flops == full.parts["codec"].flops


def test_the_cheapest_switches_come_first_and_each_saves_what_it_says() -> None:
    request = Request(prompt=("bag",), count=8, steps=2)
    now, found = switches(small.spec(), request)
    assert [switch.option for switch in found][:1] == ["--micro-batch 1"]
    assert found[0].saves == now.peak - plan(small.spec(), request.model_copy(update={"micro_batch": 1})).peak
    line = told(now, found)
    assert line.startswith("there is not enough memory: this takes about ")
    assert "--micro-batch 1 saves " in line
    assert len(found) <= 3


def test_stored_reads_the_set_of_weights_that_would_be_loaded(tmp_path: Path) -> None:
    model = small.model()
    path = tmp_path / "m.safetensors"
    files.save(path, model, averages={"ema": model.state_dict()}, dtype=torch.float16)
    header = files.peek(path)
    floating = sum(v.numel() for v in model.state_dict().values() if v.is_floating_point())
    whole = sum(v.numel() * v.element_size() for v in model.state_dict().values() if not v.is_floating_point())
    assert stored(header) == stored(header, "raw") == Stored(2 * floating + whole, torch.float16)


def test_auto_plans_only_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    files.save(path, small.model())
    header = files.peek(path)
    asked = {"count": 4, "size": None}
    peak = plan(small.spec(), Request(count=4), file=stored(header)).peak
    for free, answer in ((10**12, True), (int(1.2 * peak), True), (int(0.9 * peak), False), (0, True)):
        monkeypatch.setattr(plans.devices, "free", lambda device, free=free: free)
        assert roomy(header, asked, device=CPU, dtype=torch.float32) is answer


def test_a_request_that_the_model_cannot_follow_is_refused_as_ever() -> None:
    with pytest.raises(SpecError, match="no class 'cat'"):
        plan(small.spec(), Request(prompt=("cat",)))
