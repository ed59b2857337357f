"""generate and trace: image i is the same alone and in a batch; a recorded run is gone on with exactly; bad requests are named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from safelight.generate import Finished, Started, Stepped, generate
from safelight.interop.checkpoint import raw_header
from safelight.model import Model
from safelight.spec import SpecError, kinds, parse
from safelight.task import Request
from safelight.trace import Recorder, Trace
from tests import small
from tests.train import tiny

SAMPLERS: list[dict[str, object]] = [{"kind": kind} for kind in kinds("sampler") if kind != "ddpm"] + [
    {"kind": "ddpm"},
    {"kind": "ddpm", "variance": "large"},
    {"kind": "ddim", "eta": 1.0},
    {"kind": "heun", "churn": 5.0},
]


def request(**fields: object) -> Request:
    return Request.model_validate({"prompt": ["bag", "shoe", ""], "count": 2, "seed": 5, **fields})


def pictures(model: Model, asked: Request) -> Tensor:
    return torch.cat([e.pictures for e in generate(model, asked) if isinstance(e, Finished)])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_an_image_is_the_same_alone_and_in_any_batch(sampler: dict[str, object]) -> None:
    model, asked = small.model(), request(sampler=sampler)
    whole = pictures(model, asked)
    for size in (1, 4):
        parts = pictures(model, asked.model_copy(update={"micro_batch": size}))
        assert float((parts - whole).abs().max()) < 1 / 255
    alone = pictures(model, Request.model_validate({"prompt": "shoe", "seed": 5, "index": 3, "sampler": sampler}))
    assert float((alone - whole[3:4]).abs().max()) < 1 / 255


def test_seeds_and_prompts_matter_and_repeat() -> None:
    model = small.model()
    first = pictures(model, request())
    assert torch.equal(first, pictures(model, request()))
    assert not torch.equal(first, pictures(model, request(seed=6)))
    assert float((pictures(model, request(prompt=["shirt"], count=1)) - first[:1]).abs().max()) > 1e-3
    assert float((pictures(model, request(negative="shirt")) - first).abs().max()) > 1e-3


def test_events() -> None:
    events = list(generate(small.model(), request(micro_batch=4, steps=3)))
    assert [type(e) for e in events] == [Started, *[Stepped] * 3, Finished] * 2
    starts = [e for e in events if isinstance(e, Started)]
    assert [s.numbers for s in starts] == [(0, 1, 2, 3), (4, 5)] and starts[1].prompts == ("", "")
    assert [e.step.i for e in events if isinstance(e, Stepped)] == [0, 1, 2] * 2


def test_no_global_random_state_is_used() -> None:
    model = small.model()
    before = torch.random.get_rng_state()
    list(generate(model, request(sampler={"kind": "ddpm"})))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_held_over_a_yield() -> None:
    """A consumer may train between two steps: inference mode ends at every yield."""
    for _ in generate(small.model(), request(steps=2)):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_recorded_run_goes_on_exactly(tmp_path: Path, sampler: dict[str, object], micro_batch: int | None) -> None:
    model = small.model()
    recorder = Recorder(exact=True, branches=True)
    asked = request(sampler=sampler, micro_batch=micro_batch)
    for event in generate(model, asked):
        recorder.see(event)
    recorder.save(tmp_path / "run.trace")
    trace = Trace.open(tmp_path / "run.trace")
    assert trace.request.resolve(model) == asked.resolve(model)
    assert len(trace.steps) == 6 and trace.branches == ["cond", "null"] and list(trace.prompts) == asked.pictures
    for k in (0, 1, 4):
        again = torch.cat([e.pictures for e in generate(model, asked, recorded=trace, first=k) if isinstance(e, Finished)])
        assert torch.equal(again, trace.pictures), k


def test_a_step_is_recomputed_from_its_branches() -> None:
    """x0 = null + w (cond - null) for any w, from what the trace holds."""
    recorder = Recorder(exact=True, branches=True)
    for event in generate(small.model(), request()):
        recorder.see(event)
    trace = recorder.trace()
    for k in range(6):
        cond, null = trace.part("cond", k), trace.part("null", k)
        torch.testing.assert_close(trace.x0(k), null + 2 * (cond - null))


def test_a_fork_changes_only_what_follows() -> None:
    model, recorder = small.model(), Recorder()
    asked = request()
    for event in generate(model, asked):
        recorder.see(event)
    trace = recorder.trace()
    fork = asked.model_copy(update={"prompt": ("shirt", "shirt", "shirt")})
    steps = [e for e in generate(model, fork, recorded=trace, first=3) if isinstance(e, Stepped)]
    assert [s.step.i for s in steps] == [3, 4, 5]
    assert torch.equal(steps[0].step.before, trace.x(3)) and not torch.equal(steps[-1].step.x, trace.x(6))


def test_previews_are_half_precision_and_cannot_be_forked(tmp_path: Path) -> None:
    recorder = Recorder(exact=False)
    for event in generate(small.model(), request()):
        recorder.see(event)
    recorder.save(tmp_path / "run.trace")
    trace = Trace.open(tmp_path / "run.trace")
    assert trace.x(2).dtype == torch.float16 and trace.pictures.dtype == torch.float32
    with pytest.raises(SpecError, match="holds previews only"):
        trace.state(2)


def test_a_trace_reads_no_more_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    for event in generate(small.model(), request()):
        recorder.see(event)
    recorder.save(tmp_path / "run.trace")
    read: list[str] = []
    original = Trace._get
    monkeypatch.setattr(Trace, "_get", lambda self, name: (read.append(name), original(self, name))[1])
    trace = Trace.open(tmp_path / "run.trace")
    assert trace.steps and trace.levels and trace.prompts and not read
    trace.x0(2)
    assert read == ["x0/2"]


@pytest.mark.parametrize(
    ("labelled", "fields", "line"),
    [
        (True, {"prompt": ["shue"]}, "no class 'shue'; did you mean 'shoe'"),
        (False, {"prompt": ["shoe"]}, "unconditional, it cannot follow 'shoe'"),
        (False, {"prompt": [""], "mix": {"kind": "cfg"}}, "unconditional, so guidance 'cfg' has nothing to guide by"),
    ],
)
def test_bad_requests(labelled: bool, fields: dict[str, object], line: str) -> None:
    with pytest.raises(SpecError, match=line):
        list(generate(small.model(labelled), request(**fields)))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"size": (0, 8)}, r"^request\.size: \(height, width\) in pixels, both at least 1"),
        ({"size": (8, -8), "task": {"kind": "image", "picture": "x"}}, r"^request\.size: \(height, width\) in pixels"),
        ({"steps": 10**30}, r"^request\.steps: Input should be less than or equal to 100000"),
        ({"count": 10**12}, r"^request\.count: Input should be less than or equal to 1000000"),
        ({"prompt": 5}, r"^request\.prompt: "),
    ],
)
def test_what_no_model_can_make_is_refused_before_one_is_asked(fields: dict[str, object], line: str) -> None:
    with pytest.raises(SpecError, match=line):
        parse(fields, "request")


def test_too_many_steps_for_a_table() -> None:
    with pytest.raises(SpecError, match="1001 steps do not fit process 'linear', a table of T = 1000"):
        list(generate(small.model(process="linear"), request(steps=1001)))


def test_non_finite_pictures_are_never_given_out() -> None:
    model = small.model()
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "denoiser" in n).fill_(float("nan"))
    with pytest.raises(SpecError, match="picture 0 came out non-finite"):
        list(generate(model, request()))


def test_a_fork_of_a_fork_goes_on_exactly(tmp_path: Path) -> None:
    """A recorded fork knows the solver's memory that it began with."""
    model, asked = small.model(), request(sampler="dpm++2m")

    def record(name: str, **rest: object) -> Trace:
        recorder = Recorder()
        for event in generate(model, asked, **rest):  # type: ignore[arg-type]
            recorder.see(event)
        recorder.save(tmp_path / name)
        return Trace.open(tmp_path / name)

    whole = record("whole.trace")
    fork = record("fork.trace", recorded=whole, first=3)
    again = record("again.trace", recorded=fork, first=3)
    assert torch.equal(fork.pictures, whole.pictures) and torch.equal(again.pictures, whole.pictures)


