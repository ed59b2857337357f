"""The one module that names devices: what it promises of a precision is what the arithmetic does."""

from __future__ import annotations

import pytest
import torch

from safelight import device
from safelight.spec import SpecError

CPU = torch.device("cpu")


def test_auto_is_the_best_there_is_and_every_device_there_is_can_be_picked() -> None:
    names = device.available()
    assert names[-1] == "cpu"
    assert device.pick() == device.pick("auto") == torch.device(names[0])
    for name in names:
        assert device.pick(name) == device.pick(torch.device(name)) == torch.device(name)


@pytest.mark.parametrize("name", ["cpuu", "cuda:99", "", "gpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        device.pick(name)
    assert f"no '{name}' here" in str(caught.value)
    assert "devices: auto, " in str(caught.value)


def test_what_is_not_honoured_runs_in_fp32_and_says_so() -> None:
    found = device.precision("fp16", CPU)
    assert (found.asked, found.name, found.dtype) == ("fp16", "fp32", torch.float32)
    assert found.note == "fp16 is not honoured on cpu: running in fp32"
    for name in ("fp32", "bf16"):
        assert device.precision(name, CPU)[1:] == (name, device.precision(name, CPU).dtype, "")
    with pytest.raises(SpecError, match="no 'bf61'; did you mean 'bf16'"):
        device.precision("bf61", CPU)


@pytest.mark.parametrize("name", device.available())
def test_the_effective_precision_is_that_of_the_products(name: str) -> None:
    """A matrix product inside the region has the promised dtype, whether the wish was honoured or not; outside it is float32."""
    place = device.pick(name)
    a = torch.randn(4, 4, device=place)
    for asked in ("fp32", "bf16", "fp16"):
        found = device.precision(asked, place)
        assert bool(found.note) == (asked not in device.dtypes(place))
        with device.autocast(place, found.dtype):
            assert (a @ a).dtype == found.dtype
        assert (a @ a).dtype == torch.float32


def test_memory_grows_by_what_is_allocated() -> None:
    before = device.memory(CPU)
    held = torch.ones(64 * 2**20, dtype=torch.uint8)
    after = device.memory(CPU)
    assert after.used - before.used > 0.9 * held.numel()
    assert after.used <= after.peak <= after.total


@pytest.mark.parametrize("name", device.available())
def test_a_fork_leaves_the_global_generators_as_they_were(name: str) -> None:
    place = device.pick(name)
    torch.manual_seed(1)
    wanted = torch.rand(3, device=place), torch.rand(3)
    torch.manual_seed(1)
    with device.forked(place):
        torch.manual_seed(2)
        torch.rand(9, device=place)
    assert torch.equal(torch.rand(3, device=place), wanted[0])
    assert torch.equal(torch.rand(3), wanted[1])