def test_pictures_of_a_recorded_run_go_by_their_numbers() -> None:
    model, recorder = small.model(), Recorder()
    for event in generate(model, request(prompt="bag", count=4, index=2)):
        recorder.see(event)
    trace = recorder.trace()
    for event in generate(model, request(prompt="bag", count=1, index=4), recorded=trace, first=2):
        if isinstance(event, Started):
            assert event.numbers == (4,) and torch.equal(event.x, trace.x(2)[2:3])
        if isinstance(event, Finished):
            assert float((event.pictures - trace.pictures[2:3]).abs().max()) < 1 / 255
    for fields in ({"count": 5, "index": 2}, {"count": 1, "index": 1}):
        with pytest.raises(SpecError, match=r"the recorded run holds pictures 2\.\.5, not"):
            list(generate(model, request(prompt="bag", **fields), recorded=trace, first=2))


def test_dropout_never_samples() -> None:
    """A model in training is sampled as it is in evaluation, and is in training again at every yield."""
    model = tiny.model(network=tiny.network(0.5))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    asked = Request(prompt=("a",), steps=3)
    still = pictures(model.eval(), asked)
    modes = []
    for event in generate(model.train(), asked):
        modes.append(all(module.training for module in model.modules()))
        if isinstance(event, Finished):
            assert torch.equal(event.pictures, still)
    assert all(modes)


def test_a_trace_is_strict_json(tmp_path: Path) -> None:
    """dpm++2m remembers log(alpha/sigma), which is -infinity in pure noise; a header must still be readable by anyone."""
    recorder = Recorder()
    for event in generate(small.model(), request(sampler="dpm++2m")):
        recorder.see(event)
    recorder.save(tmp_path / "run.trace")

    def refuse(name: str) -> float:
        raise AssertionError(name)

    about = json.loads(raw_header(tmp_path / "run.trace")["__metadata__"]["safelight"], parse_constant=refuse)
    assert about["state"]["1"]["lambda"] == "-inf" and Trace.open(tmp_path / "run.trace").state(1)["lambda"] == -math.inf
